//! A real cluster: what it does, what it tells, and that nothing of it is left.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod left;

use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use cluster::{Cluster, Options, eventually, fake_kubelet};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, DynamicObject};
use kube::{Client, ResourceExt};
use left::{mentioning, nothing_left};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};

const LIMIT: Duration = Duration::from_mins(5);

fn deployment(name: &str, replicas: u32, annotations: &Value) -> Deployment {
    serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}, "annotations": annotations},
                "spec": {"containers": [{"name": "main", "image": "example.com/web:1"}]},
            },
        },
    }))
    .unwrap()
}

async fn create(client: &Client, name: &str, replicas: u32, annotations: Value) -> Api<Deployment> {
    let deployments: Api<Deployment> = Api::default_namespaced(client.clone());
    let deployment = deployment(name, replicas, &annotations);
    deployments
        .create(&PostParams::default(), &deployment)
        .await
        .unwrap();
    deployments
}

async fn available(deployments: &Api<Deployment>, name: &str, replicas: i32) {
    eventually(&format!("{replicas} available replicas"), LIMIT, || async {
        let status = deployments.get(name).await?.status.unwrap_or_default();
        let available = status.available_replicas.unwrap_or(0);
        ensure!(available == replicas, "{available} are");
        let conditions = status.conditions.unwrap_or_default();
        Ok(conditions
            .iter()
            .any(|condition| condition.type_ == "Available" && condition.status == "True")
            .then_some(()))
    })
    .await
    .unwrap();
}

/// The only pod of a deployment.
async fn pod_of(client: &Client, name: &str) -> Result<Option<Pod>> {
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let list = pods
        .list(&ListParams::default().labels(&format!("app={name}")))
        .await?;
    Ok(list.items.into_iter().next())
}

/// Why the first container of a pod waits.
fn waits(pod: &Pod) -> Option<(String, String)> {
    let status = pod.status.as_ref()?.container_statuses.as_ref()?.first()?;
    let waiting = status.state.as_ref()?.waiting.clone()?;
    Some((waiting.reason?, waiting.message?))
}

fn is_ready(pod: &Pod) -> Option<bool> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let ready = conditions
        .iter()
        .find(|condition| condition.type_ == "Ready")?;
    Some(ready.status == "True")
}

async fn annotate(client: &Client, pod: &str, state: Option<&str>) {
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let patch = json!({"metadata": {"annotations": {fake_kubelet::ANNOTATION: state}}});
    pods.patch(pod, &PatchParams::default(), &Patch::Merge(patch))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_deployment_becomes_available_and_goes() {
    let cluster = Cluster::start(Options::default()).await.unwrap();
    let client = cluster.client();
    let deployments = create(&client, "web", 3, json!({})).await;
    available(&deployments, "web", 3).await;

    let output = cluster
        .kubectl_command()
        .args(["get", "pods", "--output", "name"])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.lines().count(), 3, "{text}");

    deployments
        .delete("web", &DeleteParams::background())
        .await
        .unwrap();
    let pods: Api<Pod> = Api::all(client.clone());
    eventually("no pods", LIMIT, || async {
        let left = pods.list(&ListParams::default()).await?.items.len();
        ensure!(left == 0, "{left} pods");
        Ok(Some(()))
    })
    .await
    .unwrap();

    cluster.alive().unwrap();
    let folder = cluster.folder().to_owned();
    assert_eq!(
        mentioning(&folder).len(),
        4,
        "etcd, API server, controllers, sweeper"
    );
    cluster.stop().await.unwrap();
    // Not in a while: when `stop` returns, all is gone.
    assert!(!folder.exists());
    assert_eq!(mentioning(&folder), Vec::<String>::new());
}

#[tokio::test]
async fn two_hundred_pods_within_seconds_and_a_namespace_goes_with_all() {
    let cluster = Cluster::start(Options::default()).await.unwrap();
    let client = cluster.client();
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let namespace = serde_json::from_value(json!({"metadata": {"name": "many"}})).unwrap();
    namespaces
        .create(&PostParams::default(), &namespace)
        .await
        .unwrap();
    let deployments: Api<Deployment> = Api::namespaced(client, "many");
    let start = Instant::now();
    deployments
        .create(&PostParams::default(), &deployment("many", 200, &json!({})))
        .await
        .unwrap();
    available(&deployments, "many", 200).await;
    eprintln!("200 pods were available after {:?}", start.elapsed());

    let start = Instant::now();
    namespaces
        .delete("many", &DeleteParams::default())
        .await
        .unwrap();
    eventually("the namespace to go", LIMIT, || async {
        Ok(namespaces.get_opt("many").await?.is_none().then_some(()))
    })
    .await
    .unwrap();
    eprintln!("their namespace was gone after {:?}", start.elapsed());
    cluster.stop().await.unwrap();
}

#[tokio::test]
async fn the_audit_log_tells_what_a_user_did() {
    let cluster = Cluster::start(Options::default()).await.unwrap();
    let kubeconfig = cluster
        .kubeconfig_for("some:user", &["system:masters", "others"])
        .unwrap();
    let kubeconfig = kube::config::Kubeconfig::read_from(kubeconfig).unwrap();
    let options = kube::config::KubeConfigOptions::default();
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options)
        .await
        .unwrap();
    let client = Client::try_from(config).unwrap();

    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    let map: ConfigMap = serde_json::from_value(json!({"metadata": {"name": "m"}})).unwrap();
    maps.create(&PostParams::default(), &map).await.unwrap();
    assert!(maps.create(&PostParams::default(), &map).await.is_err());
    maps.get("m").await.unwrap();
    maps.delete("m", &DeleteParams::default()).await.unwrap();

    let requests = eventually("four requests", LIMIT, || async {
        let requests = cluster.requests_by("some:user").await?;
        ensure!(requests.len() >= 4, "{requests:?}");
        Ok(Some(requests))
    });
    assert_eq!(requests.await.unwrap().len(), 4);
    let writes = cluster.writes_by("some:user").await.unwrap();
    let told: Vec<_> = writes
        .iter()
        .map(|entry| {
            (
                &*entry.verb,
                &*entry.resource,
                &*entry.namespace,
                entry.code,
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            ("create", "configmaps", "default", 201),
            ("create", "configmaps", "default", 409),
            ("delete", "configmaps", "default", 200),
        ]
    );
    assert_eq!(writes[2].name, "m");
    assert_eq!(cluster.requests_by("nobody").await.unwrap(), []);

    // Both groups of the certificate arrive.
    let review: Value = serde_json::from_str(
        &client
            .request_text(
                http::Request::post("/apis/authentication.k8s.io/v1/selfsubjectreviews")
                    .header("content-type", "application/json")
                    .body(
                        br#"{"apiVersion":"authentication.k8s.io/v1","kind":"SelfSubjectReview"}"#
                            .to_vec(),
                    )
                    .unwrap(),
            )
            .await
            .unwrap(),
    )
    .unwrap();
    let groups = review["status"]["userInfo"]["groups"].to_string();
    assert!(
        groups.contains("system:masters") && groups.contains("others"),
        "{groups}"
    );
    cluster.stop().await.unwrap();
}

#[tokio::test]
async fn faults_by_annotation() {
    let cluster = Cluster::start(Options::default()).await.unwrap();
    let client = cluster.client();
    for (state, reason) in [
        ("image-pull-backoff", "ImagePullBackOff"),
        ("crash-loop", "CrashLoopBackOff"),
    ] {
        create(&client, state, 1, json!({"fake-kubelet/state": state})).await;
        let (pod, message) = eventually(reason, LIMIT, || async {
            let pod = pod_of(&client, state).await?;
            Ok(pod.and_then(|pod| {
                let (why, message) = waits(&pod)?;
                (why == reason).then_some((pod, message))
            }))
        })
        .await
        .unwrap();
        if reason == "ImagePullBackOff" {
            assert_eq!(message, "Back-off pulling image \"example.com/web:1\"");
        }
        assert_eq!(is_ready(&pod), Some(false));
        // A change of a living pod is followed.
        annotate(&client, &pod.name_any(), None).await;
        eventually("the pod to become ready", LIMIT, || async {
            let pod = pod_of(&client, state).await?;
            Ok(pod.filter(|pod| is_ready(pod) == Some(true)))
        })
        .await
        .unwrap();
    }

    let not_ready = json!({"fake-kubelet/state": "not-ready"});
    let deployments = create(&client, "never", 1, not_ready).await;
    eventually("a running pod that is not ready", LIMIT, || async {
        let pod = pod_of(&client, "never").await?;
        Ok(pod.filter(|pod| {
            let phase = pod
                .status
                .as_ref()
                .and_then(|status| status.phase.as_deref());
            phase == Some("Running") && is_ready(pod) == Some(false)
        }))
    })
    .await
    .unwrap();
    let status = deployments.get("never").await.unwrap().status.unwrap();
    assert_eq!(status.available_replicas, None);
    cluster.stop().await.unwrap();
}

#[tokio::test]
async fn a_slow_pod_stays_until_told_otherwise() {
    let cluster = Cluster::start(Options::default()).await.unwrap();
    let client = cluster.client();
    let slow = json!({"fake-kubelet/state": "slow-delete"});
    let deployments = create(&client, "slow", 1, slow).await;
    let other = create(&client, "other", 1, json!({})).await;
    available(&deployments, "slow", 1).await;
    available(&other, "other", 1).await;
    for deployments in [("slow", &deployments), ("other", &other)] {
        let (name, deployments) = deployments;
        deployments
            .delete(name, &DeleteParams::background())
            .await
            .unwrap();
    }
    // The other was deleted later and has gone: time enough for the slow one to have gone, too.
    eventually("the other pod to go", LIMIT, || async {
        Ok(pod_of(&client, "other").await?.is_none().then_some(()))
    })
    .await
    .unwrap();
    let pod = eventually("a pod that is being deleted", LIMIT, || async {
        let pod = pod_of(&client, "slow").await?;
        Ok(pod.filter(|pod| pod.metadata.deletion_timestamp.is_some()))
    })
    .await
    .unwrap();
    annotate(&client, &pod.name_any(), None).await;
    eventually("the slow pod to go", LIMIT, || async {
        Ok(pod_of(&client, "slow").await?.is_none().then_some(()))
    })
    .await
    .unwrap();
    cluster.stop().await.unwrap();
}

/// A kind that is known from the start has its children collected at once, which takes up to
/// 30 s otherwise.
#[tokio::test]
async fn children_of_a_given_kind_are_collected_at_once() {
    let crd: CustomResourceDefinition = serde_json::from_value(json!({
        "metadata": {"name": "things.example.com"},
        "spec": {
            "group": "example.com",
            "scope": "Namespaced",
            "names": {"kind": "Thing", "plural": "things"},
            "versions": [{
                "name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object"}},
            }],
        },
    }))
    .unwrap();
    let options = Options {
        crds: vec![crd],
        ..Options::default()
    };
    let cluster = Cluster::start(options).await.unwrap();
    let client = cluster.client();
    let kind = ApiResource {
        group: "example.com".into(),
        version: "v1".into(),
        api_version: "example.com/v1".into(),
        kind: "Thing".into(),
        plural: "things".into(),
    };
    let things: Api<DynamicObject> = Api::default_namespaced_with(client.clone(), &kind);
    let thing = things
        .create(&PostParams::default(), &DynamicObject::new("t", &kind))
        .await
        .unwrap();
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let child = serde_json::from_value(json!({"metadata": {"name": "child", "ownerReferences": [{
        "apiVersion": "example.com/v1", "kind": "Thing", "name": "t", "uid": thing.uid(),
    }]}}))
    .unwrap();
    maps.create(&PostParams::default(), &child).await.unwrap();
    things.delete("t", &DeleteParams::default()).await.unwrap();
    let start = Instant::now();
    eventually("the child to be collected", LIMIT, || async {
        Ok(maps.get_opt("child").await?.is_none().then_some(()))
    })
    .await
    .unwrap();
    let took = start.elapsed();
    eprintln!("the child was collected after {took:?}");
    // The next look at what kinds there are would be after 30 s.
    assert!(took < Duration::from_secs(28), "{took:?}");
    cluster.stop().await.unwrap();
}

#[tokio::test]
async fn two_clusters_at_once() {
    let (one, two) = tokio::join!(
        Cluster::start(Options::default()),
        Cluster::start(Options::default())
    );
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_ne!(one.url(), two.url());
    let here = create(&one.client(), "web", 1, json!({})).await;
    available(&here, "web", 1).await;
    let there: Api<Deployment> = Api::all(two.client());
    assert_eq!(
        there
            .list(&ListParams::default())
            .await
            .unwrap()
            .items
            .len(),
        0
    );
    // Dropping is stopping; and stopping one does not hurt the other.
    let folder = one.folder().to_owned();
    drop(one);
    assert!(!folder.exists());
    create(&two.client(), "web", 1, json!({})).await;
    available(&there_in_default(&two), "web", 1).await;
    two.stop().await.unwrap();
}

fn there_in_default(cluster: &Cluster) -> Api<Deployment> {
    Api::default_namespaced(cluster.client())
}

#[tokio::test]
async fn a_dead_part_is_told_with_its_log() {
    let cluster = Cluster::start(Options::default()).await.unwrap();
    // Found by its folder, which no other process has.
    let data = format!("--data-dir={}", cluster.folder().join("etcd").display());
    let etcd = std::fs::read_dir("/proc").unwrap().find_map(|entry| {
        let path = entry.ok()?.path();
        let line = std::fs::read(path.join("cmdline")).ok()?;
        let found = String::from_utf8_lossy(&line).contains(&data);
        found.then(|| path.file_name().unwrap().to_str().unwrap().parse::<u32>())
    });
    signal("KILL", etcd.unwrap().unwrap());
    let error = tokio::time::timeout(LIMIT, cluster.died()).await.unwrap();
    let message = error.to_string();
    assert!(
        message.starts_with("etcd ended (signal: 9 (SIGKILL))"),
        "{message}"
    );
    assert!(message.contains("etcd.log"), "{message}");
    assert!(cluster.alive().is_err());
    cluster.stop().await.unwrap();
}

/// Sends a signal to a process that this test started.
fn signal(name: &str, id: u32) {
    let status = std::process::Command::new("sh")
        .args(["-c", r#"kill -s "$1" "$2""#, "sh", name, &id.to_string()])
        .status()
        .unwrap();
    assert!(status.success());
}

#[tokio::test]
async fn a_program_beside_ends_with_the_cluster() {
    // The future can be sent to another thread.
    let cluster = tokio::spawn(Cluster::start(Options::default()));
    let cluster = cluster.await.unwrap().unwrap();
    let program = |text: &str| {
        let mut command = std::process::Command::new("sh");
        command.args(["-c", text]);
        command
    };
    let ends = cluster
        .start_process("ends", program("echo said; exit 4"))
        .unwrap();
    eventually("the end of a program", LIMIT, || async {
        Ok(ends.end().map(str::to_owned))
    })
    .await
    .unwrap();
    assert_eq!(ends.end(), Some("exit status: 4"));
    assert_eq!(std::fs::read_to_string(ends.log()).unwrap(), "said\n");
    assert!(ends.signal("TERM").is_err());

    let told = cluster
        .start_process("told", program("exec sleep 1000"))
        .unwrap();
    told.signal("TERM").unwrap();
    eventually("the end of a program", LIMIT, || async {
        Ok(told.end().map(str::to_owned))
    })
    .await
    .unwrap();
    assert_eq!(told.end(), Some("signal: 15 (SIGTERM)"));

    let stays = cluster
        .start_process("stays", program("trap '' TERM; sleep 1000; sleep 1000"))
        .unwrap();
    assert_eq!(stays.end(), None);
    cluster.stop().await.unwrap();
    assert_eq!(stays.end(), Some("signal: 9 (SIGKILL)"));
}

/// Starts `cluster up` and returns it with its folder.
async fn up() -> (tokio::process::Child, PathBuf) {
    let mut child = tokio::process::Command::new(env!("CARGO_BIN_EXE_cluster"))
        .arg("up")
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let kubeconfig = loop {
        let line = lines.next_line().await.unwrap().unwrap();
        if let Some(path) = line.strip_prefix("kubeconfig: ") {
            break PathBuf::from(path);
        }
    };
    // Read on, so that it does not write into a closed pipe.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    (child, kubeconfig.parent().unwrap().to_owned())
}

#[tokio::test]
async fn killing_the_command_leaves_nothing() {
    let (mut child, folder) = up().await;
    assert_eq!(mentioning(&folder).len(), 4);
    child.kill().await.unwrap();
    nothing_left(&folder).await;
}

#[tokio::test]
async fn ctrl_c_ends_the_command_and_leaves_nothing() {
    for name in ["INT", "TERM"] {
        let (mut child, folder) = up().await;
        signal(name, child.id().unwrap());
        let status = tokio::time::timeout(LIMIT, child.wait()).await.unwrap();
        assert!(status.unwrap().success());
        assert!(!folder.exists());
        assert_eq!(mentioning(&folder), Vec::<String>::new());
    }
}
