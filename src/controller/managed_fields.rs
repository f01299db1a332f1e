//! Whose the fields of a child are: handing what we own by creating it over to the manager of our applies. Pure.
//!
//! A child is created by POST, which is cheaper than a read and an apply, and never merges into a stranger's object.
//! The fields are then owned by an `Update`. An apply would leave them there when they are no longer wished, so they
//! become the apply's before the first one. client-go's `csaupgrade` does the same for `kubectl apply`.

use serde_json::{Map, Value, json};

use crate::api::labels;

/// The manager of repairs before fields were handed over. A repair that was cut off left its entry.
const REPAIR: &str = "mcp-operator-repair";

/// The entries of `metadata.managedFields` after the handing over. Nothing when all that is ours is the apply's.
pub fn handed_over(entries: &Value) -> Option<Value> {
    let entries = entries.as_array()?;
    let of_us = |entry: &&Value| is_entry(entry, "Update", &[labels::MANAGER, REPAIR]);
    let ours: Vec<_> = entries.iter().filter(of_us).collect();
    let newest = ours.last()?;
    let is_applied = |entry: &&Value| is_entry(entry, "Apply", &[labels::MANAGER]);
    let mut applied = entries.iter().find(is_applied).cloned().unwrap_or_else(|| {
        json!({
            "manager": labels::MANAGER, "operation": "Apply", "apiVersion": newest["apiVersion"],
            "time": newest["time"], "fieldsType": "FieldsV1", "fieldsV1": {},
        })
    });
    if let Value::Object(fields) = &mut applied["fieldsV1"] {
        for entry in &ours {
            unite(fields, &entry["fieldsV1"]);
        }
    }
    let others = entries
        .iter()
        .filter(|entry| !of_us(entry) && !is_applied(entry));
    let mut all: Vec<_> = others.cloned().collect();
    all.push(applied);
    Some(Value::Array(all))
}

/// Whether an entry is of this operation on the object itself, by one of these managers.
fn is_entry(entry: &Value, operation: &str, managers: &[&str]) -> bool {
    let manager = entry["manager"].as_str().unwrap_or_default();
    entry["operation"] == operation
        && managers.contains(&manager)
        && entry["subresource"].as_str().is_none_or(str::is_empty)
}

/// A set of fields is a tree, so the union of two is the one laid over the other.
fn unite(fields: &mut Map<String, Value>, more: &Value) {
    for (field, below) in more.as_object().into_iter().flatten() {
        let known = fields.entry(field.clone()).or_insert_with(|| json!({}));
        if let Value::Object(known) = known {
            unite(known, below);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(manager: &str, operation: &str, fields: Value) -> Value {
        json!({"manager": manager, "operation": operation, "apiVersion": "apps/v1", "time": "t",
            "fieldsType": "FieldsV1", "fieldsV1": fields})
    }

    #[test]
    fn what_is_ours_becomes_the_applies() {
        let theirs = entry("somebody", "Update", json!({"f:z": {}}));
        let mut status = entry(labels::MANAGER, "Update", json!({"f:status": {}}));
        status["subresource"] = json!("status");
        let created = entry(
            labels::MANAGER,
            "Update",
            json!({"f:spec": {"f:a": {}, "f:b": {}}}),
        );
        let repaired = entry(REPAIR, "Update", json!({"f:spec": {"f:c": {}}}));
        let applied = |fields| entry(labels::MANAGER, "Apply", fields);
        let table = [
            ("nothing is ours", json!([theirs]), None),
            (
                "all is the apply's",
                json!([theirs, applied(json!({"f:a": {}}))]),
                None,
            ),
            ("the status is another matter", json!([status]), None),
            (
                "created",
                json!([created, theirs]),
                Some(json!([
                    theirs,
                    applied(json!({"f:spec": {"f:a": {}, "f:b": {}}}))
                ])),
            ),
            (
                "applied before, and then replaced",
                json!([
                    applied(json!({"f:spec": {"f:a": {".": {}}, "f:d": {}}})),
                    created,
                    repaired,
                    status
                ]),
                Some(json!([
                    status,
                    applied(json!({"f:spec": {"f:a": {".": {}}, "f:b": {}, "f:c": {}, "f:d": {}}}))
                ])),
            ),
            ("no entries", Value::Null, None),
        ];
        for (what, entries, expected) in table {
            assert_eq!(handed_over(&entries), expected, "{what}");
        }
    }
}
