//! An ordinary review, as the API server sends it.

use hyper::body::Bytes;
use serde_json::{Value, json};

use crate::servers::{self, NAMESPACE};

/// The creation of an ordinary server by an ordinary user, as the validating webhook sees it.
pub(crate) fn ordinary() -> Bytes {
    let mut object = servers::object("ordinary");
    let metadata = json!({
        "name": "ordinary", "namespace": NAMESPACE, "generation": 1, "uid": "0d6b1f5e-6a3f-4a55-9f4b-6f0f8a3d2c11",
        "creationTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["mcp.example.com/finalizer"],
        "managedFields": [{"apiVersion": "mcp.example.com/v1alpha1", "fieldsType": "FieldsV1", "manager": "kubectl-create",
            "operation": "Update", "time": "2026-01-01T00:00:00Z", "fieldsV1": {"f:spec": {".": {}, "f:config": {".": {}, "f:K": {}},
            "f:image": {}, "f:port": {}, "f:replicas": {}, "f:transport": {}}}}],
    });
    object["metadata"] = metadata;
    object["spec"]["transport"] = json!("streamable-http");
    object["spec"]["port"] = json!(8080);
    object["spec"]["replicas"] = json!(1);
    object["spec"]["resources"] = json!({"requests": {"cpu": "200m", "memory": "256Mi"}});
    object["status"] = json!({"observedGeneration": -1});
    let kind = json!({"group": "mcp.example.com", "version": "v1alpha1", "kind": "MCPServer"});
    let resource =
        json!({"group": "mcp.example.com", "version": "v1alpha1", "resource": "mcpservers"});
    let review = json!({
        "kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1",
        "request": {
            "uid": "705ab4f5-6393-11e8-b7cc-42010a800002", "kind": kind, "resource": resource, "requestKind": kind,
            "requestResource": resource, "name": "ordinary", "namespace": NAMESPACE, "operation": "CREATE",
            "userInfo": {"username": "jane", "groups": ["developers", "system:authenticated"]},
            "object": object, "oldObject": null, "dryRun": false,
            "options": {"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1", "fieldManager": "kubectl-create"},
        },
    });
    review.to_string().into()
}

/// Whether an answer lets it through.
pub(crate) fn is_allowed(answer: &[u8]) -> bool {
    let answer: Value = serde_json::from_slice(answer).unwrap_or_default();
    answer["response"]["allowed"] == true
}
