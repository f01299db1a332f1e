//! The cluster, and how commands are run against it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::LIMIT;
use super::build::Built;
use crate::cargo::workspace;
use crate::demo::kubectl;
use crate::demo::screen::{note, say, seconds};
use crate::demo::shell::{self, Printed, typed};
use crate::{Cluster, NodeKind, Options};

/// Namespace of the operator.
pub(super) const NAMESPACE: &str = "mcp-operator-system";
/// Name of the release.
pub(super) const RELEASE: &str = "mcp-operator";

pub(super) struct Stage {
    pub(super) cluster: Cluster,
    /// The MCP client as a program of this machine.
    client: PathBuf,
}

impl Stage {
    /// Starts a cluster with a real node and puts the images onto it.
    pub(super) async fn start(built: &Built) -> Result<Self> {
        let cluster = Cluster::start(Options {
            node: NodeKind::Real,
            ..Options::default()
        })
        .await?;
        for (name, tarball) in built.images() {
            let start = std::time::Instant::now();
            cluster.load_image(tarball).await?;
            note(format!("loaded {name} in {}", seconds(start)));
        }
        let stage = Self {
            cluster,
            client: built.test.client.clone(),
        };
        stage.kubectl(&["version"]).await?;
        stage.kubectl(&["get", "nodes", "-o", "wide"]).await?;
        Ok(stage)
    }

    /// Runs kubectl and shows it; it has to succeed. Gives what it printed.
    pub(super) async fn kubectl(&self, args: &[&str]) -> Result<String> {
        kubectl::shown(&self.cluster, args).await
    }

    /// As [`Self::kubectl`], showing nothing.
    pub(super) async fn ask(&self, args: &[&str]) -> Result<String> {
        let printed = kubectl::silent(&self.cluster, args).await?;
        ensure!(
            printed.success,
            "`{}` failed: {}",
            typed("kubectl", args),
            printed.all.trim()
        );
        Ok(printed.output)
    }

    /// Runs helm and shows it; it has to succeed.
    pub(super) async fn helm(&self, args: &[&str]) -> Result<Printed> {
        let mut helm = self.cluster.helm_command().await?;
        helm.current_dir(workspace());
        let printed = shell::tried("helm", helm, args, LIMIT).await?;
        ensure!(printed.success, "`{}` failed", typed("helm", args));
        Ok(printed)
    }

    /// Runs the MCP client in its pod and shows it; it has to succeed. Gives what it printed.
    pub(super) async fn client(&self, args: &[&str]) -> Result<String> {
        self.kubectl(&in_pod(args)).await
    }

    /// Runs the MCP client on this machine, with kubectl in the PATH.
    pub(super) async fn client_here(&self, args: &[&str]) -> Result<String> {
        let name = "mcp-client";
        let mut client = Command::new(&self.client);
        for (variable, value) in self.cluster.kubectl_command().get_envs() {
            if let Some(value) = value {
                client.env(variable, value);
            }
        }
        let folder = self
            .cluster
            .kubectl()
            .parent()
            .context("kubectl's folder")?;
        let path = std::env::var("PATH").unwrap_or_default();
        client.env("PATH", format!("{}:{path}", folder.display()));
        let printed = shell::tried(name, client, args, LIMIT).await?;
        ensure!(printed.success, "`{}` failed", typed(name, args));
        Ok(printed.output)
    }

    /// What a server's status says is its endpoint.
    pub(super) async fn endpoint(&self, server: &str) -> Result<String> {
        let path = "jsonpath={.status.endpoint}";
        let endpoint = self.ask(&["get", "mcps", server, "-o", path]).await?;
        ensure!(!endpoint.is_empty(), "{server} has no status.endpoint");
        Ok(endpoint)
    }

    /// Pods of a server that are not on their way out.
    pub(super) async fn pods(&self, server: &str) -> Result<Vec<String>> {
        let selector = format!("app.kubernetes.io/instance={server}");
        let template = "go-template={{range .items}}{{if not .metadata.deletionTimestamp}}\
                        {{.metadata.name}} {{end}}{{end}}";
        let names = self
            .ask(&["get", "pods", "-l", &selector, "-o", template])
            .await?;
        Ok(names.split_whitespace().map(str::to_owned).collect())
    }

    /// Shows on standard error what a step that failed is likely to come from.
    pub(super) async fn show_trouble(&self) {
        let operator = format!("deployment/{RELEASE}");
        let looks: [&[&str]; 4] = [
            &["get", "mcps,pods", "--all-namespaces", "-o", "wide"],
            &["events", "--all-namespaces", "--types=Warning"],
            &["describe", "nodes"],
            &[
                "logs",
                &operator,
                "-n",
                NAMESPACE,
                "--all-pods",
                "--tail=40",
            ],
        ];
        for look in looks {
            let told = match kubectl::silent(&self.cluster, look).await {
                Ok(printed) => printed.all,
                Err(error) => format!("{error:#}"),
            };
            eprintln!("\n$ {}\n{}", typed("kubectl", look), told.trim_end());
        }
    }

    /// For who wants to go on by hand.
    pub(super) fn say_how_to_reach(&self) {
        say("\nThe cluster goes on running until Ctrl-C.");
        for (word, what) in [
            ("kubectl", self.cluster.kubectl()),
            ("kubeconfig", self.cluster.kubeconfig()),
            ("logs", self.cluster.folder()),
        ] {
            note(format!("{word:<11} {}", what.display()));
        }
    }
}

/// Arguments of kubectl that run the MCP client in its pod.
pub(super) fn in_pod<'a>(args: &[&'a str]) -> Vec<&'a str> {
    let mut all = vec!["exec", "client", "--", "/mcp-client"];
    all.extend(args);
    all
}

/// What there still is of a cluster that has ended.
pub(super) fn left_of(folder: &Path, name: &str) -> Vec<String> {
    let cgroups = Path::new("/sys/fs/cgroup");
    let hierarchies = std::fs::read_dir(cgroups).into_iter().flatten().flatten();
    let mut places: Vec<PathBuf> = hierarchies.map(|entry| entry.path().join(name)).collect();
    places.push(cgroups.join(name));
    places.push(Path::new("/sys/class/net").join(name));
    places.push(folder.to_owned());
    places.retain(|place| place.exists());
    places
        .iter()
        .map(|place| place.display().to_string())
        .collect()
}
