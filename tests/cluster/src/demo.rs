//! The demo: the whole operator shown working on a cluster of its own.

/// What the demo can be told on the command line.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the demo.
#[allow(
    clippy::unused_async,
    reason = "the demo that comes here waits for a cluster"
)]
pub async fn run(_args: Args) -> anyhow::Result<()> {
    anyhow::bail!("the demo is not part of this build")
}
