//! `kubectl scale`: followed where it can be, refused where it cannot.

use std::time::Instant;

use anyhow::{Result, ensure};

use super::kubectl;
use super::screen::seconds;
use super::stage::Stage;
use crate::Cluster;

/// What the refusal must contain.
const REFUSAL: &str = "stdio transport does not support multiple replicas (requested: 3)";

/// Scales the server `basic` to 2 and 3, and tries the same with the server `stdio`.
pub(super) async fn show(stage: &Stage) -> Result<String> {
    let cluster = &stage.cluster;
    scale(cluster, 2).await?;
    let start = Instant::now();
    scale(cluster, 3).await?;
    let time = seconds(start);
    kubectl::shown(cluster, &["get", "mcps", "basic"]).await?;
    let of_basic = ["get", "pods", "-l", "app.kubernetes.io/instance=basic"];
    kubectl::shown(cluster, &of_basic).await?;

    let tried = kubectl::tried(cluster, &["scale", "mcps/stdio", "--replicas=3"]).await?;
    ensure!(
        !tried.success && tried.all.contains(REFUSAL),
        "scaling a stdio server to 3 should be refused with {REFUSAL:?}"
    );
    let replicas = ["get", "mcps", "stdio", "-o", "jsonpath={.spec.replicas}"];
    let replicas = kubectl::silent(cluster, &replicas).await?;
    ensure!(
        replicas.output == "1",
        "the stdio server should still have 1 replica; it has {:?}",
        replicas.all
    );
    Ok(format!("basic from 2 to 3 replicas in {time}"))
}

/// Scales, and waits until so many are ready.
async fn scale(cluster: &Cluster, replicas: u32) -> Result<()> {
    let to = format!("--replicas={replicas}");
    kubectl::shown(cluster, &["scale", "mcps/basic", &to]).await?;
    let for_ready = format!("--for=jsonpath={{.status.readyReplicas}}={replicas}");
    for condition in [for_ready.as_str(), "--for=condition=Ready"] {
        let wait = ["wait", "mcps/basic", condition, "--timeout=60s"];
        kubectl::shown(cluster, &wait).await?;
    }
    Ok(())
}
