//! Deleting a server: its Deployment goes, its pods get their time, then the finalizer goes. No pass waits: each looks,
//! acts, and says when to look again.

use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::jiff::Timestamp;
use kube::api::Patch;
use serde_json::json;
use tokio::time::timeout;

use super::apply;
use super::context::{Context, is_ours};
use super::error::{Class, Error};
use super::events;
use super::queue::Next;
use super::report;
use super::status::{self, About};
use super::view::View;
use super::view::child::ChildView;
use super::view::server::ServerView;
use crate::api::labels;

/// Pods get this long; then the finalizer goes all the same.
const LIMIT: Duration = Duration::from_secs(30);
/// A pass after that tries for this long yet to delete what is left.
const LAST_TRY: Duration = Duration::from_secs(2);
/// A pass looks again after this long; the pods' end wakes it earlier.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// The garbage collector's finalizer of an object whose children are to stay.
const ORPHAN: &str = "orphan";

/// What is left to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Look again after this long.
    Wait(Duration),
    /// The finalizer can go.
    RemoveFinalizer,
}

/// What is to be done, given whether children still run, and how long ago the deletion was first seen. By a clock that
/// nobody sets: a jump of the wall clock would take the pods' time away.
pub fn step(deployment_exists: bool, pods: usize, elapsed: Duration) -> Step {
    if (!deployment_exists && pods == 0) || elapsed >= LIMIT {
        return Step::RemoveFinalizer;
    }
    Step::Wait(LIMIT.saturating_sub(elapsed).min(LOOK_AGAIN))
}

/// How long ago this process first saw that the server is being deleted.
fn elapsed(context: &Context, server: &ServerView) -> Duration {
    let seen = |memory: &mut super::memory::Memory| {
        *memory.deleting_since.get_or_insert_with(Instant::now)
    };
    context
        .memories
        .of(&server.key, server.uid(), seen)
        .elapsed()
}

/// One pass over a server that is being deleted.
pub async fn pass(context: &Context, server: &ServerView) -> Result<Next, Error> {
    if !server.has_finalizer() {
        return Ok(Next::OnChange);
    }
    // `kubectl delete --cascade=orphan`: the children are to stay, and run on.
    if server
        .finalizers
        .iter()
        .any(|finalizer| finalizer == ORPHAN)
    {
        remove_finalizer(context, server).await?;
        context.publisher.publish(server, &events::orphaned());
        return Ok(Next::OnChange);
    }
    let deployment = context.deployments.get(&server.key);
    // Not one without an owner: the collector takes the references away from what is to stay.
    let ours = |live: &ChildView<Deployment>| is_ours(server, live);
    // The pods of a Deployment that stays are not waited for.
    let stays = deployment.as_ref().is_some_and(|live| !ours(live));
    let ending = async {
        match deployment.filter(|live| ours(live)) {
            Some(live) => delete(context, server, &live).await,
            None => Ok(()),
        }
    };
    // Requests that hang, for a policy's sake for example, are not waited for any longer than the pods.
    let left = LIMIT.saturating_sub(elapsed(context, server));
    let limit = left.max(LAST_TRY);
    let told = timeout(limit, tell(context, server));
    let (refused, _) = futures::join!(timeout(limit, ending), told);
    let refused = refused.unwrap_or_else(|_| {
        tracing::warn!("the requests that end the server's children are not answered");
        Ok(())
    });
    let exists = context
        .deployments
        .get(&server.key)
        .is_some_and(|live| ours(&live));
    // The write of the status has made the version newer.
    let Some(server) = context.servers.known(&server.key, server.uid()) else {
        return Ok(Next::OnChange);
    };
    let pods = if stays {
        0
    } else {
        context.pods.count(&server.key)
    };
    match step(exists, pods, elapsed(context, &server)) {
        Step::Wait(time) => refused.map(|()| Next::In(time)),
        // Also when the Deployment cannot be deleted: the server does not stay for ever because of that.
        Step::RemoveFinalizer => {
            if let Err(error) = refused {
                tracing::warn!("the children are left to the garbage collector: {error}");
            }
            remove_finalizer(context, &server).await?;
            context.publisher.publish(&server, &events::deleted(pods));
            Ok(Next::OnChange)
        }
    }
}

/// When a failed pass over a server that is being deleted is to be followed by another one, at the latest.
pub fn retry_within(context: &Context, server: &ServerView) -> Duration {
    match step(true, 0, elapsed(context, server)) {
        Step::Wait(time) => time,
        Step::RemoveFinalizer => LOOK_AGAIN,
    }
}

/// Writes the status. One that cannot be written keeps nothing from going.
async fn tell(context: &Context, server: &ServerView) {
    let (object, _) = server.readable();
    let old = server.status();
    let about = About {
        server: &object,
        old: old.as_ref(),
        hint: "",
        domain: &context.settings.platform.cluster_domain,
    };
    let terminating = status::terminating(about, &context.observe(server), Timestamp::now());
    if let Err(error) = report::write(context, server, old.as_ref(), &terminating, &[]).await {
        tracing::warn!("{error}");
    }
}

/// Marks the Deployment and deletes it. The mark is on its own metadata: on the pod template it would start a rollout.
async fn delete(
    context: &Context,
    server: &ServerView,
    live: &ChildView<Deployment>,
) -> Result<(), Error> {
    if live.deleting {
        return Ok(());
    }
    let (key, uid) = (&server.key, live.uid());
    if !live.is_marked {
        let since = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let mark =
            json!({"metadata": {"uid": uid, "annotations": {labels::GRACEFUL_SHUTDOWN: since}}});
        let api = context.api::<Deployment>(key);
        let marked = api
            .patch(&key.name, &apply::as_manager(), &Patch::Merge(&mark))
            .await;
        match marked.map_err(Error::api(format!(
            "marking Deployment {} for shutdown",
            key.name
        ))) {
            Ok(marked) => {
                tracing::info!(child = &*key.name, "marked Deployment for shutdown");
                if let Ok(view) = ChildView::read(marked.text()) {
                    context.deployments.wrote(key, view);
                }
            }
            Err(error) if error.is_not_found() => {
                context.deployments.gone(key, uid);
                return Ok(());
            }
            Err(error) if error.class() == Class::Transient => return Err(error),
            // A policy against the mark is none against the deletion.
            Err(error) => tracing::warn!("{error}"),
        }
    }
    apply::delete(context, key, live).await
}

/// Removes our finalizer, if it still stands where it stood. The spec is not read: it may be unreadable.
async fn remove_finalizer(context: &Context, server: &ServerView) -> Result<(), Error> {
    let name = &server.key.name;
    let left: Vec<_> = server
        .finalizers
        .iter()
        .filter(|finalizer| *finalizer != labels::FINALIZER)
        .collect();
    let meta = server.meta();
    let patch = json!({"metadata": {"uid": meta.uid, "resourceVersion": meta.resource_version, "finalizers": left}});
    let api = context.api::<crate::api::MCPServer>(&server.key);
    let patched = api
        .patch(name, &apply::as_manager(), &Patch::Merge(&patch))
        .await;
    match patched.map_err(Error::api(format!(
        "removing the finalizer of MCPServer {name}"
    ))) {
        Ok(patched) if !left.is_empty() => {
            if let Ok(view) = ServerView::read(patched.text()) {
                context.servers.wrote(&server.key, view);
            }
        }
        Err(error) if !error.is_not_found() => return Err(error),
        Ok(_) | Err(_) => context.servers.gone(&server.key, server.uid()),
    }
    tracing::info!("removed the finalizer");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_finalizer_goes_with_the_pods_or_after_thirty_seconds() {
        let seconds = Duration::from_secs;
        let table = [
            ("nothing was ever there", false, 0, 0, Step::RemoveFinalizer),
            (
                "the Deployment is there",
                true,
                0,
                0,
                Step::Wait(seconds(5)),
            ),
            ("pods are there", false, 2, 1, Step::Wait(seconds(5))),
            (
                "pods are there, near the limit",
                false,
                2,
                28,
                Step::Wait(seconds(2)),
            ),
            ("pods have gone", false, 0, 3, Step::RemoveFinalizer),
            (
                "pods are there at the limit",
                false,
                2,
                30,
                Step::RemoveFinalizer,
            ),
        ];
        for (what, deployment, pods, elapsed, expected) in table {
            assert_eq!(step(deployment, pods, seconds(elapsed)), expected, "{what}");
        }
    }
}
