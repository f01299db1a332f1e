//! Building what the demo runs.

use std::path::PathBuf;

use anyhow::{Context, Result};

use super::screen::{command, note};
use crate::cargo::{self, Kind};
use crate::tools;

/// The operator's package, and its program.
const OPERATOR: &str = "mcp-operator";

/// Builds the operator and the tools at the same time; gives the operator's program.
pub(super) async fn everything() -> Result<PathBuf> {
    command(&format!("cargo build --package {OPERATOR} --bins"));
    let (programs, tools) =
        tokio::try_join!(cargo::build(OPERATOR, Kind::Debug), tools::control_plane())?;
    let program = programs.into_iter().next().context("cargo built nothing")?;
    note(format!("operator: {}", program.display()));
    if let Some(folder) = tools.kubectl.parent() {
        note(format!("tools:    {}", folder.display()));
    }
    Ok(program)
}
