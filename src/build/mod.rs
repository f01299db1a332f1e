//! The children as they should be: pure builders, one file per child. They know the types, not the rules.

pub mod config_map;
pub mod deployment;
pub mod explicit;
pub mod service;
#[cfg(test)]
mod tests;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::{Resource, ResourceExt};

use crate::api::{MCPServer, labels};

/// Metadata of a child: in the server's namespace, with its labels, owned by it.
fn metadata(server: &MCPServer, name: String) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: server.namespace(),
        labels: Some(labels::all(server)),
        owner_references: Some(vec![owner(server)]),
        ..Default::default()
    }
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
