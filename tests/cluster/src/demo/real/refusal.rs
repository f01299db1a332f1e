//! A server that is refused at once, with the reason.

use anyhow::{Result, ensure};

use super::stage::Stage;
use crate::demo::kubectl;

const SAMPLE: &str = "config/samples/invalid/stdio-replicas.yaml";
/// What the refusal must contain.
const REFUSAL: &str = "stdio transport does not support multiple replicas (requested: 3)";

/// Applies it.
pub(super) async fn show(stage: &Stage) -> Result<()> {
    let tried = kubectl::tried(&stage.cluster, &["apply", "-f", SAMPLE]).await?;
    ensure!(
        !tried.success && tried.all.contains(REFUSAL),
        "{SAMPLE} should be refused with {REFUSAL:?}"
    );
    let stored = stage.ask(&["get", "mcps", "-o", "name"]).await?;
    ensure!(stored.is_empty(), "it was stored: {stored}");
    Ok(())
}
