//! Self-signed certificates: one CA for all replicas, a caBundle that is kept right.

mod crash;
mod files;
mod life;
mod rights;
mod rotation;

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

use crate::laggard;
use crate::setup::{self, OWN, SOON, Space, refusal};

const SECRET: &str = "mcp-operator-webhook-ca";
const NAME: &str = "mcp-operator";
/// Within this long a tampered certificate is right again.
const MENDED: Duration = Duration::from_secs(10);

async fn bundles(client: &Client) -> Result<Vec<Vec<u8>>> {
    laggard::bundles(client, NAME).await
}

/// The CA that is stored, with those that stay trusted.
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
    setup::eventually_admitted(space).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_tampered_with_is_right_again_soon() -> Result<()> {
    let cluster = Cluster::start(setup::options()).await?;
    let port = setup::free_port()?;
    setup::install(&cluster, port)?;
    let kubeconfig = rights::by_name(&cluster)?;
    let operator = setup::spawn_operator_as(&cluster, "operator", port, &kubeconfig, &[])?;
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
    rights::every_one_is_used(&cluster).await?;
    setup::stop(cluster).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_that_start_together_share_one_ca() -> Result<()> {
    let cluster = Cluster::start(setup::options()).await?;
    let port = setup::free_port()?;
    setup::install(&cluster, port)?;
    let kubeconfig = rights::by_name(&cluster)?;
    let start = |index: u16, port| {
        setup::spawn_operator_as(
            &cluster,
            &format!("operator-{index}"),
            port,
            &kubeconfig,
            &[],
        )
    };
    let first = start(0, port)?;
    let others = (1..5)
        .map(|index| start(index, setup::free_port()?))
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
    setup::stop(cluster).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_secret_is_left_alone_and_named() -> Result<()> {
    let cluster = setup::start().await?;
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
    setup::stop(cluster).await
}
