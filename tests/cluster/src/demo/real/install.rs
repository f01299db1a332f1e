//! Installing the operator as a user does, in a namespace of the strictest rules.

use std::time::Instant;

use anyhow::{Result, ensure};

use super::stage::{NAMESPACE, RELEASE, Stage};
use crate::demo::screen::seconds;

/// Pod Security: what does not keep to the rules is refused.
const RESTRICTED: &str = "pod-security.kubernetes.io/enforce=restricted";
const CHART: &str = "charts/mcp-operator";
/// Of the chart's defaults.
const REPLICAS: usize = 2;

/// Installs it, and runs the chart's test.
pub(super) async fn operator(stage: &Stage) -> Result<String> {
    stage.kubectl(&["create", "namespace", NAMESPACE]).await?;
    for namespace in [NAMESPACE, "default"] {
        let label = ["label", "namespace", namespace, RESTRICTED];
        stage.kubectl(&label).await?;
    }
    let start = Instant::now();
    let namespace = ["--namespace", NAMESPACE];
    let mut install = vec!["install", RELEASE, CHART];
    install.extend(namespace);
    install.extend(["--create-namespace", "--wait"]);
    stage.helm(&install).await?;
    let time = seconds(start);
    let mut test = vec!["test", RELEASE];
    test.extend(namespace);
    let told = stage.helm(&test).await?;
    ensure!(
        told.all.contains("Succeeded"),
        "the chart's test did not say that it succeeded"
    );
    let pods = stage.kubectl(&["get", "pods", "-n", NAMESPACE]).await?;
    let ready = pods.lines().filter(|line| line.contains(" 1/1 ")).count();
    ensure!(
        ready == REPLICAS,
        "{REPLICAS} pods of the operator should be ready; {ready} are"
    );
    Ok(format!(
        "by Helm in {time}, with {REPLICAS} replicas under Pod Security \"restricted\"; its test passed"
    ))
}
