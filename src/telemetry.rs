//! Logs: structured, as text or JSON, on standard error.

use std::io::IsTerminal;

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt, registry};

use crate::cli::LogFormat;

/// At lower levels the client prints a whole answer that it cannot decode, which may be secret.
const SECRETS: (&str, LevelFilter) = ("kube_client::client", LevelFilter::ERROR);

/// Starts logging. An error when the filter cannot be read.
pub fn init(format: LogFormat, filter: &str) -> anyhow::Result<()> {
    let targets = self::filter(filter)?;
    let lines = fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let lines = match format {
        LogFormat::Text => lines.with_target(false).boxed(),
        LogFormat::Json => lines
            .json()
            .flatten_event(true)
            .with_span_list(false)
            .boxed(),
    };
    registry().with(lines.with_filter(targets)).init();
    Ok(())
}

/// Levels by target, such as `info` or `warn,mcp_operator=debug`. Not `EnvFilter`: its regular expressions, for values
/// of fields that nobody filters by, make the program larger.
fn filter(text: &str) -> anyhow::Result<Targets> {
    let targets: Targets = text.parse().map_err(|error| {
        anyhow::anyhow!("--log {text:?} is no filter: {error}; examples: info, mcp_operator=debug")
    })?;
    let (target, level) = SECRETS;
    Ok(targets.with_target(target, level))
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn a_filter_has_levels_by_target_and_never_the_clients_answers() {
        let filter = filter("warn,mcp_operator=debug,kube_client=trace").unwrap();
        assert!(filter.would_enable("mcp_operator::leader", &Level::DEBUG));
        assert!(!filter.would_enable("hyper", &Level::INFO));
        assert!(!filter.would_enable("kube_client::client", &Level::WARN));
        let error = self::filter("mcp_operator=loud").unwrap_err().to_string();
        assert!(
            error.starts_with("--log \"mcp_operator=loud\" is no filter: "),
            "{error}"
        );
    }
}
