//! Deletion, after which nothing of the servers is left.

use std::time::Instant;

use anyhow::{Result, ensure};

use super::screen::seconds;
use super::stage::Stage;
use super::valid::SELECTOR;
use super::{LIMIT, kubectl};
use crate::eventually;

/// Deletes the servers, and waits until all that was made for them is gone.
pub(super) async fn show(stage: &Stage) -> Result<String> {
    let cluster = &stage.cluster;
    let start = Instant::now();
    kubectl::shown(cluster, &["delete", "-f", "config/samples/valid/"]).await?;
    // A cluster has Services and ConfigMaps of its own, but of these only ours.
    let ours = "mcps,deployments,replicasets,pods";
    let looks = [
        vec!["get", ours, "--all-namespaces"],
        vec![
            "get",
            "services,configmaps",
            "--all-namespaces",
            "-l",
            SELECTOR,
        ],
    ];
    for look in &looks {
        eventually("nothing to be left", LIMIT, || async {
            let left = kubectl::silent(cluster, look).await?;
            ensure!(
                left.success && left.output.is_empty(),
                "{}",
                left.all.trim()
            );
            Ok(Some(()))
        })
        .await?;
    }
    let time = seconds(start);
    for look in &looks {
        let left = kubectl::shown(cluster, look).await?;
        ensure!(left.is_empty(), "something came back after its deletion");
    }
    Ok(format!(
        "all of them; after {time} nothing that was made for them was left"
    ))
}
