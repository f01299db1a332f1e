//! One pass: read → default → validate → build → apply → status. Each step takes the one before's type,
//! so that none can be left out; those that are `async` need the client.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use k8s_openapi::jiff::Timestamp;
use kube::api::Patch;
use kube::runtime::controller::Action;
use kube::runtime::reflector::ObjectRef;
use kube::{Api, Client, Resource, ResourceExt};
use serde_json::{Value, json};
use tracing::Instrument;

use super::apply::{self, Child};
use super::cache::{Cache, Pods, lock};
use super::deletion::{self, Step};
use super::drift::{self, Ownership};
use super::error::{Class, Error};
use super::events::{News, Publisher};
use super::status::{self, Observed};
use super::{build, events, span_of};
use crate::api::v1alpha1::Phase;
use crate::api::{MCPServer, MCPServerStatus, defaults, labels, validation};
use crate::metrics::Metrics;

/// A server that is not ready is looked at again after this long at the latest.
const NOT_READY_RETRY: Duration = Duration::from_secs(10);

/// The garbage collector's finalizer of an object whose children are to stay.
const ORPHAN: &str = "orphan";

/// What all passes share.
pub struct Context {
    pub(super) client: Client,
    pub(super) servers: Arc<Cache<MCPServer>>,
    pub(super) config_maps: Arc<Cache<ConfigMap>>,
    pub(super) deployments: Arc<Cache<Deployment>>,
    pub(super) services: Arc<Cache<Service>>,
    pub(super) pods: Arc<Pods>,
    pub(super) publisher: Publisher,
    pub(super) memory: Mutex<HashMap<ObjectRef<MCPServer>, Memory>>,
    pub(super) metrics: Arc<Metrics>,
}

/// What is remembered of a server between passes; losing it costs a write or a retry, nothing else.
#[derive(Clone, Default)]
pub(super) struct Memory {
    failures: u32,
    /// The cause of the last failure that was told in an Event, since the last pass without one.
    told: Option<String>,
    /// A hash of what there was when the last pass began.
    seen: u64,
    /// When it is worth another try, if it failed.
    again_at: Option<Instant>,
    status_written: Option<Instant>,
    /// The status differs from the one that is written, which was not long ago.
    status_waits: bool,
}

/// A server as it is to be, free of faults.
struct Valid(MCPServer);

/// Its children as they are to be.
struct Children {
    server: MCPServer,
    config_map: Option<ConfigMap>,
    deployment: Deployment,
    service: Option<Service>,
}

/// Begins a pass; or, if the last one failed and nothing has changed since it began, says how long that is to wait
/// yet. The watch brings back what a failed pass wrote into the status, and that would begin the next one at once.
pub fn begin(server: &MCPServer, context: &Context) -> Option<Duration> {
    let seen = context.seen(server);
    let mut memory = lock(&context.memory);
    let memory = memory.entry(ObjectRef::from_obj(server)).or_default();
    let left = memory
        .again_at
        .and_then(|at| at.checked_duration_since(Instant::now()));
    if left.is_some() && memory.seen == seen {
        return left;
    }
    memory.seen = seen;
    memory.again_at = None;
    memory.status_waits = false;
    None
}

/// Reconciles one server.
pub async fn reconcile(trigger: Arc<MCPServer>, context: Arc<Context>) -> Result<Action, Error> {
    let key = ObjectRef::from_obj(&*trigger);
    let Some(server) = context.newest(&trigger) else {
        return Ok(Action::await_change());
    };
    let now = Timestamp::now();
    let action = if server.metadata.deletion_timestamp.is_some() {
        take_down(&context, &server, now).await?
    } else {
        Box::pin(bring_up(&context, &server, now)).await?
    };
    if let Some(memory) = lock(&context.memory).get_mut(&key) {
        memory.failures = 0;
        memory.told = None;
    }
    Ok(action)
}

async fn bring_up(context: &Context, stored: &MCPServer, now: Timestamp) -> Result<Action, Error> {
    match validate(stored) {
        Ok(valid) => {
            let server = ensure_finalizer(context, valid).await?;
            let children = build(server)?;
            Box::pin(apply(context, children, now)).await
        }
        Err(faults) => {
            let observed = context.observe(stored);
            let status = status::status(stored, &faults, &observed, now);
            write_status(context, stored, status, &[]).await?;
            Err(Error::Invalid { faults })
        }
    }
}

/// Fills in defaults and checks the rules: the object may have been stored while no webhook ran.
fn validate(stored: &MCPServer) -> Result<Valid, Vec<String>> {
    let mut server = stored.clone();
    defaults::default(&mut server, None);
    let faults = validation::validate(&server, None);
    if faults.is_empty() {
        Ok(Valid(server))
    } else {
        Err(status::describe(&faults))
    }
}

async fn ensure_finalizer(context: &Context, Valid(mut server): Valid) -> Result<MCPServer, Error> {
    if labels::has_finalizer(&server) {
        return Ok(server);
    }
    defaults::add_finalizer(&mut server);
    let patch = json!({"metadata": {
        "uid": server.uid(),
        "resourceVersion": server.resource_version(),
        "finalizers": server.finalizers(),
    }});
    let api = context.api(&server);
    let params = apply::as_manager();
    let written = api
        .patch(&server.name_any(), &params, &Patch::Merge(&patch))
        .await
        .map_err(Error::api("adding the finalizer"))?;
    tracing::info!("added the finalizer");
    server.metadata = written.metadata.clone();
    context.servers.wrote(written);
    Ok(server)
}

fn build(server: MCPServer) -> Result<Children, Error> {
    let deployment = build::deployment::deployment(&server).map_err(|source| Error::Json {
        action: "merging spec.podTemplate".to_owned(),
        source,
    })?;
    Ok(Children {
        config_map: build::config_map::config_map(&server),
        service: build::service::service(&server),
        deployment,
        server,
    })
}

async fn apply(context: &Context, children: Children, now: Timestamp) -> Result<Action, Error> {
    let server = &children.server;
    // The config is there before the pods that read it; the Service does not depend on either.
    let (workload, service) = futures::join!(
        apply_workload(context, &children),
        apply_service(context, &children)
    );
    let mut error = None;
    let (config_map, deployment) = workload;
    let found = context.observe(server);
    let observed = Observed {
        config_map: match children.config_map {
            Some(_) => settle(config_map, found.config_map, &mut error),
            None => left_over(config_map, &mut error),
        },
        deployment: settle(deployment, found.deployment, &mut error),
        service: match children.service {
            Some(_) => settle(service, found.service, &mut error),
            None => left_over(service, &mut error),
        },
        pods: found.pods,
    };
    let faults: Vec<_> = error
        .as_ref()
        .filter(|error: &&Error| error.class() == Class::Configuration)
        .map(ToString::to_string)
        .into_iter()
        .collect();
    let status = status::status(server, &faults, &observed, now);
    let ready = matches!(status.phase, Some(Phase::Ready)) || server.spec.replicas == 0;
    let written = write_status(context, server, status, &observed.kinds()).await;
    match (error, written) {
        // What failed first says when to try again.
        (Some(error), _) | (None, Err(error)) => Err(error),
        (None, Ok(true)) if ready => Ok(Action::await_change()),
        (None, Ok(_)) => Ok(Action::requeue(NOT_READY_RETRY)),
    }
}

type Applied<K> = Result<Child<K>, Error>;

async fn apply_workload(
    context: &Context,
    children: &Children,
) -> (Applied<ConfigMap>, Applied<Deployment>) {
    let Context {
        client,
        config_maps,
        deployments,
        ..
    } = context;
    let server = &children.server;
    let config_map = match &children.config_map {
        Some(config_map) => apply::apply(client, config_maps, server, config_map).await,
        None => Ok(Child::NotWanted),
    };
    let has_config = matches!(&config_map, Ok(Child::Present(_) | Child::NotWanted));
    if !has_config {
        let deployment = apply::observe(deployments, server, &server.name_any());
        return (config_map, Ok(deployment));
    }
    let deployment = apply::apply(client, deployments, server, &children.deployment).await;
    if children.config_map.is_some() || deployment.is_err() {
        return (config_map, deployment);
    }
    // Pods of the old template may still want it until the new Deployment stands.
    match apply::prune(
        client,
        config_maps,
        server,
        &labels::config_map_name(server),
    )
    .await
    {
        Ok(()) => (config_map, deployment),
        Err(error) => (Err(error), deployment),
    }
}

async fn apply_service(context: &Context, children: &Children) -> Applied<Service> {
    let Context {
        client, services, ..
    } = context;
    let server = &children.server;
    if let Some(service) = &children.service {
        apply::apply(client, services, server, service).await
    } else {
        apply::prune(client, services, server, &server.name_any()).await?;
        Ok(Child::NotWanted)
    }
}

/// The child as the pass leaves it: as `found` when it could not be brought up to date.
fn settle<K>(applied: Applied<K>, found: Child<K>, failed: &mut Option<Error>) -> Child<K> {
    applied.unwrap_or_else(|error| {
        let text = error.to_string();
        failed.get_or_insert(error);
        let live = match found {
            Child::Present(live) => Some(live),
            _ => None,
        };
        Child::Refused(text, live)
    })
}

/// A child that is not wanted: what is left of it is in nobody's way.
fn left_over<K>(pruned: Applied<K>, failed: &mut Option<Error>) -> Child<K> {
    if let Err(error) = pruned {
        failed.get_or_insert(error);
    }
    Child::NotWanted
}

async fn take_down(context: &Context, server: &MCPServer, now: Timestamp) -> Result<Action, Error> {
    if !labels::has_finalizer(server) {
        return Ok(Action::await_change());
    }
    // `kubectl delete --cascade=orphan`: the children are to stay, and run on.
    if server
        .finalizers()
        .iter()
        .any(|finalizer| finalizer == ORPHAN)
    {
        context.publish(server, &events::orphaned()).await;
        deletion::remove_finalizer(&context.client, &context.servers, server).await?;
        return Ok(Action::await_change());
    }
    let status = status::terminating(server, &context.observe(server), now);
    // A status that cannot be written keeps nothing from going.
    if let Err(error) = write_status(context, server, status, &[]).await {
        tracing::warn!("{error}");
    }
    let namespace = server.namespace().unwrap_or_default();
    let deployment = context.deployments.get(&namespace, &server.name_any());
    // Not one without an owner: the collector takes the references away from what is to stay.
    let ours = |live: &Arc<Deployment>| drift::ownership(server, live.meta()) == Ownership::Ours;
    // The pods of a Deployment that stays are not waited for.
    let stays = deployment.as_ref().is_some_and(|live| !ours(live));
    let refused = match deployment.filter(ours) {
        Some(live) => deletion::take_down(&context.client, &context.deployments, &live, now).await,
        None => Ok(()),
    };
    let exists = context
        .deployments
        .get(&namespace, &server.name_any())
        .is_some_and(|live| ours(&live));
    // The status write may have made the version newer.
    let Some(server) = context.newest(server) else {
        return Ok(Action::await_change());
    };
    let pods = if stays {
        0
    } else {
        context.pods_of(&server).len()
    };
    match deletion::step(&server, exists, pods, now) {
        Step::Done => Ok(Action::await_change()),
        Step::Wait(time) => refused.map(|()| Action::requeue(time)),
        // Also when the Deployment cannot be deleted: the server does not stay for ever because of that.
        Step::RemoveFinalizer => {
            if let Err(error) = refused {
                tracing::warn!("given up: {error}");
            }
            context.publish(&server, &events::deleted(pods)).await;
            deletion::remove_finalizer(&context.client, &context.servers, &server).await?;
            Ok(Action::await_change())
        }
    }
}

/// Writes the status if it is due, and tells the news in it. False when it differs but is not written yet.
/// `children` are the kinds that are there.
async fn write_status(
    context: &Context,
    server: &MCPServer,
    status: MCPServerStatus,
    children: &[&str],
) -> Result<bool, Error> {
    let key = ObjectRef::from_obj(server);
    let old = server.status.as_ref();
    let is_due = {
        let mut memory = lock(&context.memory);
        let memory = memory.entry(key.clone()).or_default();
        let since = memory.status_written.map(|time| time.elapsed());
        let is_due = status::is_due(old, &status, since);
        memory.status_waits = !is_due && old != Some(&status);
        is_due
    };
    if !is_due {
        return Ok(old == Some(&status));
    }
    // A merge with a null for what there is not: whatever somebody else wrote there goes, too.
    let mut fields = json!({
        "phase": null, "selector": null, "endpoint": null, "observedGeneration": null, "lastTransitionTime": null,
    });
    let json = |source| Error::Json {
        action: "writing the status".to_owned(),
        source,
    };
    let given = serde_json::to_value(&status).map_err(json)?;
    if let (Some(fields), Value::Object(given)) = (fields.as_object_mut(), given) {
        fields.extend(given);
    }
    // Before the status is written: after it, nobody would know that they are not told yet.
    for news in events::of_change(old, &status, children) {
        context.publish(server, &news).await;
    }
    let body = json!({"metadata": {"uid": server.uid()}, "status": fields});
    let params = apply::as_manager();
    let patched = context
        .api(server)
        .patch_status(&server.name_any(), &params, &Patch::Merge(&body))
        .await;
    let written = match patched.map_err(Error::api("writing the status")) {
        Ok(written) => written,
        // Deleted meanwhile: nothing to report on.
        Err(error) if error.is_not_found() => return Ok(true),
        Err(error) => return Err(error),
    };
    context.servers.wrote(written);
    lock(&context.memory).entry(key).or_default().status_written = Some(Instant::now());
    let phase = status.phase.map_or("none", Phase::as_str);
    tracing::info!(phase, ready = status.ready_replicas, "status written");
    Ok(true)
}

/// Forgets a server that is gone.
pub fn forget(context: &Context, namespace: &str, name: &str) {
    lock(&context.memory).remove(&ObjectRef::new(name).within(namespace));
}

/// What to do after a failed pass: the class decides when to try again.
pub fn on_error(server: Arc<MCPServer>, error: &Error, context: Arc<Context>) -> Action {
    let key = ObjectRef::from_obj(&*server);
    let server = context.newest(&server).unwrap_or(server);
    let (failures, told, retry) = {
        let mut memory = lock(&context.memory);
        let memory = memory.entry(key.clone()).or_default();
        memory.failures = match error.class() {
            Class::Transient => memory.failures.saturating_add(1),
            Class::Configuration | Class::Permanent => 0,
        };
        let mut retry = retry_after(error, memory.failures, &server, Timestamp::now());
        if memory.status_waits {
            retry = retry.min(status::PROGRESS_INTERVAL);
        }
        memory.again_at = Some(Instant::now() + retry);
        (memory.failures, memory.told.clone(), retry)
    };
    let (class, subject, retry_seconds) = (error.class(), error.subject(), retry.as_secs());
    let span = span_of(server.meta());
    span.in_scope(|| {
        if matches!(error, Error::Refused { .. }) {
            tracing::debug!("not tried again yet: {error}");
        } else {
            tracing::warn!(
                ?class,
                ?subject,
                failures,
                retry_seconds,
                "pass failed: {error}"
            );
        }
    });
    // The status is as the pass left it.
    let status = server.status.as_ref();
    if let Some(news) = events::of_failure(error, failures, told.as_deref(), status) {
        lock(&context.memory).entry(key).or_default().told = Some(error.cause());
        tokio::spawn(async move { context.publish(&server, &news).await }.instrument(span));
    }
    Action::requeue(retry)
}

/// When to try again: of a server that is being deleted at the latest soon after its time is over.
fn retry_after(error: &Error, failures: u32, server: &MCPServer, now: Timestamp) -> Duration {
    let retry = error.retry_after(failures);
    if server.metadata.deletion_timestamp.is_none() {
        return retry;
    }
    // As of a moment ago: the time may have ended since the pass looked.
    match deletion::step(server, true, 0, now - NOT_READY_RETRY) {
        Step::Wait(time) => retry.min(time),
        Step::Done | Step::RemoveFinalizer => retry,
    }
}

fn version<K: Resource>(object: Option<Arc<K>>) -> Option<String> {
    object?.meta().resource_version.clone()
}

impl Context {
    /// Waits until everything that is watched has been listed once.
    pub(super) async fn wait_until_listed(
        &self,
        mut pods: tokio::sync::watch::Receiver<bool>,
    ) -> anyhow::Result<()> {
        self.servers.wait_until_ready().await?;
        self.config_maps.wait_until_ready().await?;
        self.deployments.wait_until_ready().await?;
        self.services.wait_until_ready().await?;
        pods.wait_for(|listed| *listed).await?;
        Ok(())
    }

    /// The server as the cache has it, which may be ahead of what began a pass; nothing when it is gone.
    fn newest(&self, server: &MCPServer) -> Option<Arc<MCPServer>> {
        let namespace = server.namespace().unwrap_or_default();
        self.servers.get(&namespace, &server.name_any())
    }

    /// A hash of all that a pass looks at. Of the server itself not its status, nor the version that changes with it.
    fn seen(&self, server: &MCPServer) -> u64 {
        let (namespace, name) = (server.namespace().unwrap_or_default(), server.name_any());
        let config_map = labels::config_map_name(server);
        let mut hasher = DefaultHasher::new();
        if let Some(server) = self.newest(server) {
            let meta = server.meta();
            let deleted = meta.deletion_timestamp.is_some();
            (&meta.uid, meta.generation, deleted).hash(&mut hasher);
            (&meta.labels, &meta.annotations, &meta.finalizers).hash(&mut hasher);
        }
        version(self.config_maps.get(&namespace, &config_map)).hash(&mut hasher);
        version(self.deployments.get(&namespace, &name)).hash(&mut hasher);
        version(self.services.get(&namespace, &name)).hash(&mut hasher);
        let mut pods: Vec<_> = self
            .pods_of(server)
            .into_iter()
            .map(Some)
            .map(version)
            .collect();
        pods.sort_unstable();
        pods.hash(&mut hasher);
        hasher.finish()
    }

    fn api(&self, server: &MCPServer) -> Api<MCPServer> {
        Api::namespaced(self.client.clone(), &server.namespace().unwrap_or_default())
    }

    fn pods_of(&self, server: &MCPServer) -> Vec<Arc<k8s_openapi::api::core::v1::Pod>> {
        self.pods
            .of(&server.namespace().unwrap_or_default(), &server.name_any())
    }

    /// The children as they are, when none is to be touched.
    fn observe(&self, server: &MCPServer) -> Observed {
        Observed {
            config_map: apply::observe(&self.config_maps, server, &labels::config_map_name(server)),
            deployment: apply::observe(&self.deployments, server, &server.name_any()),
            service: apply::observe(&self.services, server, &server.name_any()),
            pods: self.pods_of(server),
        }
    }

    async fn publish(&self, server: &MCPServer, news: &News) {
        self.publisher.publish(server, news).await;
    }
}
