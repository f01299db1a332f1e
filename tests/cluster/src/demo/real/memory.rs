//! How much memory the operator takes, as this machine's kernel counts it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use super::stage::{NAMESPACE, RELEASE, Stage};
use crate::demo::screen::note;

/// Its process, as the kernel names it.
const PROGRAM: &str = "mcp-operator";

/// A sentence about the memory of the replica that leads, with so many servers.
pub(super) async fn of_leader(stage: &Stage, servers: usize) -> Result<String> {
    let holder = "jsonpath={.spec.holderIdentity}";
    let leader = stage
        .kubectl(&["get", "lease", RELEASE, "-n", NAMESPACE, "-o", holder])
        .await?;
    let template = "go-template={{range .items}}{{.metadata.name}} {{.metadata.uid}}\n{{end}}";
    let pods = stage
        .ask(&["get", "pods", "-n", NAMESPACE, "-o", template])
        .await?;
    // A replica's identity is its pod's name with something unique behind it.
    let uid = pods
        .lines()
        .filter_map(|line| line.split_once(' '))
        .find_map(|(pod, uid)| leader.starts_with(pod).then_some(uid))
        .with_context(|| format!("{leader} leads, and is none of these pods: {pods}"))?;
    let process = process(uid)?;
    let resident = kibibytes(&process.join("status"), "VmRSS:")?;
    let share = kibibytes(&process.join("smaps_rollup"), "Pss:")?;
    let sentence = format!(
        "{} RSS ({} PSS) at {servers} servers",
        mebibytes(resident),
        mebibytes(share)
    );
    note(format!("{}: {sentence}", process.display()));
    Ok(sentence)
}

/// The folder in /proc of the operator in a pod: the one process of that name in the pod's cgroup.
fn process(uid: &str) -> Result<PathBuf> {
    let cgroup = format!("/pod{uid}/");
    let processes = std::fs::read_dir("/proc").context("reading /proc")?;
    let mut found = processes
        .flatten()
        .map(|entry| entry.path())
        .filter(|process| {
            // Most of what is in /proc is no process, or gone by now.
            let read = |file| std::fs::read_to_string(process.join(file)).unwrap_or_default();
            read("comm").trim() == PROGRAM && read("cgroup").contains(&cgroup)
        });
    let process = found
        .next()
        .with_context(|| format!("no process {PROGRAM} is in a cgroup {cgroup}"))?;
    ensure!(
        found.next().is_none(),
        "more than one process {PROGRAM} is in the cgroup {cgroup}"
    );
    Ok(process)
}

/// A figure of a file in /proc with lines as `VmRSS:  1234 kB`.
fn kibibytes(file: &Path, key: &str) -> Result<u64> {
    let text =
        std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    let Some(line) = text.lines().find_map(|line| line.strip_prefix(key)) else {
        bail!("{} has no line {key}", file.display());
    };
    let figure = line.split_whitespace().next().unwrap_or_default();
    figure
        .parse()
        .with_context(|| format!("{}: {key}{line}", file.display()))
}

#[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
fn mebibytes(kibibytes: u64) -> String {
    format!("{:.1} MiB", kibibytes as f64 / 1024.0)
}
