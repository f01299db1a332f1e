//! The MCPServers that are measured, and how they and what belongs to them are seen.

use anyhow::{Context, Result};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Service};
use kube::api::{ApiResource, DynamicObject, ObjectMeta, PostParams};
use kube::{Api, Client, Resource};
use mcp_operator::api::MCPServer;
use serde::Deserialize;
use serde_json::{Value, json};

/// The namespace of the servers that are measured.
pub(crate) const NAMESPACE: &str = "benchmark";
/// What their names, and those of their children, begin with.
const PREFIX: &str = "server-";

/// The name of a server.
pub(crate) fn name(index: usize) -> String {
    format!("{PREFIX}{index:05}")
}

/// A server with three children, as a user writes it.
pub(crate) fn object(name: &str) -> Value {
    json!({
        "apiVersion": "mcp.example.com/v1alpha1", "kind": "MCPServer",
        "metadata": {"name": name},
        "spec": {"image": "registry.example.com/mcp-server:1.0.0", "config": {"K": "v"}},
    })
}

/// The kind of servers.
pub(crate) fn kind() -> ApiResource {
    ApiResource::erase::<MCPServer>(&())
}

/// Creates a server of this shape.
pub(crate) async fn create(client: Client, namespace: &str, object: Value) -> Result<()> {
    let api: Api<DynamicObject> = Api::namespaced_with(client, namespace, &kind());
    let name = object["metadata"]["name"].to_string();
    let object: DynamicObject = serde_json::from_value(object)?;
    api.create(&PostParams::default(), &object)
        .await
        .with_context(|| format!("creating the MCPServer {name}"))?;
    Ok(())
}

// What is decoded of an object: the measuring takes CPU from what is measured.

/// A server, as far as it is looked at.
#[derive(Clone, Debug, Deserialize, Resource)]
#[resource(inherit = "MCPServer")]
pub(crate) struct SeenServer {
    metadata: ObjectMeta,
    #[serde(default)]
    status: SeenStatus,
}

/// A pod, as far as it is looked at.
#[derive(Clone, Debug, Deserialize, Resource)]
#[resource(inherit = "Pod")]
pub(crate) struct SeenPod {
    metadata: ObjectMeta,
    #[serde(default)]
    status: SeenStatus,
}

/// A `ConfigMap`, as far as it is looked at.
#[derive(Clone, Debug, Deserialize, Resource)]
#[resource(inherit = "ConfigMap")]
pub(crate) struct SeenConfigMap {
    metadata: ObjectMeta,
}

/// A Service, as far as it is looked at.
#[derive(Clone, Debug, Deserialize, Resource)]
#[resource(inherit = "Service")]
pub(crate) struct SeenService {
    metadata: ObjectMeta,
}

/// A Deployment, as far as it is looked at.
#[derive(Clone, Debug, Deserialize, Resource)]
#[resource(inherit = "Deployment")]
pub(crate) struct SeenDeployment {
    metadata: ObjectMeta,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct SeenStatus {
    phase: Option<String>,
    observed_generation: Option<i64>,
    conditions: Vec<SeenCondition>,
}

#[derive(Clone, Debug, Deserialize)]
struct SeenCondition {
    #[serde(rename = "type")]
    type_: String,
    status: String,
}

impl SeenStatus {
    fn is_ready(&self) -> bool {
        let mut conditions = self.conditions.iter();
        conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
    }
}

impl SeenServer {
    /// Ready, and about the newest generation.
    pub(crate) fn is_ready(&self) -> bool {
        self.status.is_ready() && self.status.observed_generation == self.metadata.generation
    }

    /// Of this phase.
    pub(crate) fn is_in(&self, phase: &str) -> bool {
        self.status.phase.as_deref() == Some(phase)
    }
}

impl SeenPod {
    /// Ready.
    pub(crate) fn is_ready(&self) -> bool {
        self.status.is_ready()
    }

    /// Running, whether ready or not.
    pub(crate) fn is_running(&self) -> bool {
        self.status.phase.as_deref() == Some("Running")
    }
}

/// Whether it is a server that is measured, or a child of one.
pub(crate) fn is_of_ours<K: Resource>(object: &K) -> bool {
    let name = object.meta().name.as_deref();
    name.is_some_and(|name| name.starts_with(PREFIX))
}
