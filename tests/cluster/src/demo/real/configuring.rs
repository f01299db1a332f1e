//! A changed configuration rolls the pods, and the server reads it.

use std::time::Instant;

use anyhow::{Context, Result, ensure};

use super::servers::SMALL;
use super::stage::Stage;
use super::{TIMEOUT, json};
use crate::demo::screen::seconds;

const PATCH: &str = r#"{"spec":{"config":{"GREETING":"goodbye"}}}"#;

/// Changes a value, and asks the tool that shows the configuration.
pub(super) async fn show(stage: &Stage) -> Result<String> {
    let server = format!("mcps/{SMALL}");
    let url = stage.endpoint(SMALL).await?;
    let config = ["call", &url, "config"];
    shows(&stage.client(&config).await?, "hello")?;
    let before = stage.pods(SMALL).await?;

    let start = Instant::now();
    let patch = ["patch", &server, "--type=merge", "-p", PATCH];
    stage.kubectl(&patch).await?;
    let path = "jsonpath={.metadata.generation}";
    let generation = stage.ask(&["get", &server, "-o", path]).await?;
    let observed = format!("--for=jsonpath={{.status.observedGeneration}}={generation}");
    for condition in [observed.as_str(), "--for=condition=Ready"] {
        stage
            .kubectl(&["wait", &server, condition, TIMEOUT])
            .await?;
    }
    let time = seconds(start);
    let selector = format!("app.kubernetes.io/instance={SMALL}");
    stage.kubectl(&["get", "pods", "-l", &selector]).await?;
    let after = stage.pods(SMALL).await?;
    ensure!(
        !after.iter().any(|pod| before.contains(pod)),
        "the pods should be new ones: before {before:?}, after {after:?}"
    );
    shows(&stage.client(&config).await?, "goodbye")?;
    Ok(format!("changed; new pods were Ready with it in {time}"))
}

/// The answer has the value in the mounted file.
fn shows(printed: &str, value: &str) -> Result<()> {
    let told = json(printed)?;
    let text = told["content"][0]["text"]
        .as_str()
        .with_context(|| format!("the tool config gave no text: {told}"))?;
    let file: serde_json::Value = serde_json::from_str(text)
        .with_context(|| format!("the tool config gave no JSON: {text}"))?;
    ensure!(
        file["config"]["GREETING"] == value,
        "the configuration should have the greeting {value:?}: {file}"
    );
    Ok(())
}
