//! The status that tells the truth about a server. Pure: what was observed in, a status out.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

use super::apply::Child;
use super::trouble::trouble;
use crate::api::v1alpha1::Phase;
use crate::api::{FieldError, MCPServer, MCPServerStatus, defaults, labels};

/// Counters that change while a rollout goes on are written this often at most.
pub const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);
/// A pod more or less that makes none ready is written this often at most: a start takes its time.
const START_INTERVAL: Duration = Duration::from_mins(1);

/// Begins the message of `DeploymentReady` when there is a Deployment of ours.
const OF_DEPLOYMENT: &str = "Deployment has ";

/// Stands between what a Deployment has and why it has no more.
pub const TROUBLE: &str = " ready replicas: ";

/// What a pass has seen of a server's children.
#[derive(Clone, Debug)]
pub struct Observed {
    /// The config.
    pub config_map: Child<ConfigMap>,
    /// The pods' Deployment.
    pub deployment: Child<Deployment>,
    /// The Service.
    pub service: Child<Service>,
    /// The pods there are.
    pub pods: Vec<Arc<Pod>>,
}

impl Observed {
    /// Why the pods are not those that the spec asks for, if something could not be brought up to date.
    fn behind(&self) -> Option<&str> {
        match (&self.deployment, &self.config_map) {
            (Child::Refused(why, _), _) | (_, Child::Refused(why, _) | Child::Leaving(why)) => {
                Some(why)
            }
            _ => None,
        }
    }

    /// The kinds of the children that are there.
    pub fn kinds(&self) -> Vec<&'static str> {
        let all = [
            ("ConfigMap", self.config_map.object().is_some()),
            ("Deployment", self.deployment.object().is_some()),
            ("Service", self.service.object().is_some()),
        ];
        let there = all.into_iter().filter(|(_, is_there)| *is_there);
        there.map(|(kind, _)| kind).collect()
    }
}

/// The status of a server whose spec is as `faults` say; `server` carries the status it had.
pub fn status(
    server: &MCPServer,
    faults: &[String],
    observed: &Observed,
    now: Timestamp,
) -> MCPServerStatus {
    let deployment = deployment_ready(server, observed, now);
    let service = service_ready(server, observed);
    let configuration = configuration_valid(faults);
    let ready = ready(server, &configuration, &deployment, &service);
    let phase = if configuration.is_false() || deadline_passed(observed) {
        Phase::Failed
    } else if ready.is_true {
        Phase::Ready
    } else {
        Phase::Pending
    };
    assemble(
        server,
        phase,
        [configuration, deployment, service, ready],
        observed,
        now,
    )
}

/// The status of a server that is being deleted.
pub fn terminating(server: &MCPServer, observed: &Observed, now: Timestamp) -> MCPServerStatus {
    let ready = Finding::no("Ready", "Terminating", "MCPServer is being deleted");
    let deployment = deployment_ready(server, observed, now);
    assemble(
        server,
        Phase::Terminating,
        [deployment, ready],
        observed,
        now,
    )
}

/// A condition before it is compared with the one that was.
struct Finding {
    type_: &'static str,
    is_true: bool,
    reason: &'static str,
    message: String,
}

impl Finding {
    fn yes(type_: &'static str, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            type_,
            is_true: true,
            reason,
            message: message.into(),
        }
    }

    fn no(type_: &'static str, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            type_,
            is_true: false,
            reason,
            message: message.into(),
        }
    }

    fn is_false(&self) -> bool {
        !self.is_true
    }
}

fn configuration_valid(faults: &[String]) -> Finding {
    if faults.is_empty() {
        Finding::yes(
            "ConfigurationValid",
            "ConfigurationValid",
            "The configuration is valid",
        )
    } else {
        Finding::no(
            "ConfigurationValid",
            "ConfigurationInvalid",
            faults.join("; "),
        )
    }
}

fn deployment_ready(server: &MCPServer, observed: &Observed, now: Timestamp) -> Finding {
    const TYPE: &str = "DeploymentReady";
    if let Child::Conflict(text) = &observed.config_map {
        return Finding::no(TYPE, "NameConflict", text);
    }
    let behind = observed.behind();
    match (&observed.deployment, behind) {
        (Child::Conflict(text), _) => Finding::no(TYPE, "NameConflict", text),
        (Child::Leaving(text), _) => Finding::no(TYPE, "DeploymentNotReady", text),
        (Child::Present(live) | Child::Refused(_, Some(live)), Some(why)) => {
            let message = format!("{}, but is not up to date: {why}", counted(server, live));
            Finding::no(TYPE, "DeploymentNotReady", message)
        }
        (Child::Present(live) | Child::Refused(_, Some(live)), None) => {
            let message = counted(server, live);
            if is_rolled_out(live, server.spec.replicas) {
                return Finding::yes(TYPE, "DeploymentReady", message);
            }
            let pods = observed.pods.iter().map(|pod| &**pod);
            let because = trouble(live, pods, defaults::probes(&server.spec), now);
            let because = because.map_or(String::new(), |because| format!(": {because}"));
            Finding::no(TYPE, "DeploymentNotReady", message + &because)
        }
        (Child::Absent | Child::NotWanted | Child::Refused(_, None), why) => {
            let why = why.unwrap_or("Deployment does not exist");
            Finding::no(TYPE, "DeploymentNotFound", why)
        }
    }
}

fn counted(server: &MCPServer, deployment: &Deployment) -> String {
    let (status, wanted) = (deployment.status.as_ref(), server.spec.replicas);
    let ready = status.and_then(|status| status.ready_replicas).unwrap_or(0);
    format!("{OF_DEPLOYMENT}{ready}/{wanted} ready replicas")
}

/// All pods are of the newest template, ready, and no other ones are left.
fn is_rolled_out(deployment: &Deployment, wanted: i32) -> bool {
    let Some(status) = &deployment.status else {
        return false;
    };
    let counts = [
        status.replicas,
        status.updated_replicas,
        status.ready_replicas,
    ];
    is_observed(deployment, status) && counts.iter().all(|count| count.unwrap_or(0) == wanted)
}

/// The rollout of the newest template took longer than its progress deadline.
fn deadline_passed(observed: &Observed) -> bool {
    let Some(deployment) = observed.deployment.object() else {
        return false;
    };
    let Some(status) = deployment
        .status
        .as_ref()
        .filter(|status| is_observed(deployment, status))
    else {
        return false;
    };
    status.conditions.iter().flatten().any(|condition| {
        condition.type_ == "Progressing"
            && condition.reason.as_deref() == Some("ProgressDeadlineExceeded")
    })
}

/// Whether a status is about the newest spec.
fn is_observed(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    status.observed_generation.unwrap_or(0) >= deployment.metadata.generation.unwrap_or(0)
}

fn service_ready(server: &MCPServer, observed: &Observed) -> Finding {
    const TYPE: &str = "ServiceReady";
    if !server.spec.transport.is_network() {
        return Finding::yes(TYPE, "NotRequired", "A stdio server has no Service");
    }
    match &observed.service {
        Child::Present(service) => match service_lacks(service) {
            None => Finding::yes(TYPE, "ServiceReady", "Service is ready"),
            Some(lacking) => Finding::no(TYPE, "ServiceNotReady", format!("Service {lacking}")),
        },
        Child::Conflict(text) => Finding::no(TYPE, "NameConflict", text),
        Child::Refused(text, Some(_)) | Child::Leaving(text) => {
            Finding::no(TYPE, "ServiceNotReady", text)
        }
        Child::Refused(text, None) => Finding::no(TYPE, "ServiceNotFound", text),
        Child::Absent | Child::NotWanted => {
            Finding::no(TYPE, "ServiceNotFound", "Service does not exist")
        }
    }
}

fn service_lacks(service: &Service) -> Option<&'static str> {
    let spec = service.spec.as_ref()?;
    if spec.cluster_ip.as_deref().unwrap_or_default().is_empty() {
        return Some("has no cluster IP yet");
    }
    match spec.type_.as_deref() {
        Some("LoadBalancer") => {
            let balancer = service
                .status
                .as_ref()
                .and_then(|status| status.load_balancer.as_ref());
            let ingress = balancer.and_then(|balancer| balancer.ingress.as_ref());
            ingress
                .is_none_or(Vec::is_empty)
                .then_some("waits for the load balancer's address")
        }
        Some("NodePort") => {
            let ports = spec.ports.as_deref().unwrap_or_default();
            ports
                .iter()
                .any(|port| port.node_port.unwrap_or(0) == 0)
                .then_some("has no node port yet")
        }
        _ => None,
    }
}

fn ready(
    server: &MCPServer,
    configuration: &Finding,
    deployment: &Finding,
    service: &Finding,
) -> Finding {
    const TYPE: &str = "Ready";
    if configuration.is_false() {
        return Finding::no(TYPE, "ConfigurationInvalid", configuration.message.clone());
    }
    if let Some(conflict) = [deployment, service]
        .into_iter()
        .find(|finding| finding.reason == "NameConflict")
    {
        return Finding::no(TYPE, "NameConflict", conflict.message.clone());
    }
    if server.spec.replicas == 0 {
        return Finding::no(TYPE, "ScaledToZero", "MCPServer is scaled to zero replicas");
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
    Finding::no(TYPE, "MCPServerNotReady", message)
}

fn assemble<const N: usize>(
    server: &MCPServer,
    phase: Phase,
    findings: [Finding; N],
    observed: &Observed,
    now: Timestamp,
) -> MCPServerStatus {
    let old = server.status.clone().unwrap_or_default();
    let generation = server.metadata.generation;
    let mut conditions = old.conditions.clone();
    let mut last_transition_time = old.last_transition_time.clone();
    for finding in findings {
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
            message: short(finding.message),
            observed_generation: generation,
            last_transition_time: since,
        };
        match before {
            Some(at) => conditions[at] = condition,
            None => conditions.push(condition),
        }
    }
    let counts = observed
        .deployment
        .object()
        .and_then(|deployment| deployment.status.as_ref());
    MCPServerStatus {
        phase: Some(phase),
        conditions,
        ready_replicas: counts.and_then(|status| status.ready_replicas).unwrap_or(0),
        replicas: counts.and_then(|status| status.replicas).unwrap_or(0),
        selector: Some(labels::selector_string(&server.name_any())),
        endpoint: (phase == Phase::Ready).then(|| endpoint(server)),
        observed_generation: generation,
        last_transition_time,
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

/// Where clients find the server.
pub fn endpoint(server: &MCPServer) -> String {
    let (name, namespace) = (server.name_any(), server.namespace().unwrap_or_default());
    let host = format!("{name}.{namespace}.svc.cluster.local");
    if server.spec.transport.is_network() {
        format!("http://{host}:{}", server.spec.port)
    } else {
        format!("stdio://{host}")
    }
}

/// What a status says of a Deployment that is there: counters, and after a colon what is the matter.
pub fn of_deployment(status: &MCPServerStatus) -> Option<&str> {
    let mut conditions = status.conditions.iter();
    let condition = conditions.find(|condition| condition.type_ == "DeploymentReady")?;
    condition.message.strip_prefix(OF_DEPLOYMENT)
}

/// The faults as a condition's message has them.
pub fn describe(faults: &[FieldError]) -> Vec<String> {
    faults.iter().map(ToString::to_string).collect()
}

/// Whether the new status is to be written now.
///
/// Mere progress (counters, another reason in the same words) waits until [`PROGRESS_INTERVAL`] after
/// the last write: a server that becomes ready soon costs two writes, not one a pod. So does what is left
/// to tell of a server that is being deleted.
pub fn is_due(
    old: Option<&MCPServerStatus>,
    new: &MCPServerStatus,
    since_last_write: Option<Duration>,
) -> bool {
    let Some(old) = old else { return true };
    if old == new {
        return false;
    }
    let going = [old, new]
        .iter()
        .all(|status| status.phase == Some(Phase::Terminating));
    if !going && coarse(old) != coarse(new) {
        return true;
    }
    let only_started = MCPServerStatus {
        replicas: new.replicas,
        ..old.clone()
    } == *new;
    let interval = if only_started {
        START_INTERVAL
    } else {
        PROGRESS_INTERVAL
    };
    since_last_write.is_none_or(|since| since >= interval)
}

/// The status without its counters; of a reason for not being ready only that there is one.
fn coarse(status: &MCPServerStatus) -> MCPServerStatus {
    let mut status = status.clone();
    status.replicas = 0;
    status.ready_replicas = 0;
    for condition in &mut status.conditions {
        if condition.reason == "DeploymentNotReady" && condition.message.starts_with(OF_DEPLOYMENT)
        {
            let has_reason = condition.message.contains(": ");
            condition.message = has_reason.to_string();
        }
    }
    status
}

#[cfg(test)]
mod tests;
