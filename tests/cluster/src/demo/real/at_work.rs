//! Many servers at once.

use std::process::Command;

use anyhow::{Result, ensure};

use super::TIMEOUT;
use super::stage::Stage;
use crate::cargo::workspace;
use crate::demo::kubectl;
use crate::demo::screen::note_some;
use crate::demo::shell::typed;

/// How many there are at the end, those from before included.
pub(super) const SERVERS: usize = 35;

/// Applies as many more as it takes, and waits until all are Ready.
pub(super) async fn make(stage: &Stage) -> Result<()> {
    let before = servers(stage).await?;
    let script = format!(
        "for i in $(seq {}); do echo ---; \
         sed \"s/name: many/name: many-$i/\" tests/cluster/samples/many.yaml; done",
        SERVERS - before
    );
    let mut sh = Command::new("sh");
    sh.args(["-c", &script]).current_dir(workspace());
    kubectl::piped(&stage.cluster, ("sh", sh), &["apply", "-f", "-"]).await?;
    let wait = ["wait", "mcps", "--all", "--for=condition=Ready", TIMEOUT];
    crate::demo::screen::command(&typed("kubectl", &wait));
    note_some(&stage.ask(&wait).await?);
    let all = servers(stage).await?;
    ensure!(
        all == SERVERS,
        "there should be {SERVERS} servers, and are {all}"
    );
    Ok(())
}

async fn servers(stage: &Stage) -> Result<usize> {
    let names = stage.ask(&["get", "mcps", "-o", "name"]).await?;
    Ok(names.lines().count())
}
