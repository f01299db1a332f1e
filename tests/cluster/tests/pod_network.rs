//! A webhook's Service whose pods are processes of this machine.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod admission;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use admission::{PORT, apply, configuration, refusal, replica};
use anyhow::{Context, ensure};
use cluster::{Cluster, Options, eventually, fake_kubelet};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_mins(2);

fn service() -> [Value; 2] {
    [
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "web", "namespace": "default"},
            "spec": {
                "replicas": 2,
                "selector": {"matchLabels": {"app": "web"}},
                "template": {
                    "metadata": {
                        "labels": {"app": "web"},
                        "annotations": {fake_kubelet::ANNOTATION: "not-ready"},
                    },
                    "spec": {"containers": [{
                        "name": "main", "image": "example.com/web:1",
                        "ports": [{"name": "webhook", "containerPort": PORT}],
                    }]},
                },
            },
        }),
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "web", "namespace": "default"},
            "spec": {"selector": {"app": "web"}, "ports": [{"port": 443, "targetPort": "webhook"}]},
        }),
    ]
}

/// A certificate of the Service that is its own authority, and its key.
fn certificate() -> (String, String) {
    let certified = rcgen::generate_simple_self_signed(["web.default.svc".to_owned()]).unwrap();
    (certified.cert.pem(), certified.signing_key.serialize_pem())
}

/// The addresses of two pods, with their names.
async fn pods(client: &Client) -> Vec<(String, SocketAddr)> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), "default");
    eventually("two pods with addresses", LIMIT, || async {
        let list = pods.list(&ListParams::default().labels("app=web")).await?;
        let address = |pod: &Pod| -> Option<(String, SocketAddr)> {
            let ip: IpAddr = pod.status.as_ref()?.pod_ip.as_ref()?.parse().ok()?;
            Some((pod.name_any(), SocketAddr::new(ip, PORT)))
        };
        let known: Vec<_> = list.iter().filter_map(address).collect();
        Ok((known.len() == 2).then_some(known))
    })
    .await
    .unwrap()
}

/// Says whether a pod is ready, and waits until the API server's Services know it.
async fn make_ready(client: &Client, (name, address): &(String, SocketAddr), ready: bool) {
    let pods: Api<Pod> = Api::namespaced(client.clone(), "default");
    let state = if ready { "none" } else { "not-ready" };
    let patch = json!({"metadata": {"annotations": {fake_kubelet::ANNOTATION: state}}});
    pods.patch(name, &PatchParams::default(), &Patch::Merge(patch))
        .await
        .unwrap();
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), "default");
    let labels = ListParams::default().labels("kubernetes.io/service-name=web");
    eventually("the pod's endpoint to follow", LIMIT, || async {
        let list = slices.list(&labels).await?;
        let mut endpoints = list
            .iter()
            .flat_map(|slice| slice.endpoints.iter().flatten());
        let ip = address.ip().to_string();
        let endpoint = endpoints
            .find(|endpoint| endpoint.addresses.contains(&ip))
            .context("there is none")?;
        let conditions = endpoint.conditions.as_ref().context("no conditions")?;
        ensure!(conditions.ready == Some(ready), "{conditions:?}");
        Ok(Some(()))
    })
    .await
    .unwrap();
}

async fn refused_by(client: &Client, what: &str) {
    eventually(what, LIMIT, || async {
        let message = refusal(client).await?;
        ensure!(message.contains(what), "{message}");
        Ok(Some(()))
    })
    .await
    .unwrap();
}

/// Each replica is reached at its own pod's address: the API server follows the endpoints that
/// the real controller makes of the pods.
#[tokio::test]
async fn a_service_leads_to_the_process_of_each_ready_pod() {
    let cluster = Cluster::start(Options::default()).await.unwrap();
    let client = cluster.client();
    let (certificate, key) = certificate();
    apply(&cluster, &service());
    apply(&cluster, &[configuration(&json!({}), Some(&certificate))]);
    refused_by(&client, "no endpoints available for service \"web\"").await;

    let pods = pods(&client).await;
    make_ready(&client, &pods[0], true).await;
    refused_by(
        &client,
        &format!("no program of this machine is at {}", pods[0].1),
    )
    .await;

    let one = replica("one", certificate.as_bytes(), key.as_bytes()).await;
    let two = replica("two", certificate.as_bytes(), key.as_bytes()).await;
    cluster.lead(pods[0].1, one.address).unwrap();
    cluster.lead(pods[1].1, two.address).unwrap();
    refused_by(&client, "refused by one").await;

    make_ready(&client, &pods[1], true).await;
    make_ready(&client, &pods[0], false).await;
    drop(one);
    refused_by(&client, "refused by two").await;

    // The same way, from outside.
    let request =
        http::Request::get("/api/v1/namespaces/default/services/https:web:443/proxy/readyz")
            .body(Vec::new())
            .unwrap();
    assert_eq!(client.request_text(request).await.unwrap(), "ok");
    cluster.stop().await.unwrap();
}

#[tokio::test]
async fn without_fake_pods_nothing_is_led() {
    let options = Options {
        fake_kubelet: false,
        ..Options::default()
    };
    let cluster = Cluster::start(options).await.unwrap();
    let address = SocketAddr::from(([10, 244, 0, 1], PORT));
    let program = SocketAddr::from(([127, 0, 0, 1], PORT));
    let message = cluster.lead(address, program).unwrap_err().to_string();
    assert!(message.contains("fake kubelet"), "{message}");
    cluster.stop().await.unwrap();
}

/// Its rights are those of its roles, and no more.
#[tokio::test]
async fn a_service_account_has_its_own_rights() {
    let cluster = Cluster::start(Options::default()).await.unwrap();
    let account = json!({
        "apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": {"name": "reader", "namespace": "default"},
    });
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
        "metadata": {"name": "reader", "namespace": "default"},
        "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}],
    });
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": {"name": "reader", "namespace": "default"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"},
        "subjects": [{"kind": "ServiceAccount", "name": "reader", "namespace": "default"}],
    });
    apply(&cluster, &[account, role, binding]);
    let missing = cluster
        .kubeconfig_for_service_account("default", "nobody")
        .await;
    let message = format!("{:#}", missing.unwrap_err());
    assert!(
        message.contains("system:serviceaccount:default:nobody"),
        "{message}"
    );
    let kubeconfig = cluster
        .kubeconfig_for_service_account("default", "reader")
        .await
        .unwrap();
    let kubeconfig = Kubeconfig::read_from(kubeconfig).unwrap();
    let options = KubeConfigOptions::default();
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options)
        .await
        .unwrap();
    let client = Client::try_from(config).unwrap();
    // A role takes a moment to be known.
    let mine: Api<Pod> = Api::namespaced(client.clone(), "default");
    eventually("the account may list", LIMIT, || async {
        mine.list(&ListParams::default()).await?;
        Ok(Some(()))
    })
    .await
    .unwrap();
    let others: Api<Pod> = Api::namespaced(client, "kube-system");
    match others.list(&ListParams::default()).await {
        Err(kube::Error::Api(status)) => assert_eq!(status.code, 403),
        other => panic!("{other:?}"),
    }
    let user = "system:serviceaccount:default:reader";
    eventually("its requests in the audit log", LIMIT, || async {
        let requests = cluster.requests_by(user).await?;
        Ok(requests
            .iter()
            .any(|request| request.code == 403)
            .then_some(()))
    })
    .await
    .unwrap();
    cluster.stop().await.unwrap();
}
