//! The children, their drift, their conflicts.

use cluster::eventually;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::ResourceExt;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use mcp_operator::api::labels;
use serde_json::{Value, json};

use crate::setup::{SOON, Space, USER, condition, message, shared};

fn pod_spec(deployment: &Deployment) -> &k8s_openapi::api::core::v1::PodSpec {
    deployment
        .spec
        .as_ref()
        .unwrap()
        .template
        .spec
        .as_ref()
        .unwrap()
}

fn as_json<T: serde::Serialize>(value: &T) -> Value {
    serde_json::to_value(value).unwrap()
}

#[tokio::test]
async fn a_network_server_becomes_three_children_that_it_owns() {
    let space = Space::new("three-children").await;
    let created = space
        .create(
            "a",
            json!({"image": "x:1", "transport": "http", "config": {"K": "v"}}),
        )
        .await
        .unwrap();
    space.until_ready("a").await;
    let deployment = as_json(&space.api::<Deployment>().get("a").await.unwrap());
    let service = as_json(&space.api::<Service>().get("a").await.unwrap());
    let config_map = as_json(&space.api::<ConfigMap>().get("a-config").await.unwrap());
    for child in [&deployment, &service, &config_map] {
        let owner = &child["metadata"]["ownerReferences"][0];
        assert_eq!(
            (&owner["uid"], &owner["controller"]),
            (&json!(created.metadata.uid), &json!(true))
        );
        let found = &child["metadata"]["labels"];
        let expected = json!({
            "app.kubernetes.io/name": "mcp-server", "app.kubernetes.io/instance": "a",
            "app.kubernetes.io/component": "server", "app.kubernetes.io/managed-by": "mcp-operator",
            "mcp.example.com/transport": "http",
        });
        assert_eq!(found, &expected);
    }
    assert_eq!(
        service["spec"]["ports"],
        json!([{"name": "mcp", "port": 8080, "protocol": "TCP", "targetPort": "mcp"}])
    );
    assert_eq!(service["spec"]["sessionAffinity"], json!("None"));
    let parsed: Value =
        serde_json::from_str(config_map["data"]["config.json"].as_str().unwrap()).unwrap();
    assert_eq!(
        parsed,
        json!({
            "server": {"name": "a", "transport": "http", "port": 8080}, "config": {"K": "v"},
            "http": {"cors": {"enabled": true, "origins": ["*"]}},
        })
    );
    assert_eq!(config_map["data"]["K"], json!("v"));
    let container = &deployment["spec"]["template"]["spec"]["containers"][0];
    let names: Vec<_> = container["env"]
        .as_array()
        .unwrap()
        .iter()
        .map(|env| env["name"].as_str().unwrap())
        .collect();
    assert_eq!(
        names,
        [
            "MCP_TRANSPORT",
            "MCP_PORT",
            "MCP_SERVER_NAME",
            "POD_NAME",
            "POD_NAMESPACE",
            "MCP_CONFIG_FILE"
        ]
    );
}

#[tokio::test]
async fn what_we_set_is_put_back_and_what_others_add_stays() {
    let space = Space::new("drift").await;
    space
        .create("a", json!({"image": "x:1", "config": {"K": "v"}}))
        .await
        .unwrap();
    space.until_ready("a").await;
    let by_hand = PatchParams {
        field_manager: Some("somebody".to_owned()),
        ..Default::default()
    };

    let patch = json!({
        "metadata": {"labels": {"theirs": "1", "app.kubernetes.io/name": "other"}},
        "spec": {"replicas": 5, "template": {"metadata": {"annotations": {"theirs": "1"}},
            "spec": {"terminationGracePeriodSeconds": 1}}},
    });
    space
        .api::<Deployment>()
        .patch("a", &by_hand, &Patch::Merge(patch))
        .await
        .unwrap();
    let deployment = space
        .until_object::<Deployment>("a", "is put back", |deployment| {
            deployment.spec.as_ref().unwrap().replicas == Some(1)
                && pod_spec(deployment).termination_grace_period_seconds == Some(30)
                && deployment.labels()["app.kubernetes.io/name"] == "mcp-server"
        })
        .await;
    assert_eq!(deployment.labels()["theirs"], "1");
    let template = deployment
        .spec
        .as_ref()
        .unwrap()
        .template
        .metadata
        .clone()
        .unwrap();
    assert_eq!(template.annotations.unwrap()["theirs"], "1");

    let patch = json!({"spec": {"ports": [{"port": 8080, "name": "mcp", "targetPort": 1}]}});
    space
        .api::<Service>()
        .patch("a", &by_hand, &Patch::Strategic(patch))
        .await
        .unwrap();
    space
        .until_object::<Service>("a", "is put back", |service| {
            as_json(service)["spec"]["ports"][0]["targetPort"] == json!("mcp")
        })
        .await;

    let patch = json!({"data": {"K": "other", "THEIRS": "1"}});
    space
        .api::<ConfigMap>()
        .patch("a-config", &by_hand, &Patch::Merge(patch))
        .await
        .unwrap();
    let config_map = space
        .until_object::<ConfigMap>("a-config", "is put back", |config_map| {
            config_map.data.as_ref().unwrap()["K"] == "v"
        })
        .await;
    assert_eq!(config_map.data.unwrap()["THEIRS"], "1");
}

#[tokio::test]
async fn a_rollout_restart_is_left_to_roll() {
    let space = Space::new("restart").await;
    space.create("a", json!({"image": "x:1"})).await.unwrap();
    space.until_ready("a").await;
    let before = space.pods_of("a").await[0].name_any();
    let (done, _, stderr) = space
        .kubectl(&["rollout", "restart", "deployment/a"], "")
        .await;
    assert!(done, "{stderr}");
    let (done, stdout, stderr) = space
        .kubectl(&["rollout", "status", "deployment/a", "--timeout=60s"], "")
        .await;
    assert!(done, "{stdout}{stderr}");
    space.until_gone::<Pod>(&before).await;
    space.until_ready("a").await;
}

#[tokio::test]
async fn children_deleted_by_hand_come_back() {
    let space = Space::new("deleted-children").await;
    space
        .create("a", json!({"image": "x:1", "config": {"K": "v"}}))
        .await
        .unwrap();
    space.until_ready("a").await;
    let deployment = space.api::<Deployment>().get("a").await.unwrap();
    let service = space.api::<Service>().get("a").await.unwrap();
    let config_map = space.api::<ConfigMap>().get("a-config").await.unwrap();
    let gone = DeleteParams::default();
    space.api::<Deployment>().delete("a", &gone).await.unwrap();
    space.api::<Service>().delete("a", &gone).await.unwrap();
    space
        .api::<ConfigMap>()
        .delete("a-config", &gone)
        .await
        .unwrap();
    space
        .until_object::<Deployment>("a", "is a new one", |new| new.uid() != deployment.uid())
        .await;
    space
        .until_object::<Service>("a", "is a new one", |new| new.uid() != service.uid())
        .await;
    space
        .until_object::<ConfigMap>("a-config", "is a new one", |new| {
            new.uid() != config_map.uid()
        })
        .await;
    space.until_ready("a").await;
}

#[tokio::test]
async fn a_child_without_its_owner_reference_is_adopted() {
    let space = Space::new("adopted").await;
    space.create("a", json!({"image": "x:1"})).await.unwrap();
    space.until_ready("a").await;
    let uid = space.api::<Deployment>().get("a").await.unwrap().uid();
    let patch = json!({"metadata": {"ownerReferences": null}});
    space
        .api::<Deployment>()
        .patch("a", &PatchParams::default(), &Patch::Merge(patch))
        .await
        .unwrap();
    let adopted = space
        .until_object::<Deployment>("a", "has its owner again", |deployment| {
            deployment.owner_references().len() == 1
        })
        .await;
    assert_eq!(adopted.uid(), uid, "the same object");
}

#[tokio::test]
async fn what_is_no_longer_wanted_goes() {
    let space = Space::new("unwanted").await;
    space
        .create("a", json!({"image": "x:1", "config": {"K": "v"}}))
        .await
        .unwrap();
    space.until_ready("a").await;
    space
        .patch("a", json!({"spec": {"config": null, "transport": "stdio"}}))
        .await
        .unwrap();
    space.until_gone::<ConfigMap>("a-config").await;
    space.until_gone::<Service>("a").await;
    let server = space.until_ready("a").await;
    assert_eq!(
        condition(&server, "ServiceReady").unwrap().reason,
        "NotRequired"
    );
    let deployment = space.api::<Deployment>().get("a").await.unwrap();
    assert_eq!(
        as_json(&deployment)["spec"]["strategy"],
        json!({"type": "Recreate"})
    );
    let container = &pod_spec(&deployment).containers[0];
    assert_eq!(
        (
            container.stdin,
            container.ports.is_some(),
            container.liveness_probe.is_some()
        ),
        (Some(true), false, false)
    );
}

#[tokio::test]
async fn a_config_change_rolls_the_pods() {
    let space = Space::new("config-change").await;
    space
        .create("a", json!({"image": "x:1", "config": {"K": "v"}}))
        .await
        .unwrap();
    space.until_ready("a").await;
    let before = space.pods_of("a").await[0].name_any();
    space
        .patch("a", json!({"spec": {"config": {"K": "w"}}}))
        .await
        .unwrap();
    space.until_gone::<Pod>(&before).await;
    space.until_ready("a").await;
    assert_eq!(
        space
            .api::<ConfigMap>()
            .get("a-config")
            .await
            .unwrap()
            .data
            .unwrap()["K"],
        "w"
    );
}

/// A watch does not build what such a server wants; its passes do.
#[tokio::test]
async fn a_large_server_is_compared_by_its_passes() {
    let space = Space::new("large").await;
    let spec = json!({"image": "x:1", "config": {"K": "v", "large": "x".repeat(300_000)}});
    space.create("a", spec).await.unwrap();
    space.until_ready("a").await;
    let label = json!({"metadata": {"labels": {"example.com/theirs": "yes"}}});
    let (params, label) = (PatchParams::default(), Patch::Merge(label));
    space
        .api::<Deployment>()
        .patch("a", &params, &label)
        .await
        .unwrap();
    let change = Patch::Merge(json!({"data": {"K": "w"}}));
    space
        .api::<ConfigMap>()
        .patch("a-config", &params, &change)
        .await
        .unwrap();
    space
        .until_object::<ConfigMap>("a-config", "is put back", |config| {
            config.data.as_ref().is_some_and(|data| data["K"] == "v")
        })
        .await;
    let requests = eventually("the Deployment is read", SOON, || async {
        let all = shared().cluster.requests_by(USER).await?;
        let here: Vec<_> = all
            .into_iter()
            .filter(|request| {
                request.namespace == space.namespace && request.resource == "deployments"
            })
            .collect();
        let is_read = here.iter().any(|request| request.verb == "get");
        Ok(is_read.then_some(here))
    })
    .await
    .unwrap();
    let writes: Vec<_> = requests
        .iter()
        .filter(|request| request.verb != "get")
        .map(|request| &request.verb)
        .collect();
    assert_eq!(writes, ["create"], "a label beside ours is left alone");
}

/// Server-side apply leaves what the API server added beside owned fields; each of these changes would
/// then be refused.
#[tokio::test]
async fn every_change_of_shape_is_taken_by_the_api_server() {
    let space = Space::new("shapes").await;
    let overlay = |container: Value, volumes: Value| {
        json!({"podTemplate": {"spec": {
        "containers": [{"name": "side", "image": "s:1"}, container], "volumes": volumes}}})
    };
    let probe = |handler: Value| json!({"name": "mcp-server", "startupProbe": handler});
    let shapes = [
        json!({}),
        json!({"health": {"type": "TCP"}}),
        json!({"health": {"type": "None"}}),
        json!({"transport": "stdio"}),
        json!({"transport": "http", "service": {"type": "NodePort"}}),
        json!({"service": {"sessionAffinity": "None", "type": "ClusterIP"}}),
        json!({"service": {"port": 80, "appProtocol": "http", "labels": {"a": "b"}, "annotations": {"example.com/a": "b"},
            "type": "NodePort", "externalTrafficPolicy": "Local", "ipFamilyPolicy": "PreferDualStack"}}),
        json!({"service": {"port": 81}}),
        json!({"service": {"ipFamilyPolicy": "PreferDualStack"}}),
        json!({"strategy": {"type": "Recreate"}}),
        json!({"strategy": {"rollingUpdate": {"maxUnavailable": "50%"}}}),
        json!({"strategy": {"type": "Recreate"}, "path": "/x"}),
        json!({"disruptionBudget": {"minAvailable": 1}}),
        json!({"disruptionBudget": {"maxUnavailable": "50%"}, "commonMetadata": {"labels": {"a": "b"}, "annotations": {"a": "b"}}}),
        json!({"commonMetadata": {"labels": {"c": "d"}}}),
        overlay(
            probe(json!({"httpGet": {"port": "mcp"}})),
            json!([{"name": "v", "secret": {"secretName": "s"}}]),
        ),
        overlay(
            probe(json!({"exec": {"command": ["true"]}})),
            json!([{"name": "v", "configMap": {"name": "c"}}]),
        ),
        overlay(
            json!({"name": "mcp-server", "livenessProbe": {"grpc": {"port": 8080}}}),
            json!([{"name": "v", "hostPath": {"path": "/x"}}]),
        ),
        overlay(
            json!({"name": "mcp-server", "livenessProbe": null, "lifecycle": {"preStop": {"httpGet": {"port": 1}}}}),
            json!([{"name": "v", "downwardAPI": {"items": [{"path": "p", "fieldRef": {"fieldPath": "metadata.name"}}]}}]),
        ),
        overlay(
            json!({"name": "mcp-server", "lifecycle": {"preStop": {"exec": {"command": ["true"]}}}}),
            json!([{"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}]),
        ),
        json!({"env": [{"name": "E", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}}]}),
        json!({"env": [{"name": "E", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]}),
        json!({"env": [{"name": "E", "value": "x"}]}),
        json!({"env": [{"name": "MCP_PORT", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]}),
        json!({"securityContext": {"readOnlyRootFilesystem": false}}),
        json!({"securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"add": ["SYS_ADMIN"]}}}),
        json!({"podTemplate": {"spec": {"hostUsers": false, "containers": [
            {"name": "mcp-server", "securityContext": {"procMount": "Unmasked"}}]}}}),
        json!({"resources": {"limits": {"example.com/x": "1k"}, "requests": {"example.com/x": "1000"}}}),
        json!({"resources": {"limits": {"cpu": "10m", "memory": "32Mi"}}, "podTemplate": {"spec": {"containers": [
            {"name": "mcp-server", "resources": {"limits": {"memory": "64Mi", "cpu": null}}}]}}}),
        json!({"podTemplate": {"spec": {"volumes": null, "containers": [
            {"name": "mcp-server", "volumeMounts": null}, {"name": "a".repeat(63), "image": "s:1"}]}}}),
        json!({}),
    ];
    space.create("a", json!({"image": "x:1"})).await.unwrap();
    let mut previous = json!({});
    for shape in shapes {
        let mut patch = shape.clone();
        // What the last shape had and this one has not, goes.
        for key in previous.as_object().unwrap().keys() {
            if patch.get(key).is_none() {
                patch[key] = if key == "transport" {
                    json!("streamable-http")
                } else {
                    Value::Null
                };
            }
        }
        for key in [
            "env",
            "service",
            "health",
            "podTemplate",
            "strategy",
            "disruptionBudget",
        ] {
            // A merge patch would merge them.
            space
                .patch("a", json!({"spec": {key: null}}))
                .await
                .unwrap();
        }
        let patched = space
            .patch("a", json!({"spec": patch}))
            .await
            .unwrap_or_else(|error| panic!("{shape}: {error}"));
        let generation = patched.metadata.generation;
        let server = space
            .until("a", &format!("takes {shape}"), |server| {
                let status = server.status.clone().unwrap_or_default();
                status.observed_generation == generation
                    && condition(server, "Ready").is_some_and(|c| c.status == "True")
            })
            .await;
        assert_eq!(
            condition(&server, "ConfigurationValid").unwrap().status,
            "True",
            "{shape}"
        );
        previous = shape;
    }
    let deployment = space.api::<Deployment>().get("a").await.unwrap();
    let service = space.api::<Service>().get("a").await.unwrap();
    for labels in [deployment.labels(), service.labels()] {
        assert!(!labels.contains_key("c"), "{labels:?}");
    }
    let policy = as_json(&service)["spec"]["ipFamilyPolicy"].clone();
    assert_eq!(policy, "SingleStack");
    assert_eq!(
        as_json(&deployment)["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"],
        0
    );
    space.until_gone::<PodDisruptionBudget>("a").await;
    let spec = pod_spec(&deployment);
    assert_eq!(spec.containers.len(), 1, "the sidecar has gone");
    let names: Vec<_> = spec
        .volumes
        .iter()
        .flatten()
        .map(|volume| volume.name.as_str())
        .collect();
    assert_eq!(names, ["mcp-tmp"]);
}

#[tokio::test]
async fn an_object_of_somebody_else_is_left_alone_and_named() {
    let space = Space::new("conflicts").await;
    let post = PostParams::default();
    let service: Service = serde_json::from_value(
        json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 1}]}}),
    )
    .unwrap();
    space
        .api::<Service>()
        .create(&post, &service)
        .await
        .unwrap();
    let config_map: ConfigMap =
        serde_json::from_value(json!({"metadata": {"name": "c-config"}, "data": {"x": "y"}}))
            .unwrap();
    space
        .api::<ConfigMap>()
        .create(&post, &config_map)
        .await
        .unwrap();
    let deployment: Deployment =
        serde_json::from_value(json!({"metadata": {"name": "d"}, "spec": {"replicas": 0,
        "selector": {"matchLabels": {"x": "y"}}, "template": {"metadata": {"labels": {"x": "y"}},
        "spec": {"containers": [{"name": "x", "image": "x"}]}}}}))
        .unwrap();
    space
        .api::<Deployment>()
        .create(&post, &deployment)
        .await
        .unwrap();

    let budget: PodDisruptionBudget =
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {"minAvailable": 1}}))
            .unwrap();
    let budgets = space.api::<PodDisruptionBudget>();
    budgets.create(&post, &budget).await.unwrap();
    let spec = json!({"image": "x:1", "disruptionBudget": {"maxUnavailable": 1}});
    space.create("p", spec).await.unwrap();
    let server = space.until_reason("p", "Ready", "NameConflict").await;
    let text = message(&server, "Ready");
    assert!(text.contains("PodDisruptionBudget \"p\""), "{text}");

    for (name, type_, named) in [
        ("s", "ServiceReady", "Service \"s\""),
        ("c", "DeploymentReady", "ConfigMap \"c-config\""),
        ("d", "DeploymentReady", "Deployment \"d\""),
    ] {
        space
            .create(name, json!({"image": "x:1", "config": {"K": "v"}}))
            .await
            .unwrap();
        let server = space.until_reason(name, "Ready", "NameConflict").await;
        assert!(
            message(&server, "Ready").contains(named),
            "{}",
            message(&server, "Ready")
        );
        assert_eq!(
            condition(&server, type_).unwrap().reason,
            "NameConflict",
            "{name}"
        );
    }
    assert_eq!(
        space.api::<ConfigMap>().get("c-config").await.unwrap().data,
        config_map.data
    );
    assert!(
        space
            .api::<Deployment>()
            .get_opt("c")
            .await
            .unwrap()
            .is_none(),
        "no Deployment without its config"
    );
    assert_eq!(
        space
            .api::<Service>()
            .get("s")
            .await
            .unwrap()
            .owner_references(),
        []
    );

    // Deleting a server does not touch them either; without them the others recover.
    space
        .servers()
        .delete("d", &DeleteParams::default())
        .await
        .unwrap();
    space.until_gone::<mcp_operator::api::MCPServer>("d").await;
    assert!(
        space
            .api::<Deployment>()
            .get_opt("d")
            .await
            .unwrap()
            .is_some()
    );
    space
        .api::<Service>()
        .delete("s", &DeleteParams::default())
        .await
        .unwrap();
    space
        .api::<ConfigMap>()
        .delete("c-config", &DeleteParams::default())
        .await
        .unwrap();
    let untouched = budgets.get("p").await.unwrap();
    assert_eq!(untouched.owner_references(), []);
    budgets.delete("p", &DeleteParams::default()).await.unwrap();
    for name in ["s", "c", "p"] {
        space.until_ready(name).await;
    }
}

#[tokio::test]
async fn a_pod_template_amends_what_is_built() {
    let space = Space::new("overlay").await;
    let (made, _, stderr) = space
        .kubectl(&["create", "serviceaccount", "bob"], "")
        .await;
    assert!(made, "{stderr}");
    space
        .create(
            "a",
            json!({"image": "x:1", "config": {"A": "b"}, "podTemplate": {
            "metadata": {"labels": {"team": "a"}, "annotations": {"note": "b"}},
            "spec": {
                "tolerations": [{"key": "k", "operator": "Exists"}],
                "serviceAccount": "bob",
                "volumes": [{"name": "data", "emptyDir": {}},
                    {"name": "mcp-config", "configMap": {"defaultMode": 256}}],
                "containers": [
                    {"name": "mcp-server", "volumeMounts": [{"name": "data", "mountPath": "/data"}],
                     "env": [{"name": "MCP_PORT", "value": "1"}]},
                    {"name": "side", "image": "s:1"},
                ],
            }}}),
        )
        .await
        .unwrap();
    space.until_ready("a").await;
    let deployment = space.api::<Deployment>().get("a").await.unwrap();
    let template = as_json(&deployment.spec.as_ref().unwrap().template);
    assert_eq!(template["metadata"]["labels"]["team"], json!("a"));
    assert_eq!(template["metadata"]["labels"][labels::INSTANCE], json!("a"));
    assert_eq!(
        template["spec"]["tolerations"],
        json!([{"key": "k", "operator": "Exists"}])
    );
    let containers = template["spec"]["containers"].as_array().unwrap();
    assert_eq!(containers.len(), 2);
    let mounts: Vec<_> = containers[0]["volumeMounts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m["mountPath"].clone())
        .collect();
    assert_eq!(mounts, [json!("/etc/mcp"), json!("/tmp"), json!("/data")]);
    assert_eq!(
        template["spec"]["volumes"][0]["configMap"],
        json!({"name": "a-config", "defaultMode": 256}),
        "amended, not replaced"
    );
    assert_eq!(
        template["spec"]["serviceAccountName"],
        json!("bob"),
        "by its deprecated alias"
    );
    assert_eq!(
        containers[0]["env"][1],
        json!({"name": "MCP_PORT", "value": "1"})
    );
}

/// Where somebody put another kind of thing in the place of ours, server-side apply alone would leave both.
#[tokio::test]
async fn another_kind_of_thing_in_the_place_of_ours_is_put_back() {
    let space = Space::new("other-kinds").await;
    space
        .create("a", json!({"image": "x:1", "config": {"K": "v"}}))
        .await
        .unwrap();
    space.until_ready("a").await;
    let by_hand = PatchParams {
        field_manager: Some("somebody".to_owned()),
        ..Default::default()
    };
    let before = as_json(
        &space
            .api::<Deployment>()
            .get("a")
            .await
            .unwrap()
            .spec
            .unwrap()
            .template,
    );
    let changes = [
        (
            "a port",
            json!([{"op": "replace", "path": "/spec/template/spec/containers/0/ports/0/containerPort", "value": 99}]),
        ),
        (
            "a handler",
            json!([{"op": "remove", "path": "/spec/template/spec/containers/0/livenessProbe/httpGet"},
            {"op": "add", "path": "/spec/template/spec/containers/0/livenessProbe/exec", "value": {"command": ["true"]}}]),
        ),
        (
            "a variable",
            json!([{"op": "replace", "path": "/spec/template/spec/containers/0/env/0", "value":
            {"name": "MCP_TRANSPORT", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}}]),
        ),
        (
            "a volume",
            json!([{"op": "replace", "path": "/spec/template/spec/volumes/0", "value":
            {"name": "mcp-config", "emptyDir": {}}}]),
        ),
    ];
    for (what, change) in changes {
        let change: json_patch::Patch = serde_json::from_value(change).unwrap();
        let patched = space
            .api::<Deployment>()
            .patch("a", &by_hand, &Patch::Json::<()>(change))
            .await
            .unwrap();
        assert_ne!(as_json(&patched.spec.unwrap().template), before, "{what}");
        let expected = format!("{what} is put back, and what is ours has one owner");
        space
            .until_object::<Deployment>("a", &expected, |deployment| {
                let managers = deployment
                    .managed_fields()
                    .iter()
                    .filter_map(|entry| entry.manager.as_deref());
                let managers: Vec<_> = managers
                    .filter(|manager| manager.starts_with("mcp-operator"))
                    .collect();
                as_json(&deployment.spec.as_ref().unwrap().template) == before
                    && managers == ["mcp-operator"]
            })
            .await;
    }
    // What it owns it can still take away.
    space
        .patch("a", json!({"spec": {"health": {"type": "None"}}}))
        .await
        .unwrap();
    space
        .until_object::<Deployment>("a", "has no probe", |deployment| {
            pod_spec(deployment).containers[0].liveness_probe.is_none()
        })
        .await;

    let change = json!([{"op": "replace", "path": "/spec/ports/0/port", "value": 99}]);
    let change: json_patch::Patch = serde_json::from_value(change).unwrap();
    let address = space
        .api::<Service>()
        .get("a")
        .await
        .unwrap()
        .spec
        .unwrap()
        .cluster_ip;
    space
        .api::<Service>()
        .patch("a", &by_hand, &Patch::Json::<()>(change))
        .await
        .unwrap();
    let service = space
        .until_object::<Service>("a", "has its port again", |service| {
            let ports = as_json(service)["spec"]["ports"].clone();
            ports.as_array().unwrap().len() == 1 && ports[0]["port"] == json!(8080)
        })
        .await;
    assert_eq!(
        service.spec.unwrap().cluster_ip,
        address,
        "the same Service"
    );

    let change = json!({"immutable": true});
    space
        .api::<ConfigMap>()
        .patch("a-config", &by_hand, &Patch::Merge(change))
        .await
        .unwrap();
    space
        .patch("a", json!({"spec": {"config": {"K": "w"}}}))
        .await
        .unwrap();
    space
        .until_object::<ConfigMap>("a-config", "is created again", |config_map| {
            config_map
                .data
                .as_ref()
                .is_some_and(|data| data["K"] == "w")
        })
        .await;
    let server = space.until_ready("a").await;
    assert_eq!(
        condition(&server, "ConfigurationValid").unwrap().status,
        "True"
    );
}

#[tokio::test]
async fn an_account_that_is_taken_away_is_gone() {
    let space = Space::new("account").await;
    let (made, _, stderr) = space
        .kubectl(&["create", "serviceaccount", "bob"], "")
        .await;
    assert!(made, "{stderr}");
    space
        .create("a", json!({"image": "x:1", "serviceAccount": "bob"}))
        .await
        .unwrap();
    space.until_ready("a").await;
    let deployment = space.api::<Deployment>().get("a").await.unwrap();
    assert_eq!(
        pod_spec(&deployment).service_account_name.as_deref(),
        Some("bob")
    );
    assert_ne!(
        pod_spec(&deployment).automount_service_account_token,
        Some(false)
    );
    space
        .patch("a", json!({"spec": {"serviceAccount": null}}))
        .await
        .unwrap();
    let deployment = space
        .until_object::<Deployment>("a", "has no account", |deployment| {
            pod_spec(deployment).service_account_name.is_none()
        })
        .await;
    assert_eq!(pod_spec(&deployment).service_account, None);
    assert_eq!(
        pod_spec(&deployment).automount_service_account_token,
        Some(false)
    );
}
