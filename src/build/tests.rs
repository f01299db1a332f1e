//! Whole children, as snapshots: what a user's object becomes.

use kube::ResourceExt;
use serde_json::{Value, json};

use super::{config_map, deployment, disruption_budget, service};
use crate::api::{FieldPath, MCPServer, Platform, decode, defaults};
use crate::validation;

fn server(spec: &Value) -> MCPServer {
    let object = json!({"metadata": {"name": "a", "namespace": "n", "uid": "u"}, "spec": spec});
    let mut server: MCPServer = decode::lenient(&object, &FieldPath::OBJECT).unwrap();
    defaults::default(&mut server, None);
    assert_eq!(validation::faults(&server, None), [], "{spec}");
    server
}

#[test]
fn children_of_each_sort_of_server() {
    let table = [
        (
            "streamable_http",
            json!({"image": "x:1", "config": {"SESSION_TIMEOUT": "10m", "LOG_LEVEL": "info"}}),
        ),
        (
            "http",
            json!({"image": "x:1", "transport": "http", "port": 9000, "replicas": 3,
            "config": {"CORS_ORIGINS": "https://a.example, https://b.example"},
            "service": {"type": "LoadBalancer", "annotations": {"example.com/a": "b"}, "sessionAffinity": "ClientIP"},
            "health": {"livenessPath": "/alive"}}),
        ),
        (
            "around_the_pods",
            json!({"image": "x:1", "replicas": 3, "path": "/api/mcp",
            "strategy": {"rollingUpdate": {"maxUnavailable": 1}},
            "commonMetadata": {"labels": {"team": "t", "tier": "common"}, "annotations": {"example.com/a": "common", "example.com/b": "common"}},
            "disruptionBudget": {"maxUnavailable": "50%"},
            "service": {"type": "LoadBalancer", "port": 80, "appProtocol": "http", "labels": {"tier": "service"},
                "annotations": {"example.com/a": "service"}, "loadBalancerClass": "example.com/lb",
                "loadBalancerSourceRanges": ["10.0.0.0/8", "fd00::/64"], "externalTrafficPolicy": "Local",
                "ipFamilyPolicy": "PreferDualStack"},
            "podTemplate": {"metadata": {"labels": {"tier": "pod"}, "annotations": {"example.com/a": "pod"}}}}),
        ),
        ("stdio", json!({"image": "x:1", "transport": "stdio"})),
        (
            "everything",
            json!({"image": "x:1", "command": ["node"], "args": ["a"], "serviceAccount": "acc",
            "imagePullPolicy": "Always", "imagePullSecrets": [{"name": "pull"}],
            "env": [{"name": "POD_NAME", "value": "mine"}, {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}],
            "envFrom": [{"configMapRef": {"name": "more"}}],
            "resources": {"requests": {"cpu": 1}, "limits": {"memory": "128Mi"}},
            "securityContext": {"runAsUser": 5}, "health": {"type": "TCP"},
            "podTemplate": {"metadata": {"labels": {"team": "t"}}, "spec": {
                "nodeSelector": {"disk": "ssd"},
                "containers": [
                    {"name": "side", "image": "s:1", "livenessProbe": {"httpGet": {"port": 1}}},
                    {"name": "mcp-server", "volumeMounts": [{"name": "data", "mountPath": "/data"}], "readinessProbe": null},
                ],
                "volumes": [{"name": "data", "secret": {"secretName": "s"}}]}}}),
        ),
    ];
    for (name, spec) in table {
        let server = server(&spec);
        insta::assert_yaml_snapshot!(
            name,
            json!({
                "deployment": deployment::deployment(&server, &Platform::default()).unwrap(),
                "service": service::service(&server),
                "configMap": config_map::config_map(&server),
                "disruptionBudget": disruption_budget::disruption_budget(&server),
            })
        );
    }
}

#[test]
fn the_selector_stays_when_everything_else_changes() {
    let one =
        deployment::deployment(&server(&json!({"image": "x:1"})), &Platform::default()).unwrap();
    let other = deployment::deployment(
        &server(&json!({"image": "y:2", "transport": "stdio"})),
        &Platform::default(),
    )
    .unwrap();
    assert_ne!(one.labels(), other.labels());
    assert_eq!(one.spec.unwrap().selector, other.spec.unwrap().selector);
}
