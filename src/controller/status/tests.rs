use std::sync::Arc;
use std::time::Instant;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Service;
use serde_json::{Value, json};

use super::*;
use crate::api::{FieldPath, decode};
use crate::controller::view::child::{ChildKind, ChildView};
use crate::controller::view::pod::PodView;

const NOW: i64 = 1_800_000_000;

fn now() -> Timestamp {
    Timestamp::from_second(NOW).unwrap()
}

fn server(spec: Value) -> MCPServer {
    let mut fields = json!({"image": "x:1"});
    fields
        .as_object_mut()
        .unwrap()
        .extend(spec.as_object().unwrap().clone());
    let object =
        json!({"metadata": {"name": "a", "namespace": "n", "generation": 2}, "spec": fields});
    decode::lenient(&object, &FieldPath::OBJECT).unwrap()
}

fn child<K: ChildKind>(object: &Value) -> Child<K> {
    Child::Present(Arc::new(ChildView::read(&object.to_string()).unwrap()))
}

fn deployment_of(spec: Value, status: Value) -> Child<Deployment> {
    child(
        &json!({"metadata": {"name": "a", "namespace": "n", "generation": 1}, "spec": spec, "status": status}),
    )
}

fn deployment(status: Value) -> Child<Deployment> {
    deployment_of(json!({}), status)
}

/// The status of a server with this spec that had none.
fn status(
    server: &MCPServer,
    faults: &[String],
    observed: &Observed,
    now: Timestamp,
) -> MCPServerStatus {
    report(server, None, faults, observed, now).status
}

fn report(
    server: &MCPServer,
    old: Option<&MCPServerStatus>,
    faults: &[String],
    observed: &Observed,
    now: Timestamp,
) -> Report {
    let hint = "; it is probed by GET /health and GET /ready: a server without such a path needs spec.health.type: TCP";
    super::status(
        About {
            server,
            old,
            hint,
            domain: "cluster.local",
        },
        faults,
        observed,
        now,
    )
}

fn rolled_out(replicas: i32) -> Child<Deployment> {
    deployment(
        json!({"observedGeneration": 1, "replicas": replicas, "updatedReplicas": replicas,
        "readyReplicas": replicas, "availableReplicas": replicas}),
    )
}

fn service(spec: Value, status: Value) -> Child<Service> {
    child(&json!({"metadata": {"name": "a"}, "spec": spec, "status": status}))
}

fn cluster_ip() -> Child<Service> {
    service(
        json!({"type": "ClusterIP", "clusterIP": "10.0.0.1"}),
        json!({}),
    )
}

fn observed(deployment: Child<Deployment>, service: Child<Service>) -> Observed {
    Observed {
        config_map: Child::NotWanted,
        deployment,
        service,
        disruption_budget: Child::NotWanted,
        pods: Vec::new(),
    }
}

fn pod(status: Value) -> Arc<PodView> {
    let object = json!({"metadata": {"name": "a-1", "namespace": "n"}, "status": status});
    Arc::new(PodView::read(&object.to_string()).unwrap())
}

fn seconds_ago(seconds: i64) -> String {
    Timestamp::from_second(NOW - seconds).unwrap().to_string()
}

fn short_of(status: &MCPServerStatus) -> Vec<String> {
    let conditions = status.conditions.iter();
    conditions
        .map(|c| format!("{} {}/{}: {}", c.type_, c.status, c.reason, c.message))
        .collect()
}

fn condition(status: &MCPServerStatus, type_: &str) -> String {
    let condition = status
        .conditions
        .iter()
        .find(|condition| condition.type_ == type_)
        .unwrap();
    format!(
        "{}/{}: {}",
        condition.status, condition.reason, condition.message
    )
}

#[allow(clippy::too_many_lines, reason = "a table")]
#[test]
fn ready_says_what_is_missing() {
    let conflict = || Child::Conflict("Service \"a\" is somebody's".to_owned());
    let half = || {
        deployment(
            json!({"observedGeneration": 1, "replicas": 2, "updatedReplicas": 2, "readyReplicas": 1}),
        )
    };
    let two = || json!({"replicas": 2});
    let no_ip = || service(json!({"type": "ClusterIP"}), json!({}));
    let table = [
        (
            "all is well",
            two(),
            vec![],
            observed(rolled_out(2), cluster_ip()),
            Phase::Ready,
            "True/MCPServerReady: MCPServer is ready and serving requests",
        ),
        (
            "a pod is missing",
            two(),
            vec![],
            observed(half(), cluster_ip()),
            Phase::Pending,
            "False/MCPServerNotReady: Deployment is not ready",
        ),
        (
            "the Service has no address",
            two(),
            vec![],
            observed(rolled_out(2), no_ip()),
            Phase::Pending,
            "False/MCPServerNotReady: Service is not ready: Service has no cluster IP yet",
        ),
        (
            "both",
            two(),
            vec![],
            observed(half(), Child::Absent),
            Phase::Pending,
            "False/MCPServerNotReady: Deployment and Service are not ready",
        ),
        (
            "scaled to zero",
            json!({"replicas": 0}),
            vec![],
            observed(rolled_out(0), cluster_ip()),
            Phase::Ready,
            "True/ScaledToZero: MCPServer is scaled to zero replicas",
        ),
        (
            "scaled to zero, while pods and the Service go",
            json!({"replicas": 0}),
            vec![],
            observed(rolled_out(2), no_ip()),
            Phase::Ready,
            "True/ScaledToZero: MCPServer is scaled to zero replicas",
        ),
        (
            "scaled to zero, when the rollout before was late",
            json!({"replicas": 0}),
            vec![],
            observed(
                deployment(json!({"observedGeneration": 1, "conditions":
                [{"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}]})),
                cluster_ip(),
            ),
            Phase::Ready,
            "True/ScaledToZero: MCPServer is scaled to zero replicas",
        ),
        (
            "scaled to zero, and a fault",
            json!({"replicas": 0}),
            vec!["spec.x: wrong".to_owned()],
            observed(rolled_out(0), cluster_ip()),
            Phase::Failed,
            "False/ConfigurationInvalid: spec.x: wrong",
        ),
        (
            "scaled to zero, and a conflict",
            json!({"replicas": 0}),
            vec![],
            observed(rolled_out(0), conflict()),
            Phase::Pending,
            "False/NameConflict: Service \"a\" is somebody's",
        ),
        (
            "paused, with a change that waits",
            json!({}),
            vec![],
            observed(
                deployment_of(
                    json!({"paused": true}),
                    json!({"observedGeneration": 1, "replicas": 1, "updatedReplicas": 0, "readyReplicas": 1}),
                ),
                no_ip(),
            ),
            Phase::Pending,
            "False/MCPServerNotReady: Deployment and Service are not ready: Paused: the Deployment is paused, so no change is rolled out; kubectl rollout resume deployment/a -n n; Service has no cluster IP yet",
        ),
        (
            "paused, and up to date",
            json!({}),
            vec![],
            observed(
                deployment_of(
                    json!({"paused": true}),
                    json!({"observedGeneration": 1, "replicas": 1, "updatedReplicas": 1, "readyReplicas": 1}),
                ),
                cluster_ip(),
            ),
            Phase::Ready,
            "True/MCPServerReady: MCPServer is ready and serving requests",
        ),
        (
            "stdio needs no Service",
            json!({"transport": "stdio"}),
            vec![],
            observed(rolled_out(1), Child::NotWanted),
            Phase::Ready,
            "True/MCPServerReady: MCPServer is ready and serving requests",
        ),
        (
            "a fault",
            two(),
            vec!["spec.x: wrong".to_owned()],
            observed(rolled_out(2), cluster_ip()),
            Phase::Failed,
            "False/ConfigurationInvalid: spec.x: wrong",
        ),
        (
            "a conflict",
            two(),
            vec![],
            observed(rolled_out(2), conflict()),
            Phase::Pending,
            "False/NameConflict: Service \"a\" is somebody's",
        ),
        (
            "the deadline has passed",
            two(),
            vec![],
            observed(
                deployment(json!({"observedGeneration": 1, "conditions":
                [{"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}]})),
                cluster_ip(),
            ),
            Phase::Failed,
            "False/MCPServerNotReady: Deployment is not ready: ProgressDeadlineExceeded: the rollout made no progress within its deadline; see the conditions of the Deployment's status",
        ),
    ];
    for (what, spec, faults, observed, phase, ready) in table {
        let status = status(&server(spec), &faults, &observed, now());
        assert_eq!(
            (status.phase, condition(&status, "Ready").as_str()),
            (Some(phase), ready),
            "{what}"
        );
        assert_eq!(
            status.endpoint.is_some(),
            ready.starts_with("True/MCPServerReady"),
            "{what}: an endpoint only while there is something to reach"
        );
        let is_there = |type_: &str| {
            status
                .conditions
                .iter()
                .any(|condition| condition.type_ == type_)
        };
        assert_eq!(
            is_there("Stalled"),
            phase == Phase::Failed,
            "{what}: Stalled while Failed"
        );
        assert_eq!(
            is_there("Reconciling"),
            phase == Phase::Pending,
            "{what}: Reconciling while Pending"
        );
    }
}

#[test]
fn a_rollout_is_complete_when_only_new_pods_are_left_and_ready() {
    let table = [
        (
            "complete",
            json!({"observedGeneration": 1, "replicas": 1, "updatedReplicas": 1, "readyReplicas": 1}),
            true,
        ),
        (
            "not seen yet",
            json!({"observedGeneration": 0, "replicas": 1, "updatedReplicas": 1, "readyReplicas": 1}),
            false,
        ),
        (
            "an old pod is left",
            json!({"observedGeneration": 1, "replicas": 2, "updatedReplicas": 1, "readyReplicas": 1}),
            false,
        ),
        (
            "only the old pod is ready",
            json!({"observedGeneration": 1, "replicas": 1, "updatedReplicas": 0, "readyReplicas": 1}),
            false,
        ),
        ("nothing yet", json!({}), false),
    ];
    for (what, counts, expected) in table {
        let status = status(
            &server(json!({})),
            &[],
            &observed(deployment(counts), cluster_ip()),
            now(),
        );
        let is_true = condition(&status, "DeploymentReady").starts_with("True/DeploymentReady");
        assert_eq!(is_true, expected, "{what}: {:?}", short_of(&status));
    }
}

#[test]
fn a_service_is_ready_when_it_can_be_reached() {
    let ingress = json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}});
    let spec = |type_: &str, more: Value| {
        let mut spec = json!({"type": type_, "clusterIP": "10.0.0.1"});
        spec.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        spec
    };
    let table = [
        (
            "absent",
            Child::Absent,
            "False/ServiceNotFound: Service does not exist",
        ),
        (
            "no address",
            service(json!({"type": "ClusterIP"}), json!({})),
            "False/ServiceNotReady: Service has no cluster IP yet",
        ),
        (
            "an address",
            cluster_ip(),
            "True/ServiceReady: Service is ready",
        ),
        (
            "no balancer",
            service(spec("LoadBalancer", json!({})), json!({})),
            "False/ServiceNotReady: Service waits for the load balancer's address",
        ),
        (
            "a balancer",
            service(spec("LoadBalancer", json!({})), ingress),
            "True/ServiceReady: Service is ready",
        ),
        (
            "no node port",
            service(spec("NodePort", json!({"ports": [{"port": 1}]})), json!({})),
            "False/ServiceNotReady: Service has no node port yet",
        ),
        (
            "a node port",
            service(
                spec(
                    "NodePort",
                    json!({"ports": [{"port": 1, "nodePort": 30000}]}),
                ),
                json!({}),
            ),
            "True/ServiceReady: Service is ready",
        ),
    ];
    for (what, service, expected) in table {
        let status = status(
            &server(json!({})),
            &[],
            &observed(rolled_out(1), service),
            now(),
        );
        assert_eq!(condition(&status, "ServiceReady"), expected, "{what}");
    }
}

#[allow(clippy::too_many_lines, reason = "a table")]
#[test]
fn what_keeps_pods_from_getting_ready_is_told() {
    let of = |state: Value, more: Value| {
        let mut container = json!({"name": "mcp-server", "image": "x:1", "ready": false, "restartCount": 0, "imageID": "", "state": state});
        container
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        json!({"containerStatuses": [container]})
    };
    let running = |seconds| json!({"running": {"startedAt": seconds_ago(seconds)}});
    let waiting =
        |reason: &str, message: &str| json!({"waiting": {"reason": reason, "message": message}});
    let scheduled = |seconds| json!({"type": "PodScheduled", "status": "True", "lastTransitionTime": seconds_ago(seconds)});
    let bound = |seconds| {
        let mut status = of(waiting("ContainerCreating", ""), json!({}));
        status["phase"] = json!("Pending");
        status["conditions"] = json!([scheduled(seconds)]);
        status
    };
    let exited =
        |code: i32| json!({"restartCount": 2, "lastState": {"terminated": {"exitCode": code}}});
    let table = [
        (
            "still starting",
            of(waiting("ContainerCreating", ""), json!({})),
            None,
        ),
        ("just running", of(running(3), json!({})), None),
        (
            "the image cannot be pulled",
            of(waiting("ErrImagePull", "long text"), json!({})),
            Some("ImagePullBackOff: the image \"x:1\""),
        ),
        (
            "the same a moment later",
            of(waiting("ImagePullBackOff", "other text"), json!({})),
            Some("ImagePullBackOff: the image \"x:1\""),
        ),
        (
            "a missing Secret",
            of(
                waiting("CreateContainerConfigError", "secret \"s\" not found"),
                json!({}),
            ),
            Some("CreateContainerConfigError: secret \"s\" not found"),
        ),
        (
            "it exits, backed off",
            of(waiting("CrashLoopBackOff", "back-off 5m0s"), exited(1)),
            Some("CrashLoopBackOff: container mcp-server exits with code 1"),
        ),
        (
            "it exits, running again",
            of(running(1), exited(1)),
            Some("CrashLoopBackOff: container mcp-server exits with code 1"),
        ),
        (
            "it is killed by its probe",
            of(waiting("CrashLoopBackOff", ""), exited(137)),
            Some("needs spec.health.type: TCP"),
        ),
        (
            "its probe tells it to end, and it does",
            of(waiting("CrashLoopBackOff", ""), exited(0)),
            Some(
                "exits with code 0; see kubectl logs --previous; it is probed by GET /health and GET /ready",
            ),
        ),
        (
            "it has too little memory",
            of(
                waiting("CrashLoopBackOff", ""),
                json!({"lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}),
            ),
            Some("container mcp-server ran out of memory (OOMKilled); raise its memory limit"),
        ),
        (
            "it runs without an answer",
            of(running(30), json!({})),
            Some("GET /ready: a server without such a path needs spec.health.type: TCP"),
        ),
        (
            "it is gated",
            json!({"conditions": [{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}]}),
            Some("SchedulingGated: it is not scheduled until its scheduling gates are removed"),
        ),
        ("bound a moment ago", bound(29), None),
        (
            "bound, and no container runs",
            bound(30),
            Some("ContainerCreating: no container runs yet; see kubectl describe pod a-1 -n n"),
        ),
        (
            "bound to a node that says nothing",
            json!({"phase": "Pending", "conditions": [scheduled(60)]}),
            Some("ContainerCreating: no container runs yet"),
        ),
        (
            "no node has room",
            json!({"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes"}]}),
            Some("Unschedulable: 0/1 nodes"),
        ),
    ];
    let begun =
        || deployment(json!({"observedGeneration": 1, "replicas": 1, "updatedReplicas": 1}));
    for (what, status_of_pod, expected) in table {
        let observed = Observed {
            pods: vec![pod(status_of_pod)],
            ..observed(begun(), cluster_ip())
        };
        let status = status(&server(json!({})), &[], &observed, now());
        let message = condition(&status, "DeploymentReady");
        match expected {
            None => assert_eq!(
                message, "False/DeploymentNotReady: Deployment has 0/1 ready replicas",
                "{what}"
            ),
            Some(text) => {
                assert!(
                    message.starts_with(
                        "False/DeploymentNotReady: Deployment has 0/1 ready replicas: pod a-1: "
                    ),
                    "{what}: {message}"
                );
                assert!(message.contains(text), "{what}: {message}");
            }
        }
    }
    let refused = deployment(
        json!({"observedGeneration": 1, "conditions": [{"type": "ReplicaFailure", "status": "True",
        "reason": "FailedCreate", "message": "pods \"a-5d-x7\" is forbidden: exceeded quota: q, requested: pods=1"}]}),
    );
    let refused = status(
        &server(json!({})),
        &[],
        &observed(refused, cluster_ip()),
        now(),
    );
    assert_eq!(
        condition(&refused, "DeploymentReady"),
        "False/DeploymentNotReady: Deployment has 0/1 ready replicas: FailedCreate: exceeded quota: q, requested: pods=1"
    );
    for message in [
        "pods \"a-1\" is forbidden: minimum cpu usage per Container is 300m, but request is 200m",
        "Pod \"a-1\" is invalid: spec.containers[0].resources.requests: Invalid value: \"200m\": must be less than or equal to cpu limit of 100m",
    ] {
        let limited = deployment(json!({"observedGeneration": 1, "conditions":
            [{"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": message}]}));
        let limited = status(
            &server(json!({})),
            &[],
            &observed(limited, cluster_ip()),
            now(),
        );
        let told = condition(&limited, "DeploymentReady");
        assert!(
            told.ends_with("set spec.resources") && !told.contains("a-1"),
            "{told}"
        );
    }
}

#[test]
fn time_alone_changes_a_status_when_patience_ends() {
    let running = json!({"containerStatuses": [{"name": "mcp-server", "image": "x:1", "ready": false,
        "state": {"running": {"startedAt": seconds_ago(10)}}}]});
    let observed = Observed {
        pods: vec![pod(running)],
        ..observed(
            deployment(json!({"observedGeneration": 1, "replicas": 1})),
            cluster_ip(),
        )
    };
    let report = report(&server(json!({})), None, &[], &observed, now());
    assert_eq!(report.changes_in, Some(Duration::from_secs(20)));
}

#[test]
fn what_could_not_be_brought_up_to_date_is_counted_as_it_is() {
    let why = || "applying it: no (500)".to_owned();
    let live = |child: &Child<Deployment>| match child {
        Child::Present(live) => Child::Refused(why(), Some(live.clone())),
        _ => unreachable!(),
    };
    let map = Arc::new(ChildView::read(r#"{"metadata": {"name": "a-config"}}"#).unwrap());
    let table = [
        (
            "a Deployment that runs",
            observed(live(&rolled_out(2)), cluster_ip()),
            2,
            "False/DeploymentNotReady: Deployment has 2/2 ready replicas, but is not up to date: applying it: no (500)",
        ),
        (
            "one that never was",
            observed(Child::Refused(why(), None), cluster_ip()),
            0,
            "False/DeploymentNotFound: applying it: no (500)",
        ),
        (
            "the config of one that runs",
            Observed {
                config_map: Child::Refused(why(), Some(map)),
                ..observed(rolled_out(2), cluster_ip())
            },
            2,
            "False/DeploymentNotReady: Deployment has 2/2 ready replicas, but is not up to date: applying it: no (500)",
        ),
        (
            "the config of one that never was",
            Observed {
                config_map: Child::Refused(why(), None),
                ..observed(Child::Absent, cluster_ip())
            },
            0,
            "False/DeploymentNotFound: applying it: no (500)",
        ),
    ];
    for (what, observed, ready, expected) in table {
        let status = status(&server(json!({"replicas": 2})), &[], &observed, now());
        assert_eq!(condition(&status, "DeploymentReady"), expected, "{what}");
        assert_eq!(
            (status.ready_replicas, status.replicas),
            (ready, ready),
            "{what}"
        );
        assert_eq!(status.phase, Some(Phase::Pending), "{what}");
    }
}

#[test]
fn times_move_only_with_a_status() {
    let ready = observed(rolled_out(1), cluster_ip());
    let a = server(json!({}));
    let old = status(&a, &[], &ready, now());
    let later = Timestamp::from_second(NOW + 60).unwrap();
    let after = |observed| report(&a, Some(&old), &[], observed, later).status;
    assert_eq!(old, after(&ready), "nothing happened");
    let broken = after(&observed(Child::Absent, cluster_ip()));
    assert_eq!(broken.last_transition_time, Some(Time(later)));
    let service = broken
        .conditions
        .iter()
        .find(|c| c.type_ == "ServiceReady")
        .unwrap();
    assert_eq!(
        service.last_transition_time,
        Time(now()),
        "the Service is as it was"
    );
}

#[test]
fn a_server_being_deleted_says_so_and_keeps_its_other_conditions() {
    let ready = observed(rolled_out(1), cluster_ip());
    let a = server(json!({}));
    let old = status(&a, &[], &ready, now());
    let about = About {
        server: &a,
        old: Some(&old),
        hint: "",
        domain: "cluster.local",
    };
    let status = terminating(about, &ready, now()).status;
    assert_eq!(
        (status.phase, &status.endpoint),
        (Some(Phase::Terminating), &None)
    );
    assert_eq!(
        condition(&status, "Ready"),
        "False/Terminating: MCPServer is being deleted"
    );
    assert_eq!(status.conditions.len(), 5);
    assert_eq!(
        condition(&status, "Reconciling"),
        "True/Terminating: MCPServer is being deleted"
    );
}

#[test]
fn mere_progress_is_written_at_most_every_ten_seconds() {
    let with = |ready: i32, trouble: &[&str]| {
        let counts = json!({"observedGeneration": 1, "replicas": 3, "updatedReplicas": 3, "readyReplicas": ready});
        let stuck = |reason: &&str| {
            pod(
                json!({"containerStatuses": [{"name": "c", "image": "i", "ready": false,
                "state": {"waiting": {"reason": reason}}}]}),
            )
        };
        let observed = Observed {
            pods: trouble.iter().map(stuck).collect(),
            ..observed(deployment(counts), cluster_ip())
        };
        report(&server(json!({"replicas": 3})), None, &[], &observed, now())
    };
    let seconds = |n| Some(Duration::from_secs(n));
    let at_once = Some(Duration::ZERO);
    let table = [
        ("nothing was written yet", None, with(0, &[]), None, at_once),
        (
            "nothing differs",
            Some(with(1, &[])),
            with(1, &[]),
            seconds(60),
            None,
        ),
        (
            "a pod more, at once",
            Some(with(0, &[])),
            with(1, &[]),
            seconds(1),
            seconds(9),
        ),
        (
            "a pod more, after a while",
            Some(with(0, &[])),
            with(1, &[]),
            seconds(10),
            at_once,
        ),
        (
            "a pod more, after a restart of the operator",
            Some(with(0, &[])),
            with(1, &[]),
            None,
            at_once,
        ),
        (
            "all pods",
            Some(with(2, &[])),
            with(3, &[]),
            seconds(1),
            at_once,
        ),
        (
            "a first reason",
            Some(with(0, &[])),
            with(0, &["InvalidImageName"]),
            seconds(1),
            at_once,
        ),
        (
            "another reason",
            Some(with(0, &["A"])),
            with(0, &["B"]),
            seconds(1),
            seconds(9),
        ),
    ];
    let begin = Instant::now();
    for (what, old, new, since, expected) in table {
        let now = begin + Duration::from_secs(100);
        let last = since.zip(old.as_ref()).map(|(since, old)| Written {
            gist: old.gist,
            stored: stored(Some(&old.status)),
            at: now.checked_sub(since).unwrap(),
        });
        let old = old.map(|old| old.status);
        assert_eq!(
            due_in(old.as_ref(), &new, last.as_ref(), now),
            expected,
            "{what}"
        );
    }
    // What stands there is not what we wrote.
    let (mine, new) = (with(0, &[]), with(1, &[]));
    let last = Written {
        gist: mine.gist,
        stored: stored(Some(&mine.status)),
        at: begin,
    };
    let mut theirs = mine.status;
    theirs.endpoint = Some("http://elsewhere".to_owned());
    assert_eq!(due_in(Some(&theirs), &new, Some(&last), begin), at_once);
}
