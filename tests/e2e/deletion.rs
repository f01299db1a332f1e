//! Deleting a server.

use std::time::{Duration, Instant};

use cluster::eventually;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Service};
use kube::ResourceExt;
use kube::api::{DeleteParams, Patch, PatchParams};
use mcp_operator::api::v1alpha1::Phase;
use mcp_operator::api::{MCPServer, labels};
use serde_json::json;

use crate::events;
use crate::setup::{SOON, Space, condition};

#[tokio::test]
async fn a_deleted_server_leaves_nothing() {
    let space = Space::new("deleted").await;
    space
        .create(
            "a",
            json!({"image": "x:1", "replicas": 2, "config": {"K": "v"}}),
        )
        .await
        .unwrap();
    space.until_ready("a").await;
    let pods: Vec<_> = space
        .pods_of("a")
        .await
        .iter()
        .map(ResourceExt::name_any)
        .collect();
    space
        .servers()
        .delete("a", &DeleteParams::default())
        .await
        .unwrap();
    space.until_gone::<MCPServer>("a").await;
    space.until_gone::<Deployment>("a").await;
    space.until_gone::<Service>("a").await;
    space.until_gone::<ConfigMap>("a-config").await;
    for pod in pods {
        space.until_gone::<Pod>(&pod).await;
    }
    let left = space
        .api::<ReplicaSet>()
        .list(&Default::default())
        .await
        .unwrap()
        .items;
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn pods_that_do_not_end_are_waited_for_thirty_seconds() {
    let space = Space::new("slow").await;
    space
        .create(
            "a",
            json!({"image": "x:1", "podTemplate":
        {"metadata": {"annotations": {cluster::fake_kubelet::ANNOTATION: "slow-delete"}}}}),
        )
        .await
        .unwrap();
    space.until_ready("a").await;
    // Somebody else's finalizer, so that the marked Deployment can be looked at.
    let keep = json!({"metadata": {"finalizers": ["example.com/keep"]}});
    space
        .api::<Deployment>()
        .patch("a", &PatchParams::default(), &Patch::Merge(keep))
        .await
        .unwrap();
    let start = Instant::now();
    space
        .servers()
        .delete("a", &DeleteParams::default())
        .await
        .unwrap();
    let server = space.until_reason("a", "Ready", "Terminating").await;
    let status = server.status.clone().unwrap();
    assert_eq!(
        (status.phase, status.endpoint),
        (Some(Phase::Terminating), None)
    );
    assert_eq!(
        condition(&server, "Ready").unwrap().message,
        "MCPServer is being deleted"
    );
    let deployment = space
        .until_object::<Deployment>("a", "is marked and deleted", |deployment| {
            deployment
                .annotations()
                .contains_key(labels::GRACEFUL_SHUTDOWN)
                && deployment.metadata.deletion_timestamp.is_some()
        })
        .await;
    let mark = &deployment.annotations()[labels::GRACEFUL_SHUTDOWN];
    assert!(
        mark.parse::<k8s_openapi::jiff::Timestamp>().is_ok(),
        "{mark} is no time of RFC 3339"
    );
    let template = deployment.spec.unwrap().template.metadata.unwrap();
    assert!(
        !template
            .annotations
            .unwrap_or_default()
            .contains_key(labels::GRACEFUL_SHUTDOWN)
    );
    space.until_gone::<MCPServer>("a").await;
    let took = start.elapsed();
    // After 30 s; the rest is for a busy machine.
    let expected = Duration::from_secs(25)..Duration::from_secs(90);
    assert!(
        expected.contains(&took),
        "the finalizer stayed for {took:?}"
    );
    let release = json!({"metadata": {"finalizers": null}});
    space
        .api::<Deployment>()
        .patch("a", &PatchParams::default(), &Patch::Merge(release))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_pod_that_was_taken_away_by_its_label_is_nobodys() {
    let space = Space::new("relabelled").await;
    space.create("a", json!({"image": "x:1"})).await.unwrap();
    space.until_ready("a").await;
    let pod = space.pods_of("a").await[0].name_any();
    // As one does to look into a pod while another one takes its place.
    let change = json!({"metadata": {"labels": {"app.kubernetes.io/instance": "looked-into"}}});
    let pods = space.api::<Pod>();
    pods.patch(&pod, &PatchParams::default(), &Patch::Merge(change))
        .await
        .unwrap();
    eventually("another pod takes its place", SOON, || async {
        let others = space.pods_of("a").await;
        Ok((others.len() == 1 && others[0].name_any() != pod).then_some(()))
    })
    .await
    .unwrap();
    space.until_ready("a").await;
    let servers = space.servers();
    servers.delete("a", &DeleteParams::default()).await.unwrap();
    space.until_gone::<MCPServer>("a").await;
    assert!(
        pods.get_opt(&pod).await.unwrap().is_some(),
        "it is not ours"
    );
    let told = eventually("the end is told", SOON, || async {
        let mut told = events::told(&space, "a").await?;
        Ok(told.pop_if(|last| last.starts_with("Deleted")))
    })
    .await
    .unwrap();
    assert_eq!(
        told,
        "Deleted: The pods have gone; the finalizer was removed"
    );
}

#[tokio::test]
async fn a_server_whose_deployment_never_was_goes_at_once() {
    let space = Space::new("never").await;
    // A foreign object in its place: there never was a Deployment of ours.
    let (created, _, stderr) = space
        .kubectl(
            &["create", "deployment", "a", "--image=x", "--replicas=0"],
            "",
        )
        .await;
    assert!(created, "{stderr}");
    space.create("a", json!({"image": "x:1"})).await.unwrap();
    space.until_reason("a", "Ready", "NameConflict").await;
    let start = Instant::now();
    space
        .servers()
        .delete("a", &DeleteParams::default())
        .await
        .unwrap();
    space.until_gone::<MCPServer>("a").await;
    assert!(
        start.elapsed() < Duration::from_secs(29),
        "took {:?}",
        start.elapsed()
    );
    assert!(
        space
            .api::<Deployment>()
            .get_opt("a")
            .await
            .unwrap()
            .is_some(),
        "the foreign one stays"
    );
}

#[tokio::test]
async fn a_server_made_anew_at_once_gets_children_of_its_own() {
    let space = Space::new("anew").await;
    space
        .create("a", json!({"image": "x:1", "config": {"K": "v"}}))
        .await
        .unwrap();
    let first = space.until_ready("a").await.uid();
    space
        .servers()
        .delete("a", &DeleteParams::default())
        .await
        .unwrap();
    space.until_gone::<MCPServer>("a").await;
    space
        .create("a", json!({"image": "x:1", "config": {"K": "v"}}))
        .await
        .unwrap();
    let second = space.until_ready("a").await.uid();
    assert_ne!(first, second);
    let owner = space
        .api::<ConfigMap>()
        .get("a-config")
        .await
        .unwrap()
        .owner_references()[0]
        .uid
        .clone();
    assert_eq!(Some(owner), second);
}

#[tokio::test]
async fn children_that_are_to_stay_stay_and_are_found_again() {
    let space = Space::new("orphans").await;
    space.create("a", json!({"image": "x:1"})).await.unwrap();
    space.until_ready("a").await;
    let uid = space.api::<Deployment>().get("a").await.unwrap().uid();
    let (deleted, _, stderr) = space
        .kubectl(&["delete", "mcpserver", "a", "--cascade=orphan"], "")
        .await;
    assert!(deleted, "{stderr}");
    space.until_gone::<MCPServer>("a").await;
    assert_eq!(space.pods_of("a").await.len(), 1, "the pod runs on");
    space.create("a", json!({"image": "x:1"})).await.unwrap();
    let server = space.until_ready("a").await;
    let adopted = space
        .until_object::<Deployment>("a", "belongs to the new server", |deployment| {
            deployment
                .owner_references()
                .iter()
                .any(|owner| Some(&owner.uid) == server.metadata.uid.as_ref())
        })
        .await;
    assert_eq!(adopted.uid(), uid, "the same Deployment");
}
