//! The rules of `spec.service`: what the API server would refuse in the Service (k8s.io/kubernetes `ValidateService`), and
//! what goes with which transport and type.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::in_enum;
use super::metadata::{self, Own};
use crate::api::field_error::shown;
use crate::api::v1alpha1::{MCPServerSpec, ServiceOptions, Transport};
use crate::api::{FieldError, FieldPath, defaults, names};

const PATH: FieldPath<'_> = FieldPath::SPEC.child("service");

/// Checks the Service's options.
pub fn service(spec: &MCPServerSpec, faults: &mut Vec<FieldError>) {
    let Some(service) = &spec.service else { return };
    if spec.transport == Transport::Stdio {
        without_service(service, faults);
    }
    types(service, faults);
    by_type(spec, service, faults);
    if let Some(port) = service.port.filter(|port| !(1..=65535).contains(port)) {
        let detail = "must be between 1 and 65535";
        faults.push(FieldError::invalid(PATH.child("port"), port, detail).in_schema());
    }
    for (field, name) in [
        ("appProtocol", &service.app_protocol),
        ("loadBalancerClass", &service.load_balancer_class),
    ] {
        let malformed = |name: &&String| !names::is_qualified_name(name);
        if let Some(name) = name.as_ref().filter(malformed) {
            let detail = names::QUALIFIED_NAME;
            let fault = FieldError::invalid(PATH.child(field), name.as_str(), detail);
            faults.push(fault.in_schema_if_longer(name, names::LONGEST_QUALIFIED_NAME));
        }
    }
    let ranges = PATH.child("loadBalancerSourceRanges");
    for (index, range) in service.load_balancer_source_ranges.iter().enumerate() {
        if !is_range(range) {
            let detail =
                "must be a range of addresses in CIDR notation, such as 10.9.8.0/24 or fd00::/64";
            faults.push(FieldError::invalid(
                ranges.index(index),
                range.as_str(),
                detail,
            ));
        }
    }
    let (labels, annotations) = (PATH.child("labels"), PATH.child("annotations"));
    metadata::labels(&labels, &service.labels, Own::Refused, faults);
    metadata::annotations(&annotations, &service.annotations, Own::Refused, faults);
}

fn types(service: &ServiceOptions, faults: &mut Vec<FieldError>) {
    let enums: [(_, _, &[&str]); 4] = [
        (
            "type",
            &service.type_,
            &["ClusterIP", "NodePort", "LoadBalancer"],
        ),
        (
            "sessionAffinity",
            &service.session_affinity,
            &["None", "ClientIP"],
        ),
        (
            "externalTrafficPolicy",
            &service.external_traffic_policy,
            &["Cluster", "Local"],
        ),
        (
            "ipFamilyPolicy",
            &service.ip_family_policy,
            &["SingleStack", "PreferDualStack", "RequireDualStack"],
        ),
    ];
    for (field, value, supported) in enums {
        in_enum(&PATH.child(field), value.as_deref(), supported, faults);
    }
}

/// Every option that is set needs a Service.
fn without_service(service: &ServiceOptions, faults: &mut Vec<FieldError>) {
    let Ok(Value::Object(options)) = serde_json::to_value(service) else {
        return;
    };
    for (field, value) in &options {
        let detail = format!(
            "a stdio server has no Service (value {}); remove it, or use the transport http or streamable-http",
            shown(value)
        );
        faults.push(FieldError::forbidden(PATH.child(field), detail).in_schema());
    }
}

/// Some options are for some types only.
fn by_type(spec: &MCPServerSpec, service: &ServiceOptions, faults: &mut Vec<FieldError>) {
    let type_ = defaults::service_type(spec);
    let ranges = &service.load_balancer_source_ranges;
    let table = [
        (
            "loadBalancerClass",
            service.load_balancer_class.as_deref().map(Value::from),
            type_ == "LoadBalancer",
            "LoadBalancer",
        ),
        (
            "loadBalancerSourceRanges",
            (!ranges.is_empty()).then(|| json!(ranges)),
            type_ == "LoadBalancer",
            "LoadBalancer",
        ),
        (
            "externalTrafficPolicy",
            service.external_traffic_policy.as_deref().map(Value::from),
            type_ != "ClusterIP",
            "NodePort or LoadBalancer",
        ),
    ];
    for (field, value, is_right, right) in table {
        let Some(value) = value.filter(|_| !is_right) else {
            continue;
        };
        let detail = format!(
            "it is for spec.service.type {right}, not {type_} (value {}); remove it, or use {right}",
            shown(&value)
        );
        faults.push(FieldError::forbidden(PATH.child(field), detail));
    }
}

/// What an update must not change: Kubernetes keeps a load balancer's class for as long as there is one.
pub fn change(old: &MCPServerSpec, new: &MCPServerSpec, faults: &mut Vec<FieldError>) {
    let class = |spec: &MCPServerSpec| {
        let service = spec.service.clone().unwrap_or_default();
        (defaults::service_type(spec) == "LoadBalancer").then_some(service.load_balancer_class)
    };
    if let (Some(before), Some(after)) = (class(old), class(new))
        && before != after
    {
        let shown = after.map_or(Value::Null, Value::from);
        let before = before.map_or("none".to_owned(), |class| format!("{class:?}"));
        let detail = format!(
            "may not change while the type is LoadBalancer; it is {before}: put it back, or set another type first"
        );
        faults.push(FieldError::invalid(
            PATH.child("loadBalancerClass"),
            shown,
            detail,
        ));
    }
}

/// Whether this is a range of addresses. Kubernetes takes spaces around it.
fn is_range(text: &str) -> bool {
    let Some((address, bits)) = text.trim().split_once('/') else {
        return false;
    };
    let most = match address.parse::<IpAddr>() {
        Ok(IpAddr::V4(_)) => 32,
        Ok(IpAddr::V6(_)) => 128,
        Err(_) => return false,
    };
    bits.bytes().all(|b| b.is_ascii_digit()) && bits.parse::<u8>().is_ok_and(|bits| bits <= most)
}
