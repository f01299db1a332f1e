//! What tools that wait for objects make of an `MCPServer`.

use cluster::oracles::kstatus;
use serde_json::{Value, json};

fn server(status: Value) -> Value {
    json!({
        "apiVersion": "mcp.example.com/v1alpha1", "kind": "MCPServer",
        "metadata": {"name": "a", "namespace": "n", "generation": 1},
        "spec": {"image": "x:1"},
        "status": status,
    })
}

fn with(type_: &str, status: &str) -> Value {
    server(json!({"observedGeneration": 1, "conditions": [
        {"type": type_, "status": status, "reason": "Why", "message": "why"}]}))
}

#[tokio::test]
async fn a_status_says_to_others_what_it_means() {
    let mut without = server(json!(null));
    without.as_object_mut().unwrap().remove("status");
    let mut leaving = with("Ready", "True");
    leaving["metadata"]["deletionTimestamp"] = json!("2020-01-01T00:00:00Z");
    let ready = with("Ready", "True");
    let mut of_an_older_spec = ready.clone();
    of_an_older_spec["metadata"]["generation"] = json!(2);
    let mut also_reconciling = ready.clone();
    let conditions = also_reconciling["status"]["conditions"]
        .as_array_mut()
        .unwrap();
    conditions
        .push(json!({"type": "Reconciling", "status": "True", "reason": "Why", "message": "more"}));
    let table = [
        // Nobody waits for these two. A new object needs a status by default to be waited for.
        ("no status", without, "Current", "Resource is current"),
        (
            "an empty status",
            server(json!({})),
            "Current",
            "Resource is current",
        ),
        (
            "a status that nobody has written yet",
            server(json!({"observedGeneration": -1})),
            "InProgress",
            "MCPServer generation is 1, but latest observed generation is -1",
        ),
        ("ready", ready, "Current", "Resource is Ready"),
        (
            "ready as of an older spec",
            of_an_older_spec,
            "InProgress",
            "MCPServer generation is 2, but latest observed generation is 1",
        ),
        // Never `Failed`, whatever the reason is.
        ("not ready", with("Ready", "False"), "InProgress", "why"),
        ("not known", with("Ready", "Unknown"), "InProgress", "why"),
        ("stalled", with("Stalled", "True"), "Failed", "why"),
        (
            "not stalled",
            with("Stalled", "False"),
            "Current",
            "Resource is current",
        ),
        (
            "reconciling",
            with("Reconciling", "True"),
            "InProgress",
            "why",
        ),
        (
            "ready, and reconciling",
            also_reconciling,
            "InProgress",
            "more",
        ),
        (
            "another condition",
            with("DeploymentReady", "False"),
            "Current",
            "Resource is current",
        ),
        (
            "leaving",
            leaving,
            "Terminating",
            "Resource scheduled for deletion",
        ),
    ];
    let objects: Vec<_> = table.iter().map(|(_, object, ..)| object.clone()).collect();
    let found = kstatus(&objects).await.unwrap();
    for ((what, _, status, message), found) in table.iter().zip(found) {
        assert_eq!(
            (found.status.as_str(), found.message.as_str()),
            (*status, *message),
            "{what}"
        );
    }
}
