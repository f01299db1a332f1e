//! A release's upgrade, end and return, with the operator at work.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use cluster::eventually;
use k8s_openapi::api::apps::v1::Deployment;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams};
use mcp_operator::api::MCPServer;
use serde_json::json;

use super::container;
use super::kubelet::Replica;
use super::release::Installed;
use crate::setup::{OWN, SOON};

fn pods(replicas: &[Replica]) -> BTreeSet<String> {
    replicas.iter().map(|replica| replica.pod.clone()).collect()
}

/// Fails unless every container that has ended did so in peace.
fn ended_well(installed: &Installed) -> Result<()> {
    for ended in installed.ended() {
        let process = &ended.process;
        let log = container::log(process)?;
        ensure!(
            process.success() == Some(true),
            "{} ended badly ({:?}): {log}",
            ended.pod,
            process.end()
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upgrade_uninstall_and_install_again() -> Result<()> {
    let installed = Installed::start().await?;
    installed.install(&json!({})).await?;
    installed.refuses_and_accepts().await?;
    let servers = Api::<MCPServer>::namespaced(installed.client.clone(), "default");
    let deployments = Api::<Deployment>::namespaced(installed.client.clone(), "default");
    let made = deployments.get("updated").await?;

    // Another replica each, while users ask; none of them notices.
    let before = installed.replicas();
    let load = installed.load(4).await?;
    installed
        .upgrade(&json!({"log": {"level": "debug"}, "podLabels": {"team": "platform"}}))
        .await?;
    eventually("the old replicas have ended", SOON, || async {
        let ended = installed.ended();
        ensure!(ended.len() == before.len(), "{ended:?}");
        Ok(Some(()))
    })
    .await?;
    load.end("an upgrade").await?;
    ended_well(&installed)?;
    let after = installed.replicas();
    ensure!(
        after.len() == 2 && pods(&before).is_disjoint(&pods(&after)),
        "{after:?}"
    );
    for replica in &after {
        let log = container::log(&replica.running.process)?;
        ensure!(log.contains(r#""level":"DEBUG""#), "{log}");
    }

    // The new leader looks after what the old one made, and undoes nothing of it.
    installed.leader().await?;
    let image = json!({"spec": {"image": "example.com/a:2"}});
    servers
        .patch("updated", &PatchParams::default(), &Patch::Merge(image))
        .await?;
    installed.is_ready("updated").await?;
    let changed = deployments.get("updated").await?;
    ensure!(
        changed.metadata.uid == made.metadata.uid
            && changed.metadata.generation == made.metadata.generation.map(|made| made + 1),
        "{made:?} became {changed:?}"
    );
    // One container that ends is started again, and nothing waits for it.
    let pod = installed.leader().await?;
    installed.restart(&pod).await?;
    installed.leader().await?;
    installed.requests().await?;

    let doomed = json!({
        "apiVersion": "mcp.example.com/v1alpha1", "kind": "MCPServer",
        "metadata": {"name": "doomed", "namespace": "default"}, "spec": {"image": "example.com/a:1"},
    });
    let apply = ["apply", "-f", "-"];
    let (done, said) = installed.kubectl(&apply, &doomed.to_string()).await?;
    ensure!(done, "{said}");
    installed.is_ready("doomed").await?;
    installed.uninstall().await?;
    ended_well(&installed)?;
    let (_, left) = installed
        .kubectl(
            &[
                "get",
                "all,configmaps,secrets,leases,serviceaccounts,roles,rolebindings,endpointslices",
                "-n",
                OWN,
                "-o",
                "name",
            ],
            "",
        )
        .await?;
    let left: BTreeSet<_> = left.lines().collect();
    // What every namespace has, and what docs/installing.md says goes with the namespace.
    let expected = BTreeSet::from([
        "configmap/kube-root-ca.crt",
        "lease.coordination.k8s.io/mcp-operator",
        "secret/mcp-operator-webhook-ca",
        "serviceaccount/default",
    ]);
    ensure!(left == expected, "{left:#?}");
    let cluster_wide = "clusterroles,clusterrolebindings,mutatingwebhookconfigurations,validatingwebhookconfigurations,priorityclasses,crds";
    let of_release = [
        "get",
        cluster_wide,
        "-l",
        "app.kubernetes.io/instance=mcp-operator",
        "-o",
        "name",
    ];
    let (_, left) = installed.kubectl(&of_release, "").await?;
    ensure!(
        left.trim() == "customresourcedefinition.apiextensions.k8s.io/mcpservers.mcp.example.com",
        "{left}"
    );

    // MCPServers run on, unattended: what is deleted now stays until somebody looks after it again.
    let kept = servers.get("updated").await?;
    ensure!(crate::setup::is_ready(&kept), "{:?}", kept.status);
    let running = deployments.get("updated").await?;
    ensure!(running.metadata.uid == made.metadata.uid, "{running:?}");
    servers.delete("doomed", &DeleteParams::default()).await?;
    let stays = servers.get("doomed").await?;
    ensure!(stays.metadata.deletion_timestamp.is_some(), "{stays:?}");
    deployments.get("doomed").await?;
    let image = json!({"spec": {"image": "example.com/a:3"}});
    servers
        .patch("updated", &PatchParams::default(), &Patch::Merge(image))
        .await?;

    installed.install(&json!({})).await?;
    eventually("what was deleted meanwhile is gone", SOON, || async {
        let left = servers.get_opt("doomed").await?;
        ensure!(left.is_none(), "{left:?}");
        let left = deployments.get_opt("doomed").await?;
        ensure!(left.is_none(), "{left:?}");
        Ok(Some(()))
    })
    .await?;
    installed.is_ready("updated").await?;
    let followed = deployments.get("updated").await?;
    let spec = followed
        .spec
        .context("no spec")?
        .template
        .spec
        .context("no spec")?;
    ensure!(
        followed.metadata.uid == made.metadata.uid
            && spec.containers[0].image.as_deref() == Some("example.com/a:3"),
        "{spec:?}"
    );
    installed.stop().await
}
