//! The status of a pod on the fake node: pure.

use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated,
    ContainerStateWaiting, ContainerStatus, HostIP, Pod, PodCondition, PodIP, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

use super::ANNOTATION;

/// The node's address.
pub(super) const NODE_ADDRESS: &str = "10.0.0.1";

/// What a pod is to look like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Running and Ready.
    Ready,
    /// Something that its containers need does not come.
    Creating,
    /// Its image cannot be pulled.
    ImagePullBackOff,
    /// Its containers end as soon as they are started.
    CrashLoop,
    /// It runs and never becomes Ready.
    NotReady,
    /// As `Ready`, but it stays when it is deleted.
    SlowDelete,
    /// The annotation has a value that means nothing. The pod waits and says so.
    Unknown(String),
}

impl State {
    /// What the pod's annotation asks for.
    pub fn of(pod: &Pod) -> Self {
        match pod.annotations().get(ANNOTATION).map(String::as_str) {
            None | Some("none" | "") => Self::Ready,
            Some("creating") => Self::Creating,
            Some("image-pull-backoff") => Self::ImagePullBackOff,
            Some("crash-loop") => Self::CrashLoop,
            Some("not-ready") => Self::NotReady,
            Some("slow-delete") => Self::SlowDelete,
            Some(other) => Self::Unknown(other.to_owned()),
        }
    }

    fn is_ready(&self) -> bool {
        matches!(self, Self::Ready | Self::SlowDelete)
    }
}

/// The status the pod should have, if it has another; times of what has not changed stay.
pub(super) fn wanted(
    pod: &Pod,
    now: Timestamp,
    address: impl FnOnce() -> String,
) -> Option<PodStatus> {
    let spec = pod.spec.as_ref()?;
    let live = pod.status.clone().unwrap_or_default();
    if matches!(live.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return None;
    }
    // The API server keeps whole seconds.
    let now = Time(Timestamp::from_second(now.as_second()).unwrap_or(now));
    let state = State::of(pod);
    let ip = live.pod_ip.clone().unwrap_or_else(address);
    let mut status = live.clone();
    let pending = matches!(
        state,
        State::Creating | State::ImagePullBackOff | State::Unknown(_)
    );
    status.phase = Some(if pending { "Pending" } else { "Running" }.to_owned());
    status.start_time.get_or_insert_with(|| now.clone());
    status.host_ip = Some(NODE_ADDRESS.to_owned());
    status.host_ips = Some(vec![HostIP {
        ip: NODE_ADDRESS.to_owned(),
    }]);
    status.pod_ips = Some(vec![PodIP { ip: ip.clone() }]);
    status.pod_ip = Some(ip);
    status.container_statuses = some(spec.containers.iter().map(|container| {
        Seen::new(
            pod,
            &state,
            container,
            live.container_statuses.as_ref(),
            &now,
        )
        .main()
    }));
    status.init_container_statuses = some(spec.init_containers.iter().flatten().map(|container| {
        Seen::new(
            pod,
            &state,
            container,
            live.init_container_statuses.as_ref(),
            &now,
        )
        .initial()
    }));
    set_conditions(&mut status, &state, spec.containers.as_slice(), &now);
    (status != live).then_some(status)
}

/// Sets the kubelet's conditions; others stay.
fn set_conditions(status: &mut PodStatus, state: &State, containers: &[Container], now: &Time) {
    let names: Vec<&str> = containers
        .iter()
        .map(|container| container.name.as_str())
        .collect();
    let unready = (!state.is_ready()).then(|| {
        (
            "ContainersNotReady".to_owned(),
            format!("containers with unready status: [{}]", names.join(" ")),
        )
    });
    let conditions = status.conditions.get_or_insert_default();
    for (kind, fault) in [
        ("PodReadyToStartContainers", None),
        ("Initialized", None),
        ("Ready", unready.clone()),
        ("ContainersReady", unready),
        ("PodScheduled", None),
    ] {
        let value = if fault.is_none() { "True" } else { "False" };
        let (reason, message) = fault.unzip();
        let live = conditions
            .iter_mut()
            .find(|condition| condition.type_ == kind);
        if let Some(live) = live {
            if live.status != value {
                value.clone_into(&mut live.status);
                live.last_transition_time = Some(now.clone());
            }
            live.reason = reason;
            live.message = message;
        } else {
            conditions.push(PodCondition {
                type_: kind.to_owned(),
                status: value.to_owned(),
                last_transition_time: Some(now.clone()),
                reason,
                message,
                ..PodCondition::default()
            });
        }
    }
}

/// No list is not the same as an empty one.
fn some(statuses: impl Iterator<Item = ContainerStatus>) -> Option<Vec<ContainerStatus>> {
    Some(statuses.collect::<Vec<_>>()).filter(|all| !all.is_empty())
}

/// What decides one container's status.
struct Seen<'a> {
    pod: &'a Pod,
    state: &'a State,
    container: &'a Container,
    live: Option<&'a ContainerStatus>,
    now: &'a Time,
}

impl<'a> Seen<'a> {
    fn new(
        pod: &'a Pod,
        state: &'a State,
        container: &'a Container,
        live: Option<&'a Vec<ContainerStatus>>,
        now: &'a Time,
    ) -> Self {
        let live = live
            .into_iter()
            .flatten()
            .find(|status| status.name == container.name);
        Self {
            pod,
            state,
            container,
            live,
            now,
        }
    }

    /// A container that is to run.
    fn main(&self) -> ContainerStatus {
        match self.state {
            State::Ready | State::SlowDelete => self.status(true, self.running()),
            State::NotReady => self.status(false, self.running()),
            State::Creating => self.status(false, waiting("ContainerCreating", String::new())),
            State::ImagePullBackOff => {
                let image = self.container.image.as_deref().unwrap_or_default();
                let message = format!("Back-off pulling image \"{image}\"");
                self.status(false, waiting("ImagePullBackOff", message))
            }
            State::CrashLoop => self.crash_loop(),
            State::Unknown(value) => {
                let message = format!("annotation {ANNOTATION} has an unknown value: {value}");
                self.status(false, waiting("UnknownFakeState", message))
            }
        }
    }

    /// An init container: over and done, unless it is one that goes on beside the others.
    fn initial(&self) -> ContainerStatus {
        if self.container.restart_policy.as_deref() == Some("Always") {
            return self.main();
        }
        let before = self
            .live
            .and_then(|live| live.state.clone())
            .filter(|state| state.terminated.is_some());
        let state = before.unwrap_or_else(|| self.terminated(0, "Completed"));
        ContainerStatus {
            started: Some(false),
            ..self.status(true, state)
        }
    }

    fn crash_loop(&self) -> ContainerStatus {
        let name = &self.container.name;
        let pod = self.pod;
        let message = format!(
            "back-off 40s restarting failed container={name} pod={}_{}({})",
            pod.name_any(),
            pod.namespace().unwrap_or_default(),
            pod.uid().unwrap_or_default()
        );
        let before = self
            .live
            .and_then(|live| live.last_state.clone())
            .filter(|state| state.terminated.is_some());
        ContainerStatus {
            restart_count: 3,
            last_state: Some(before.unwrap_or_else(|| self.terminated(1, "Error"))),
            ..self.status(false, waiting("CrashLoopBackOff", message))
        }
    }

    fn status(&self, ready: bool, state: ContainerState) -> ContainerStatus {
        let image = self.container.image.clone().unwrap_or_default();
        let pulled = state
            .waiting
            .as_ref()
            .is_none_or(|waiting| waiting.reason.as_deref() == Some("CrashLoopBackOff"));
        ContainerStatus {
            name: self.container.name.clone(),
            image_id: if pulled {
                format!("fake://{image}")
            } else {
                String::new()
            },
            container_id: pulled.then(|| self.id()),
            image,
            ready,
            restart_count: self.live.map_or(0, |live| live.restart_count),
            started: Some(state.running.is_some()),
            state: Some(state),
            last_state: self.live.and_then(|live| live.last_state.clone()),
            ..ContainerStatus::default()
        }
    }

    fn running(&self) -> ContainerState {
        let before = self
            .live
            .and_then(|live| live.state.clone())
            .filter(|state| state.running.is_some());
        before.unwrap_or_else(|| ContainerState {
            running: Some(ContainerStateRunning {
                started_at: Some(self.now.clone()),
            }),
            ..ContainerState::default()
        })
    }

    fn terminated(&self, exit_code: i32, reason: &str) -> ContainerState {
        ContainerState {
            terminated: Some(ContainerStateTerminated {
                exit_code,
                reason: Some(reason.to_owned()),
                started_at: Some(self.now.clone()),
                finished_at: Some(self.now.clone()),
                container_id: Some(self.id()),
                ..ContainerStateTerminated::default()
            }),
            ..ContainerState::default()
        }
    }

    fn id(&self) -> String {
        format!(
            "fake://{}/{}",
            self.pod.uid().unwrap_or_default(),
            self.container.name
        )
    }
}

fn waiting(reason: &str, message: String) -> ContainerState {
    ContainerState {
        waiting: Some(ContainerStateWaiting {
            reason: Some(reason.to_owned()),
            message: Some(message),
        }),
        ..ContainerState::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(state: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u", "annotations": {ANNOTATION: state}},
            "spec": {
                "initContainers": [{"name": "init", "image": "i"}],
                "containers": [{"name": "a", "image": "x:1"}, {"name": "b", "image": "y:1"}],
            },
        }))
        .unwrap()
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_millisecond(second * 1000 + 123).unwrap()
    }

    fn condition(status: &PodStatus, kind: &str) -> PodCondition {
        status
            .conditions
            .iter()
            .flatten()
            .find(|condition| condition.type_ == kind)
            .unwrap()
            .clone()
    }

    #[test]
    fn every_state_is_reached_once_and_stays() {
        for state in [
            "",
            "none",
            "creating",
            "image-pull-backoff",
            "crash-loop",
            "not-ready",
            "slow-delete",
            "nonsense",
        ] {
            let mut pod = pod(state);
            let status = wanted(&pod, at(1), || "10.244.0.1".to_owned()).unwrap();
            let ready = matches!(state, "" | "none" | "slow-delete");
            assert_eq!(
                condition(&status, "Ready").status == "True",
                ready,
                "{state}"
            );
            assert!(
                status
                    .container_statuses
                    .iter()
                    .flatten()
                    .all(|one| one.ready == ready),
                "{state}"
            );
            pod.status = Some(status);
            assert_eq!(
                wanted(&pod, at(2), || panic!("it has an address")),
                None,
                "{state}"
            );
        }
    }

    #[test]
    fn a_fault_that_comes_and_goes() {
        let mut pod = pod("none");
        let first = wanted(&pod, at(1), || "10.244.0.1".to_owned()).unwrap();
        pod.status = Some(first.clone());
        pod.annotations_mut()
            .insert(ANNOTATION.to_owned(), "crash-loop".to_owned());
        let crashed = wanted(&pod, at(5), String::new).unwrap();
        let container = &crashed.container_statuses.as_ref().unwrap()[0];
        assert_eq!(container.restart_count, 3);
        assert_eq!(
            container
                .state
                .as_ref()
                .unwrap()
                .waiting
                .as_ref()
                .unwrap()
                .reason
                .as_deref(),
            Some("CrashLoopBackOff")
        );
        assert_eq!(
            container
                .last_state
                .as_ref()
                .unwrap()
                .terminated
                .as_ref()
                .unwrap()
                .exit_code,
            1
        );
        assert_eq!(
            condition(&crashed, "Ready")
                .last_transition_time
                .unwrap()
                .0
                .as_second(),
            5
        );
        assert_eq!(
            condition(&crashed, "Ready").message.unwrap(),
            "containers with unready status: [a b]"
        );
        assert_eq!(
            condition(&crashed, "PodScheduled")
                .last_transition_time
                .unwrap()
                .0
                .as_second(),
            1
        );
        pod.status = Some(crashed);
        pod.annotations_mut().remove(ANNOTATION);
        let back = wanted(&pod, at(9), String::new).unwrap();
        assert_eq!(condition(&back, "Ready").status, "True");
        assert_eq!(back.start_time, first.start_time);
    }

    #[test]
    fn an_image_that_cannot_be_pulled_is_named() {
        let status = wanted(&pod("image-pull-backoff"), at(1), || {
            "10.244.0.1".to_owned()
        })
        .unwrap();
        assert_eq!(status.phase.as_deref(), Some("Pending"));
        let waiting = status.container_statuses.unwrap()[0]
            .state
            .clone()
            .unwrap()
            .waiting
            .unwrap();
        assert_eq!(waiting.reason.as_deref(), Some("ImagePullBackOff"));
        assert_eq!(
            waiting.message.as_deref(),
            Some("Back-off pulling image \"x:1\"")
        );
    }

    #[test]
    fn a_pod_that_is_over_stays_so() {
        let mut pod = pod("none");
        pod.status = Some(PodStatus {
            phase: Some("Succeeded".to_owned()),
            ..PodStatus::default()
        });
        assert_eq!(wanted(&pod, at(1), String::new), None);
    }
}
