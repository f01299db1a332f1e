//! Arguments in, an exit code out.

use std::process::ExitCode;

use clap::Parser;
use mcp_operator::cli::{Cli, Command, RunArgs, WebhooksArgs};
use mcp_operator::manifests::{self, Reach};
use mcp_operator::{check, offline, operator, telemetry};

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Run(args) => run(*args),
        Command::Check(args) => block_on(check::run(args)),
        Command::Crd => manifests::crd().map(print),
        Command::Webhooks(args) => webhooks(args).map(print),
        Command::Validate { files } => return offline::run(&files),
    };
    if let Err(error) = done {
        eprintln!("mcp-operator: {error:#}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn run(args: RunArgs) -> anyhow::Result<()> {
    telemetry::init(args.log_format, &args.log)?;
    block_on(operator::run(args))
}

fn block_on(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(work)
}

fn webhooks(args: WebhooksArgs) -> anyhow::Result<String> {
    let reach = match (args.url, args.service) {
        (Some(url), _) => Reach::Url(url),
        (None, Some((namespace, name))) => Reach::Service { namespace, name },
        (None, None) => anyhow::bail!("--url or --service is needed"),
    };
    manifests::webhooks(&reach, &args.name)
}

#[allow(clippy::needless_pass_by_value, reason = "the end of a chain")]
fn print(text: String) {
    print!("{text}");
}
