//! What this demo needs of the machine, looked at before anything is built.

use anyhow::{Result, bail};

use crate::{node, operator_image, server_everything, tools};

/// Fails with everything that is missing and how to get it.
pub(super) async fn check() -> Result<()> {
    let mut sets = vec![tools::CONTROL_PLANE, tools::HELM];
    sets.extend(tools::REAL_NODE);
    let looks = [
        node::check(&[operator_image::BUILDER]),
        server_everything::check().await,
        tools::check(&sets).await,
    ];
    let missing: Vec<String> = looks
        .into_iter()
        .filter_map(|look| Some(format!("{:#}", look.err()?)))
        .collect();
    if !missing.is_empty() {
        bail!(missing.join("\n"));
    }
    Ok(())
}
