//! Building what the demo runs, with progress on standard error.

use std::fs::File;
use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::samples::workspace;
use super::screen::{command, note, progress};
use crate::process::Family;
use crate::tools;

/// The operator's package, and its program.
const OPERATOR: &str = "mcp-operator";
/// What the variables begin with by which `cargo run` tells a program of its package.
const OF_PACKAGE: [&str; 5] = [
    "CARGO_BIN_",
    "CARGO_CRATE_",
    "CARGO_MANIFEST_",
    "CARGO_PKG_",
    "CARGO_PRIMARY_",
];

/// Builds the operator and the tools at the same time; gives the operator's program.
pub(super) async fn everything() -> Result<PathBuf> {
    command(&format!(
        "cargo build --package {OPERATOR} --bin {OPERATOR}"
    ));
    let (program, tools) = tokio::try_join!(operator(), tools::control_plane())?;
    note(format!("operator: {}", program.display()));
    if let Some(folder) = tools.kubectl.parent() {
        note(format!("tools:    {}", folder.display()));
    }
    Ok(program)
}

async fn operator() -> Result<PathBuf> {
    let folder = tempfile::Builder::new()
        .prefix("mcp-demo-")
        .tempdir()
        .context("creating a folder for cargo's output")?
        .keep();
    // With the family, cargo and its compilers end when this process does, and the folder goes.
    let mut family = Family::new(&folder)?;
    let log = folder.join("log");
    let cargo = family.start("cargo build", cargo(), &log, false)?;
    let mut output = Output::open(&log)?;
    let success = loop {
        // Asked before the output is read, so that the last of it is read, too.
        let success = cargo.success();
        output.pass_on()?;
        if let Some(success) = success {
            break success;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    family.end()?;
    ensure!(
        success,
        "building the operator failed; cargo says above what to do"
    );
    output
        .program
        .context("cargo built the operator and did not say where it is")
}

/// The same cargo that runs the demo, in the same folder, so that a relative `CARGO_TARGET_DIR`
/// means the same.
fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    let color = if std::io::stderr().is_terminal() {
        "--color=always"
    } else {
        "--color=never"
    };
    // `cargo run` describes the demo's package to it. Build scripts that look at these (ring's does)
    // would run again, here and at the user's next build, and half of the crates with them.
    for (variable, _) in std::env::vars_os() {
        let name = variable.to_string_lossy();
        if OF_PACKAGE.iter().any(|start| name.starts_with(start)) {
            cargo.env_remove(&variable);
        }
    }
    cargo
        .args(["build", "--package", OPERATOR, "--bin", OPERATOR])
        .arg("--manifest-path")
        .arg(workspace().join("Cargo.toml"))
        .args(["--message-format=json-render-diagnostics", color]);
    cargo
}

/// What cargo prints: JSON for programs, and lines for people.
struct Output {
    file: File,
    unfinished: Vec<u8>,
    program: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Message {
    executable: Option<PathBuf>,
}

impl Output {
    fn open(log: &Path) -> Result<Self> {
        let file = File::open(log).with_context(|| format!("opening {}", log.display()))?;
        Ok(Self {
            file,
            unfinished: Vec::new(),
            program: None,
        })
    }

    /// Reads what has come since the last time.
    fn pass_on(&mut self) -> Result<()> {
        self.file
            .read_to_end(&mut self.unfinished)
            .context("reading cargo's output")?;
        while let Some(end) = self.unfinished.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.unfinished.drain(..=end).collect();
            self.line(String::from_utf8_lossy(&line).trim_end());
        }
        Ok(())
    }

    fn line(&mut self, line: &str) {
        if !line.starts_with('{') {
            progress(line);
        } else if let Ok(Message {
            executable: Some(program),
        }) = serde_json::from_str(line)
        {
            self.program = Some(program);
        }
    }
}
