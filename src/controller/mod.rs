//! The controller: watches → views → changes → passes.

pub mod apply;
pub mod cache;
pub mod context;
pub mod deletion;
pub mod drift;
pub mod error;
pub mod events;
mod failpoint;
pub mod item;
pub mod key;
pub mod managed_fields;
pub mod memory;
pub mod observed;
pub mod pods;
pub mod probes;
pub mod publisher;
pub mod queue;
pub mod reconcile;
pub mod refusals;
pub mod report;
pub mod status;
pub mod trouble;
pub mod view;
pub mod watch;
pub mod wish;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures::FutureExt;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::{Api, Client, Resource};
use tokio::sync::{mpsc, watch as signal};
use tokio::task::JoinSet;
use tracing::Instrument;

use self::cache::{Cache, Change};
pub use self::context::Settings;
use self::context::{Built, Context};
use self::item::Item;
use self::key::Key;
use self::queue::Next;
use self::view::View;
use self::view::child::ChildView;
use self::view::pod::PodView;
use self::view::server::ServerView;
use self::watch::{Blind, Seen};
use crate::api::{MCPServer, labels};
use crate::metrics::Metrics;

/// A server that is created comes with a burst of changes of its children and pods: within this time they make one pass.
const BURST: Duration = Duration::from_millis(100);

/// Events that wait when the controller is told to stop get this long.
const FLUSH: Duration = Duration::from_secs(2);

/// Whose servers are reconciled.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Those of the whole cluster.
    Cluster,
    /// Those of one namespace.
    Namespace(String),
}

impl Scope {
    fn api<K>(&self, client: &Client) -> Api<Item<K>>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        match self {
            Self::Cluster => Api::all(client.clone()),
            Self::Namespace(namespace) => Api::namespaced(client.clone(), namespace),
        }
    }

    /// The namespace, if it is one.
    pub fn namespace(&self) -> Option<&str> {
        match self {
            Self::Cluster => None,
            Self::Namespace(namespace) => Some(namespace),
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

/// Why the controller ended before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// It cannot see what it is to reconcile; another replica may.
    #[error(transparent)]
    Blind(#[from] Blind),
    /// A part of it died.
    #[error("a part of the controller panicked: {0}")]
    Died(#[from] tokio::task::JoinError),
}

/// Reconciles the servers of a scope until `shutdown`. An error when it ends before.
pub async fn run(
    client: Client,
    scope: Scope,
    settings: Settings,
    metrics: Arc<Metrics>,
    shutdown: impl Future<Output = ()> + Send + Sync + 'static,
) -> Result<(), Failure> {
    let context = Arc::new(Context::new(client, settings, metrics.clone()));
    let counted: Arc<dyn crate::metrics::Servers> = context.clone();
    metrics.count(&counted);
    let (change, changes) = mpsc::unbounded_channel();
    let mut watches = Watches {
        scope: &scope,
        context: &context,
        change,
        tasks: JoinSet::new(),
    };
    let shutdown = shutdown.shared();

    // The servers first: a child is compared with what its server wants when the watch delivers it.
    let servers = watches.servers();
    let listed = watches.listed(vec![servers], shutdown.clone()).await?;
    let children = vec![
        watches.children::<ConfigMap>(),
        watches.children::<Deployment>(),
        watches.children::<Service>(),
        watches.children::<PodDisruptionBudget>(),
        watches.pods(),
    ];
    // A pass that saw half of the children would make the others anew.
    if !listed || !watches.listed(children, shutdown.clone()).await? {
        return Ok(());
    }
    tracing::info!(servers = context.servers.len(), "watching {scope}");
    let mut tasks = watches.tasks;
    let publisher = context.publisher.clone().run(context.client.clone());
    tasks.spawn(async move {
        publisher.await;
        unreachable!("it never ends")
    });
    let (of_pass, of_panic) = (context.clone(), context.clone());
    let passes = queue::run(
        changes,
        move |key| pass(key, of_pass.clone()),
        move |key, text| {
            let span = key.span();
            span.in_scope(|| reconcile::panicked(key, text, &of_panic))
        },
        |depth| context.due.store(depth, Ordering::Relaxed),
        shutdown,
    );
    tokio::select! {
        () = passes => {}
        Some(ended) = tasks.join_next() => return Err(ended?.into()),
    }
    context.publisher.flush(FLUSH).await;
    Ok(())
}

async fn pass(key: Key, context: Arc<Context>) -> Next {
    let (span, start) = (key.span(), Instant::now());
    let passed = Box::pin(reconcile::pass(&key, &context))
        .instrument(span.clone())
        .await;
    let class = passed.as_ref().err().map(|failed| failed.class().as_str());
    context.metrics.passed(class, start.elapsed());
    passed.unwrap_or_else(|failed| span.in_scope(|| reconcile::failed(&key, &failed, &context)))
}

/// The watches, each a task of its own.
struct Watches<'a> {
    scope: &'a Scope,
    context: &'a Arc<Context>,
    change: mpsc::UnboundedSender<(Key, Duration)>,
    tasks: JoinSet<Blind>,
}

impl Watches<'_> {
    /// Waits until all of these are listed. False when it is to stop.
    async fn listed(
        &mut self,
        listed: Vec<signal::Receiver<bool>>,
        shutdown: impl Future<Output = ()>,
    ) -> Result<bool, Failure> {
        let all = async {
            for mut listed in listed {
                // An error means that the watch ended, which its task tells.
                let _ = listed.wait_for(|listed| *listed).await;
            }
        };
        tokio::select! {
            Some(ended) = self.tasks.join_next() => Err(ended?.into()),
            () = all => Ok(true),
            () = shutdown => Ok(false),
        }
    }

    fn watch<K>(
        &mut self,
        labels: Option<String>,
        see: impl FnMut(Seen<'_, K>) -> serde_json::Result<()> + Send + 'static,
    ) -> signal::Receiver<bool>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + 'static,
    {
        let (listed, is_listed) = signal::channel(false);
        let (client, metrics) = (self.context.client.clone(), self.context.metrics.clone());
        let run = watch::run(client, self.scope.clone(), labels, metrics, listed, see);
        self.tasks.spawn(run);
        is_listed
    }

    fn servers(&mut self) -> signal::Receiver<bool> {
        let (context, change) = (self.context.clone(), self.change.clone());
        self.watch::<MCPServer>(None, move |seen| {
            let cache = &context.servers;
            let changes = match seen {
                Seen::Deleted(item) => {
                    let view = ServerView::read(item.text())?;
                    cache.deleted(&view.key, view.uid(), view.version());
                    // Also when that was known: what is remembered of it is to be forgotten.
                    send(&change, view.key, Duration::ZERO);
                    Vec::new()
                }
                seen => taken_in(cache, seen, |item| {
                    let view = ServerView::read(item.text())?;
                    Ok((view.key.clone(), view))
                })?,
            };
            for Change { before, after } in changes {
                if let Some(view) = after.or(before) {
                    send(&change, view.key.clone(), Duration::ZERO);
                }
            }
            Ok(())
        })
    }

    fn children<K: Built>(&mut self) -> signal::Receiver<bool> {
        let (context, change) = (self.context.clone(), self.change.clone());
        self.watch::<K>(Some(of_ours()), move |seen| {
            let cache = K::cache(&context);
            let read = |item: &Item<K>| {
                let view = ChildView::read(item.text())?;
                let known = cache.known(&view.key, view.uid());
                let server = view.server();
                let wish = || context.wish::<K>(&server?);
                let view = drift::judge(view, item.text(), known.as_deref(), wish);
                serde_json::Result::Ok((view.key.clone(), view))
            };
            let changes = taken_in(cache, seen, read)?;
            for Change { before, after } in changes {
                for view in [before, after].into_iter().flatten() {
                    // Whose it is, and in whose way it is.
                    let named = view.key.beside(K::server_named(&view.key.name));
                    let owner = view.server().filter(|owner| *owner != named);
                    for server in [Some(named), owner].into_iter().flatten() {
                        send(&change, server, BURST);
                    }
                }
            }
            Ok(())
        })
    }

    fn pods(&mut self) -> signal::Receiver<bool> {
        let (context, change) = (self.context.clone(), self.change.clone());
        self.watch::<Pod>(Some(of_ours()), move |seen| {
            let pods = &context.pods;
            let read = |item: &Item<_>| PodView::read(item.text());
            let servers = match seen {
                Seen::ListBegins => {
                    pods.list_begins();
                    return Ok(());
                }
                Seen::Listed(item) => {
                    pods.listed(read(item)?);
                    return Ok(());
                }
                Seen::ListEnds => pods.list_ends(),
                Seen::Shown(item) => pods.shown(read(item)?),
                Seen::Deleted(item) => pods.deleted(&read(item)?),
            };
            for server in servers {
                send(&change, server, BURST);
            }
            Ok(())
        })
    }
}

/// Takes what a watch shows into a cache, and tells what that changes.
fn taken_in<K, V: View>(
    cache: &Cache<V>,
    seen: Seen<'_, K>,
    read: impl Fn(&Item<K>) -> serde_json::Result<(Key, V)>,
) -> serde_json::Result<Vec<Change<V>>> {
    Ok(match seen {
        Seen::ListBegins => {
            cache.list_begins();
            Vec::new()
        }
        Seen::Listed(item) => {
            let (key, view) = read(item)?;
            cache.listed(&key, view);
            Vec::new()
        }
        Seen::ListEnds => cache.list_ends(),
        Seen::Shown(item) => {
            let (key, view) = read(item)?;
            cache.shown(&key, view).into_iter().collect()
        }
        Seen::Deleted(item) => {
            let (key, view) = read(item)?;
            let change = cache.deleted(&key, view.uid(), view.version());
            change.into_iter().collect()
        }
    })
}

/// The server is to get a pass after this time at the latest.
fn send(change: &mpsc::UnboundedSender<(Key, Duration)>, server: Key, within: Duration) {
    // It is received until `run` ends.
    let _ = change.send((server, within));
}

/// Selects what the operator manages.
fn of_ours() -> String {
    format!("{}={}", labels::MANAGED_BY, labels::MANAGER)
}
