//! `kubectl scale`, and who answers then.

use std::collections::BTreeSet;
use std::time::Instant;

use anyhow::{Result, ensure};
use serde_json::Value;

use super::servers::SMALL;
use super::stage::{Stage, in_pod};
use super::{LIMIT, TIMEOUT, json};
use crate::demo::screen::seconds;
use crate::eventually;

/// Scales to 3 and to 1. Each time all pods that there are answer, and no others.
pub(super) async fn show(stage: &Stage) -> Result<String> {
    let mut times = Vec::new();
    for replicas in [3, 1] {
        let start = Instant::now();
        scale(stage, replicas).await?;
        times.push(format!("to {replicas} in {}", seconds(start)));
        answering(stage, replicas).await?;
    }
    let selector = format!("app.kubernetes.io/instance={SMALL}");
    stage.kubectl(&["get", "pods", "-l", &selector]).await?;
    Ok(format!(
        "{SMALL} from 2 {}; each time all replicas answered, and no call failed",
        times.join(", ")
    ))
}

/// Scales, and waits until so many are ready.
async fn scale(stage: &Stage, replicas: usize) -> Result<()> {
    let server = format!("mcps/{SMALL}");
    let to = format!("--replicas={replicas}");
    stage.kubectl(&["scale", &server, &to]).await?;
    let for_ready = format!("--for=jsonpath={{.status.readyReplicas}}={replicas}");
    for condition in [for_ready.as_str(), "--for=condition=Ready"] {
        stage
            .kubectl(&["wait", &server, condition, TIMEOUT])
            .await?;
    }
    stage.kubectl(&["get", &server]).await?;
    Ok(())
}

/// Calls until all the pods that there are have answered, and no others. No call may fail at any time.
async fn answering(stage: &Stage, replicas: usize) -> Result<()> {
    let url = stage.endpoint(SMALL).await?;
    let many = [
        "many",
        &url,
        "whoami",
        "--requests",
        "150",
        "--connections",
        "5",
    ];
    let told = stage.client(&many).await?;
    if check(stage, replicas, &told).await? {
        return Ok(());
    }
    // Ready is said of the pods. The node hears of it by itself, a moment sooner or later.
    let again = eventually("all replicas to answer", LIMIT, || async {
        let told = stage.ask(&in_pod(&many)).await;
        let settled = match told {
            Ok(told) => check(stage, replicas, &told).await,
            Err(error) => Err(error),
        };
        // A failed call is no reason to look again.
        match settled {
            Ok(settled) => Ok(settled.then_some(Ok(()))),
            Err(error) => Ok(Some(Err(error))),
        }
    });
    again.await??;
    stage.client(&many).await.map(drop)
}

/// Whether those that answered are those that there are; fails when a call failed.
async fn check(stage: &Stage, replicas: usize, told: &str) -> Result<bool> {
    let told = json(told)?;
    ensure!(told["failed"] == 0, "no call should fail: {told}");
    let answers = told["answers"].as_object().map(|answers| answers.keys());
    let answered: BTreeSet<&String> = answers.into_iter().flatten().collect();
    let pods = stage.pods(SMALL).await?;
    ensure!(
        pods.len() == replicas,
        "there should be {replicas} pods; there are {pods:?}"
    );
    Ok(answered == pods.iter().collect() && told["made"] != Value::Null)
}
