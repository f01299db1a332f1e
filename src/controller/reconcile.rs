//! One pass: validate → finalizer → build → apply → report. Each step takes what the step before it gives, so that none
//! can be left out; those that are `async` talk to the API server.

use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::jiff::Timestamp;
use kube::api::Patch;
use serde_json::json;

use super::apply;
use super::context::{self, Built, Context, config_map_key, is_ours};
use super::error::{CONFIGURATION_RETRY, Class, Error, Failed};
use super::key::Key;
use super::memory::Panic;
use super::observed::{Child, Observed};
use super::queue::Next;
use super::status::{self, About, Report};
use super::view::View;
use super::view::server::ServerView;
use super::wish::Wish;
use super::{deletion, events, failpoint, probes, report};
use crate::api::v1alpha1::Phase;
use crate::api::{MCPServer, MCPServerStatus, Platform, defaults, labels};
use crate::validation;

/// A server that is not ready is looked at again after this long, for safety: what changes comes by the watches, and what
/// time alone changes comes when it does.
const NOT_READY_LOOK: Duration = Duration::from_mins(5);
/// A server with a child that is being deleted is looked at again after this long.
const LEAVING_LOOK: Duration = Duration::from_secs(10);

/// A server as it is to be, free of faults.
struct Valid {
    /// As it is stored.
    view: ServerView,
    /// With defaults.
    object: MCPServer,
}

/// A server whose spec breaks rules, or cannot be read.
struct Faulty {
    object: MCPServer,
    faults: Vec<String>,
    is_unreadable: bool,
}

/// Its children as they are to be.
struct Children {
    config_map: Option<Wish<ConfigMap>>,
    deployment: Wish<Deployment>,
    service: Option<Wish<Service>>,
    disruption_budget: Option<Wish<PodDisruptionBudget>>,
    /// What is said of its probes.
    hint: String,
}

/// Its children as they are, after everything was tried.
struct Applied {
    observed: Observed,
    errors: Vec<Error>,
    hint: String,
}

/// Reconciles the server of this name.
pub async fn pass(key: &Key, context: &Context) -> Result<Next, Failed> {
    let Some(view) = context.servers.get(key) else {
        context.forget(key);
        return Ok(Next::Never);
    };
    let panic = context.memories.of(key, view.uid(), |memory| {
        let panic = memory.panic.clone();
        if panic != Panic::None {
            memory.panic = Panic::Telling;
        }
        panic
    });
    match panic {
        // Another wish of the user may do better.
        Panic::ToTell(text, of) if of == view.wish_of() => {
            return Ok(tell_panic(context, &view, text).await);
        }
        _ => context
            .memories
            .of(key, view.uid(), |memory| memory.panic = Panic::None),
    }
    failpoint::pass(key);
    let next = if view.deleting {
        deletion::pass(context, &view).await?
    } else {
        // None only when it is closed, which it never is.
        let _large = if view.is_spec_left_out() {
            context.large.acquire().await.ok()
        } else {
            None
        };
        match with_spec(context, view.clone()).await? {
            Some(view) => Box::pin(bring_up(context, &view)).await?,
            // The watch is about to tell.
            None => return Ok(Next::OnChange),
        }
    };
    context.memories.of(key, view.uid(), |memory| {
        memory.failures = 0;
        memory.told_failures.clear();
    });
    Ok(next)
}

/// The server with its spec: a large one is not held in memory between passes. Nothing when it has gone.
async fn with_spec(
    context: &Context,
    view: Arc<ServerView>,
) -> Result<Option<Arc<ServerView>>, Error> {
    if !view.is_spec_left_out() {
        return Ok(Some(view));
    }
    let api = context.api::<MCPServer>(&view.key);
    let found = api.get_opt(&view.key.name).await;
    let Some(item) = found.map_err(Error::api("reading the MCPServer"))? else {
        return Ok(None);
    };
    let whole = ServerView::with_whole_spec(item.text()).map_err(|source| Error::Json {
        action: "reading the MCPServer".to_owned(),
        source,
    })?;
    let is_it = whole.uid() == view.uid() && !whole.deleting;
    Ok(is_it.then(|| Arc::new(whole)))
}

/// The status of a server at which the operator panicked. It is tried again later.
async fn tell_panic(context: &Context, view: &ServerView, text: String) -> Next {
    if view.deleting {
        // The status says that it is being deleted.
        context
            .memories
            .of(&view.key, view.uid(), |memory| memory.panic = Panic::None);
        return Next::In(deletion::retry_within(context, view));
    }
    let (object, _) = view.readable();
    let (old, found) = untouched(context, view, &object, &[text]);
    let written = context
        .memories
        .of(&view.key, view.uid(), |memory| memory.written);
    let stored = match status::due_in(old.as_ref(), &found, written.as_ref(), Instant::now()) {
        Some(_) => report::store(context, view, &found).await,
        None => Ok(None),
    };
    context
        .memories
        .of(&view.key, view.uid(), |memory| memory.panic = Panic::None);
    match stored {
        Ok(Some(true)) => Next::In(Duration::ZERO),
        Ok(_) => Next::In(CONFIGURATION_RETRY),
        Err(error) => {
            tracing::warn!("the panic is not in the status: {error}");
            Next::In(CONFIGURATION_RETRY)
        }
    }
}

/// What follows a pass that panicked: an Event and the status tell it, and it is tried again later. A fault of the
/// operator at one server is not to stop the others, nor to go round through all replicas.
pub fn panicked(key: &Key, text: String, context: &Context) -> Next {
    let Some(server) = context.servers.get(key) else {
        return Next::Never;
    };
    let error = Error::Panicked { text };
    let is_new = context.memories.of(key, server.uid(), |memory| {
        let is_new = memory.panic != Panic::Telling;
        memory.panic = if is_new {
            Panic::ToTell(error.to_string(), server.wish_of())
        } else {
            Panic::None
        };
        is_new
    });
    context
        .metrics
        .passed(Some(error.class().as_str()), Duration::ZERO);
    let later = failed(key, &error.into(), context);
    if is_new {
        Next::In(Duration::ZERO)
    } else {
        later
    }
}

async fn bring_up(context: &Context, view: &ServerView) -> Result<Next, Failed> {
    match validate(view) {
        Ok(valid) => {
            let (valid, children) = match prepare(context, valid).await {
                Ok(prepared) => prepared,
                Err(error) => return Err(report_unprepared(context, view, error).await.into()),
            };
            let applied = Box::pin(apply(context, &valid, children)).await;
            report(context, &valid, applied).await
        }
        Err(faulty) => {
            if faulty.is_unreadable {
                context.metrics.unreadable("mcpservers");
            }
            Ok(report_faults(context, view, faulty).await?)
        }
    }
}

/// All that comes before the first child.
async fn prepare(context: &Context, valid: Valid) -> Result<(Valid, Children), Error> {
    let valid = ensure_finalizer(context, valid).await?;
    let children = build(&valid, &context.settings.platform)?;
    Ok((valid, children))
}

/// Fills in defaults and checks the rules: the object may have been stored while no webhook ran.
fn validate(view: &ServerView) -> Result<Valid, Box<Faulty>> {
    let (mut object, unreadable) = view.readable();
    if let Some(unreadable) = unreadable {
        let faults = vec![unreadable.0.to_string()];
        tracing::warn!(
            "this MCPServer cannot be read and is left alone; correct its spec: {}",
            faults[0]
        );
        return Err(Box::new(Faulty {
            object,
            faults,
            is_unreadable: true,
        }));
    }
    defaults::default(&mut object, None);
    let faults = validation::faults(&object, None);
    if faults.is_empty() {
        let view = view.clone();
        return Ok(Valid { view, object });
    }
    Err(Box::new(Faulty {
        object,
        faults: status::describe(&faults),
        is_unreadable: false,
    }))
}

async fn ensure_finalizer(context: &Context, valid: Valid) -> Result<Valid, Error> {
    let Valid { view, object } = valid;
    if view.has_finalizer() {
        return Ok(Valid { view, object });
    }
    let mut finalizers = view.finalizers.clone();
    finalizers.push(labels::FINALIZER.to_owned());
    let patch = json!({"metadata": {
        "uid": object.metadata.uid, "resourceVersion": object.metadata.resource_version, "finalizers": finalizers,
    }});
    let api = context.api::<MCPServer>(&view.key);
    let written = api
        .patch(&view.key.name, &apply::as_manager(), &Patch::Merge(&patch))
        .await;
    let written = written.map_err(Error::api("adding the finalizer"))?;
    tracing::info!("added the finalizer");
    let view = ServerView::read(written.text()).map_err(|source| Error::Json {
        action: "reading the MCPServer with its finalizer".to_owned(),
        source,
    })?;
    context.servers.wrote(&view.key, view.clone());
    Ok(Valid { view, object })
}

fn build(valid: &Valid, platform: &Platform) -> Result<Children, Error> {
    fn wish<K: Built>(server: &MCPServer, platform: &Platform) -> Result<Option<Wish<K>>, Error> {
        let built =
            K::build(server, platform).and_then(|child| child.as_ref().map(Wish::new).transpose());
        built.map_err(|source| Error::Json {
            action: format!("building the {} (spec.podTemplate)", K::kind(&())),
            source,
        })
    }
    let server = &valid.object;
    let deployment: Wish<Deployment> = wish(server, platform)?.ok_or_else(|| Error::Invalid {
        faults: vec!["this MCPServer has no Deployment".to_owned()],
    })?;
    Ok(Children {
        config_map: wish(server, platform)?,
        hint: probes::hint(&server.spec, &deployment.body),
        deployment,
        service: wish(server, platform)?,
        disruption_budget: wish(server, platform)?,
    })
}

async fn apply(context: &Context, valid: &Valid, children: Children) -> Applied {
    let server = &valid.view;
    let (key, budget) = (server.key.clone(), children.disruption_budget.as_ref());
    // The config is there before the pods that read it; the others do not depend on either.
    let (workload, service, budget) = futures::join!(
        apply_workload(context, server, &children),
        apply_or_prune(context, server, children.service.as_ref(), key.clone()),
        apply_or_prune(context, server, budget, key.clone()),
    );
    let (config_map, deployment) = workload;
    let (config_map, config_failed) =
        as_left(context, server, &config_map_key(&server.key), config_map);
    let (deployment, deployment_failed) = as_left(context, server, &server.key, deployment);
    let (service, service_failed) = as_left(context, server, &key, service);
    let (disruption_budget, budget_failed) = as_left(context, server, &key, budget);
    Applied {
        observed: Observed {
            config_map,
            deployment,
            service,
            disruption_budget,
            pods: context.pods.of(&server.key),
        },
        errors: [
            config_failed,
            deployment_failed,
            service_failed,
            budget_failed,
        ]
        .into_iter()
        .flatten()
        .collect(),
        hint: children.hint,
    }
}

/// What came of one child: whether it was wanted, and how it is, or the error.
struct Tried<K: Built> {
    is_wanted: bool,
    child: Result<Child<K>, Error>,
}

async fn apply_workload(
    context: &Context,
    server: &ServerView,
    children: &Children,
) -> (Tried<ConfigMap>, Tried<Deployment>) {
    let wanted = |child| Tried {
        is_wanted: true,
        child,
    };
    let config_key = config_map_key(&server.key);
    let Some(config) = &children.config_map else {
        let deployment = apply::apply(context, server, &children.deployment).await;
        // Pods of the old template may want the config until the new Deployment stands.
        let config_map = if deployment.is_ok() {
            apply_or_prune(context, server, None, config_key).await
        } else {
            Tried {
                is_wanted: false,
                child: Ok(Child::NotWanted),
            }
        };
        return (config_map, wanted(deployment));
    };
    let config_map = apply::apply(context, server, config).await;
    let deployment = match &config_map {
        Ok(Child::Present(_)) => apply::apply(context, server, &children.deployment).await,
        _ => Ok(context.observe(server).deployment),
    };
    (
        Tried {
            is_wanted: true,
            child: config_map,
        },
        wanted(deployment),
    )
}

async fn apply_or_prune<K: Built>(
    context: &Context,
    server: &ServerView,
    wish: Option<&Wish<K>>,
    key: Key,
) -> Tried<K> {
    let child = match wish {
        Some(wish) => apply::apply(context, server, wish).await,
        None => apply::prune::<K>(context, server, &key)
            .await
            .map(|()| Child::NotWanted),
    };
    Tried {
        is_wanted: wish.is_some(),
        child,
    }
}

/// The child as the pass leaves it, and the error. A child that could not be brought up to date is as it was; what is
/// left of one that is not wanted is in nobody's way.
fn as_left<K: Built>(
    context: &Context,
    server: &ServerView,
    key: &Key,
    tried: Tried<K>,
) -> (Child<K>, Option<Error>) {
    match tried.child {
        Ok(child) => (child, None),
        Err(error) if !tried.is_wanted => (Child::NotWanted, Some(error)),
        Err(error) => {
            let live = K::cache(context).get(key);
            let live = live.filter(|live| is_ours(server, live));
            (Child::Refused(error.to_string(), live), Some(error))
        }
    }
}

async fn report(context: &Context, valid: &Valid, applied: Applied) -> Result<Next, Failed> {
    let Applied {
        observed,
        mut errors,
        hint,
    } = applied;
    let of_the_spec = errors.iter().filter(|error| error.class().is_of_the_spec());
    let faults: Vec<_> = of_the_spec.map(ToString::to_string).collect();
    let server = &valid.view;
    let old = server.status();
    let about = About {
        server: &valid.object,
        old: old.as_ref(),
        hint: &hint,
        domain: &context.settings.platform.cluster_domain,
    };
    let found = status::status(about, &faults, &observed, Timestamp::now());
    let written = report::write(context, server, old.as_ref(), &found, &observed.kinds()).await;
    let waits = written.as_ref().ok().copied().flatten();
    let now = Instant::now();
    let names = context::children(&server.key);
    let conflicts = names
        .iter()
        .filter_map(|name| context.refusals.conflict_left(name, now))
        // One that is over and was not looked at is waited for by nobody.
        .filter(|left| !left.is_zero());
    let changes_in = [waits, found.changes_in]
        .into_iter()
        .flatten()
        .chain(conflicts)
        .min();
    context.memories.of(&server.key, server.uid(), |memory| {
        memory.changes_in = changes_in;
    });
    errors.extend(written.err());
    if let Some(failed) = Failed::of(errors) {
        return Err(failed);
    }
    let look = if observed.is_leaving() {
        // That a child has gone may have been known before the watch tells it.
        LEAVING_LOOK
    } else if found.status.phase == Some(Phase::Ready) {
        return Ok(changes_in.map_or(Next::OnChange, Next::In));
    } else {
        NOT_READY_LOOK
    };
    Ok(Next::In(changes_in.map_or(look, |time| time.min(look))))
}

/// The status of a server whose children are left as they are, for these faults; after the one that it has.
fn untouched(
    context: &Context,
    server: &ServerView,
    object: &MCPServer,
    faults: &[String],
) -> (Option<MCPServerStatus>, Report) {
    let old = server.status();
    let about = About {
        server: object,
        old: old.as_ref(),
        hint: "",
        domain: &context.settings.platform.cluster_domain,
    };
    let observed = context.observe(server);
    let found = status::status(about, faults, &observed, Timestamp::now());
    (old, found)
}

/// No child was looked at. The status tells why, if somebody has to change something for it to be otherwise.
async fn report_unprepared(context: &Context, server: &ServerView, error: Error) -> Error {
    if !error.class().is_of_the_spec() {
        return error;
    }
    let (mut object, _) = server.readable();
    defaults::default(&mut object, None);
    let (old, found) = untouched(context, server, &object, &[error.to_string()]);
    match report::write(context, server, old.as_ref(), &found, &[]).await {
        Ok(waits) => context.memories.of(&server.key, server.uid(), |memory| {
            memory.changes_in = waits;
        }),
        Err(second) => tracing::warn!("the status does not tell what failed: {second}"),
    }
    error
}

async fn report_faults(
    context: &Context,
    server: &ServerView,
    faulty: Box<Faulty>,
) -> Result<Next, Error> {
    let (old, found) = untouched(context, server, &faulty.object, &faulty.faults);
    let waits = report::write(context, server, old.as_ref(), &found, &[]).await?;
    if waits == Some(Duration::ZERO) {
        return Ok(Next::In(Duration::ZERO));
    }
    context.memories.of(&server.key, server.uid(), |memory| {
        memory.changes_in = waits;
    });
    Err(Error::Invalid {
        faults: faulty.faults,
    })
}

/// What follows a failed pass: the class decides when to try again.
pub fn failed(key: &Key, failed: &Failed, context: &Context) -> Next {
    let Some(server) = context.servers.get(key) else {
        return Next::Never;
    };
    let may_pass = |error: &Error| matches!(error.class(), Class::Transient | Class::Policy);
    let (failures, mut told, changes_in) = context.memories.of(key, server.uid(), |memory| {
        if failed.new_ones().next().is_some() {
            memory.failures = if failed.new_ones().any(may_pass) {
                memory.failures.saturating_add(1)
            } else {
                0
            };
        }
        (
            memory.failures,
            memory.told_failures.clone(),
            memory.changes_in.take(),
        )
    });
    // A status that waits to be written is looked at sooner.
    let mut retry = failed
        .retry_after(failures)
        .min(changes_in.unwrap_or(Duration::MAX));
    if server.deleting {
        retry = retry.min(deletion::retry_within(context, &server));
    }
    let retry_seconds = retry.as_secs();
    // The status is as the pass left it.
    let status: Option<MCPServerStatus> = server.status();
    for error in failed.new_ones() {
        let (class, subject) = (error.class(), error.subject());
        tracing::warn!(
            ?class,
            ?subject,
            failures,
            retry_seconds,
            "pass failed: {error}"
        );
        if let Some(news) = events::of_failure(error, failures, &told, status.as_ref()) {
            told.insert(error.cause());
            context.publisher.publish(&server, &news);
        }
    }
    context
        .memories
        .of(key, server.uid(), |memory| memory.told_failures = told);
    Next::In(retry)
}

#[cfg(test)]
mod tests;
