//! Why pods are not ready, in words that stay the same while nothing changes. Pure.

use std::cmp::Reverse;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;

use super::key::Key;
use super::view::child::DeploymentFacts;
use super::view::pod::{End, PodTrouble, PodView};
use crate::api::labels;

/// How long a container may run without getting ready, or not start at all, before that is worth a word.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Why a Deployment has not the pods that it is to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// The pod that this was found at: of many in the same trouble, now one comes first, now another.
    pub pod: Option<Arc<str>>,
    /// The trouble in one word, such as `CrashLoopBackOff`.
    pub cause: Box<str>,
    /// What there is to say beside it.
    pub detail: String,
}

/// `pod a-1: CrashLoopBackOff: container mcp-server …`.
impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(pod) = &self.pod {
            write!(f, "pod {pod}: ")?;
        }
        match &*self.detail {
            "" => f.write_str(&self.cause),
            detail => write!(f, "{}: {detail}", self.cause),
        }
    }
}

impl Trouble {
    fn new(cause: impl Into<Box<str>>, detail: impl Into<String>) -> Self {
        Self {
            pod: None,
            cause: cause.into(),
            detail: detail.into(),
        }
    }
}

/// The first reason why a Deployment has not the pods that it is to have; and when time alone may change the answer.
///
/// `hint` is what is said of the probes of the server's own container, or nothing.
pub fn trouble(
    deployment: &Key,
    facts: &DeploymentFacts,
    pods: &[Arc<PodView>],
    hint: &str,
    now: Timestamp,
) -> (Option<Trouble>, Option<Duration>) {
    let paused = facts.is_paused.then(|| {
        let Key { namespace, name } = deployment;
        let detail = format!(
            "the Deployment is paused, so no change is rolled out; kubectl rollout resume deployment/{name} -n {namespace}"
        );
        Trouble::new("Paused", detail)
    });
    // Where there is nothing to roll out, the pods are not ready for another reason.
    if paused.is_some() && (facts.updated < facts.replicas || facts.replicas == 0) {
        return (paused, None);
    }
    if let Some((reason, message)) = &facts.refused_pods {
        return (Some(refused_pods(reason, message)), None);
    }
    let mut pods: Vec<_> = pods.iter().collect();
    // The newest first: those of the last template stay until it works, and their trouble is over.
    pods.sort_by_key(|pod| Reverse(pod.created));
    let mut next: Option<Duration> = None;
    for pod in pods {
        match of_pod(pod, hint, now) {
            Told::Nothing => {}
            Told::In(left) => next = Some(next.map_or(left, |next| next.min(left))),
            Told::Now(trouble) => {
                let pod = Some(pod.key.name.clone());
                return (Some(Trouble { pod, ..trouble }), next);
            }
        }
    }
    let late = facts.deadline_passed.then(|| {
        let detail = "the rollout made no progress within its deadline; see the conditions of the Deployment's status";
        Trouble::new("ProgressDeadlineExceeded", detail)
    });
    (late.or(paused), next)
}

/// Pods that the API server does not take: quota, admission. The ReplicaSet's condition comes up here.
fn refused_pods(reason: &str, message: &str) -> Trouble {
    // The message names a pod that never was, another one each time.
    let message = [" is forbidden: ", " is invalid: "]
        .iter()
        .find_map(|words| message.split_once(words))
        .map_or(message, |(_, rest)| rest);
    let is_limit_range = [
        " usage per ",
        "limit to request ratio per ",
        "must be less than or equal to",
    ]
    .iter()
    .any(|words| message.contains(words));
    let hint = if is_limit_range {
        "; a LimitRange of the namespace does not allow the requests or limits, which are by default the operator's: set spec.resources"
    } else {
        ""
    };
    let reason = if reason.is_empty() {
        "ReplicaFailure"
    } else {
        reason
    };
    Trouble::new(reason, format!("{message}{hint}"))
}

/// What is to be said, and when.
enum Told {
    Nothing,
    /// Nothing yet; after this time it is worth a word.
    In(Duration),
    Now(Trouble),
}

fn of_pod(pod: &PodView, hint: &str, now: Timestamp) -> Told {
    let Some(trouble) = &pod.trouble else {
        return Told::Nothing;
    };
    // The probes are those of the server; of a sidecar's nothing is known.
    let hint_of = |container: &str| {
        if container == labels::CONTAINER {
            hint
        } else {
            ""
        }
    };
    Told::Now(match &**trouble {
        PodTrouble::Unschedulable(message) => Trouble::new("Unschedulable", &**message),
        PodTrouble::Gated => Trouble::new(
            "SchedulingGated",
            "it is not scheduled until its scheduling gates are removed",
        ),
        PodTrouble::Creating { since } => {
            if let Some(left) = patience_left(Some(*since), now) {
                return Told::In(left);
            }
            let Key { namespace, name } = &pod.key;
            let detail =
                format!("no container runs yet; see kubectl describe pod {name} -n {namespace}");
            Trouble::new("ContainerCreating", detail)
        }
        PodTrouble::Image { container, image } => {
            let detail = format!("the image {image:?} of container {container} cannot be pulled");
            Trouble::new("ImagePullBackOff", detail)
        }
        PodTrouble::Waiting { reason, message } => Trouble::new(reason.clone(), &**message),
        PodTrouble::Crash { container, end } => Trouble::new(
            "CrashLoopBackOff",
            crash(container, *end, hint_of(container)),
        ),
        PodTrouble::Running {
            container,
            since,
            restarted,
        } => {
            if let Some(left) = patience_left(*since, now).filter(|_| !restarted) {
                return Told::In(left);
            }
            let detail = format!(
                "container {container} runs but does not get ready{}",
                hint_of(container)
            );
            Trouble::new("NotReady", detail)
        }
    })
}

/// How long what began then is to wait yet before it is worth a word.
fn patience_left(since: Option<Timestamp>, now: Timestamp) -> Option<Duration> {
    let elapsed = since.map_or(Duration::ZERO, |since| {
        Duration::try_from(now.duration_since(since)).unwrap_or_default()
    });
    Some(PATIENCE.saturating_sub(elapsed)).filter(|left| !left.is_zero())
}

fn crash(container: &str, end: Option<End>, hint: &str) -> String {
    let what = match end {
        Some(End::OutOfMemory) => {
            "ran out of memory (OOMKilled); raise its memory limit".to_owned()
        }
        // A liveness probe that never succeeds ends in a kill.
        Some(End::Code(code @ (137 | 143))) => format!("was ended with code {code}{hint}"),
        // So does one of a server that takes being told to end for a success.
        Some(End::Code(0)) => format!("exits with code 0; see kubectl logs --previous{hint}"),
        Some(End::Code(code)) => format!("exits with code {code}; see kubectl logs --previous"),
        None => "keeps ending; see kubectl logs --previous".to_owned(),
    };
    format!("container {container} {what}")
}
