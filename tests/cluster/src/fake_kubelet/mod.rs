//! A node without containers, on which pods become Ready.
//!
//! It binds every pod that has no node, gives it the status a running pod has, and lets it go
//! when it is deleted. A pod's annotation `fake-kubelet/state` says otherwise:
//!
//! | value | what the pod looks like |
//! |---|---|
//! | absent, `none` | Running and Ready |
//! | `creating` | Pending; its containers wait, reason `ContainerCreating`, for ever |
//! | `image-pull-backoff` | Pending; its containers wait, reason `ImagePullBackOff` |
//! | `crash-loop` | Running; its containers wait, reason `CrashLoopBackOff`, after 3 restarts |
//! | `not-ready` | Running, never Ready |
//! | `slow-delete` | Ready; once deleted, it stays until the annotation is changed |
//!
//! A change of the annotation changes the pod. It runs on a thread of its own, so a test that
//! blocks its runtime does not stop it.

mod status;

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Binding, Node, ObjectReference, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, DeleteParams, ObjectMeta, Patch, PatchParams, PostParams, Preconditions};
use kube::runtime::controller::{Action, Config, Controller};
use kube::runtime::watcher;
use kube::{Client, ResourceExt};
use serde_json::json;
use tokio::sync::oneshot;

pub use status::State;

/// The name of the node.
pub const NODE: &str = "fake-node";
/// The user of its requests.
pub const USER: &str = "fake-kubelet";
/// The pods' annotation that chooses what they look like.
pub const ANNOTATION: &str = "fake-kubelet/state";
/// How many pods are worked on at once.
const CONCURRENCY: u16 = 32;
/// When a failed step is tried again.
const RETRY: Duration = Duration::from_millis(200);

/// The running kubelet; ends when dropped.
#[derive(Debug)]
pub(crate) struct FakeKubelet {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl FakeKubelet {
    /// Registers the node, and begins to look after pods.
    pub(crate) async fn start(config: kube::Config) -> Result<Self> {
        let client =
            Client::try_from(config.clone()).context("making the fake kubelet's client")?;
        register(client)
            .await
            .context("registering the fake node")?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let runtime = runtime.context("starting the fake kubelet's runtime")?;
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("fake-kubelet".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        _ = stopped => {}
                        error = look_after_pods(config) => {
                            eprintln!("the fake kubelet of a test cluster ended, pods stay as they are: {error:#}");
                        }
                    }
                });
            })
            .context("starting the fake kubelet's thread")?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for FakeKubelet {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic has been told on standard error when it happened.
            let _ = thread.join();
        }
    }
}

/// Creates the node, ready and large.
async fn register(client: Client) -> Result<()> {
    let nodes: Api<Node> = Api::all(client);
    let node: Node = serde_json::from_value(json!({
        "metadata": {"name": NODE, "labels": {
            "kubernetes.io/hostname": NODE,
            "kubernetes.io/os": "linux",
            "kubernetes.io/arch": if std::env::consts::ARCH == "aarch64" { "arm64" } else { "amd64" },
        }},
    }))?;
    nodes.create(&PostParams::default(), &node).await?;
    // A new node is tainted until somebody says that it is ready, which nobody else does here.
    nodes
        .patch(
            NODE,
            &PatchParams::default(),
            &Patch::Merge(json!({"spec": {"taints": null}})),
        )
        .await?;
    let room =
        json!({"cpu": "10000", "memory": "100Ti", "ephemeral-storage": "100Ti", "pods": "100000"});
    let now = Timestamp::now();
    let status = json!({"status": {
        "capacity": room,
        "allocatable": room,
        "addresses": [
            {"type": "InternalIP", "address": status::NODE_ADDRESS},
            {"type": "Hostname", "address": NODE},
        ],
        "conditions": [{
            "type": "Ready", "status": "True", "reason": "KubeletReady", "message": "the fake kubelet is ready",
            "lastHeartbeatTime": now, "lastTransitionTime": now,
        }],
        "nodeInfo": {
            "architecture": "amd64", "bootID": "", "containerRuntimeVersion": "fake://1", "kernelVersion": "",
            "kubeProxyVersion": "", "kubeletVersion": "v1.36.3", "machineID": "", "operatingSystem": "linux",
            "osImage": "none", "systemUUID": "",
        },
    }});
    nodes
        .patch_status(NODE, &PatchParams::default(), &Patch::Merge(status))
        .await?;
    Ok(())
}

struct Context {
    client: Client,
    /// The next pod's address within the node's range.
    addresses: AtomicU16,
}

/// Works on pods until something ends it that should not; returns what did.
async fn look_after_pods(config: kube::Config) -> anyhow::Error {
    let client = match Client::try_from(config) {
        Ok(client) => client,
        Err(error) => return anyhow::Error::new(error).context("making a client"),
    };
    let context = Arc::new(Context {
        client: client.clone(),
        addresses: AtomicU16::new(1),
    });
    let pods: Api<Pod> = Api::all(client);
    // Each pod is worked on by one at a time, and again when it has changed meanwhile; a broken
    // watch is begun anew.
    Controller::new(pods, watcher::Config::default())
        .with_config(Config::default().concurrency(CONCURRENCY))
        .run(look_after, |_, _, _| Action::requeue(RETRY), context)
        .for_each(|result| async {
            // A pod that went between an event and its turn is nothing to speak of.
            match result {
                Ok(_) | Err(kube::runtime::controller::Error::ObjectNotFound(_)) => {}
                Err(error) => {
                    eprintln!("the fake kubelet of a test cluster (tries again): {error}");
                }
            }
        })
        .await;
    anyhow::anyhow!("its watch of pods ended")
}

/// Brings one pod to the state it is to be in.
async fn look_after(pod: Arc<Pod>, context: Arc<Context>) -> Result<Action, kube::Error> {
    match next_step(&pod, &context).await {
        // Gone, replaced or changed: then there is an event to come.
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {
            Ok(Action::await_change())
        }
        Err(error) => Err(error),
        Ok(()) => Ok(Action::await_change()),
    }
}

async fn next_step(pod: &Pod, context: &Context) -> Result<(), kube::Error> {
    let name = pod.name_any();
    let pods: Api<Pod> =
        Api::namespaced(context.client.clone(), &pod.namespace().unwrap_or_default());
    let spec = pod.spec.as_ref();
    let node = spec.and_then(|spec| spec.node_name.as_deref());
    if node.is_some_and(|node| node != NODE) {
        return Ok(());
    }
    if pod.metadata.deletion_timestamp.is_some() {
        if State::of(pod) != State::SlowDelete {
            let preconditions = Preconditions {
                uid: pod.uid(),
                resource_version: None,
            };
            let now = DeleteParams {
                grace_period_seconds: Some(0),
                preconditions: Some(preconditions),
                ..DeleteParams::default()
            };
            pods.delete(&name, &now).await?;
        }
        return Ok(());
    }
    if node.is_none() {
        if spec.is_some_and(|spec| {
            spec.scheduling_gates
                .as_ref()
                .is_some_and(|gates| !gates.is_empty())
        }) {
            return Ok(());
        }
        let binding = Binding {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                uid: pod.uid(),
                ..ObjectMeta::default()
            },
            target: ObjectReference {
                kind: Some("Node".to_owned()),
                name: Some(NODE.to_owned()),
                ..ObjectReference::default()
            },
        };
        let _: serde_json::Value = pods
            .create_subresource("binding", &name, &PostParams::default(), &binding)
            .await?;
        // That is a change, after which it comes here again.
        return Ok(());
    }
    let address = || {
        let [high, low] = context
            .addresses
            .fetch_add(1, Ordering::Relaxed)
            .to_be_bytes();
        format!("10.244.{high}.{low}")
    };
    if let Some(status) = status::wanted(pod, Timestamp::now(), address) {
        // Of the pod as it was read: who has not seen its address yet would give it another one.
        let metadata = json!({"uid": pod.uid(), "resourceVersion": pod.resource_version()});
        let patch = Patch::Merge(json!({"metadata": metadata, "status": status}));
        pods.patch_status(&name, &PatchParams::default(), &patch)
            .await?;
    }
    Ok(())
}
