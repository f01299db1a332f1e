//! Files that are made of the chart: `dist/install.yaml`, for who has no Helm, and the chart's README.

use std::process::Output;

use anyhow::{Context, Result, ensure};

use crate::cargo::workspace;
use crate::tools::{self, Set};

const CHART: &str = "charts/mcp-operator";
const HEAD: &str = "\
# The operator as its chart installs it with the chart's own values; made by `cargo run -p cluster -- install-manifest`.
# The image is a placeholder: docs/installing.md says how to put yours in its place.
---
";

/// `dist/install.yaml` as it is to be. Builds helm when that has not been done before.
pub async fn render() -> Result<String> {
    let arguments = [
        "template",
        "mcp-operator",
        CHART,
        "--namespace",
        "mcp-operator-system",
        "--skip-tests",
        "--kube-version",
        "1.36.0",
    ];
    let rendered = run(&tools::HELM, "helm", &arguments).await?;
    let namespace = workspace().join("dist/namespace.yaml");
    let namespace = std::fs::read_to_string(&namespace)
        .with_context(|| format!("reading {}", namespace.display()))?;
    Ok(format!("{HEAD}{namespace}{rendered}"))
}

/// The chart's README as it is to be. Builds helm-docs when that has not been done before.
pub async fn chart_readme() -> Result<String> {
    let arguments = [
        "--chart-search-root",
        CHART,
        "--sort-values-order",
        "file",
        "--dry-run",
        "--log-level",
        "error",
    ];
    run(&tools::LINTS, "helm-docs", &arguments).await
}

/// What a program of these prints, in the workspace's folder.
async fn run(set: &Set, program: &str, arguments: &[&str]) -> Result<String> {
    let path = tools::build(set).await?.join(program);
    let output: Output = tokio::process::Command::new(path)
        .args(arguments)
        .current_dir(workspace())
        .kill_on_drop(true)
        .output()
        .await
        .with_context(|| format!("running {program}"))?;
    ensure!(
        output.status.success(),
        "{program} failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).with_context(|| format!("{program} printed no text"))
}
