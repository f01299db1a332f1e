//! The rules, for the webhook, the reconciler and `validate` alike. One pass finds every fault of an object.

pub mod budget;
mod container;
#[cfg(test)]
mod properties;
mod template;
#[cfg(test)]
mod tests;

use std::collections::HashSet;

use kube::ResourceExt;
use serde_json::{Value, json};

use crate::api::field_error::{FieldError, MOST_RECORDED, shown};
use crate::api::v1alpha1::{MCPServer, MCPServerSpec, Transport};
use crate::api::{FieldPath, config_json, image_reference, labels, names, pod_template, session};

/// The most bytes of a ConfigMap's values; the API server refuses more.
const CONFIG_MAP_LIMIT: usize = 1024 * 1024;

/// Names of the environment variables that the operator sets.
pub const BUILT_IN_ENV: [&str; 6] = [
    "MCP_TRANSPORT",
    "MCP_PORT",
    "MCP_SERVER_NAME",
    "POD_NAME",
    "POD_NAMESPACE",
    CONFIG_FILE_ENV,
];

/// The most faults that are reported at once. An object has room for a hundred thousand, which nobody would read.
const MOST_FAULTS: usize = 100;

/// The variable that is set only when there is config.
const CONFIG_FILE_ENV: &str = "MCP_CONFIG_FILE";

/// Every fault of the object.
///
/// `old` is the stored object of an update. Faults that it already has are let through: a rule that was added later
/// must not make stored objects uneditable.
pub fn faults(server: &MCPServer, old: Option<&MCPServer>) -> Vec<FieldError> {
    let mut faults = all_faults(server);
    if let Some(old) = old.filter(|_| !faults.is_empty()) {
        let known: HashSet<_> = all_faults(old).into_iter().collect();
        faults.retain(|fault| !known.contains(fault));
    }
    let more = faults.len().saturating_sub(MOST_FAULTS);
    if more > 0 {
        faults.truncate(MOST_FAULTS);
        let detail = format!("there are {more} more faults, shown when these are mended");
        faults.push(FieldError::forbidden(FieldPath::SPEC, detail));
    }
    faults
}

/// Adds what the rules say of an object to what cannot be decoded of it. Where that is, the rules saw something else.
pub fn add_rules(faults: &mut Vec<FieldError>, mut rules: Vec<FieldError>) {
    rules.retain(|rule| {
        let is_within = |fault: &FieldError| {
            let rest = rule.field.strip_prefix(&*fault.field);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        };
        !faults.iter().any(is_within)
    });
    faults.append(&mut rules);
}

fn all_faults(server: &MCPServer) -> Vec<FieldError> {
    let spec = &server.spec;
    let mut faults = Vec::new();
    name(server, &mut faults);
    image(spec, &mut faults);
    scale(spec, &mut faults);
    config(server, &mut faults);
    container::resources(
        &FieldPath::SPEC.child("resources"),
        spec.resources.as_ref(),
        &mut faults,
    );
    container::security_context(
        &FieldPath::SPEC.child("securityContext"),
        spec.security_context.as_ref(),
        pod_template::host_users(spec.pod_template.as_ref()),
        &mut faults,
    );
    service_account(spec, &mut faults);
    container::env(&FieldPath::SPEC.child("env"), &spec.env, &mut faults);
    container::env_from(
        &FieldPath::SPEC.child("envFrom"),
        &spec.env_from,
        &mut faults,
    );
    pull(spec, &mut faults);
    service(spec, &mut faults);
    health(spec, &mut faults);
    template::pod_template(server, &mut faults);
    faults
}

fn name(server: &MCPServer, faults: &mut Vec<FieldError>) {
    let name = server.name_any();
    let to_be_generated = server.metadata.name.is_none() && server.metadata.generate_name.is_some();
    if !to_be_generated && !names::is_dns1035_label(&name) {
        faults.push(FieldError::invalid(
            FieldPath::METADATA.child("name"),
            name,
            names::DNS_1035,
        ));
    }
}

fn image(spec: &MCPServerSpec, faults: &mut Vec<FieldError>) {
    if spec.image.is_empty() {
        faults.push(FieldError::required(
            FieldPath::SPEC.child("image"),
            "name the container image of the server",
        ));
    } else if image_reference::parse(&spec.image).is_none() {
        let detail = "not an image reference; expected [registry/]repository[:tag][@digest], \
             the repository in lower case, the digest as well, all of it ASCII without spaces";
        faults.push(FieldError::invalid(
            FieldPath::SPEC.child("image"),
            spec.image.as_str(),
            detail,
        ));
    }
}

/// Checks the number of replicas against the transport; also for requests to the scale subresource.
pub fn replicas(transport: Transport, replicas: i32) -> Option<FieldError> {
    if replicas < 0 {
        return Some(FieldError::invalid(
            FieldPath::SPEC.child("replicas"),
            replicas,
            "must be 0 or more",
        ));
    }
    if transport == Transport::Stdio && replicas > 1 {
        let detail = format!(
            "stdio transport does not support multiple replicas (requested: {replicas}); \
             set it to 1, or use the transport http or streamable-http"
        );
        return Some(FieldError::invalid(
            FieldPath::SPEC.child("replicas"),
            replicas,
            detail,
        ));
    }
    None
}

fn scale(spec: &MCPServerSpec, faults: &mut Vec<FieldError>) {
    if !(1..=65535).contains(&spec.port) {
        faults.push(FieldError::invalid(
            FieldPath::SPEC.child("port"),
            spec.port,
            "must be between 1 and 65535",
        ));
    }
    faults.extend(replicas(spec.transport, spec.replicas));
}

fn config(server: &MCPServer, faults: &mut Vec<FieldError>) {
    let spec = &server.spec;
    let path = FieldPath::SPEC.child("config");
    for key in spec.config.keys() {
        let path = path.key(key);
        if key == config_json::KEY {
            faults.push(FieldError::invalid(
                path,
                key.as_str(),
                "this file is made by the operator; use another key",
            ));
        } else if !names::is_config_map_key(key) {
            faults.push(FieldError::invalid(
                path,
                key.as_str(),
                names::CONFIG_MAP_KEY,
            ));
        }
    }
    match spec.transport {
        Transport::StreamableHttp => session_timeout(spec, faults),
        Transport::Http => cors_origins(spec, faults),
        Transport::Stdio => {}
    }
    if !spec.config.is_empty() {
        let values: usize = spec.config.values().map(String::len).sum();
        let keys: usize = spec.config.keys().map(String::len).sum();
        let size = values + keys + config_json::render(server).len();
        if size >= CONFIG_MAP_LIMIT {
            faults.push(FieldError::too_long(path, size, CONFIG_MAP_LIMIT - 1));
        }
    }
}

fn session_timeout(spec: &MCPServerSpec, faults: &mut Vec<FieldError>) {
    let Some(value) = spec.config.get(session::SESSION_TIMEOUT) else {
        return;
    };
    if session::parse_timeout(value).is_none() {
        let detail = format!(
            "invalid SESSION_TIMEOUT format: {value}; a duration above zero such as \"30m\" or \"1h30m\" is expected"
        );
        faults.push(FieldError::invalid(
            FieldPath::SPEC
                .child("config")
                .key(session::SESSION_TIMEOUT),
            value.as_str(),
            detail,
        ));
    }
}

fn cors_origins(spec: &MCPServerSpec, faults: &mut Vec<FieldError>) {
    let config = FieldPath::SPEC.child("config");
    let path = config.key(session::CORS_ORIGINS);
    let Some(value) = spec.config.get(session::CORS_ORIGINS) else {
        return;
    };
    if value.trim().is_empty() {
        let detail =
            "CORS_ORIGINS cannot be empty when specified; leave it out to allow every origin";
        faults.push(FieldError::invalid(path, value.as_str(), detail));
        return;
    }
    for origin in session::origins(spec)
        .into_iter()
        .filter(|origin| !session::is_origin(origin))
        .take(MOST_RECORDED)
    {
        let detail = "not an origin; each is \"*\" or scheme://host[:port], without a path, separated by commas";
        faults.push(FieldError::invalid(path, origin, detail));
    }
}

fn service_account(spec: &MCPServerSpec, faults: &mut Vec<FieldError>) {
    if let Some(name) = spec
        .service_account
        .as_deref()
        .filter(|name| !names::is_dns1123_subdomain(name))
    {
        faults.push(FieldError::invalid(
            FieldPath::SPEC.child("serviceAccount"),
            name,
            names::DNS_1123,
        ));
    }
}

fn one_of(
    path: &FieldPath<'_>,
    value: Option<&str>,
    supported: &[&str],
    faults: &mut Vec<FieldError>,
) {
    if let Some(value) = value.filter(|value| !supported.contains(value)) {
        faults.push(FieldError::not_supported(path, value, supported));
    }
}

fn pull(spec: &MCPServerSpec, faults: &mut Vec<FieldError>) {
    one_of(
        &FieldPath::SPEC.child("imagePullPolicy"),
        spec.image_pull_policy.as_deref(),
        &["Always", "IfNotPresent", "Never"],
        faults,
    );
    let mut seen = HashSet::new();
    let path = FieldPath::SPEC.child("imagePullSecrets");
    for (index, secret) in spec.image_pull_secrets.iter().enumerate() {
        let path = path.index(index);
        let path = path.child("name");
        if !names::is_dns1123_subdomain(&secret.name) {
            faults.push(FieldError::invalid(
                path,
                secret.name.as_str(),
                names::DNS_1123,
            ));
        } else if !seen.insert(&secret.name) {
            faults.push(FieldError::duplicate(path, secret.name.as_str()));
        }
    }
}

fn service(spec: &MCPServerSpec, faults: &mut Vec<FieldError>) {
    let Some(service) = &spec.service else { return };
    let path = FieldPath::SPEC.child("service");
    if spec.transport == Transport::Stdio {
        let annotations = &service.annotations;
        let given = [
            ("type", service.type_.as_deref().map(Value::from)),
            (
                "annotations",
                (!annotations.is_empty()).then(|| json!(annotations)),
            ),
            (
                "sessionAffinity",
                service.session_affinity.as_deref().map(Value::from),
            ),
        ];
        for (field, value) in given {
            let Some(value) = value else { continue };
            let detail = format!(
                "a stdio server has no Service (value {}); remove it, or use the transport http or streamable-http",
                shown(&value)
            );
            faults.push(FieldError::forbidden(path.child(field), detail));
        }
    }
    one_of(
        &path.child("type"),
        service.type_.as_deref(),
        &["ClusterIP", "NodePort", "LoadBalancer"],
        faults,
    );
    one_of(
        &path.child("sessionAffinity"),
        service.session_affinity.as_deref(),
        &["None", "ClientIP"],
        faults,
    );
    for key in service
        .annotations
        .keys()
        .filter(|key| !names::is_qualified_name(&key.to_lowercase()))
    {
        faults.push(FieldError::invalid(
            path.child("annotations"),
            key.as_str(),
            names::QUALIFIED_NAME,
        ));
    }
}

fn health(spec: &MCPServerSpec, faults: &mut Vec<FieldError>) {
    let Some(health) = &spec.health else { return };
    let fields = FieldPath::SPEC.child("health");
    one_of(
        &fields.child("type"),
        health.type_.as_deref(),
        &["HTTP", "TCP", "None"],
        faults,
    );
    let http = health.type_.as_deref().is_none_or(|type_| type_ == "HTTP");
    for (field, path) in [
        ("livenessPath", &health.liveness_path),
        ("readinessPath", &health.readiness_path),
    ] {
        let Some(path) = path else { continue };
        let field = fields.child(field);
        if !http {
            let type_ = health.type_.as_deref().unwrap_or_default();
            let detail = format!(
                "{path:?} is for spec.health.type HTTP, not {type_}; remove it, or use HTTP"
            );
            faults.push(FieldError::forbidden(field, detail));
        }
        if !path.starts_with('/') {
            faults.push(FieldError::invalid(
                field,
                path.as_str(),
                "must start with '/'",
            ));
        }
    }
}

/// Warnings about what is valid but probably not meant. Never a reason to refuse.
pub fn warnings(server: &MCPServer) -> Vec<String> {
    let spec = &server.spec;
    let mut warnings = Vec::new();
    if let Some(text) = moving_tag(&spec.image) {
        warnings.push(text);
    }
    let config = FieldPath::SPEC.child("config");
    for (key, of) in [
        (session::SESSION_TIMEOUT, Transport::StreamableHttp),
        (session::CORS_ORIGINS, Transport::Http),
    ] {
        if spec.transport != of && spec.config.contains_key(key) {
            let (used, is) = (of.as_str(), spec.transport.as_str());
            warnings.push(format!(
                "{}: only the transport {used} uses it; this one is {is}",
                config.key(key)
            ));
        }
    }
    let env = FieldPath::SPEC.child("env");
    for (index, entry) in spec.env.iter().enumerate() {
        warnings.extend(replaced(spec, &env.index(index), &entry.name));
    }
    if let Some((at, container)) = pod_template::own_container(spec.pod_template.as_ref()) {
        let pod = FieldPath::POD_TEMPLATE.child("spec");
        let containers = pod.child("containers");
        let ours = containers.index(at);
        let env = ours.child("env");
        for (index, name) in pod_template::env(container) {
            warnings.extend(replaced(spec, &env.index(index), name));
        }
    }
    warnings.extend(not_hardened(spec));
    warnings.extend(no_replicas(spec.replicas));
    warnings
}

/// The warning about a security context that leaves out what the operator would set: it replaces the whole.
fn not_hardened(spec: &MCPServerSpec) -> Option<String> {
    let given = spec.security_context.as_ref()?;
    let left_out: Vec<_> = [
        (
            "allowPrivilegeEscalation",
            given.allow_privilege_escalation.is_none(),
        ),
        ("capabilities", given.capabilities.is_none()),
        (
            "readOnlyRootFilesystem",
            given.read_only_root_filesystem.is_none(),
        ),
        ("runAsNonRoot", given.run_as_non_root.is_none()),
        ("runAsUser", given.run_as_user.is_none()),
        ("seccompProfile", given.seccomp_profile.is_none()),
    ]
    .into_iter()
    .filter_map(|(field, is_left_out)| is_left_out.then_some(field))
    .collect();
    (!left_out.is_empty()).then(|| {
        format!(
            "spec.securityContext: it replaces the operator's as a whole, so that these are not set any more: {}; to change \
             one field and keep the others, set it for the container {} in spec.podTemplate",
            left_out.join(", "),
            labels::CONTAINER
        )
    })
}

/// The warning about a variable that replaces one of the operator's.
fn replaced(spec: &MCPServerSpec, path: &FieldPath<'_>, name: &str) -> Option<String> {
    is_built_in(spec, name).then(|| {
        let path = path.child("name");
        format!("{path}: {name} replaces the variable that the operator sets")
    })
}

/// Whether the operator sets the variable in the pods of this server.
fn is_built_in(spec: &MCPServerSpec, name: &str) -> bool {
    BUILT_IN_ENV.contains(&name) && (name != CONFIG_FILE_ENV || !spec.config.is_empty())
}

/// The warning about zero replicas; also for requests to the scale subresource.
pub fn no_replicas(replicas: i32) -> Option<String> {
    (replicas == 0).then(|| {
        let path = FieldPath::SPEC.child("replicas");
        format!("{path}: 0 replicas; nothing will run until it is scaled up")
    })
}

fn moving_tag(image: &str) -> Option<String> {
    let reference = image_reference::parse(image)?;
    if reference.digest.is_some() {
        return None;
    }
    let path = FieldPath::SPEC.child("image");
    match reference.tag {
        Some("latest") => Some(format!(
            "{path}: {image:?} has the tag latest, which moves; name a version or a digest"
        )),
        Some(_) => None,
        None => Some(format!(
            "{path}: {image:?} has no tag, which means latest, which moves; name a version or a digest"
        )),
    }
}
