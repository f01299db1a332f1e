//! The demo: the whole operator shown working on a cluster of its own.
//!
//! Every line that begins with `$` is run as it stands there, and what follows is what it printed.
//! A step that does not show what it should ends the demo with an error.

mod build;
mod defaults;
mod deletion;
mod install;
mod invalid;
mod kubectl;
mod real;
mod samples;
mod scaling;
mod screen;
mod shell;
mod stage;
mod valid;

use std::time::Duration;

use anyhow::{Result, bail};

use crate::signals::Signals;
use screen::{Screen, say};
use stage::Stage;

/// How long anything may take on a machine busy with other things.
const LIMIT: Duration = Duration::from_mins(1);

/// What the demo can be told on the command line.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// On a real node: the operator installed by Helm from its image, and MCP servers in containers.
    /// Needs root on Linux, buildah and Node.js, and says what is missing
    #[arg(long)]
    node: bool,
    /// Leave the cluster and the operator running at the end, until Ctrl-C
    #[arg(long)]
    keep: bool,
}

/// Runs the demo. An error says which step did not show what it should.
pub async fn run(args: Args) -> Result<()> {
    if args.node {
        // It is much larger than all else that runs here.
        return Box::pin(real::run(args.keep)).await;
    }
    let mut signals = Signals::new()?;
    let mut screen = Screen::new(9);
    say("The operator at work, on a Kubernetes of its own; no other cluster is touched.");
    let shown = tokio::select! {
        shown = show(&mut screen) => shown,
        () = signals.any() => {
            bail!("interrupted; all that had been started is stopped and removed")
        }
    };
    let (stage, summary) = shown.map_err(|error| error.context(screen.failed()))?;
    if args.keep {
        stage.say_how_to_reach();
        tokio::select! {
            () = signals.any() => {}
            error = stage.died() => return Err(error),
        }
    }
    stop(&mut screen, stage)
        .await
        .map_err(|error| error.context(screen.failed()))?;
    screen.summary(&summary);
    Ok(())
}

/// Everything up to the stop. The summary is a word and a sentence a line.
async fn show(screen: &mut Screen) -> Result<(Stage, Vec<(&'static str, String)>)> {
    screen.step("Build the operator and a cluster's tools");
    let program = build::everything().await?;
    screen.done();

    screen.step("Start a Kubernetes: etcd, kube-apiserver, kube-controller-manager, a fake node");
    let cluster = install::cluster(&program).await?;
    screen.done();

    screen.step("Install the operator, with its webhooks");
    let stage = Stage::start(cluster, program)?;
    let summary = tokio::select! {
        biased;
        // It says itself what was in the log.
        error = stage.died() => Err(error),
        shown = with_operator(screen, &stage) => shown.inspect_err(|_| stage.show_log()),
    }?;
    Ok((stage, summary))
}

async fn with_operator(screen: &mut Screen, stage: &Stage) -> Result<Vec<(&'static str, String)>> {
    install::operator(stage).await?;
    screen.done();

    screen.step("Apply the valid samples");
    let accepted = valid::apply(stage).await?;
    screen.done();

    screen.step("Look at a default: requests that a user leaves out");
    defaults::show(stage).await?;
    screen.done();

    screen.step("Apply the invalid samples");
    let refused = invalid::apply(stage).await?;
    screen.done();

    screen.step("Scale");
    let scaled = scaling::show(stage).await?;
    screen.done();

    screen.step("Delete everything");
    let deleted = deletion::show(stage).await?;
    screen.done();
    Ok(vec![
        ("accepted", accepted),
        ("refused", refused),
        ("scaled", scaled),
        ("deleted", deleted),
    ])
}

async fn stop(screen: &mut Screen, stage: Stage) -> Result<()> {
    screen.step("Stop the operator and the cluster");
    stage.stop().await?;
    screen.done();
    Ok(())
}
