//! §8 of the contract, self-signed: one CA for all replicas, a caBundle that is kept right.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use cluster::{Cluster, eventually};
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration,
};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use crate::setup::{self, OWN, SOON, Space, refusal};

const SECRET: &str = "mcp-operator-webhook-ca";
const NAME: &str = "mcp-operator";
/// Within this long a tampered certificate is right again.
const MENDED: Duration = Duration::from_secs(10);

async fn bundles(client: &Client) -> Result<Vec<Vec<u8>>> {
    let mutating = Api::<MutatingWebhookConfiguration>::all(client.clone())
        .get(NAME)
        .await?;
    let validating = Api::<ValidatingWebhookConfiguration>::all(client.clone())
        .get(NAME)
        .await?;
    let mutating = mutating
        .webhooks
        .unwrap_or_default()
        .into_iter()
        .map(|webhook| webhook.client_config.ca_bundle);
    let validating = validating
        .webhooks
        .unwrap_or_default()
        .into_iter()
        .map(|webhook| webhook.client_config.ca_bundle);
    Ok(mutating
        .chain(validating)
        .map(|bundle| bundle.unwrap_or_default().0)
        .collect())
}

async fn ca(client: &Client) -> Result<Vec<u8>> {
    let secret = Api::<Secret>::namespaced(client.clone(), OWN)
        .get(SECRET)
        .await?;
    Ok(secret
        .data
        .unwrap_or_default()
        .remove("ca.crt")
        .unwrap_or_default()
        .0)
}

/// Waits until both caBundles are the stored CA, and requests are admitted by it.
async fn until_right(space: &Space, what: &str, is: impl Fn(&[u8]) -> bool) -> Result<()> {
    eventually(what, MENDED, || async {
        let ca = ca(&space.client).await?;
        ensure!(is(&ca), "the Secret holds another CA");
        let bundles = bundles(&space.client).await?;
        ensure!(
            bundles.iter().all(|bundle| *bundle == ca),
            "a caBundle is not the CA"
        );
        Ok(Some(()))
    })
    .await?;
    // Through the webhook, over TLS: it is the only one that says this.
    eventually("a request is admitted", SOON, || async {
        match space
            .create(
                "probe",
                json!({"image": "x:1", "transport": "stdio", "replicas": 2}),
            )
            .await
        {
            Err(kube::Error::Api(status)) if status.code == 422 => Ok(Some(())),
            other => bail!("{other:?}"),
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_tampered_with_is_right_again_soon() -> Result<()> {
    let cluster = Cluster::start(setup::options()).await?;
    let operator = setup::spawn_operator(&cluster, "operator", &[])?;
    setup::install(&cluster, operator.port)?;
    setup::wait_ready(&operator)?;
    let space = Space::within(&cluster, "tampered").await;
    let client = space.client.clone();
    until_right(&space, "the first CA is trusted", |_| true).await?;
    let first = ca(&client).await?;

    let merge = PatchParams::default();
    let empty =
        json!([{"op": "replace", "path": "/webhooks/0/clientConfig/caBundle", "value": ""}]);
    let empty: json_patch::Patch = serde_json::from_value(empty)?;
    Api::<ValidatingWebhookConfiguration>::all(client.clone())
        .patch(NAME, &merge, &Patch::Json::<()>(empty))
        .await?;
    until_right(&space, "an emptied caBundle is set again", |ca| ca == first).await?;

    let secrets = Api::<Secret>::namespaced(client.clone(), OWN);
    secrets.delete(SECRET, &DeleteParams::default()).await?;
    until_right(&space, "a deleted CA is replaced", |ca| ca != first).await?;
    let second = ca(&client).await?;

    let rubbish = json!({"data": {"ca.crt": ByteString(b"rubbish".to_vec())}});
    secrets
        .patch(SECRET, &merge, &Patch::Merge(rubbish))
        .await?;
    until_right(&space, "a corrupt CA is replaced", |ca| {
        ca != second && ca != b"rubbish"
    })
    .await?;

    // Registered anew, as after a mistaken delete.
    Api::<MutatingWebhookConfiguration>::all(client.clone())
        .delete(NAME, &DeleteParams::default())
        .await?;
    setup::install(&cluster, operator.port)?;
    until_right(&space, "a new registration is trusted", |_| true).await?;
    operator.process.alive()?;
    cluster.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_that_start_together_share_one_ca() -> Result<()> {
    let cluster = Cluster::start(setup::options()).await?;
    let first = setup::spawn_operator(&cluster, "operator-0", &[])?;
    setup::install(&cluster, first.port)?;
    let others = (1..5)
        .map(|index| setup::spawn_operator(&cluster, &format!("operator-{index}"), &[]))
        .collect::<Result<Vec<_>>>()?;
    // Ready means that its own certificate verifies against what the API server trusts.
    setup::wait_ready(&first)?;
    for other in &others {
        setup::wait_ready(other)?;
    }
    let space = Space::within(&cluster, "replicas").await;
    until_right(&space, "all agree on one CA", |_| true).await?;
    let secrets = Api::<Secret>::namespaced(space.client.clone(), OWN)
        .list(&Default::default())
        .await?;
    assert_eq!(
        secrets
            .iter()
            .map(ResourceExt::name_any)
            .collect::<Vec<_>>(),
        [SECRET]
    );
    let writes = cluster.writes_by(setup::USER).await?;
    let made = writes
        .iter()
        .filter(|write| write.resource == "secrets" && write.code == 201)
        .count();
    assert_eq!(made, 1, "{writes:?}");
    cluster.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_secret_is_left_alone_and_named() -> Result<()> {
    let cluster = Cluster::start(setup::options()).await?;
    let port = setup::free_port()?;
    setup::install(&cluster, port)?;
    let made = setup::kubectl(
        &cluster,
        &[
            "-n",
            OWN,
            "create",
            "secret",
            "generic",
            SECRET,
            "--from-literal=a=b",
        ],
        "",
    )?;
    ensure!(made.status.success(), "{made:?}");
    let operator = setup::spawn_operator_at(&cluster, "operator", port, &[])?;
    eventually("the operator names the Secret", SOON, || async {
        operator.process.alive()?;
        let said = std::fs::read_to_string(operator.process.log())?;
        if said.contains(SECRET) && said.contains("not made by this operator") {
            Ok(Some(()))
        } else {
            bail!("{said}")
        }
    })
    .await?;
    let client = cluster.new_client().await?;
    let secret = Api::<Secret>::namespaced(client, OWN).get(SECRET).await?;
    assert_eq!(
        secret
            .data
            .unwrap_or_default()
            .into_keys()
            .collect::<Vec<_>>(),
        ["a"]
    );
    let space = Space::within(&cluster, "foreign").await;
    let status = refusal(space.create("a", json!({"image": "x:1"})).await);
    assert!(
        status.message.contains("failed calling webhook"),
        "without a certificate nothing is admitted: {}",
        status.message
    );

    // What the message says, done.
    let deleted = setup::kubectl(&cluster, &["-n", OWN, "delete", "secret", SECRET], "")?;
    ensure!(deleted.status.success(), "{deleted:?}");
    setup::wait_ready(&operator)?;
    until_right(&space, "its own CA is trusted", |_| true).await?;
    cluster.stop().await
}

/// A whole life of certificates in a moment: the keeper is handed the time.
#[tokio::test]
async fn certificates_are_renewed_before_they_end() -> Result<()> {
    const HOUR: Duration = Duration::from_hours(1);
    let space = Space::new("renewal").await;
    let name = space.namespace.clone();
    for (kind, suffix) in [
        ("MutatingWebhookConfiguration", "m"),
        ("ValidatingWebhookConfiguration", "v"),
    ] {
        let webhook = json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": {"name": name},
            "webhooks": [{"name": format!("{suffix}.example.com"), "admissionReviewVersions": ["v1"],
                "sideEffects": "None", "clientConfig": {"url": "https://127.0.0.1:1/"},
                "rules": [{"apiGroups": ["nothing.example.com"], "apiVersions": ["v1"], "operations": ["CREATE"],
                    "resources": ["nothings"]}]}],
        });
        let (applied, _, stderr) = space
            .kubectl(&["apply", "-f", "-"], &webhook.to_string())
            .await;
        ensure!(applied, "{stderr}");
    }
    let settings = certs::Settings {
        namespace: name.clone(),
        secret: "ca".to_owned(),
        configuration: name.clone(),
        webhooks: vec!["m.example.com".to_owned(), "v.example.com".to_owned()],
        hosts: vec!["127.0.0.1".to_owned()],
        manager: "test".to_owned(),
        ca_life: 300 * 24 * HOUR,
        leaf_life: 24 * HOUR,
    };
    let start = std::time::SystemTime::now();
    let time = std::sync::Arc::new(std::sync::Mutex::new(start));
    let clock = time.clone();
    let (mut keeper, serving) = certs::Keeper::new(
        space.client.clone(),
        settings,
        std::sync::Arc::new(move || *clock.lock().expect("the time")),
    );
    assert!(
        serving.ready().is_err(),
        "not before there is a certificate"
    );
    let bundle = async || -> Result<Vec<u8>> {
        let configurations = Api::<ValidatingWebhookConfiguration>::all(space.client.clone());
        let webhooks = configurations
            .get(&name)
            .await?
            .webhooks
            .unwrap_or_default();
        Ok(webhooks[0]
            .client_config
            .ca_bundle
            .clone()
            .unwrap_or_default()
            .0)
    };
    let certificates = |bundle: &[u8]| {
        String::from_utf8_lossy(bundle)
            .matches("BEGIN CERTIFICATE")
            .count()
    };

    let due = keeper.look().await?;
    assert_eq!(serving.ready(), Ok(()));
    assert!(
        due > 15 * HOUR && due < 17 * HOUR,
        "the next look is due in {due:?}"
    );
    let first = bundle().await?;
    assert_eq!(certificates(&first), 1);
    let verifies =
        |bundle: &[u8], after: Duration| serving.verify("127.0.0.1", bundle, start + after);
    assert_eq!(verifies(&first, 23 * HOUR), Ok(()));
    assert!(verifies(&first, 25 * HOUR).is_err(), "it lives for a day");
    assert!(
        serving.verify("example.com", &first, start).is_err(),
        "it is for its own names"
    );

    *time.lock().expect("the time") = start + 17 * HOUR;
    keeper.look().await?;
    assert_eq!(bundle().await?, first, "the CA is the same");
    assert_eq!(verifies(&first, 40 * HOUR), Ok(()), "another certificate");

    *time.lock().expect("the time") = start + 201 * 24 * HOUR;
    keeper.look().await?;
    assert_eq!(serving.ready(), Ok(()));
    let both = bundle().await?;
    assert_eq!(certificates(&both), 2, "the old CA stays trusted");
    assert_eq!(verifies(&both, 201 * 24 * HOUR), Ok(()));
    assert!(
        verifies(&first, 201 * 24 * HOUR).is_err(),
        "the certificate is signed by the new one"
    );

    // A look that finds everything as it should be writes nothing.
    let before = Api::<Secret>::namespaced(space.client.clone(), &name)
        .get("ca")
        .await?
        .resource_version();
    keeper.look().await?;
    let after = Api::<Secret>::namespaced(space.client.clone(), &name)
        .get("ca")
        .await?
        .resource_version();
    assert_eq!((before, bundle().await?), (after, both));

    for kind in [
        "mutatingwebhookconfiguration",
        "validatingwebhookconfiguration",
    ] {
        let (deleted, _, stderr) = space.kubectl(&["delete", kind, &name], "").await;
        ensure!(deleted, "{stderr}");
    }
    Ok(())
}
