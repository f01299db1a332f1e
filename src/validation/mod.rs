//! The rules, for the webhook, the reconciler and `validate` alike. One pass finds every fault of an object.

pub mod budget;
mod container;
mod metadata;
pub mod pod_security;
#[cfg(test)]
pub(crate) mod properties;
mod rollout;
mod service;
mod template;
#[cfg(test)]
mod tests;
mod warnings;

pub use warnings::{no_replicas, warnings};

use std::collections::HashSet;

use kube::ResourceExt;
use metadata::Own;

use crate::api::field_error::{FieldError, MOST_RECORDED, shown};
use crate::api::v1alpha1::{MCPServer, MCPServerSpec, Transport};
use crate::api::{FieldPath, config_json, image_reference, names, pod_template, session};

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
    let mut faults = new_faults(server, old, all_faults);
    if let Some(old) = old {
        service::change(&old.spec, &server.spec, &mut faults);
    }
    let more = faults.len().saturating_sub(MOST_FAULTS);
    if more > 0 {
        faults.truncate(MOST_FAULTS);
        let detail = format!("there are {more} more faults, shown when these are mended");
        faults.push(FieldError::forbidden(FieldPath::SPEC, detail));
    }
    faults
}

/// Whether the CRD's schema would refuse the object, and show a part of the faults only. Of the stored object of an
/// update the API server lets the same faults through.
pub fn is_refused_by_schema(server: &MCPServer, old: Option<&MCPServer>) -> bool {
    let faults = new_faults(server, old, own_faults);
    faults.iter().any(|fault| fault.is_in_schema)
}

/// The faults that the stored object has not.
fn new_faults(
    server: &MCPServer,
    old: Option<&MCPServer>,
    find: impl Fn(&MCPServer) -> Vec<FieldError>,
) -> Vec<FieldError> {
    let mut faults = find(server);
    if let Some(old) = old.filter(|_| !faults.is_empty()) {
        let known: HashSet<_> = find(old).into_iter().collect();
        faults.retain(|fault| !known.contains(fault));
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
    let mut faults = own_faults(server);
    template::pod_template(server, &mut faults);
    faults
}

/// The faults of all but the pod template, of which the schema knows nothing.
fn own_faults(server: &MCPServer) -> Vec<FieldError> {
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
    service::service(spec, &mut faults);
    health(spec, &mut faults);
    path(spec, &mut faults);
    rollout::strategy(spec, &mut faults);
    rollout::disruption_budget(spec, &mut faults);
    common_metadata(spec, &mut faults);
    faults
}

fn name(server: &MCPServer, faults: &mut Vec<FieldError>) {
    let name = server.name_any();
    let to_be_generated = server.metadata.name.is_none() && server.metadata.generate_name.is_some();
    if !to_be_generated && !names::is_dns1035_label(&name) {
        let path = FieldPath::METADATA.child("name");
        faults.push(FieldError::invalid(path, name, names::DNS_1035).in_schema());
    }
}

fn image(spec: &MCPServerSpec, faults: &mut Vec<FieldError>) {
    if spec.image.is_empty() {
        let detail = "name the container image of the server";
        faults.push(FieldError::required(FieldPath::SPEC.child("image"), detail).in_schema());
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
        let path = FieldPath::SPEC.child("replicas");
        return Some(FieldError::invalid(path, replicas, "must be 0 or more").in_schema());
    }
    if transport == Transport::Stdio && replicas > 1 {
        let detail = format!(
            "stdio transport does not support multiple replicas (requested: {replicas}); \
             set it to 1, or use the transport http or streamable-http"
        );
        let path = FieldPath::SPEC.child("replicas");
        return Some(FieldError::invalid(path, replicas, detail).in_schema());
    }
    None
}

fn scale(spec: &MCPServerSpec, faults: &mut Vec<FieldError>) {
    if !(1..=65535).contains(&spec.port) {
        let detail = "must be between 1 and 65535";
        let path = FieldPath::SPEC.child("port");
        faults.push(FieldError::invalid(path, spec.port, detail).in_schema());
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
        // Written out, a byte takes 16 at most: itself, escaped, and in the list of origins, each on a line. What is far
        // below the limit need not be written out to know.
        let most = 16 * (values + keys) + 64 * spec.config.len() + 4096;
        if most >= CONFIG_MAP_LIMIT {
            let size = values + keys + config_json::render(server).len();
            if size >= CONFIG_MAP_LIMIT {
                faults.push(FieldError::too_long(path, size, CONFIG_MAP_LIMIT - 1));
            }
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
        let path = FieldPath::SPEC.child("serviceAccount");
        let fault = FieldError::invalid(path, name, names::DNS_1123);
        faults.push(fault.in_schema_if_longer(name, names::LONGEST_SUBDOMAIN));
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

/// The same where the schema has an enum.
fn in_enum(
    path: &FieldPath<'_>,
    value: Option<&str>,
    supported: &[&str],
    faults: &mut Vec<FieldError>,
) {
    let known = faults.len();
    one_of(path, value, supported, faults);
    for fault in &mut faults[known..] {
        fault.is_in_schema = true;
    }
}

fn pull(spec: &MCPServerSpec, faults: &mut Vec<FieldError>) {
    in_enum(
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
            let fault = FieldError::invalid(path, secret.name.as_str(), names::DNS_1123);
            faults.push(fault.in_schema_if_longer(&secret.name, names::LONGEST_SUBDOMAIN));
        } else if !seen.insert(&secret.name) {
            faults.push(FieldError::duplicate(path, secret.name.as_str()).in_schema());
        }
    }
}

fn health(spec: &MCPServerSpec, faults: &mut Vec<FieldError>) {
    let Some(health) = &spec.health else { return };
    let fields = FieldPath::SPEC.child("health");
    in_enum(
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
            faults.push(FieldError::forbidden(field, detail).in_schema());
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

fn path(spec: &MCPServerSpec, faults: &mut Vec<FieldError>) {
    const PATH: FieldPath<'_> = FieldPath::SPEC.child("path");
    let Some(path) = spec.path.as_deref() else {
        return;
    };
    if spec.transport == Transport::Stdio {
        let detail = format!(
            "a stdio server has no address (value {}); remove it, or use the transport http or streamable-http",
            shown(&path.into())
        );
        faults.push(FieldError::forbidden(PATH, detail).in_schema());
    }
    let is_in_path = |b: u8| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@%/".contains(&b);
    if path.chars().count() > names::LONGEST_PATH {
        faults.push(FieldError::too_long(PATH, path.len(), names::LONGEST_PATH).in_schema());
    } else if !path.starts_with('/') {
        faults.push(FieldError::invalid(PATH, path, "must start with '/'").in_schema());
    } else if !path.bytes().all(is_in_path) {
        let detail = "must be the path of a URL, such as /mcp: without spaces, '?' and '#', other characters as %XX";
        faults.push(FieldError::invalid(PATH, path, detail));
    }
}

fn common_metadata(spec: &MCPServerSpec, faults: &mut Vec<FieldError>) {
    let Some(common) = &spec.common_metadata else {
        return;
    };
    let path = FieldPath::SPEC.child("commonMetadata");
    let (labels, annotations) = (path.child("labels"), path.child("annotations"));
    metadata::labels(&labels, &common.labels, Own::Refused, faults);
    metadata::annotations(&annotations, &common.annotations, Own::Refused, faults);
}
