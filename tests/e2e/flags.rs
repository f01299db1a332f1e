//! Flags that say how the cluster is, and which doors the operator opens.

use anyhow::{Context, Result, ensure};
use cluster::eventually;
use k8s_openapi::api::apps::v1::Deployment;
use mcp_operator::api::labels;
use serde_json::json;

use crate::rbac;
use crate::setup::{self, SOON, Space, kubectl};
use crate::wire::{get_as, get_plain};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_clusters_domain_and_users_are_those_that_it_is_told() -> Result<()> {
    let arguments = ["--cluster-domain", "k8s.example.org", "--openshift"];
    let (cluster, _operator) = setup::start_with("operator", &arguments).await?;
    let space = Space::within(&cluster, "flags").await;
    space
        .create(
            "a",
            json!({"image": "example.com/a:1", "health": {"type": "TCP"}}),
        )
        .await?;
    let status = space.until_ready("a").await.status.context("no status")?;
    let endpoint = format!("http://a.{}.svc.k8s.example.org:8080", space.namespace);
    assert_eq!(status.endpoint.as_deref(), Some(&*endpoint));
    let url = status.address.map(|address| address.url);
    assert_eq!(url, Some(format!("{endpoint}/mcp")));

    let deployment = space.api::<Deployment>().get("a").await?;
    let pod = serde_json::to_value(deployment)?["spec"]["template"]["spec"].clone();
    let context = &pod["containers"][0]["securityContext"];
    assert_eq!(
        context["runAsUser"],
        json!(null),
        "the cluster chooses it: {pod}"
    );
    assert_eq!(context["runAsNonRoot"], json!(true), "{pod}");
    // A user of somebody's own choice stays.
    let chosen = json!({"spec": {"securityContext": {"runAsUser": 1234}}});
    space.patch("a", chosen).await?;
    eventually("the user that was chosen", SOON, || async {
        let deployment = space.api::<Deployment>().get("a").await?;
        let text = serde_json::to_string(&deployment)?;
        ensure!(text.contains("\"runAsUser\":1234"), "{text}");
        Ok(Some(()))
    })
    .await?;
    setup::stop(cluster).await
}

/// As Prometheus asks: with the token of an account.
fn token(cluster: &cluster::Cluster, account: &str) -> Result<String> {
    let made = kubectl(cluster, &["create", "serviceaccount", account], "")?;
    ensure!(made.status.success(), "{made:?}");
    let token = kubectl(cluster, &["create", "token", account], "")?;
    ensure!(token.status.success(), "{token:?}");
    Ok(String::from_utf8(token.stdout)?.trim().to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_over_tls_are_shown_to_who_may_read_them() -> Result<()> {
    let cluster = cluster::Cluster::start(setup::options()).await?;
    setup::grant(&cluster, &rbac::rules(&["metrics.secure=true"]).await?)?;
    let port = setup::free_port()?;
    let address = format!("127.0.0.1:{port}");
    let operator = setup::spawn_operator(&cluster, "operator", &["--metrics-address", &address])?;
    setup::install(&cluster, operator.port)?;
    setup::wait_ready(&operator)?;

    let (code, text) = get_plain(operator.http, "/metrics")?;
    assert_eq!(code, 404, "not plainly any more: {text}");
    assert_eq!(get_plain(operator.http, "/readyz")?.0, 200);
    let prometheus = token(&cluster, "prometheus")?;
    let bound = [
        "create",
        "clusterrolebinding",
        "prometheus",
        "--clusterrole=mcp-operator-metrics-reader",
        "--serviceaccount=default:prometheus",
    ];
    let bound = kubectl(&cluster, &bound, "")?;
    ensure!(bound.status.success(), "{bound:?}");
    let other = token(&cluster, "other")?;
    for (who, expected, says) in [
        (None, 401, "Authorization: Bearer"),
        (Some("rubbish"), 401, "does not know this token"),
        (
            Some(&*other),
            403,
            "\"system:serviceaccount:default:other\" may not get /metrics",
        ),
    ] {
        let (code, text) = get_as(port, "/metrics", who)?;
        assert!(
            code == expected && text.contains(says),
            "{who:?}: {code} {text}"
        );
    }
    // The binding takes a moment to be seen, and an answer is remembered for a minute.
    eventually("the metrics are shown", SOON, || async {
        let (code, text) = get_as(port, "/metrics", Some(&prometheus))?;
        ensure!(code == 200, "{code} {text}");
        ensure!(text.contains("mcp_operator_build_info"), "{text}");
        Ok(Some(()))
    })
    .await?;
    let (code, _) = get_as(port, "/healthz", Some(&prometheus))?;
    assert_eq!(code, 404, "there is nothing else");
    setup::stop(cluster).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_webhooks_the_status_says_what_is_wrong() -> Result<()> {
    let cluster = cluster::Cluster::start(setup::options()).await?;
    setup::grant(&cluster, &rbac::rules(&["webhook.enabled=false"]).await?)?;
    let kubeconfig = cluster.kubeconfig_for(setup::USER, &[])?;
    let http = setup::free_port()?;
    let mut command = setup::binary();
    command
        .args([
            "run",
            "--no-webhooks",
            "--namespace",
            setup::OWN,
            "--kubeconfig",
        ])
        .arg(&kubeconfig)
        .args(["--http-address", &format!("127.0.0.1:{http}")]);
    let operator = cluster.start_process("operator", command)?;
    eventually("it is ready", SOON, || async {
        operator.alive()?;
        let (code, text) = get_plain(http, "/readyz")?;
        ensure!(code == 200, "{code} {text}");
        Ok(Some(()))
    })
    .await?;

    let space = Space::within(&cluster, "no-webhooks").await;
    let plain = json!({"image": "example.com/a:1", "health": {"type": "TCP"}});
    space.create("plain", plain).await?;
    let ready = space.until_ready("plain").await;
    let finalizers = ready.metadata.finalizers.unwrap_or_default();
    assert_eq!(finalizers, [labels::FINALIZER], "the controller adds it");
    // Only a webhook could have refused it.
    let faulty = json!({"image": "example.com/a:1", "config": {"SESSION_TIMEOUT": "banana"}});
    space.create("faulty", faulty).await?;
    space
        .until_reason("faulty", "ConfigurationValid", "ConfigurationInvalid")
        .await;
    // The schema holds by itself.
    let stdio = json!({"image": "example.com/a:1", "transport": "stdio", "replicas": 3});
    let refused = space.create("stdio", stdio).await.unwrap_err().to_string();
    assert!(
        refused.contains("does not support multiple replicas"),
        "{refused}"
    );
    setup::stop(cluster).await
}
