//! Taking a server down: its Deployment goes, its pods get their time, then the finalizer goes. No pass
//! waits; each looks, acts, and says when to look again.

use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::jiff::Timestamp;
use kube::api::Patch;
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use super::apply;
use super::cache::Cache;
use super::error::{Class, Error};
use crate::api::{MCPServer, labels};

/// Pods get this long; then the finalizer goes all the same.
const LIMIT: Duration = Duration::from_secs(30);
/// A pass looks again after this long; the pods' end wakes it earlier.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// What is left to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing: the finalizer has gone; the rest is other finalizers' or the garbage collector's.
    Done,
    /// Look again after this long.
    Wait(Duration),
    /// The finalizer can go.
    RemoveFinalizer,
}

/// What is to be done, given whether children still run.
pub fn step(server: &MCPServer, deployment_exists: bool, pods: usize, now: Timestamp) -> Step {
    if !labels::has_finalizer(server) {
        return Step::Done;
    }
    let since = server
        .metadata
        .deletion_timestamp
        .as_ref()
        .map_or(now, |time| time.0);
    let elapsed = Duration::try_from(now.duration_since(since)).unwrap_or_default();
    if (!deployment_exists && pods == 0) || elapsed >= LIMIT {
        return Step::RemoveFinalizer;
    }
    Step::Wait(LIMIT.saturating_sub(elapsed).min(LOOK_AGAIN))
}

/// Marks the Deployment and deletes it. The mark is on its own metadata: on the pod template it would
/// start a rollout.
pub async fn take_down(
    client: &Client,
    cache: &Cache<Deployment>,
    deployment: &Deployment,
    now: Timestamp,
) -> Result<(), Error> {
    if deployment.metadata.deletion_timestamp.is_some() {
        return Ok(());
    }
    let name = deployment.name_any();
    let api =
        Api::<Deployment>::namespaced(client.clone(), &deployment.namespace().unwrap_or_default());
    if !deployment
        .annotations()
        .contains_key(labels::GRACEFUL_SHUTDOWN)
    {
        let mark = json!({"metadata": {
            "uid": deployment.uid(),
            "annotations": {labels::GRACEFUL_SHUTDOWN: now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()}
        }});
        let params = apply::as_manager();
        let action = format!("marking Deployment {name} for shutdown");
        match api
            .patch(&name, &params, &Patch::Merge(&mark))
            .await
            .map_err(Error::api(action))
        {
            Ok(marked) => {
                tracing::info!(child = name, "marked Deployment for shutdown");
                cache.wrote(marked);
            }
            Err(error) if error.is_not_found() => {
                cache.gone(deployment);
                return Ok(());
            }
            Err(error) if error.class() == Class::Transient => return Err(error),
            // A policy against the mark is none against the deletion.
            Err(error) => tracing::warn!("{error}"),
        }
    }
    apply::delete(client, cache, deployment).await
}

/// Removes our finalizer, if it still stands where it stood.
pub async fn remove_finalizer(
    client: &Client,
    cache: &Cache<MCPServer>,
    server: &MCPServer,
) -> Result<(), Error> {
    let name = server.name_any();
    let api = Api::<MCPServer>::namespaced(client.clone(), &server.namespace().unwrap_or_default());
    let left: Vec<_> = server
        .finalizers()
        .iter()
        .filter(|finalizer| *finalizer != labels::FINALIZER)
        .collect();
    let patch = json!({"metadata": {
        "uid": server.uid(),
        "resourceVersion": server.resource_version(),
        "finalizers": left,
    }});
    let params = apply::as_manager();
    let patched = api.patch(&name, &params, &Patch::Merge(&patch)).await;
    match patched.map_err(Error::api(format!(
        "removing the finalizer of MCPServer {name}"
    ))) {
        Ok(patched) if left.is_empty() => cache.gone(&patched),
        Ok(patched) => drop(cache.wrote(patched)),
        Err(error) if error.is_not_found() => cache.gone(server),
        Err(error) => return Err(error),
    }
    tracing::info!("removed the finalizer");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    #[test]
    fn the_finalizer_goes_with_the_pods_or_after_thirty_seconds() {
        let start = Timestamp::from_second(1_000).unwrap();
        let mut server = MCPServer::new("a", Default::default());
        server.metadata.deletion_timestamp = Some(Time(start));
        server.metadata.finalizers = Some(vec![labels::FINALIZER.to_owned()]);
        let after = |seconds: i64| Timestamp::from_second(1_000 + seconds).unwrap();
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
            ("the clock went back", false, 1, -5, Step::Wait(seconds(5))),
        ];
        for (what, deployment, pods, elapsed, expected) in table {
            assert_eq!(
                step(&server, deployment, pods, after(elapsed)),
                expected,
                "{what}"
            );
        }
        server.metadata.finalizers = Some(vec!["other".to_owned()]);
        assert_eq!(
            step(&server, true, 1, start),
            Step::Done,
            "only somebody else's finalizer is left"
        );
    }
}
