//! A release's life with the Helm before this one, which merges where Helm 4 applies.

use anyhow::{Result, ensure};
use cluster::{Cluster, eventually};
use serde_json::json;

use super::release::{CRD, Life, NAMESPACE, UNANSWERED};
use super::{LIMIT, RELEASE};
use crate::setup::SOON;

async fn helm_3(cluster: &Cluster, arguments: &[&str]) -> Result<String> {
    let mut command = tokio::process::Command::from(cluster.helm_3_command().await?);
    command.args(arguments).kill_on_drop(true);
    let output = tokio::time::timeout(LIMIT, command.output()).await??;
    let words = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "helm {arguments:?}: {words}");
    Ok(String::from_utf8(output.stdout)?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn install_upgrade_rollback_uninstall_with_helm_3() -> Result<()> {
    let life = Life::start().await?;
    let put = async |verb: &str, more: &[&str]| {
        let mut arguments = vec![verb, RELEASE, &life.chart, "-n", NAMESPACE];
        arguments.extend(["--wait", "--timeout", "8m"]);
        arguments.extend(UNANSWERED);
        arguments.extend(more);
        helm_3(&life.cluster, &arguments).await
    };
    let version = helm_3(&life.cluster, &["version", "--short"]).await?;
    ensure!(version.starts_with("v3."), "{version}");
    put("install", &["--create-namespace", "--set", "replicas=1"]).await?;
    // This Helm waits until pods are ready, and not for minReadySeconds after that.
    let available = async |count: i32| {
        eventually("replicas are available", SOON, || async {
            Ok((life.available().await? == Some(count)).then_some(()))
        })
        .await
    };
    available(1).await?;
    assert_eq!(life.bundles().await?, ["", ""], "the operator's to set");
    let bundle = include_str!("certificate.pem").trim();
    life.trust(bundle).await?;
    let server = json!({"apiVersion": "mcp.example.com/v1alpha1", "kind": "MCPServer", "metadata": {"name": "kept"},
        "spec": {"image": "registry.example.com/a:1"}});
    life.kubectl(&["apply", "-n", "default", "-f", "-"], &server.to_string())?;

    put("upgrade", &["--set", "replicas=2"]).await?;
    available(2).await?;
    assert_eq!(life.bundles().await?, [bundle, bundle], "upgraded");
    put(
        "upgrade",
        &["--set", "replicas=2", "--set", "webhook.timeoutSeconds=2"],
    )
    .await?;
    assert_eq!(life.bundles().await?, [bundle, bundle], "a webhook changed");
    let rollback = ["rollback", RELEASE, "1", "-n", NAMESPACE, "--wait"];
    helm_3(&life.cluster, &rollback).await?;
    available(1).await?;
    assert_eq!(life.bundles().await?, [bundle, bundle], "rolled back");

    helm_3(
        &life.cluster,
        &["uninstall", RELEASE, "-n", NAMESPACE, "--wait"],
    )
    .await?;
    let kept = format!("customresourcedefinition.apiextensions.k8s.io/{CRD}");
    life.until_left("app.kubernetes.io/instance=mcp-operator", &[kept])
        .await?;
    life.kubectl(&["get", "mcpserver", "kept", "-n", "default"], "")?;
    life.cluster.stop().await
}
