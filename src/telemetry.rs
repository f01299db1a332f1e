//! Logs: structured, as text or JSON, on standard error.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::cli::LogFormat;

/// What keeps the contents of objects out of the log.
const SECRETS: &str = "kube_client::client=error";

/// Starts logging. An error when the filter cannot be read.
pub fn init(format: LogFormat, filter: &str) -> anyhow::Result<()> {
    let read = EnvFilter::try_new(filter).and_then(|filter| {
        // At this level the client prints the whole answer that it cannot decode, which may be secret.
        Ok(filter.add_directive(SECRETS.parse()?))
    });
    let filter = read.map_err(|error| {
        anyhow::anyhow!(
            "--log {filter:?} is no filter: {error}; examples: info, mcp_operator=debug"
        )
    })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match format {
        LogFormat::Text => builder.with_target(false).init(),
        LogFormat::Json => builder
            .json()
            .flatten_event(true)
            .with_span_list(false)
            .init(),
    }
    Ok(())
}
