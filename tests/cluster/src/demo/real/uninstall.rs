//! Taking everything away, in the order that the documentation names.

use std::time::Instant;

use anyhow::{Result, ensure};

use super::LIMIT;
use super::stage::{NAMESPACE, RELEASE, Stage};
use crate::demo::kubectl;
use crate::demo::screen::{command, note_some, seconds};
use crate::demo::shell::typed;
use crate::eventually;

/// Deletes the servers, uninstalls, and looks for what is left.
pub(super) async fn show(stage: &Stage) -> Result<String> {
    let start = Instant::now();
    let delete = ["delete", "mcpservers", "--all", "--all-namespaces"];
    command(&typed("kubectl", &delete));
    note_some(&stage.ask(&delete).await?);
    let servers = seconds(start);
    let made = [
        "get",
        "deployments,replicasets,pods,services,configmaps",
        "--all-namespaces",
        "-l",
        "app.kubernetes.io/managed-by=mcp-operator",
    ];
    none(stage, &made).await?;

    let uninstall = ["uninstall", RELEASE, "--namespace", NAMESPACE, "--wait"];
    stage.helm(&uninstall).await?;
    let crd = ["delete", "crd", "mcpservers.mcp.example.com"];
    stage.kubectl(&crd).await?;
    stage.kubectl(&["delete", "namespace", NAMESPACE]).await?;
    stage.helm(&["list", "--all-namespaces"]).await?;
    let kinds = "clusterroles,clusterrolebindings,mutatingwebhookconfigurations,\
                 validatingwebhookconfigurations,crds,priorityclasses";
    let of_release = format!("app.kubernetes.io/instance={RELEASE}");
    none(stage, &["get", kinds, "-l", &of_release]).await?;
    let gone = ["get", "namespace", NAMESPACE];
    let gone = kubectl::tried(&stage.cluster, &gone).await?;
    ensure!(
        !gone.success && gone.all.contains("NotFound"),
        "the namespace {NAMESPACE} is still there"
    );
    Ok(format!(
        "all servers in {servers}, then the release, its kind and its namespace; nothing was left"
    ))
}

/// Waits until there is none of these, and shows that.
async fn none(stage: &Stage, look: &[&str]) -> Result<()> {
    eventually("nothing to be left", LIMIT, || async {
        let left = stage.ask(look).await?;
        ensure!(left.is_empty(), "{left}");
        Ok(Some(()))
    })
    .await?;
    stage.kubectl(look).await.map(drop)
}
