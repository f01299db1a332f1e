//! The floor: a plain client that makes what the operator makes, and does nothing else.

use anyhow::{Context, Result};
use k8s_openapi::NamespaceResourceScope;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource};
use mcp_operator::api::{MCPServer, Platform, defaults, labels};
use mcp_operator::build::{config_map, deployment, service};
use mcp_operator::hash::Hash;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// How the floor writes children.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// Creates each, as the operator does.
    Post,
    /// Applies each, server-side.
    Apply,
    /// Looks first whether it is there.
    GetThenApply,
}

/// What can be written and read in a namespace.
trait Object:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Clone
    + Serialize
    + DeserializeOwned
    + std::fmt::Debug
{
}

impl<K> Object for K where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Serialize
        + DeserializeOwned
        + std::fmt::Debug
{
}

/// Creates a server as the webhooks would have it stored, and its children as the operator would.
pub(crate) async fn create(client: Client, namespace: &str, object: Value, way: Way) -> Result<()> {
    let mut server: MCPServer = serde_json::from_value(object)?;
    defaults::default(&mut server, None);
    defaults::add_finalizer(&mut server);
    let server = post(&client, namespace, &server).await?;
    if let Some(config_map) = config_map::config_map(&server) {
        write(&client, namespace, &hashed(config_map)?, way).await?;
    }
    let deployment =
        deployment::deployment(&server, &Platform::default()).context("building a Deployment")?;
    write(&client, namespace, &hashed(deployment)?, way).await?;
    if let Some(service) = service::service(&server) {
        write(&client, namespace, &hashed(service)?, way).await?;
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

async fn write<K: Object>(client: &Client, namespace: &str, child: &K, way: Way) -> Result<()> {
    let api = Api::<K>::namespaced(client.clone(), namespace);
    let name = child.meta().name.clone().unwrap_or_default();
    let doing = || format!("writing {} {name}", K::kind(&()));
    if way == Way::GetThenApply {
        api.get_opt(&name).await.with_context(doing)?;
    }
    if way == Way::Post {
        post(client, namespace, child).await?;
        return Ok(());
    }
    let params = PatchParams::apply("floor");
    let applied = api.patch(&name, &params, &Patch::Apply(child)).await;
    applied.map(drop).with_context(doing)
}

async fn post<K: Object>(client: &Client, namespace: &str, object: &K) -> Result<K> {
    let api = Api::<K>::namespaced(client.clone(), namespace);
    let created = api.create(&PostParams::default(), object).await;
    created.with_context(|| format!("creating a {}", K::kind(&())))
}
