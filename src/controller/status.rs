//! The status that tells the truth about a server. Pure: what was observed in, a status out.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

use super::key::Key;
use super::memory::Written;
use super::observed::{Child, Observed};
use super::trouble::{Trouble, trouble};
use super::view::child::{DeploymentFacts, Lack};
use crate::api::v1alpha1::{Address, Phase};
use crate::api::{FieldError, MCPServer, MCPServerStatus, defaults, labels};

/// Counters that change while a rollout goes on are written this often at most.
pub const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);
/// A pod more or less that makes none ready is written this often at most: a start takes its time.
const START_INTERVAL: Duration = Duration::from_mins(1);

/// The server that a status is about.
#[derive(Clone, Copy, Debug)]
pub struct About<'a> {
    /// The server, with defaults. Where its spec cannot be read, with what of it can.
    pub server: &'a MCPServer,
    /// The status that it had.
    pub old: Option<&'a MCPServerStatus>,
    /// What is said of its probes, where they may be why it is not ready.
    pub hint: &'a str,
    /// The DNS domain in which its Service is found.
    pub domain: &'a str,
}

/// A status, and what it was made of.
#[derive(Clone, Debug)]
pub struct Report {
    /// The status.
    pub status: MCPServerStatus,
    /// A hash of it without its counters; of a reason for not being ready, only that there is one.
    pub gist: u64,
    /// How the pods do, when there is a Deployment of ours.
    pub progress: Option<Progress>,
    /// When time alone may change the status.
    pub changes_in: Option<Duration>,
}

/// How the pods do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Pods that are ready.
    pub ready: i32,
    /// Pods that are wanted.
    pub wanted: i32,
    /// Why they are not those that the spec asks for.
    pub behind: Option<String>,
    /// Why they are not ready.
    pub trouble: Option<Trouble>,
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Deployment has {}/{} ready replicas",
            self.ready, self.wanted
        )?;
        match (&self.behind, &self.trouble) {
            (Some(behind), _) => write!(f, ", but is not up to date: {behind}"),
            (None, Some(trouble)) => write!(f, ": {trouble}"),
            (None, None) => Ok(()),
        }
    }
}

/// The status of a server whose spec is as `faults` say.
pub fn status(about: About<'_>, faults: &[String], observed: &Observed, now: Timestamp) -> Report {
    let pods = pods(about, observed, now);
    let configuration = configuration_valid(faults);
    let service = service_ready(about, observed);
    let ready = ready(about, &configuration, observed, &pods.finding, &service);
    let is_late = observed
        .deployment
        .view()
        .is_some_and(|view| view.facts.deadline_passed);
    let phase = match (configuration.is_true, ready.is_true) {
        (false, _) => Phase::Failed,
        (true, true) => Phase::Ready,
        (true, false) if is_late => Phase::Failed,
        (true, false) => Phase::Pending,
    };
    assemble(
        about,
        phase,
        vec![configuration, service, ready],
        pods,
        observed,
        now,
    )
}

/// The status of a server that is being deleted.
pub fn terminating(about: About<'_>, observed: &Observed, now: Timestamp) -> Report {
    let ready = Finding::no("Ready", "Terminating", "MCPServer is being deleted");
    let pods = pods(about, observed, now);
    assemble(about, Phase::Terminating, vec![ready], pods, observed, now)
}

/// A condition before it is compared with the one that was.
struct Finding {
    type_: &'static str,
    is_true: bool,
    reason: &'static str,
    message: String,
    /// The message without what changes while nothing of note happens.
    gist: Option<&'static str>,
    /// What the condition `Ready` says of it, where that is known.
    cause: Option<String>,
}

impl Finding {
    fn new(
        type_: &'static str,
        is_true: bool,
        reason: &'static str,
        message: impl Into<String>,
    ) -> Self {
        Self {
            type_,
            is_true,
            reason,
            message: message.into(),
            gist: None,
            cause: None,
        }
    }

    fn yes(type_: &'static str, reason: &'static str, message: impl Into<String>) -> Self {
        Self::new(type_, true, reason, message)
    }

    fn no(type_: &'static str, reason: &'static str, message: impl Into<String>) -> Self {
        Self::new(type_, false, reason, message)
    }

    /// A message that is the cause, too.
    fn because(self) -> Self {
        let cause = Some(self.message.clone());
        Self { cause, ..self }
    }

    fn is_false(&self) -> bool {
        !self.is_true
    }
}

fn configuration_valid(faults: &[String]) -> Finding {
    const TYPE: &str = "ConfigurationValid";
    if faults.is_empty() {
        Finding::yes(TYPE, "ConfigurationValid", "The configuration is valid")
    } else {
        Finding::no(TYPE, "ConfigurationInvalid", faults.join("; "))
    }
}

/// What is said of the Deployment.
struct Pods {
    finding: Finding,
    progress: Option<Progress>,
    changes_in: Option<Duration>,
}

fn pods(about: About<'_>, observed: &Observed, now: Timestamp) -> Pods {
    const TYPE: &str = "DeploymentReady";
    let said = |finding| Pods {
        finding,
        progress: None,
        changes_in: None,
    };
    if let Some(text) = observed
        .config_map
        .conflict()
        .or(observed.deployment.conflict())
    {
        return said(Finding::no(TYPE, "NameConflict", text));
    }
    let behind = observed.behind();
    if let Child::Leaving(text) = &observed.deployment {
        return said(Finding::no(TYPE, "DeploymentNotReady", text).because());
    }
    let Some(view) = observed.deployment.view() else {
        let absent = Finding::no(
            TYPE,
            "DeploymentNotFound",
            behind.unwrap_or("Deployment does not exist"),
        );
        return said(if behind.is_some() {
            absent.because()
        } else {
            absent
        });
    };
    let (facts, wanted) = (&view.facts, about.server.spec.replicas);
    let mut progress = Progress {
        ready: facts.ready,
        wanted,
        behind: behind.map(ToOwned::to_owned),
        trouble: None,
    };
    let mut changes_in = None;
    let finding = if progress.behind.is_none() && is_rolled_out(facts, wanted) {
        Finding::yes(TYPE, "DeploymentReady", progress.to_string())
    } else {
        let (found, next) = trouble(&view.key, facts, &observed.pods, about.hint, now);
        progress.trouble = found.filter(|_| progress.behind.is_none());
        changes_in = next;
        let cause = progress
            .behind
            .clone()
            .or(progress.trouble.as_ref().map(ToString::to_string));
        Finding {
            // Pods come and go; that there is a reason, or none, is of note.
            gist: Some(if progress.behind.is_some() {
                "behind"
            } else if progress.trouble.is_some() {
                "in trouble"
            } else {
                "going on"
            }),
            cause,
            ..Finding::no(TYPE, "DeploymentNotReady", progress.to_string())
        }
    };
    Pods {
        finding,
        progress: Some(progress),
        changes_in,
    }
}

/// All pods are of the newest template, ready, and no other ones are left.
fn is_rolled_out(facts: &DeploymentFacts, wanted: i32) -> bool {
    let counts = [facts.replicas, facts.updated, facts.ready];
    facts.is_observed && counts.iter().all(|count| *count == wanted)
}

fn service_ready(about: About<'_>, observed: &Observed) -> Finding {
    const TYPE: &str = "ServiceReady";
    if !about.server.spec.transport.is_network() {
        return Finding::yes(TYPE, "NotRequired", "A stdio server has no Service");
    }
    match &observed.service {
        Child::Present(service) => match service.facts {
            None => Finding::yes(TYPE, "ServiceReady", "Service is ready"),
            Some(lack) => Finding::no(TYPE, "ServiceNotReady", format!("Service {lack}")).because(),
        },
        Child::Conflict(text) => Finding::no(TYPE, "NameConflict", text),
        Child::Refused(text, Some(_)) | Child::Leaving(text) => {
            Finding::no(TYPE, "ServiceNotReady", text).because()
        }
        Child::Refused(text, None) => Finding::no(TYPE, "ServiceNotFound", text).because(),
        Child::Absent | Child::NotWanted => {
            Finding::no(TYPE, "ServiceNotFound", "Service does not exist")
        }
    }
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ClusterIp => "has no cluster IP yet",
            Self::Ingress => "waits for the load balancer's address",
            Self::NodePort => "has no node port yet",
        })
    }
}

fn ready(
    about: About<'_>,
    configuration: &Finding,
    observed: &Observed,
    deployment: &Finding,
    service: &Finding,
) -> Finding {
    const TYPE: &str = "Ready";
    if configuration.is_false() {
        return Finding::no(TYPE, "ConfigurationInvalid", configuration.message.clone());
    }
    let conflicts = [
        observed.config_map.conflict(),
        observed.deployment.conflict(),
        observed.service.conflict(),
        observed.disruption_budget.conflict(),
    ];
    if let Some(conflict) = conflicts.into_iter().flatten().next() {
        return Finding::no(TYPE, "NameConflict", conflict);
    }
    if about.server.spec.replicas == 0 {
        return Finding::yes(TYPE, "ScaledToZero", "MCPServer is scaled to zero replicas");
    }
    let message = match (deployment.is_true, service.is_true) {
        (true, true) => {
            return Finding::yes(
                TYPE,
                "MCPServerReady",
                "MCPServer is ready and serving requests",
            );
        }
        (false, true) => "Deployment is not ready",
        (true, false) => "Service is not ready",
        (false, false) => "Deployment and Service are not ready",
    };
    let unready = [deployment, service]
        .into_iter()
        .filter(|finding| finding.is_false());
    let causes: Vec<_> = unready
        .filter_map(|finding| finding.cause.as_deref())
        .collect();
    Finding {
        // The causes' own conditions tell whether they are of note.
        gist: Some(message),
        ..Finding::no(
            TYPE,
            "MCPServerNotReady",
            if causes.is_empty() {
                message.to_owned()
            } else {
                format!("{message}: {}", causes.join("; "))
            },
        )
    }
}

/// The conditions of kstatus: with them Flux, Argo CD and `helm --wait` see what is.
fn kstatus(phase: Phase, ready: &Finding) -> Option<Finding> {
    let type_ = match phase {
        Phase::Ready => return None,
        Phase::Failed => "Stalled",
        Phase::Pending | Phase::Terminating => "Reconciling",
    };
    Some(Finding {
        gist: ready.gist,
        ..Finding::yes(type_, ready.reason, ready.message.clone())
    })
}

fn assemble(
    about: About<'_>,
    phase: Phase,
    mut findings: Vec<Finding>,
    pods: Pods,
    observed: &Observed,
    now: Timestamp,
) -> Report {
    let old = about.old.cloned().unwrap_or_default();
    let generation = about.server.metadata.generation;
    findings.insert(1.min(findings.len()), pods.finding);
    let ready = findings.iter().find(|finding| finding.type_ == "Ready");
    findings.extend(ready.and_then(|ready| kstatus(phase, ready)));

    let mut conditions = old.conditions.clone();
    // What is not said any more is not there any more.
    conditions.retain(|condition| {
        !matches!(condition.type_.as_str(), "Stalled" | "Reconciling")
            || findings
                .iter()
                .any(|finding| finding.type_ == condition.type_)
    });
    let mut last_transition_time = old.last_transition_time.clone();
    let mut gist = DefaultHasher::new();
    let endpoint = (phase == Phase::Ready && about.server.spec.replicas > 0)
        .then(|| endpoint(about.server, about.domain));
    (phase.as_str(), generation, &endpoint).hash(&mut gist);
    for finding in findings {
        let message = short(finding.message);
        let of_note = finding.gist.unwrap_or(&message);
        (finding.type_, finding.is_true, finding.reason, of_note).hash(&mut gist);
        let before = conditions
            .iter()
            .position(|condition| condition.type_ == finding.type_);
        let status = if finding.is_true { "True" } else { "False" };
        let unchanged = before
            .map(|at| &conditions[at])
            .filter(|condition| condition.status == status);
        let since = unchanged.map_or(Time(seconds(now)), |condition| {
            condition.last_transition_time.clone()
        });
        if finding.type_ == "Ready" && (unchanged.is_none() || last_transition_time.is_none()) {
            last_transition_time = Some(since.clone());
        }
        let condition = Condition {
            type_: finding.type_.to_owned(),
            status: status.to_owned(),
            reason: finding.reason.to_owned(),
            message,
            observed_generation: generation,
            last_transition_time: since,
        };
        match before {
            Some(at) => conditions[at] = condition,
            None => conditions.push(condition),
        }
    }
    let counts = observed.deployment.view().map(|view| &view.facts);
    Report {
        status: MCPServerStatus {
            phase: Some(phase),
            conditions,
            ready_replicas: counts.map_or(0, |facts| facts.ready),
            replicas: counts.map_or(0, |facts| facts.replicas),
            selector: Some(labels::selector_string(&about.server.name_any())),
            address: endpoint
                .is_some()
                .then(|| address(about.server, about.domain))
                .flatten(),
            endpoint,
            observed_generation: generation,
            last_transition_time,
        },
        gist: gist.finish(),
        progress: pods.progress,
        changes_in: pods.changes_in,
    }
}

/// Kubernetes keeps times of status to the second.
fn seconds(now: Timestamp) -> Timestamp {
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}

/// A condition's message may have 32,768 characters.
fn short(message: String) -> String {
    const MOST: usize = 8_000;
    if message.chars().count() <= MOST {
        return message;
    }
    message.chars().take(MOST).chain("…".chars()).collect()
}

/// Where clients of a network transport send their requests.
fn address(server: &MCPServer, domain: &str) -> Option<Address> {
    let spec = &server.spec;
    spec.transport.is_network().then(|| Address {
        url: format!("{}{}", endpoint(server, domain), defaults::path(spec)),
    })
}

/// Where clients find the server.
pub fn endpoint(server: &MCPServer, domain: &str) -> String {
    let Key { name, namespace } = Key::of(server);
    let host = format!("{name}.{namespace}.svc.{domain}");
    if server.spec.transport.is_network() {
        format!("http://{host}:{}", defaults::service_port(&server.spec))
    } else {
        format!("stdio://{host}")
    }
}

/// The faults as a condition's message has them.
pub fn describe(faults: &[FieldError]) -> Vec<String> {
    faults.iter().map(ToString::to_string).collect()
}

/// A hash of a status as it is stored.
pub fn stored(status: Option<&MCPServerStatus>) -> u64 {
    let mut hasher = DefaultHasher::new();
    // A status that is no JSON is none that was stored.
    serde_json::to_string(&status)
        .unwrap_or_default()
        .hash(&mut hasher);
    hasher.finish()
}

/// How long the new status is to wait before it is written; nothing when it is not to be written at all.
///
/// Mere progress (counters, another reason in the same words) waits until [`PROGRESS_INTERVAL`] after the last write:
/// a server that becomes ready soon costs two writes, not one a pod. So does what is left to tell of a server that is
/// being deleted. What somebody else wrote is put right at once.
pub fn due_in(
    old: Option<&MCPServerStatus>,
    new: &Report,
    last: Option<&Written>,
    now: std::time::Instant,
) -> Option<Duration> {
    if old == Some(&new.status) {
        return None;
    }
    let (Some(old), Some(last)) = (old, last) else {
        return Some(Duration::ZERO);
    };
    let is_going = [old, &new.status]
        .iter()
        .all(|status| status.phase == Some(Phase::Terminating));
    let is_of_note = last.gist != new.gist || last.stored != stored(Some(old));
    if is_of_note && !is_going {
        return Some(Duration::ZERO);
    }
    let only_started = MCPServerStatus {
        replicas: new.status.replicas,
        ..old.clone()
    } == new.status;
    let interval = if only_started {
        START_INTERVAL
    } else {
        PROGRESS_INTERVAL
    };
    Some(interval.saturating_sub(now.saturating_duration_since(last.at)))
}

#[cfg(test)]
mod tests;
