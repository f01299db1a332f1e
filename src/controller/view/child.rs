//! A child as a pass reads it: whose it is, how it does, and which wish it was found equal to.

use std::fmt::Debug;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::Resource;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{Parts, View, digest, read};
use crate::api::{MCPServer, labels};
use crate::controller::key::Key;
use crate::hash::Hash;

/// A kind that an MCPServer has a child of.
pub trait ChildKind:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Serialize
    + Clone
    + Debug
    + Send
    + Sync
    + 'static
{
    /// What tells how a child of this kind does.
    type Facts: Clone + Debug + PartialEq + Send + Sync + 'static;

    /// Reads that from an object's generation, spec and status.
    fn facts(
        generation: i64,
        spec: Option<&RawValue>,
        status: Option<&RawValue>,
    ) -> serde_json::Result<Self::Facts>;
}

/// A child of the kind `K`.
#[derive(Debug)]
pub struct ChildView<K: ChildKind> {
    /// Its name.
    pub key: Key,
    uid: Box<str>,
    version: u64,
    /// Whose it is.
    pub whose: Whose,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// Whether the Deployment's end was announced by an annotation.
    pub is_marked: bool,
    /// The wish that it was found equal to, if any.
    pub equal_to: Option<Hash>,
    /// What it was last made from, as it says itself.
    pub applied: Option<Hash>,
    /// Of labels, annotations and owners.
    pub names_digest: u64,
    /// Of all else but the status.
    pub body_digest: u64,
    /// How it does.
    pub facts: K::Facts,
}

impl<K: ChildKind> Clone for ChildView<K> {
    fn clone(&self) -> Self {
        Self {
            key: self.key.clone(),
            uid: self.uid.clone(),
            whose: self.whose.clone(),
            equal_to: self.equal_to,
            applied: self.applied,
            facts: self.facts.clone(),
            ..*self
        }
    }
}

/// Whose an object is, by what it says itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whose {
    /// An MCPServer's, by its owner reference.
    Server {
        /// The MCPServer's name.
        name: Box<str>,
        /// Its uid.
        uid: Box<str>,
    },
    /// Something else's, by its owner reference.
    Other,
    /// The MCPServer's of this name, by its labels alone.
    Labelled(Box<str>),
    /// Nobody's.
    Nobody,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Owner {
    api_version: String,
    kind: String,
    name: String,
    uid: String,
    #[serde(default)]
    controller: bool,
}

impl<K: ChildKind> ChildView<K> {
    /// Reads a child. An error when it is none of this kind.
    pub fn read(text: &str) -> serde_json::Result<Self> {
        let parts = Parts::of(text)?;
        let metadata = &parts.metadata;
        let annotations = metadata.annotations()?;
        let generation = metadata.generation.unwrap_or(0);
        Ok(Self {
            key: metadata.key(),
            uid: metadata.uid.as_ref().into(),
            version: metadata.version(),
            whose: whose(&parts)?,
            deleting: metadata.deletion_timestamp.is_some(),
            is_marked: annotations.contains_key(labels::GRACEFUL_SHUTDOWN),
            equal_to: None,
            applied: annotations
                .get(labels::APPLIED_HASH)
                .and_then(|hash| Hash::parse(hash)),
            names_digest: digest(&[
                metadata.labels,
                metadata.annotations,
                metadata.owner_references,
            ]),
            body_digest: digest(&[parts.spec, parts.data, parts.binary_data, parts.immutable]),
            facts: K::facts(generation, parts.spec, parts.status)?,
        })
    }

    /// The same, found equal to this wish.
    #[must_use]
    pub fn equal_to(mut self, wish: Hash) -> Self {
        self.equal_to = Some(wish);
        self
    }

    /// The server that it belongs to, if any.
    pub fn server(&self) -> Option<Key> {
        match &self.whose {
            Whose::Server { name, .. } | Whose::Labelled(name) => Some(self.key.beside(&**name)),
            Whose::Other | Whose::Nobody => None,
        }
    }
}

fn whose(parts: &Parts<'_>) -> serde_json::Result<Whose> {
    let owners: Vec<Owner> = read(parts.metadata.owner_references)?;
    if let Some(owner) = owners.into_iter().find(|owner| owner.controller) {
        let group = owner.api_version.split('/').next().unwrap_or_default();
        return Ok(
            if owner.kind == MCPServer::kind(&()) && group == MCPServer::group(&()) {
                Whose::Server {
                    name: owner.name.into(),
                    uid: owner.uid.into(),
                }
            } else {
                Whose::Other
            },
        );
    }
    let found = parts.metadata.labels()?;
    let Some(name) = found.get(labels::INSTANCE) else {
        return Ok(Whose::Nobody);
    };
    let all = labels::selector(name)
        .into_iter()
        .all(|(key, value)| found.get(&key) == Some(&value));
    Ok(if all {
        Whose::Labelled(name.as_str().into())
    } else {
        Whose::Nobody
    })
}

impl<K: ChildKind> View for ChildView<K> {
    fn uid(&self) -> &str {
        &self.uid
    }

    fn version(&self) -> u64 {
        self.version
    }

    fn same(&self, other: &Self) -> bool {
        self.uid == other.uid
            && self.whose == other.whose
            && self.deleting == other.deleting
            && self.equal_to == other.equal_to
            && self.applied == other.applied
            && self.facts == other.facts
            // Of one that is not as wished, any change is a reason to try again.
            && (self.equal_to.is_some()
                || (self.names_digest, self.body_digest) == (other.names_digest, other.body_digest))
    }
}

impl ChildKind for ConfigMap {
    type Facts = ();

    fn facts(_: i64, _: Option<&RawValue>, _: Option<&RawValue>) -> serde_json::Result<()> {
        Ok(())
    }
}

impl ChildKind for PodDisruptionBudget {
    type Facts = ();

    fn facts(_: i64, _: Option<&RawValue>, _: Option<&RawValue>) -> serde_json::Result<()> {
        Ok(())
    }
}

/// How a Deployment does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeploymentFacts {
    /// Whether the counters are about the newest spec.
    pub is_observed: bool,
    /// Pods there are.
    pub replicas: i32,
    /// Pods of the newest template.
    pub updated: i32,
    /// Pods that are ready.
    pub ready: i32,
    /// Whether somebody paused the rollout.
    pub is_paused: bool,
    /// Whether the rollout of the newest template passed its progress deadline.
    pub deadline_passed: bool,
    /// Why the API server takes no pods, in its words: reason and message.
    pub refused_pods: Option<(Box<str>, Box<str>)>,
}

#[derive(Default, Deserialize)]
struct DeploymentSpec {
    #[serde(default)]
    paused: bool,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct DeploymentStatus {
    observed_generation: i64,
    replicas: i32,
    updated_replicas: i32,
    ready_replicas: i32,
    conditions: Vec<Condition>,
}

/// A condition of a Deployment or a pod.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Condition {
    #[serde(rename = "type")]
    pub type_: String,
    pub status: String,
    pub reason: String,
    pub message: String,
    pub last_transition_time: Option<String>,
}

impl ChildKind for Deployment {
    type Facts = DeploymentFacts;

    fn facts(
        generation: i64,
        spec: Option<&RawValue>,
        status: Option<&RawValue>,
    ) -> serde_json::Result<Self::Facts> {
        let spec: DeploymentSpec = read(spec)?;
        let status: DeploymentStatus = read(status)?;
        let is_observed = status.observed_generation >= generation;
        let find = |type_: &str| {
            status
                .conditions
                .iter()
                .find(|condition| condition.type_ == type_)
        };
        let refused = find("ReplicaFailure").filter(|condition| condition.status == "True");
        Ok(DeploymentFacts {
            is_observed,
            replicas: status.replicas,
            updated: status.updated_replicas,
            ready: status.ready_replicas,
            is_paused: spec.paused,
            deadline_passed: is_observed
                && find("Progressing")
                    .is_some_and(|condition| condition.reason == "ProgressDeadlineExceeded"),
            refused_pods: refused
                .map(|found| (found.reason.as_str().into(), found.message.as_str().into())),
        })
    }
}

/// What a Service has not got yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lack {
    /// An address within the cluster.
    ClusterIp,
    /// The load balancer's address.
    Ingress,
    /// The port on each node.
    NodePort,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ServiceSpec {
    #[serde(rename = "type")]
    type_: String,
    #[serde(rename = "clusterIP")]
    cluster_ip: String,
    ports: Vec<Port>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Port {
    #[serde(default)]
    node_port: i32,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ServiceStatus {
    load_balancer: LoadBalancer,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct LoadBalancer {
    ingress: Vec<serde::de::IgnoredAny>,
}

impl ChildKind for Service {
    type Facts = Option<Lack>;

    fn facts(
        _: i64,
        spec: Option<&RawValue>,
        status: Option<&RawValue>,
    ) -> serde_json::Result<Self::Facts> {
        let spec: ServiceSpec = read(spec)?;
        let status: ServiceStatus = read(status)?;
        if spec.cluster_ip.is_empty() {
            return Ok(Some(Lack::ClusterIp));
        }
        Ok(match &*spec.type_ {
            "LoadBalancer" => status
                .load_balancer
                .ingress
                .is_empty()
                .then_some(Lack::Ingress),
            "NodePort" => spec
                .ports
                .iter()
                .any(|port| port.node_port == 0)
                .then_some(Lack::NodePort),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn whose_is(labels: &Value, owner: Option<Value>) -> Whose {
        let owners: Vec<_> = owner.into_iter().collect();
        let object = json!({"metadata": {"name": "a", "namespace": "n", "labels": labels, "ownerReferences": owners}});
        ChildView::<ConfigMap>::read(&object.to_string())
            .unwrap()
            .whose
    }

    fn owner(group: &str, kind: &str) -> Value {
        json!({"apiVersion": format!("{group}/v1alpha1"), "kind": kind, "name": "a", "uid": "u", "controller": true})
    }

    #[test]
    fn an_object_says_whose_it_is() {
        let ours = json!(labels::selector("a"));
        let server = Whose::Server {
            name: "a".into(),
            uid: "u".into(),
        };
        let table = [
            (
                "by its owner",
                &ours,
                Some(owner("mcp.example.com", "MCPServer")),
                server.clone(),
            ),
            (
                "by its owner, without labels",
                &Value::Null,
                Some(owner("mcp.example.com", "MCPServer")),
                server,
            ),
            (
                "by its owner, which is a namesake's",
                &ours,
                Some(owner("mcp.example.org", "MCPServer")),
                Whose::Other,
            ),
            (
                "by its owner, which is something else",
                &ours,
                Some(owner("batch", "Job")),
                Whose::Other,
            ),
            ("by its labels", &ours, None, Whose::Labelled("a".into())),
            (
                "by one label only",
                &json!({labels::INSTANCE: "a"}),
                None,
                Whose::Nobody,
            ),
            ("not at all", &Value::Null, None, Whose::Nobody),
        ];
        for (what, labels, owner, expected) in table {
            assert_eq!(whose_is(labels, owner), expected, "{what}");
        }
    }

    #[test]
    fn digests_tell_names_and_body_apart_and_leave_the_status_out() {
        let of = |labels: Value, spec: Value, status: Value| {
            let object = json!({"metadata": {"name": "a", "labels": labels}, "spec": spec, "status": status});
            let view = ChildView::<Deployment>::read(&object.to_string()).unwrap();
            (view.names_digest, view.body_digest)
        };
        let one = of(json!({"a": "1"}), json!({"x": 1}), json!({}));
        assert_eq!(
            one,
            of(json!({"a": "1"}), json!({"x": 1}), json!({"replicas": 1}))
        );
        let label = of(json!({"a": "2"}), json!({"x": 1}), json!({}));
        assert!(one.0 != label.0 && one.1 == label.1);
        let spec = of(json!({"a": "1"}), json!({"x": 2}), json!({}));
        assert!(one.0 == spec.0 && one.1 != spec.1);
    }
}
