//! The transport stdio, over a child's pipes.

use std::process::Stdio;

use rmcp::model::{CallToolRequestParams, ProgressNotificationParam};
use rmcp::service::NotificationContext;
use rmcp::{ClientHandler, RoleClient, ServiceExt};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Child;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::run::{LIMIT, SERVER, TOOLS, client_with, command, terminate};

const ENV: [(&str, &str); 3] = [
    ("MCP_TRANSPORT", "stdio"),
    ("MCP_SERVER_NAME", "weather"),
    ("POD_NAME", "weather-0"),
];

fn server() -> Child {
    command(SERVER, &ENV)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// The client also looks at how the server ends when its input is closed.
#[tokio::test]
async fn tools_are_listed_and_called() {
    let target = format!("stdio:{SERVER}");
    let said = client_with(&ENV, &["tools", &target]).await.json(0);
    assert_eq!(said["server"]["name"], "weather");
    let mut tools: Vec<String> = serde_json::from_value(said["tools"].clone()).unwrap();
    tools.sort_unstable();
    assert_eq!(tools, TOOLS);

    let said = client_with(&ENV, &["call", &target, "whoami"]).await;
    assert_eq!(said.text(), "weather-0");
    let arguments = json!({ "text": "hello" }).to_string();
    let echo = ["call", &target, "echo", "--arguments", &arguments];
    assert_eq!(client_with(&ENV, &echo).await.text(), "hello");
    let said = client_with(&ENV, &["call", &target, "no-such-tool"]).await;
    assert!(said.error().contains("tool not found"), "{}", said.errors);
}

/// A client that passes progress on.
struct Progress(mpsc::UnboundedSender<()>);

impl ClientHandler for Progress {
    async fn on_progress(&self, _: ProgressNotificationParam, _: NotificationContext<RoleClient>) {
        self.0.send(()).unwrap();
    }
}

/// It takes longer than the SDK itself waits for answers once the input has ended.
#[tokio::test]
async fn a_call_in_flight_is_answered_at_sigterm() {
    let mut server = server();
    let pipes = (server.stdout.take().unwrap(), server.stdin.take().unwrap());
    let (tell, mut progress) = mpsc::unbounded_channel();
    let session = Progress(tell).serve(pipes).await.unwrap();
    let call = CallToolRequestParams::new("sleep")
        .with_arguments(json!({ "seconds": 6 }).as_object().unwrap().clone());
    let answer = tokio::spawn({
        let peer = session.peer().clone();
        async move { peer.call_tool(call).await }
    });
    timeout(LIMIT, progress.recv()).await.unwrap().unwrap();
    terminate(&server).await;
    let result = timeout(LIMIT, answer).await.unwrap().unwrap().unwrap();
    let result = serde_json::to_value(result).unwrap();
    assert_eq!(result["content"][0]["text"], "slept 6 s");
    let status = timeout(LIMIT, server.wait()).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(0));
}

/// As in a pod nobody is attached to: standard input stays open and nothing comes.
#[tokio::test]
async fn a_server_without_client_ends_at_once() {
    let mut server = server();
    let mut log = BufReader::new(server.stderr.take().unwrap()).lines();
    let line = timeout(LIMIT, log.next_line()).await.unwrap().unwrap();
    assert!(line.as_ref().unwrap().contains("serving"), "{line:?}");
    terminate(&server).await;
    // The child's own wait would close its standard input.
    let _open = server.stdin.take().unwrap();
    let status = timeout(LIMIT, server.wait()).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(0));
}
