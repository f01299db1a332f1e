//! Labels, annotations and names that tie children to their MCPServer.

use std::collections::BTreeMap;

use super::MCPServer;
use kube::ResourceExt;

/// Finalizer that keeps an MCPServer until its pods are gone.
pub const FINALIZER: &str = "mcp.example.com/finalizer";
/// Value of `app.kubernetes.io/managed-by`, field manager of all writes, reporter of all Events.
pub const MANAGER: &str = "mcp-operator";
/// Label that names the program that manages an object.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Label that names the MCPServer.
pub const INSTANCE: &str = "app.kubernetes.io/instance";
/// Label that names the transport; never part of a selector, since a selector cannot be changed.
pub const TRANSPORT: &str = "mcp.example.com/transport";
/// Annotation of the pod template with a hash of the config: a config change rolls the pods.
pub const CONFIG_HASH: &str = "mcp.example.com/config-hash";
/// Annotation of a pod: the container that `kubectl logs` and `kubectl exec` mean when none is named.
pub const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";
/// Annotation of each child with a hash of what was applied. It tells a field that we no longer want from one that
/// somebody else set.
pub const APPLIED_HASH: &str = "mcp.example.com/applied-hash";
/// Annotation of a Deployment that is being shut down: when that began (RFC 3339).
pub const GRACEFUL_SHUTDOWN: &str = "mcp.example.com/graceful-shutdown";
/// Annotation of an MCPServer; whenever its value changes, everything that failed is retried at once.
pub const RECONCILE_AT: &str = "mcp.example.com/reconcile-at";
/// Name of the port, in the container and in the Service.
pub const PORT: &str = "mcp";
/// The container the server runs in.
pub const CONTAINER: &str = "mcp-server";

/// Whether an object has our finalizer.
pub fn has_finalizer(object: &impl ResourceExt) -> bool {
    object
        .finalizers()
        .iter()
        .any(|finalizer| finalizer == FINALIZER)
}

/// Labels that select the pods of the MCPServer of this name.
pub fn selector(name: &str) -> BTreeMap<String, String> {
    [
        ("app.kubernetes.io/name", "mcp-server"),
        (INSTANCE, name),
        ("app.kubernetes.io/component", "server"),
        (MANAGED_BY, MANAGER),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into()
}

/// The same as a string, as `kubectl get -l` takes it.
pub fn selector_string(name: &str) -> String {
    let pairs: Vec<_> = selector(name)
        .into_iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    pairs.join(",")
}

/// Labels of all children and of the pods.
pub fn all(server: &MCPServer) -> BTreeMap<String, String> {
    let mut labels = selector(&server.name_any());
    labels.insert(
        TRANSPORT.to_owned(),
        server.spec.transport.as_str().to_owned(),
    );
    labels
}

/// Whether the operator, or Kubernetes' controller of Deployments, sets this label or annotation itself.
pub fn is_own_key(key: &str) -> bool {
    key.starts_with("mcp.example.com/")
        // Kubernetes' own: its controllers set them back, and that would never end.
        || key.starts_with("deployment.kubernetes.io/")
        || key == "pod-template-hash"
        || key == DEFAULT_CONTAINER
        || selector("").contains_key(key)
}

/// The suffix of the ConfigMap's name, after the server's.
pub const CONFIG_SUFFIX: &str = "-config";

/// Name of the ConfigMap of the MCPServer of this name.
pub fn config_map_name(server: &str) -> String {
    format!("{server}{CONFIG_SUFFIX}")
}
