//! How each verdict is said, word by word, and that patches give what they shall.

use proptest::prelude::*;
use serde_json::Map;

use super::*;
use crate::review::{GroupVersionResource, Operation};

fn request(object: Value) -> Request {
    Request {
        uid: "7".into(),
        kind: GroupVersionKind {
            group: "mcp.example.com".into(),
            version: "v1alpha1".into(),
            kind: "MCPServer".into(),
        },
        resource: GroupVersionResource::default(),
        sub_resource: None,
        name: "one".into(),
        namespace: None,
        operation: Operation::Create,
        object: Arc::new(object),
        old_object: Arc::default(),
        over_budget: None,
        dry_run: false,
        user: crate::review::User::default(),
        peer: std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
    }
}

fn response(object: Value, verdict: Verdict) -> Value {
    let answer = Asked::of(&request(object)).answer(verdict);
    assert_eq!(answer["kind"], "AdmissionReview");
    assert_eq!(answer["apiVersion"], "admission.k8s.io/v1");
    answer["response"].clone()
}

fn cause(field: &str, message: &str) -> Cause {
    Cause {
        reason: "FieldValueInvalid".into(),
        message: message.into(),
        field: field.into(),
    }
}

fn mutate(object: Value) -> Verdict {
    Verdict::Mutate {
        object: Box::new(object),
        warnings: vec![],
    }
}

#[test]
fn each_verdict_has_its_response() {
    let denied = |code: u16| {
        json!({ "uid": "7", "allowed": false, "status": {
            "metadata": {}, "status": "Failure", "code": code, "reason": "Forbidden",
            "message": "no" } })
    };
    let deny = |code| Verdict::Deny {
        code,
        reason: "Forbidden".into(),
        message: "no".into(),
    };
    let bug = json!({ "uid": "7", "allowed": false, "status": {
        "metadata": {}, "status": "Failure", "code": 500, "reason": "InternalError",
        "message": "the handler's mutation is not from one object to another" } });
    let table = [
        (
            "allowed without warnings",
            json!({}),
            Verdict::Allow { warnings: vec![] },
            json!({ "uid": "7", "allowed": true }),
        ),
        (
            "allowed with warnings",
            json!({}),
            Verdict::Allow {
                warnings: vec!["a".into(), "b".into()],
            },
            json!({ "uid": "7", "allowed": true, "warnings": ["a", "b"] }),
        ),
        (
            "a mutation that changes nothing has no patch",
            json!({ "a": 1 }),
            mutate(json!({ "a": 1 })),
            json!({ "uid": "7", "allowed": true }),
        ),
        (
            "a mutation is a JSON Patch in base64",
            json!({ "a": 1 }),
            mutate(json!({ "a": 2 })),
            json!({ "uid": "7", "allowed": true, "patchType": "JSONPatch",
                "patch": STANDARD.encode(r#"[{"op":"replace","path":"/a","value":2}]"#) }),
        ),
        (
            "nothing stays nothing",
            Value::Null,
            mutate(Value::Null),
            json!({ "uid": "7", "allowed": true }),
        ),
        (
            "nothing cannot be mutated",
            Value::Null,
            mutate(json!({})),
            bug.clone(),
        ),
        (
            "an object stays an object",
            json!({}),
            mutate(json!([])),
            bug,
        ),
        ("denied with its code", json!({}), deny(403), denied(403)),
        (
            "denied with a code that is no error",
            json!({}),
            deny(200),
            denied(500),
        ),
        (
            "denied with a code that is none",
            json!({}),
            deny(1000),
            denied(500),
        ),
        (
            "one right that is missing",
            json!({}),
            Verdict::Forbidden {
                causes: vec![cause("spec.podTemplate", "it needs create pods")],
                warnings: vec![],
            },
            json!({ "uid": "7", "allowed": false, "status": {
                "metadata": {}, "status": "Failure", "code": 403, "reason": "Forbidden",
                "message": "MCPServer.mcp.example.com \"one\" is forbidden: \
                            spec.podTemplate: it needs create pods",
                "details": { "name": "one", "group": "mcp.example.com", "kind": "MCPServer",
                    "causes": [{ "reason": "FieldValueInvalid", "field": "spec.podTemplate",
                        "message": "it needs create pods" }] } } }),
        ),
        (
            "one fault",
            json!({}),
            Verdict::Invalid {
                causes: vec![cause("spec.replicas", "Invalid value: 3: too many")],
                warnings: vec!["w".into()],
            },
            json!({ "uid": "7", "allowed": false, "warnings": ["w"], "status": {
                "metadata": {}, "status": "Failure", "code": 422, "reason": "Invalid",
                "message": "MCPServer.mcp.example.com \"one\" is invalid: \
                            spec.replicas: Invalid value: 3: too many",
                "details": { "name": "one", "group": "mcp.example.com", "kind": "MCPServer",
                    "causes": [{ "reason": "FieldValueInvalid", "field": "spec.replicas",
                        "message": "Invalid value: 3: too many" }] } } }),
        ),
    ];
    for (sentence, object, verdict, expected) in table {
        assert_eq!(response(object, verdict), expected, "{sentence}");
    }
}

#[test]
fn faults_are_worded_as_the_api_server_words_them() {
    let table = [
        (
            "none",
            vec![],
            r#"MCPServer.mcp.example.com "one" is invalid"#,
        ),
        (
            "two",
            vec![cause("a", "x"), cause("b", "y")],
            r#"MCPServer.mcp.example.com "one" is invalid: [a: x, b: y]"#,
        ),
        (
            "the same twice is said once",
            vec![cause("a", "x"), cause("a", "x")],
            r#"MCPServer.mcp.example.com "one" is invalid: a: x"#,
        ),
        (
            "of no field",
            vec![cause("", "x")],
            r#"MCPServer.mcp.example.com "one" is invalid: x"#,
        ),
    ];
    for (sentence, causes, expected) in table {
        let count = causes.len();
        let response = response(
            json!({}),
            Verdict::Invalid {
                causes,
                warnings: vec![],
            },
        );
        assert_eq!(response["status"]["message"], expected, "{sentence}");
        let causes = response["status"]["details"]["causes"].as_array().unwrap();
        assert_eq!(causes.len(), count, "{sentence}: every cause is listed");
    }
}

#[test]
fn the_name_is_taken_from_where_there_is_one() {
    let table = [
        (
            "the request's name",
            "one",
            json!({ "metadata": { "name": "two" } }),
            "one",
        ),
        (
            "else the object's",
            "",
            json!({ "metadata": { "name": "two" } }),
            "two",
        ),
        (
            "else what it begins with",
            "",
            json!({ "metadata": { "generateName": "t-" } }),
            "t-",
        ),
        ("else none", "", json!({ "metadata": 1 }), ""),
    ];
    for (sentence, name, object, expected) in table {
        let request = Request {
            name: name.into(),
            ..request(object)
        };
        let verdict = Verdict::Invalid {
            causes: vec![],
            warnings: vec![],
        };
        let answer = Asked::of(&request).answer(verdict);
        assert_eq!(
            answer["response"]["status"]["details"]["name"], expected,
            "{sentence}"
        );
    }
}

#[test]
fn a_core_kind_has_no_dot() {
    let mut request = request(json!({}));
    request.kind.group = String::new();
    request.kind.kind = "Pod".into();
    let answer = Asked::of(&request).answer(Verdict::Invalid {
        causes: vec![],
        warnings: vec![],
    });
    assert_eq!(
        answer["response"]["status"]["message"],
        r#"Pod "one" is invalid"#
    );
}

#[test]
fn an_undecodable_review_is_denied_in_its_own_version() {
    assert_eq!(
        undecodable("admission.k8s.io/v1beta1", "7", "why"),
        json!({ "kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1beta1",
            "response": { "uid": "7", "allowed": false, "status": {
                "metadata": {}, "status": "Failure", "code": 400, "reason": "BadRequest",
                "message": "why" } } })
    );
}

/// Few and awkward keys, so that two objects have some in common.
fn key() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-d]",
        Just("/".into()),
        Just("~".into()),
        Just("~1".into()),
        Just(String::new()),
        Just("0".into()),
    ]
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (0..4).prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        // serde_json reads longer ones only to within the last bit.
        any::<i16>().prop_map(|quarters| Value::from(f64::from(quarters) / 4.0)),
        "\\PC{0,4}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 64, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((key(), inner), 0..6).prop_map(into_object),
        ]
    })
}

fn object() -> impl Strategy<Value = Value> {
    prop::collection::vec((key(), value()), 0..6).prop_map(into_object)
}

fn into_object(entries: Vec<(String, Value)>) -> Value {
    Value::Object(entries.into_iter().collect::<Map<_, _>>())
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 2000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_patch_turns_the_object_into_the_mutated_one(before in object(), after in object()) {
        let response = response(before.clone(), mutate(after.clone()));
        prop_assert_eq!(&response["allowed"], true);
        let mut patched = before.clone();
        if let Some(patch) = response.get("patch").and_then(Value::as_str) {
            let patch = STANDARD.decode(patch).unwrap();
            let patch: Value = serde_json::from_slice(&patch).unwrap();
            let patch: json_patch::Patch = serde_json::from_value(patch).unwrap();
            json_patch::patch(&mut patched, &patch).unwrap();
        } else {
            prop_assert_eq!(&before, &after);
        }
        prop_assert_eq!(patched, after);
    }
}
