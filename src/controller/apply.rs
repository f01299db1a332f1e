//! Bringing one child to where it should be: server-side apply, and only when something differs.

use std::fmt::Debug;
use std::sync::Arc;

use k8s_openapi::NamespaceResourceScope;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions, PropagationPolicy};
use kube::runtime::reflector::ObjectRef;
use kube::{Api, Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::build::config_map::short_hash;
use super::cache::Cache;
use super::drift::{self, Ownership};
use super::error::{Class, Error};
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
    /// It could not be brought up to date, as the text says; with what there is of it.
    Refused(String, Option<Arc<K>>),
}

impl<K> Child<K> {
    /// The object, when it is there.
    pub fn object(&self) -> Option<&K> {
        match self {
            Self::Present(object) | Self::Refused(_, Some(object)) => Some(object),
            _ => None,
        }
    }
}

/// A write that is no apply, in our name.
pub fn as_manager() -> PatchParams {
    PatchParams {
        field_manager: Some(labels::MANAGER.to_owned()),
        ..Default::default()
    }
}

/// The child as it is, when it is not to be touched.
pub fn observe<K: ChildKind>(cache: &Cache<K>, server: &MCPServer, name: &str) -> Child<K> {
    let live = cache.get(&server.namespace().unwrap_or_default(), name);
    let ours = live.filter(|live| drift::ownership(server, live.meta()) == Ownership::Ours);
    ours.map_or(Child::Absent, Child::Present)
}

/// Applies the child if it differs from what is there.
pub async fn apply<K: ChildKind>(
    client: &Client,
    cache: &Cache<K>,
    server: &MCPServer,
    desired: &K,
) -> Result<Child<K>, Error> {
    let kind = K::kind(&());
    let (namespace, name) = (server.namespace().unwrap_or_default(), desired.name_any());
    let api = Api::<K>::namespaced(client.clone(), &namespace);
    let not_json = |source| Error::Json {
        action: format!("building {kind} {name}"),
        source,
    };

    let mut body = serde_json::to_value(desired).map_err(not_json)?;
    without_empty_lists(&mut body);
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
        if let Some(child) = not_to_be_touched(server, &**live) {
            return Ok(child);
        }
        let settled = cache.settled(live);
        if !drift::differs(
            &body,
            &serde_json::to_value(&**live).map_err(not_json)?,
            settled.as_ref(),
        ) {
            return Ok(Child::Present(live.clone()));
        }
        // Not an object of the same name that somebody put in its place meanwhile.
        body["metadata"]["uid"] = live.meta().uid.clone().into();
        params = params.force();
    }
    let key = ObjectRef::new(&name).within(&namespace);
    if let Some(error) = cache.refused(&key, &hash, live.as_deref()) {
        return Err(error);
    }
    // A new child is applied without force: an object that appeared meanwhile is not taken over.
    let action = format!("applying {kind} {name}");
    let mut applied = api
        .patch(&name, &params, &Patch::Apply(&body))
        .await
        .map_err(Error::api(action));
    if live.is_some() && applied.as_ref().is_err_and(Error::is_invalid) {
        match repair(&api, cache, &name, &body).await {
            Ok(Some(repaired)) => applied = Ok(repaired),
            Ok(None) => {
                return Ok(Child::Leaving(format!(
                    "{kind} {name} is immutable and made anew"
                )));
            }
            // Somebody else wrote to it at this moment.
            Err(error) if error.class() == Class::Transient => return Err(error),
            // What the API server said first is what the user has to know.
            Err(error) => tracing::debug!("{error}"),
        }
    }
    let applied = applied.inspect_err(|error| {
        if error.class() == Class::Configuration {
            cache.refuse(key, hash.clone(), live.as_deref(), error);
        }
    })?;
    cache.settle(&applied, hash);
    let verb = if live.is_some() { "updated" } else { "created" };
    tracing::info!(%kind, child = name, "{verb} {kind}");
    Ok(Child::Present(cache.wrote(applied)))
}

/// What is said of a live object that is somebody else's, or on its way out.
fn not_to_be_touched<K: ChildKind>(server: &MCPServer, live: &K) -> Option<Child<K>> {
    let (kind, name) = (K::kind(&()), live.name_any());
    match drift::ownership(server, live.meta()) {
        Ownership::Foreign => {
            let what = format!("{kind} {name:?} exists and is not this MCPServer's");
            Some(Child::Conflict(format!(
                "{what}; delete or rename one of the two"
            )))
        }
        Ownership::Leftover => Some(Child::Leaving(format!(
            "{kind} {name} of a deleted MCPServer is being removed"
        ))),
        Ownership::Ours | Ownership::Orphan => {
            let leaving = live.meta().deletion_timestamp.is_some();
            leaving.then(|| Child::Leaving(format!("{kind} {name} is being deleted")))
        }
    }
}

/// The API server keeps no empty lists; applied, they would look taken away ever after.
fn without_empty_lists(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.as_array().is_some_and(Vec::is_empty));
            fields.values_mut().for_each(without_empty_lists);
        }
        Value::Array(items) => items.iter_mut().for_each(without_empty_lists),
        _ => {}
    }
}

/// Field manager of a repair; its entry is taken out again, so that what is ours has one owner.
const REPAIR: &str = "mcp-operator-repair";

/// Puts back what server-side apply cannot: a child in which somebody put something else in the place of
/// ours. Nothing when the child had to be deleted, to be made anew.
async fn repair<K: ChildKind>(
    api: &Api<K>,
    cache: &Cache<K>,
    name: &str,
    body: &Value,
) -> Result<Option<K>, Error> {
    let kind = K::kind(&());
    let failed = |doing: &str| Error::api(format!("{doing} {kind} {name}"));
    let json = |source| Error::Json {
        action: format!("repairing {kind} {name}"),
        source,
    };
    let live = api.get(name).await.map_err(failed("reading"))?;
    let found = serde_json::to_value(&live).map_err(json)?;
    if found["immutable"] == true {
        delete_object(api, cache, &live).await?;
        return Ok(None);
    }
    let repaired: K = serde_json::from_value(drift::repaired(body, &found)).map_err(json)?;
    let params = PostParams {
        field_manager: Some(REPAIR.to_owned()),
        ..Default::default()
    };
    api.replace(name, &params, &repaired)
        .await
        .map_err(failed("replacing"))?;
    let params = PatchParams::apply(labels::MANAGER).force();
    let mut applied = api
        .patch(name, &params, &Patch::Apply(body))
        .await
        .map_err(failed("applying"))?;
    let params = as_manager();
    let repaired = loop {
        let entries = applied.managed_fields().iter();
        let kept: Vec<_> = entries
            .filter(|entry| entry.manager.as_deref() != Some(REPAIR))
            .collect();
        let owners = json!({"metadata": {"resourceVersion": applied.resource_version(), "managedFields": kept}});
        match api.patch(name, &params, &Patch::Merge(&owners)).await {
            Ok(repaired) => break repaired,
            // Its controllers write to it as well; each conflict means that one of them got on.
            Err(kube::Error::Api(status)) if status.code == 409 => {
                applied = api.get(name).await.map_err(failed("reading"))?;
            }
            Err(error) => return Err(failed("repairing")(error)),
        }
    };
    tracing::info!(%kind, child = name, "put back what somebody had put in the place of ours");
    Ok(Some(repaired))
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
    let api = Api::<K>::namespaced(client.clone(), &live.namespace().unwrap_or_default());
    delete_object(&api, cache, live).await
}

async fn delete_object<K: ChildKind>(
    api: &Api<K>,
    cache: &Cache<K>,
    live: &K,
) -> Result<(), Error> {
    let kind = K::kind(&());
    let name = live.name_any();
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
