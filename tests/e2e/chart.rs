//! The Helm chart: what it renders, what it refuses, and its life in a cluster, with real Helm.

mod access;
mod cert_manager;
mod documentation;
mod helm_3;
mod life;
mod made;
mod metrics;
mod nulls;
mod refusals;
mod release;
mod rendering;

use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cluster::Cluster;
use serde_json::Value;

use crate::setup;

/// Name of the release in tests: the one that README tells.
pub const RELEASE: &str = "mcp-operator";
/// No step of Helm may take longer.
const LIMIT: Duration = Duration::from_mins(10);

/// The chart's folder.
pub fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("charts/mcp-operator")
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The cluster that tests share which change nothing in it.
async fn shared() -> &'static Cluster {
    tokio::task::spawn_blocking(setup::shared)
        .await
        .expect("setting up")
        .cluster
}

/// Runs helm, whatever comes of it.
pub async fn run_helm(cluster: &Cluster, arguments: &[&str]) -> Result<Output> {
    let mut command = tokio::process::Command::from(cluster.helm_command().await?);
    command.args(arguments).kill_on_drop(true);
    let output = tokio::time::timeout(LIMIT, command.output()).await;
    let output = output.with_context(|| format!("helm {arguments:?} took too long"))?;
    Ok(output?)
}

/// What helm prints; an error with its words when it fails.
pub async fn helm(cluster: &Cluster, arguments: &[&str]) -> Result<String> {
    let output = run_helm(cluster, arguments).await?;
    let words = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "helm {arguments:?}: {words}");
    Ok(String::from_utf8(output.stdout)?)
}

/// The chart rendered with these values (YAML), as helm installs it into this namespace.
async fn render(cluster: &Cluster, namespace: &str, values: &str) -> Result<String> {
    let file = values_file(values)?;
    let (chart, file) = (chart(), file.path());
    let (chart, file) = (chart.display().to_string(), file.display().to_string());
    let arguments = ["template", RELEASE, &chart, "-n", namespace, "-f", &file];
    helm(cluster, &arguments).await
}

/// The same, as objects.
async fn objects(cluster: &Cluster, namespace: &str, values: &str) -> Result<Vec<Value>> {
    let objects: Vec<Value> =
        serde_saphyr::from_multiple(&render(cluster, namespace, values).await?)?;
    Ok(objects
        .into_iter()
        .filter(|object| !object.is_null())
        .collect())
}

pub fn values_file(values: &str) -> Result<tempfile::NamedTempFile> {
    let file = tempfile::NamedTempFile::with_suffix(".yaml")?;
    std::fs::write(file.path(), values)?;
    Ok(file)
}

/// The object of this kind and name.
fn find<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    of_kind(objects, kind)
        .find(|object| object["metadata"]["name"] == name)
        .unwrap_or_else(|| panic!("no {kind} {name}"))
}

fn of_kind<'a>(objects: &'a [Value], kind: &str) -> impl Iterator<Item = &'a Value> {
    objects.iter().filter(move |object| object["kind"] == kind)
}
