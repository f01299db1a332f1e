//! The commands of one session: list the tools, call one, hold one.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rmcp::model::{CallToolResult, JsonObject};
use serde_json::json;

use crate::session::{Session, Target, result};

/// Lists the tools by name.
pub async fn tools(target: &Target, timeout: Duration) -> Result<bool> {
    let session = Session::open(target, timeout, false).await?;
    let tools = session.tools().await?;
    let names: Vec<_> = tools.iter().map(|tool| &tool.name).collect();
    let mut line = session.server();
    line["tools"] = json!(names);
    println!("{line}");
    session.close().await?;
    Ok(true)
}

/// Calls a tool.
pub async fn call(
    target: &Target,
    tool: String,
    arguments: JsonObject,
    timeout: Duration,
) -> Result<bool> {
    let session = Session::open(target, timeout, false).await?;
    let result = session.call(&tool, arguments).await?;
    println!("{}", serde_json::to_string(&result)?);
    session.close().await?;
    Ok(good(&result))
}

/// Calls the tool `sleep`.
pub async fn hold(target: &Target, seconds: f64, timeout: Duration) -> Result<bool> {
    let time =
        Duration::try_from_secs_f64(seconds).with_context(|| format!("--seconds {seconds}"))?;
    // The limit is about what the server adds to the time that was asked for.
    let session = Session::open(target, timeout + time, false).await?;
    let tool = "sleep";
    let mut arguments = JsonObject::new();
    arguments.insert("seconds".to_owned(), json!(seconds));
    let begun = Instant::now();
    let call = session.begin(tool, arguments).await?;
    let mut answer = Box::pin(result(tool, call));
    let result = tokio::select! {
        // An answer without progress, an error mostly.
        result = &mut answer => result?,
        () = session.progress() => {
            println!("calling");
            answer.await?
        }
    };
    let elapsed = begun.elapsed().as_millis();
    println!("{}", json!({ "result": result, "elapsedMs": elapsed }));
    // The session's end is not looked at: the server may be gone once it has answered.
    if let Err(error) = session.close().await {
        tracing::debug!("{error:#}");
    }
    Ok(good(&result))
}

/// Whether a tool's result is not an error.
pub fn good(result: &CallToolResult) -> bool {
    result.is_error != Some(true)
}
