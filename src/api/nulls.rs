//! Null is absence: a field that is written as null is as if it were not written. Helm and others write such nulls, and
//! client-side apply sends them to take a field away.
//!
//! Not in `spec.podTemplate`, where null takes away what the operator sets. A null item of a list stays, as a fault.

use std::borrow::Cow;

use serde_json::Value;

/// The MCPServer without the nulls of its spec.
pub fn without(object: &Value) -> Cow<'_, Value> {
    if object["spec"].as_object().is_some_and(|spec| {
        spec.iter()
            .any(|(key, value)| key != "podTemplate" && has_null(value) || value.is_null())
    }) {
        let mut object = object.clone();
        if let Some(spec) = object.get_mut("spec") {
            take_out_of_spec(spec);
        }
        return Cow::Owned(object);
    }
    Cow::Borrowed(object)
}

/// Takes the nulls out of a spec.
pub fn take_out_of_spec(spec: &mut Value) {
    let Some(fields) = spec.as_object_mut() else {
        return;
    };
    fields.retain(|key, value| {
        if key != "podTemplate" {
            take_out(value);
        }
        !value.is_null()
    });
}

/// Takes the nulls of all maps out of a value.
pub(super) fn take_out(value: &mut Value) {
    match value {
        Value::Object(fields) => fields.retain(|_, value| {
            take_out(value);
            !value.is_null()
        }),
        Value::Array(items) => items.iter_mut().for_each(take_out),
        _ => {}
    }
}

/// Whether something would be taken out of it, or the whole of it.
fn has_null(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(fields) => fields.values().any(has_null),
        Value::Array(items) => items.iter().any(|item| !item.is_null() && has_null(item)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_null_is_not_there() {
        let table = [
            ("nothing null", json!({"image": "x"}), json!({"image": "x"})),
            ("a field", json!({"args": null}), json!({})),
            (
                "a field of a field",
                json!({"health": {"type": null}}),
                json!({"health": {}}),
            ),
            (
                "the value of a key",
                json!({"config": {"K": null, "L": "v"}}),
                json!({"config": {"L": "v"}}),
            ),
            (
                "in an item of a list",
                json!({"env": [{"name": "A", "value": null}]}),
                json!({"env": [{"name": "A"}]}),
            ),
            (
                "an item of a list, which is a fault",
                json!({"args": ["a", null]}),
                json!({"args": ["a", null]}),
            ),
            (
                "in a pod template, where it has a meaning",
                json!({"podTemplate": {"spec": {"containers": [{"name": "mcp-server", "livenessProbe": null}]}}}),
                json!({"podTemplate": {"spec": {"containers": [{"name": "mcp-server", "livenessProbe": null}]}}}),
            ),
            ("no pod template", json!({"podTemplate": null}), json!({})),
        ];
        for (what, spec, expected) in table {
            let object = json!({"metadata": {"name": null}, "spec": spec});
            let found = without(&object);
            let is_changed = spec != expected;
            assert_eq!(matches!(found, Cow::Owned(_)), is_changed, "{what}");
            let expected = json!({"metadata": {"name": null}, "spec": expected});
            assert_eq!(*found, expected, "{what}");
        }
        for none in [
            json!({}),
            json!({"spec": null}),
            json!({"spec": "x"}),
            json!(1),
        ] {
            assert_eq!(*without(&none), none);
        }
    }
}
