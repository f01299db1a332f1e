//! What a kubelet does, for the pods of the operator: runs their containers, tells when they are ready, and
//! ends them. What there is to see of a pod is written by the fake kubelet; this one tells it what.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use cluster::process::Process;
use cluster::{Cluster, fake_kubelet};
use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Patch, PatchParams};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::container::{self, Probe, Running};
use super::volume::Volumes;

/// Pods of this image are looked after.
pub const IMAGE: &str = "registry.example.com/mcp-operator/mcp-operator:";
/// More often than a real one, as tests wait for it.
const PROBES: Duration = Duration::from_millis(100);
/// A container that has ended is started again after this long.
const BACK_OFF: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(20);

/// A pod's container.
#[derive(Clone, Debug)]
pub struct Replica {
    pub pod: String,
    pub running: Running,
    /// How often it was started again in its pod.
    pub restarts: u32,
}

/// A container that has ended.
#[derive(Clone, Debug)]
pub struct Ended {
    pub pod: String,
    pub process: Process,
}

/// What is known to who asks.
#[derive(Debug, Default)]
pub struct Known {
    pub running: BTreeMap<String, Replica>,
    pub ended: Vec<Ended>,
    /// What went wrong with the kubelet itself.
    pub problems: Vec<String>,
}

/// The running kubelet.
pub struct Kubelet {
    node: Arc<Node>,
    stop: oneshot::Sender<()>,
    task: JoinSet<()>,
}

struct Node {
    cluster: Arc<Cluster>,
    client: Client,
    namespace: String,
    known: Mutex<Known>,
}

impl Kubelet {
    /// Looks after the pods of this namespace, until it is dropped.
    pub fn start(cluster: &Arc<Cluster>, client: Client, namespace: &str) -> Self {
        let node = Arc::new(Node {
            cluster: cluster.clone(),
            client,
            namespace: namespace.to_owned(),
            known: Mutex::default(),
        });
        let (stop, stopped) = oneshot::channel();
        let mut task = JoinSet::new();
        task.spawn(look_after_pods(node.clone(), stopped));
        Self { node, stop, task }
    }

    pub fn known(&self) -> MutexGuard<'_, Known> {
        self.node.known()
    }

    /// Ends; the processes go with the cluster.
    pub async fn stop(mut self) -> Result<()> {
        drop(self.stop);
        self.task.join_next().await.context("it ran")??;
        Ok(())
    }
}

impl Node {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// What the fake kubelet is to show of a pod. One that has gone needs nothing any more.
    async fn show(&self, pod: &Pod, state: &str) -> Result<()> {
        let metadata = json!({"uid": pod.uid(), "annotations": {fake_kubelet::ANNOTATION: state}});
        let patch = Patch::Merge(json!({"metadata": metadata}));
        let (name, params) = (pod.name_any(), PatchParams::default());
        let patched = self.pods().patch(&name, &params, &patch).await;
        unless_gone(patched).with_context(|| format!("{state} of {name}"))
    }

    async fn set_phase(&self, pod: &Pod, phase: &str) -> Result<()> {
        let patch: Patch<Value> =
            Patch::Merge(json!({"metadata": {"uid": pod.uid()}, "status": {"phase": phase}}));
        let (name, params) = (pod.name_any(), PatchParams::default());
        let patched = self.pods().patch_status(&name, &params, &patch).await;
        unless_gone(patched).with_context(|| format!("{phase} of {name}"))
    }

    fn began(&self, replica: Replica) {
        self.known().running.insert(replica.pod.clone(), replica);
    }

    fn ended(&self, ended: Ended) {
        let mut known = self.known();
        known.running.remove(&ended.pod);
        known.ended.push(ended);
    }
}

fn unless_gone(patched: kube::Result<Pod>) -> Result<()> {
    match patched {
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        other => Ok(other.map(drop)?),
    }
}

fn is_ours(pod: &Pod) -> bool {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    containers
        .filter_map(|container| container.image.as_deref())
        .any(|image| image.starts_with(IMAGE))
}

async fn look_after_pods(node: Arc<Node>, mut stop: oneshot::Receiver<()>) {
    let mut seen: BTreeMap<String, watch::Sender<Pod>> = BTreeMap::new();
    let mut work = JoinSet::new();
    let mut events = pin!(watcher(node.pods(), watcher::Config::default()).default_backoff());
    while let Some(event) = tokio::select! {
        event = events.next() => event,
        _ = &mut stop => None,
    } {
        match event {
            Ok(Event::Apply(pod) | Event::InitApply(pod)) if is_ours(&pod) => {
                let uid = pod.uid().unwrap_or_default();
                if let Some(told) = seen.get(&uid) {
                    told.send_replace(pod);
                    continue;
                }
                let (tell, told) = watch::channel(pod);
                seen.insert(uid, tell);
                work.spawn(look_after(node.clone(), told));
            }
            Ok(Event::Delete(pod)) => drop(seen.remove(&pod.uid().unwrap_or_default())),
            Ok(_) => {}
            // It is tried again; a pod that was missed is seen then.
            Err(error) => eprintln!("the operator's kubelet: watching pods: {error}"),
        }
    }
    work.shutdown().await;
}

async fn look_after(node: Arc<Node>, mut pod: watch::Receiver<Pod>) {
    let name = pod.borrow().name_any();
    if let Err(error) = life(&node, &mut pod).await {
        let problem = format!("pod {name}: {error:#}");
        eprintln!("the operator's kubelet: {problem}");
        node.known().problems.push(problem);
    }
}

/// One pod, from its address to its end.
async fn life(node: &Node, pods: &mut watch::Receiver<Pod>) -> Result<()> {
    let Some(pod) = addressed(pods).await else {
        return Ok(());
    };
    let (name, uid) = (pod.name_any(), pod.uid().unwrap_or_default());
    let folder = node.cluster.folder().join("volumes").join(uid);
    let volumes = tokio::select! {
        volumes = Volumes::mount(&node.client, &node.namespace, &pod, &folder) => volumes?,
        () = leaving(pods) => return node.show(&pod, "none").await,
    };
    let spec = pod.spec.as_ref();
    let once = spec.and_then(|spec| spec.restart_policy.as_deref()) == Some("Never");
    for restarts in 0.. {
        let log = format!("{name}-{restarts}");
        let running = container::start(&node.cluster, &pod, &volumes, &log).await?;
        let process = running.process.clone();
        let probe = Probe::of(&pod, &running)?;
        let replica = Replica {
            pod: name.clone(),
            running,
            restarts,
        };
        node.began(replica);
        let ended = tokio::select! {
            ended = watch_over(node, &pod, &process, probe.as_ref()) => Some(ended?),
            () = leaving(pods) => None,
        };
        if ended.is_none() {
            end(&pod, &process).await?;
        }
        node.ended(Ended {
            pod: name.clone(),
            process,
        });
        match ended {
            None => return node.show(&pod, "none").await,
            Some(success) if once => {
                let phase = if success { "Succeeded" } else { "Failed" };
                return node.set_phase(&pod, phase).await;
            }
            Some(_) => sleep(BACK_OFF).await,
        }
    }
    Ok(())
}

/// The pod as soon as it has an address; nothing if it goes before.
async fn addressed(pods: &mut watch::Receiver<Pod>) -> Option<Pod> {
    let addressed = |pod: &Pod| {
        let status = pod.status.as_ref();
        status.is_some_and(|status| status.pod_ip.is_some())
    };
    let pod = pods.wait_for(|pod| is_leaving(pod) || addressed(pod)).await;
    pod.ok()
        .map(|pod| pod.clone())
        .filter(|pod| !is_leaving(pod))
}

fn is_leaving(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// Returns when the pod is deleted, or has gone already.
async fn leaving(pods: &mut watch::Receiver<Pod>) {
    let _ = pods.wait_for(is_leaving).await;
}

/// Shows whether the container is ready, until it ends by itself; says whether it ended well.
async fn watch_over(
    node: &Node,
    pod: &Pod,
    process: &Process,
    probe: Option<&Probe>,
) -> Result<bool> {
    let mut ticks = interval(PROBES);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut shown = false;
    loop {
        ticks.tick().await;
        if let Some(success) = process.success() {
            if shown {
                node.show(pod, "not-ready").await?;
            }
            return Ok(success);
        }
        let Some(probe) = probe else { continue };
        let ready = probe.ready().await.unwrap_or(shown);
        if ready != shown {
            // Ready, and when it is deleted it stays until its container has ended.
            let state = if ready { "slow-delete" } else { "not-ready" };
            node.show(pod, state).await?;
            shown = ready;
        }
    }
}

/// SIGTERM, and SIGKILL when the grace period is over.
async fn end(pod: &Pod, process: &Process) -> Result<()> {
    if process.end().is_some() {
        return Ok(());
    }
    let spec = pod.spec.as_ref();
    let grace = spec.and_then(|spec| spec.termination_grace_period_seconds);
    let grace = Duration::from_secs(u64::try_from(grace.unwrap_or(30))?);
    let ended = async {
        while process.end().is_none() {
            sleep(LOOK).await;
        }
    };
    process.signal("TERM")?;
    if timeout(grace, ended).await.is_err() {
        process.signal("KILL")?;
    }
    Ok(())
}
