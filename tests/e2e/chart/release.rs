//! A release in a cluster of a test's own, and what is looked at in it.

use anyhow::{Context, Result, ensure};
use cluster::{Cluster, Options, eventually};
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration,
};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams};
use serde_json::json;

use super::{RELEASE, chart, helm};
use crate::setup::{self, SOON};

pub const NAMESPACE: &str = "mcp-operator-system";
pub const CRD: &str = "mcpservers.mcp.example.com";
/// No operator runs here, so the webhooks answer nothing; the fake kubelet makes its pods Ready.
pub const UNANSWERED: [&str; 4] = [
    "--set",
    "webhook.failurePolicy=Ignore",
    "--set",
    "webhook.timeoutSeconds=1",
];

/// A cluster of a test's own, and the release in it.
pub struct Life {
    pub cluster: Cluster,
    pub client: Client,
    pub chart: String,
}

impl Life {
    pub async fn start() -> Result<Self> {
        let cluster = Cluster::start(Options::default()).await?;
        Ok(Self {
            client: cluster.client(),
            cluster,
            chart: chart().display().to_string(),
        })
    }

    /// `helm install` or `helm upgrade` into the usual namespace, until it is ready.
    pub async fn put(&self, verb: &str, chart: &str, more: &[&str]) -> Result<String> {
        let mut arguments = vec![
            verb,
            RELEASE,
            chart,
            "-n",
            NAMESPACE,
            "--wait",
            "--timeout",
            "8m",
        ];
        arguments.extend(UNANSWERED);
        arguments.extend(more);
        helm(&self.cluster, &arguments).await
    }

    pub async fn uninstall(&self) -> Result<String> {
        let arguments = [
            "uninstall",
            RELEASE,
            "-n",
            NAMESPACE,
            "--wait",
            "--timeout",
            "8m",
        ];
        helm(&self.cluster, &arguments).await
    }

    pub fn kubectl(&self, arguments: &[&str], input: &str) -> Result<String> {
        let output = setup::kubectl(&self.cluster, arguments, input)?;
        let words = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "kubectl {arguments:?}: {words}");
        Ok(String::from_utf8(output.stdout)?)
    }

    /// What a user pastes into a shell; what it prints.
    pub fn shell(&self, script: &str) -> Result<String> {
        let tools = self.cluster.kubectl().parent().context("no folder")?;
        let path = std::env::var("PATH").unwrap_or_default();
        let mut shell = std::process::Command::new("bash");
        shell
            .args(["-ec", script])
            .env("KUBECONFIG", self.cluster.kubeconfig())
            .env("KUBECACHEDIR", self.cluster.folder().join("kubectl-cache"))
            .env("PATH", format!("{}:{path}", tools.display()));
        let output = shell.output()?;
        let words = String::from_utf8_lossy(&output.stderr);
        // A text that does not end is a warning only.
        let whole = !words.contains("here-document");
        ensure!(output.status.success() && whole, "{script}: {words}");
        Ok(String::from_utf8(output.stdout)?)
    }

    pub async fn available(&self) -> Result<Option<i32>> {
        let deployments = Api::<Deployment>::namespaced(self.client.clone(), NAMESPACE);
        let deployment = deployments.get(RELEASE).await?;
        Ok(deployment
            .status
            .and_then(|status| status.available_replicas))
    }

    /// Whether the kind has the column that the chart before it had not.
    pub async fn has_age(&self) -> Result<bool> {
        let crd = Api::<CustomResourceDefinition>::all(self.client.clone())
            .get(CRD)
            .await?;
        let columns = &crd.spec.versions[0].additional_printer_columns;
        Ok(columns.iter().flatten().any(|column| column.name == "Age"))
    }

    /// The caBundle of both configurations; empty where there is none.
    pub async fn bundles(&self) -> Result<[String; 2]> {
        let mutating = Api::<MutatingWebhookConfiguration>::all(self.client.clone())
            .get(RELEASE)
            .await?;
        let validating = Api::<ValidatingWebhookConfiguration>::all(self.client.clone())
            .get(RELEASE)
            .await?;
        let mutating = mutating.webhooks.context("no webhooks")?.remove(0);
        let validating = validating.webhooks.context("no webhooks")?.remove(0);
        Ok([mutating.client_config, validating.client_config]
            .map(|client| client.ca_bundle.unwrap_or_default().0)
            .map(|bundle| String::from_utf8_lossy(&bundle).into_owned()))
    }

    /// What the operator does: the caBundle, by server-side apply, in its own name.
    pub async fn trust(&self, bundle: &str) -> Result<()> {
        let kinds = [
            (
                ApiResource::erase::<MutatingWebhookConfiguration>(&()),
                "mmcpserver.mcp.example.com",
            ),
            (
                ApiResource::erase::<ValidatingWebhookConfiguration>(&()),
                "vmcpserver.mcp.example.com",
            ),
        ];
        for (resource, webhook) in kinds {
            let api = Api::<DynamicObject>::all_with(self.client.clone(), &resource);
            let bundle = ByteString(bundle.into());
            let patch = json!({
                "apiVersion": resource.api_version,
                "kind": resource.kind,
                "metadata": {"name": RELEASE},
                "webhooks": [{"name": webhook, "clientConfig": {"caBundle": bundle}}],
            });
            let parameters = PatchParams::apply("mcp-operator").force();
            api.patch(RELEASE, &parameters, &Patch::Apply(&patch))
                .await?;
        }
        Ok(())
    }

    /// Waits until only this is left with these labels: helm waits for what it made, not for their pods.
    pub async fn until_left(&self, selector: &str, expected: &[String]) -> Result<()> {
        eventually("what is left of the release", SOON, || async {
            let left = self.of_helm(selector)?;
            ensure!(left == expected, "{left:?}");
            Ok(Some(()))
        })
        .await
    }

    /// Everything that carries Helm's label, as KIND/NAME.
    pub fn of_helm(&self, selector: &str) -> Result<Vec<String>> {
        let kinds = self.kubectl(&["api-resources", "--verbs=list", "-o", "name"], "")?;
        let kinds = kinds.lines().collect::<Vec<_>>().join(",");
        let found = self.kubectl(&["get", &kinds, "-A", "-l", selector, "-o", "name"], "")?;
        Ok(found
            .lines()
            // They follow the Services.
            .filter(|name| !name.starts_with("endpoint"))
            .map(str::to_owned)
            .collect())
    }
}
