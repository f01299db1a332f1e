//! Running kubectl: shown as a user would type it, or silently.

use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::process::Command;

use super::screen::{command, note};
use crate::Cluster;
use crate::cargo::workspace;

/// More than the `--timeout` that some commands have.
const KUBECTL_LIMIT: Duration = Duration::from_secs(90);

/// What a command printed, and how it ended.
pub(super) struct Printed {
    pub(super) success: bool,
    /// Standard output.
    pub(super) output: String,
    /// Standard error and standard output, as shown.
    pub(super) all: String,
}

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
    let output = output(kubectl.stdin(Stdio::null())).await;
    let output = output.with_context(|| format!("running `{}`", typed("kubectl", args)))?;
    Ok(printed(&output))
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
    let second = output(kubectl(cluster, args).stdin(pipe)).await;
    let second = second.with_context(|| format!("running `{line}`"))?;
    let first = first
        .wait()
        .await
        .with_context(|| format!("running `{line}`"))?;
    let printed = printed(&second);
    note(&printed.all);
    ensure!(first.success() && printed.success, "`{line}` failed");
    Ok(())
}

/// In the workspace's folder, where the samples have the paths that are shown.
fn kubectl(cluster: &Cluster, args: &[&str]) -> Command {
    let mut kubectl = Command::from(cluster.kubectl_command());
    kubectl
        .args(args)
        .current_dir(workspace())
        .kill_on_drop(true);
    kubectl
}

/// Some of what kubectl does waits for others, without a limit of its own.
async fn output(kubectl: &mut Command) -> Result<Output> {
    let output = tokio::time::timeout(KUBECTL_LIMIT, kubectl.output()).await;
    let output = output.with_context(|| format!("it did not end within {KUBECTL_LIMIT:?}"))?;
    output.context("starting it, or reading what it prints")
}

fn printed(output: &Output) -> Printed {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let all = String::from_utf8_lossy(&output.stderr).into_owned() + &text;
    Printed {
        success: output.status.success(),
        output: text,
        all,
    }
}

/// A command line, with quotes where a shell needs them.
pub(super) fn typed(program: &str, args: &[&str]) -> String {
    let mut line = program.to_owned();
    for arg in args {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@".contains(c);
        line.push(' ');
        if !arg.is_empty() && arg.chars().all(plain) {
            line.push_str(arg);
        } else {
            line.push('\'');
            line.push_str(&arg.replace('\'', r"'\''"));
            line.push('\'');
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_is_quoted_as_a_shell_needs_it() {
        let line = typed("kubectl", &["get", "-o", "jsonpath={.a}", "it's", ""]);
        assert_eq!(line, r"kubectl get -o 'jsonpath={.a}' 'it'\''s' ''");
    }
}
