//! Whose a child is, and whether it still is what we want. Pure.

use std::collections::HashSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Resource, ResourceExt};
use serde_json::Value;

use super::cache::Settled;
use crate::api::{MCPServer, labels, pod_template, quantity};

/// Whose an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// The server's own, by its owner reference.
    Ours,
    /// The server's by its labels; the owner reference was removed.
    Orphan,
    /// A child of a deleted server of the same name, soon to be collected.
    Leftover,
    /// Somebody else's.
    Foreign,
}

/// Whose the object is.
pub fn ownership(server: &MCPServer, object: &ObjectMeta) -> Ownership {
    let controller = object
        .owner_references
        .iter()
        .flatten()
        .find(|owner| owner.controller == Some(true));
    if let Some(owner) = controller {
        let same_name = owner.kind == MCPServer::kind(&())
            && owner.name == server.name_any()
            && owner.api_version.starts_with(&*MCPServer::group(&()));
        return if Some(&owner.uid) == server.metadata.uid.as_ref() {
            Ownership::Ours
        } else if same_name {
            Ownership::Leftover
        } else {
            Ownership::Foreign
        };
    }
    let found = object.labels.as_ref();
    let is_ours = labels::selector(&server.name_any())
        .iter()
        .all(|(key, value)| found.and_then(|labels| labels.get(key)) == Some(value));
    if is_ours {
        Ownership::Orphan
    } else {
        Ownership::Foreign
    }
}

/// Whether applying `desired` (with its hash) would change `live`.
pub fn differs(desired: &Value, live: &Value, settled: Option<&Settled>) -> bool {
    let hash = applied_hash(desired);
    if hash != applied_hash(live) {
        return true;
    }
    // The API server has taken just this already, and nobody has changed the spec since.
    let settled = settled.filter(|settled| Some(settled.hash.as_str()) == hash);
    if let Some(settled) = settled {
        let metadata = &live["metadata"];
        if metadata["resourceVersion"].as_str() == settled.resource_version.as_deref() {
            return false;
        }
        if settled.generation.is_some() && metadata["generation"].as_i64() == settled.generation {
            return field_differs(&desired["metadata"], Some(metadata), "metadata");
        }
    }
    field_differs(desired, Some(live), "")
}

fn applied_hash(object: &Value) -> Option<&str> {
    object["metadata"]["annotations"][labels::APPLIED_HASH].as_str()
}

/// Whether `live` lacks something of `desired`. What live has beside that does not matter.
fn field_differs(desired: &Value, live: Option<&Value>, field: &str) -> bool {
    let Some(live) = live else {
        return !matches!(desired, Value::Object(fields) if fields.is_empty());
    };
    match (desired, live) {
        (Value::Object(desired), Value::Object(live)) => desired.iter().any(|(key, value)| {
            let of_quantities = matches!(field, "requests" | "limits");
            let quantity = of_quantities || matches!(key.as_str(), "sizeLimit" | "divisor");
            match (value, live.get(key)) {
                // The API server writes quantities in its own way.
                (Value::String(ours), Some(Value::String(theirs))) if quantity => {
                    !quantity::same(ours, theirs)
                }
                (value, live) => field_differs(value, live, key),
            }
        }),
        (Value::Array(desired), Value::Array(live)) => {
            let keys = list_keys(field, desired.first());
            if keys.is_empty() {
                return desired.len() != live.len()
                    || desired
                        .iter()
                        .zip(live)
                        .any(|(desired, live)| field_differs(desired, Some(live), ""));
            }
            let places = pod_template::places(keys, live);
            desired.iter().any(|item| {
                let place = places.get(&pod_template::item_key(keys, item));
                field_differs(item, place.and_then(|at| live.get(*at)), "")
            })
        }
        (desired, live) => desired != live,
    }
}

/// The live object with what we want laid over it, for when server-side apply cannot: it takes away only
/// what we own, so where somebody put another kind of handler, source or key in the place of ours, both
/// would stand side by side, and the API server takes one.
pub fn repaired(desired: &Value, live: &Value) -> Value {
    let mut repaired = live.clone();
    lay_over(&mut repaired, desired, "");
    repaired
}

fn lay_over(live: &mut Value, desired: &Value, field: &str) {
    match (live, desired) {
        (Value::Object(live), Value::Object(desired)) => {
            if is_one_of_many(field) {
                live.retain(|key, _| desired.contains_key(key));
            }
            // A key of a ConfigMap stands in one of the two.
            if let (Some(Value::Object(binary)), Some(Value::Object(data))) =
                (live.get_mut("binaryData"), desired.get("data"))
            {
                binary.retain(|key, _| !data.contains_key(key));
            }
            for (key, value) in desired {
                match live.get_mut(key) {
                    Some(live) => lay_over(live, value, key),
                    None => drop(live.insert(key.clone(), value.clone())),
                }
            }
        }
        (Value::Array(live), Value::Array(desired))
            if !list_keys(field, desired.first()).is_empty() =>
        {
            let keys = list_keys(field, desired.first());
            let key = |item: &Value| pod_template::item_key(keys, item);
            let ours: HashSet<_> = desired.iter().map(key).collect();
            let name = |item: &Value| item.get("name").map(Value::to_string);
            let names: HashSet<_> = desired.iter().filter_map(name).collect();
            let takes_our_name = |item: &Value| {
                field != "ownerReferences"
                    && name(item).is_some_and(|name| names.contains(&name))
                    && !ours.contains(&key(item))
            };
            live.retain(|item| !takes_our_name(item));
            let places = pod_template::places(keys, live);
            for item in desired {
                match places.get(&key(item)).and_then(|at| live.get_mut(*at)) {
                    Some(live) => lay_over(live, item, field),
                    None => live.push(item.clone()),
                }
            }
        }
        (live, desired) => *live = desired.clone(),
    }
}

/// Fields, and lists of items, of whose alternatives Kubernetes takes one.
fn is_one_of_many(field: &str) -> bool {
    matches!(
        field,
        "livenessProbe"
            | "readinessProbe"
            | "startupProbe"
            | "preStop"
            | "postStart"
            | "env"
            | "valueFrom"
            | "volumes"
            | "strategy"
    )
}

fn list_keys(field: &str, item: Option<&Value>) -> &'static [&'static str] {
    match field {
        "ownerReferences" => &["uid"],
        // A Service's ports have another key than a container's.
        "ports" if item.is_some_and(|item| item.get("containerPort").is_none()) => {
            &["port", "protocol"]
        }
        _ => pod_template::merge_keys(field),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
    use serde_json::json;

    fn server() -> MCPServer {
        let mut server = MCPServer::new("a", Default::default());
        server.metadata.uid = Some("u".to_owned());
        server
    }

    fn owner(kind: &str, name: &str, uid: &str) -> OwnerReference {
        OwnerReference {
            api_version: "mcp.example.com/v1alpha1".to_owned(),
            kind: kind.to_owned(),
            name: name.to_owned(),
            uid: uid.to_owned(),
            controller: Some(true),
            block_owner_deletion: None,
        }
    }

    #[test]
    fn owner_references_and_labels_tell_whose_an_object_is() {
        let ours = Some(labels::selector("a"));
        let table = [
            (
                "our reference",
                ours.clone(),
                Some(owner("MCPServer", "a", "u")),
                Ownership::Ours,
            ),
            (
                "our reference, labels lost",
                None,
                Some(owner("MCPServer", "a", "u")),
                Ownership::Ours,
            ),
            (
                "our labels, no reference",
                ours.clone(),
                None,
                Ownership::Orphan,
            ),
            (
                "a former server of our name",
                ours.clone(),
                Some(owner("MCPServer", "a", "old")),
                Ownership::Leftover,
            ),
            (
                "our labels, somebody's reference",
                ours,
                Some(owner("Job", "a", "j")),
                Ownership::Foreign,
            ),
            (
                "another server's labels",
                Some(labels::selector("b")),
                None,
                Ownership::Foreign,
            ),
            ("nothing at all", None, None, Ownership::Foreign),
        ];
        for (what, labels, owner, expected) in table {
            let meta = ObjectMeta {
                labels,
                owner_references: owner.map(|o| vec![o]),
                ..Default::default()
            };
            assert_eq!(ownership(&server(), &meta), expected, "{what}");
        }
    }

    fn object(spec: Value) -> Value {
        json!({"metadata": {"resourceVersion": "2", "generation": 1, "annotations": {labels::APPLIED_HASH: "h"}}, "spec": spec})
    }

    #[test]
    fn only_what_we_set_counts_as_drift() {
        let table = [
            ("the same", json!({"a": 1}), json!({"a": 1}), false),
            (
                "a field beside ours",
                json!({"a": 1}),
                json!({"a": 1, "b": 2}),
                false,
            ),
            ("a changed field", json!({"a": 1}), json!({"a": 2}), true),
            ("a lost field", json!({"a": 1}), json!({}), true),
            (
                "a quantity in other words",
                json!({"limits": {"memory": "1024Mi"}}),
                json!({"limits": {"memory": "1Gi"}}),
                false,
            ),
            (
                "another quantity",
                json!({"limits": {"memory": "1Gi"}}),
                json!({"limits": {"memory": "2Gi"}}),
                true,
            ),
            (
                "a value that only looks like a quantity",
                json!({"image": "1.0"}),
                json!({"image": "1"}),
                true,
            ),
            (
                "a container beside ours",
                json!({"containers": [{"name": "a"}]}),
                json!({"containers": [{"name": "b"}, {"name": "a", "x": 1}]}),
                false,
            ),
            (
                "our container lost",
                json!({"containers": [{"name": "a"}]}),
                json!({"containers": [{"name": "b"}]}),
                true,
            ),
            (
                "a list without key grown",
                json!({"args": ["a"]}),
                json!({"args": ["a", "b"]}),
                true,
            ),
            (
                "a Service's port changed",
                json!({"ports": [{"port": 1, "protocol": "TCP"}]}),
                json!({"ports": [{"port": 2, "protocol": "TCP"}]}),
                true,
            ),
            (
                "a Service's port beside ours",
                json!({"ports": [{"port": 1, "protocol": "TCP", "name": "x"}]}),
                json!({"ports": [{"port": 2, "protocol": "TCP"}, {"port": 1, "protocol": "TCP", "name": "x", "nodePort": 3}]}),
                false,
            ),
        ];
        for (what, desired, live, expected) in table {
            let mut desired = object(desired);
            desired["metadata"] = json!({"annotations": {labels::APPLIED_HASH: "h"}});
            assert_eq!(differs(&desired, &object(live), None), expected, "{what}");
        }
    }

    #[test]
    fn what_stands_beside_ours_is_taken_away_only_where_one_of_many_can_be() {
        let table = [
            (
                "another port of our name",
                json!({"ports": [{"name": "mcp", "port": 1, "protocol": "TCP"}]}),
                json!({"ports": [{"name": "mcp", "port": 9, "protocol": "TCP"}, {"name": "theirs", "port": 7, "protocol": "TCP"}]}),
                json!({"ports": [{"name": "theirs", "port": 7, "protocol": "TCP"}, {"name": "mcp", "port": 1, "protocol": "TCP"}]}),
            ),
            (
                "another handler",
                json!({"livenessProbe": {"httpGet": {"path": "/"}, "periodSeconds": 5}}),
                json!({"livenessProbe": {"exec": {}, "periodSeconds": 5}}),
                json!({"livenessProbe": {"httpGet": {"path": "/"}, "periodSeconds": 5}}),
            ),
            (
                "another source",
                json!({"env": [{"name": "A", "value": "1"}]}),
                json!({"env": [{"name": "A", "valueFrom": {}}, {"name": "B", "value": "2"}]}),
                json!({"env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]}),
            ),
            (
                "another volume",
                json!({"volumes": [{"name": "v", "configMap": {"name": "c"}}]}),
                json!({"volumes": [{"name": "v", "emptyDir": {}}]}),
                json!({"volumes": [{"name": "v", "configMap": {"name": "c"}}]}),
            ),
            (
                "a key of ours among binary ones",
                json!({"data": {"a": "1"}}),
                json!({"data": {"a": "0"}, "binaryData": {"a": "eA==", "b": "eA=="}}),
                json!({"data": {"a": "1"}, "binaryData": {"b": "eA=="}}),
            ),
            (
                "a field of theirs",
                json!({"replicas": 1}),
                json!({"replicas": 1, "paused": true}),
                json!({"replicas": 1, "paused": true}),
            ),
        ];
        for (what, desired, live, expected) in table {
            assert_eq!(repaired(&desired, &live), expected, "{what}");
        }
    }

    #[test]
    fn another_hash_is_a_difference_and_a_settled_object_is_none() {
        let desired =
            json!({"metadata": {"annotations": {labels::APPLIED_HASH: "h"}}, "spec": {"a": 1}});
        let mut other = object(json!({"a": 1}));
        other["metadata"]["annotations"][labels::APPLIED_HASH] = json!("old");
        assert!(
            differs(&desired, &other, None),
            "what was applied before was something else"
        );
        let settled = |version: &str, generation| {
            Some(Settled {
                hash: "h".to_owned(),
                resource_version: Some(version.to_owned()),
                generation,
            })
        };
        let live = object(json!({}));
        assert!(
            differs(&desired, &live, None),
            "nothing known of a former write"
        );
        assert!(
            !differs(&desired, &live, settled("2", None).as_ref()),
            "the very version we wrote"
        );
        assert!(
            !differs(&desired, &live, settled("1", Some(1)).as_ref()),
            "the spec we wrote"
        );
        assert!(
            differs(&desired, &live, settled("1", Some(0)).as_ref()),
            "the spec was changed"
        );
    }
}
