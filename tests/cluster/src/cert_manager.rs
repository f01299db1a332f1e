//! Real cert-manager for a cluster.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Client;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, Patch, PatchParams};
use kube::core::GroupVersionKind;
use serde_json::json;

use crate::control_plane::{Cluster, FIELD_MANAGER, MASTERS, create_kind, wait_for};
use crate::process::Process;
use crate::tools;

/// The namespace it takes `ClusterIssuer`s' Secrets from, and the user of its requests.
const NAME: &str = "cert-manager";
/// An issuer that is made to see whether issuers are looked after.
const PROBE: &str = "probe";

impl Cluster {
    /// Installs cert-manager's kinds and starts its own controllers, for CA and self-signed
    /// issuers, with its CA injector; built when first asked for. Its admission webhook, which
    /// refuses bad Certificates, is not there.
    ///
    /// Returns when an Issuer becomes ready. The user of its requests is `cert-manager`; the
    /// Secrets of `ClusterIssuer`s are those of namespace `cert-manager`. Its output is in
    /// `cert-manager.log` of the cluster's folder.
    pub async fn start_cert_manager(&self) -> Result<Process> {
        let programs = tools::build(&tools::CERT_MANAGER).await?;
        let client = self.new_client().await?;
        for file in kinds(&programs.join(tools::CERT_MANAGER_KINDS))? {
            let text = std::fs::read_to_string(&file)
                .with_context(|| format!("reading {}", file.display()))?;
            let kind: CustomResourceDefinition =
                serde_saphyr::from_str(&text).with_context(|| {
                    format!("reading a kind of cert-manager from {}", file.display())
                })?;
            create_kind(&client, &kind, self.processes()).await?;
        }
        create_namespace(&client).await?;
        let mut command = Command::new(programs.join("certmanager"));
        command
            .arg("--kubeconfig")
            .arg(self.kubeconfig_for(NAME, &[MASTERS])?)
            .args(["--namespace", NAME])
            .current_dir(self.folder());
        let process = self.start_process(NAME, command)?;
        await_issuers(&client, &process).await?;
        Ok(process)
    }
}

/// The files of a folder that hold a kind.
fn kinds(folder: &Path) -> Result<Vec<PathBuf>> {
    let reading = || format!("reading the folder {}", folder.display());
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(reading)? {
        let path = entry.with_context(reading)?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "yaml")
        {
            files.push(path);
        }
    }
    ensure!(
        !files.is_empty(),
        "there are no kinds of cert-manager in {}",
        folder.display()
    );
    files.sort();
    Ok(files)
}

async fn create_namespace(client: &Client) -> Result<()> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAME}});
    namespaces
        .patch(
            NAME,
            &PatchParams::apply(FIELD_MANAGER),
            &Patch::Apply(namespace),
        )
        .await
        .with_context(|| format!("creating the namespace {NAME}"))?;
    Ok(())
}

/// Waits until an issuer that has just been made is ready, and removes it.
async fn await_issuers(client: &Client, process: &Process) -> Result<()> {
    let kind = GroupVersionKind::gvk("cert-manager.io", "v1", "Issuer");
    let kind = ApiResource::from_gvk(&kind);
    let issuers: Api<DynamicObject> = Api::namespaced_with(client.clone(), NAME, &kind);
    let issuer = json!({
        "apiVersion": "cert-manager.io/v1",
        "kind": "Issuer",
        "metadata": {"name": PROBE},
        "spec": {"selfSigned": {}},
    });
    issuers
        .patch(
            PROBE,
            &PatchParams::apply(FIELD_MANAGER),
            &Patch::Apply(issuer),
        )
        .await
        .context("creating an issuer")?;
    wait_for(
        "cert-manager to make an issuer ready",
        std::slice::from_ref(process),
        || async {
            let issuer = issuers.get(PROBE).await?;
            let conditions = issuer.data["status"]["conditions"].as_array();
            let ready = conditions
                .into_iter()
                .flatten()
                .any(|condition| condition["type"] == "Ready" && condition["status"] == "True");
            Ok(ready.then_some(()))
        },
    )
    .await?;
    issuers
        .delete(PROBE, &DeleteParams::default())
        .await
        .context("removing an issuer")?;
    Ok(())
}
