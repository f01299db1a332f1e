//! `spec.podTemplate`: strict decoding, and the strategic merge over the built template.

use std::collections::HashSet;

use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde_json::{Map, Value};

use super::field_error::{MOST_RECORDED, shown};
use super::merge_keys::{self, item_key, places};
use super::{FieldError, FieldPath, decode, labels, nulls};

/// Where the overlay stands in the object.
const PATH: FieldPath<'_> = FieldPath::POD_TEMPLATE;

/// Decodes the overlay, and reports every field that a pod template does not have.
pub fn decode(overlay: &Value) -> Result<PodTemplateSpec, Vec<FieldError>> {
    let mut faults = Vec::new();
    let mut rest = overlay.clone();
    take_directives(&mut rest, &PATH, &mut faults);
    let decoded = decode::strict(&rest, &PATH).or_else(|mut found| {
        // Null removes what the operator built, even where the type allows no null (an entry of a map). An unknown
        // field is reported even when its value is null.
        let decoded = decode::strict(&without_nulls(&rest), &PATH);
        found.retain(|fault| fault.reason == FieldError::FORBIDDEN);
        faults.append(&mut found);
        decoded
    });
    match decoded {
        Ok(template) if faults.is_empty() => Ok(template),
        Ok(_) => Err(faults),
        Err(mut others) => {
            let known: HashSet<_> = faults.iter().cloned().collect();
            others.retain(|fault| !known.contains(fault));
            faults.append(&mut others);
            Err(faults)
        }
    }
}

/// Directives of a strategic merge patch (`$patch: delete`) are for patches; here null removes a field.
fn take_directives(value: &mut Value, path: &FieldPath<'_>, faults: &mut Vec<FieldError>) {
    match value {
        Value::Object(fields) => fields.retain(|key, value| {
            let path = path.child(key);
            if key.starts_with('$') {
                let detail = format!(
                    "patch directives are not supported (value {}); a field set to null is removed",
                    shown(value)
                );
                if faults.len() < MOST_RECORDED {
                    faults.push(FieldError::forbidden(path, detail));
                }
                return false;
            }
            take_directives(value, &path, faults);
            true
        }),
        Value::Array(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                take_directives(item, &path.index(index), faults);
            }
        }
        _ => {}
    }
}

/// Merges the overlay over the built template: maps by key, lists by their merge key, the rest replaced,
/// null removed. Own code, because the merge of k8s-openapi knows one key only (it would make one of two
/// ports that differ in their protocol) and cannot remove a field.
pub fn merge(built: PodTemplateSpec, overlay: &Value) -> serde_json::Result<PodTemplateSpec> {
    let mut merged = serde_json::to_value(built)?;
    merge_value(&mut merged, overlay, "");
    if let Some(account) = account_alias(overlay) {
        merged["spec"]["serviceAccountName"] = Value::from(account);
    }
    serde_json::from_value(merged)
}

/// The server's own container in the overlay, and its index.
pub fn own_container(overlay: Option<&Value>) -> Option<(usize, &Value)> {
    let containers = overlay?["spec"]["containers"].as_array()?;
    let mut places = containers.iter().enumerate();
    places.find(|(_, container)| container["name"] == labels::CONTAINER)
}

/// The names of the environment variables of a container in the overlay, and their indexes.
pub fn env(container: &Value) -> impl Iterator<Item = (usize, &str)> {
    let entries = container["env"]
        .as_array()
        .into_iter()
        .flatten()
        .enumerate();
    entries.filter_map(|(index, entry)| Some((index, entry["name"].as_str()?)))
}

/// Whether the pods run in the user namespace of their node, which they do unless `hostUsers` is false.
pub fn host_users(overlay: Option<&Value>) -> bool {
    overlay.is_none_or(|overlay| overlay["spec"]["hostUsers"] != false)
}

/// The account that the overlay names by the deprecated alias. Kubernetes reads the alias only when
/// `serviceAccountName` is not set.
fn account_alias(overlay: &Value) -> Option<&str> {
    let given = |field: &str| {
        overlay["spec"][field]
            .as_str()
            .filter(|name| !name.is_empty())
    };
    match given("serviceAccountName") {
        Some(_) => None,
        None => given("serviceAccount"),
    }
}

fn merge_value(base: &mut Value, overlay: &Value, field: &str) {
    match (base, overlay) {
        (Value::Object(base), Value::Object(overlay)) => merge_fields(base, overlay, field),
        (Value::Array(base), Value::Array(overlay))
            if !merge_keys::of_pod_template(field).is_empty() =>
        {
            merge_items(base, overlay, field);
        }
        (base, overlay) => *base = without_nulls(overlay),
    }
}

fn merge_fields(base: &mut Map<String, Value>, overlay: &Map<String, Value>, field: &str) {
    if field == "volumes" {
        replace_source(base, overlay);
    }
    for alternative in replaced_alternatives(field, overlay) {
        base.remove(alternative);
    }
    for (key, value) in overlay {
        if value.is_null() {
            base.remove(key);
        } else if let Some(base) = base.get_mut(key) {
            merge_value(base, value, key);
        } else {
            base.insert(key.clone(), without_nulls(value));
        }
    }
}

/// A volume has one source: a source of another kind replaces it, a source of the same kind is merged into it.
fn replace_source(base: &mut Map<String, Value>, overlay: &Map<String, Value>) {
    let given = |name: &str| overlay.get(name).is_some_and(|value| !value.is_null());
    if overlay.keys().any(|name| name != "name" && given(name)) {
        base.retain(|name, _| name == "name" || given(name));
    }
}

/// The fields to remove from the base because Kubernetes allows only one of the alternatives.
fn replaced_alternatives(field: &str, overlay: &Map<String, Value>) -> Vec<&'static str> {
    let alternatives: &[&str] = match field {
        "env" => &["value", "valueFrom"],
        "livenessProbe" | "readinessProbe" | "startupProbe" => {
            &["exec", "grpc", "httpGet", "tcpSocket"]
        }
        _ => &[],
    };
    let given = |name: &&&str| overlay.get(**name).is_some_and(|value| !value.is_null());
    if !alternatives.iter().any(|name| given(&name)) {
        return Vec::new();
    }
    alternatives
        .iter()
        .filter(|name| !given(name))
        .copied()
        .collect()
}

fn merge_items(base: &mut Vec<Value>, overlay: &[Value], field: &str) {
    let keys = merge_keys::of_pod_template(field);
    let built = places(keys, base);
    for item in overlay {
        let same = built.get(&item_key(keys, item));
        match same.and_then(|at| base.get_mut(*at)) {
            Some(Value::Object(existing)) => {
                if let Value::Object(item) = item {
                    merge_fields(existing, item, field);
                }
            }
            Some(existing) => *existing = without_nulls(item),
            None => base.push(without_nulls(item)),
        }
    }
}

fn without_nulls(value: &Value) -> Value {
    let mut value = value.clone();
    nulls::take_out(&mut value);
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn built() -> Value {
        json!({
            "metadata": {"labels": {"a": "1"}},
            "spec": {
                "containers": [{
                    "name": "mcp-server", "image": "i:1",
                    "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
                    "livenessProbe": {"httpGet": {"path": "/health", "port": "mcp"}, "periodSeconds": 10},
                    "ports": [{"containerPort": 8080, "name": "mcp", "protocol": "TCP"}],
                    "volumeMounts": [{"mountPath": "/tmp", "name": "tmp"}],
                }],
                "volumes": [{"name": "tmp", "emptyDir": {}}, {"name": "conf", "configMap": {"name": "a-config"}}],
            }
        })
    }

    #[test]
    fn an_overlay_is_merged_as_kubernetes_would() {
        let container = |overlay: Value| json!({"spec": {"containers": [overlay]}});
        let table = [
            (
                "a sidecar is added",
                container(json!({"name": "side", "image": "s"})),
                "/spec/containers/1",
                json!({"name": "side", "image": "s"}),
            ),
            (
                "a label is added",
                json!({"metadata": {"labels": {"b": "2"}}}),
                "/metadata/labels",
                json!({"a": "1", "b": "2"}),
            ),
            (
                "an env entry is amended by name",
                container(json!({"name": "mcp-server", "env": [{"name": "B", "value": "3"}]})),
                "/spec/containers/0/env",
                json!([{"name": "A", "value": "1"}, {"name": "B", "value": "3"}]),
            ),
            (
                "a valueFrom replaces a value",
                container(
                    json!({"name": "mcp-server", "env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "x"}}}]}),
                ),
                "/spec/containers/0/env/0",
                json!({"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "x"}}}),
            ),
            (
                "another kind of probe replaces the built one",
                container(
                    json!({"name": "mcp-server", "livenessProbe": {"exec": {"command": ["true"]}}}),
                ),
                "/spec/containers/0/livenessProbe",
                json!({"exec": {"command": ["true"]}, "periodSeconds": 10}),
            ),
            (
                "a probe of the same kind is amended",
                container(
                    json!({"name": "mcp-server", "livenessProbe": {"httpGet": {"path": "/x"}}}),
                ),
                "/spec/containers/0/livenessProbe",
                json!({"httpGet": {"path": "/x", "port": "mcp"}, "periodSeconds": 10}),
            ),
            (
                "null removes a field",
                container(json!({"name": "mcp-server", "livenessProbe": null})),
                "/spec/containers/0/livenessProbe",
                Value::Null,
            ),
            (
                "a volume's source of another kind replaces ours",
                json!({"spec": {"volumes": [{"name": "tmp", "persistentVolumeClaim": {"claimName": "c"}}]}}),
                "/spec/volumes/0",
                json!({"name": "tmp", "persistentVolumeClaim": {"claimName": "c"}}),
            ),
            (
                "a volume's source of the same kind is amended",
                json!({"spec": {"volumes": [{"name": "conf", "configMap": {"defaultMode": 256}}]}}),
                "/spec/volumes/1",
                json!({"name": "conf", "configMap": {"name": "a-config", "defaultMode": 256}}),
            ),
            (
                "a volume without a source stays what it is",
                json!({"spec": {"volumes": [{"name": "conf"}]}}),
                "/spec/volumes/1",
                json!({"name": "conf", "configMap": {"name": "a-config"}}),
            ),
            (
                "two ports of one number are two ports",
                container(json!({"name": "mcp-server", "ports": [
                    {"containerPort": 53, "protocol": "TCP"}, {"containerPort": 53, "protocol": "UDP"}]})),
                "/spec/containers/0/ports",
                json!([{"containerPort": 8080, "name": "mcp", "protocol": "TCP"},
                    {"containerPort": 53, "protocol": "TCP"}, {"containerPort": 53, "protocol": "UDP"}]),
            ),
            (
                "a port without protocol is the TCP one",
                container(
                    json!({"name": "mcp-server", "ports": [{"containerPort": 8080, "hostPort": 80}]}),
                ),
                "/spec/containers/0/ports",
                json!([{"containerPort": 8080, "hostPort": 80, "name": "mcp", "protocol": "TCP"}]),
            ),
            (
                "a list without merge key is replaced",
                json!({"spec": {"tolerations": [{"key": "k"}]}}),
                "/spec/tolerations",
                json!([{"key": "k"}]),
            ),
        ];
        for (what, overlay, pointer, expected) in table {
            let mut merged = built();
            merge_value(&mut merged, &overlay, "");
            assert_eq!(
                merged.pointer(pointer).cloned().unwrap_or_default(),
                expected,
                "{what}"
            );
        }
    }

    #[test]
    fn the_deprecated_alias_names_the_account_unless_the_name_stands_beside_it() {
        for (overlay, expected) in [
            (json!({"serviceAccount": "b"}), "b"),
            (
                json!({"serviceAccount": "b", "serviceAccountName": null}),
                "b",
            ),
            (
                json!({"serviceAccount": "b", "serviceAccountName": "c"}),
                "c",
            ),
            (json!({"serviceAccount": ""}), "a"),
        ] {
            let built = json!({"spec": {"containers": [], "serviceAccountName": "a"}});
            let built = serde_json::from_value(built).unwrap();
            let merged = merge(built, &json!({"spec": overlay.clone()})).unwrap();
            let found = merged.spec.unwrap().service_account_name;
            assert_eq!(found.as_deref(), Some(expected), "{overlay}");
        }
    }

    #[test]
    fn faults_are_named_by_their_path() {
        let table = [
            (
                "an unknown field",
                json!({"spec": {"containers": [{"name": "x", "imge": "y"}]}}),
                "spec.podTemplate.spec.containers[0].imge: Forbidden: unknown field (value \"y\"); check its spelling and its place",
            ),
            (
                "a wrong type",
                json!({"spec": {"containers": [{"name": "x", "stdin": "yes"}]}}),
                "spec.podTemplate.spec.containers[0].stdin: Invalid value: \"yes\": invalid type: string \"yes\", expected a boolean",
            ),
            (
                "a patch directive",
                json!({"spec": {"containers": [{"name": "x", "$patch": "delete"}]}}),
                "spec.podTemplate.spec.containers[0].$patch: Forbidden: patch directives are not supported (value \"delete\"); a field set to null is removed",
            ),
            (
                "no object at all",
                json!(["x"]),
                "spec.podTemplate: Invalid value: \"array\": invalid type: sequence, expected PodTemplateSpec",
            ),
        ];
        for (what, overlay, expected) in table {
            let faults = decode(&overlay).expect_err(what);
            assert_eq!(faults[0].to_string(), expected, "{what}");
        }
    }

    #[test]
    fn null_is_taken_wherever_something_can_be_removed() {
        let container = json!({"name": "x", "stdin": null, "resources": {"limits": {"cpu": null}}});
        let spec = json!({"containers": [container], "nodeSelector": {"a": null}});
        let metadata = json!({"labels": {"a": null, "b": "c"}});
        let overlay = json!({"metadata": metadata, "spec": spec});
        assert_eq!(
            decode(&overlay).map(|template| template.metadata.unwrap().labels),
            Ok(Some([("b".to_owned(), "c".to_owned())].into()))
        );
        let mut unknown = overlay;
        unknown["spec"]["x"] = Value::Null;
        let faults = decode(&unknown).expect_err("a field that no pod has");
        let fields: Vec<_> = faults.iter().map(|fault| fault.field.as_str()).collect();
        assert_eq!(fields, ["spec.podTemplate.spec.x"]);
    }

    #[test]
    fn every_fault_is_named_at_once() {
        let overlay = json!({"metadata": {"$retainKeys": []}, "spec": {"containers": [
            {"name": "x", "stdin": "yes", "tty": "no", "imge": 1, "ports": [{"containerPort": "a"}]},
            {"name": "y", "$patch": "delete", "stdin": [], "imge": 2},
        ], "nodeSelektor": {}}});
        let fields: Vec<_> = decode(&overlay)
            .expect_err("faults")
            .into_iter()
            .map(|fault| fault.field)
            .collect();
        let root = "spec.podTemplate.spec";
        let expected = [
            "spec.podTemplate.metadata.$retainKeys".to_owned(),
            format!("{root}.containers[1].$patch"),
            format!("{root}.containers[0].imge"),
            format!("{root}.containers[1].imge"),
            format!("{root}.nodeSelektor"),
            format!("{root}.containers[0].ports[0].containerPort"),
            format!("{root}.containers[0].stdin"),
            format!("{root}.containers[0].tty"),
            format!("{root}.containers[1].stdin"),
        ];
        assert_eq!(fields, expected);
    }
}
