//! What the server offers: its name and its tools.

use std::path::PathBuf;
use std::time::Duration;

use rmcp::handler::server::wrapper::Parameters;
use rmcp::model::{Implementation, ProgressNotificationParam, ServerCapabilities, ServerConfig};
use rmcp::service::{RequestContext, RoleServer};
use rmcp::{ServerHandler, tool, tool_handler, tool_router};
use tokio_util::task::TaskTracker;

/// The MCP server, one clone a session.
#[derive(Clone)]
pub struct Tools {
    name: String,
    pod_name: Option<String>,
    config_file: Option<PathBuf>,
    /// Holds a token for each call in flight.
    pub calls: TaskTracker,
}

impl Tools {
    pub fn new(name: String, pod_name: Option<String>, config_file: Option<PathBuf>) -> Self {
        Self {
            name,
            pod_name,
            config_file,
            calls: TaskTracker::new(),
        }
    }
}

#[derive(serde::Deserialize, schemars::JsonSchema)]
struct Echo {
    /// What to answer
    text: String,
}

#[derive(serde::Deserialize, schemars::JsonSchema)]
struct Sleep {
    /// After how many seconds to answer
    seconds: f64,
}

#[tool_router]
impl Tools {
    /// Answers with the text that was given
    #[tool]
    fn echo(Parameters(Echo { text }): Parameters<Echo>) -> String {
        text
    }

    /// Answers after some time, and reports progress when it begins
    #[tool]
    async fn sleep(
        &self,
        Parameters(Sleep { seconds }): Parameters<Sleep>,
        context: RequestContext<RoleServer>,
    ) -> Result<String, String> {
        let _call = self.calls.token();
        let time = Duration::try_from_secs_f64(seconds)
            .map_err(|error| format!("seconds: {seconds}: {error}"))?;
        // Whoever called knows from this that the call has arrived.
        if let Some(token) = context.meta.get_progress_token() {
            let begun = ProgressNotificationParam::new(token, 0.0).with_total(seconds);
            if let Err(error) = context.peer.notify_progress(begun).await {
                tracing::warn!(%error, "progress could not be reported");
            }
        }
        tokio::select! {
            () = tokio::time::sleep(time) => Ok(format!("slept {seconds} s")),
            () = context.ct.cancelled() => Err("cancelled".to_owned()),
        }
    }

    /// Shows the configuration file that the operator mounted
    #[tool]
    async fn config(&self) -> Result<String, String> {
        let _call = self.calls.token();
        let file = self
            .config_file
            .as_ref()
            .ok_or("MCP_CONFIG_FILE is not set: spec.config is empty")?;
        tokio::fs::read_to_string(file)
            .await
            .map_err(|error| format!("MCP_CONFIG_FILE {}: {error}", file.display()))
    }

    /// Names the pod that answers
    #[tool]
    fn whoami(&self) -> Result<String, String> {
        let unset = || "POD_NAME is not set".to_owned();
        self.pod_name.clone().ok_or_else(unset)
    }
}

#[tool_handler]
impl ServerHandler for Tools {
    fn get_info(&self) -> ServerConfig {
        let implementation = Implementation::new(&self.name, env!("CARGO_PKG_VERSION"));
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
            .with_server_info(implementation)
    }
}
