//! Requests without pause while certificates rotate.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::Result;
use cluster::Cluster;
use futures::future::try_join_all;
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use mcp_operator::admission::VALIDATE_PATH;
use mcp_operator::api::MCPServer;
use serde_json::json;

use super::{NAME, rights};
use crate::laggard::Laggard;
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
const CLIENTS: usize = 8;
const AUTHORITIES: usize = 4;
const LEAVES: usize = 14;
const LIMIT: Duration = Duration::from_mins(15);

/// What was seen, and what went wrong.
#[derive(Default)]
struct Seen {
    made: AtomicU32,
    probes: AtomicU32,
    enough: AtomicBool,
    failures: Mutex<Vec<String>>,
    authorities: Mutex<BTreeSet<String>>,
    leaves: Mutex<BTreeSet<Vec<u8>>>,
}

impl Seen {
    fn failed(&self, what: String) {
        self.failures.lock().expect("failures").push(what);
    }

    fn trusts(&self, authorities: Vec<String>) {
        let mut trusted = self.authorities.lock().expect("authorities");
        trusted.extend(authorities);
    }

    fn rotated(&self) -> bool {
        self.authorities.lock().expect("authorities").len() >= AUTHORITIES
            && self.leaves.lock().expect("leaves").len() >= LEAVES
    }
}

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
    space.create("updated", spec.clone()).await?;
    let seen = Arc::new(Seen::default());
    let start = Instant::now();
    let probers = ports.map(|port| {
        let (seen, client) = (seen.clone(), space.client.clone());
        tokio::spawn(async move { probe(port, &client, &seen).await })
    });
    let work = (0..CLIENTS).map(|index| {
        let (seen, cluster, space) = (&seen, &cluster, &space);
        let server = MCPServer::new(
            "created",
            serde_json::from_value(spec.clone()).expect("a spec"),
        );
        async move {
            let client = cluster.new_client().await?;
            let servers = Api::<MCPServer>::namespaced(client, &space.namespace);
            let mut round = 0;
            while start.elapsed() < LIMIT && !seen.enough.load(Ordering::Relaxed) {
                round += 1;
                let answer = if (round + index) % 2 == 0 {
                    let create = PostParams {
                        dry_run: true,
                        ..PostParams::default()
                    };
                    servers.create(&create, &server).await
                } else {
                    let update = PatchParams {
                        dry_run: true,
                        ..PatchParams::default()
                    };
                    let change = json!({"spec": {"config": {"round": round.to_string()}}});
                    servers
                        .patch("updated", &update, &Patch::Merge(change))
                        .await
                };
                if let Err(error) = answer {
                    seen.failed(format!("after {:?}: {error}", start.elapsed()));
                }
                let made = seen.made.fetch_add(1, Ordering::Relaxed) + 1;
                if made >= REQUESTS && seen.rotated() {
                    seen.enough.store(true, Ordering::Relaxed);
                }
            }
            anyhow::Ok(())
        }
    });
    try_join_all(work).await?;
    let took = start.elapsed();
    seen.enough.store(true, Ordering::Relaxed);
    for prober in probers {
        prober.await??;
    }
    let made = seen.made.load(Ordering::Relaxed);
    let failures = std::mem::take(&mut *seen.failures.lock().expect("failures"));
    let authorities = seen.authorities.lock().expect("authorities").len();
    let leaves = seen.leaves.lock().expect("leaves").len();
    eprintln!(
        "{made} requests and {} handshakes in {took:?}, {} failed; {authorities} CAs, {leaves} certificates",
        seen.probes.load(Ordering::Relaxed),
        failures.len(),
    );
    assert!(
        failures.is_empty(),
        "{}: {:#?}",
        failures.len(),
        &failures[..failures.len().min(10)]
    );
    assert!(made >= REQUESTS, "only {made} requests in {LIMIT:?}");
    assert!(
        authorities >= AUTHORITIES,
        "only {authorities} CAs were seen"
    );
    assert!(leaves >= LEAVES, "only {leaves} certificates were seen");
    for operator in operators {
        operator?.process.alive()?;
    }
    setup::stop(cluster).await
}

/// Connects again and again, and verifies as an API server does that is up to date, and as one that is not.
/// The API server itself keeps its connections.
async fn probe(port: u16, client: &kube::Client, seen: &Seen) -> Result<()> {
    let mut laggard = Laggard::default();
    while !seen.enough.load(Ordering::Relaxed) {
        let look = laggard.look(client, NAME, port, "127.0.0.1").await?;
        seen.probes.fetch_add(1, Ordering::Relaxed);
        look.failures.into_iter().for_each(|what| seen.failed(what));
        seen.leaves.lock().expect("leaves").extend(look.served);
        seen.trusts(look.trusted);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}
