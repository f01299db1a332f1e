//! What is decoded and what is refused, and whether the refusal keeps the uid.

use serde_json::{Value, json};

use super::*;

fn decode(body: &[u8]) -> Result<Request, Undecodable> {
    super::decode(body, None)
}

fn review() -> Value {
    json!({
        "kind": "AdmissionReview",
        "apiVersion": "admission.k8s.io/v1",
        "request": {
            "uid": "7",
            "kind": { "group": "apps", "version": "v1", "kind": "Deployment" },
            "resource": { "group": "apps", "version": "v1", "resource": "deployments" },
            "subResource": "scale",
            "name": "one",
            "namespace": "default",
            "operation": "UPDATE",
            "userInfo": { "username": "me", "groups": ["us"] },
            "object": { "spec": 1 },
            "oldObject": { "spec": 2 },
            "dryRun": true,
            "options": { "fieldManager": "kubectl" },
        },
    })
}

/// `review()` with one value replaced, or removed for `None`.
fn with(pointer: &str, value: Option<Value>) -> Vec<u8> {
    let mut review = review();
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    let parent = review
        .pointer_mut(parent)
        .and_then(Value::as_object_mut)
        .unwrap();
    match value {
        Some(value) => parent.insert(key.to_owned(), value),
        None => parent.remove(key),
    };
    review.to_string().into_bytes()
}

#[test]
fn a_whole_review_is_decoded() {
    let request = decode(review().to_string().as_bytes()).unwrap();
    assert_eq!(
        request,
        Request {
            uid: "7".into(),
            kind: GroupVersionKind {
                group: "apps".into(),
                version: "v1".into(),
                kind: "Deployment".into(),
            },
            resource: GroupVersionResource {
                group: "apps".into(),
                version: "v1".into(),
                resource: "deployments".into(),
            },
            sub_resource: Some("scale".into()),
            name: "one".into(),
            namespace: Some("default".into()),
            operation: Operation::Update,
            object: json!({ "spec": 1 }).into(),
            old_object: json!({ "spec": 2 }).into(),
            over_budget: None,
            dry_run: true,
            user: User {
                name: "me".into(),
                info: serde_json::from_str(r#"{"groups":["us"],"username":"me"}"#).unwrap(),
            },
            peer: std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
        }
    );
}

#[test]
fn what_may_be_absent_may_be_null_too() {
    for key in [
        "subResource",
        "name",
        "namespace",
        "userInfo",
        "object",
        "oldObject",
        "dryRun",
        "options",
    ] {
        let pointer = format!("/request/{key}");
        let absent = decode(&with(&pointer, None)).unwrap();
        assert_eq!(absent, decode(&with(&pointer, Some(Value::Null))).unwrap());
    }
    let request = decode(&with("/request/namespace", Some(json!("")))).unwrap();
    assert_eq!(request.namespace, None, "an empty namespace is none");
}

#[test]
fn every_operation_is_known() {
    for (text, operation) in [
        ("CREATE", Operation::Create),
        ("UPDATE", Operation::Update),
        ("DELETE", Operation::Delete),
        ("CONNECT", Operation::Connect),
    ] {
        let request = decode(&with("/request/operation", Some(json!(text)))).unwrap();
        assert_eq!(request.operation, operation);
    }
}

#[test]
fn a_review_with_a_uid_is_refused_with_that_uid() {
    #[rustfmt::skip]
    let table = [
        ("another kind", "/kind", Some(json!("Pod")), "kind must be AdmissionReview"),
        ("no kind", "/kind", None, "kind must be AdmissionReview"),
        ("no version", "/apiVersion", None, "apiVersion must be admission.k8s.io/v1, the only"),
        ("another group", "/apiVersion", Some(json!("apps/v1")), "apiVersion must be admission"),
        ("no operation", "/request/operation", None, "request.operation must not be empty"),
        ("unknown operation", "/request/operation", Some(json!("EAT")), "request.operation must be"),
        ("operation is 1", "/request/operation", Some(json!(1)), "operation must be a string"),
        ("object is a string", "/request/object", Some(json!("x")), "request.object must be an obj"),
        ("old object is a list", "/request/oldObject", Some(json!([])), "request.oldObject must be"),
        ("no kind of object", "/request/kind", None, "request.kind must not be empty"),
        ("kind is a string", "/request/kind", Some(json!("x")), "request.kind must be an object"),
        ("kind without kind", "/request/kind/kind", None, "request.kind.kind must not be empty"),
        ("no resource", "/request/resource", None, "request.resource must not be empty"),
        ("version is a list", "/request/resource/version", Some(json!([])), "version must be a str"),
        ("name is an object", "/request/name", Some(json!({})), "request.name must be a string"),
        ("dry run is a string", "/request/dryRun", Some(json!("no")), "request.dryRun must be true"),
        ("user is a string", "/request/userInfo", Some(json!("me")), "request.userInfo must be an"),
        ("username is 1", "/request/userInfo/username", Some(json!(1)), "userInfo.username must be"),
    ];
    for (sentence, pointer, value, expected) in table {
        let Err(Undecodable::Review {
            api_version,
            uid,
            message,
        }) = decode(&with(pointer, value))
        else {
            panic!("{sentence}: not refused with a review")
        };
        assert_eq!(
            (uid.as_str(), api_version.as_str()),
            ("7", API_VERSION),
            "{sentence}"
        );
        assert!(message.contains(expected), "{sentence}: {message}");
    }
}

#[test]
fn v1beta1_is_refused_in_v1beta1() {
    let beta = "admission.k8s.io/v1beta1";
    let error = decode(&with("/apiVersion", Some(json!(beta)))).unwrap_err();
    let Undecodable::Review {
        api_version,
        message,
        ..
    } = error
    else {
        panic!("{error:?}")
    };
    assert_eq!(api_version, beta);
    assert!(
        message.contains("apiVersion must be admission.k8s.io/v1, the only one"),
        "{message}"
    );
}

#[test]
fn a_body_without_a_uid_is_an_http_error() {
    let whole = review().to_string();
    #[rustfmt::skip]
    let table: [(&str, Vec<u8>, &str); 12] = [
        ("nothing", vec![], "not JSON: EOF"),
        ("truncated", whole.as_bytes()[..whole.len() / 2].to_vec(), "not JSON: EOF"),
        ("trailing garbage", format!("{whole}}}").into_bytes(), "not JSON: trailing"),
        ("no UTF-8", b"{\"a\":\"\xff\"}".to_vec(), "not JSON"),
        ("YAML", b"kind: AdmissionReview".to_vec(), "not JSON"),
        ("nested 100,000 deep", vec![b'['; 100_000], "not JSON: EOF"),
        ("null", b"null".to_vec(), "request.uid"),
        ("a list", b"[]".to_vec(), "request.uid"),
        ("a Pod", br#"{"kind":"Pod","apiVersion":"v1"}"#.to_vec(), "request.uid"),
        ("no uid", with("/request/uid", None), "request.uid"),
        ("an empty uid", with("/request/uid", Some(json!(""))), "request.uid"),
        ("uid is a number", with("/request/uid", Some(json!(7))), "request.uid"),
    ];
    for (sentence, body, expected) in table {
        let Err(Undecodable::Anonymous(refusal)) = decode(&body) else {
            panic!("{sentence}: not refused with an HTTP error")
        };
        assert_eq!(refusal.code, 400, "{sentence}");
        assert!(
            refusal.message.contains(expected),
            "{sentence}: {}",
            refusal.message
        );
    }
}
