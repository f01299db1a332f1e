//! The chart with the real cert-manager: what it asks for is issued, trusted, and renewed without a gap.

use anyhow::{Context, Result, ensure};
use cluster::eventually;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams};
use kube::core::GroupVersionKind;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use serde_json::json;

use super::release::{Life, NAMESPACE};
use crate::setup::SOON;
use crate::wire;

const HOST: &str = "mcp-operator-webhook.mcp-operator-system.svc";

/// A file of a Secret.
async fn file(life: &Life, secret: &str, key: &str) -> Result<String> {
    let secrets = Api::<Secret>::namespaced(life.client.clone(), NAMESPACE);
    let data = secrets.get(secret).await?.data.unwrap_or_default();
    let bytes = data
        .get(key)
        .with_context(|| format!("Secret {secret} has no {key}"))?;
    Ok(String::from_utf8(bytes.0.clone())?)
}

fn verify(bundle: &str, certificate: &str) -> Result<()> {
    let chain: Vec<_> =
        CertificateDer::pem_slice_iter(certificate.as_bytes()).collect::<Result<_, _>>()?;
    wire::verify(bundle.as_bytes(), &chain, HOST, UnixTime::now())
}

/// What `cmctl renew` does.
async fn renew(life: &Life, certificate: &str) -> Result<()> {
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk(
        "cert-manager.io",
        "v1",
        "Certificate",
    ));
    let certificates = Api::<DynamicObject>::namespaced_with(life.client.clone(), NAMESPACE, &kind);
    let mut conditions = certificates.get_status(certificate).await?.data["status"]["conditions"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    conditions.push(json!({
        "type": "Issuing", "status": "True", "reason": "ManuallyTriggered", "message": "renewed by a test",
        "lastTransitionTime": Timestamp::now().to_string(),
    }));
    let patch = Patch::Merge(json!({"status": {"conditions": conditions}}));
    certificates
        .patch_status(certificate, &PatchParams::default(), &patch)
        .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cert_manager_issues_trusts_and_renews_what_the_chart_asks_for() -> Result<()> {
    let life = Life::start().await?;
    let cert_manager = life.cluster.start_cert_manager().await?;
    let mode = [
        "--create-namespace",
        "--set",
        "certificates.mode=cert-manager",
    ];
    life.put("install", &life.chart, &mode).await?;

    let trusted = eventually(
        "the CA is injected into both configurations",
        SOON,
        || async {
            let [mutating, validating] = life.bundles().await?;
            ensure!(!mutating.is_empty() && mutating == validating, "not yet");
            Ok(Some(mutating))
        },
    )
    .await?;
    let served = file(&life, "mcp-operator-webhook-tls", "tls.crt").await?;
    verify(&trusted, &served)?;

    // Helm sets no caBundle, so it takes none away.
    life.put("upgrade", &life.chart, &["--reuse-values"])
        .await?;
    assert_eq!(life.bundles().await?, [&*trusted, &*trusted], "upgraded");

    // The CA is renewed: what is still served is trusted by what is new, and what will be served by what is old.
    let ca = file(&life, "mcp-operator-cert-manager-ca", "tls.crt").await?;
    renew(&life, "mcp-operator-webhook-ca").await?;
    let new_ca = eventually("a new CA", SOON, || async {
        let new = file(&life, "mcp-operator-cert-manager-ca", "tls.crt").await?;
        Ok((new != ca).then_some(new))
    })
    .await?;
    verify(&new_ca, &served)?;
    renew(&life, "mcp-operator-webhook").await?;
    let new_served = eventually("a new certificate", SOON, || async {
        let new = file(&life, "mcp-operator-webhook-tls", "tls.crt").await?;
        Ok((new != served).then_some(new))
    })
    .await?;
    verify(&trusted, &new_served)?;
    let injected = eventually("the new CA is injected", SOON, || async {
        let [mutating, validating] = life.bundles().await?;
        ensure!(mutating != trusted && mutating == validating, "not yet");
        Ok(Some(mutating))
    })
    .await?;
    verify(&injected, &served)?;
    verify(&injected, &new_served)?;

    cert_manager.alive()?;
    life.uninstall().await?;
    life.cluster.stop().await
}
