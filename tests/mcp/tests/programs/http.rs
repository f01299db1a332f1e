//! Tools, paths and errors over HTTP.

use serde_json::{Value, json};
use tokio::net::TcpSocket;

use crate::run::{Server, TOOLS, browser, client};

const CONFIG: &str = r#"{"server":{"name":"weather","transport":"http","port":8080}}"#;

#[tokio::test]
async fn the_tools_are_listed() {
    let server = Server::start(&[("MCP_SERVER_NAME", "weather")]).await;
    let said = client(&["tools", &server.endpoint()]).await.json(0);
    assert_eq!(said["server"]["name"], "weather");
    let mut tools: Vec<String> = serde_json::from_value(said["tools"].clone()).unwrap();
    tools.sort_unstable();
    assert_eq!(tools, TOOLS);
}

#[tokio::test]
async fn each_tool_answers() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config.json");
    std::fs::write(&config, CONFIG).unwrap();
    let config = config.to_str().unwrap();
    for transport in ["http", "streamable-http"] {
        let server = Server::start(&[
            ("MCP_TRANSPORT", transport),
            ("MCP_CONFIG_FILE", config),
            ("POD_NAME", "weather-0"),
        ])
        .await;
        let url = server.endpoint();
        let call = async |tool, arguments| {
            let said = client(&["call", &url, tool, "--arguments", arguments]).await;
            said.text()
        };
        assert_eq!(call("echo", r#"{"text":"grüße"}"#).await, "grüße");
        assert_eq!(call("sleep", r#"{"seconds":0.1}"#).await, "slept 0.1 s");
        assert_eq!(call("whoami", "{}").await, "weather-0");
        assert_eq!(call("config", "{}").await, CONFIG);
    }
}

#[tokio::test]
async fn what_a_tool_refuses_is_a_result_and_an_exit_code() {
    let server = Server::start(&[("MCP_CONFIG_FILE", "/nowhere/config.json")]).await;
    let said = client(&["call", &server.endpoint(), "config"]).await;
    let result = said.json(1);
    assert_eq!(result["isError"], true);
    let text = result["content"][0]["text"].as_str().unwrap();
    assert!(text.contains("/nowhere/config.json"), "{text}");

    let result = client(&["call", &server.endpoint(), "echo"]).await.json(1);
    let text = result["content"][0]["text"].as_str().unwrap();
    assert!(text.contains("missing field `text`"), "{text}");
}

#[tokio::test]
async fn what_cannot_be_called_is_an_error() {
    let server = Server::start(&[]).await;
    let url = server.endpoint();
    let said = client(&["call", &url, "no-such-tool"]).await;
    let error = said.error();
    assert!(error.contains("calling no-such-tool"), "{error}");
    assert!(error.contains("tool not found"), "{error}");

    let long = ["call", &url, "sleep", "--arguments", r#"{"seconds":600}"#];
    let said = client(&[&long[..], &["--timeout", "5s"]].concat()).await;
    let error = said.error();
    assert!(error.contains("timeout"), "{error}");
}

#[tokio::test]
async fn where_nobody_listens_the_error_names_the_url() {
    // Bound and not listening, so that nobody else takes the port.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let url = format!("http://{}", socket.local_addr().unwrap());
    let said = client(&["tools", &url]).await;
    let error = said.error();
    assert!(error.contains(&format!("{url}/mcp")), "{error}");
    assert!(error.contains("refused"), "{error}");
}

/// The first request of a client, to the name of a Service.
async fn initialize(server: &Server, path: &str) -> reqwest::Response {
    let initialize = json!({
        "jsonrpc": "2.0", "id": 1, "method": "initialize",
        "params": {
            "protocolVersion": "2025-11-25",
            "capabilities": {},
            "clientInfo": { "name": "test", "version": "1" },
        },
    });
    browser()
        .post(format!("{}{path}", server.endpoint()))
        .header("host", "weather.demo.svc.cluster.local:8080")
        .header("accept", "application/json, text/event-stream")
        .header("content-type", "application/json")
        .body(initialize.to_string())
        .send()
        .await
        .unwrap()
}

#[tokio::test]
async fn a_server_is_called_by_names_it_does_not_know_and_at_either_path() {
    let server = Server::start(&[]).await;
    for path in ["/", "/mcp"] {
        let answer = initialize(&server, path).await;
        assert_eq!(answer.status(), 200, "{path}");
        assert!(answer.headers().contains_key("mcp-session-id"), "{path}");
    }
}

#[tokio::test]
async fn the_transport_http_has_no_sessions() {
    let server = Server::start(&[("MCP_TRANSPORT", "http")]).await;
    let answer = initialize(&server, "/mcp").await;
    assert_eq!(answer.status(), 200);
    assert!(!answer.headers().contains_key("mcp-session-id"));
}

#[tokio::test]
async fn probes_are_answered_and_nothing_else() {
    let server = Server::start(&[]).await;
    assert_eq!(server.get("/health").await.status(), 200);
    assert_eq!(server.get("/ready").await.status(), 200);
    assert_eq!(server.get("/other").await.status(), 404);
}

#[tokio::test]
async fn many_calls_are_counted() {
    let server = Server::start(&[("POD_NAME", "weather-0")]).await;
    let url = server.endpoint();
    let load = ["--requests", "60", "--connections", "3"];
    let said = client(&[&["many", &url, "whoami"], &load[..]].concat()).await;
    let line = said.json(0);
    let counts = |line: &Value| (line["made"].clone(), line["failed"].clone());
    assert_eq!(counts(&line), (json!(60), json!(0)));
    assert_eq!(line["answers"], json!({ "weather-0": 60 }));
    let (median, p99) = (line["medianMs"].as_f64(), line["p99Ms"].as_f64());
    assert!(median > Some(0.0) && median <= p99, "{line}");

    let said = client(&[&["many", &url, "config"], &load[..]].concat()).await;
    let line = said.json(1);
    assert_eq!(counts(&line), (json!(60), json!(60)));
    assert_eq!(line["medianMs"], Value::Null);
}
