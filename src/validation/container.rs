//! The rules for the parts of a container: resources, security context, environment. They apply to our own container
//! and to those of the pod template.

use std::collections::{BTreeMap, HashSet};

use k8s_openapi::api::core::v1::{EnvFromSource, EnvVar, EnvVarSource, SecurityContext};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde_json::json;

use crate::api::field_error::shown;
use crate::api::v1alpha1::Resources;
use crate::api::{FieldError, FieldPath, names, quantity};

/// Quantities parse and are not negative, names are resources, requests stay within limits.
pub fn resources(
    path: &FieldPath<'_>,
    resources: Option<&Resources>,
    faults: &mut Vec<FieldError>,
) {
    let Some(resources) = resources else { return };
    quantities(&path.child("requests"), &resources.requests, faults);
    quantities(&path.child("limits"), &resources.limits, faults);
    for (name, request) in &resources.requests {
        let limit = resources.limits.get(name);
        let (requests, limits) = (path.child("requests"), path.child("limits"));
        let path = requests.key(name);
        let parsed = (
            quantity::parse(&request.0),
            limit.and_then(|limit| quantity::parse(&limit.0)),
        );
        match (parsed, limit) {
            ((Some(value), Some(bound)), Some(limit)) if value > bound => {
                let detail = format!("must be less than or equal to the limit {:?}", limit.0);
                faults.push(FieldError::invalid(path, request.0.as_str(), detail));
            }
            ((Some(value), Some(bound)), Some(limit))
                if not_overcommitted(name) && value != bound =>
            {
                let detail = format!(
                    "must equal the limit {:?}: {name} cannot be overcommitted",
                    limit.0
                );
                faults.push(FieldError::invalid(path, request.0.as_str(), detail));
            }
            (_, None) if not_overcommitted(name) => {
                faults.push(FieldError::required(
                    limits.key(name),
                    format!("{name} cannot be overcommitted: set a limit too"),
                ));
            }
            _ => {}
        }
    }
}

fn quantities(
    path: &FieldPath<'_>,
    values: &BTreeMap<String, Quantity>,
    faults: &mut Vec<FieldError>,
) {
    for (name, value) in values {
        let path = path.key(name);
        if !is_resource(name) {
            let detail = "must be cpu, memory, ephemeral-storage, hugepages-<size> or a name with a domain \
                 such as nvidia.com/gpu";
            faults.push(FieldError::invalid(path, name.as_str(), detail));
        }
        match quantity::parse(&value.0) {
            None => {
                let detail = "not a quantity; examples: 100m, 0.5, 128Mi, 1Gi";
                faults.push(FieldError::invalid(path, value.0.as_str(), detail));
            }
            Some(parsed) if name.contains('/') && !parsed.is_whole() => {
                let detail = format!("must be a whole number: {name} cannot be divided");
                faults.push(FieldError::invalid(path, value.0.as_str(), detail));
            }
            Some(parsed) if parsed.is_negative() => {
                faults.push(FieldError::invalid(
                    path,
                    value.0.as_str(),
                    "must be 0 or more",
                ));
            }
            Some(_) => {}
        }
    }
}

fn is_resource(name: &str) -> bool {
    matches!(name, "cpu" | "memory" | "ephemeral-storage")
        || name.starts_with("hugepages-")
        || (name.contains('/') && names::is_qualified_name(name))
}

/// Whether Kubernetes accepts a request only with an equal limit: extended resources and huge pages.
fn not_overcommitted(name: &str) -> bool {
    name.contains('/') || name.starts_with("hugepages-")
}

/// Finds contradictions that make the API server or the kubelet refuse the pod. `host_users`: whether the pod runs in
/// the user namespace of its node (the default of `hostUsers`).
pub fn security_context(
    path: &FieldPath<'_>,
    context: Option<&SecurityContext>,
    host_users: bool,
    faults: &mut Vec<FieldError>,
) {
    let Some(context) = context else { return };
    let escalation = context.allow_privilege_escalation;
    if context.privileged == Some(true) && escalation == Some(false) {
        let detail = "a privileged container can always gain privileges; set it to true, or privileged to false";
        faults.push(FieldError::invalid(
            path.child("allowPrivilegeEscalation"),
            false,
            detail,
        ));
    }
    let added = context
        .capabilities
        .as_ref()
        .and_then(|c| c.add.as_deref())
        .unwrap_or_default();
    // Only this spelling is refused (k8s.io/kubernetes `ValidateSecurityContext`).
    if escalation == Some(false) && added.iter().any(|c| c == "CAP_SYS_ADMIN") {
        let detail = "CAP_SYS_ADMIN can always gain privileges; set it to true, or do not add that capability";
        faults.push(FieldError::invalid(
            path.child("allowPrivilegeEscalation"),
            false,
            detail,
        ));
    }
    if context.run_as_non_root == Some(true) && context.run_as_user == Some(0) {
        let detail = "user 0 is root and runAsNonRoot is true; choose another user, or set runAsNonRoot to false";
        faults.push(FieldError::invalid(path.child("runAsUser"), 0, detail));
    }
    for (field, id) in [
        ("runAsUser", context.run_as_user),
        ("runAsGroup", context.run_as_group),
    ] {
        if let Some(id) = id.filter(|id| !(0..=i64::from(i32::MAX)).contains(id)) {
            let detail = format!("must be between 0 and {}", i32::MAX);
            faults.push(FieldError::invalid(path.child(field), id, detail));
        }
    }
    if let Some(mount) = context
        .proc_mount
        .as_deref()
        .filter(|mount| !["Default", "Unmasked"].contains(mount))
    {
        faults.push(FieldError::not_supported(
            path.child("procMount"),
            mount,
            &["Default", "Unmasked"],
        ));
    }
    if host_users && context.proc_mount.as_deref() == Some("Unmasked") {
        let detail = "the pod needs users of its own for it; set spec.podTemplate.spec.hostUsers to false, or use Default";
        faults.push(FieldError::invalid(
            path.child("procMount"),
            "Unmasked",
            detail,
        ));
    }
    if let Some(profile) = &context.seccomp_profile {
        local_profile(
            &path.child("seccompProfile"),
            &profile.type_,
            profile.localhost_profile.as_deref(),
            faults,
        );
    }
    if let Some(profile) = &context.app_armor_profile {
        local_profile(
            &path.child("appArmorProfile"),
            &profile.type_,
            profile.localhost_profile.as_deref(),
            faults,
        );
    }
    if let Some(options) = &context.windows_options {
        let detail = format!(
            "the operator's pods run on Linux (value {}); remove it",
            shown(&json!(options))
        );
        faults.push(FieldError::forbidden(path.child("windowsOptions"), detail));
    }
}

fn local_profile(
    path: &FieldPath<'_>,
    type_: &str,
    profile: Option<&str>,
    faults: &mut Vec<FieldError>,
) {
    const TYPES: &[&str] = &["Localhost", "RuntimeDefault", "Unconfined"];
    if !TYPES.contains(&type_) {
        faults.push(FieldError::not_supported(path.child("type"), type_, TYPES));
    }
    let field = path.child("localhostProfile");
    match profile {
        None | Some("") if type_ == "Localhost" => {
            faults.push(FieldError::required(
                field,
                "must be set for the type Localhost",
            ));
        }
        Some(profile) if type_ != "Localhost" => {
            let detail = format!("{profile:?} is for the type Localhost, not {type_}");
            faults.push(FieldError::forbidden(field, detail));
        }
        _ => {}
    }
}

/// Names are well formed and unique; a value has one source.
pub fn env(path: &FieldPath<'_>, env: &[EnvVar], faults: &mut Vec<FieldError>) {
    env_entries(path, env, faults);
    let mut seen = HashSet::new();
    for (index, entry) in env.iter().enumerate() {
        if !entry.name.is_empty() && !seen.insert(&entry.name) {
            let path = path.index(index);
            let fault = FieldError::duplicate(path.child("name"), entry.name.as_str());
            faults.push(fault.in_schema());
        }
    }
}

/// The rules of [`env()`] for each entry by itself, without uniqueness.
pub fn env_entries(path: &FieldPath<'_>, env: &[EnvVar], faults: &mut Vec<FieldError>) {
    for (index, entry) in env.iter().enumerate() {
        let path = path.index(index);
        if entry.name.is_empty() {
            faults.push(FieldError::required(path.child("name"), names::ENV_NAME));
        } else if !names::is_env_name(&entry.name) {
            faults.push(FieldError::invalid(
                path.child("name"),
                entry.name.as_str(),
                names::ENV_NAME,
            ));
        }
        if let Some(source) = &entry.value_from {
            let path = path.child("valueFrom");
            if let Some(value) = entry.value.as_deref().filter(|value| !value.is_empty()) {
                let detail = format!("{} has a value already; remove one of the two", entry.name);
                faults.push(FieldError::invalid(path, value, detail));
            }
            env_source(&path, source, faults);
        }
    }
}

fn env_source(path: &FieldPath<'_>, source: &EnvVarSource, faults: &mut Vec<FieldError>) {
    let given = [
        ("configMapKeyRef", source.config_map_key_ref.is_some()),
        ("fieldRef", source.field_ref.is_some()),
        ("fileKeyRef", source.file_key_ref.is_some()),
        ("resourceFieldRef", source.resource_field_ref.is_some()),
        ("secretKeyRef", source.secret_key_ref.is_some()),
    ];
    one_source(path, &given, faults);
    let keys = [
        (
            "configMapKeyRef",
            source
                .config_map_key_ref
                .as_ref()
                .map(|r| (&r.name, &r.key)),
        ),
        (
            "secretKeyRef",
            source.secret_key_ref.as_ref().map(|r| (&r.name, &r.key)),
        ),
    ];
    for (field, reference) in keys {
        let Some((name, key)) = reference else {
            continue;
        };
        object_name(&path.child(field).child("name"), name, faults);
        if !names::is_config_map_key(key) {
            faults.push(FieldError::invalid(
                path.child(field).child("key"),
                key.as_str(),
                names::CONFIG_MAP_KEY,
            ));
        }
    }
    if let Some(field) = &source.field_ref {
        field_path(
            &path.child("fieldRef").child("fieldPath"),
            &field.field_path,
            faults,
        );
    }
    if let Some(field) = &source.resource_field_ref {
        let resource = field.resource.as_str();
        let known = resource
            .strip_prefix("limits.")
            .or_else(|| resource.strip_prefix("requests."));
        if !known.is_some_and(|name| is_resource(name) && !name.contains('/')) {
            let detail = "must be limits.<name> or requests.<name> of cpu, memory, ephemeral-storage or hugepages-<size>";
            let path = path.child("resourceFieldRef");
            faults.push(FieldError::invalid(
                path.child("resource"),
                resource,
                detail,
            ));
        }
    }
}

fn one_source(path: &FieldPath<'_>, given: &[(&str, bool)], faults: &mut Vec<FieldError>) {
    let named: Vec<_> = given
        .iter()
        .filter(|(_, given)| *given)
        .map(|(name, _)| *name)
        .collect();
    let all: Vec<_> = given.iter().map(|(name, _)| *name).collect();
    if named.is_empty() {
        faults.push(FieldError::required(
            path,
            format!("set one of {}", all.join(", ")),
        ));
    } else if named.len() > 1 {
        faults.push(FieldError::invalid(
            path,
            named.join(", "),
            format!("set only one of {}", all.join(", ")),
        ));
    }
}

/// Fields of a pod that an environment variable can have (k8s.io/kubernetes `validEnvDownwardAPIFieldPathExpressions`).
fn field_path(path: &FieldPath<'_>, value: &str, faults: &mut Vec<FieldError>) {
    const FIELDS: &[&str] = &[
        "metadata.name",
        "metadata.namespace",
        "metadata.uid",
        "metadata.labels['KEY']",
        "metadata.annotations['KEY']",
        "spec.nodeName",
        "spec.serviceAccountName",
        "status.hostIP",
        "status.hostIPs",
        "status.podIP",
        "status.podIPs",
    ];
    let keyed = ["metadata.labels['", "metadata.annotations['"]
        .iter()
        .any(|prefix| {
            value
                .strip_prefix(prefix)
                .is_some_and(|rest| rest.strip_suffix("']").is_some_and(|k| !k.is_empty()))
        });
    if !keyed && (!FIELDS.contains(&value) || value.ends_with("['KEY']")) {
        faults.push(FieldError::not_supported(path, value, FIELDS));
    }
}

/// Each entry has one source, with a name.
pub fn env_from(path: &FieldPath<'_>, sources: &[EnvFromSource], faults: &mut Vec<FieldError>) {
    for (index, source) in sources.iter().enumerate() {
        let path = path.index(index);
        if let Some(prefix) = source
            .prefix
            .as_deref()
            .filter(|p| !p.is_empty() && !names::is_env_name(p))
        {
            faults.push(FieldError::invalid(
                path.child("prefix"),
                prefix,
                names::ENV_NAME,
            ));
        }
        let given = [
            ("configMapRef", source.config_map_ref.is_some()),
            ("secretRef", source.secret_ref.is_some()),
        ];
        one_source(&path, &given, faults);
        if let Some(reference) = &source.config_map_ref {
            object_name(
                &path.child("configMapRef").child("name"),
                &reference.name,
                faults,
            );
        }
        if let Some(reference) = &source.secret_ref {
            object_name(
                &path.child("secretRef").child("name"),
                &reference.name,
                faults,
            );
        }
    }
}

fn object_name(path: &FieldPath<'_>, name: &str, faults: &mut Vec<FieldError>) {
    if !names::is_dns1123_subdomain(name) {
        faults.push(FieldError::invalid(path, name, names::DNS_1123));
    }
}
