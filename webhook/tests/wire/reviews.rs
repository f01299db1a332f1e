//! Reviews that are as they should be.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use webhook::{Cause, Limits, Operation, Request, Verdict};

use crate::support::{By, body, get, http1_answer, http2_answer, post, review, start};

#[tokio::test]
async fn a_handler_sees_the_request_and_its_verdict_comes_back() {
    let seen = Arc::new(Mutex::new(None));
    let kept = Arc::clone(&seen);
    let server = start(Limits::default(), |server| {
        server.handler(By("/invalid", move |request| {
            *kept.lock().unwrap() = Some(request);
            Verdict::Invalid {
                causes: vec![Cause {
                    reason: "FieldValueInvalid".into(),
                    message: "Invalid value: 3: too many".into(),
                    field: "spec.replicas".into(),
                }],
                warnings: vec!["mind".into()],
            }
        }))
    })
    .await;
    let object = json!({ "spec": { "replicas": 3 } });
    // An API server adds the time it is willing to wait.
    let request = post("/invalid?timeout=5s", review("u-1", &object).to_string());
    let answer = http2_answer(&server.http2().await, request).await;

    let response = answer.review("u-1");
    assert_eq!(response["allowed"], false);
    assert_eq!(response["warnings"], json!(["mind"]));
    assert_eq!(
        response["status"]["message"],
        "Deployment.apps \"one\" is invalid: spec.replicas: Invalid value: 3: too many"
    );
    let request = seen.lock().unwrap().take().unwrap();
    assert_eq!(request.operation, Operation::Create);
    assert_eq!(*request.object, object);
    assert_eq!(request.user.name, "me");
}

#[tokio::test]
async fn a_mutation_comes_back_as_a_patch_in_either_protocol() {
    let server = start(Limits::default(), |server| {
        server.handler(By("/mutate", |request: Request| {
            let mut object = Value::clone(&request.object);
            object["spec"] = json!({ "replicas": 1 });
            Verdict::Mutate {
                object: Box::new(object),
                warnings: vec![],
            }
        }))
    })
    .await;
    let h1 = http1_answer(&mut server.http1().await, post("/mutate", body("1"))).await;
    let h2 = http2_answer(&server.http2().await, post("/mutate", body("1"))).await;
    for answer in [h1, h2] {
        let response = answer.review("1");
        assert_eq!(response["allowed"], true);
        assert_eq!(response["patchType"], "JSONPatch");
        // [{"op":"add","path":"/spec","value":{"replicas":1}}]
        assert_eq!(
            response["patch"],
            "W3sib3AiOiJhZGQiLCJwYXRoIjoiL3NwZWMiLCJ2YWx1ZSI6eyJyZXBsaWNhcyI6MX19XQ=="
        );
    }
}

#[tokio::test]
async fn a_content_type_may_have_parameters() {
    let server = start(Limits::default(), |server| {
        server.handler(crate::support::allow())
    })
    .await;
    let mut client = server.http1().await;
    for content_type in ["Application/JSON", "application/json; charset=utf-8"] {
        let mut request = post("/allow", body("1"));
        request
            .headers_mut()
            .insert("content-type", content_type.parse().unwrap());
        let response = http1_answer(&mut client, request).await.review("1");
        assert_eq!(response, json!({ "uid": "1", "allowed": true }));
    }
}

#[tokio::test]
async fn readiness_says_why_not() {
    let ready = Arc::new(Mutex::new(Err("no certificate yet".to_owned())));
    let asked = Arc::clone(&ready);
    let server = start(Limits::default(), |server| {
        server.ready(move || asked.lock().unwrap().clone())
    })
    .await;
    let mut client = server.http1().await;
    let answer = http1_answer(&mut client, get("/readyz")).await;
    assert_eq!(
        (answer.code.as_u16(), answer.text().as_str()),
        (503, "no certificate yet")
    );
    *ready.lock().unwrap() = Ok(());
    let answer = http1_answer(&mut client, get("/readyz")).await;
    assert_eq!((answer.code.as_u16(), answer.text().as_str()), (200, "ok"));
    let answer = http1_answer(&mut client, get("/healthz")).await;
    assert_eq!((answer.code.as_u16(), answer.text().as_str()), (200, "ok"));
}

#[tokio::test]
async fn a_panic_is_an_answer() {
    let server = start(Limits::default(), |server| {
        server
            .handler(By("/panic", |_| panic!("as the test wants it")))
            .ready(|| panic!("as the test wants it"))
    })
    .await;
    let mut client = server.http1().await;
    // Twice on one connection: it is not dropped either.
    for uid in ["1", "2"] {
        let response = http1_answer(&mut client, post("/panic", body(uid)))
            .await
            .review(uid);
        assert_eq!(response["allowed"], false);
        assert_eq!(response["status"]["code"], 500);
        assert_eq!(response["status"]["reason"], "InternalError");
    }
    let answer = http1_answer(&mut client, get("/readyz")).await;
    assert_eq!(answer.code, 503);
    let answer: Value = json!(answer.text());
    assert_eq!(answer, "the readiness check panicked");
}
