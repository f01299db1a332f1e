//! The ConfigMap: `config.json` and each config entry under its own key.

use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt;

use crate::api::{MCPServer, config_json, labels};
use crate::hash::Hash;

/// The ConfigMap of a server that has config.
pub fn config_map(server: &MCPServer) -> Option<ConfigMap> {
    if server.spec.config.is_empty() {
        return None;
    }
    let mut data = server.spec.config.clone();
    data.insert(config_json::KEY.to_owned(), config_json::render(server));
    Some(ConfigMap {
        metadata: super::metadata(server, labels::config_map_name(&server.name_any())),
        data: Some(data),
        ..Default::default()
    })
}

/// A hash of the config, which holds what the server reads at its start.
pub fn config_hash(server: &MCPServer) -> Option<String> {
    (!server.spec.config.is_empty())
        .then(|| Hash::of(config_json::render(server).as_bytes()).to_string())
}
