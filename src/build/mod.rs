//! The children as they should be: pure builders, one file per child. They know the types, not the rules.

pub mod config_map;
pub mod deployment;
pub mod disruption_budget;
pub mod explicit;
pub mod service;
#[cfg(test)]
mod tests;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::{Resource, ResourceExt};

use std::collections::BTreeMap;

use crate::api::{MCPServer, labels};

/// Metadata of a child: in the server's namespace, with its labels and the user's, owned by it.
fn metadata(server: &MCPServer, name: String) -> ObjectMeta {
    let annotations = common_annotations(server);
    ObjectMeta {
        name: Some(name),
        namespace: server.namespace(),
        labels: Some(common_labels(server)),
        annotations: (!annotations.is_empty()).then_some(annotations),
        owner_references: Some(vec![owner(server)]),
        ..Default::default()
    }
}

/// Labels of all children and of the pods: the user's and the operator's.
fn common_labels(server: &MCPServer) -> BTreeMap<String, String> {
    let common = server.spec.common_metadata.as_ref();
    let mut all = common
        .map(|common| common.labels.clone())
        .unwrap_or_default();
    all.extend(labels::all(server));
    all
}

/// Annotations of all children and of the pods: the user's.
fn common_annotations(server: &MCPServer) -> BTreeMap<String, String> {
    let common = server.spec.common_metadata.as_ref();
    common
        .map(|common| common.annotations.clone())
        .unwrap_or_default()
}

/// The reference that makes the server the child's owner and controller.
pub fn owner(server: &MCPServer) -> OwnerReference {
    OwnerReference {
        api_version: MCPServer::api_version(&()).into_owned(),
        kind: MCPServer::kind(&()).into_owned(),
        name: server.name_any(),
        uid: server.uid().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}
