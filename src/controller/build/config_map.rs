//! The ConfigMap: `config.json` and each config entry under its own key.

use std::fmt::Write as _;

use k8s_openapi::api::core::v1::ConfigMap;
use sha2::{Digest, Sha256};

use crate::api::{MCPServer, config_json, labels};

/// The ConfigMap of a server that has config.
pub fn config_map(server: &MCPServer) -> Option<ConfigMap> {
    if server.spec.config.is_empty() {
        return None;
    }
    let mut data = server.spec.config.clone();
    data.insert(config_json::KEY.to_owned(), config_json::render(server));
    Some(ConfigMap {
        metadata: super::metadata(server, labels::config_map_name(server)),
        data: Some(data),
        ..Default::default()
    })
}

/// A hash of the config, which holds what the server reads at its start.
pub fn config_hash(server: &MCPServer) -> Option<String> {
    (!server.spec.config.is_empty()).then(|| short_hash(config_json::render(server).as_bytes()))
}

/// The first half of a SHA-256, in hexadecimal.
pub fn short_hash(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    let (half, _) = digest.split_at(16);
    half.iter()
        .fold(String::with_capacity(32), |mut text, byte| {
            // Writing to a String does not fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}
