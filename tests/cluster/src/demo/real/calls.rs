//! A real MCP client lists and calls tools: from a pod by the endpoints' names, and over stdio.

use anyhow::{Result, ensure};
use serde_json::Value;

use super::json;
use super::servers::{EVERYTHING, SMALL, STDIO};
use super::stage::Stage;
use crate::demo::screen::note;

/// Calls made to the server with sessions, and the sessions that share them.
const CALLS: u64 = 500;
const SESSIONS: u64 = 10;

/// Calls all three servers.
pub(super) async fn show(stage: &Stage) -> Result<String> {
    for (name, argument) in [(EVERYTHING, "message"), (SMALL, "text")] {
        let url = stage.endpoint(name).await?;
        listed(&stage.client(&["tools", &url]).await?)?;
        let arguments = format!(r#"{{"{argument}":"hello"}}"#);
        let call = ["call", &url, "echo", "--arguments", &arguments];
        echoed(&stage.client(&call).await?)?;
    }

    let attach = format!("stdio:kubectl attach -i -q deployment/{STDIO}");
    listed(&stage.client_here(&["tools", &attach]).await?)?;
    let arguments = r#"{"message":"hello"}"#;
    let call = ["call", &attach, "echo", "--arguments", arguments];
    echoed(&stage.client_here(&call).await?)?;

    let url = stage.endpoint(EVERYTHING).await?;
    let (calls, sessions) = (CALLS.to_string(), SESSIONS.to_string());
    let many = [
        "many",
        &url,
        "echo",
        "--arguments",
        arguments,
        "--requests",
        &calls,
        "--connections",
        &sessions,
    ];
    let told = json(&stage.client(&many).await?)?;
    ensure!(
        told["made"] == CALLS && told["failed"] == 0,
        "{CALLS} calls should be made and none fail: {told}"
    );
    note(
        "a session is known to one replica only; the Service sends a client to the same one \
         (sessionAffinity ClientIP)",
    );
    Ok(format!(
        "tools of all three by a real client; of {CALLS} calls in {SESSIONS} sessions to 2 replicas none \
         failed, median {} ms",
        told["medianMs"]
    ))
}

/// The names of tools have the one that is called.
fn listed(printed: &str) -> Result<()> {
    let told = json(printed)?;
    let tools = told["tools"].as_array().map_or(&[][..], Vec::as_slice);
    ensure!(
        tools.iter().any(|tool| tool == "echo"),
        "the tools should be listed, with echo: {told}"
    );
    Ok(())
}

/// The result has what was sent.
fn echoed(printed: &str) -> Result<()> {
    let told = json(printed)?;
    let text = told["content"][0]["text"].as_str().unwrap_or_default();
    ensure!(
        text.contains("hello") && told["isError"] != Value::Bool(true),
        "the tool echo should answer with what was sent: {told}"
    );
    Ok(())
}
