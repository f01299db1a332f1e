//! Policies of the cluster that keep the operator from its work: what it says, and that it goes on.

use cluster::eventually;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::events::v1::Event;
use kube::Api;
use kube::api::{DeleteParams, ListParams};
use mcp_operator::api::MCPServer;
use mcp_operator::api::v1alpha1::Phase;
use serde_json::json;

use crate::setup::{SOON, Space, USER, message, shared};

/// A policy against what the operator does to a kind in a namespace.
struct Policy<'a> {
    space: &'a Space,
    /// What kubectl is told to find out whether it is in force.
    probe: &'static [&'static str],
}

impl<'a> Policy<'a> {
    /// Refuses these operations on Deployments. Returns when it is in force. There is to be a Deployment `a`.
    async fn against(space: &'a Space, operations: &[&str]) -> Self {
        let probe = &[
            "patch",
            "deployment",
            "a",
            "-p",
            r#"{"metadata": {"annotations": {"tried": "yes"}}}"#,
        ];
        Self::on(space, ("apps", "deployments"), operations, probe).await
    }

    /// Refuses these operations on a resource of a group, of which `probe` tries one.
    async fn on(
        space: &'a Space,
        (group, resource): (&str, &str),
        operations: &[&str],
        probe: &'static [&'static str],
    ) -> Self {
        let name = &space.namespace;
        let list = json!({"apiVersion": "v1", "kind": "List", "items": [
            {
                "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
                "metadata": {"name": name},
                "spec": {
                    "matchConstraints": {
                        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}},
                        "resourceRules": [{"apiGroups": [group], "apiVersions": ["v1"],
                            "resources": [resource], "operations": operations}],
                    },
                    "validations": [{
                        "expression": format!("request.userInfo.username != '{USER}'"),
                        "message": "not while we are frozen", "reason": "Forbidden",
                    }],
                },
            },
            {
                "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
                "metadata": {"name": name},
                "spec": {"policyName": name, "validationActions": ["Deny"]},
            },
        ]});
        let (applied, _, said) = space
            .kubectl(&["apply", "-f", "-"], &list.to_string())
            .await;
        assert!(applied, "{said}");
        let policy = Self { space, probe };
        policy.until_in_force(true).await;
        policy
    }

    async fn lift(&self) {
        let both = "validatingadmissionpolicybinding,validatingadmissionpolicy";
        let delete = ["delete", both, &self.space.namespace];
        let (deleted, _, said) = self.space.kubectl(&delete, "").await;
        assert!(deleted, "{said}");
    }

    async fn until_in_force(&self, expected: bool) {
        let mut ask = self.probe.to_vec();
        ask.extend(["--as", USER, "--dry-run=server"]);
        eventually("the policy is in force, or not any more", SOON, || async {
            let (_, _, said) = self.space.kubectl(&ask, "").await;
            let refused = said.contains("not while we are frozen");
            anyhow::ensure!(refused == expected, "refused: {refused}: {said}");
            Ok(Some(()))
        })
        .await
        .unwrap();
    }
}

#[tokio::test]
async fn a_change_that_is_refused_leaves_the_counters_and_is_not_tried_at_once_again() {
    let space = Space::new("frozen").await;
    let spec = json!({"image": "x:1", "replicas": 2});
    space.create("a", spec).await.unwrap();
    space.until_ready("a").await;
    // What still changes of it would begin passes of its own.
    space
        .until_object::<Deployment>("a", "its rollout is over", |deployment| {
            let conditions = deployment
                .status
                .as_ref()
                .and_then(|s| s.conditions.as_ref());
            let is = |reason: Option<&str>| reason == Some("NewReplicaSetAvailable");
            conditions.is_some_and(|all| all.iter().any(|one| is(one.reason.as_deref())))
        })
        .await;
    let policy = Policy::against(&space, &["UPDATE"]).await;
    let change = json!({"spec": {"image": "x:2"}});
    space.patch("a", change).await.unwrap();
    let server = space
        .until("a", "the refusal in its status", |server| {
            message(server, "DeploymentReady").contains("not while we are frozen")
        })
        .await;
    let told = message(&server, "DeploymentReady");
    let begins =
        "Deployment has 2/2 ready replicas, but is not up to date: applying Deployment a: ";
    assert!(told.starts_with(begins), "{told}");
    let status = server.status.as_ref().unwrap();
    assert_eq!((status.ready_replicas, status.replicas), (2, 2));
    assert_eq!(status.phase, Some(Phase::Failed));
    let ready = message(&server, "Ready");
    assert!(ready.contains("not while we are frozen"), "{ready}");

    let events: Api<Event> = space.api();
    eventually("an Event tells it", SOON, || async {
        let all = events.list(&ListParams::default()).await?.items;
        let is = |event: &&Event| event.reason.as_deref() == Some("ConfigurationInvalid");
        Ok(all.iter().find(is).map(|_| ()))
    })
    .await
    .unwrap();
    // Time for a pass that its own status would have begun.
    let other = Space::new("unfrozen").await;
    other.create("b", json!({"image": "x:1"})).await.unwrap();
    other.until_ready("b").await;
    let writes = shared().cluster.writes_by(USER).await.unwrap();
    let here: Vec<_> = writes
        .iter()
        .filter(|write| write.namespace == space.namespace)
        .collect();
    let refused = here.iter().filter(|write| write.code / 100 == 4);
    let times: Vec<_> = refused.map(|write| write.time.as_second()).collect();
    assert!(
        !times.is_empty() && times.windows(2).all(|two| two[1] - two[0] >= 9),
        "10 s, then 20 s, are between two: {here:#?}"
    );

    policy.lift().await;
    policy.until_in_force(false).await;
    // Nobody changes anything: the next try is soon.
    space.until_ready("a").await;
}

#[tokio::test]
async fn a_deployment_that_cannot_be_deleted_keeps_its_server_for_thirty_seconds() {
    let space = Space::new("undeletable").await;
    space.create("a", json!({"image": "x:1"})).await.unwrap();
    space.until_ready("a").await;
    let policy = Policy::against(&space, &["UPDATE", "DELETE"]).await;
    let servers = space.servers();
    servers.delete("a", &DeleteParams::default()).await.unwrap();
    space.until_gone::<MCPServer>("a").await;
    // The garbage collector is nobody whom the policy means.
    space.until_gone::<Deployment>("a").await;
    policy.lift().await;
}

#[tokio::test]
async fn a_child_that_a_policy_refused_comes_when_the_policy_has_gone() {
    const PROBE: &[&str] = &["create", "service", "clusterip", "probe", "--tcp=1"];
    let space = Space::new("refused-service").await;
    let policy = Policy::on(&space, ("", "services"), &["CREATE"], PROBE).await;
    for name in ["changed", "asked", "left"] {
        space.create(name, json!({"image": "x:1"})).await.unwrap();
        let server = space
            .until(name, "the refusal in its status", |server| {
                message(server, "ServiceReady").contains("not while we are frozen")
            })
            .await;
        let ready = message(&server, "Ready");
        assert!(ready.contains("not while we are frozen"), "{ready}");
        assert_eq!(server.status.unwrap().phase, Some(Phase::Failed), "{name}");
    }
    policy.lift().await;
    policy.until_in_force(false).await;
    // The Service itself is wished as before: any change of the spec tries every child.
    let change = json!({"spec": {"env": [{"name": "A", "value": "b"}]}});
    space.patch("changed", change).await.unwrap();
    let ask = json!({"metadata": {"annotations": {"mcp.example.com/reconcile-at": "now"}}});
    space.patch("asked", ask).await.unwrap();
    for name in ["changed", "asked", "left"] {
        space.until_ready(name).await;
    }
}
