//! The controller: watches, caches, concurrency, backoff around the pass in `reconcile`.

pub mod apply;
pub mod build;
pub mod cache;
pub mod deletion;
pub mod drift;
pub mod error;
pub mod events;
pub mod reconcile;
pub mod status;
pub mod trouble;

use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::{Stream, StreamExt, future};
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::WatchStreamExt;
use kube::runtime::controller::{self, Controller};
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::reflector::{self, ObjectRef};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tracing::Instrument;

use self::cache::{Cache, Pods};
use self::reconcile::Context;
use crate::api::{MCPServer, labels};

/// Runs of the pass at one time, each for another server.
const WORKERS: u16 = 16;
/// Triggers that come close together make one pass.
const DEBOUNCE: Duration = Duration::from_millis(20);

/// Reconciles all servers until `shutdown`. Returns early only when a part of it has died.
pub async fn run(
    client: Client,
    instance: Option<String>,
    shutdown: impl Future<Output = ()> + Send + Sync + 'static,
) {
    let of_ours =
        watcher::Config::default().labels(&format!("{}={}", labels::MANAGED_BY, labels::MANAGER));
    let (servers, store, server_events) = watched(client.clone(), watcher::Config::default());
    let (config_maps, _, config_map_events) = watched(client.clone(), of_ours.clone());
    let (deployments, _, deployment_events) = watched(client.clone(), of_ours.clone());
    let (services, _, service_events) = watched(client.clone(), of_ours.clone());
    let (pods, pods_ready, pod_events) = watched_pods(client.clone(), of_ours);

    let reporter = Reporter {
        controller: labels::MANAGER.to_owned(),
        instance,
    };
    let context = Arc::new(Context {
        recorder: Recorder::new(client.clone(), reporter),
        client,
        servers,
        config_maps,
        deployments,
        services,
        pods,
        pods_ready,
        memory: Mutex::default(),
    });
    Controller::for_stream(server_events, store)
        .with_config(
            controller::Config::default()
                .concurrency(WORKERS)
                .debounce(DEBOUNCE),
        )
        .owns_stream(config_map_events)
        .owns_stream(deployment_events)
        .owns_stream(service_events)
        .watches_stream(pod_events, server_of)
        .graceful_shutdown_on(shutdown)
        .run(
            |server, context| {
                let span = tracing::info_span!(
                    "reconcile",
                    namespace = server.namespace().unwrap_or_default(),
                    name = server.name_any()
                );
                reconcile::reconcile(server, context).instrument(span)
            },
            reconcile::on_error,
            context,
        )
        .for_each(|result| {
            match result {
                // Logged, with its class, where the next try is decided.
                Ok(_) | Err(controller::Error::ReconcilerFailed(..)) => {}
                // Deleted between trigger and pass.
                Err(controller::Error::ObjectNotFound(_)) => {}
                Err(error) => tracing::warn!("watch: {error}"),
            }
            future::ready(())
        })
        .await;
}

type Watched<K> = Result<K, watcher::Error>;

/// Watches a kind into a cache. The stream has to be polled; it gives each object that was touched.
fn watched<K>(
    client: Client,
    config: watcher::Config,
) -> (
    Arc<Cache<K>>,
    reflector::Store<K>,
    impl Stream<Item = Watched<K>> + Send + 'static,
)
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let (store, writer) = reflector::store();
    let cache = Arc::new(Cache::new(store.clone()));
    let observer = cache.clone();
    let stream = watcher(Api::<K>::all(client), config)
        .default_backoff()
        // Large, and never read by a pass.
        .modify(|object| object.managed_fields_mut().clear())
        .reflect(writer)
        .inspect(move |event| {
            if let Ok(event) = event {
                observer.observe(event);
            }
        })
        .touched_objects();
    (cache, store, stream)
}

/// Watches the pods of all servers, keeping of each what tells how it does.
fn watched_pods(
    client: Client,
    config: watcher::Config,
) -> (
    Arc<Pods>,
    tokio::sync::watch::Receiver<bool>,
    impl Stream<Item = Watched<Pod>> + Send + 'static,
) {
    let pods = Arc::new(Pods::default());
    let observer = pods.clone();
    let (listed, ready) = tokio::sync::watch::channel(false);
    let stream = watcher(Api::<Pod>::all(client), config)
        .default_backoff()
        .modify(|pod: &mut Pod| {
            pod.managed_fields_mut().clear();
            pod.annotations_mut().clear();
            pod.spec = None;
        })
        .inspect(move |event| {
            if let Ok(event) = event {
                observer.observe(event);
                if matches!(event, Event::InitDone) {
                    listed.send_replace(true);
                }
            }
        })
        .touched_objects();
    (pods, ready, stream)
}

/// The server that a pod belongs to, by its label.
fn server_of(pod: Pod) -> Option<ObjectRef<MCPServer>> {
    let name = pod.labels().get(labels::INSTANCE)?;
    Some(ObjectRef::new(name).within(&pod.namespace()?))
}
