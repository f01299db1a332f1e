//! A real node: that it runs pods, that those reach what they should and nothing else, and that
//! nothing of it is left.
//!
//! It needs root on Linux and packages, and changes this machine for a while (a network interface,
//! cgroups). So it is run where the environment variable `MCP_OPERATOR_NODE` is 1 only.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

mod ends;
mod pods;
mod trace;

use std::time::Duration;

use anyhow::{Result, ensure};
use cluster::{Cluster, NodeKind, Options, eventually, node::left_out, server_everything};
use k8s_openapi::api::core::v1::Pod;
use kube::api::Api;
use serde_json::{Value, json};

/// How long anything may take on a busy machine.
const LIMIT: Duration = Duration::from_mins(2);

fn options() -> Options {
    Options {
        node: NodeKind::Real,
        ..Options::default()
    }
}

/// A pod of server-everything's image under the strictest rules.
///
/// `container` is laid over the container.
fn pod(name: &str, container: Value) -> Value {
    let mut all = json!({
        "name": "main",
        "image": server_everything::NAME,
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"]},
        },
    });
    for (field, value) in container.as_object().unwrap() {
        all[field] = value.clone();
    }
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [all],
        },
    })
}

/// Arguments that make server-everything serve HTTP at port 8080.
fn http() -> Value {
    json!({
        "args": ["streamableHttp"],
        "env": [{"name": "PORT", "value": "8080"}],
        "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1},
    })
}

/// Has kubectl create objects, given as JSON.
fn apply(cluster: &Cluster, namespace: &str, objects: &[Value]) {
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
    let file = cluster.folder().join(format!("{namespace}.test.json"));
    std::fs::write(&file, list.to_string()).unwrap();
    let file = file.to_str().unwrap();
    kubectl(cluster, &["apply", "--namespace", namespace, "-f", file]);
}

/// A namespace whose pods must keep to the strictest rules.
fn restricted(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {
        "name": name,
        "labels": {"pod-security.kubernetes.io/enforce": "restricted"},
    }})
}

/// Runs kubectl to its good end: what it said.
fn kubectl(cluster: &Cluster, arguments: &[&str]) -> String {
    let output = cluster.kubectl_command().args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "kubectl {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Waits until pods with a label are ready.
async fn ready(cluster: &Cluster, namespace: &str, app: &str, count: usize) {
    let client = cluster.new_client().await.unwrap();
    let pods: Api<Pod> = Api::namespaced(client, namespace);
    let parameters = kube::api::ListParams::default().labels(&format!("app={app}"));
    eventually(&format!("{count} ready pods {app}"), LIMIT, || async {
        let pods = pods.list(&parameters).await?.items;
        let ready = pods.iter().filter(|pod| is_ready(pod)).count();
        ensure!(
            ready == count,
            "{ready} are; {:?}",
            pods.iter().map(|pod| &pod.status).collect::<Vec<_>>()
        );
        Ok(Some(()))
    })
    .await
    .unwrap();
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|conditions| {
        conditions
            .iter()
            .any(|condition| condition.type_ == "Ready" && condition.status == "True")
    })
}

/// A started cluster with the image on it.
async fn start() -> Result<Cluster> {
    let image = server_everything::image().await?;
    let cluster = Cluster::start(options()).await?;
    cluster.load_image(&image).await?;
    Ok(cluster)
}
