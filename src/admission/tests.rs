//! The webhooks and `validate` say the same.

use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::Map;
use webhook::GroupVersionKind;

use super::*;
use crate::offline;
use crate::validation::properties::{any_json, spec};

fn creation(object: &Value) -> Request {
    Request {
        uid: "7".to_owned(),
        kind: GroupVersionKind {
            group: "mcp.example.com".to_owned(),
            version: "v1alpha1".to_owned(),
            kind: "MCPServer".to_owned(),
        },
        resource: webhook::GroupVersionResource::default(),
        sub_resource: None,
        name: "a".to_owned(),
        namespace: Some("n".to_owned()),
        operation: Operation::Create,
        object: Arc::new(object.clone()),
        old_object: Arc::default(),
        over_budget: None,
        dry_run: false,
        user: webhook::User::default(),
        peer: std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
    }
}

/// Whoever may write a status could otherwise turn off the rules, and the question what he may do.
#[test]
fn a_status_that_cannot_be_read_changes_no_verdict() {
    let object = |spec: Value| {
        json!({"metadata": {"name": "a", "namespace": "n"}, "spec": spec,
        "status": {"phase": "Unheard", "lastTransitionTime": "2020-01-01T00:00:00+99:99"}})
    };
    let plain = json!({"image": "x:1", "transport": "http", "replicas": 1});
    let update = |spec: Value| {
        let mut request = creation(&object(spec));
        request.operation = Operation::Update;
        request.old_object = Arc::new(object(plain.clone()));
        request
    };
    let mut faulty = plain.clone();
    faulty["port"] = json!(0);
    match check(&update(faulty)) {
        Err(Verdict::Invalid { causes, .. }) => assert_eq!(causes[0].field, "spec.port"),
        other => panic!("{:?}", other.err()),
    }
    let mut greedy = plain.clone();
    greedy["serviceAccount"] = json!("admin");
    let needs = check(&update(greedy)).expect("it is valid").needs;
    let fields: Vec<_> = needs.iter().map(|need| &*need.field).collect();
    assert_eq!(fields, ["spec.serviceAccount"]);
}

fn shown(causes: Vec<Cause>) -> BTreeSet<String> {
    let causes = causes.into_iter();
    causes
        .map(|cause| format!("{}: {}", cause.field, cause.message))
        .collect()
}

/// All faults that a user is shown of a creation: by the mutating webhook or, where that takes it, by the validating one.
fn online(object: &Value) -> BTreeSet<String> {
    let mutated = match mutate(&creation(object)) {
        Verdict::Mutate { object, .. } => object,
        Verdict::Invalid { causes, .. } => return shown(causes),
        other => panic!("{other:?}"),
    };
    match check(&creation(&mutated)) {
        Ok(_) => BTreeSet::new(),
        Err(Verdict::Invalid { causes, .. }) => shown(causes),
        Err(other) => panic!("{other:?}"),
    }
}

/// The same by `validate`. A field that no MCPServer has is the API server's to tell, which drops it.
fn by_validate(object: &Value) -> BTreeSet<String> {
    let faults = offline::check_document(object).0.into_iter();
    faults
        .map(|fault| fault.to_string())
        .filter(|fault| {
            fault.starts_with("spec.podTemplate.") || !fault.contains("Forbidden: unknown field")
        })
        .collect()
}

/// A spec in which some fields have any value.
fn specs() -> impl Strategy<Value = Value> {
    let field = prop::sample::select(vec![
        "image",
        "transport",
        "port",
        "replicas",
        "config",
        "resources",
        "securityContext",
        "serviceAccount",
        "env",
        "envFrom",
        "command",
        "args",
        "imagePullPolicy",
        "imagePullSecrets",
        "service",
        "health",
        "path",
        "strategy",
        "commonMetadata",
        "disruptionBudget",
        "podTemplate",
        "unknown",
    ]);
    let odd = prop::collection::btree_map(field.prop_map(str::to_owned), any_json(), 0..4);
    (spec(), odd).prop_map(|(spec, odd)| {
        let mut spec: Map<String, Value> = spec.as_object().cloned().unwrap_or_default();
        spec.extend(odd);
        Value::Object(spec)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    #[test]
    fn online_and_offline_give_the_same_faults(spec in specs(), name in "[a-zA-Z.-]{1,3}") {
        let object = json!({
            "apiVersion": "mcp.example.com/v1alpha1", "kind": "MCPServer", "metadata": {"name": name}, "spec": spec,
        });
        prop_assert_eq!(online(&object), by_validate(&object), "{}", object);
    }
}
