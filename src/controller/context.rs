//! What all passes share.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::{Api, Client};
use tokio::sync::Semaphore;

use super::cache::Cache;
use super::drift::{self, Ownership};
use super::failpoint;
use super::item::Item;
use super::key::Key;
use super::memory::Memories;
use super::observed::{Child, Observed};
use super::pods::Pods;
use super::publisher::Publisher;
use super::refusals::Refusals;
use super::view::View;
use super::view::child::{ChildKind, ChildView};
use super::view::server::ServerView;
use super::wish::Wish;
use crate::api::v1alpha1::Phase;
use crate::api::{MCPServer, Platform, defaults, labels};
use crate::build;
use crate::metrics::{Metrics, Servers};

/// Passes at one time over servers whose spec is large.
const LARGE_AT_ONCE: usize = 8;

/// What all passes share.
pub struct Context {
    /// Talks to the API server for what reconciles.
    pub client: Client,
    /// The MCPServers.
    pub servers: Cache<ServerView>,
    /// Their `ConfigMap`s.
    pub config_maps: Cache<ChildView<ConfigMap>>,
    /// Their Deployments.
    pub deployments: Cache<ChildView<Deployment>>,
    /// Their Services.
    pub services: Cache<ChildView<Service>>,
    /// Their `PodDisruptionBudget`s.
    pub disruption_budgets: Cache<ChildView<PodDisruptionBudget>>,
    /// Their pods.
    pub pods: Pods,
    /// Tells users.
    pub publisher: Publisher,
    /// What is remembered of each server.
    pub memories: Memories,
    /// What was not taken.
    pub refusals: Refusals,
    /// One permit per pass over a server whose spec is large: what these hold together is bounded.
    pub large: Semaphore,
    /// How many servers have a pass that is due and has not begun.
    pub due: AtomicUsize,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What is the same for all servers.
    pub settings: Settings,
}

/// What a controller is told beside what it watches.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// The name of this replica's pod, for Events.
    pub pod: Option<String>,
    /// The cluster.
    pub platform: Platform,
}

/// A kind of child: where its views are, and how it is built.
pub trait Built: ChildKind {
    /// The views of this kind.
    fn cache(context: &Context) -> &Cache<ChildView<Self>>;
    /// The child as it is to be; nothing when the server needs none. An error only for a pod template that
    /// validation refuses.
    fn build(server: &MCPServer, platform: &Platform) -> serde_json::Result<Option<Self>>;
    /// The server whose child has this name.
    fn server_named(child: &str) -> &str {
        child
    }
}

impl Built for ConfigMap {
    fn cache(context: &Context) -> &Cache<ChildView<Self>> {
        &context.config_maps
    }

    fn build(server: &MCPServer, _: &Platform) -> serde_json::Result<Option<Self>> {
        Ok(build::config_map::config_map(server))
    }

    fn server_named(child: &str) -> &str {
        child.strip_suffix(labels::CONFIG_SUFFIX).unwrap_or(child)
    }
}

impl Built for Deployment {
    fn cache(context: &Context) -> &Cache<ChildView<Self>> {
        &context.deployments
    }

    fn build(server: &MCPServer, platform: &Platform) -> serde_json::Result<Option<Self>> {
        build::deployment::deployment(server, platform).map(Some)
    }
}

impl Built for Service {
    fn cache(context: &Context) -> &Cache<ChildView<Self>> {
        &context.services
    }

    fn build(server: &MCPServer, _: &Platform) -> serde_json::Result<Option<Self>> {
        Ok(build::service::service(server))
    }
}

impl Built for PodDisruptionBudget {
    fn cache(context: &Context) -> &Cache<ChildView<Self>> {
        &context.disruption_budgets
    }

    fn build(server: &MCPServer, _: &Platform) -> serde_json::Result<Option<Self>> {
        Ok(build::disruption_budget::disruption_budget(server))
    }
}

impl Context {
    /// A context in which nothing is known yet.
    pub fn new(client: Client, settings: Settings, metrics: Arc<Metrics>) -> Self {
        Self {
            client,
            servers: Cache::default(),
            config_maps: Cache::default(),
            deployments: Cache::default(),
            services: Cache::default(),
            disruption_budgets: Cache::default(),
            pods: Pods::default(),
            publisher: Publisher::new(settings.pod.clone()),
            settings,
            memories: Memories::default(),
            refusals: Refusals::default(),
            large: Semaphore::new(LARGE_AT_ONCE),
            due: AtomicUsize::new(0),
            metrics,
        }
    }

    /// Requests for objects of a kind in a server's namespace.
    pub fn api<K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>>(
        &self,
        key: &Key,
    ) -> Api<Item<K>> {
        Api::namespaced(self.client.clone(), &key.namespace)
    }

    /// The child of a kind that the server of this name wants, for a watch to compare with.
    ///
    /// Nothing for a server whose spec is large: it is not at hand, and building it takes long, where the watch has one task
    /// for all namespaces. The pass compares that child instead, for the price of a read. Nothing either when the spec cannot be read, or
    /// when building panics: the pass comes upon the same, and tells it.
    pub fn wish<K: Built>(&self, server: &Key) -> Option<Wish<K>> {
        let view = self.servers.get(server)?;
        if view.is_spec_left_out() {
            return None;
        }
        let wish = || {
            failpoint::pass(server);
            let mut server = view.object().ok()?;
            defaults::default(&mut server, None);
            Wish::new(&K::build(&server, &self.settings.platform).ok()??).ok()
        };
        catch_unwind(AssertUnwindSafe(wish)).ok().flatten()
    }

    /// The children as they are, when none is to be touched.
    pub fn observe(&self, server: &ServerView) -> Observed {
        Observed {
            config_map: self.child(server, &config_map_key(&server.key)),
            deployment: self.child(server, &server.key),
            service: self.child(server, &server.key),
            disruption_budget: self.child(server, &server.key),
            pods: self.pods.of(&server.key),
        }
    }

    fn child<K: Built>(&self, server: &ServerView, key: &Key) -> Child<K> {
        let ours = K::cache(self).get(key).filter(|view| is_ours(server, view));
        ours.map_or(Child::Absent, Child::Present)
    }

    /// Forgets a server that has gone.
    pub fn forget(&self, key: &Key) {
        self.memories.forget(key);
        for child in children(key) {
            self.refusals.forget(&child);
        }
    }
}

impl Servers for Context {
    fn count(&self, phases: &mut HashMap<&'static str, i64>) {
        self.servers.each(|server| {
            let phase = server.phase().unwrap_or(Phase::Pending);
            *phases.entry(phase.as_str()).or_default() += 1;
        });
    }

    fn due(&self) -> usize {
        self.due.load(Ordering::Relaxed)
    }
}

/// Kind and name of each child that a server may have.
pub fn children(server: &Key) -> [(&'static str, Key); 4] {
    [
        ("ConfigMap", config_map_key(server)),
        ("Deployment", server.clone()),
        ("Service", server.clone()),
        ("PodDisruptionBudget", server.clone()),
    ]
}

/// The name of a server's ConfigMap.
pub fn config_map_key(server: &Key) -> Key {
    server.beside(labels::config_map_name(&server.name))
}

/// Whether the child is this server's by its owner reference.
pub fn is_ours<K: ChildKind>(server: &ServerView, view: &ChildView<K>) -> bool {
    drift::ownership(&server.key.name, server.uid(), &view.whose) == Ownership::Ours
}
