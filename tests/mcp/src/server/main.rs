//! The program `mcp-server`: a small real MCP server that behaves as the operator expects of one.
//!
//! It is set up by the environment that the operator gives to its containers, serves streamable HTTP
//! or stdio, and at SIGTERM ends when the calls in flight have been answered.

#![forbid(unsafe_code)]

mod http;
mod stdio;
mod tools;

use std::io::IsTerminal;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use mcp_test::duration;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use tools::Tools;

/// A small MCP server; its settings are the environment that the operator gives to a container
#[derive(Parser)]
#[command(version)]
struct Settings {
    /// How clients speak to it
    #[arg(long, env = "MCP_TRANSPORT", default_value = "streamable-http")]
    transport: Transport,
    /// Port of the network transports; 0 takes a free one, the log says which
    #[arg(long, env = "MCP_PORT", default_value_t = 8080)]
    port: u16,
    /// Address of the network transports
    #[arg(long, env = "MCP_ADDRESS", default_value = "0.0.0.0")]
    address: IpAddr,
    /// How long the network transports still listen after SIGTERM with no call in flight, as 2s.
    /// The Service learns at the same moment that this pod leaves, and nothing tells the pod when
    /// every node has heard of it
    #[arg(long, env = "MCP_LINGER", default_value = "250ms", value_parser = duration)]
    linger: Duration,
    /// What it calls itself to clients
    #[arg(long, env = "MCP_SERVER_NAME", default_value = "mcp-server")]
    name: String,
    /// What the tool `whoami` answers
    #[arg(long, env = "POD_NAME")]
    pod_name: Option<String>,
    /// What the tool `config` shows, read anew at each call
    #[arg(long, env = "MCP_CONFIG_FILE")]
    config_file: Option<PathBuf>,
}

/// The values of `spec.transport`. MCP has one transport over HTTP: the two differ in that `http` has no
/// sessions, as its Service sends a client's requests to any pod.
#[derive(Clone, Copy, ValueEnum)]
enum Transport {
    Stdio,
    Http,
    StreamableHttp,
}

fn main() -> ExitCode {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    // Standard output belongs to the protocol.
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    match start(Settings::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(settings: Settings) -> Result<()> {
    let runtime = Runtime::new().context("starting the runtime")?;
    let ended = runtime.block_on(run(settings));
    // A read of standard input cannot be called off: waiting for it would last until the client
    // closes its end, and a pod's standard input stays open.
    runtime.shutdown_background();
    ended
}

async fn run(settings: Settings) -> Result<()> {
    // From here on SIGTERM does not end this process by itself, which as PID 1 it would not anyway.
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let stop = async move {
        terminate.recv().await;
        tracing::info!("SIGTERM: ending when no call is in flight");
    };
    let tools = Tools::new(settings.name, settings.pod_name, settings.config_file);
    match settings.transport {
        Transport::Stdio => stdio::serve(tools, stop).await?,
        transport @ (Transport::Http | Transport::StreamableHttp) => {
            let address = SocketAddr::new(settings.address, settings.port);
            let listener = TcpListener::bind(address)
                .await
                .with_context(|| format!("listening on {address} (MCP_ADDRESS, MCP_PORT)"))?;
            let bound = listener.local_addr().context("reading the bound address")?;
            tracing::info!("listening on {bound}");
            let sessions = matches!(transport, Transport::StreamableHttp);
            http::serve(listener, tools, sessions, stop, settings.linger).await;
        }
    }
    tracing::info!("ended");
    Ok(())
}
