//! What there is of a namespace, without what differs from one run to the next for no reason of the operator's.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind};
use kube::{Client, ResourceExt};
use serde_json::{Map, Value, json};

/// Group, version, kind and plural of what is compared.
const KINDS: [(&str, &str, &str, &str); 5] = [
    ("mcp.example.com", "v1alpha1", "MCPServer", "mcpservers"),
    ("apps", "v1", "Deployment", "deployments"),
    ("", "v1", "Service", "services"),
    ("", "v1", "ConfigMap", "configmaps"),
    (
        "policy",
        "v1",
        "PodDisruptionBudget",
        "poddisruptionbudgets",
    ),
];
/// Of every namespace.
const ROOT_CA: &str = "kube-root-ca.crt";

/// The objects of a namespace, by `KIND NAME`.
pub type State = BTreeMap<String, Value>;

/// Reads the state of a namespace.
pub async fn of(client: &Client, namespace: &str) -> Result<State> {
    let mut objects = Vec::new();
    for (group, version, kind, plural) in KINDS {
        let resource =
            ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural);
        let api = Api::<DynamicObject>::namespaced_with(client.clone(), namespace, &resource);
        for object in api.list(&Default::default()).await?.items {
            let name = object.name_any();
            if name == ROOT_CA {
                continue;
            }
            let object = serde_json::to_value(object).context("an object")?;
            objects.push((format!("{kind} {name}"), object));
        }
    }
    // Their uids are in the names of fields, too.
    let uids: Vec<String> = objects
        .iter()
        .filter_map(|(_, object)| object["metadata"]["uid"].as_str().map(str::to_owned))
        .collect();
    let lasting = objects
        .into_iter()
        .map(|(key, object)| (key, lasting(object, namespace, &uids)));
    Ok(lasting.collect())
}

/// What lasts of an object.
fn lasting(mut object: Value, namespace: &str, uids: &[String]) -> Value {
    let is_ours = object["kind"] == "MCPServer";
    if !is_ours {
        // It tells of pods, which take their time.
        object.as_object_mut().map(|fields| fields.remove("status"));
    }
    let metadata = object["metadata"].as_object_mut();
    if let Some(metadata) = metadata {
        for key in ["uid", "resourceVersion", "creationTimestamp"] {
            metadata.remove(key);
        }
        let managed = metadata.remove("managedFields").unwrap_or_default();
        metadata.insert("managedFields".to_owned(), managers(managed));
    }
    for path in [
        "/spec/clusterIP",
        "/spec/clusterIPs",
        "/status/lastTransitionTime",
        "/metadata/annotations/mcp.example.com~1graceful-shutdown",
        // A hash of all that is wished, the owner's uid included.
        "/metadata/annotations/mcp.example.com~1applied-hash",
    ] {
        if let Some(value) = object.pointer_mut(path) {
            *value = json!("…");
        }
    }
    for condition in list(object.pointer_mut("/status/conditions")) {
        condition["lastTransitionTime"] = json!("…");
    }
    let mut text = object.to_string().replace(namespace, "NAMESPACE");
    for uid in uids {
        text = text.replace(uid.as_str(), "UID");
    }
    serde_json::from_str(&text).unwrap_or(object)
}

/// Who manages what, without when: the controllers' own entries come in any order.
fn managers(managed: Value) -> Value {
    let mut entries = BTreeMap::new();
    for mut entry in managed.as_array().cloned().unwrap_or_default() {
        let fields: Option<&mut Map<_, _>> = entry.as_object_mut();
        let Some(fields) = fields else { continue };
        fields.remove("time");
        let of = fields.remove("fieldsV1").unwrap_or_default();
        // Of what others write, the status comes when it comes.
        let is_ours = fields.get("manager").is_some_and(|by| by == "mcp-operator");
        if is_ours {
            entries.insert(Value::Object(fields.clone()).to_string(), of);
        }
    }
    json!(entries)
}

fn list(value: Option<&mut Value>) -> impl Iterator<Item = &mut Value> {
    value
        .and_then(Value::as_array_mut)
        .into_iter()
        .flat_map(|list| list.iter_mut())
}

/// The same without how it came to be so: where a change was held up, a child may have been made as it is now at once,
/// by one write or by another.
pub fn without_history(state: State) -> State {
    let mut state = without_counts(state);
    for object in children(&mut state) {
        if let Some(metadata) = object["metadata"].as_object_mut() {
            metadata.remove("managedFields");
        }
    }
    state
}

/// The same without how many changes it took: two that come one after the other may be seen as one.
pub fn without_counts(mut state: State) -> State {
    for object in children(&mut state) {
        if let Some(metadata) = object["metadata"].as_object_mut() {
            metadata.remove("generation");
        }
        if let Some(annotations) = object["metadata"]["annotations"].as_object_mut() {
            annotations.remove("deployment.kubernetes.io/revision");
        }
    }
    state
}

fn children(state: &mut State) -> impl Iterator<Item = &mut Value> {
    let children = state
        .iter_mut()
        .filter(|(key, _)| !key.starts_with("MCPServer "));
    children.map(|(_, object)| object)
}

/// How often each thing was told, by kind of object and reason.
pub async fn events(client: &Client, namespace: &str) -> Result<BTreeMap<String, usize>> {
    use k8s_openapi::api::events::v1::Event;
    let api = Api::<Event>::namespaced(client.clone(), namespace);
    let mut told = BTreeMap::new();
    for event in api.list(&Default::default()).await? {
        let regarding = event.regarding.unwrap_or_default();
        if regarding.kind.as_deref() == Some("MCPServer") {
            let what = format!(
                "{} {}",
                regarding.name.unwrap_or_default(),
                event.reason.unwrap_or_default()
            );
            *told.entry(what).or_default() += 1;
        }
    }
    Ok(told)
}

/// Where two states differ, for a person.
pub fn difference(expected: &State, found: &State) -> String {
    let mut told = Vec::new();
    let keys: std::collections::BTreeSet<_> = expected.keys().chain(found.keys()).collect();
    for key in keys {
        match (expected.get(key), found.get(key)) {
            (Some(expected), Some(found)) => differ(key, expected, found, &mut told),
            (Some(_), None) => told.push(format!("{key}: missing")),
            (None, _) => told.push(format!("{key}: too many")),
        }
    }
    told.join("\n")
}

fn differ(path: &str, expected: &Value, found: &Value, told: &mut Vec<String>) {
    match (expected, found) {
        (Value::Object(a), Value::Object(b)) => {
            let keys: std::collections::BTreeSet<_> = a.keys().chain(b.keys()).collect();
            for key in keys {
                let missing = Value::Null;
                let (a, b) = (
                    a.get(key).unwrap_or(&missing),
                    b.get(key).unwrap_or(&missing),
                );
                differ(&format!("{path}.{key}"), a, b, told);
            }
        }
        (a, b) if a != b => told.push(format!("{path}: expected {a}, found {b}")),
        _ => {}
    }
}
