//! What an operator needs in a cluster: its namespace, its rights, its webhooks.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cluster::{Cluster, cargo, eventually};
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration,
};
use k8s_openapi::api::authorization::v1::SubjectAccessReview;
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use serde_json::{Value, json};

use crate::kubectl;
use crate::program::Program;

/// The operator's user: the account that the chart makes.
pub(crate) const USER: &str = "system:serviceaccount:mcp-operator-system:mcp-operator";
/// The operator's own namespace.
pub(crate) const OWN: &str = "mcp-operator-system";
/// How long a part of the installation may take on a busy machine.
const LIMIT: Duration = Duration::from_mins(3);

/// Makes a namespace in which pods can be created.
pub(crate) async fn namespace(cluster: &Cluster, name: &str) -> Result<()> {
    let client = cluster.client();
    let object: Namespace = serde_json::from_value(json!({"metadata": {"name": name}}))?;
    Api::<Namespace>::all(client.clone())
        .create(&PostParams::default(), &object)
        .await
        .with_context(|| format!("creating the namespace {name}"))?;
    let accounts: Api<ServiceAccount> = Api::namespaced(client, name);
    eventually("the namespace's ServiceAccount", LIMIT, || async {
        Ok(accounts.get_opt("default").await?)
    })
    .await?;
    Ok(())
}

/// Gives the operator's user the rights that the chart gives. Returns when all are in force: who asks sooner
/// is refused.
pub(crate) async fn rights(cluster: &Cluster) -> Result<()> {
    let rules = rules(cluster).await?;
    kubectl::apply(cluster, &rules).await?;
    let objects: Vec<Value> = serde_saphyr::from_multiple(&rules).context("reading the roles")?;
    let reviews: Api<SubjectAccessReview> = Api::all(cluster.client());
    for object in objects.iter().filter(|object| object["rules"].is_array()) {
        let rule = &object["rules"][0];
        let review: SubjectAccessReview = serde_json::from_value(json!({
            "spec": {"user": USER, "resourceAttributes": {
                "namespace": object["metadata"]["namespace"], "group": rule["apiGroups"][0],
                "resource": rule["resources"][0], "name": rule["resourceNames"][0],
                "verb": rule["verbs"][0],
            }},
        }))?;
        eventually("the operator's rights", LIMIT, || async {
            let answer = reviews.create(&PostParams::default(), &review).await?;
            Ok(answer
                .status
                .is_some_and(|status| status.allowed)
                .then_some(()))
        })
        .await?;
    }
    Ok(())
}

/// The roles of the chart.
async fn rules(cluster: &Cluster) -> Result<String> {
    let mut helm = tokio::process::Command::from(cluster.helm_command().await?);
    let output = helm
        .args(["template", "mcp-operator", "charts/mcp-operator"])
        .args(["--namespace", OWN, "--show-only", "templates/rbac.yaml"])
        .current_dir(cargo::workspace())
        .kill_on_drop(true)
        .output()
        .await
        .context("starting helm")?;
    ensure!(
        output.status.success(),
        "helm template failed: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    String::from_utf8(output.stdout).context("reading helm's answer")
}

/// Registers the webhooks of an operator at this port.
pub(crate) async fn webhooks(cluster: &Cluster, program: &Program, port: u16) -> Result<()> {
    kubectl::apply(cluster, &program.webhooks(port).await?).await
}

/// Takes the webhooks away.
pub(crate) async fn no_webhooks(cluster: &Cluster) -> Result<()> {
    let (client, name, delete) = (cluster.client(), "mcp-operator", DeleteParams::default());
    let validating = Api::<ValidatingWebhookConfiguration>::all(client.clone());
    let mutating = Api::<MutatingWebhookConfiguration>::all(client);
    for deleted in [
        validating.delete(name, &delete).await.err(),
        mutating.delete(name, &delete).await.err(),
    ] {
        match deleted {
            Some(kube::Error::Api(status)) if status.code == 404 => {}
            Some(error) => return Err(error).context("deleting the webhook configurations"),
            None => {}
        }
    }
    Ok(())
}
