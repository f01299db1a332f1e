//! Whatever arrives gets a proper answer.

use std::convert::Infallible;

use futures::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Bytes, Frame};
use hyper::header::{ALLOW, CONTENT_TYPE, EXPECT};
use hyper::{Method, Request};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::{Map, Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use webhook::Limits;

use crate::support::{
    Body, PATIENCE, Running, allow, body, full, get, http1_answer, http2_answer, post, request,
    review, start,
};

const MIB: usize = 1 << 20;

async fn server() -> Running {
    start(Limits::default(), |server| server.handler(allow())).await
}

/// Sentence, request, code, reason, part of the message.
type Case = (&'static str, Request<Body>, u16, &'static str, &'static str);

#[tokio::test]
async fn wrong_paths_methods_and_content_types_are_refused() {
    let server = server().await;
    let mut client = server.http1().await;
    let of_type = |content_type: Option<&str>| {
        let mut request = post("/allow", body("1"));
        request.headers_mut().remove(CONTENT_TYPE);
        if let Some(content_type) = content_type {
            let content_type = content_type.parse().unwrap();
            request.headers_mut().insert(CONTENT_TYPE, content_type);
        }
        request
    };
    let table: Vec<Case> = vec![
        (
            "no such path",
            post("/nowhere", body("1")),
            404,
            "NotFound",
            "no webhook is served",
        ),
        ("no path", get("/"), 404, "NotFound", "no webhook is served"),
        (
            "GET on a handler",
            get("/allow"),
            405,
            "MethodNotAllowed",
            "POST only",
        ),
        (
            "PUT on a handler",
            request(Method::PUT, "/allow", full(body("1"))),
            405,
            "MethodNotAllowed",
            "POST only",
        ),
        (
            "POST on health",
            post("/healthz", ""),
            405,
            "MethodNotAllowed",
            "GET, HEAD only",
        ),
        (
            "YAML",
            of_type(Some("application/yaml")),
            415,
            "UnsupportedMediaType",
            "must be application/json",
        ),
        (
            "no content type",
            of_type(None),
            415,
            "UnsupportedMediaType",
            "must be application/json",
        ),
        (
            "nearly JSON",
            of_type(Some("application/jsonp")),
            415,
            "UnsupportedMediaType",
            "must be application/json",
        ),
    ];
    for (sentence, request, code, reason, message) in table {
        let answer = http1_answer(&mut client, request).await;
        assert!(answer.refusal(code, reason).contains(message), "{sentence}");
        assert_eq!(
            answer.headers.contains_key(ALLOW),
            code == 405,
            "{sentence}"
        );
    }
}

#[tokio::test]
async fn what_is_no_review_is_refused_with_status_400() {
    let server = server().await;
    let mut client = server.http1().await;
    let whole = body("1");
    let table: Vec<(&str, Vec<u8>, &str)> = vec![
        ("nothing", vec![], "not JSON"),
        (
            "truncated",
            whole.as_bytes()[..whole.len() - 2].to_vec(),
            "not JSON",
        ),
        ("nested 1,000,000 deep", vec![b'['; MIB], "not JSON"),
        ("a list", b"[]".to_vec(), "request.uid"),
        ("an empty uid", body("").into_bytes(), "request.uid"),
    ];
    for (sentence, body, message) in table {
        let answer = http1_answer(&mut client, post("/allow", body)).await;
        assert!(
            answer.refusal(400, "BadRequest").contains(message),
            "{sentence}"
        );
    }
}

#[tokio::test]
async fn what_has_a_uid_is_refused_with_that_uid() {
    let server = server().await;
    let mut client = server.http1().await;
    let v1beta1 = "admission.k8s.io/v1beta1";
    let table = [
        (
            "v1beta1",
            "/apiVersion",
            json!(v1beta1),
            "admission.k8s.io/v1,",
            v1beta1,
        ),
        (
            "an unknown operation",
            "/request/operation",
            json!("EAT"),
            "request.operation",
            "admission.k8s.io/v1",
        ),
        (
            "an object that is none",
            "/request/object",
            json!(7),
            "request.object",
            "admission.k8s.io/v1",
        ),
        (
            "another kind",
            "/kind",
            json!("Pod"),
            "kind must be AdmissionReview",
            "admission.k8s.io/v1",
        ),
    ];
    for (sentence, pointer, value, message, version) in table {
        let mut review = review("1", &json!({}));
        *review.pointer_mut(pointer).unwrap() = value;
        let answer = http1_answer(&mut client, post("/allow", review.to_string())).await;
        assert_eq!(answer.json()["apiVersion"], version, "{sentence}");
        let response = answer.review("1");
        assert_eq!(response["allowed"], false, "{sentence}");
        assert_eq!(response["status"]["code"], 400, "{sentence}");
        assert_eq!(response["status"]["reason"], "BadRequest", "{sentence}");
        assert!(
            response["status"]["message"]
                .as_str()
                .unwrap()
                .contains(message),
            "{sentence}"
        );
    }
}

/// A body of unknown length: chunked in HTTP/1, without content-length in HTTP/2.
fn streamed(bytes: usize) -> Body {
    let chunk = Bytes::from(vec![b' '; 64 << 10]);
    let chunks = std::iter::repeat_n(chunk, bytes / (64 << 10))
        .map(|chunk| Ok::<_, Infallible>(Frame::data(chunk)));
    BodyExt::boxed(StreamBody::new(stream::iter(chunks.collect::<Vec<_>>())))
}

#[tokio::test]
async fn a_body_of_9_mib_is_too_large() {
    let server = server().await;
    let bodies: [fn() -> Body; 2] = [|| full(vec![b' '; 9 * MIB]), || streamed(9 * MIB)];
    for body in bodies {
        let request = || request(Method::POST, "/allow", body());
        let h1 = http1_answer(&mut server.http1().await, request()).await;
        let h2 = http2_answer(&server.http2().await, request()).await;
        for answer in [h1, h2] {
            let message = answer.refusal(413, "RequestEntityTooLarge");
            assert!(message.contains("8388608 bytes"), "{message}");
        }
    }
    server.assert_lives().await;
}

#[tokio::test]
async fn a_body_of_just_8_mib_is_read() {
    let server = server().await;
    for length in [8 * MIB, 8 * MIB + 1] {
        let mut review = body("1").into_bytes();
        review.resize(length, b' ');
        let answer = http1_answer(&mut server.http1().await, post("/allow", review)).await;
        assert_eq!(answer.code, if length > 8 * MIB { 413 } else { 200 });
    }
}

#[tokio::test]
async fn a_client_that_reads_only_after_it_has_sent_9_mib_gets_the_answer() {
    let server = server().await;
    let mut stream = server.tls("http/1.1").await;
    let head = format!(
        "POST /allow HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n",
        9 * MIB
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&vec![b' '; 9 * MIB]).await.unwrap();
    stream.flush().await.unwrap();
    let mut start = [0; 12];
    timeout(PATIENCE, stream.read_exact(&mut start))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&start, b"HTTP/1.1 413");
}

#[tokio::test]
async fn who_asks_first_is_told_that_9_mib_are_too_much_without_sending_them() {
    let server = server().await;
    let mut stream = server.tls("http/1.1").await;
    let head = format!(
        "POST /allow HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         {EXPECT}: 100-continue\r\nContent-Length: {}\r\n\r\n",
        9 * MIB
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut start = [0; 12];
    timeout(PATIENCE, stream.read_exact(&mut start))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&start, b"HTTP/1.1 413");
}

#[tokio::test]
async fn no_tls_is_no_harm() {
    let server = server().await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream
        .write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    // Closed: by an end or by a reset, which one is up to the kernel.
    let _ = timeout(PATIENCE, stream.read_to_end(&mut answer))
        .await
        .unwrap();
    assert!(!answer.starts_with(b"HTTP"));
    server.assert_lives().await;
}

#[tokio::test]
async fn no_http_is_no_harm() {
    let server = server().await;
    for protocol in ["http/1.1", "h2"] {
        let mut stream = server.tls(protocol).await;
        stream.write_all(&[0xff; 4096]).await.unwrap();
        let mut answer = Vec::new();
        let _ = timeout(PATIENCE, stream.read_to_end(&mut answer))
            .await
            .unwrap();
    }
    server.assert_lives().await;
}

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,8}".prop_map(Value::from),
        Just(json!("CREATE")),
        Just(json!("AdmissionReview")),
        Just(json!("admission.k8s.io/v1")),
    ];
    leaf.prop_recursive(5, 48, 6, |inner| {
        let key = prop_oneof![
            prop::sample::select(vec![
                "kind",
                "apiVersion",
                "request",
                "uid",
                "object",
                "operation"
            ])
            .prop_map(str::to_owned),
            "\\PC{0,4}",
        ];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((key, inner), 0..6)
                .prop_map(|entries| Value::Object(entries.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

/// Anything, or a good review of which one part is anything.
fn nearly_review() -> impl Strategy<Value = Value> {
    let places = vec![
        "",
        "/kind",
        "/apiVersion",
        "/request",
        "/request/uid",
        "/request/kind",
        "/request/kind/version",
        "/request/resource",
        "/request/name",
        "/request/operation",
        "/request/userInfo",
        "/request/userInfo/username",
        "/request/object",
    ];
    (prop::sample::select(places), json_value()).prop_map(|(place, value)| {
        let mut review = review("1", &json!({}));
        *review.pointer_mut(place).unwrap() = value;
        review
    })
}

#[tokio::test]
async fn a_thousand_random_bodies_get_a_thousand_proper_answers() {
    let server = server().await;
    let mut h1 = server.http1().await;
    let h2 = server.http2().await;
    let mut random = TestRunner::deterministic();
    let mut reviews = 0;
    for round in 0..1000 {
        let sent = nearly_review().new_tree(&mut random).unwrap().current();
        let request = post("/allow", sent.to_string());
        let answer = if round % 2 == 0 {
            http1_answer(&mut h1, request).await
        } else {
            http2_answer(&h2, request).await
        };
        match sent.pointer("/request/uid").and_then(Value::as_str) {
            Some(uid) if !uid.is_empty() => {
                reviews += 1;
                let response = answer.review(uid);
                let denied = response["status"]["code"] == 400;
                assert!(response["allowed"] == true || denied, "{sent}: {response}");
            }
            _ => assert!(!answer.refusal(400, "BadRequest").is_empty(), "{sent}"),
        }
    }
    assert!(
        (100..900).contains(&reviews),
        "both answers are tried: {reviews}"
    );
    server.assert_lives().await;
}
