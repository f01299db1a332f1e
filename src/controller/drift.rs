//! Whose a child is, and whether it still is what we want. Pure.

use std::collections::HashSet;

use serde_json::Value;

use super::view::child::{ChildKind, ChildView, Whose};
use super::wish::Wish;
use crate::api::{labels, merge_keys, quantity};

/// Whose an object is, to one server.
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

/// Whose the object is to the server of this name and uid.
pub fn ownership(name: &str, uid: &str, whose: &Whose) -> Ownership {
    match whose {
        Whose::Server { uid: owner, .. } if **owner == *uid => Ownership::Ours,
        Whose::Server { name: owner, .. } if **owner == *name => Ownership::Leftover,
        Whose::Labelled(owner) if **owner == *name => Ownership::Orphan,
        Whose::Server { .. } | Whose::Labelled(_) | Whose::Other | Whose::Nobody => {
            Ownership::Foreign
        }
    }
}

/// Decides which wish a child is equal to, when its text is at hand. `known` is what was known of this very object
/// before, `wish` gives what its server wants, and is asked only when that has to be compared.
pub fn judge<K: ChildKind>(
    mut view: ChildView<K>,
    text: &str,
    known: Option<&ChildView<K>>,
    wish: impl FnOnce() -> Option<Wish<K>>,
) -> ChildView<K> {
    let same_body = known.filter(|known| known.body_digest == view.body_digest);
    if let Some(known) = same_body.filter(|known| known.names_digest == view.names_digest) {
        view.equal_to = known.equal_to;
        return view;
    }
    // It says itself that it was made from another wish, or from none.
    let Some(wish) = view
        .applied
        .and_then(|_| wish())
        .filter(|wish| view.applied == Some(wish.hash))
    else {
        return view;
    };
    let Ok(live) = serde_json::from_str::<Value>(text) else {
        return view;
    };
    // The API server may have made something else of our wish, which is not to be fought over: what was equal before
    // is equal as long as nobody changes it.
    let was_equal = same_body.is_some_and(|known| known.equal_to == Some(wish.hash));
    let differs = if was_equal {
        field_differs(&wish.body["metadata"], live.get("metadata"), "metadata")
    } else {
        differs(&wish.body, &live)
    };
    if !differs {
        view.equal_to = Some(wish.hash);
    }
    view
}

/// Whether applying `desired` (with its hash) would change `live`.
pub fn differs(desired: &Value, live: &Value) -> bool {
    // Another hash: something else was wished before, of which something may have to go.
    if applied_hash(desired) != applied_hash(live) {
        return true;
    }
    // An item of a list does not say of which kind it is.
    let fields = desired.as_object().into_iter().flatten();
    let mut fields = fields.filter(|(key, _)| !matches!(key.as_str(), "apiVersion" | "kind"));
    fields.any(|(key, value)| field_differs(value, live.get(key), key))
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
            let keys = merge_keys::of_child(field, desired.first());
            if keys.is_empty() {
                return desired.len() != live.len()
                    || desired
                        .iter()
                        .zip(live)
                        .any(|(desired, live)| field_differs(desired, Some(live), ""));
            }
            let places = merge_keys::places(keys, live);
            desired.iter().any(|item| {
                let place = places.get(&merge_keys::item_key(keys, item));
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
            // A disruption budget has one of the two.
            for (one, other) in [
                ("minAvailable", "maxUnavailable"),
                ("maxUnavailable", "minAvailable"),
            ] {
                if desired.contains_key(one) && !desired.contains_key(other) {
                    live.remove(other);
                }
            }
            for (key, value) in desired {
                match live.get_mut(key) {
                    Some(live) => lay_over(live, value, key),
                    None => drop(live.insert(key.clone(), value.clone())),
                }
            }
        }
        (Value::Array(live), Value::Array(desired))
            if !merge_keys::of_child(field, desired.first()).is_empty() =>
        {
            let keys = merge_keys::of_child(field, desired.first());
            let key = |item: &Value| merge_keys::item_key(keys, item);
            let ours: HashSet<_> = desired.iter().map(key).collect();
            let name = |item: &Value| item.get("name").map(Value::to_string);
            let names: HashSet<_> = desired.iter().filter_map(name).collect();
            let takes_our_name = |item: &Value| {
                field != "ownerReferences"
                    && name(item).is_some_and(|name| names.contains(&name))
                    && !ours.contains(&key(item))
            };
            live.retain(|item| !takes_our_name(item));
            let places = merge_keys::places(keys, live);
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

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::Deployment;
    use serde_json::json;

    use super::*;
    use crate::hash::Hash;

    #[test]
    fn owner_references_and_labels_tell_whose_an_object_is() {
        let server = |name: &str, uid: &str| Whose::Server {
            name: name.into(),
            uid: uid.into(),
        };
        let table = [
            ("our reference", server("a", "u"), Ownership::Ours),
            (
                "our labels, no reference",
                Whose::Labelled("a".into()),
                Ownership::Orphan,
            ),
            (
                "a former server of our name",
                server("a", "old"),
                Ownership::Leftover,
            ),
            (
                "another server's reference",
                server("b", "v"),
                Ownership::Foreign,
            ),
            ("somebody's reference", Whose::Other, Ownership::Foreign),
            (
                "another server's labels",
                Whose::Labelled("b".into()),
                Ownership::Foreign,
            ),
            ("nothing at all", Whose::Nobody, Ownership::Foreign),
        ];
        for (what, whose, expected) in table {
            assert_eq!(ownership("a", "u", &whose), expected, "{what}");
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
            assert_eq!(differs(&desired, &object(live)), expected, "{what}");
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
                "another number of a disruption budget",
                json!({"spec": {"maxUnavailable": 1}}),
                json!({"spec": {"minAvailable": 2, "x": 1}}),
                json!({"spec": {"maxUnavailable": 1, "x": 1}}),
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
    fn a_child_is_judged_when_it_is_seen() {
        let child = |labels: Value, spec: Value| json!({"metadata": {"name": "a", "labels": labels}, "spec": spec});
        let typed: Deployment = serde_json::from_value(child(
            json!({"l": "1"}),
            json!({"selector": {}, "template": {}, "paused": false}),
        ))
        .unwrap();
        let wish = Wish::new(&typed).unwrap();
        let stored = |change: Value| {
            let mut stored = wish.body.clone();
            json_patch::merge(&mut stored, &change);
            stored.to_string()
        };
        let read = |text: &str| ChildView::<Deployment>::read(text).unwrap();
        let judged = |text: &str, known: Option<&ChildView<Deployment>>, hash_of: &str| {
            let mut wish = wish.clone();
            if !hash_of.is_empty() {
                wish.hash = Hash::of(hash_of.as_bytes());
            }
            judge(read(text), text, known, || Some(wish))
                .equal_to
                .is_some()
        };
        // As an item of a list.
        let equal = stored(json!({"apiVersion": null, "kind": null}));
        let (relabelled, annotated) = (
            stored(json!({"metadata": {"labels": {"l": "2"}}})),
            stored(json!({"metadata": {"annotations": {"theirs": "1"}}})),
        );
        let changed = stored(json!({"spec": {"paused": true}}));
        assert!(judged(&equal, None, ""), "at the start");
        assert!(judged(&annotated, None, ""), "with something beside ours");
        assert!(!judged(&relabelled, None, ""), "a label of ours changed");
        assert!(!judged(&changed, None, ""), "a field of ours changed");
        assert!(
            !judged(&equal, None, "another wish"),
            "made from another wish"
        );
        let nobody = judge(read(&equal), &equal, None, || None);
        assert_eq!(nobody.equal_to, None, "whose server is not known");

        // The API server made something else of it, and we took note.
        let settled = read(&changed).equal_to(wish.hash);
        assert!(judged(&changed, Some(&settled), ""), "as it was");
        let later =
            stored(json!({"metadata": {"annotations": {"theirs": "1"}}, "spec": {"paused": true}}));
        assert!(
            judged(&later, Some(&settled), ""),
            "only an annotation was added"
        );
        let relabelled =
            stored(json!({"metadata": {"labels": {"l": "2"}}, "spec": {"paused": true}}));
        assert!(
            !judged(&relabelled, Some(&settled), ""),
            "a label of ours changed beside it"
        );
        let again = stored(json!({"spec": {"paused": true, "replicas": 3}}));
        assert!(
            !judged(&again, Some(&settled), ""),
            "somebody changed it once more"
        );
    }
}
