//! Real cert-manager: it issues, renews and injects.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod admission;

use std::net::SocketAddr;
use std::time::Duration;

use admission::{PORT, apply, configuration, refusal, replica};
use anyhow::{Context, ensure};
use cluster::{Cluster, Options, eventually};
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Secret;
use kube::Client;
use kube::api::Api;
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_mins(2);
/// An address that is nowhere.
const ENDPOINT: [u8; 4] = [10, 244, 255, 1];

fn certificate(name: &str, issuer: &str, more: &Value) -> Value {
    let mut certificate = json!({
        "apiVersion": "cert-manager.io/v1", "kind": "Certificate",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"secretName": name, "issuerRef": {"name": issuer, "kind": "Issuer"}},
    });
    for (field, value) in more.as_object().unwrap() {
        certificate["spec"][field] = value.clone();
    }
    certificate
}

fn issuer(name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "cert-manager.io/v1", "kind": "Issuer",
        "metadata": {"name": name, "namespace": "default"},
        "spec": spec,
    })
}

/// A self-signed authority, an issuer of it, and a leaf that it signs and that is renewed ten
/// seconds after each issue. cert-manager's own rules allow no shorter life than an hour.
fn certificates() -> [Value; 4] {
    [
        issuer("root", json!({"selfSigned": {}})),
        certificate("ca", "root", &json!({"isCA": true, "commonName": "ca"})),
        issuer("ca", json!({"ca": {"secretName": "ca"}})),
        certificate(
            "leaf",
            "ca",
            &json!({"dnsNames": ["web.default.svc"], "duration": "1h", "renewBefore": "59m50s"}),
        ),
    ]
}

/// A Service that leads to an address that the test chose.
fn service() -> [Value; 2] {
    [
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "web", "namespace": "default"},
            "spec": {"ports": [{"port": 443, "targetPort": PORT}]},
        }),
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "name": "web", "namespace": "default",
                "labels": {"kubernetes.io/service-name": "web"},
            },
            "addressType": "IPv4",
            "ports": [{"name": "", "port": PORT}],
            "endpoints": [{"addresses": [SocketAddr::from((ENDPOINT, PORT)).ip()]}],
        }),
    ]
}

/// A Secret that is there and differs from the one before, as certificate, key and authority.
async fn issued(client: &Client, name: &str, before: Option<&[u8]>) -> [Vec<u8>; 3] {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), "default");
    eventually(&format!("a new certificate {name}"), LIMIT, || async {
        let data = secrets.get(name).await?.data.context("no data")?;
        let field = |field: &str| -> anyhow::Result<Vec<u8>> {
            let ByteString(bytes) = data.get(field).with_context(|| format!("no {field}"))?;
            Ok(bytes.clone())
        };
        let found = [field("tls.crt")?, field("tls.key")?, field("ca.crt")?];
        Ok((before != Some(&found[0][..])).then_some(found))
    })
    .await
    .unwrap()
}

async fn refused_by(client: &Client, name: &str) {
    let wanted = format!("denied the request: refused by {name}");
    eventually(&wanted, LIMIT, || async {
        let message = refusal(client).await?;
        ensure!(message.contains(&wanted), "{message}");
        Ok(Some(()))
    })
    .await
    .unwrap();
}

/// The API server is the judge: it talks to no webhook whose certificate the bundle does not
/// vouch for.
#[tokio::test]
async fn certificates_are_issued_renewed_and_trusted() {
    let cluster = Cluster::start(Options::default()).await.unwrap();
    let client = cluster.client();
    let process = cluster.start_cert_manager().await.unwrap();
    let before = json!({"cert-manager.io/inject-ca-from": "default/leaf"});
    apply(&cluster, &service());
    apply(&cluster, &[configuration(&before, None)]);
    apply(&cluster, &certificates());

    let [certificate, key, ca] = issued(&client, "leaf", None).await;
    let configurations: Api<ValidatingWebhookConfiguration> = Api::all(client.clone());
    eventually("the bundle to be injected", LIMIT, || async {
        let configuration = configurations.get("web").await?;
        let webhooks = configuration.webhooks.context("no webhooks")?;
        let bundle = webhooks[0].client_config.ca_bundle.clone();
        Ok((bundle == Some(ByteString(ca.clone()))).then_some(()))
    })
    .await
    .unwrap();

    let address = SocketAddr::from((ENDPOINT, PORT));
    let first = replica("the first", &certificate, &key).await;
    cluster.lead(address, first.address).unwrap();
    refused_by(&client, "the first").await;

    let [renewed, key, same] = issued(&client, "leaf", Some(&certificate)).await;
    assert_eq!(same, ca);
    drop(first);
    let second = replica("the second", &renewed, &key).await;
    cluster.lead(address, second.address).unwrap();
    refused_by(&client, "the second").await;

    process.alive().unwrap();
    // It can be started again, as after a crash.
    process.signal("KILL").unwrap();
    let again = cluster.start_cert_manager().await.unwrap();
    let [newest, ..] = issued(&client, "leaf", None).await;
    issued(&client, "leaf", Some(&newest)).await;
    again.alive().unwrap();
    cluster.stop().await.unwrap();
}
