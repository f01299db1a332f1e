//! An operator's program, and what it says of itself.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use cluster::cargo::{self, Kind};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;

/// A program to measure.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    /// What its column is called.
    pub(crate) title: String,
    /// Where it is.
    pub(crate) path: PathBuf,
}

impl Program {
    /// The operator of this workspace, built as it is released.
    pub(crate) async fn build() -> Result<PathBuf> {
        let programs = cargo::build("mcp-operator", Kind::Release).await?;
        programs.into_iter().next().context("cargo built nothing")
    }

    /// A program that is there already. Relative to the workspace's folder: cargo runs benchmarks in another one.
    pub(crate) fn there(path: &Path) -> Result<PathBuf> {
        let path = cargo::workspace().join(path);
        ensure!(path.is_file(), "{} is no program", path.display());
        Ok(path)
    }

    /// A command of this program.
    pub(crate) fn command(&self) -> Command {
        Command::new(&self.path)
    }

    /// The kind, as it defines it.
    pub(crate) async fn crd(&self) -> Result<CustomResourceDefinition> {
        let text = self.says(&["crd"]).await?;
        serde_saphyr::from_str(&text).context("reading the CustomResourceDefinition")
    }

    /// The webhook configurations that lead to this port on loopback.
    pub(crate) async fn webhooks(&self, port: u16) -> Result<String> {
        let url = format!("https://127.0.0.1:{port}");
        self.says(&["webhooks", "--url", &url]).await
    }

    /// Its version.
    pub(crate) async fn version(&self) -> Result<String> {
        Ok(self.says(&["--version"]).await?.trim().to_owned())
    }

    async fn says(&self, arguments: &[&str]) -> Result<String> {
        let asking = || format!("asking {} for {}", self.path.display(), arguments[0]);
        let output = tokio::process::Command::from(self.command())
            .args(arguments)
            .kill_on_drop(true)
            .output()
            .await
            .with_context(asking)?;
        ensure!(
            output.status.success(),
            "{} failed: {}",
            asking(),
            String::from_utf8_lossy(&output.stderr).trim()
        );
        String::from_utf8(output.stdout).with_context(asking)
    }
}
