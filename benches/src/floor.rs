//! The floor: a plain client that makes what the operator makes, and does nothing else.

use anyhow::{Context, Result};
use k8s_openapi::NamespaceResourceScope;
use kube::api::PostParams;
use kube::{Api, Client, Resource};
use mcp_operator::api::{MCPServer, defaults, labels};
use mcp_operator::build::{config_map, deployment, service};
use mcp_operator::hash::Hash;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Creates a server as the webhooks would have it stored, and its children as the operator would.
pub(crate) async fn create(client: Client, namespace: &str, object: Value) -> Result<()> {
    let mut server: MCPServer = serde_json::from_value(object)?;
    defaults::default(&mut server, None);
    defaults::add_finalizer(&mut server);
    let server = post(&client, namespace, &server).await?;
    if let Some(config_map) = config_map::config_map(&server) {
        post(&client, namespace, &hashed(config_map)?).await?;
    }
    let deployment = deployment::deployment(&server).context("building a Deployment")?;
    post(&client, namespace, &hashed(deployment)?).await?;
    if let Some(service) = service::service(&server) {
        post(&client, namespace, &hashed(service)?).await?;
    }
    Ok(())
}

/// A child with the hash that the operator puts on what it applies.
fn hashed<K: Resource + Serialize>(mut child: K) -> Result<K> {
    let text = serde_json::to_vec(&child).context("writing a child")?;
    let hash = Hash::of(&text).to_string();
    let annotations = child.meta_mut().annotations.get_or_insert_default();
    annotations.insert(labels::APPLIED_HASH.to_owned(), hash);
    Ok(child)
}

async fn post<K>(client: &Client, namespace: &str, object: &K) -> Result<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Serialize
        + DeserializeOwned
        + std::fmt::Debug,
{
    let api = Api::<K>::namespaced(client.clone(), namespace);
    let created = api.create(&PostParams::default(), object).await;
    created.with_context(|| format!("creating a {}", K::kind(&())))
}
