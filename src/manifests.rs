//! What must be in the cluster before the operator starts: the CRD and the webhook configurations, as YAML.

use kube::Resource;
use serde::Serialize;
use serde_json::{Value, json};

use crate::admission::{MUTATE_NAME, MUTATE_PATH, TIMEOUT, VALIDATE_NAME, VALIDATE_PATH};
use crate::api::{MCPServer, schema};

/// The CustomResourceDefinition, as `config/crd/` holds it.
pub fn crd() -> anyhow::Result<String> {
    to_yaml(&schema::crd()?)
}

/// How the API server reaches the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Out of the cluster: `https://host:port`.
    Url(String),
    /// In the cluster: a Service.
    Service {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
}

/// Both webhook configurations, of this name. The operator fills in the caBundle.
pub fn webhooks(reach: &Reach, name: &str) -> anyhow::Result<String> {
    let client = |path: &str| match reach {
        Reach::Url(url) => json!({"url": format!("{}{path}", url.trim_end_matches('/'))}),
        Reach::Service { namespace, name } => {
            json!({"service": {"namespace": namespace, "name": name, "path": path}})
        }
    };
    let webhook = |name: &str, path: &str, resources: &[&str]| {
        json!({
            "name": name,
            "clientConfig": client(path),
            "admissionReviewVersions": ["v1"],
            "sideEffects": "None",
            "failurePolicy": "Fail",
            "matchPolicy": "Equivalent",
            "timeoutSeconds": TIMEOUT,
            // Objects that are being deleted are let through, even while no operator answers, if their spec stays.
            "matchConditions": [{
                "name": "not-being-deleted-or-spec-changes",
                "expression": "!has(object.metadata.deletionTimestamp) || object.?spec != oldObject.?spec",
            }],
            "rules": [{
                "apiGroups": [MCPServer::group(&())],
                "apiVersions": [MCPServer::version(&())],
                "operations": ["CREATE", "UPDATE"],
                "resources": resources,
                "scope": "Namespaced",
            }],
        })
    };
    let configuration = |kind: &str, webhook: Value| {
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": kind,
            "metadata": {"name": name, "labels": {"app.kubernetes.io/name": "mcp-operator"}},
            "webhooks": [webhook],
        })
    };
    let mutating = configuration(
        "MutatingWebhookConfiguration",
        webhook(MUTATE_NAME, MUTATE_PATH, &["mcpservers"]),
    );
    let validating = configuration(
        "ValidatingWebhookConfiguration",
        webhook(
            VALIDATE_NAME,
            VALIDATE_PATH,
            &["mcpservers", "mcpservers/scale"],
        ),
    );
    Ok(format!(
        "{}---\n{}",
        to_yaml(&mutating)?,
        to_yaml(&validating)?
    ))
}

fn to_yaml(object: &impl Serialize) -> anyhow::Result<String> {
    let mut yaml = serde_saphyr::to_string(object)?;
    if !yaml.ends_with('\n') {
        yaml.push('\n');
    }
    Ok(yaml)
}
