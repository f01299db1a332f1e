//! A running operator.

use std::net::{Ipv4Addr, TcpListener};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use cluster::process::Process;
use cluster::{Cluster, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::install::{OWN, USER};
use crate::program::Program;

/// How long it may take to start or to end on a busy machine.
const LIMIT: Duration = Duration::from_mins(3);

/// An operator in a cluster.
#[derive(Debug)]
pub(crate) struct Operator {
    process: Process,
    /// Of the webhooks.
    port: u16,
    /// Of health and metrics.
    http: u16,
}

impl Operator {
    /// Starts one with the arguments of the chart, and does not wait. `port` is that of its webhooks.
    pub(crate) fn start(
        cluster: &Cluster,
        program: &Program,
        name: &str,
        port: u16,
    ) -> Result<Self> {
        let http = free_port()?;
        let mut command = program.command();
        command
            // As the chart has it.
            .env("MALLOC_MMAP_THRESHOLD_", "262144")
            .args(["run", "--namespace", OWN, "--leader-elect"])
            .args(["--drain-seconds", "0", "--log-format", "json"])
            .arg("--kubeconfig")
            .arg(cluster.kubeconfig_for(USER, &[])?)
            .arg("--webhook-address")
            .arg(format!("127.0.0.1:{port}"))
            .arg("--http-address")
            .arg(format!("127.0.0.1:{http}"));
        Ok(Self {
            process: cluster.start_process(name, command)?,
            port,
            http,
        })
    }

    /// Waits until its webhooks are called and answer.
    pub(crate) async fn until_ready(&self) -> Result<()> {
        eventually("the operator is ready", LIMIT, || async {
            self.process.alive()?;
            let answer = get(self.http, "/readyz").await?;
            ensure!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            Ok(Some(()))
        })
        .await
    }

    /// Ends it as a rollout does, and waits.
    pub(crate) async fn end(self) -> Result<()> {
        self.process.signal("TERM")?;
        eventually("the operator ends", LIMIT, || async {
            match self.process.success() {
                Some(true) => Ok(Some(())),
                Some(false) => bail!("{:?}", self.process.end()),
                None => Ok(None),
            }
        })
        .await
    }

    /// Its process.
    pub(crate) fn process(&self) -> &Process {
        &self.process
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// The port of its webhooks.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }
}

/// A port that is free now.
pub(crate) fn free_port() -> Result<u16> {
    let listener =
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("looking for a free port")?;
    let address = listener.local_addr();
    Ok(address.context("looking for a free port")?.port())
}

/// The answer to a plain request.
async fn get(port: u16, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
