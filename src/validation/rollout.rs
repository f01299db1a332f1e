//! The rules of `spec.strategy` and `spec.disruptionBudget`: how pods are replaced, and how many may be evicted.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::Value;

use super::one_of;
use crate::api::field_error::shown;
use crate::api::v1alpha1::{DisruptionBudget, MCPServerSpec, Transport};
use crate::api::{FieldError, FieldPath};

/// The Deployment's strategy is one that Kubernetes takes (k8s.io/kubernetes `ValidateDeploymentStrategy`).
pub fn strategy(spec: &MCPServerSpec, faults: &mut Vec<FieldError>) {
    const PATH: FieldPath<'_> = FieldPath::SPEC.child("strategy");
    let Some(strategy) = &spec.strategy else {
        return;
    };
    let given = serde_json::to_value(strategy).unwrap_or_default();
    if spec.transport == Transport::Stdio {
        let detail = format!(
            "a stdio server is always recreated (value {}); remove it, or use the transport http or streamable-http",
            shown(&given)
        );
        faults.push(FieldError::forbidden(PATH, detail).in_schema());
    }
    let types = &["Recreate", "RollingUpdate"];
    one_of(
        &PATH.child("type"),
        strategy.type_.as_deref(),
        types,
        faults,
    );
    let Some(rolling) = &strategy.rolling_update else {
        return;
    };
    let path = PATH.child("rollingUpdate");
    if strategy.type_.as_deref() == Some("Recreate") {
        let detail = format!(
            "it is for spec.strategy.type RollingUpdate, not Recreate (value {}); remove one of the two",
            shown(&given["rollingUpdate"])
        );
        faults.push(FieldError::forbidden(path, detail).in_schema());
    }
    let (unavailable, surge) = (rolling.max_unavailable.as_ref(), rolling.max_surge.as_ref());
    number_or_share(
        &path.child("maxUnavailable"),
        unavailable,
        Some(100),
        faults,
    );
    number_or_share(&path.child("maxSurge"), surge, None, faults);
    if let (Some(unavailable), Some(surge)) = (unavailable, surge)
        && is_zero(unavailable)
        && is_zero(surge)
    {
        let detail = "may not be 0 when maxSurge is 0, too: no pod could be replaced; set one of the two to 1 or more";
        let shown = value(unavailable);
        faults.push(FieldError::invalid(
            path.child("maxUnavailable"),
            shown,
            detail,
        ));
    }
}

/// Exactly one of the two is given, and is a number or a share.
pub fn disruption_budget(spec: &MCPServerSpec, faults: &mut Vec<FieldError>) {
    const PATH: FieldPath<'_> = FieldPath::SPEC.child("disruptionBudget");
    let Some(budget) = &spec.disruption_budget else {
        return;
    };
    let DisruptionBudget {
        min_available,
        max_unavailable,
    } = budget;
    match (min_available, max_unavailable) {
        (None, None) => {
            let detail = "set one of minAvailable and maxUnavailable, or remove disruptionBudget";
            faults.push(FieldError::required(PATH, detail).in_schema());
        }
        (Some(_), Some(_)) => {
            let detail =
                "minAvailable and maxUnavailable cannot be used together; remove one of the two";
            faults.push(FieldError::invalid(PATH, "object", detail).in_schema());
        }
        _ => {}
    }
    for (field, value) in [
        ("minAvailable", min_available),
        ("maxUnavailable", max_unavailable),
    ] {
        number_or_share(&PATH.child(field), value.as_ref(), Some(100), faults);
    }
}

/// Whether no pod of this server may ever be evicted: then the drain of a node waits for ever.
pub fn blocks_eviction(spec: &MCPServerSpec) -> bool {
    let Some(budget) = &spec.disruption_budget else {
        return false;
    };
    let replicas = spec.replicas;
    match (&budget.min_available, &budget.max_unavailable) {
        (Some(IntOrString::Int(least)), None) => replicas > 0 && *least >= replicas,
        (Some(IntOrString::String(share)), None) => share == "100%",
        (None, Some(most)) => is_zero(most),
        _ => false,
    }
}

/// A number of pods, 0 or more, or a share such as 25%, at most `most` of a hundred.
fn number_or_share(
    path: &FieldPath<'_>,
    given: Option<&IntOrString>,
    most: Option<u64>,
    faults: &mut Vec<FieldError>,
) {
    let Some(given) = given else { return };
    let detail = match (given, share(given)) {
        (IntOrString::Int(number), _) if *number < 0 => "must be 0 or more".to_owned(),
        (IntOrString::String(_), None) => {
            "must be a whole number, or a share such as 25%".to_owned()
        }
        (IntOrString::String(_), Some(share)) if most.is_some_and(|most| share > most) => {
            format!("must not be more than {}%", most.unwrap_or_default())
        }
        _ => return,
    };
    faults.push(FieldError::invalid(path, value(given), detail));
}

/// The number before the percent sign.
fn share(given: &IntOrString) -> Option<u64> {
    let IntOrString::String(text) = given else {
        return None;
    };
    let digits = text.strip_suffix('%')?;
    let is_number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    // A larger one than a pod count can be is no share of anything.
    is_number
        .then(|| digits.parse().ok())
        .flatten()
        .filter(|share| i32::try_from(*share).is_ok())
}

fn is_zero(given: &IntOrString) -> bool {
    match given {
        IntOrString::Int(number) => *number == 0,
        IntOrString::String(_) => share(given) == Some(0),
    }
}

fn value(given: &IntOrString) -> Value {
    match given {
        IntOrString::Int(number) => Value::from(*number),
        IntOrString::String(text) => Value::from(text.as_str()),
    }
}
