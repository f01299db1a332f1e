//! Samples that are accepted and become running servers.

use std::time::Instant;

use anyhow::{Result, ensure};

use super::screen::seconds;
use super::stage::Stage;
use super::{kubectl, samples};

/// Chooses what the operator made.
pub(super) const SELECTOR: &str = "app.kubernetes.io/managed-by=mcp-operator";

/// Applies them all, and waits until they are Ready.
pub(super) async fn apply(stage: &Stage) -> Result<String> {
    let samples = samples::all("valid")?;
    let cluster = &stage.cluster;
    let start = Instant::now();
    for sample in &samples {
        kubectl::shown(cluster, &["apply", "-f", &sample.path]).await?;
    }
    let wait = [
        "wait",
        "mcps",
        "--all",
        "--for=condition=Ready",
        "--timeout=60s",
    ];
    let met = kubectl::shown(cluster, &wait).await?;
    let ready = met.lines().filter(|line| line.ends_with("condition met"));
    let (ready, all) = (ready.count(), samples.len());
    ensure!(
        ready == all,
        "{all} samples were applied, and {ready} servers are Ready"
    );
    let time = seconds(start);
    kubectl::shown(cluster, &["get", "mcps"]).await?;
    let kinds = "deployments,services,configmaps";
    kubectl::shown(cluster, &["get", kinds, "-l", SELECTOR]).await?;
    kubectl::shown(cluster, &["get", "pods", "-l", SELECTOR]).await?;
    Ok(format!(
        "{all} of {all} valid samples, all of them Ready after {time}"
    ))
}
