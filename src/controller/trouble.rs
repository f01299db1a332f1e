//! Why pods are not ready, in words that stay the same while nothing changes. Pure.

use std::cmp::Reverse;
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

use crate::api::defaults::Probes;
use crate::api::labels;

/// How long a container may run without getting ready before that is worth a word.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The first reason why a Deployment has not the pods it should have.
pub fn trouble<'a>(
    deployment: &Deployment,
    pods: impl IntoIterator<Item = &'a Pod>,
    probes: Probes<'_>,
    now: Timestamp,
) -> Option<String> {
    refused_pods(deployment).or_else(|| {
        let mut pods: Vec<_> = pods.into_iter().collect();
        // The newest first: those of the last template stay until it works, and their trouble is over.
        pods.sort_by_key(|pod| Reverse(pod.metadata.creation_timestamp.as_ref().map(|at| at.0)));
        pods.into_iter().find_map(|pod| of_pod(pod, probes, now))
    })
}

/// Pods that the API server does not take: quota, admission. The ReplicaSet's condition comes up here.
fn refused_pods(deployment: &Deployment) -> Option<String> {
    let conditions = deployment.status.as_ref()?.conditions.as_ref()?;
    let failure = conditions
        .iter()
        .find(|c| c.type_ == "ReplicaFailure" && c.status == "True")?;
    let reason = failure.reason.as_deref().unwrap_or("ReplicaFailure");
    let message = failure.message.as_deref().unwrap_or_default();
    // The message names a pod that never was, another one each time.
    let message = message
        .split_once(" is forbidden: ")
        .map_or(message, |(_, rest)| rest);
    Some(format!("{reason}: {message}"))
}

fn of_pod(pod: &Pod, probes: Probes<'_>, now: Timestamp) -> Option<String> {
    if pod.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let status = pod.status.as_ref()?;
    let name = pod.name_any();
    let unschedulable = status.conditions.iter().flatten().find(|condition| {
        condition.type_ == "PodScheduled"
            && condition.status == "False"
            && condition.reason.as_deref() == Some("Unschedulable")
    });
    if let Some(condition) = unschedulable {
        return Some(format!(
            "pod {name}: Unschedulable: {}",
            condition.message.as_deref().unwrap_or_default()
        ));
    }
    // An init container is not probed: it runs for as long as it takes.
    let init = status.init_container_statuses.iter().flatten();
    let init = init.filter(|container| {
        container
            .state
            .as_ref()
            .is_some_and(|state| state.running.is_none())
    });
    let containers = status.container_statuses.iter().flatten();
    init.chain(containers)
        .find_map(|container| {
            // The probes are those of the server; of a sidecar's nothing is known.
            let probes = if container.name == labels::CONTAINER {
                probes
            } else {
                Probes::None
            };
            of_container(container, probes, now)
        })
        .map(|reason| format!("pod {name}: {reason}"))
}

fn of_container(container: &ContainerStatus, probes: Probes<'_>, now: Timestamp) -> Option<String> {
    let state = container.state.as_ref()?;
    let name = &container.name;
    if let Some(waiting) = &state.waiting {
        return match waiting.reason.as_deref() {
            None | Some("ContainerCreating" | "PodInitializing") => None,
            // The two take turns, with texts that change.
            Some("ErrImagePull" | "ImagePullBackOff") => Some(format!(
                "ImagePullBackOff: the image {:?} of container {name} cannot be pulled",
                container.image
            )),
            Some("CrashLoopBackOff") => Some(crash(container, probes)),
            Some(reason) => Some(format!(
                "{reason}: {}",
                waiting.message.as_deref().unwrap_or_default()
            )),
        };
    }
    if let Some(terminated) = &state.terminated {
        return (terminated.exit_code != 0).then(|| crash(container, probes));
    }
    let running = state.running.as_ref()?;
    if container.ready {
        return None;
    }
    if last_end(container).is_some_and(|end| is_out_of_memory(end) || !was_killed(end.exit_code)) {
        return Some(crash(container, probes));
    }
    let since = running
        .started_at
        .as_ref()
        .map(|time| now.duration_since(time.0));
    let long = since.is_some_and(|since| since.unsigned_abs() >= PATIENCE && since.is_positive());
    let restarted = container.restart_count > 0;
    (long || restarted).then(|| {
        format!(
            "container {name} runs but does not get ready{}",
            hint(probes)
        )
    })
}

fn crash(container: &ContainerStatus, probes: Probes<'_>) -> String {
    let name = &container.name;
    let what = match last_end(container) {
        Some(end) if is_out_of_memory(end) => {
            "ran out of memory (OOMKilled); raise its memory limit".to_owned()
        }
        // A liveness probe that never succeeds ends in a kill.
        Some(end) if was_killed(end.exit_code) => {
            format!("was ended with code {}{}", end.exit_code, hint(probes))
        }
        // So does one of a server that takes being told to end for a success.
        Some(end) if end.exit_code == 0 => format!(
            "exits with code 0; see kubectl logs --previous{}",
            hint(probes)
        ),
        Some(end) => format!(
            "exits with code {}; see kubectl logs --previous",
            end.exit_code
        ),
        None => "keeps ending; see kubectl logs --previous".to_owned(),
    };
    format!("CrashLoopBackOff: container {name} {what}")
}

fn last_end(container: &ContainerStatus) -> Option<&ContainerStateTerminated> {
    let states = [&container.state, &container.last_state];
    let mut ends = states.into_iter().flatten();
    ends.find_map(|state| state.terminated.as_ref())
}

fn is_out_of_memory(end: &ContainerStateTerminated) -> bool {
    end.reason.as_deref() == Some("OOMKilled")
}

/// Ended by SIGKILL or SIGTERM.
fn was_killed(code: i32) -> bool {
    code == 137 || code == 143
}

fn hint(probes: Probes<'_>) -> String {
    match probes {
        Probes::Http {
            liveness,
            readiness,
        } => format!(
            "; it is probed by GET {liveness} and GET {readiness}: a server without such a path needs spec.health.type: TCP"
        ),
        Probes::Tcp => "; it is probed by connections to spec.port".to_owned(),
        Probes::None => String::new(),
    }
}
