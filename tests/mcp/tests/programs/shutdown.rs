//! The end of a server over HTTP.

use std::process::Stdio;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::time::timeout;

use crate::run::{CLIENT, LIMIT, Server, browser, command};

#[tokio::test]
async fn a_call_in_flight_is_answered() {
    let server = Server::start(&[]).await;
    let mut hold = command(CLIENT, &[])
        .args(["hold", &server.endpoint(), "--seconds", "10"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(hold.stdout.take().unwrap()).lines();
    let mut next = async || {
        let line = timeout(LIMIT, lines.next_line()).await.unwrap();
        line.unwrap().expect("another line")
    };
    assert_eq!(next().await, "calling");

    assert_eq!(server.get("/ready").await.status(), 200);
    server.terminate().await;
    timeout(LIMIT, async {
        while server.get("/ready").await.status() != 503 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    assert_eq!(server.get("/health").await.status(), 200);

    let line: Value = serde_json::from_str(&next().await).unwrap();
    assert_eq!(line["result"]["content"][0]["text"], "slept 10 s");
    assert!(line["elapsedMs"].as_u64() >= Some(10_000), "{line}");
    assert!(hold.wait().await.unwrap().success());
    let (status, log) = server.end().await;
    assert_eq!(status.code(), Some(0), "{log:?}");
}

#[tokio::test]
async fn an_idle_server_ends_at_once() {
    let server = Server::start(&[]).await;
    // Connections that a client leaves open, one of them idle, one with a stream that never ends.
    let browser = browser();
    let url = format!("{}/mcp", server.endpoint());
    let initialize = concat!(
        r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","#,
        r#""capabilities":{},"clientInfo":{"name":"test","version":"1"}}}"#
    );
    let accept = "application/json, text/event-stream";
    let session = browser
        .post(&url)
        .header("accept", accept)
        .header("content-type", "application/json")
        .body(initialize)
        .send()
        .await
        .unwrap();
    assert_eq!(session.status(), 200);
    let id = session.headers()["mcp-session-id"].clone();
    let answer = session.text().await.unwrap();
    assert!(answer.contains("protocolVersion"), "{answer}");
    let stream = browser
        .get(&url)
        .header("accept", accept)
        .header("mcp-session-id", id)
        .send()
        .await
        .unwrap();
    assert_eq!(stream.status(), 200);

    server.terminate().await;
    let (status, log) = server.end().await;
    assert_eq!(status.code(), Some(0), "{log:?}");
    assert!(!log.iter().any(|line| line.contains("WARN")), "{log:?}");
}
