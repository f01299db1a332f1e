//! Running any program: shown as a user would type it, or silently.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::process::Command;

use super::screen::{command, note};

/// What a command printed, and how it ended.
pub(super) struct Printed {
    pub(super) success: bool,
    /// Standard output.
    pub(super) output: String,
    /// Standard error and standard output, as shown.
    pub(super) all: String,
}

/// Runs a program and shows the command, as it is named to people, and what it prints, whether it
/// succeeds or not. It may take so long.
pub(super) async fn tried(
    name: &str,
    program: std::process::Command,
    args: &[&str],
    limit: Duration,
) -> Result<Printed> {
    let line = typed(name, args);
    command(&line);
    let mut program = Command::from(program);
    program.args(args).stdin(Stdio::null()).kill_on_drop(true);
    let printed = output(&mut program, limit)
        .await
        .with_context(|| format!("running `{line}`"))?;
    note(&printed.all);
    Ok(printed)
}

/// Runs a program to its end. Some of what programs do waits for others, without a limit of its own.
pub(super) async fn output(program: &mut Command, limit: Duration) -> Result<Printed> {
    let output = tokio::time::timeout(limit, program.output()).await;
    let output = output.with_context(|| format!("it did not end within {limit:?}"))?;
    let output = output.context("starting it, or reading what it prints")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let all = String::from_utf8_lossy(&output.stderr).into_owned() + &text;
    Ok(Printed {
        success: output.status.success(),
        output: text,
        all,
    })
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
