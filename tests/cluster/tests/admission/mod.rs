//! An admission server behind a Service that refuses every `ConfigMap` with a label.

use std::net::SocketAddr;
use std::sync::Arc;

use cluster::Cluster;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Client;
use kube::api::{Api, PostParams};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use webhook::{Handler, Limits, Request, Server, TlsVersions, Verdict, tls_config};

/// The URL path of the webhook.
const PATH: &str = "/validate";
/// What is asked about: objects with this label.
const LABEL: &str = "refused";
/// The port of the Service's pods.
pub const PORT: u16 = 9443;

struct Refuse(&'static str);

impl Handler for Refuse {
    fn path(&self) -> &str {
        PATH
    }

    fn review(&self, _: Request) -> BoxFuture<'_, Verdict> {
        let verdict = Verdict::Deny {
            code: 403,
            reason: "Forbidden".to_owned(),
            message: format!("refused by {}", self.0),
        };
        Box::pin(async { verdict })
    }
}

/// A running server; ends when dropped, with its connections.
pub struct Replica {
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Starts a server on loopback that says `name` when it refuses.
pub async fn replica(name: &'static str, certificate: &[u8], key: &[u8]) -> Replica {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(certificate)
        .map(Result::unwrap)
        .collect();
    let key = PrivateKeyDer::from_pem_slice(key).unwrap();
    let key = CertifiedKey::from_der(chain, key, &ring::default_provider()).unwrap();
    let resolver = Arc::new(SingleCertAndKey::from(key));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let tls = tls_config(resolver, TlsVersions::Tls13);
    let server = Server::new(listener, tls, Limits::default()).handler(Refuse(name));
    let task = tokio::spawn(async { server.run(std::future::pending()).await.unwrap() });
    Replica { address, task }
}

/// A configuration that sends what is asked about to the Service `web` of namespace `default`.
pub fn configuration(annotations: &Value, ca: Option<&str>) -> Value {
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": "web", "annotations": annotations},
        "webhooks": [{
            "name": "web.example.com",
            "clientConfig": {
                "service": {"namespace": "default", "name": "web", "path": PATH},
                "caBundle": ca.map(|ca| k8s_openapi::ByteString(ca.as_bytes().to_vec())),
            },
            "rules": [{
                "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"],
                "operations": ["CREATE"],
            }],
            "objectSelector": {"matchExpressions": [{"key": LABEL, "operator": "Exists"}]},
            "failurePolicy": "Fail",
            "sideEffects": "None",
            "admissionReviewVersions": ["v1"],
            "timeoutSeconds": 10,
        }],
    })
}

/// What the API server says to somebody who creates a `ConfigMap` of the kind that is refused.
/// Nothing is stored.
pub async fn refusal(client: &Client) -> anyhow::Result<String> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    let map = json!({"metadata": {"name": "map", "labels": {LABEL: ""}}});
    let dry = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    match maps.create(&dry, &serde_json::from_value(map)?).await {
        Err(kube::Error::Api(status)) => Ok(status.message.clone()),
        Err(error) => Err(error.into()),
        Ok(_) => anyhow::bail!("it was let through"),
    }
}

/// Applies objects with kubectl.
pub fn apply(cluster: &Cluster, objects: &[Value]) {
    let file = tempfile::NamedTempFile::new().unwrap();
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
    std::fs::write(file.path(), list.to_string()).unwrap();
    let output = cluster
        .kubectl_command()
        .args(["apply", "--server-side", "--filename"])
        .arg(file.path())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
