//! Starting the two programs and reading what they say.

use std::process::{ExitStatus, Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio::time::timeout;

pub const SERVER: &str = env!("CARGO_BIN_EXE_mcp-server");
pub const CLIENT: &str = env!("CARGO_BIN_EXE_mcp-client");
pub const TOOLS: [&str; 4] = ["config", "echo", "sleep", "whoami"];

/// Longer than anything takes here, also on a busy machine.
pub const LIMIT: Duration = Duration::from_mins(1);

/// A program with an environment of its own, killed when it is dropped.
pub fn command(program: &str, env: &[(&str, &str)]) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .envs(env.iter().copied())
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

/// An MCP server over HTTP on a free port of loopback.
pub struct Server {
    child: Child,
    /// HOST:PORT
    pub address: String,
    log: JoinHandle<Vec<String>>,
}

impl Server {
    pub async fn start(env: &[(&str, &str)]) -> Self {
        let mut child = command(SERVER, env)
            .env("MCP_ADDRESS", "127.0.0.1")
            .env("MCP_PORT", "0")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let address = timeout(LIMIT, async {
            loop {
                let line = lines.next_line().await.unwrap();
                let line = line.expect("the server ended without listening");
                if let Some((_, address)) = line.split_once("listening on ") {
                    break address.to_owned();
                }
            }
        })
        .await
        .unwrap();
        let log = tokio::spawn(async move {
            let mut log = Vec::new();
            while let Ok(Some(line)) = lines.next_line().await {
                log.push(line);
            }
            log
        });
        Self {
            child,
            address,
            log,
        }
    }

    /// As `status.endpoint` has it.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    pub async fn get(&self, path: &str) -> reqwest::Response {
        let url = format!("{}{path}", self.endpoint());
        browser().get(url).send().await.unwrap()
    }

    pub async fn terminate(&self) {
        terminate(&self.child).await;
    }

    /// Waits for the end.
    pub async fn end(mut self) -> (ExitStatus, Vec<String>) {
        let status = timeout(LIMIT, self.child.wait()).await.unwrap().unwrap();
        (status, self.log.await.unwrap())
    }
}

/// A plain HTTP client.
pub fn browser() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().build().unwrap()
}

/// Sends SIGTERM.
pub async fn terminate(child: &Child) {
    let id = child.id().expect("the program still runs").to_string();
    let status = Command::new("sh")
        .args(["-c", r#"kill -s TERM "$1""#, "sh", &id])
        .status()
        .await
        .unwrap();
    assert!(status.success());
}

/// What the client has to say.
pub struct Said {
    pub code: Option<i32>,
    pub lines: Vec<String>,
    pub errors: String,
}

impl Said {
    /// The only line, which is JSON; the exit code has to be this.
    #[track_caller]
    pub fn json(&self, code: i32) -> Value {
        assert_eq!(self.code, Some(code), "{:?} {}", self.lines, self.errors);
        assert_eq!(self.lines.len(), 1, "{:?}", self.lines);
        serde_json::from_str(&self.lines[0]).unwrap()
    }

    /// The text of a tool's result that is no error.
    #[track_caller]
    pub fn text(&self) -> String {
        let result = self.json(0);
        assert_ne!(result["isError"], true, "{result}");
        result["content"][0]["text"].as_str().unwrap().to_owned()
    }

    /// The error, nothing else having been said.
    #[track_caller]
    pub fn error(&self) -> &str {
        assert_eq!(self.code, Some(1), "{:?} {}", self.lines, self.errors);
        assert!(self.lines.is_empty(), "{:?}", self.lines);
        &self.errors
    }
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self {
            code: output.status.code(),
            lines: text(output.stdout).lines().map(str::to_owned).collect(),
            errors: text(output.stderr),
        }
    }
}

/// Runs the client to its end.
pub async fn client(arguments: &[&str]) -> Said {
    client_with(&[], arguments).await
}

/// Runs the client with an environment, which a program it starts inherits.
pub async fn client_with(env: &[(&str, &str)], arguments: &[&str]) -> Said {
    let output = command(CLIENT, env).args(arguments).output();
    timeout(LIMIT, output).await.unwrap().unwrap().into()
}
