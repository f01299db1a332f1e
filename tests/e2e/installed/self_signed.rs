//! Certificates of the operator's own.

use std::time::Duration;

use anyhow::{Result, ensure};
use cluster::eventually;
use serde_json::json;

use super::release::Installed;
use crate::setup::Space;

/// Long enough for two CAs after the first one.
const LIMIT: Duration = Duration::from_mins(8);
/// Beside the one that it was installed with.
const AUTHORITIES: usize = 2;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refuses_at_once_and_renews_under_load() -> Result<()> {
    let installed = Installed::start().await?;
    // A CA is replaced after 24 s, a certificate after 8 s.
    let values = json!({
        "certificates": {"selfSigned": {"caLife": "36s", "life": "12s"}},
        "extraArgs": ["--ca-settle", "3s"],
    });
    installed.install(&values).await?;
    installed.refuses_and_accepts().await?;
    let replicas = installed.replicas();
    ensure!(replicas.len() == 2, "{replicas:?}");
    installed.leader().await?;

    let load = installed.watched_load(2).await?;
    eventually("CA and certificates are renewed", LIMIT, || async {
        let (authorities, certificates) = (load.authorities(), load.certificates());
        ensure!(
            authorities > AUTHORITIES && certificates > 2 * AUTHORITIES,
            "{authorities} CAs, {certificates} certificates"
        );
        Ok(Some(()))
    })
    .await?;
    load.end("self-signed").await?;
    installed.are_the_same(&replicas)?;
    ensure!(installed.ended().is_empty(), "{:?}", installed.ended());

    // As `helm test` finds it: its pod, its account.
    let said = installed.test().await?;
    for part in [
        "Phase:          Succeeded",
        "a valid MCPServer is accepted, with defaults",
        "invalid SESSION_TIMEOUT format: soon",
    ] {
        ensure!(said.contains(part), "no {part:?} in: {said}");
    }
    let space = Space::within(&installed.cluster, "ready").await;
    space
        .create("served", json!({"image": "example.com/a:1"}))
        .await?;
    space.until_ready("served").await;
    installed.requests().await?;
    drop(space);
    installed.stop().await
}
