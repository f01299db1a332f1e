//! The program `mcp-client`: a real MCP client for scripts and for a pod without a shell.
//!
//! Results go to standard output, one line of JSON each. What fails is told on standard error, and
//! the exit code is 1.

#![forbid(unsafe_code)]

mod calls;
mod fault;
mod many;
mod session;

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use mcp_test::duration;
use rmcp::model::JsonObject;
use tracing_subscriber::EnvFilter;

use session::Target;

/// A client of MCP servers
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Initialize a session and list the server's tools
    Tools {
        #[command(flatten)]
        to: To,
    },
    /// Call a tool and print its result; the exit code is 1 also when the result says error
    Call {
        #[command(flatten)]
        to: To,
        #[command(flatten)]
        call: Calling,
    },
    /// Call the tool `sleep`: print `calling` when the server has begun, then the result and its time
    Hold {
        #[command(flatten)]
        to: To,
        /// How long the call takes
        #[arg(long)]
        seconds: f64,
    },
    /// Call a tool many times: print how many calls were made and failed, and how long they took
    Many {
        #[command(flatten)]
        to: To,
        #[command(flatten)]
        call: Calling,
        /// Calls in all
        #[arg(long)]
        requests: usize,
        /// Sessions that share them, each making one call at a time
        #[arg(long, default_value_t = 1)]
        connections: usize,
        /// Start anew a session that the server does not know any more, as most clients do;
        /// else the call counts as failed
        #[arg(long)]
        reinitialize: bool,
    },
}

#[derive(clap::Args)]
struct To {
    /// http://HOST:PORT[/PATH], without a path /mcp; or `stdio:PROGRAM ARGUMENTS`, split at spaces
    #[arg(value_name = "URL")]
    target: Target,
    /// Limit of each request, as 60s or 1m30s
    #[arg(long, default_value = "60s", value_parser = duration)]
    timeout: Duration,
}

#[derive(clap::Args)]
struct Calling {
    /// The tool's name
    tool: String,
    /// Its arguments, a JSON object
    #[arg(long, default_value = "{}", value_parser = object)]
    arguments: JsonObject,
}

fn object(text: &str) -> Result<JsonObject> {
    serde_json::from_str(text).context("not a JSON object")
}

#[tokio::main]
async fn main() -> ExitCode {
    // A pod's log has both streams: the SDK's own words would stand between the results.
    let quiet = "error,rmcp=off";
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(quiet));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    match run(Cli::parse().command).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether all went well; what did not has then been printed as a result.
async fn run(command: Command) -> Result<bool> {
    match command {
        Command::Tools { to } => calls::tools(&to.target, to.timeout).await,
        Command::Call { to, call } => {
            calls::call(&to.target, call.tool, call.arguments, to.timeout).await
        }
        Command::Hold { to, seconds } => calls::hold(&to.target, seconds, to.timeout).await,
        Command::Many {
            to,
            call,
            requests,
            connections,
            reinitialize,
        } => {
            let load = many::Load {
                tool: call.tool,
                arguments: call.arguments,
                timeout: to.timeout,
                requests,
                sessions: connections,
                reinitialize,
            };
            many::run(&to.target, load).await
        }
    }
}
