//! What is said of the probes of a server that does not get ready. Pure.

use serde_json::Value;

use crate::api::defaults::{self, Probes};
use crate::api::{MCPServerSpec, labels};

/// Begins with `; `, and speaks of the probes of the merged template; nothing where there is none.
pub fn hint(spec: &MCPServerSpec, deployment: &Value) -> String {
    let containers = deployment["spec"]["template"]["spec"]["containers"].as_array();
    let own = containers
        .into_iter()
        .flatten()
        .find(|container| container["name"] == labels::CONTAINER);
    let Some(container) = own else {
        return String::new();
    };
    let probes = [&container["livenessProbe"], &container["readinessProbe"]];
    let mut told: Vec<_> = probes.into_iter().filter_map(described).collect();
    told.dedup();
    if told.is_empty() {
        return String::new();
    }
    let paths = match defaults::probes(spec) {
        Probes::Http {
            liveness,
            readiness,
        } => vec![liveness, readiness],
        Probes::Tcp | Probes::None => Vec::new(),
    };
    let is_ours = |(probe, path): (&Value, &str)| {
        let get = &probe["httpGet"];
        get["port"] == labels::PORT && get["path"] == path
    };
    let way_out = if probes.into_iter().zip(paths).any(is_ours) {
        ": a server without such a path needs spec.health.type: TCP"
    } else {
        ""
    };
    format!("; it is probed by {}{way_out}", told.join(" and "))
}

fn described(probe: &Value) -> Option<String> {
    let port = |handler: &Value| match &handler["port"] {
        Value::String(name) if name == labels::PORT => String::new(),
        port => format!(" at port {}", port.to_string().trim_matches('"')),
    };
    let handlers = probe.as_object()?;
    handlers
        .iter()
        .find_map(|(kind, handler)| match kind.as_str() {
            "httpGet" => {
                let path = handler["path"].as_str().unwrap_or("/");
                Some(format!("GET {path}{}", port(handler)))
            }
            "tcpSocket" if handler["port"] == labels::PORT => {
                Some("connections to spec.port".to_owned())
            }
            "tcpSocket" => Some(format!("connections{}", port(handler))),
            "grpc" => Some(format!("gRPC{}", port(handler))),
            "exec" => Some("a command in the container".to_owned()),
            _ => None,
        })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::{FieldPath, MCPServer, Platform, decode};
    use crate::build::deployment::deployment;

    #[test]
    fn the_hint_speaks_of_the_probes_that_are_there() {
        let overlay = |probes: Value| {
            let mut container = json!({"name": labels::CONTAINER});
            json_patch::merge(&mut container, &probes);
            json!({"podTemplate": {"spec": {"containers": [container]}}})
        };
        let way_out = ": a server without such a path needs spec.health.type: TCP";
        let table = [
            (
                "by default",
                json!({}),
                format!("; it is probed by GET /health and GET /ready{way_out}"),
            ),
            (
                "of one path",
                json!({"health": {"livenessPath": "/x", "readinessPath": "/x"}}),
                format!("; it is probed by GET /x{way_out}"),
            ),
            (
                "by connections",
                json!({"health": {"type": "TCP"}}),
                "; it is probed by connections to spec.port".to_owned(),
            ),
            (
                "not at all",
                json!({"health": {"type": "None"}}),
                String::new(),
            ),
            ("over stdio", json!({"transport": "stdio"}), String::new()),
            (
                "by the pod template's",
                overlay(
                    json!({"livenessProbe": {"exec": {"command": ["alive"]}}, "readinessProbe": {"httpGet": {"path": "/healthz", "port": 9090}}}),
                ),
                "; it is probed by a command in the container and GET /healthz at port 9090"
                    .to_owned(),
            ),
            (
                "by one of each",
                overlay(json!({"livenessProbe": {"grpc": {"port": 5}}})),
                format!("; it is probed by gRPC at port 5 and GET /ready{way_out}"),
            ),
        ];
        for (what, spec, expected) in table {
            let mut fields = json!({"image": "x:1"});
            json_patch::merge(&mut fields, &spec);
            let object = json!({"metadata": {"name": "a", "namespace": "n"}, "spec": fields});
            let server: MCPServer = decode::lenient(&object, &FieldPath::OBJECT).unwrap();
            let built =
                serde_json::to_value(deployment(&server, &Platform::default()).unwrap()).unwrap();
            assert_eq!(hint(&server.spec, &built), expected, "{what}");
        }
    }
}
