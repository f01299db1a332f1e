//! The status tells the truth, and why.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ResourceQuota, Service};
use kube::Api;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use mcp_operator::api::v1alpha1::Phase;
use serde_json::{Value, json};

use crate::setup::{Space, condition, message};

pub fn with_state(state: &str, mut spec: Value) -> Value {
    spec["image"] = json!("x:1");
    spec["podTemplate"] =
        json!({"metadata": {"annotations": {cluster::fake_kubelet::ANNOTATION: state}}});
    spec
}

#[tokio::test]
async fn a_ready_server_has_an_endpoint_a_selector_and_four_true_conditions() {
    let space = Space::new("ready").await;
    space
        .create("a", json!({"image": "x:1", "replicas": 2, "port": 9000}))
        .await
        .unwrap();
    let server = space.until_ready("a").await;
    let status = server.status.clone().unwrap();
    assert_eq!(status.phase, Some(Phase::Ready));
    assert_eq!((status.ready_replicas, status.replicas), (2, 2));
    assert_eq!(
        status.endpoint,
        Some(format!(
            "http://a.{}.svc.cluster.local:9000",
            space.namespace
        ))
    );
    let selector = status.selector.unwrap();
    assert_eq!(
        selector,
        "app.kubernetes.io/component=server,app.kubernetes.io/instance=a,\
        app.kubernetes.io/managed-by=mcp-operator,app.kubernetes.io/name=mcp-server"
    );
    for (type_, reason, text) in [
        (
            "Ready",
            "MCPServerReady",
            "MCPServer is ready and serving requests",
        ),
        (
            "DeploymentReady",
            "DeploymentReady",
            "Deployment has 2/2 ready replicas",
        ),
        ("ServiceReady", "ServiceReady", "Service is ready"),
        (
            "ConfigurationValid",
            "ConfigurationValid",
            "The configuration is valid",
        ),
    ] {
        let condition = condition(&server, type_).unwrap();
        assert_eq!(
            (
                condition.status.as_str(),
                condition.reason.as_str(),
                condition.message.as_str()
            ),
            ("True", reason, text)
        );
        assert_eq!(condition.observed_generation, server.metadata.generation);
    }
    assert_eq!(
        status.last_transition_time.unwrap(),
        condition(&server, "Ready").unwrap().last_transition_time
    );
    let scale = space.servers().get_scale("a").await.unwrap();
    assert_eq!(
        scale.status.unwrap().selector,
        Some(selector),
        "an autoscaler finds the pods"
    );
    let (_, stdout, _) = space.kubectl(&["get", "mcps", "a"], "").await;
    let header: Vec<_> = stdout.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(
        header,
        [
            "NAME",
            "PHASE",
            "READY",
            "REPLICAS",
            "TRANSPORT",
            "ENDPOINT",
            "AGE"
        ]
    );
}

#[tokio::test]
async fn a_stdio_server_needs_no_service() {
    let space = Space::new("stdio").await;
    space
        .create("a", json!({"image": "x:1", "transport": "stdio"}))
        .await
        .unwrap();
    let server = space.until_ready("a").await;
    assert_eq!(
        server.status.unwrap().endpoint,
        Some(format!("stdio://a.{}.svc.cluster.local", space.namespace))
    );
}

#[tokio::test]
async fn scaled_to_zero_is_ready_without_an_endpoint() {
    let space = Space::new("zero").await;
    space.create("a", json!({"image": "x:1"})).await.unwrap();
    space.until_ready("a").await;
    space
        .patch("a", json!({"spec": {"replicas": 0}}))
        .await
        .unwrap();
    let server = space.until_reason("a", "Ready", "ScaledToZero").await;
    let status = server.status.unwrap();
    assert_eq!((status.phase, status.endpoint), (Some(Phase::Ready), None));
    space
        .patch("a", json!({"spec": {"replicas": 3}}))
        .await
        .unwrap();
    let server = space
        .until("a", "three replicas", |server| {
            server
                .status
                .as_ref()
                .is_some_and(|status| status.ready_replicas == 3)
        })
        .await;
    assert_eq!(
        condition(&server, "Ready").unwrap().reason,
        "MCPServerReady"
    );
}

#[tokio::test]
async fn a_pod_that_does_not_start_is_explained() {
    let space = Space::new("explained").await;
    let table = [
        (
            "pull",
            "image-pull-backoff",
            json!({}),
            "ImagePullBackOff: the image \"x:1\"",
        ),
        (
            "created",
            "creating",
            json!({}),
            "ContainerCreating: no container runs yet; see kubectl describe pod created-",
        ),
        (
            "crash",
            "crash-loop",
            json!({}),
            "CrashLoopBackOff: container mcp-server exits with code 1",
        ),
        (
            "probed",
            "not-ready",
            json!({}),
            "needs spec.health.type: TCP",
        ),
        (
            "connected",
            "not-ready",
            json!({"health": {"type": "TCP"}}),
            "runs but does not get ready",
        ),
    ];
    for (name, state, spec, _) in &table {
        space
            .create(name, with_state(state, spec.clone()))
            .await
            .unwrap();
    }
    for (name, _, _, text) in table {
        let server = space
            .until(name, text, |server| {
                message(server, "DeploymentReady").contains(text)
            })
            .await;
        assert!(
            message(&server, "DeploymentReady")
                .starts_with("Deployment has 0/1 ready replicas: pod ")
        );
        let ready = condition(&server, "Ready").unwrap();
        assert_eq!(ready.reason, "MCPServerNotReady");
        assert!(
            ready.message.starts_with("Deployment is not ready: pod ")
                && ready.message.contains(text),
            "{}",
            ready.message
        );
        assert_eq!(server.status.unwrap().phase, Some(Phase::Pending));
    }
    // One Event tells it too, and only once.
    let events: Api<k8s_openapi::api::events::v1::Event> = space.api();
    let events = events.list(&ListParams::default()).await.unwrap().items;
    let of_pull: Vec<_> = events
        .iter()
        .filter(|event| {
            event.regarding.as_ref().and_then(|r| r.name.as_deref()) == Some("pull")
                && event.reason.as_deref() == Some("NotReady")
        })
        .collect();
    assert_eq!(of_pull.len(), 1, "{of_pull:?}");
    // Mended, it becomes ready.
    space
        .patch("pull", json!({"spec": {"podTemplate": null}}))
        .await
        .unwrap();
    space.until_ready("pull").await;
}

#[tokio::test]
async fn a_full_quota_is_explained() {
    let space = Space::new("quota").await;
    let quota: ResourceQuota =
        serde_json::from_value(json!({"metadata": {"name": "q"}, "spec": {"hard": {"pods": "0"}}}))
            .unwrap();
    space
        .api::<ResourceQuota>()
        .create(&PostParams::default(), &quota)
        .await
        .unwrap();
    space.create("a", json!({"image": "x:1"})).await.unwrap();
    let server = space
        .until("a", "exceeded quota", |server| {
            message(server, "DeploymentReady").contains("exceeded quota: q")
        })
        .await;
    assert!(
        !message(&server, "DeploymentReady").contains("is forbidden"),
        "{}",
        message(&server, "DeploymentReady")
    );
}

#[tokio::test]
async fn a_load_balancer_is_waited_for() {
    let space = Space::new("balancer").await;
    space.create("a", json!({"image": "x:1", "service": {"type": "LoadBalancer", "annotations": {"x/y": "z"}}})).await.unwrap();
    let server = space
        .until("a", "only the Service is missing", |server| {
            message(server, "Ready")
                == "Service is not ready: Service waits for the load balancer's address"
        })
        .await;
    assert_eq!(
        condition(&server, "ServiceReady").unwrap().reason,
        "ServiceNotReady"
    );
    let status = json!({"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}});
    let services: Api<Service> = space.api();
    services
        .patch_status("a", &PatchParams::default(), &Patch::Merge(status))
        .await
        .unwrap();
    space.until_ready("a").await;
    space
        .patch("a", json!({"spec": {"service": {"type": "NodePort"}}}))
        .await
        .unwrap();
    space.until_ready("a").await;
}

#[tokio::test]
async fn a_rollout_past_its_deadline_has_failed() {
    let space = Space::new("deadline").await;
    space
        .create("a", with_state("not-ready", json!({})))
        .await
        .unwrap();
    space
        .until_reason("a", "DeploymentReady", "DeploymentNotReady")
        .await;
    // The operator leaves the deadline to its default of ten minutes, and to whoever sets another one.
    let patch = json!({"spec": {"progressDeadlineSeconds": 1}});
    space
        .api::<Deployment>()
        .patch("a", &PatchParams::default(), &Patch::Merge(patch))
        .await
        .unwrap();
    space
        .until("a", "phase Failed", |server| {
            server.status.as_ref().and_then(|s| s.phase) == Some(Phase::Failed)
        })
        .await;
}

#[tokio::test]
async fn what_somebody_else_writes_into_the_status_goes() {
    let space = Space::new("foreign-status").await;
    space
        .create("a", with_state("not-ready", json!({})))
        .await
        .unwrap();
    space
        .until_reason("a", "DeploymentReady", "DeploymentNotReady")
        .await;
    let by_hand = PatchParams {
        field_manager: Some("somebody".to_owned()),
        ..Default::default()
    };
    let patch = json!({"status": {"endpoint": "http://elsewhere", "conditions": []}});
    space
        .servers()
        .patch_status("a", &by_hand, &Patch::Merge(patch))
        .await
        .unwrap();
    space
        .until(
            "a",
            "the endpoint is gone and the conditions are back",
            |server| {
                let status = server.status.clone().unwrap_or_default();
                status.endpoint.is_none() && status.conditions.len() == 5
            },
        )
        .await;
}

/// Admission cannot know all that the API server will say to the Deployment.
#[tokio::test]
async fn what_the_api_server_refuses_is_told_and_not_tried_over_and_over() {
    let space = Space::new("refused").await;
    let odd = json!({"spec": {"nodeSelector": {"no such key!": "x"}}});
    space
        .create("a", json!({"image": "x:1", "podTemplate": odd}))
        .await
        .unwrap();
    let server = space
        .until_reason("a", "ConfigurationValid", "ConfigurationInvalid")
        .await;
    assert_eq!(server.status.as_ref().unwrap().phase, Some(Phase::Failed));
    let told = message(&server, "ConfigurationValid");
    assert!(
        told.contains("nodeSelector") && told.contains("no such key!"),
        "{told}"
    );

    for round in 0..5 {
        space
            .patch(
                "a",
                json!({"metadata": {"labels": {"round": round.to_string()}}}),
            )
            .await
            .unwrap();
    }
    let tries = async || {
        let writes = crate::setup::shared()
            .cluster
            .writes_by(crate::setup::USER)
            .await
            .unwrap();
        let ours = writes
            .into_iter()
            .filter(|write| write.namespace == space.namespace);
        ours.filter(|write| write.resource == "deployments").count()
    };
    // Mended: this pass comes after those that the labels caused.
    space
        .patch("a", json!({"spec": {"podTemplate": null}}))
        .await
        .unwrap();
    space.until_ready("a").await;
    assert_eq!(tries().await, 2, "one that was refused, one that was taken");
}

#[tokio::test]
async fn states_that_are_in_no_list_are_told_as_they_are() {
    let space = Space::new("states").await;
    // A rollout that somebody paused.
    space
        .create("paused", json!({"image": "x:1"}))
        .await
        .unwrap();
    space.until_ready("paused").await;
    let (paused, _, said) = space
        .kubectl(&["rollout", "pause", "deployment/paused"], "")
        .await;
    assert!(paused, "{said}");
    let change = json!({"spec": {"image": "x:2"}});
    space.patch("paused", change).await.unwrap();
    // A pod that its gates hold, and one whose probes are the pod template's.
    let gated =
        json!({"podTemplate": {"spec": {"schedulingGates": [{"name": "example.com/gate"}]}}});
    let mut spec = gated.clone();
    spec["image"] = json!("x:1");
    space.create("gated", spec).await.unwrap();
    let mut probed = with_state("not-ready", json!({}));
    probed["podTemplate"]["spec"] = json!({"containers": [{
        "name": "mcp-server",
        "livenessProbe": {"exec": {"command": ["alive"]}},
        "readinessProbe": {"httpGet": {"path": "/healthz", "port": 9090}},
    }]});
    space.create("probed", probed).await.unwrap();
    let table = [
        ("paused", "Paused: the Deployment is paused"),
        ("gated", "SchedulingGated: it is not scheduled"),
        (
            "probed",
            "it is probed by a command in the container and GET /healthz at port 9090",
        ),
    ];
    for (name, text) in table {
        let server = space
            .until(name, text, |server| {
                message(server, "DeploymentReady").contains(text)
            })
            .await;
        let ready = message(&server, "Ready");
        assert!(ready.contains(text), "{ready}");
        assert!(!ready.contains("spec.health.type"), "{ready}");
    }
    let (resumed, _, said) = space
        .kubectl(&["rollout", "resume", "deployment/paused"], "")
        .await;
    assert!(resumed, "{said}");
    space.until_ready("paused").await;
}

#[tokio::test]
async fn a_limit_range_that_the_default_requests_break_is_told() {
    let space = Space::new("limited").await;
    let range = json!({
        "apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "small"},
        "spec": {"limits": [{"type": "Container", "default": {"cpu": "100m", "memory": "64Mi"}}]},
    });
    let (created, _, said) = space
        .kubectl(&["create", "-f", "-"], &range.to_string())
        .await;
    assert!(created, "{said}");
    space.create("a", json!({"image": "x:1"})).await.unwrap();
    let hint = "set spec.resources";
    let server = space
        .until("a", hint, |server| message(server, "Ready").contains(hint))
        .await;
    let told = message(&server, "DeploymentReady");
    assert!(told.contains("must be less than or equal to"), "{told}");
    let resources = json!({"limits": {"cpu": "100m", "memory": "64Mi"}, "requests": null});
    space
        .patch("a", json!({"spec": {"resources": resources}}))
        .await
        .unwrap();
    space.until_ready("a").await;
}

/// By kstatus itself, which `helm --wait`, Flux and Argo CD are made of.
#[tokio::test]
async fn tools_that_wait_see_what_is() {
    let space = Space::new("kstatus").await;
    let invalid =
        json!({"image": "x:1", "podTemplate": {"spec": {"nodeSelector": {"no such key!": "x"}}}});
    let table = [
        ("ready", json!({"image": "x:1"}), "Ready", "Current"),
        (
            "zero",
            json!({"image": "x:1", "replicas": 0}),
            "Ready",
            "Current",
        ),
        (
            "stuck",
            with_state("not-ready", json!({})),
            "Pending",
            "InProgress",
        ),
        ("invalid", invalid, "Failed", "Failed"),
        (
            "slow",
            with_state("slow-delete", json!({})),
            "Ready",
            "Current",
        ),
    ];
    for (name, spec, ..) in &table {
        space.create(name, spec.clone()).await.unwrap();
    }
    let mut objects = Vec::new();
    for (name, _, phase, _) in &table {
        let server = space
            .until(name, phase, |server| {
                let status = server.status.clone().unwrap_or_default();
                status.observed_generation == server.metadata.generation
                    && status.phase.is_some_and(|found| found.as_str() == *phase)
            })
            .await;
        objects.push(serde_json::to_value(server).unwrap());
    }
    space
        .servers()
        .delete("slow", &kube::api::DeleteParams::default())
        .await
        .unwrap();
    let going = space.until_reason("slow", "Ready", "Terminating").await;
    objects.push(serde_json::to_value(going).unwrap());
    let mut unseen = objects[0].clone();
    unseen["status"] = json!({"observedGeneration": -1});
    objects.push(unseen);
    let found = cluster::oracles::kstatus(&objects).await.unwrap();
    let found: Vec<_> = found.into_iter().map(|found| found.status).collect();
    let mut expected: Vec<_> = table.iter().map(|(.., status)| *status).collect();
    expected.extend(["Terminating", "InProgress"]);
    assert_eq!(found, expected);
}
