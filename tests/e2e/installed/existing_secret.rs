//! A certificate that somebody else makes, in a Secret.

use std::time::{Duration, SystemTime};

use anyhow::{Result, ensure};
use certs::authority::{Authority, Leaf};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use super::release::{HOST, Installed};
use crate::mount::pair;
use crate::setup::{OWN, SOON};
use crate::wire;

const HOUR: Duration = Duration::from_hours(1);
const SECRET: &str = "ours";

fn issue(by: &Authority) -> Result<Leaf> {
    Ok(by.issue(&[HOST.to_owned()], SystemTime::now(), HOUR)?)
}

fn secret(leaf: &Leaf) -> Value {
    let (certificate, key) = pair(leaf);
    json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": {"name": SECRET},
        "data": {
            "tls.crt": ByteString(certificate.into_bytes()),
            "tls.key": ByteString(key.into_bytes()),
        },
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_secret_holds_is_served() -> Result<()> {
    let installed = Installed::start().await?;
    let authority = Authority::new("test", SystemTime::now(), 100 * HOUR)?;
    let (done, said) = installed.kubectl(&["create", "namespace", OWN], "").await?;
    ensure!(done, "{said}");
    let secrets = Api::<Secret>::namespaced(installed.client.clone(), OWN);
    let put = async |leaf: &Leaf| {
        let params = PatchParams::apply("test");
        secrets
            .patch(SECRET, &params, &Patch::Apply(secret(leaf)))
            .await
    };
    put(&issue(&authority)?).await?;
    let values = json!({"certificates": {
        "mode": "existing-secret",
        "existingSecret": {"name": SECRET, "caBundle": authority.certificate},
    }});
    installed.install(&values).await?;
    installed.refuses_and_accepts().await?;

    let replicas = installed.replicas();
    let load = installed.watched_load(2).await?;
    let other = issue(&authority)?;
    put(&other).await?;
    load.until_served(2, SOON).await?;
    for port in installed.webhook_ports()? {
        let served = tokio::task::spawn_blocking(move || wire::served(port)).await??;
        ensure!(served.as_ref() == other.certificate, "another one");
    }
    load.end("existing-secret").await?;
    installed.are_the_same(&replicas)?;
    installed.writes_no_certificate().await?;
    installed.stop().await
}
