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
use std::time::{Duration, Instant};

use futures::{FutureExt, Stream, StreamExt, TryStreamExt, future};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::DeserializeGuard;
use kube::runtime::WatchStreamExt;
use kube::runtime::controller::{self, Action, Controller};
use kube::runtime::reflector::{self, ObjectRef};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tracing::Instrument;

use self::cache::{Cache, Pods};
use self::events::Publisher;
use self::reconcile::Context;
use crate::api::{MCPServer, labels};
use crate::metrics::Metrics;

/// Runs of the pass at one time, each for another server.
const WORKERS: u16 = 16;
/// Triggers that come close together make one pass.
const DEBOUNCE: Duration = Duration::from_millis(20);

/// Whose servers are reconciled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Those of the whole cluster.
    Cluster,
    /// Those of one namespace.
    Namespace(String),
}

impl Scope {
    fn api<K>(&self, client: &Client) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        match self {
            Self::Cluster => Api::all(client.clone()),
            Self::Namespace(namespace) => Api::namespaced(client.clone(), namespace),
        }
    }
}

impl std::fmt::Display for Scope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cluster => f.write_str("all namespaces"),
            Self::Namespace(namespace) => write!(f, "namespace {namespace}"),
        }
    }
}

/// Reconciles the servers of a scope until `shutdown`. An error when a part of it has died before.
pub async fn run(
    client: Client,
    scope: Scope,
    instance: Option<String>,
    metrics: Arc<Metrics>,
    shutdown: impl Future<Output = ()> + Send + Sync + 'static,
) -> anyhow::Result<()> {
    let of_ours =
        watcher::Config::default().labels(&format!("{}={}", labels::MANAGED_BY, labels::MANAGER));
    let (trigger, triggers) = mpsc::unbounded_channel();
    let mut watches = Watches {
        trigger,
        metrics: metrics.clone(),
        tasks: JoinSet::new(),
    };
    let (servers, store) = watches.watch(server_events(scope.api(&client)), |server| {
        Some(ObjectRef::from_obj(server))
    });
    metrics.watches(&servers);
    let (config_maps, _) = watches.watch(watcher(scope.api(&client), of_ours.clone()), server_of);
    let (deployments, _) = watches.watch(watcher(scope.api(&client), of_ours.clone()), server_of);
    let (services, _) = watches.watch(watcher(scope.api(&client), of_ours.clone()), server_of);
    let (pods, pods_listed) = watches.watch_pods(scope.api(&client), of_ours);

    let context = Arc::new(Context {
        publisher: Publisher::new(client.clone(), instance),
        client,
        servers,
        config_maps,
        deployments,
        services,
        pods,
        memory: Mutex::default(),
        metrics,
    });
    let mut tasks = watches.tasks;
    let mut shutdown = Box::pin(shutdown.shared());
    // A pass that saw half of the children would make the others anew.
    tokio::select! {
        listed = context.wait_until_listed(pods_listed) => listed?,
        () = &mut shutdown => return Ok(()),
        ended = tasks.join_next() => anyhow::bail!("a watch ended: {ended:?}"),
    }
    tracing::info!(servers = store.len(), "watching {scope}");
    let passes = Controller::for_stream(futures::stream::pending(), store)
        .with_config(
            controller::Config::default()
                .concurrency(WORKERS)
                .debounce(DEBOUNCE),
        )
        .reconcile_on(triggers_of(triggers))
        .graceful_shutdown_on(shutdown.clone())
        .run(traced_pass, reconcile::on_error, context.clone())
        .for_each(|result| {
            match result {
                // A failed pass is logged where the next try is decided.
                Ok(_) | Err(controller::Error::ReconcilerFailed(..)) => {}
                Err(controller::Error::ObjectNotFound(gone)) => {
                    let namespace = gone.namespace.clone().unwrap_or_default();
                    context
                        .metrics
                        .begun(&ObjectRef::new(&gone.name).within(&namespace));
                    reconcile::forget(
                        &context,
                        gone.namespace.as_deref().unwrap_or_default(),
                        &gone.name,
                    );
                }
                Err(error) => tracing::warn!("controller: {error}"),
            }
            future::ready(())
        });
    tokio::select! {
        () = passes => {}
        ended = tasks.join_next() => anyhow::bail!("a watch ended: {ended:?}"),
    }
    anyhow::ensure!(shutdown.peek().is_some(), "the controller ended by itself");
    Ok(())
}

async fn traced_pass(
    server: Arc<MCPServer>,
    context: Arc<Context>,
) -> Result<Action, error::Error> {
    let span = span_of(server.meta());
    context.metrics.begun(&ObjectRef::from_obj(&*server));
    if let Some(left) = reconcile::begin(&server, &context) {
        return Ok(Action::requeue(left));
    }
    let (start, metrics) = (Instant::now(), context.metrics.clone());
    let passed = Box::pin(reconcile::reconcile(server, context))
        .instrument(span)
        .await;
    metrics.passed(passed.as_ref().err(), start.elapsed());
    passed
}

/// Whatever is logged of a server is logged in this, so that its name is found in one place.
fn span_of(server: &ObjectMeta) -> tracing::Span {
    let (namespace, mcpserver) = (server.namespace.as_deref(), server.name.as_deref());
    // At the highest level: a filter that leaves a span out leaves the name out of the warnings within, too. And
    // not `name`: in JSON that is the span's own.
    tracing::error_span!("reconcile", namespace, mcpserver)
}

fn triggers_of(
    mut triggers: mpsc::UnboundedReceiver<ObjectRef<MCPServer>>,
) -> impl Stream<Item = ObjectRef<MCPServer>> {
    futures::stream::poll_fn(move |context| triggers.poll_recv(context))
}

type Watched<K> = Result<Event<K>, watcher::Error>;

/// The servers, less those that cannot be read: one that was stored while no webhook ran must not end the
/// watch of all others.
fn server_events(
    api: Api<DeserializeGuard<MCPServer>>,
) -> impl Stream<Item = Watched<MCPServer>> + Send {
    let readable = |server: DeserializeGuard<MCPServer>| match server.0 {
        Ok(server) => Some(server),
        Err(unreadable) => {
            let _span = span_of(&unreadable.metadata).entered();
            tracing::warn!(
                "this MCPServer cannot be read and is left alone; correct its spec: {}",
                unreadable.error
            );
            None
        }
    };
    watcher(api, watcher::Config::default()).try_filter_map(move |event| {
        future::ok(match event {
            Event::Apply(server) => readable(server).map(Event::Apply),
            Event::Delete(server) => readable(server).map(Event::Delete),
            Event::InitApply(server) => readable(server).map(Event::InitApply),
            Event::Init => Some(Event::Init),
            Event::InitDone => Some(Event::InitDone),
        })
    })
}

/// The watches, each a task of its own. Polled by the controller they depended on its passes: an operator whose
/// first passes waited for all lists was seen to wait for good.
struct Watches {
    trigger: mpsc::UnboundedSender<ObjectRef<MCPServer>>,
    metrics: Arc<Metrics>,
    tasks: JoinSet<()>,
}

impl Watches {
    /// Takes a watch into a cache; what is touched triggers a pass of the server it belongs to.
    fn watch<K>(
        &mut self,
        events: impl Stream<Item = Watched<K>> + Send + 'static,
        server_of: impl Fn(&K) -> Option<ObjectRef<MCPServer>> + Send + 'static,
    ) -> (Arc<Cache<K>>, reflector::Store<K>)
    where
        K: Resource<DynamicType = ()> + Clone + Debug + Send + Sync + 'static,
    {
        let (store, writer) = reflector::store();
        let cache = Arc::new(Cache::new(store.clone()));
        let observer = cache.clone();
        let stream = events
            .default_backoff()
            // Large, and never read by a pass.
            .modify(|object| object.managed_fields_mut().clear())
            .reflect(writer)
            .inspect_ok(move |event| observer.observe(event));
        self.spawn(stream.touched_objects(), server_of);
        (cache, store)
    }

    /// Watches the pods of all servers, keeping of each what tells how it does. The receiver is true once
    /// they have been listed.
    fn watch_pods(
        &mut self,
        api: Api<Pod>,
        config: watcher::Config,
    ) -> (Arc<Pods>, watch::Receiver<bool>) {
        let pods = Arc::new(Pods::default());
        let observer = pods.clone();
        let (listed, ready) = watch::channel(false);
        let stream = watcher(api, config)
            .default_backoff()
            .modify(|pod| {
                pod.managed_fields_mut().clear();
                pod.annotations_mut().clear();
                pod.spec = None;
            })
            .inspect_ok(move |event| {
                observer.observe(event);
                if matches!(event, Event::InitDone) {
                    listed.send_replace(true);
                }
            });
        self.spawn(stream.touched_objects(), server_of);
        (pods, ready)
    }

    fn spawn<K: Resource<DynamicType = ()> + Send + 'static>(
        &mut self,
        stream: impl Stream<Item = Result<K, watcher::Error>> + Send + 'static,
        server_of: impl Fn(&K) -> Option<ObjectRef<MCPServer>> + Send + 'static,
    ) {
        let (trigger, metrics) = (self.trigger.clone(), self.metrics.clone());
        self.tasks.spawn(stream.for_each(move |touched| {
            match touched {
                Ok(object) => {
                    if let Some(server) = server_of(&object) {
                        metrics.due(&server);
                        // It is received until the process ends.
                        let _ = trigger.send(server);
                    }
                }
                Err(error) => tracing::warn!("watching {}: {error}; trying again", K::plural(&())),
            }
            future::ready(())
        }));
    }
}

/// The server that a child or a pod belongs to: by its owner, or, when the reference was removed, by its
/// label.
fn server_of<K: Resource>(object: &K) -> Option<ObjectRef<MCPServer>> {
    let kind = MCPServer::kind(&());
    let owner = object
        .owner_references()
        .iter()
        .find(|owner| owner.kind == kind)
        .map(|owner| &owner.name);
    let name = owner.or_else(|| object.labels().get(labels::INSTANCE))?;
    Some(ObjectRef::new(name).within(&object.namespace()?))
}
