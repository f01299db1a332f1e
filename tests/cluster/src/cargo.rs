//! Building programs of this workspace, with progress on standard error.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::process::Family;

/// What the variables begin with by which `cargo run` tells a program of its package.
const OF_PACKAGE: [&str; 5] = [
    "CARGO_BIN_",
    "CARGO_CRATE_",
    "CARGO_MANIFEST_",
    "CARGO_PKG_",
    "CARGO_PRIMARY_",
];

/// How to build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// As `cargo build` does.
    Debug,
    /// As `cargo build --examples` does: the examples, and no program.
    Examples,
    /// As `cargo build --release` does.
    Release,
    /// Optimised, and linked statically, so that it runs in an empty image; with the list of what it was built from
    /// (cargo-auditable) if that is installed.
    Static,
}

/// Builds the programs of a package and returns where they are.
pub async fn build(package: &str, kind: Kind) -> Result<Vec<PathBuf>> {
    let folder = tempfile::Builder::new()
        .prefix("mcp-build-")
        .tempdir()
        .context("creating a folder for cargo's output")?
        .keep();
    // With the family, cargo and its compilers end when this process does, and the folder goes.
    let mut family = Family::new(&folder)?;
    let log = folder.join("log");
    let cargo = family.start("cargo build", cargo(package, kind).await, &log, false)?;
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
        "building {package} failed; cargo says above what to do"
    );
    ensure!(
        !output.programs.is_empty(),
        "cargo built {package} and did not say where it is"
    );
    Ok(output.programs)
}

/// The same cargo that runs this program, in the same folder, so that a relative `CARGO_TARGET_DIR`
/// means the same.
async fn cargo(package: &str, kind: Kind) -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut cargo = Command::new(&program);
    // `cargo run` describes the package that it runs. Build scripts that look at these (ring's does)
    // would run again, here and at the user's next build, and half of the crates with them.
    for (variable, _) in std::env::vars_os() {
        let name = variable.to_string_lossy();
        if OF_PACKAGE.iter().any(|start| name.starts_with(start)) {
            cargo.env_remove(&variable);
        }
    }
    if kind == Kind::Static && has_auditable(&program).await {
        cargo.arg("auditable");
    }
    let which = match kind {
        Kind::Examples => "--examples",
        Kind::Debug | Kind::Release | Kind::Static => "--bins",
    };
    cargo.args(["build", "--package", package, which]);
    if kind == Kind::Release {
        cargo.arg("--release");
    }
    if kind == Kind::Static {
        let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
        cargo
            .args(["--release", "--target", &target])
            // With a target named, build scripts are spared.
            .env("RUSTFLAGS", "-C target-feature=+crt-static");
    }
    let color = if std::io::stderr().is_terminal() {
        "--color=always"
    } else {
        "--color=never"
    };
    cargo
        .arg("--manifest-path")
        .arg(workspace().join("Cargo.toml"))
        .args(["--message-format=json-render-diagnostics", color]);
    cargo
}

async fn has_auditable(cargo: &OsStr) -> bool {
    let mut asked = tokio::process::Command::new(cargo);
    asked.args(["auditable", "--version"]).kill_on_drop(true);
    asked
        .output()
        .await
        .is_ok_and(|output| output.status.success())
}

/// The folder of the workspace.
pub fn workspace() -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    // Canonical only to look better in messages.
    folder.canonicalize().unwrap_or(folder)
}

/// What cargo prints: JSON for programs, and lines for people.
struct Output {
    file: File,
    unfinished: Vec<u8>,
    programs: Vec<PathBuf>,
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
            programs: Vec::new(),
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
            eprintln!("     {line}");
        } else if let Ok(Message {
            executable: Some(program),
        }) = serde_json::from_str(line)
        {
            self.programs.push(program);
        }
    }
}
