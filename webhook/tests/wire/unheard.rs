//! Requests that end without the handler's verdict: the handler is told, and the log names the object.

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use hyper::Method;
use serde_json::{Value, json};
use webhook::{Handler, Limits, Operation, Request, Verdict};

use crate::support::{body, full, http1_answer, post, request, review, start};

/// Panics, says nothing, or allows, as the object asks for; and keeps what it is told.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<Option<Operation>>>>);

impl Handler for Told {
    fn path(&self) -> &'static str {
        "/told"
    }

    fn review(&self, request: Request) -> BoxFuture<'_, Verdict> {
        async move {
            assert!(request.object["do"] != "panic", "as the test wants it");
            if request.object["do"] == "wait" {
                std::future::pending::<()>().await;
            }
            Verdict::Allow { warnings: vec![] }
        }
        .boxed()
    }

    fn unheard(&self, operation: Option<Operation>) {
        self.0.lock().unwrap().push(operation);
    }
}

/// Keeps log lines.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A review of the object `a` in the namespace `n`.
fn asking_to(what: &str) -> String {
    let mut review = review("u-1", &json!({"do": what}));
    review["request"]["namespace"] = json!("n");
    review["request"]["name"] = json!("a");
    review.to_string()
}

#[tokio::test]
async fn the_handler_is_told_and_the_log_names_the_object() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_max_level(tracing_subscriber::filter::LevelFilter::WARN)
        .with_writer(move || writer.clone())
        .finish();
    // Of all tests of this program: a subscriber of one thread may be missed by a place in the code that logs in another
    // thread for the first time at this very moment.
    tracing::subscriber::set_global_default(subscriber).unwrap();
    let told = Told::default();
    let limits = Limits {
        request_time: Duration::from_secs(5),
        ..Limits::default()
    };
    let handler = told.clone();
    let server = start(limits, |server| server.handler(handler)).await;

    let mut operation = review("1", &json!({}));
    operation["request"]["operation"] = json!("EAT");
    let of_type = |content_type: &'static str| {
        let mut request = post("/told", body("1"));
        let content_type = hyper::header::HeaderValue::from_static(content_type);
        let headers = request.headers_mut();
        headers.insert(hyper::header::CONTENT_TYPE, content_type);
        request
    };
    let create = Some(Operation::Create);
    let table = [
        ("allowed", post("/told", body("1")), 200, None),
        ("elsewhere", post("/nowhere", body("1")), 404, None),
        (
            "a panic",
            post("/told", asking_to("panic")),
            200,
            Some(create),
        ),
        (
            "too slow",
            post("/told", asking_to("wait")),
            200,
            Some(create),
        ),
        ("no JSON", post("/told", "{"), 400, Some(None)),
        (
            "no operation",
            post("/told", operation.to_string()),
            200,
            Some(None),
        ),
        ("a wrong type", of_type("text/plain"), 415, Some(None)),
        (
            "a wrong method",
            request(Method::PUT, "/told", full("")),
            405,
            Some(None),
        ),
        (
            "too large",
            post("/told", vec![b' '; 9 << 20]),
            413,
            Some(None),
        ),
    ];
    for (what, request, code, expected) in table {
        let mut client = server.http1().await;
        let answer = http1_answer(&mut client, request).await;
        assert_eq!(answer.code, code, "{what}");
        let now: Vec<_> = told.0.lock().unwrap().drain(..).collect();
        assert_eq!(now, Vec::from_iter(expected), "{what}");
    }

    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let lines: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    for message in ["handler panicked", "handler took too long"] {
        let is_ours = |line: &&Value| line["message"] == message && line["uid"] == "u-1";
        let line = lines.iter().find(is_ours);
        let line = line.unwrap_or_else(|| panic!("no {message:?} in {log}"));
        let named = [&line["uid"], &line["namespace"], &line["name"]];
        assert_eq!(named, ["u-1", "n", "a"], "{line}");
    }
}
