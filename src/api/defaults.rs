//! The defaults for what the user left out, for the webhook and the reconciler alike.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Capabilities, SeccompProfile, SecurityContext};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde_json::Value;

use super::{MCPServer, MCPServerSpec, Platform, Transport, labels, pod_template, quantity};

/// Fills in the requests that the user left out.
///
/// `old` is the stored object of an update. A request that was a default there, and that this update does not change,
/// becomes the new object's default: it follows the transport and the limits that it was made of. A request in the pod
/// template is the user's; there is no default beside it. Idempotent.
pub fn default(server: &mut MCPServer, old: Option<&MCPServer>) {
    let transport = server.spec.transport;
    let limits = limits(&server.spec);
    let chosen = ["cpu", "memory"].map(|name| is_chosen_in_pod_template(&server.spec, name));
    let resources = server.spec.resources.get_or_insert_default();
    for (name, is_chosen) in ["cpu", "memory"].into_iter().zip(chosen) {
        let ours = request(transport, name, &limits);
        let stored = old
            .filter(|old| given_by_default(old, name))
            .and_then(|old| stored_request(old, name));
        match (resources.requests.get(name), stored) {
            (None, _) if is_chosen => continue,
            (None, _) => {}
            // The same in other words is left as it is written.
            (Some(now), Some(stored)) if now == stored && !quantity::same(&now.0, &ours.0) => {}
            (Some(_), _) => continue,
        }
        resources.requests.insert(name.to_owned(), ours);
    }
}

fn is_chosen_in_pod_template(spec: &MCPServerSpec, name: &str) -> bool {
    let own = pod_template::own_container(spec.pod_template.as_ref());
    own.is_some_and(|(_, container)| !container["resources"]["requests"][name].is_null())
}

/// Adds the finalizer, unless the object is being deleted: the API server would refuse it then.
pub fn add_finalizer(server: &mut MCPServer) {
    if server.metadata.deletion_timestamp.is_none() && !labels::has_finalizer(server) {
        let finalizers = server.metadata.finalizers.get_or_insert_default();
        finalizers.push(labels::FINALIZER.to_owned());
    }
}

/// The default request of a transport, never above the limit.
fn request(transport: Transport, name: &str, limits: &BTreeMap<String, Quantity>) -> Quantity {
    let text = match (transport, name) {
        (Transport::Stdio, "cpu") => "50m",
        (Transport::Stdio, _) => "64Mi",
        (Transport::Http, "cpu") => "100m",
        (Transport::Http, _) => "128Mi",
        (Transport::StreamableHttp, "cpu") => "200m",
        (Transport::StreamableHttp, _) => "256Mi",
    };
    let ours = Quantity(text.to_owned());
    match limits.get(name) {
        Some(limit) if exceeds(&ours, Some(limit)) => limit.clone(),
        _ => ours,
    }
}

/// Whether a quantity is above the limit. An invalid limit, which validation reports, bounds nothing.
fn exceeds(request: &Quantity, limit: Option<&Quantity>) -> bool {
    let limit = limit
        .and_then(|limit| quantity::parse(&limit.0))
        .filter(|limit| !limit.is_negative());
    quantity::parse(&request.0)
        .zip(limit)
        .is_some_and(|(request, limit)| request > limit)
}

/// The limits that the user set, in the spec or in the pod template that is merged over it. Of two, the lower one:
/// a request has to stay within the spec's own limit too.
fn limits(spec: &MCPServerSpec) -> BTreeMap<String, Quantity> {
    let mut limits = spec
        .resources
        .as_ref()
        .map(|resources| resources.limits.clone())
        .unwrap_or_default();
    for (name, limit) in pod_template::own_container(spec.pod_template.as_ref())
        .and_then(|(_, container)| container["resources"]["limits"].as_object())
        .into_iter()
        .flatten()
    {
        // Validation reports a limit that cannot be parsed; null removes one.
        let Ok(limit) = serde_json::from_value::<Quantity>(limit.clone()) else {
            continue;
        };
        let ours = limits.entry(name.clone()).or_insert_with(|| limit.clone());
        if exceeds(ours, Some(&limit)) {
            *ours = limit;
        }
    }
    limits
}

fn stored_request<'a>(old: &'a MCPServer, name: &str) -> Option<&'a Quantity> {
    old.spec.resources.as_ref()?.requests.get(name)
}

fn given_by_default(old: &MCPServer, name: &str) -> bool {
    let Some(resources) = &old.spec.resources else {
        return false;
    };
    let given = request(old.spec.transport, name, &limits(&old.spec));
    resources
        .requests
        .get(name)
        .is_some_and(|stored| quantity::same(&stored.0, &given.0))
}

/// The container's security context: the user's as a whole, or one that passes Pod Security "restricted".
pub fn security_context(spec: &MCPServerSpec, platform: &Platform) -> SecurityContext {
    spec.security_context
        .clone()
        .unwrap_or_else(|| SecurityContext {
            allow_privilege_escalation: Some(false),
            run_as_non_root: Some(true),
            run_as_user: (!platform.assigns_users).then_some(1000),
            read_only_root_filesystem: Some(true),
            capabilities: Some(Capabilities {
                drop: Some(vec!["ALL".to_owned()]),
                add: None,
            }),
            seccomp_profile: Some(SeccompProfile {
                type_: "RuntimeDefault".to_owned(),
                localhost_profile: None,
            }),
            ..Default::default()
        })
}

/// The volume of the config.
pub const CONFIG_VOLUME: &str = "mcp-config";
/// Where the config is mounted.
pub const CONFIG_FOLDER: &str = "/etc/mcp";
/// The volume that a server with a read-only root file system can write to.
pub const TMP_VOLUME: &str = "mcp-tmp";

/// Where that volume is mounted.
pub const TMP_FOLDER: &str = "/tmp";

/// Whether `/tmp` needs a volume to be written to: the root file system of the container, as the pod template amends it,
/// is read-only.
pub fn has_tmp(spec: &MCPServerSpec) -> bool {
    let own = pod_template::own_container(spec.pod_template.as_ref());
    let context = own.and_then(|(_, container)| container.get("securityContext"));
    match context {
        // Null takes the whole away.
        Some(Value::Null) => false,
        Some(context) if context.get("readOnlyRootFilesystem").is_some() => {
            context["readOnlyRootFilesystem"] == true
        }
        _ => security_context(spec, &Platform::default()).read_only_root_filesystem == Some(true),
    }
}

/// The Service's type.
pub fn service_type(spec: &MCPServerSpec) -> &str {
    spec.service
        .as_ref()
        .and_then(|service| service.type_.as_deref())
        .unwrap_or("ClusterIP")
}

/// The Service's port.
pub fn service_port(spec: &MCPServerSpec) -> i32 {
    let service = spec.service.as_ref();
    service
        .and_then(|service| service.port)
        .unwrap_or(spec.port)
}

/// The path at which the server speaks MCP.
pub fn path(spec: &MCPServerSpec) -> &str {
    spec.path.as_deref().unwrap_or("/mcp")
}

/// The Service's session affinity. A session of streamable-http lives in one pod.
pub fn session_affinity(spec: &MCPServerSpec) -> &str {
    let by_transport = if spec.transport == Transport::StreamableHttp {
        "ClientIP"
    } else {
        "None"
    };
    spec.service
        .as_ref()
        .and_then(|service| service.session_affinity.as_deref())
        .unwrap_or(by_transport)
}

/// How the kubelet finds out whether a server is alive and ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probes<'a> {
    /// GET requests to these paths.
    Http {
        /// Path of the liveness probe.
        liveness: &'a str,
        /// Path of the readiness probe.
        readiness: &'a str,
    },
    /// Connections to the port.
    Tcp,
    /// Nothing: a running container is a ready one.
    None,
}

/// The probes of a server. One that speaks stdio has no port to probe.
pub fn probes(spec: &MCPServerSpec) -> Probes<'_> {
    if !spec.transport.is_network() {
        return Probes::None;
    }
    let health = spec.health.as_ref();
    match health.and_then(|health| health.type_.as_deref()) {
        Some("TCP") => Probes::Tcp,
        Some("None") => Probes::None,
        _ => Probes::Http {
            liveness: health
                .and_then(|health| health.liveness_path.as_deref())
                .unwrap_or("/health"),
            readiness: health
                .and_then(|health| health.readiness_path.as_deref())
                .unwrap_or("/ready"),
        },
    }
}

/// Seconds a server gets to finish the requests in flight.
pub fn grace_period_seconds(transport: Transport) -> i64 {
    match transport {
        Transport::Stdio => 5,
        Transport::Http => 15,
        Transport::StreamableHttp => 30,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn defaulted(resources: &Value, container: &Value, old: Option<&MCPServer>) -> MCPServer {
        let mut container = container.clone();
        container["name"] = json!(labels::CONTAINER);
        let mut server: MCPServer = serde_json::from_value(json!({
            "apiVersion": "mcp.example.com/v1alpha1", "kind": "MCPServer", "metadata": {"name": "a"},
            "spec": {"image": "x:1", "resources": resources, "podTemplate": {"spec": {"containers": [container]}}},
        }))
        .unwrap();
        default(&mut server, old);
        server
    }

    #[test]
    fn a_default_follows_the_limit_that_it_was_made_of() {
        let small = json!({"limits": {"cpu": "100m", "memory": "128Mi"}});
        let stored = defaulted(&small, &json!({}), None);
        let requests = |server: &MCPServer| json!(server.spec.resources.as_ref().unwrap().requests);
        assert_eq!(requests(&stored), json!({"cpu": "100m", "memory": "128Mi"}));
        let with = |limits: Value, cpu: &str| json!({"limits": limits, "requests": {"cpu": cpu, "memory": "128Mi"}});
        let table = [
            (
                "larger limits",
                with(json!({"cpu": "1", "memory": "1Gi"}), "100m"),
                json!({}),
                json!({"cpu": "200m", "memory": "256Mi"}),
            ),
            (
                "smaller limits",
                with(json!({"cpu": "50m", "memory": "64Mi"}), "100m"),
                json!({}),
                json!({"cpu": "50m", "memory": "64Mi"}),
            ),
            (
                "limits of the pod template",
                with(json!({"cpu": "1", "memory": "1Gi"}), "100m"),
                json!({"resources": {"limits": {"memory": "200Mi"}}}),
                json!({"cpu": "200m", "memory": "200Mi"}),
            ),
            (
                "one that this update chooses",
                with(json!({"cpu": "1", "memory": "1Gi"}), "150m"),
                json!({}),
                json!({"cpu": "150m", "memory": "256Mi"}),
            ),
        ];
        for (what, resources, container, expected) in table {
            let found = defaulted(&resources, &container, Some(&stored));
            assert_eq!(requests(&found), expected, "{what}");
        }
        let chosen = json!({"resources": {"requests": {"cpu": "10m"}}});
        let found = defaulted(&json!({}), &chosen, None);
        assert_eq!(
            requests(&found),
            json!({"memory": "256Mi"}),
            "no default beside the user's"
        );
    }

    #[test]
    fn tmp_has_a_volume_where_the_merged_root_file_system_is_read_only() {
        let writable = json!({"readOnlyRootFilesystem": false});
        let table = [
            ("by default", Value::Null, json!({}), true),
            ("the spec says no", writable.clone(), json!({}), false),
            (
                "the pod template says no",
                Value::Null,
                json!({"securityContext": writable}),
                false,
            ),
            (
                "the pod template says yes",
                writable,
                json!({"securityContext": {"readOnlyRootFilesystem": true}}),
                true,
            ),
            (
                "the pod template takes it away",
                Value::Null,
                json!({"securityContext": {"readOnlyRootFilesystem": null}}),
                false,
            ),
            (
                "the pod template takes all away",
                Value::Null,
                json!({"securityContext": null}),
                false,
            ),
            (
                "the pod template sets something else",
                Value::Null,
                json!({"securityContext": {"runAsUser": 5}}),
                true,
            ),
        ];
        for (what, context, container, expected) in table {
            let mut server = defaulted(&json!({}), &container, None);
            server.spec.security_context = serde_json::from_value(context).unwrap();
            assert_eq!(has_tmp(&server.spec), expected, "{what}");
        }
    }

    #[test]
    fn no_default_request_is_above_a_limit_of_the_pod_template() {
        let table = [
            (
                "a limit of the overlay",
                json!({}),
                json!({"resources": {"limits": {"memory": "64Mi"}}}),
                json!({"cpu": "200m", "memory": "64Mi"}),
            ),
            (
                "one beside a null",
                json!({}),
                json!({"resources": {"limits": {"memory": "64Mi", "cpu": null}}}),
                json!({"cpu": "200m", "memory": "64Mi"}),
            ),
            (
                "one beside a limit that cannot be read",
                json!({}),
                json!({"resources": {"limits": {"memory": "64Mi", "cpu": []}}}),
                json!({"cpu": "200m", "memory": "64Mi"}),
            ),
            (
                "a limit of the spec that null takes away later",
                json!({"limits": {"cpu": "10m", "memory": "32Mi"}}),
                json!({"resources": {"limits": {"cpu": null}}}),
                json!({"cpu": "10m", "memory": "32Mi"}),
            ),
            (
                "the lower one of two",
                json!({"limits": {"cpu": "10m", "memory": "64Mi"}}),
                json!({"resources": {"limits": {"cpu": "20m", "memory": "32Mi"}}}),
                json!({"cpu": "10m", "memory": "32Mi"}),
            ),
        ];
        for (what, resources, container, expected) in table {
            let server = defaulted(&resources, &container, None);
            let requests = server.spec.resources.unwrap().requests;
            assert_eq!(json!(requests), expected, "{what}");
        }
    }
}
