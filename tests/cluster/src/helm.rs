//! Real Helm for a cluster.

use std::process::Command;

use anyhow::Result;

use crate::control_plane::Cluster;
use crate::tools::{self, Set};

/// The user's own settings of Helm begin with this.
const PREFIX: &str = "HELM_";

impl Cluster {
    /// A helm that talks to this cluster as admin, and leaves nothing in the home folder; built
    /// when it is first asked for.
    pub async fn helm_command(&self) -> Result<Command> {
        self.helm_of(&tools::HELM).await
    }

    /// As [`Self::helm_command`], the version 3 of it.
    pub async fn helm_3_command(&self) -> Result<Command> {
        self.helm_of(&tools::HELM_3).await
    }

    async fn helm_of(&self, set: &Set) -> Result<Command> {
        let mut command = Command::new(tools::build(set).await?.join("helm"));
        // They name other clusters and drivers.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with(PREFIX) {
                command.env_remove(name);
            }
        }
        command
            .env("KUBECONFIG", self.kubeconfig())
            .env("KUBECACHEDIR", self.folder().join("kubectl-cache"));
        for (name, folder) in [
            ("HELM_CACHE_HOME", "helm/cache"),
            ("HELM_CONFIG_HOME", "helm/config"),
            ("HELM_DATA_HOME", "helm/data"),
        ] {
            command.env(name, self.folder().join(folder));
        }
        Ok(command)
    }
}
