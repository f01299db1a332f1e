//! kubectl, as admin of a cluster.

use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use cluster::Cluster;
use tokio::io::AsyncWriteExt;

/// Applies manifests.
pub(crate) async fn apply(cluster: &Cluster, manifests: &str) -> Result<()> {
    let mut child = tokio::process::Command::from(cluster.kubectl_command())
        .args(["apply", "--filename", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("starting kubectl")?;
    let mut input = child.stdin.take().context("kubectl has no input")?;
    input
        .write_all(manifests.as_bytes())
        .await
        .context("writing to kubectl")?;
    drop(input);
    let output = child.wait_with_output().await.context("running kubectl")?;
    ensure!(
        output.status.success(),
        "kubectl apply failed: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}
