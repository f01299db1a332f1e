//! The three servers, and the pod that their client is in.

use std::time::Instant;

use anyhow::{Result, ensure};

use super::TIMEOUT;
use super::stage::Stage;
use crate::demo::screen::seconds;

/// server-everything over streamable HTTP, with two replicas.
pub(super) const EVERYTHING: &str = "everything";
/// The same over stdio.
pub(super) const STDIO: &str = "everything-stdio";
/// The workspace's own, with the transport `http`.
pub(super) const SMALL: &str = "small";

/// Each with its file.
const ALL: [&str; 3] = [EVERYTHING, STDIO, SMALL];

/// Applies them, and waits until they are Ready.
pub(super) async fn apply(stage: &Stage) -> Result<String> {
    let start = Instant::now();
    for name in ALL {
        let file = format!("tests/cluster/samples/{name}.yaml");
        stage.kubectl(&["apply", "-f", &file]).await?;
    }
    let client = "tests/cluster/samples/client.yaml";
    stage.kubectl(&["apply", "-f", client]).await?;
    let ready = "--for=condition=Ready";
    let mut wait = vec!["wait", "mcps"];
    wait.extend(ALL);
    wait.extend([ready, TIMEOUT]);
    stage.kubectl(&wait).await?;
    let time = seconds(start);
    stage
        .kubectl(&["wait", "pod/client", ready, TIMEOUT])
        .await?;
    stage.kubectl(&["get", "mcps", "-o", "wide"]).await?;
    let kinds = "deployments,services,endpointslices,configmaps,pods";
    let ours = "app.kubernetes.io/managed-by=mcp-operator";
    stage.kubectl(&["get", kinds, "-l", ours]).await?;
    for (name, transport) in [
        (EVERYTHING, "http://"),
        (STDIO, "stdio://"),
        (SMALL, "http://"),
    ] {
        let endpoint = stage.endpoint(name).await?;
        ensure!(
            endpoint.starts_with(&format!("{transport}{name}.default.svc.cluster.local")),
            "the endpoint of {name} should not be {endpoint}"
        );
    }
    Ok(format!(
        "{} of 3 transports, all Ready after {time}",
        ALL.len()
    ))
}

#[cfg(test)]
mod tests {
    use crate::cargo::workspace;
    use crate::{mcp_test, server_everything};

    #[test]
    fn the_samples_name_the_images_that_are_built() {
        for (file, image) in [
            ("everything", server_everything::NAME),
            ("everything-stdio", server_everything::NAME),
            ("small", mcp_test::NAME),
            ("many", mcp_test::NAME),
            ("client", mcp_test::NAME),
        ] {
            let path = workspace().join(format!("tests/cluster/samples/{file}.yaml"));
            let text = std::fs::read_to_string(path).unwrap();
            let line = format!("image: {image}");
            assert!(text.lines().any(|found| found.trim() == line), "{file}");
        }
    }
}
