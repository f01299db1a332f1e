//! Running kubectl: shown as a user would type it, or silently.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::process::Command;

use super::screen::{command, note, note_some};
use super::shell::{Printed, output, typed};
use crate::Cluster;
use crate::cargo::workspace;

/// More than the `--timeout` that some commands have.
const KUBECTL_LIMIT: Duration = Duration::from_secs(210);

/// Runs kubectl and shows the command and what it prints, whether it succeeds or not.
pub(super) async fn tried(cluster: &Cluster, args: &[&str]) -> Result<Printed> {
    let line = typed("kubectl", args);
    command(&line);
    let printed = silent(cluster, args).await?;
    note(&printed.all);
    Ok(printed)
}

/// As [`tried`]; a failure is an error.
pub(super) async fn shown(cluster: &Cluster, args: &[&str]) -> Result<String> {
    let printed = tried(cluster, args).await?;
    ensure!(printed.success, "`{}` failed", typed("kubectl", args));
    Ok(printed.output)
}

/// Runs kubectl without showing anything.
pub(super) async fn silent(cluster: &Cluster, args: &[&str]) -> Result<Printed> {
    let mut kubectl = kubectl(cluster, args);
    let printed = output(kubectl.stdin(Stdio::null()), KUBECTL_LIMIT).await;
    printed.with_context(|| format!("running `{}`", typed("kubectl", args)))
}

/// Runs `program … | kubectl …`; both have to succeed.
pub(super) async fn piped(
    cluster: &Cluster,
    (name, mut program): (&str, std::process::Command),
    args: &[&str],
) -> Result<()> {
    let given: Vec<String> = program
        .get_args()
        .map(|arg| arg.to_string_lossy().into_owned())
        .collect();
    let given: Vec<&str> = given.iter().map(String::as_str).collect();
    let line = format!("{} | {}", typed(name, &given), typed("kubectl", args));
    command(&line);
    program.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut first = Command::from(program)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("starting {name} of `{line}`"))?;
    let pipe = first.stdout.take().context("a pipe that was asked for")?;
    let pipe: Stdio = pipe.try_into().context("handing a pipe on")?;
    let second = output(kubectl(cluster, args).stdin(pipe), KUBECTL_LIMIT).await;
    let printed = second.with_context(|| format!("running `{line}`"))?;
    let first = first
        .wait()
        .await
        .with_context(|| format!("running `{line}`"))?;
    note_some(&printed.all);
    ensure!(first.success() && printed.success, "`{line}` failed");
    Ok(())
}

/// In the workspace's folder, where the samples have the paths that are shown.
pub(super) fn kubectl(cluster: &Cluster, args: &[&str]) -> Command {
    let mut kubectl = Command::from(cluster.kubectl_command());
    kubectl
        .args(args)
        .current_dir(workspace())
        .kill_on_drop(true);
    kubectl
}
