//! One session with a server: where it is, its beginning, its requests, its end.

use std::process::Stdio;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rmcp::model::{
    CallToolRequest, CallToolRequestParams, CallToolResult, ClientRequest, JsonObject,
    ProgressNotificationParam, ServerResult, Tool,
};
use rmcp::service::{NotificationContext, PeerRequestOptions, RequestHandle, RunningService};
use rmcp::transport::StreamableHttpClientTransport;
use rmcp::transport::streamable_http_client::StreamableHttpClientTransportConfig;
use rmcp::{ClientHandler, RoleClient, ServiceExt};
use serde_json::{Value, json};
use tokio::process::{Child, Command};
use tokio::sync::Notify;
use tokio::time::timeout;
use url::Url;

use crate::fault;

/// How long a program may take to end after its standard input was closed.
const LEAVING: Duration = Duration::from_secs(10);

/// Where a server is.
#[derive(Clone)]
pub enum Target {
    Http(Url),
    /// A program and its arguments.
    Stdio(Vec<String>),
}

impl FromStr for Target {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        if let Some(command) = text.strip_prefix("stdio:") {
            let command: Vec<_> = command.split_whitespace().map(str::to_owned).collect();
            ensure!(!command.is_empty(), "stdio: needs a program");
            return Ok(Self::Stdio(command));
        }
        let mut url: Url = text.parse()?;
        match url.scheme() {
            "http" => {}
            // What an MCPServer of this transport has in its status.
            "stdio" => bail!("stdio is not reached over the network; use stdio:PROGRAM"),
            other => bail!("scheme {other}: only http is spoken here"),
        }
        if url.path() == "/" {
            url.set_path("/mcp");
        }
        Ok(Self::Http(url))
    }
}

/// The client's side of the protocol; it tells when the server reports progress.
#[derive(Clone, Default)]
struct Handler {
    progress: Arc<Notify>,
}

impl ClientHandler for Handler {
    async fn on_progress(&self, _: ProgressNotificationParam, _: NotificationContext<RoleClient>) {
        self.progress.notify_one();
    }
}

/// An initialized session.
pub struct Session {
    service: RunningService<RoleClient, Handler>,
    child: Option<Child>,
    timeout: Duration,
}

impl Session {
    /// Connects and initializes. `limit` is that of each request from here on; with `reinitialize`
    /// a session that the server has forgotten is started anew behind the scenes.
    pub async fn open(target: &Target, limit: Duration, reinitialize: bool) -> Result<Self> {
        let opening = async {
            match target {
                Target::Http(url) => Ok((http(url, reinitialize).await?, None)),
                Target::Stdio(command) => stdio(command).await.map(|(s, child)| (s, Some(child))),
            }
        };
        let (service, child) = timeout(limit, opening)
            .await
            .with_context(|| format!("initializing took longer than {limit:?}"))?
            .context("initializing the session")?;
        Ok(Self {
            service,
            child,
            timeout: limit,
        })
    }

    /// What the server says of itself, and the protocol's version agreed on.
    pub fn server(&self) -> Value {
        let info = self.service.peer_info();
        json!({
            "server": info.as_ref().and_then(|info| info.server_info.clone()),
            "protocolVersion": info.as_ref().map(|info| info.protocol_version.to_string()),
        })
    }

    /// All pages of the server's tools.
    pub async fn tools(&self) -> Result<Vec<Tool>> {
        timeout(self.timeout, self.service.list_all_tools())
            .await
            .with_context(|| format!("listing the tools took longer than {:?}", self.timeout))?
            .map_err(fault::request)
            .context("listing the tools")
    }

    /// Sends a call out, to be answered within the time limit.
    pub async fn begin(
        &self,
        tool: &str,
        arguments: JsonObject,
    ) -> Result<RequestHandle<RoleClient>> {
        let params = CallToolRequestParams::new(tool.to_owned()).with_arguments(arguments);
        let request = ClientRequest::CallToolRequest(CallToolRequest::new(params));
        let options = PeerRequestOptions::with_timeout(self.timeout);
        self.service
            .send_cancellable_request(request, options)
            .await
            .map_err(fault::request)
            .with_context(|| format!("calling {tool}"))
    }

    /// Done when the server has reported progress.
    pub async fn progress(&self) {
        self.service.service().progress.notified().await;
    }

    /// Calls a tool.
    pub async fn call(&self, tool: &str, arguments: JsonObject) -> Result<CallToolResult> {
        result(tool, self.begin(tool, arguments).await?).await
    }

    /// Ends the session; a program that was started for it has to end well.
    pub async fn close(self) -> Result<()> {
        self.service.cancel().await.context("ending the session")?;
        let Some(mut child) = self.child else {
            return Ok(());
        };
        let status = timeout(LEAVING, child.wait())
            .await
            .with_context(|| format!("the server did not end within {LEAVING:?} of its input"))?
            .context("waiting for the server's end")?;
        ensure!(status.success(), "the server ended with {status}");
        Ok(())
    }
}

/// The answer to a call that [`Session::begin`] sent out.
pub async fn result(tool: &str, call: RequestHandle<RoleClient>) -> Result<CallToolResult> {
    let answer = call
        .await_response()
        .await
        .map_err(fault::request)
        .with_context(|| format!("calling {tool}"))?;
    match answer {
        ServerResult::CallToolResult(result) => Ok(result),
        other => bail!("calling {tool}: not a tool's result: {other:?}"),
    }
}

async fn http(url: &Url, reinitialize: bool) -> Result<RunningService<RoleClient, Handler>> {
    let client = reqwest::Client::builder()
        // What is in a cluster is not behind a proxy.
        .no_proxy()
        // A connection kept for later may be one that the server has begun to close.
        .pool_max_idle_per_host(0)
        .build()
        .context("making the HTTP client")?;
    let config = StreamableHttpClientTransportConfig::with_uri(url.as_str())
        .reinit_on_expired_session(reinitialize);
    let transport = StreamableHttpClientTransport::with_client(client, config);
    Handler::default()
        .serve(transport)
        .await
        .map_err(fault::initialize)
        .with_context(|| url.to_string())
}

async fn stdio(command: &[String]) -> Result<(RunningService<RoleClient, Handler>, Child)> {
    let text = command.join(" ");
    let (program, arguments) = command.split_first().context("no program")?;
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("starting {text}"))?;
    let output = child.stdout.take().context("no standard output")?;
    let input = child.stdin.take().context("no standard input")?;
    let service = Handler::default()
        .serve((output, input))
        .await
        .with_context(|| text)?;
    Ok((service, child))
}
