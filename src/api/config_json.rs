//! `config.json`: the configuration as the server reads it from `/etc/mcp/config.json`.

use kube::ResourceExt;
use serde_json::{Value, json};

use super::{MCPServer, Transport, session};

/// The file's name and its key in the ConfigMap.
pub const KEY: &str = "config.json";

/// The file's text, with keys in order, so that equal configuration is equal text.
pub fn render(server: &MCPServer) -> String {
    let spec = &server.spec;
    let mut root = json!({
        "server": {"name": server.name_any(), "transport": spec.transport.as_str(), "port": spec.port},
        "config": spec.config,
    });
    match spec.transport {
        Transport::Stdio => {}
        Transport::Http => {
            root["http"] = json!({"cors": {"enabled": true, "origins": session::origins(spec)}});
        }
        Transport::StreamableHttp => {
            root["streamable-http"] =
                json!({"session": {"timeout": session::timeout_text(spec), "maxConnections": 100}});
        }
    }
    pretty(&root)
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}
