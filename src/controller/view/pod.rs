//! A pod as a pass reads it: what keeps it from being ready, if anything does.

use k8s_openapi::jiff::Timestamp;
use serde::Deserialize;

use super::child::Condition;
use super::{Parts, View, read};
use crate::api::labels;
use crate::controller::key::Key;

/// A pod of a server.
#[derive(Clone, Debug)]
pub struct PodView {
    /// Its name.
    pub key: Key,
    uid: Box<str>,
    version: u64,
    /// The server that its label names.
    pub server: Option<Key>,
    /// When it was made, in seconds since 1970.
    pub created: i64,
    /// What keeps it from being ready. A pod that is being deleted has no trouble: it is not to be ready.
    pub trouble: Option<Box<PodTrouble>>,
}

/// What keeps a pod from being ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodTrouble {
    /// No node takes it, for this reason.
    Unschedulable(Box<str>),
    /// Its scheduling gates hold it.
    Gated,
    /// It is bound to a node since then, and no container runs.
    Creating {
        /// When it was bound.
        since: Timestamp,
    },
    /// A container's image cannot be pulled.
    Image {
        /// The container.
        container: Box<str>,
        /// The image.
        image: Box<str>,
    },
    /// A container waits for this reason, with a message.
    Waiting {
        /// A word.
        reason: Box<str>,
        /// A sentence, or nothing.
        message: Box<str>,
    },
    /// A container ends again and again.
    Crash {
        /// The container.
        container: Box<str>,
        /// How it ended last, if that is known.
        end: Option<End>,
    },
    /// A container runs and is not ready.
    Running {
        /// The container.
        container: Box<str>,
        /// When it started.
        since: Option<Timestamp>,
        /// Whether it ran before.
        restarted: bool,
    },
}

/// How a container ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The kernel ended it, because it needed too much memory.
    OutOfMemory,
    /// It ended with this code.
    Code(i32),
}

impl End {
    /// Ended by SIGKILL or SIGTERM.
    pub fn was_killed(self) -> bool {
        matches!(self, Self::Code(137 | 143))
    }
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct PodStatus {
    phase: String,
    conditions: Vec<Condition>,
    init_container_statuses: Vec<ContainerStatus>,
    container_statuses: Vec<ContainerStatus>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ContainerStatus {
    name: Box<str>,
    image: Box<str>,
    ready: bool,
    restart_count: i32,
    state: State,
    last_state: State,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct State {
    waiting: Option<Waiting>,
    running: Option<Running>,
    terminated: Option<Terminated>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Waiting {
    reason: Box<str>,
    message: Box<str>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Running {
    started_at: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Terminated {
    exit_code: i32,
    reason: String,
}

impl PodView {
    /// Reads a pod. An error when it is none.
    pub fn read(text: &str) -> serde_json::Result<Self> {
        let parts = Parts::of(text)?;
        let metadata = &parts.metadata;
        let key = metadata.key();
        let server = metadata
            .labels()?
            .get(labels::INSTANCE)
            .map(|name| key.beside(name.as_str()));
        let status: PodStatus = read(parts.status)?;
        let is_going = metadata.deletion_timestamp.is_some();
        let created = metadata
            .creation_timestamp
            .as_deref()
            .and_then(|at| at.parse::<Timestamp>().ok());
        Ok(Self {
            uid: metadata.uid.as_ref().into(),
            version: metadata.version(),
            server,
            created: created.map_or(0, Timestamp::as_second),
            trouble: if is_going {
                None
            } else {
                trouble(&status).map(Box::new)
            },
            key,
        })
    }
}

fn trouble(status: &PodStatus) -> Option<PodTrouble> {
    let scheduled = status
        .conditions
        .iter()
        .find(|condition| condition.type_ == "PodScheduled");
    if let Some(condition) = scheduled.filter(|condition| condition.status == "False") {
        match &*condition.reason {
            "Unschedulable" => {
                return Some(PodTrouble::Unschedulable(condition.message.as_str().into()));
            }
            "SchedulingGated" => return Some(PodTrouble::Gated),
            _ => {}
        }
    }
    // An init container is not probed: it runs for as long as it takes.
    let init = status
        .init_container_statuses
        .iter()
        .filter(|container| container.state.running.is_none());
    let found = init
        .chain(&status.container_statuses)
        .find_map(of_container);
    found.or_else(|| {
        let creating = |container: &ContainerStatus| {
            let waiting = container.state.waiting.as_ref();
            waiting.is_some_and(|waiting| &*waiting.reason == "ContainerCreating")
        };
        let all = &status.container_statuses;
        let none_runs = status.phase == "Pending" && (all.is_empty() || all.iter().any(creating));
        let bound = scheduled.filter(|condition| condition.status == "True" && none_runs)?;
        let since = bound.last_transition_time.as_ref()?.parse().ok()?;
        Some(PodTrouble::Creating { since })
    })
}

fn of_container(container: &ContainerStatus) -> Option<PodTrouble> {
    let state = &container.state;
    let name = || container.name.clone();
    if let Some(waiting) = &state.waiting {
        return match &*waiting.reason {
            "" | "ContainerCreating" | "PodInitializing" => None,
            // The two take turns, with texts that change.
            "ErrImagePull" | "ImagePullBackOff" => Some(PodTrouble::Image {
                container: name(),
                image: container.image.clone(),
            }),
            "CrashLoopBackOff" => Some(crash(container)),
            _ => Some(PodTrouble::Waiting {
                reason: waiting.reason.clone(),
                message: waiting.message.clone(),
            }),
        };
    }
    if let Some(terminated) = &state.terminated {
        return (terminated.exit_code != 0).then(|| crash(container));
    }
    let running = state.running.as_ref()?;
    if container.ready {
        return None;
    }
    if last_end(container).is_some_and(|end| !end.was_killed()) {
        return Some(crash(container));
    }
    Some(PodTrouble::Running {
        container: name(),
        since: running.started_at.as_ref().and_then(|at| at.parse().ok()),
        restarted: container.restart_count > 0,
    })
}

fn crash(container: &ContainerStatus) -> PodTrouble {
    PodTrouble::Crash {
        container: container.name.clone(),
        end: last_end(container),
    }
}

fn last_end(container: &ContainerStatus) -> Option<End> {
    let mut states = [&container.state, &container.last_state].into_iter();
    let end = states.find_map(|state| state.terminated.as_ref())?;
    Some(if end.reason == "OOMKilled" {
        End::OutOfMemory
    } else {
        End::Code(end.exit_code)
    })
}

impl View for PodView {
    fn uid(&self) -> &str {
        &self.uid
    }

    fn version(&self) -> u64 {
        self.version
    }

    fn same(&self, other: &Self) -> bool {
        self.uid == other.uid
            && self.server == other.server
            && self.created == other.created
            && self.trouble == other.trouble
    }
}
