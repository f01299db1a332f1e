//! The operator as users run it: its image, by Helm or by its manifest, in pods of a real node.
//!
//! Needs root on Linux and packages, so it is run where the environment variable `MCP_OPERATOR_NODE` is 1 only.

mod samples;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use cluster::{Cluster, NodeKind, Options, eventually, node::left_out, operator_image};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::{Api, Client, CustomResourceExt, ResourceExt};
use mcp_operator::api::MCPServer;
use serde_json::json;
use tokio::task::JoinSet;

use crate::setup::{OWN, kubectl};

/// How long anything may take on a busy machine.
const LIMIT: Duration = Duration::from_mins(3);
const RESTARTS: usize = 5;
const REQUESTS: usize = 10_000;
/// Clients at one time, each on a connection of its own.
const CLIENTS: usize = 8;
/// Updates of a server between its creation and its deletion.
const UPDATES: usize = 39;
/// One in so many changes the spec, and so the Deployment; the others a label, which the webhooks are asked about
/// just the same.
const SPEC: usize = 10;

/// A cluster with one real node, and the operator's image on it.
async fn with_a_node() -> Result<Cluster> {
    let options = Options {
        node: NodeKind::Real,
        ..Options::default()
    };
    let cluster = Cluster::start(options).await?;
    let image = operator_image::build(cluster.folder()).await?;
    cluster.load_image(&image.tarball).await?;
    Ok(cluster)
}

/// Runs a script as a user would: in the repository's folder, with kubectl and Helm for this cluster in the PATH. What
/// it prints; an error with its words, and how the operator does, when it fails.
async fn shell(cluster: &Cluster, script: &str) -> Result<String> {
    let helm = cluster.helm_command().await?;
    let folders = [Path::new(helm.get_program()), cluster.kubectl()];
    let folders: Option<Vec<_>> = folders.iter().map(|program| program.parent()).collect();
    let mut path = std::env::join_paths(folders.context("a program without a folder")?)?;
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    let mut bash = Command::new("bash");
    for command in [&helm, &cluster.kubectl_command()] {
        for (variable, value) in command.get_envs() {
            bash.envs(value.map(|value| (variable, value)));
        }
    }
    // What the script leaves in the background ends with it.
    let script = format!("trap 'jobs -p | xargs --no-run-if-empty kill' EXIT\n{script}");
    bash.args(["-euo", "pipefail", "-c", &script])
        .env("PATH", path)
        .current_dir(env!("CARGO_MANIFEST_DIR"));
    let output = tokio::task::spawn_blocking(move || bash.output()).await??;
    if output.status.success() {
        return Ok(String::from_utf8(output.stdout)?);
    }
    let pods = kubectl(cluster, &["-n", OWN, "describe", "pods"], "")?;
    let operator = "app.kubernetes.io/name=mcp-operator";
    let logs = ["-n", OWN, "logs", "-l", operator, "--prefix"];
    let logs = kubectl(cluster, &logs, "")?;
    bail!(
        "{script}: {output:?}\n{}\n{logs:?}",
        String::from_utf8_lossy(&pods.stdout)
    )
}

/// Installs the operator by its manifest, without Helm.
async fn install_by_manifest(cluster: &Cluster) -> Result<()> {
    let script = "kubectl apply -f dist/install.yaml
                  kubectl -n mcp-operator-system rollout status deployment/mcp-operator --timeout=3m";
    shell(cluster, script).await.map(drop)
}

/// What the clients together have seen.
#[derive(Default)]
struct Tally {
    made: AtomicUsize,
    failures: std::sync::Mutex<BTreeMap<String, usize>>,
    enough: AtomicBool,
}

impl Tally {
    fn count<T>(&self, answer: kube::Result<T>) -> Option<T> {
        self.made.fetch_add(1, Ordering::Relaxed);
        match answer {
            Ok(answer) => Some(answer),
            Err(error) => {
                let mut failures = self.failures.lock().expect("nobody panics with it");
                *failures.entry(error.to_string()).or_default() += 1;
                None
            }
        }
    }
}

/// Creates a server, updates it again and again, deletes it, and so on, without a pause.
async fn client(client: Client, number: usize, tally: Arc<Tally>) -> Result<()> {
    let resource = MCPServer::api_resource();
    let api = Api::<DynamicObject>::namespaced_with(client, "default", &resource);
    let by = PatchParams::default();
    for round in 0.. {
        if tally.enough.load(Ordering::Relaxed) {
            break;
        }
        let name = format!("s{number}-{round}");
        // Without pods: it is the webhooks that are tried.
        let spec = json!({"image": "example.com/a:1", "transport": "stdio", "replicas": 0});
        let object = DynamicObject::new(&name, &resource).data(json!({"spec": spec}));
        if tally
            .count(api.create(&PostParams::default(), &object).await)
            .is_none()
        {
            continue;
        }
        for update in 0..UPDATES {
            let text = update.to_string();
            let patch = if update % SPEC == 0 {
                json!({"spec": {"args": [text]}})
            } else {
                json!({"metadata": {"labels": {"update": text}}})
            };
            tally.count(api.patch(&name, &by, &Patch::Merge(patch)).await);
        }
        // No webhook is asked about it.
        api.delete(&name, &DeleteParams::default())
            .await
            .context("deleting")?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarts_under_load_lose_no_request_and_a_lost_leader_is_followed() -> Result<()> {
    if left_out("restarts_under_load_lose_no_request_and_a_lost_leader_is_followed") {
        return Ok(());
    }
    let cluster = with_a_node().await?;
    install_by_manifest(&cluster).await?;
    let tally = Arc::new(Tally::default());
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        clients.spawn(client(cluster.new_client().await?, number, tally.clone()));
    }
    let start = Instant::now();
    for _ in 0..RESTARTS {
        for arguments in [
            &["-n", OWN, "rollout", "restart", "deployment/mcp-operator"][..],
            &[
                "-n",
                OWN,
                "rollout",
                "status",
                "deployment/mcp-operator",
                "--timeout=3m",
            ],
        ] {
            let output = tokio::task::block_in_place(|| kubectl(&cluster, arguments, ""))?;
            ensure!(output.status.success(), "{output:?}");
        }
    }
    let restarted = start.elapsed();
    eventually("enough requests were made", 3 * LIMIT, || async {
        let made = tally.made.load(Ordering::Relaxed);
        Ok((made >= REQUESTS).then_some(()))
    })
    .await?;
    tally.enough.store(true, Ordering::Relaxed);
    while let Some(ended) = clients.join_next().await {
        ended??;
    }
    let made = tally.made.load(Ordering::Relaxed);
    let failures = std::mem::take(&mut *tally.failures.lock().expect("nobody panics with it"));
    let failed: usize = failures.values().sum();
    println!(
        "{RESTARTS} restarts of 2 replicas in {restarted:.1?}: {failed} of {made} requests failed"
    );
    assert!(
        failures.is_empty(),
        "{failed} of {made} requests failed: {failures:#?}"
    );

    let handover = lose_the_leader(&cluster).await?;
    println!("handover from a leader whose pod was deleted by force: {handover:.1?}");
    cluster.stop().await
}

/// Deletes the leader's pod by force; how long it takes until another one leads.
async fn lose_the_leader(cluster: &Cluster) -> Result<Duration> {
    let client = cluster.new_client().await?;
    let leases = Api::<Lease>::namespaced(client.clone(), OWN);
    let holder = || async {
        let spec = leases.get("mcp-operator").await?.spec;
        anyhow::Ok(
            spec.and_then(|spec| spec.holder_identity)
                .unwrap_or_default(),
        )
    };
    // After a rollout the Lease may still be on its way from one to the next.
    let pods = Api::<Pod>::namespaced(client, OWN);
    let (before, leader) = eventually("a pod that runs is the holder", LIMIT, || async {
        let before = holder().await?;
        let running = pods.list(&Default::default()).await?;
        let running = running
            .iter()
            .filter(|pod| pod.metadata.deletion_timestamp.is_none());
        let mut names = running.map(ResourceExt::name_any);
        let leader = names.find(|name| before.starts_with(name.as_str()));
        let leader = leader.with_context(|| format!("no pod is the holder {before:?}"))?;
        Ok(Some((before, leader)))
    })
    .await?;
    let start = Instant::now();
    let kill = [
        "-n",
        OWN,
        "delete",
        "pod",
        &leader,
        "--grace-period=0",
        "--force",
    ];
    let killed = kubectl(cluster, &kill, "")?;
    ensure!(killed.status.success(), "{killed:?}");
    eventually("another replica leads", LIMIT, || async {
        let now = holder().await?;
        Ok((!now.is_empty() && now != before).then_some(()))
    })
    .await?;
    Ok(start.elapsed())
}
