//! null for a value: Helm then hides the default from the templates, which must not stumble over that.

use futures::stream::{self, StreamExt as _};
use serde_json::{Map, Value, json};

use super::{chart, objects, read, shared};

/// Where a null turns off, empties, or leaves it to Kubernetes; elsewhere it is refused.
const TAKEN: &[&str] = &[
    "/nameOverride",
    "/fullnameOverride",
    "/namespaceOverride",
    "/commonLabels",
    "/commonAnnotations",
    "/global",
    "/global/imageRegistry",
    "/global/imagePullSecrets",
    "/image/tag",
    "/image/digest",
    "/imagePullSecrets",
    "/replicas",
    "/resources",
    "/nodeSelector",
    "/tolerations",
    "/affinity",
    "/topologySpreadConstraints",
    "/priorityClassName",
    "/podLabels",
    "/podAnnotations",
    "/deploymentAnnotations",
    "/updateStrategy/rollingUpdate",
    "/revisionHistoryLimit",
    "/podDisruptionBudget",
    "/autoscaling",
    "/podSecurityContext",
    "/containerSecurityContext",
    "/dnsPolicy",
    "/dnsConfig",
    "/hostUsers",
    "/runtimeClassName",
    "/ipFamilyPolicy",
    "/ipFamilies",
    "/initContainers",
    "/extraContainers",
    "/crds/annotations",
    "/metrics/tlsConfig",
    "/metrics/authorization",
    "/metrics/podMonitor",
    "/hostAliases",
    "/extraArgs",
    "/extraEnv",
    "/volumes",
    "/volumeMounts",
    "/extraObjects",
    "/serviceAccount/name",
    "/serviceAccount/annotations",
    "/watch/namespaces",
    "/webhook/namespaceSelector",
    "/webhook/objectSelector",
    "/webhook/annotations",
    "/webhook/serviceAnnotations",
    "/certificates/certManager/issuerRef",
    "/certificates/existingSecret/name",
    "/certificates/existingSecret/caBundle",
    "/metrics/service/labels",
    "/metrics/service/annotations",
    "/metrics/serviceMonitor",
    "/prometheusRule",
    "/dashboard",
    "/networkPolicy/webhookFrom",
    "/networkPolicy/metricsFrom",
    "/networkPolicy",
    "/tests/namespace",
    "/tests/labels",
];

/// These are one value each: their keys are anybody's.
const WHOLE: &[&str] = &["/nodeSelector", "/dashboard/labels"];

/// The path of every value.
fn paths(values: &Map<String, Value>, above: &str) -> Vec<String> {
    let mut paths = Vec::new();
    for (key, value) in values {
        let path = format!("{above}/{key}");
        if let Value::Object(values) = value
            && !WHOLE.contains(&&*path)
        {
            paths.extend(self::paths(values, &path));
        }
        paths.push(path);
    }
    paths
}

/// The values with which everything is rendered that can be, and null at this path.
fn with_null(path: &str) -> Value {
    let mut values = json!({
        // A kind's schema may hold null.
        "crds": {"install": false},
        "autoscaling": {"enabled": true, "targetMemoryUtilizationPercentage": 70},
        "metrics": {"serviceMonitor": {"enabled": true}},
        "prometheusRule": {"enabled": true},
        "dashboard": {"enabled": true},
        "networkPolicy": {"egress": true},
    });
    let mut place = &mut values;
    for key in path.split('/').skip(1) {
        if place.is_null() {
            *place = json!({});
        }
        place = &mut place[key];
    }
    *place = Value::Null;
    values
}

/// Whether there is a null in it, or Go's word for it.
fn nulls(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(values) => values.values().any(nulls),
        Value::Array(values) => values.iter().any(nulls),
        Value::String(text) => text.contains("<nil>"),
        _ => false,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn null_is_taken_as_nothing_or_refused_with_its_path() {
    let cluster = shared().await;
    let values: Value = serde_saphyr::from_str(&read(&chart().join("values.yaml"))).unwrap();
    let paths = paths(values.as_object().unwrap(), "");
    assert!(paths.len() > 100, "{paths:?}");
    for taken in TAKEN {
        assert!(paths.iter().any(|path| path == taken), "no value {taken}");
    }
    let tried = stream::iter(paths).map(|path| async {
        let values = with_null(&path).to_string();
        (objects(cluster, "nulls", &values).await, path)
    });
    let mut tried = tried.buffer_unordered(4);
    let mut refused = 0;
    while let Some((result, path)) = tried.next().await {
        match result {
            Ok(objects) => {
                let bad = objects.iter().find(|object| nulls(object));
                assert!(bad.is_none(), "{path}: {}", bad.unwrap_or(&Value::Null));
            }
            Err(error) => {
                let message = format!("{error:#}");
                let (above, key) = path.rsplit_once('/').unwrap();
                let expected = format!("at '{above}': missing property '{key}'");
                assert!(message.contains(&expected), "{path}: {message}");
                assert!(!TAKEN.contains(&&*path), "{path}: {message}");
                refused += 1;
            }
        }
    }
    assert!(refused > 40, "{refused}");
}
