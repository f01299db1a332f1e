//! Requests without pause while certificates rotate.

use std::time::Duration;

use anyhow::{Result, ensure};
use cluster::{Cluster, eventually};
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use kube::Api;
use kube::api::{Patch, PatchParams};
use mcp_operator::admission::VALIDATE_PATH;
use serde_json::json;

use super::{NAME, rights};
use crate::load::Load;
use crate::setup::{self, Space};

/// A CA is replaced after 24 s, a certificate after 8 s; a busy machine may hold up a renewal for 4 s.
const LIVES: [&str; 6] = [
    "--ca-life",
    "36s",
    "--certificate-life",
    "12s",
    "--ca-settle",
    "3s",
];
const REQUESTS: u32 = 10_000;
const CLIENTS: u32 = 8;
const AUTHORITIES: usize = 4;
const LEAVES: usize = 14;
const LIMIT: Duration = Duration::from_mins(15);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_meanwhile() -> Result<()> {
    let cluster = Cluster::start(setup::options()).await?;
    let kubeconfig = {
        setup::install(&cluster, 1)?;
        rights::by_name(&cluster)?
    };
    // Mutating by one replica, validating by the other: each request meets both.
    let ports = [setup::free_port()?, setup::free_port()?];
    setup::install(&cluster, ports[0])?;
    let space = Space::within(&cluster, "rotation").await;
    let url = format!("https://127.0.0.1:{}{VALIDATE_PATH}", ports[1]);
    let url: json_patch::Patch = serde_json::from_value(
        json!([{"op": "replace", "path": "/webhooks/0/clientConfig/url", "value": url}]),
    )?;
    Api::<ValidatingWebhookConfiguration>::all(space.client.clone())
        .patch(NAME, &PatchParams::default(), &Patch::Json::<()>(url))
        .await?;
    let operators = [0, 1].map(|index| {
        let name = format!("operator-{index}");
        setup::spawn_operator_as(&cluster, &name, ports[index], &kubeconfig, &LIVES)
    });
    for operator in &operators {
        setup::wait_ready(operator.as_ref().expect("an operator"))?;
    }
    setup::eventually_admitted(&space).await?;

    let spec = json!({"image": "example.com/a:1", "replicas": 0});
    space.create("updated", spec).await?;
    let mut load = Load::start(&cluster, &space.namespace, CLIENTS).await?;
    load.watch_certificates(&space.client, NAME, "127.0.0.1", &ports)
        .await?;
    eventually("enough requests and rotations", LIMIT, || async {
        let (made, authorities, leaves) =
            (load.made(), load.authorities(), load.all_certificates());
        ensure!(
            made >= REQUESTS && authorities >= AUTHORITIES && leaves >= LEAVES,
            "{made} requests, {authorities} CAs, {leaves} certificates; failed: {:?}",
            load.failures()
        );
        Ok(Some(()))
    })
    .await?;
    load.end("rotation").await?;
    for operator in operators {
        operator?.process.alive()?;
    }
    setup::stop(cluster).await
}
