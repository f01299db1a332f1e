//! The demo on a real node: the operator installed as users do, MCP servers in containers, and
//! clients that call them.

mod at_work;
mod build;
mod calls;
mod configuring;
mod deletion;
mod install;
mod memory;
mod needs;
mod refusal;
mod scaling;
mod servers;
mod stage;
mod uninstall;

use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::screen::{Screen, note, say};
use crate::node::Node;
use crate::signals::Signals;
use build::Built;
use stage::Stage;

/// How long anything may take on a machine busy with other things.
const LIMIT: Duration = Duration::from_mins(3);
/// The same, for `kubectl wait`.
const TIMEOUT: &str = "--timeout=180s";

type Summary = Vec<(&'static str, String)>;

/// Runs the demo. An error says which step did not show what it should.
pub(super) async fn run(keep: bool) -> Result<()> {
    needs::check().await?;
    let mut signals = Signals::new()?;
    let mut screen = Screen::new(12);
    say("The operator on a real node, in namespaces of its own; no other cluster is touched.");
    let shown = tokio::select! {
        shown = show(&mut screen) => shown,
        () = signals.any() => {
            bail!("interrupted; all that had been started is stopped and removed")
        }
    };
    let (stage, summary) = shown.map_err(|error| error.context(screen.failed()))?;
    if keep {
        stage.say_how_to_reach();
        tokio::select! {
            () = signals.any() => {}
            error = stage.cluster.died() => return Err(error),
        }
    }
    stop(&mut screen, stage)
        .await
        .map_err(|error| error.context(screen.failed()))?;
    screen.summary(&summary);
    Ok(())
}

/// Everything up to the stop. The summary is a word and a sentence a line.
async fn show(screen: &mut Screen) -> Result<(Stage, Summary)> {
    screen.step("Build the operator's image, other images, and a cluster's tools");
    let built = build::everything().await?;
    screen.done();

    screen.step("Start a Kubernetes with a real node: containerd, kubelet, kube-proxy, CoreDNS");
    let stage = Stage::start(&built).await?;
    screen.done();

    let summary = tokio::select! {
        biased;
        error = stage.cluster.died() => Err(error),
        shown = on_the_node(screen, &stage, &built) => shown,
    };
    let Err(error) = summary else {
        return Ok((stage, summary?));
    };
    stage.show_trouble().await;
    Err(error)
}

async fn on_the_node(screen: &mut Screen, stage: &Stage, built: &Built) -> Result<Summary> {
    let mut summary = vec![("image", built.told())];

    screen.step("Install the operator with Helm, as its chart has it");
    summary.push(("installed", install::operator(stage).await?));
    let idle = memory::of_leader(stage, 0).await?;
    screen.done();

    screen.step("Try a server that cannot be");
    refusal::show(stage).await?;
    screen.done();

    screen.step("Apply three servers");
    summary.push(("servers", servers::apply(stage).await?));
    screen.done();

    screen.step("Call their tools");
    summary.push(("called", calls::show(stage).await?));
    screen.done();

    screen.step("Scale");
    summary.push(("scaled", scaling::show(stage).await?));
    screen.done();

    screen.step("Change the configuration");
    summary.push(("config", configuring::show(stage).await?));
    screen.done();

    screen.step("Delete a server while a call is in flight");
    summary.push(("deleted", deletion::show(stage).await?));
    screen.done();

    screen.step("Look at the operator with 35 servers");
    at_work::make(stage).await?;
    let busy = memory::of_leader(stage, at_work::SERVERS).await?;
    summary.push(("memory", format!("the operator that leads: {idle}; {busy}")));
    screen.done();

    screen.step("Delete everything and uninstall");
    summary.push(("removed", uninstall::show(stage).await?));
    screen.done();
    Ok(summary)
}

/// Ends everything, and looks whether it is gone.
async fn stop(screen: &mut Screen, stage: Stage) -> Result<()> {
    screen.step("Stop the cluster");
    let folder = stage.cluster.folder().to_owned();
    let name = Node::name(&folder)?;
    stage.cluster.stop().await?;
    let left = stage::left_of(&folder, &name);
    if !left.is_empty() {
        bail!("still there: {}", left.join(", "));
    }
    note(format!(
        "ended; neither the folder {} nor the network interface and the cgroups {name} are left",
        folder.display()
    ));
    screen.done();
    Ok(())
}

/// The one line of JSON that the MCP client prints for a command, or its last.
fn json(printed: &str) -> Result<serde_json::Value> {
    let line = printed.lines().last().unwrap_or_default();
    serde_json::from_str(line).with_context(|| format!("the client printed no JSON: {line:?}"))
}
