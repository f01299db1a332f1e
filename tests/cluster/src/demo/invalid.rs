//! Samples that are refused, each for a reason of its own.
//!
//! One rule has no file: a config too large for a `ConfigMap` would take half a megabyte. The
//! operator's own tests cover it.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};

use super::screen::note;
use super::stage::Stage;
use super::{kubectl, samples};
use crate::Cluster;

/// Applies them all; each has to be refused with what its first lines say.
pub(super) async fn apply(stage: &Stage) -> Result<String> {
    let samples = samples::all("invalid")?;
    let cluster = &stage.cluster;
    let before = servers(cluster).await?;
    for sample in &samples {
        let path = &sample.path;
        ensure!(
            !sample.expected.is_empty(),
            "the first line of {path} should be `# expect: ` and what the refusal must contain"
        );
        let tried = kubectl::tried(cluster, &["apply", "-f", path]).await?;
        ensure!(!tried.success, "{path} should have been refused");
        for text in &sample.expected {
            ensure!(
                tried.all.contains(text),
                "{path} was refused, but not with {text:?}"
            );
        }
    }
    let after = servers(cluster).await?;
    let stored: Vec<_> = after.difference(&before).collect();
    ensure!(
        before == after,
        "the refused samples should have changed nothing; stored anew: {stored:?}"
    );
    let all = samples.len();
    note(format!(
        "all {all} were refused with the words their first lines expect; nothing of them was stored"
    ));
    Ok(format!(
        "{all} of {all} invalid samples, and a stdio server scaled to 3; nothing of them was stored"
    ))
}

/// The servers there are.
async fn servers(cluster: &Cluster) -> Result<BTreeSet<String>> {
    let printed =
        kubectl::silent(cluster, &["get", "mcps", "--all-namespaces", "-o", "name"]).await?;
    ensure!(
        printed.success,
        "listing the servers: {}",
        printed.all.trim()
    );
    Ok(printed.output.lines().map(str::to_owned).collect())
}
