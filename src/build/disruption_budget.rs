//! The PodDisruptionBudget: how many pods may be evicted at once.

use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::ResourceExt;

use crate::api::{MCPServer, labels};

/// The PodDisruptionBudget of a server that asks for one.
pub fn disruption_budget(server: &MCPServer) -> Option<PodDisruptionBudget> {
    let budget = server.spec.disruption_budget.as_ref()?;
    Some(PodDisruptionBudget {
        metadata: super::metadata(server, server.name_any()),
        spec: Some(PodDisruptionBudgetSpec {
            min_available: budget.min_available.clone(),
            max_unavailable: budget.max_unavailable.clone(),
            selector: Some(LabelSelector {
                match_labels: Some(labels::selector(&server.name_any())),
                match_expressions: None,
            }),
            // A pod that runs without ever being ready would keep its node from being drained.
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
        }),
        status: None,
    })
}
