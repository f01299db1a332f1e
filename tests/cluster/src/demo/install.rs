//! The cluster, and the operator in it as a user installs it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration,
};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Api;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, Stream};
use sha2::{Digest, Sha256};
use tokio::process::Command;

use super::LIMIT;
use super::kubectl;
use super::screen::note;
use super::stage::{NAMESPACE, Stage};
use crate::{Cluster, Options, eventually};

/// Name of both webhook configurations.
const CONFIGURATION: &str = "mcp-operator";
/// The Secret that holds the operator's CA.
const CA_SECRET: &str = "mcp-operator-webhook-ca";
/// How long the webhook server may take to say a word.
const TALK_LIMIT: Duration = Duration::from_secs(10);

/// Starts a cluster that knows the operator's kind.
///
/// The kind is there before the controllers start, as the garbage collector looks for new kinds
/// only every 30 s, and the demo would have to wait for it when it deletes.
pub(super) async fn cluster(program: &Path) -> Result<Cluster> {
    let output = Command::new(program)
        .arg("crd")
        .kill_on_drop(true)
        .output()
        .await
        .with_context(|| format!("running {} crd", program.display()))?;
    ensure!(
        output.status.success(),
        "`mcp-operator crd` failed: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    let text = String::from_utf8(output.stdout).context("`mcp-operator crd` printed no text")?;
    let crd: serde_json::Value =
        serde_saphyr::from_str(&text).context("`mcp-operator crd` printed no YAML")?;
    let crd: CustomResourceDefinition =
        serde_json::from_value(crd).context("`mcp-operator crd` printed no kind")?;
    let cluster = Cluster::start(Options {
        crds: vec![crd],
        ..Options::default()
    })
    .await?;
    kubectl::shown(&cluster, &["version"]).await?;
    kubectl::shown(&cluster, &["get", "nodes"]).await?;
    Ok(cluster)
}

/// Installs the operator, and waits until it is in charge.
pub(super) async fn operator(stage: &Stage) -> Result<()> {
    let cluster = &stage.cluster;
    let crd = stage.operator(&["crd"]);
    kubectl::piped(cluster, crd, &["apply", "--server-side", "-f", "-"]).await?;
    kubectl::shown(cluster, &["create", "namespace", NAMESPACE]).await?;
    let url = format!("https://{}", stage.webhooks);
    let webhooks = stage.operator(&["webhooks", "--url", &url]);
    kubectl::piped(cluster, webhooks, &["apply", "-f", "-"]).await?;
    stage.run_operator()?;

    let bundle = eventually("the operator's certificate in the caBundles", LIMIT, || {
        ca_bundle(cluster)
    })
    .await?;
    let certificate = CertificateDer::from_pem_slice(&bundle)
        .context("the caBundle of the webhook configurations holds no certificate")?;
    note(format!(
        "caBundle of both webhook configurations: the CA that the operator made (Secret \
         {NAMESPACE}/{CA_SECRET}),\nSHA-256 {}",
        fingerprint(&certificate)
    ));
    let address = stage.webhooks;
    let answer = eventually("the webhooks to be ready over TLS", LIMIT, || {
        let certificate = certificate.clone();
        async move {
            let asked = tokio::task::spawn_blocking(move || ask(address, certificate));
            let answer = asked.await.context("asking the webhook server")??;
            ensure!(answer.contains(" 200 "), "it answers: {answer}");
            Ok(Some(answer))
        }
    })
    .await?;
    note(format!(
        "GET {url}/readyz, trusting nothing but that CA: {answer}"
    ));

    // The API server takes a moment to notice a changed webhook configuration.
    let sample = "config/samples/valid/basic.yaml";
    let dry_run = ["apply", "--dry-run=server", "-f", sample];
    eventually(
        "an answer of the webhooks to the API server",
        LIMIT,
        || async {
            let tried = kubectl::silent(cluster, &dry_run).await?;
            ensure!(tried.success, "{}", tried.all.trim());
            Ok(Some(()))
        },
    )
    .await?;
    kubectl::shown(cluster, &dry_run).await?;
    Ok(())
}

/// The caBundle, once both configurations have the certificate of the operator's Secret.
async fn ca_bundle(cluster: &Cluster) -> Result<Option<Vec<u8>>> {
    let client = cluster.client();
    let mutating = Api::<MutatingWebhookConfiguration>::all(client.clone())
        .get(CONFIGURATION)
        .await?;
    let validating = Api::<ValidatingWebhookConfiguration>::all(client.clone())
        .get(CONFIGURATION)
        .await?;
    let secret = Api::<Secret>::namespaced(client, NAMESPACE)
        .get(CA_SECRET)
        .await?;
    let Some(ByteString(ca)) = secret.data.and_then(|mut data| data.remove("ca.crt")) else {
        bail!("the Secret {NAMESPACE}/{CA_SECRET} has no ca.crt");
    };
    let mutating = mutating.webhooks.into_iter().flatten();
    let validating = validating.webhooks.into_iter().flatten();
    let bundles = mutating
        .map(|webhook| webhook.client_config.ca_bundle)
        .chain(validating.map(|webhook| webhook.client_config.ca_bundle));
    for bundle in bundles {
        let Some(ByteString(bundle)) = bundle else {
            bail!("a webhook has no caBundle");
        };
        ensure!(
            bundle == ca,
            "a caBundle is another one than the Secret {NAMESPACE}/{CA_SECRET} holds"
        );
    }
    Ok(Some(ca))
}

/// Asks the webhook server whether it is ready; gives the first line of its answer.
fn ask(address: SocketAddr, ca: CertificateDer<'static>) -> Result<String> {
    let mut roots = RootCertStore::empty();
    roots.add(ca).context("trusting the operator's CA")?;
    let config = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::IpAddress(address.ip().into());
    let mut connection =
        ClientConnection::new(Arc::new(config), name).context("preparing a TLS connection")?;
    let mut socket = TcpStream::connect_timeout(&address, TALK_LIMIT)
        .with_context(|| format!("connecting to {address}"))?;
    socket.set_read_timeout(Some(TALK_LIMIT))?;
    socket.set_write_timeout(Some(TALK_LIMIT))?;
    let mut stream = Stream::new(&mut connection, &mut socket);
    let talk = |stream: &mut Stream<'_, _, _>| -> std::io::Result<String> {
        write!(
            stream,
            "GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
        )?;
        let mut answer = [0; 1024];
        let length = stream.read(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
    };
    let answer = talk(&mut stream).with_context(|| format!("asking https://{address}/readyz"))?;
    Ok(answer.lines().next().unwrap_or_default().to_owned())
}

/// As openssl prints it.
fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    let bytes = Sha256::digest(certificate);
    let bytes: Vec<_> = bytes.iter().map(|byte| format!("{byte:02X}")).collect();
    bytes.join(":")
}
