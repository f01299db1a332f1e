//! What docs/gitops.md claims: tools that apply again and again see no difference, and know how a server does.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use cluster::eventually;
use cluster::oracles::{Oracle, ask};
use kube::api::DeleteParams;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::setup::{SOON, Space};
use crate::status::with_state;

const HEALTH: &str = include_str!("../../config/gitops/argocd-health.lua");
const SETTINGS: &str = include_str!("../../config/gitops/argocd-cm.yaml");
const FLUX: &str = include_str!("../../config/gitops/flux.yaml");

fn samples() -> Result<Vec<PathBuf>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/samples/valid");
    let files = std::fs::read_dir(folder)?.map(|entry| anyhow::Ok(entry?.path()));
    files.collect()
}

/// The resourceVersion of every server of the namespace.
async fn versions(space: &Space) -> Result<BTreeMap<String, String>> {
    let servers = space.servers().list(&Default::default()).await?;
    let versions = servers.into_iter().map(|server| {
        let metadata = server.metadata;
        Some((metadata.name?, metadata.resource_version?))
    });
    versions
        .collect::<Option<_>>()
        .context("a server without name or version")
}

/// Waits until two looks in a row find the servers as they were.
async fn settled(space: &Space) -> Result<BTreeMap<String, String>> {
    let last = std::sync::Mutex::new(BTreeMap::new());
    eventually("nothing is written any more", SOON, || async {
        let now = versions(space).await?;
        let before = std::mem::replace(&mut *last.lock().expect("nobody panics"), now.clone());
        Ok((now == before).then_some(now))
    })
    .await
}

/// Applies all samples twice in this way. Nothing is written the second time, and `diff` finds nothing.
async fn applied_twice(name: &str, more: &[&str]) -> Result<()> {
    let space = Space::new(name).await;
    let apply = async |verb: &str, file: &Path| {
        let file = file.display().to_string();
        let mut arguments = vec![verb];
        arguments.extend(more);
        arguments.extend(["-f", &file]);
        space.kubectl(&arguments, "").await
    };
    for file in samples()? {
        let (taken, _, words) = apply("apply", &file).await;
        ensure!(taken, "{}: {words}", file.display());
    }
    for server in space.servers().list(&Default::default()).await? {
        space.until_ready(&crate::setup::name_of(&server)).await;
    }
    // The sample with an autoscaler is scaled to its minimum, when the controller of autoscalers comes by.
    space
        .until("autoscaling", "has two replicas", |server| {
            server.spec.replicas == 2
        })
        .await;
    space.until_ready("autoscaling").await;
    let before = settled(&space).await?;
    ensure!(before.len() > 10, "{before:?}");
    for file in samples()? {
        let (same, difference, words) = apply("diff", &file).await;
        ensure!(same, "{}: {difference}{words}", file.display());
        let (taken, _, words) = apply("apply", &file).await;
        ensure!(taken, "{}: {words}", file.display());
    }
    let after = settled(&space).await?;
    assert_eq!(before, after, "the second apply wrote something");
    Ok(())
}

#[tokio::test]
async fn a_second_client_side_apply_changes_nothing() -> Result<()> {
    applied_twice("gitops-client", &[]).await
}

#[tokio::test]
async fn a_second_server_side_apply_changes_nothing() -> Result<()> {
    applied_twice("gitops-server", &["--server-side"]).await
}

/// An autoscaler, or somebody with `kubectl scale`, sets what the manifest leaves out.
#[tokio::test]
async fn replicas_that_are_left_out_stay_the_autoscalers() -> Result<()> {
    let space = Space::new("gitops-replicas").await;
    for (name, more) in [
        ("client", &["apply", "-f", "-"][..]),
        ("server", &["apply", "--server-side", "-f", "-"]),
    ] {
        let manifest = json!({"apiVersion": "mcp.example.com/v1alpha1", "kind": "MCPServer",
            "metadata": {"name": name}, "spec": {"image": "example.com/a:1", "health": {"type": "TCP"}}});
        let manifest = manifest.to_string();
        let (taken, _, words) = space.kubectl(more, &manifest).await;
        ensure!(taken, "{words}");
        let scale = ["scale", "mcps", name, "--replicas", "3"];
        let (scaled, _, words) = space.kubectl(&scale, "").await;
        ensure!(scaled, "{words}");
        let (taken, _, words) = space.kubectl(more, &manifest).await;
        ensure!(taken, "{words}");
        let server = space.servers().get(name).await?;
        assert_eq!(server.spec.replicas, 3, "{name}");
    }
    Ok(())
}

#[derive(Debug, Deserialize, PartialEq)]
struct Health {
    status: String,
    message: String,
}

/// Servers in each state, as they are stored, and what Argo CD and Flux are to make of each.
async fn states() -> Result<Vec<(Value, &'static str, &'static str)>> {
    let space = Space::new("gitops-health").await;
    let invalid =
        json!({"image": "x:1", "podTemplate": {"spec": {"nodeSelector": {"no such key!": "x"}}}});
    let table = [
        ("ready", json!({"image": "x:1"}), "Healthy", "Current"),
        (
            "zero",
            json!({"image": "x:1", "replicas": 0}),
            "Healthy",
            "Current",
        ),
        (
            "stuck",
            with_state("not-ready", json!({})),
            "Progressing",
            "InProgress",
        ),
        ("invalid", invalid, "Degraded", "Failed"),
    ];
    let mut states = Vec::new();
    for (name, spec, argo, flux) in table {
        space.create(name, spec).await?;
        let reason = match name {
            "ready" => "MCPServerReady",
            "zero" => "ScaledToZero",
            "stuck" => "MCPServerNotReady",
            _ => "ConfigurationInvalid",
        };
        let server = space.until_reason(name, "Ready", reason).await;
        let mut object = serde_json::to_value(server)?;
        states.push((object.clone(), argo, flux));
        // Somebody has changed the spec since.
        object["metadata"]["generation"] = json!(99);
        states.push((object.clone(), "Progressing", "InProgress"));
        object["metadata"]["generation"] = json!(1);
        object["status"] = json!({"observedGeneration": -1});
        states.push((object, "Progressing", "InProgress"));
        space
            .servers()
            .delete(name, &DeleteParams::default())
            .await?;
    }
    Ok(states)
}

#[tokio::test]
async fn argo_cd_and_flux_see_what_is() -> Result<()> {
    let settings: Value = serde_saphyr::from_str(SETTINGS)?;
    let script = &settings["data"]["resource.customizations.health.mcp.example.com_MCPServer"];
    assert_eq!(
        script.as_str(),
        Some(HEALTH),
        "argocd-cm.yaml has argocd-health.lua"
    );
    let flux: Value = serde_saphyr::from_str(FLUX)?;
    let expressions = &flux["spec"]["healthCheckExprs"][0];
    ensure!(expressions["kind"] == "MCPServer", "{expressions}");

    let states = states().await?;
    let asked: Vec<_> = states
        .iter()
        .map(|(object, ..)| json!({"script": HEALTH, "object": object}))
        .collect();
    let told = ask::<_, Health>(Oracle::Argo, &asked).await?;
    for ((object, expected, _), told) in states.iter().zip(told) {
        let health = told.map_err(anyhow::Error::msg)?;
        assert_eq!(&health.status, expected, "{}: {object}", health.message);
        ensure!(!health.message.is_empty(), "{object}");
    }
    let asked: Vec<_> = states
        .iter()
        .map(|(object, ..)| json!({"expressions": expressions, "object": object}))
        .collect();
    let told = ask::<_, String>(Oracle::Flux, &asked).await?;
    for ((object, _, expected), told) in states.iter().zip(told) {
        let status = told.map_err(anyhow::Error::msg)?;
        assert_eq!(&status, expected, "{object}");
    }
    Ok(())
}

/// What Stakater's Reloader goes by, and does: it finds its annotation on the Deployment, and changes the pod template.
#[tokio::test]
async fn a_secret_that_changed_rolls_the_pods_by_reloader() -> Result<()> {
    use k8s_openapi::api::apps::v1::Deployment;
    let space = Space::new("gitops-reloader").await;
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/samples/valid/secret.yaml");
    let file = file.display().to_string();
    let (taken, _, words) = space.kubectl(&["apply", "-f", &file], "").await;
    ensure!(taken, "{words}");
    space.until_ready("secret").await;
    let deployments = space.api::<Deployment>();
    let deployment = deployments.get("secret").await?;
    let annotations = deployment.metadata.annotations.unwrap_or_default();
    let auto = annotations.get("reloader.stakater.com/auto");
    assert_eq!(auto.map(String::as_str), Some("true"));
    // Reloader's strategy "annotations"; its other one sets a variable of the container.
    let patches = [
        json!({"spec": {"template": {"metadata": {"annotations": {
            "reloader.stakater.com/last-reloaded-from": "{\"type\":\"SECRET\",\"name\":\"search-api\"}"}}}}}),
        json!({"spec": {"template": {"spec": {"containers": [{"name": "mcp-server",
            "env": [{"name": "STAKATER_SEARCH_API_SECRET", "value": "5d3f"}]}]}}}}),
    ];
    for (count, patch) in patches.iter().enumerate() {
        let (patched, _, words) = space
            .kubectl(
                &["patch", "deployment", "secret", "-p", &patch.to_string()],
                "",
            )
            .await;
        ensure!(patched, "{words}");
        eventually("the pods are rolled, and the mark stays", SOON, || async {
            let deployment = deployments.get("secret").await?;
            let text = serde_json::to_string(&deployment.spec)?;
            let marks = ["last-reloaded-from", "STAKATER_SEARCH_API_SECRET"];
            ensure!(
                marks.iter().take(count + 1).all(|mark| text.contains(mark)),
                "{text}"
            );
            let status = deployment.status.unwrap_or_default();
            let done = status.observed_generation == deployment.metadata.generation
                && status.updated_replicas == Some(1)
                && status.replicas == Some(1)
                && status.ready_replicas == Some(1);
            ensure!(done, "{status:?}");
            Ok(Some(()))
        })
        .await?;
        settled(&space).await?;
        let text = serde_json::to_string(&deployments.get("secret").await?)?;
        ensure!(text.contains("last-reloaded-from"), "put back: {text}");
    }
    Ok(())
}

/// Argo CD's and Flux' own kinds take the manifests that are there for them.
#[tokio::test]
async fn the_tools_take_what_is_there_for_them() -> Result<()> {
    let space = Space::new("gitops-tools").await;
    let kinds = cluster::tools::build(&cluster::tools::KINDS).await?;
    for kind in [
        "argo-cd/application-crd.yaml",
        "flux/kustomize.toolkit.fluxcd.io_kustomizations.yaml",
    ] {
        let file = kinds.join(kind).display().to_string();
        let (taken, _, words) = space
            .kubectl(&["apply", "--server-side", "-f", &file], "")
            .await;
        ensure!(taken, "{words}");
    }
    for (file, namespace) in [
        ("argocd-application.yaml", "argocd"),
        ("argocd-cm.yaml", "argocd"),
        ("flux.yaml", "flux-system"),
    ] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/gitops");
        let text = std::fs::read_to_string(path.join(file))?;
        let text = text.replace(
            &format!("namespace: {namespace}\n"),
            &format!("namespace: {}\n", space.namespace),
        );
        let dry = ["create", "--dry-run=server", "--validate=strict", "-f", "-"];
        eventually(file, SOON, || async {
            let (taken, _, words) = space.kubectl(&dry, &text).await;
            ensure!(taken, "{words}");
            Ok(Some(()))
        })
        .await?;
    }
    Ok(())
}
