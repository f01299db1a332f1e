//! Certificates of somebody else's, from a mounted folder.

use std::time::{Duration, Instant, SystemTime};

use anyhow::{Result, bail, ensure};
use certs::authority::{Authority, Leaf};
use cluster::{Cluster, eventually};
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration,
};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;

use super::{NAME, rights};
use crate::mount::{Mount, pair};
use crate::setup::{self, Operator, SOON, Space, USER};
use crate::wire;

const SWAPS: u32 = 100;
/// A swap is to be served within this long.
const SERVED: Duration = Duration::from_secs(5);
const HOUR: Duration = Duration::from_hours(1);

fn issue(by: &Authority, life: Duration) -> Result<Leaf> {
    Ok(by.issue(&["127.0.0.1".to_owned()], SystemTime::now(), life)?)
}

async fn trust(client: &Client, certificate: &str) -> Result<()> {
    let bundle = ByteString(certificate.as_bytes().to_vec());
    let patch: json_patch::Patch = serde_json::from_value(
        json!([{"op": "add", "path": "/webhooks/0/clientConfig/caBundle", "value": bundle}]),
    )?;
    let (patch, params) = (Patch::Json::<()>(patch), PatchParams::default());
    Api::<MutatingWebhookConfiguration>::all(client.clone())
        .patch(NAME, &params, &patch)
        .await?;
    Api::<ValidatingWebhookConfiguration>::all(client.clone())
        .patch(NAME, &params, &patch)
        .await?;
    Ok(())
}

/// Waits until this one is served; how long that took.
async fn until_served(operator: &Operator, leaf: &Leaf) -> Result<Duration> {
    let start = Instant::now();
    let port = operator.port;
    eventually("the new certificate is served", SERVED, || async {
        let served = tokio::task::spawn_blocking(move || wire::served(port)).await??;
        Ok((served.as_ref() == leaf.certificate).then_some(()))
    })
    .await?;
    Ok(start.elapsed())
}

async fn until_ready_is(operator: &Operator, code: u16, text: &str) -> Result<()> {
    let port = operator.port;
    eventually(&format!("/readyz says {code} {text}"), SOON, || async {
        let got =
            tokio::task::spawn_blocking(move || wire::get_blocking(port, "/readyz")).await??;
        if got.0 == code && got.1.contains(text) {
            return Ok(Some(()));
        }
        bail!("{got:?}")
    })
    .await
}

/// How often the log has this.
fn logged(operator: &Operator, text: &str) -> Result<usize> {
    let log = std::fs::read_to_string(operator.process.log())?;
    Ok(log.matches(text).count())
}

async fn until_logged(operator: &Operator, more_than: usize, text: &str) -> Result<()> {
    eventually(&format!("the log has {text:?}"), SOON, || async {
        let found = logged(operator, text)?;
        ensure!(
            found > more_than,
            "{found} times, not more than {more_than}"
        );
        Ok(Some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_folder_holds_is_served() -> Result<()> {
    let cluster = Cluster::start(setup::options()).await?;
    let port = setup::free_port()?;
    setup::install(&cluster, port)?;
    // No right to any Secret, none to write a configuration.
    let kubeconfig = rights::grant(&cluster, USER, &[], &["list", "watch"])?;
    let space = Space::within(&cluster, "files").await;
    let folder = cluster.folder().join("certificate");
    let mut mount = Mount::new(folder.clone())?;
    let path = folder.to_string_lossy().into_owned();
    let arguments = ["--certificate-folder", path.as_str()];
    let operator = setup::spawn_operator_as(&cluster, "operator", port, &kubeconfig, &arguments)?;
    until_logged(&operator, 0, "certificate/tls.crt cannot be read").await?;
    operator.process.alive()?;

    // It comes up when the files do, and is ready when it is trusted.
    let authority = Authority::new("test", SystemTime::now(), 100 * HOUR)?;
    let first = issue(&authority, HOUR)?;
    mount.put(&first)?;
    until_served(&operator, &first).await?;
    until_ready_is(&operator, 503, "the caBundle holds no certificate").await?;
    trust(&space.client, &authority.certificate).await?;
    until_ready_is(&operator, 200, "").await?;
    setup::eventually_admitted(&space).await?;

    let mut longest = Duration::ZERO;
    for _ in 0..SWAPS {
        let leaf = issue(&authority, HOUR)?;
        mount.put(&leaf)?;
        longest = longest.max(until_served(&operator, &leaf).await?);
    }
    eprintln!("{SWAPS} swaps, each served within {longest:?}");
    until_ready_is(&operator, 200, "").await?;

    // What cannot be served is named once, and the last one is served on.
    let good = issue(&authority, HOUR)?;
    mount.put(&good)?;
    until_served(&operator, &good).await?;
    let (certificate, key) = pair(&issue(&authority, HOUR)?);
    let (_, other_key) = pair(&issue(&authority, HOUR)?);
    let cases: [(&[(&str, &str)], &str); 5] = [
        (
            &[("tls.crt", "rubbish"), ("tls.key", &key)],
            "tls.crt holds no certificate",
        ),
        (
            &[("tls.crt", &certificate), ("tls.key", &other_key)],
            "cannot be served together",
        ),
        (&[("tls.crt", &certificate)], "tls.key cannot be read"),
        (
            &[
                ("tls.crt", &certificate),
                ("tls.key", &key[..key.len() / 2]),
            ],
            "tls.key holds no private key",
        ),
        // The same file was missing at the start.
        (&[], "tls.crt cannot be read"),
    ];
    for (files, problem) in cases {
        let before = logged(&operator, problem)?;
        mount.swap(files)?;
        until_logged(&operator, before, problem).await?;
        let served = tokio::task::spawn_blocking(move || wire::served(port)).await??;
        assert_eq!(served.as_ref(), good.certificate, "{problem}");
        until_ready_is(&operator, 200, "").await?;
    }
    // Not at every look. Twice at most: a look in the midst of a swap sees a file of each side.
    for (_, problem) in &cases[..4] {
        let times = logged(&operator, problem)?;
        assert!(times <= 2, "{problem}: {times} times");
    }
    setup::eventually_admitted(&space).await?;

    // Another CA's: served, as it is what is wanted; ready once the bundle says so too.
    let other = Authority::new("other", SystemTime::now(), 100 * HOUR)?;
    let leaf = issue(&other, HOUR)?;
    mount.put(&leaf)?;
    until_served(&operator, &leaf).await?;
    until_ready_is(&operator, 503, "does not verify for 127.0.0.1").await?;
    let both = format!("{}{}", other.certificate, authority.certificate);
    trust(&space.client, &both).await?;
    until_ready_is(&operator, 200, "").await?;

    // One that comes to its end.
    let brief = issue(&authority, Duration::from_secs(20))?;
    mount.put(&brief)?;
    until_served(&operator, &brief).await?;
    until_ready_is(&operator, 200, "").await?;
    until_ready_is(&operator, 503, "does not verify").await?;
    mount.put(&good)?;
    until_served(&operator, &good).await?;
    until_ready_is(&operator, 200, "").await?;

    operator.process.alive()?;
    let requests = cluster.requests_by(USER).await?;
    let about = |resource: &str| {
        let about = requests
            .iter()
            .filter(move |request| request.resource.contains(resource));
        about
            .map(|request| request.verb.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(about("secrets"), Vec::<String>::new());
    let verbs = about("webhookconfigurations");
    assert!(!verbs.is_empty());
    assert!(
        verbs.iter().all(|verb| verb == "list" || verb == "watch"),
        "{verbs:?}"
    );
    setup::stop(cluster).await
}
