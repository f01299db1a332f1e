//! Bringing one child to where it should be: server-side apply, and only when something differs.

use std::fmt::Debug;
use std::sync::Arc;

use k8s_openapi::NamespaceResourceScope;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions, PropagationPolicy};
use kube::{Api, Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::build::config_map::short_hash;
use super::cache::Cache;
use super::drift::{self, Ownership};
use super::error::Error;
use crate::api::{MCPServer, labels};

/// A kind that an MCPServer has a child of.
pub trait ChildKind:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Clone
    + Debug
    + Serialize
    + DeserializeOwned
    + Send
    + Sync
    + 'static
{
}

impl<K> ChildKind for K where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + Serialize
        + DeserializeOwned
        + Send
        + Sync
        + 'static
{
}

/// A child after the pass has dealt with it.
#[derive(Clone, Debug)]
pub enum Child<K> {
    /// The server needs none.
    NotWanted,
    /// It is not there, and was not made for another child's sake.
    Absent,
    /// It is there, as we want it.
    Present(Arc<K>),
    /// An object of this name is somebody else's; the text names it.
    Conflict(String),
    /// It is on its way out; made anew when it is gone. The text says so.
    Leaving(String),
    /// The API server did not take it; the text says why.
    Refused(String),
}

impl<K> Child<K> {
    /// The object, when it is there.
    pub fn object(&self) -> Option<&K> {
        match self {
            Self::Present(object) => Some(object),
            _ => None,
        }
    }
}

/// Applies the child if it differs from what is there. Says whether it was created.
pub async fn apply<K: ChildKind>(
    client: &Client,
    cache: &Cache<K>,
    server: &MCPServer,
    desired: &K,
) -> Result<(Child<K>, bool), Error> {
    let kind = K::kind(&());
    let (namespace, name) = (server.namespace().unwrap_or_default(), desired.name_any());
    let api = Api::<K>::namespaced(client.clone(), &namespace);
    let json = |source| Error::Json {
        action: format!("building {kind} {name}"),
        source,
    };

    let mut body = serde_json::to_value(desired).map_err(json)?;
    let hash = short_hash(body.to_string().as_bytes());
    body["metadata"]["annotations"][labels::APPLIED_HASH] = hash.clone().into();

    let live = match cache.get(&namespace, &name) {
        Some(live) => Some(live),
        // The watch selects on a label: what is not in the cache may still be there.
        None => api
            .get_opt(&name)
            .await
            .map_err(Error::api(format!("reading {kind} {name}")))?
            .map(Arc::new),
    };
    let mut params = PatchParams::apply(labels::MANAGER);
    if let Some(live) = &live {
        match drift::ownership(server, live.meta()) {
            Ownership::Ours | Ownership::Orphan => {}
            Ownership::Leftover => {
                return Ok((
                    Child::Leaving(format!(
                        "{kind} {name} of a deleted MCPServer is being removed"
                    )),
                    false,
                ));
            }
            Ownership::Foreign => {
                let text = format!(
                    "{kind} {name:?} exists and is not this MCPServer's; delete or rename one of the two"
                );
                return Ok((Child::Conflict(text), false));
            }
        }
        if live.meta().deletion_timestamp.is_some() {
            return Ok((
                Child::Leaving(format!("{kind} {name} is being deleted")),
                false,
            ));
        }
        let settled = cache.settled(live);
        if !drift::differs(
            &body,
            &serde_json::to_value(&**live).map_err(json)?,
            settled.as_ref(),
        ) {
            return Ok((Child::Present(live.clone()), false));
        }
        // Not an object of the same name that somebody put in its place meanwhile.
        body["metadata"]["uid"] = live.meta().uid.clone().into();
        params = params.force();
    }
    // A new child is applied without force: an object that appeared meanwhile is not taken over.
    let action = format!("applying {kind} {name}");
    let applied = api
        .patch(&name, &params, &Patch::Apply(&body))
        .await
        .map_err(Error::api(action))?;
    cache.settle(&applied, hash);
    let verb = if live.is_some() { "updated" } else { "created" };
    tracing::info!(%kind, child = name, "{verb} {kind}");
    Ok((Child::Present(cache.wrote(applied)), live.is_none()))
}

/// Deletes the child that is no longer wanted, if it is there and ours.
pub async fn prune<K: ChildKind>(
    client: &Client,
    cache: &Cache<K>,
    server: &MCPServer,
    name: &str,
) -> Result<(), Error> {
    let namespace = server.namespace().unwrap_or_default();
    let Some(live) = cache.get(&namespace, name) else {
        return Ok(());
    };
    let ours = matches!(
        drift::ownership(server, live.meta()),
        Ownership::Ours | Ownership::Orphan
    );
    if !ours || live.meta().deletion_timestamp.is_some() {
        return Ok(());
    }
    delete(client, cache, &*live).await
}

/// Deletes just this object; what it owns goes after it.
pub async fn delete<K: ChildKind>(
    client: &Client,
    cache: &Cache<K>,
    live: &K,
) -> Result<(), Error> {
    let kind = K::kind(&());
    let name = live.name_any();
    let api = Api::<K>::namespaced(client.clone(), &live.namespace().unwrap_or_default());
    let params = DeleteParams {
        propagation_policy: Some(PropagationPolicy::Background),
        preconditions: Some(Preconditions {
            uid: live.uid(),
            resource_version: None,
        }),
        ..Default::default()
    };
    match api
        .delete(&name, &params)
        .await
        .map_err(Error::api(format!("deleting {kind} {name}")))
    {
        Ok(_) => tracing::info!(%kind, child = name, "deleted {kind}"),
        Err(error) if error.is_not_found() => {}
        Err(error) => return Err(error),
    }
    cache.gone(live);
    Ok(())
}
