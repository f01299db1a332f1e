//! What one object, one request or one gap must not do: blind the operator to the others.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail, ensure};
use cluster::eventually;
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams, PostParams};
use mcp_operator::api::{MCPServer, labels};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::events;
use crate::metrics::scrape;
use crate::setup::{self, SOON, Space, USER, condition, message};

/// More than two pages of a list.
const MANY: usize = 400;

/// An MCPServer with so many nested maps in its pod template.
fn deep(name: &str, levels: usize) -> String {
    let (open, close) = ("{\"a\":".repeat(levels), "}".repeat(levels));
    let metadata = json!({"name": name, "finalizers": [labels::FINALIZER]});
    format!(
        r#"{{"apiVersion":"mcp.example.com/v1alpha1","kind":"MCPServer","metadata":{metadata},"spec":{{"image":"x:1","podTemplate":{{"metadata":{{"annotations":{open}{{}}{close}}}}}}}}}"#
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unreadable_server_blinds_nobody_is_named_and_can_go() -> Result<()> {
    let cluster = setup::start().await?;
    let space = Space::within(&cluster, "unreadable").await;
    // No webhook is there to refuse it.
    for name in ["deep", "doomed"] {
        let (created, _, said) = space
            .kubectl(&["create", "-f", "-"], &deep(name, 220))
            .await;
        ensure!(created, "{said}");
    }
    space.create("early", json!({"image": "x:1"})).await?;
    let mut operator = setup::spawn_operator(&cluster, "operator-0", &[])?;
    setup::install(&cluster, operator.port)?;
    for name in ["later", "after-a-restart"] {
        setup::wait_ready(&operator)?;
        space.until_ready("early").await;
        setup::eventually_admitted(&space).await?;
        space.create(name, json!({"image": "x:1"})).await?;
        space.until_ready(name).await;
        if name == "later" {
            operator.process.signal("KILL")?;
            operator = setup::spawn_operator_at(&cluster, "operator-1", operator.port, &[])?;
        }
    }

    let says = "spec: Invalid value: \"object\": its lists and maps are nested 224 levels deep, must be at most 64";
    let (_, status, _) = space
        .kubectl(&["get", "mcps", "deep", "-o", "jsonpath={.status}"], "")
        .await;
    let status: serde_json::Value = serde_json::from_str(&status)?;
    assert_eq!(status["phase"], "Failed", "{status}");
    let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
    let ready = conditions
        .iter()
        .find(|condition| condition["type"] == "Ready");
    assert_eq!(
        ready.map(|ready| &ready["message"]),
        Some(&json!(says)),
        "{status}"
    );
    let told = events::told(&space, "deep").await?;
    assert_eq!(
        told,
        [format!("ConfigurationInvalid: {says}")],
        "told once by two operators"
    );
    let logged = setup::logged(&operator)?;
    let named = logged.iter().any(|line| {
        line["span"]["mcpserver"] == "deep"
            && line["message"]
                .as_str()
                .is_some_and(|text| text.contains("cannot be read"))
    });
    assert!(named, "{logged:?}");
    let text = std::fs::read_to_string(operator.process.log())?;
    assert!(
        !text.contains("\\\"a\\\":{"),
        "contents of objects are in the log: {text}"
    );
    let counted = scrape(operator.http)?;
    let count = counted["mcp_operator_unreadable_objects_total{kind=\"mcpservers\"}"];
    assert!(count >= 2.0, "{count}");

    let (deleted, _, said) = space
        .kubectl(&["delete", "mcps", "doomed", "--timeout=60s"], "")
        .await;
    assert!(deleted, "{said}");
    setup::stop(cluster).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_fails_its_server_and_nothing_else() -> Result<()> {
    let cluster = setup::start().await?;
    let mut program = setup::binary();
    program.env("MCP_OPERATOR_PANIC_AT", "bad");
    let kubeconfig = cluster.kubeconfig_for(USER, &[])?;
    let port = setup::free_port()?;
    let space = Space::within(&cluster, "panic").await;
    space.create("bad", json!({"image": "x:1"})).await?;
    // The watch compares it with what its server wants, where the operator panics, too.
    let child = json!({"metadata": {"name": "bad", "labels": labels::selector("bad"),
        "annotations": {labels::APPLIED_HASH: "0".repeat(32)}}, "spec": {"ports": [{"port": 1}]}});
    let child: Service = serde_json::from_value(child)?;
    space.api().create(&PostParams::default(), &child).await?;
    let operator = setup::spawn_program(&cluster, "operator", port, &kubeconfig, program, &[])?;
    setup::install(&cluster, operator.port)?;
    setup::wait_ready(&operator)?;
    setup::eventually_admitted(&space).await?;
    space.create("good", json!({"image": "x:1"})).await?;
    space.until_ready("good").await;
    let bad = space
        .until_reason("bad", "Ready", "ConfigurationInvalid")
        .await;
    let ready = message(&bad, "Ready");
    assert!(
        ready.contains("a fault of the operator; please report it"),
        "{ready}"
    );
    let told = eventually("an Event tells it", SOON, || async {
        let told = events::told(&space, "bad").await?;
        ensure!(!told.is_empty(), "nothing is told");
        Ok(Some(told))
    })
    .await?;
    let expected = "ReconcileFailed: the operator failed at this MCPServer (a fault of the operator; please report it): \
                    a pass over panic-";
    assert!(told.len() == 1 && told[0].starts_with(expected), "{told:?}");
    let counted = scrape(operator.http)?;
    let failed = counted["mcp_operator_reconciles_total{class=\"configuration\",result=\"error\"}"];
    assert!(failed >= 1.0, "{failed}");
    operator.process.alive()?;
    setup::stop(cluster).await
}

/// A webhook for the creation of this resource, in this namespace or in all, that takes connections and never answers.
/// It listens until the task is aborted.
async fn silent_policy(
    (group, resource): (&str, &str),
    within: Option<&Space>,
) -> Result<(JoinHandle<()>, serde_json::Value)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    let silent = tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((connection, _)) = listener.accept().await {
            held.push(connection);
        }
    });
    let selector = within.map_or_else(
        || json!({}),
        |space| json!({"matchLabels": {"kubernetes.io/metadata.name": space.namespace}}),
    );
    let hangs = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": "silent"},
        "webhooks": [{
            "name": "silent.example.com", "admissionReviewVersions": ["v1"], "sideEffects": "None",
            "failurePolicy": "Fail", "timeoutSeconds": 30, "namespaceSelector": selector,
            "clientConfig": {"url": format!("https://127.0.0.1:{port}/")},
            "rules": [{"apiGroups": [group], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": [resource]}],
        }],
    });
    Ok((silent, hangs))
}

/// The Events of this cluster are asked about at a server that never answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_that_hang_hold_up_neither_a_status_nor_a_deletion() -> Result<()> {
    let (cluster, operator) = setup::start_with("operator", &[]).await?;
    let (silent, hangs) = silent_policy(("events.k8s.io", "events"), None).await?;
    let applied = setup::kubectl(&cluster, &["apply", "-f", "-"], &hangs.to_string())?;
    ensure!(applied.status.success(), "{applied:?}");
    let space = Space::within(&cluster, "silent").await;
    let event = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "probe"},
        "eventTime": "2026-01-01T00:00:00.000000Z", "type": "Normal", "reason": "Probe", "action": "Probe",
        "regarding": {"apiVersion": "v1", "kind": "Pod", "namespace": space.namespace, "name": "probe"},
        "reportingController": "example.com/probe", "reportingInstance": "probe"});
    eventually("the Events hang", SOON, || async {
        let ask = ["create", "-f", "-", "--request-timeout=2s"];
        let (created, _, said) = space.kubectl(&ask, &event.to_string()).await;
        ensure!(!created && !said.contains("already exists"), "{said}");
        ensure!(
            said.contains("Timeout") || said.contains("deadline"),
            "{said}"
        );
        Ok(Some(()))
    })
    .await?;
    space.create("a", json!({"image": "x:1"})).await?;
    space.until_ready("a").await;
    let servers = space.servers();
    servers.delete("a", &DeleteParams::default()).await?;
    space.until_gone::<MCPServer>("a").await;
    // Each is logged when it is answered, with the time when it came.
    let (first, event) = eventually("an Event is given up by the API server", SOON, || async {
        let requests = cluster.requests_by(USER).await?;
        let time_of = |resource: &str| {
            let mut all = requests
                .iter()
                .filter(|request| request.resource == resource);
            all.next().map(|request| request.time)
        };
        Ok(time_of("mcpservers/status").zip(time_of("events")))
    })
    .await?;
    assert!(
        first <= event,
        "the Event of {event} came before the status of {first}"
    );
    operator.process.alive()?;
    silent.abort();
    setup::stop(cluster).await
}

/// Without the limit a namespace, another one's server would wait until all of these were tried: 10 × 30 s.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_policy_of_one_namespace_leaves_the_operator_to_the_others() -> Result<()> {
    let (cluster, operator) = setup::start_with("operator", &[]).await?;
    let slow = Space::within(&cluster, "slow").await;
    let (silent, hangs) = silent_policy(("apps", "deployments"), Some(&slow)).await?;
    let applied = setup::kubectl(&cluster, &["apply", "-f", "-"], &hangs.to_string())?;
    ensure!(applied.status.success(), "{applied:?}");
    eventually("Deployments hang", SOON, || async {
        let ask = [
            "create",
            "deployment",
            "probe",
            "--image=x:1",
            "--request-timeout=2s",
        ];
        let (created, _, said) = slow.kubectl(&ask, "").await;
        ensure!(!created && !said.contains("already exists"), "{said}");
        Ok(Some(()))
    })
    .await?;
    futures::stream::iter(0..240)
        .map(async |index| {
            slow.create(&format!("s{index}"), json!({"image": "x:1"}))
                .await
        })
        .buffer_unordered(16)
        .try_collect::<Vec<_>>()
        .await?;
    let quick = Space::within(&cluster, "quick").await;
    quick.create("a", json!({"image": "x:1"})).await?;
    quick.until_ready("a").await;
    operator.process.alive()?;
    silent.abort();
    setup::stop(cluster).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_changes_while_nobody_looks_is_found_in_the_list() -> Result<()> {
    let mut cluster = setup::start().await?;
    let operator = setup::spawn_operator(&cluster, "operator", &[])?;
    let space = Space::within(&cluster, "gap").await;
    let names: Vec<_> = (0..MANY).map(|index| format!("s{index}")).collect();
    futures::stream::iter(&names)
        .map(|name| space.create(name, json!({"image": "x:1", "config": {"K": "v"}})))
        .buffer_unordered(16)
        .try_collect::<Vec<_>>()
        .await?;
    let all_ready = async |space: &Space| {
        eventually("all servers are Ready", SOON * 3, || async {
            let servers = space.servers().list(&ListParams::default()).await?;
            let ready = servers
                .iter()
                .filter(|server| setup::is_ready(server))
                .count();
            ensure!(
                ready == servers.items.len(),
                "{ready} of {}",
                servers.items.len()
            );
            Ok(Some(()))
        })
        .await
    };
    all_ready(&space).await?;

    // In the gap: children are deleted, a spec changes, a server is deleted for good, another one comes.
    let listed = || -> Result<BTreeMap<String, f64>> {
        let all = scrape(operator.http)?.into_iter();
        let is_list = |name: &str| name.starts_with("mcp_operator_watch_last_list");
        Ok(all.filter(|(name, _)| is_list(name)).collect())
    };
    let before = listed()?;
    operator.process.signal("STOP")?;
    let gone = DeleteParams::default();
    space.api::<Deployment>().delete("s1", &gone).await?;
    space.api::<Service>().delete("s2", &gone).await?;
    space.api::<ConfigMap>().delete("s3-config", &gone).await?;
    space.patch("s4", json!({"spec": {"image": "x:2"}})).await?;
    space.servers().delete("s5", &gone).await?;
    space
        .patch("s5", json!({"metadata": {"finalizers": null}}))
        .await?;
    space.create("new", json!({"image": "x:1"})).await?;
    let stray = json!({"metadata": {"name": "s6", "labels": {"app.kubernetes.io/managed-by": "mcp-operator"}}, "spec": {"ports": [{"port": 1}]}});
    space.servers().delete("s6", &gone).await?;
    space
        .patch("s6", json!({"metadata": {"finalizers": null}}))
        .await?;
    cluster.restart_api_server().await?;
    space.until_gone::<Service>("s6").await;
    let stray: Service = serde_json::from_value(stray)?;
    space
        .api::<Service>()
        .create(&PostParams::default(), &stray)
        .await?;
    operator.process.signal("CONT")?;
    eventually("every kind is listed again", SOON, || async {
        let now = listed()?;
        let is_later = |(kind, at): (&String, &f64)| now.get(kind).is_some_and(|now| now > at);
        ensure!(before.iter().all(is_later), "{before:?}, and now {now:?}");
        Ok(Some(()))
    })
    .await?;

    space
        .until_object::<Deployment>("s1", "is there again", |_| true)
        .await;
    space
        .until_object::<Service>("s2", "is there again", |_| true)
        .await;
    space
        .until_object::<ConfigMap>("s3-config", "is there again", |_| true)
        .await;
    space
        .until_object::<Deployment>("s4", "has the new image", |deployment| {
            serde_json::to_string(&deployment.spec).is_ok_and(|spec| spec.contains("x:2"))
        })
        .await;
    all_ready(&space).await?;
    space.until_ready("new").await;
    let expected: BTreeSet<_> = names
        .iter()
        .map(String::as_str)
        .filter(|name| !["s5", "s6"].contains(name))
        .collect();
    let deployments = eventually("the children of the deleted one go", SOON, || async {
        let list = space
            .api::<Deployment>()
            .list(&ListParams::default())
            .await?
            .items;
        let found: BTreeSet<_> = list.iter().map(ResourceExt::name_any).collect();
        if found.contains("s5") {
            bail!("s5 is there yet");
        }
        Ok(Some(found))
    })
    .await?;
    let missing: Vec<_> = expected
        .iter()
        .filter(|name| !deployments.contains(**name))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
    operator.process.alive()?;
    let server = space.servers().get("s4").await?;
    assert!(
        condition(&server, "Ready").is_some(),
        "{}",
        message(&server, "Ready")
    );
    setup::stop(cluster).await
}
