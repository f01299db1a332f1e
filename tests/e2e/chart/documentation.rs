//! What README and the chart's notes tell to do.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{chart, helm, shared};

const README: &str = include_str!("../../../README.md");
const INSTALLING: &str = include_str!("../../../docs/installing.md");

/// The commands of a page that begin like this, each as its words.
fn commands(page: &str, begin: &str) -> Vec<Vec<String>> {
    let joined = page.replace("\\\n", " ");
    let lines = joined.lines().filter_map(|line| line.strip_prefix("    "));
    lines
        .filter(|line| line.starts_with(begin))
        .map(|line| line.split_whitespace().map(str::to_owned).collect())
        .collect()
}

/// What helm renders and tells for a command, without a cluster.
async fn dry_run(command: &[String]) -> Result<String> {
    let chart = chart().display().to_string();
    let words = command.iter().skip(1).map(|word| match &**word {
        "charts/mcp-operator" => &*chart,
        word => word,
    });
    let arguments: Vec<_> = words.chain(["--dry-run=client"]).collect();
    helm(shared().await, &arguments).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_image_that_is_installed_was_built_before() -> Result<()> {
    ensure!(README.lines().count() < 150, "README is too long");
    // In README for kind, then for a registry.
    for (page, count) in [(README, 2), (INSTALLING, 1)] {
        let builds = commands(page, "docker build ");
        let installs = commands(page, "helm install");
        assert!(
            builds.len() == count && installs.len() >= count,
            "{builds:?} {installs:?}"
        );
        for (build, install) in builds.iter().zip(&installs) {
            let tag = build.iter().position(|word| word == "--tag");
            let image = &build[tag.context("no tag")? + 1];
            let text = dry_run(install).await?;
            assert!(
                text.contains(&format!("image: {image}\n")),
                "{install:?}: {text}"
            );
            assert!(!text.contains("placeholder"), "{install:?}: {text}");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_notes_have_the_readmes_first_server() -> Result<()> {
    let (_, after) = README.split_once("```yaml\n").context("no YAML")?;
    let (theirs, _) = after.split_once("```").context("no end")?;
    let theirs: Value = serde_saphyr::from_str(theirs)?;
    assert_eq!(theirs["kind"], "MCPServer");
    for (more, namespace) in [
        ("", "default"),
        ("--set=watch.namespaces={team-a,team-b}", "team-a"),
    ] {
        let install = format!("helm install mcp-operator charts/mcp-operator --namespace a {more}");
        let install: Vec<_> = install.split_whitespace().map(str::to_owned).collect();
        let text = dry_run(&install).await?;
        let (_, notes) = text.split_once("\nNOTES:\n").context("no notes")?;
        assert!(notes.contains("placeholder"), "{notes}");
        let (_, ours) = notes.split_once("<<EOF\n").context("no server")?;
        // A shell takes nothing else for the end.
        let (ours, _) = ours.split_once("\nEOF\n").context("it does not end")?;
        let ours: Value = serde_saphyr::from_str(ours)?;
        assert_eq!(ours["spec"], theirs["spec"]);
        assert_eq!(ours["apiVersion"], theirs["apiVersion"]);
        assert_eq!(ours["metadata"]["namespace"], namespace);
    }
    Ok(())
}
