//! What the figures were measured on.

use std::path::Path;
use std::process::Command;

use anyhow::Result;
use cluster::{cargo, tools};

use crate::program::Program;

/// The machine, the versions and the programs, as a table in Markdown.
pub(crate) async fn table(programs: &[Program]) -> Result<String> {
    let tools = tools::control_plane().await?;
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let mut rows = vec![
        (
            "CPU".to_owned(),
            format!("{cores} cores, {}", after("/proc/cpuinfo", "model name")),
        ),
        ("memory".to_owned(), after("/proc/meminfo", "MemTotal")),
        (
            "kernel".to_owned(),
            first_line("/proc/sys/kernel/osrelease"),
        ),
        ("load before".to_owned(), first_line("/proc/loadavg")),
        (
            "control plane".to_owned(),
            format!(
                "{}, {}, without fsync",
                said(&tools.kube_apiserver, &["--version"]),
                said(&tools.etcd, &["--version"])
            ),
        ),
        ("compiler".to_owned(), said("rustc", &["--version"])),
        ("commit of the workspace".to_owned(), commit()),
    ];
    for program in programs {
        let megabytes = std::fs::metadata(&program.path).map_or(0, |file| file.len()) / 1_000_000;
        let version = program.version().await?;
        rows.push((program.title.clone(), format!("{version}, {megabytes} MB")));
    }
    let lines = rows
        .iter()
        .map(|(key, value)| format!("| {key} | {value} |\n"));
    Ok(format!("|  |  |\n|---|---|\n{}", lines.collect::<String>()))
}

/// The first line's value in a file with lines as `key : value`.
fn after(path: &str, key: &str) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with(key));
    let value = line.and_then(|line| line.split_once(':'));
    value
        .map_or("unknown", |(_, value)| value.trim())
        .to_owned()
}

fn first_line(path: &str) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().next().unwrap_or("unknown").to_owned()
}

/// The first line of what a program says.
fn said(program: impl AsRef<Path>, arguments: &[&str]) -> String {
    let output = Command::new(program.as_ref())
        .args(arguments)
        .current_dir(cargo::workspace())
        .output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let text = text.unwrap_or_default();
    text.lines().next().unwrap_or("unknown").trim().to_owned()
}

fn commit() -> String {
    let commit = said("git", &["rev-parse", "--short", "HEAD"]);
    let changed = said("git", &["status", "--porcelain", "--untracked-files=no"]);
    if changed == "unknown" {
        commit
    } else {
        format!("{commit}, and changes")
    }
}
