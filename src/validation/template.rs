//! The rules of `spec.podTemplate`: they find what would stop the pods later. They look at it as the user wrote it,
//! for the paths, and as `build` merges it, for what the pods get.

use std::collections::{HashMap, HashSet};

use k8s_openapi::api::core::v1::{
    Container, ContainerPort, PodSpec, PodTemplateSpec, ResourceRequirements, SecurityContext,
};
use kube::ResourceExt;
use serde_json::Value;

use super::container;
use super::metadata::{self, Own};
use crate::api::field_error::{MOST_RECORDED, shown};
use crate::api::v1alpha1::{MCPServer, Resources};
use crate::api::{
    FieldError, FieldPath, Platform, defaults, labels, merge_keys, names, pod_template,
};
use crate::build;

/// The overlay decodes, is valid by itself, and leaves alone what the operator relies on.
pub fn pod_template(server: &MCPServer, faults: &mut Vec<FieldError>) {
    let Some(overlay) = &server.spec.pod_template else {
        return;
    };
    duplicates(overlay, &FieldPath::POD_TEMPLATE, "", faults);
    let template = match pod_template::decode(overlay) {
        Ok(template) => template,
        Err(errors) => return faults.extend(errors),
    };
    metadata_of(&template, faults);
    if let Some(spec) = &template.spec {
        pod(spec, overlay, faults);
    }
    merged(server, &template, faults);
}

/// Finds items of a list with the same merge key: merging could not tell which one is meant.
fn duplicates(value: &Value, path: &FieldPath<'_>, field: &str, faults: &mut Vec<FieldError>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                duplicates(value, &path.child(key), key, faults);
            }
        }
        Value::Array(items) => {
            let keys = merge_keys::of_pod_template(field);
            let mut seen = HashSet::new();
            for (index, item) in items.iter().enumerate() {
                let path = path.index(index);
                let mut twice = || !seen.insert(merge_keys::item_key(keys, item));
                let is_told = faults.len() < MOST_RECORDED;
                if !keys.is_empty() && item.is_object() && twice() && is_told {
                    let shown = item.get(keys[0]).cloned().unwrap_or_default();
                    faults.push(FieldError::duplicate(path.child(keys[0]), shown));
                }
                duplicates(item, &path, "", faults);
            }
        }
        _ => {}
    }
}

fn metadata_of(template: &PodTemplateSpec, faults: &mut Vec<FieldError>) {
    let Some(given) = &template.metadata else {
        return;
    };
    let path = FieldPath::POD_TEMPLATE.child("metadata");
    if let Some(labels) = &given.labels {
        metadata::labels(&path.child("labels"), labels, Own::Judged, faults);
    }
    if let Some(annotations) = &given.annotations {
        metadata::annotations(&path.child("annotations"), annotations, Own::Judged, faults);
    }
}

fn pod(spec: &PodSpec, overlay: &Value, faults: &mut Vec<FieldError>) {
    let path = FieldPath::POD_TEMPLATE.child("spec");
    let policy = spec.restart_policy.as_deref().unwrap_or_default();
    if !policy.is_empty() && policy != "Always" {
        faults.push(FieldError::not_supported(
            path.child("restartPolicy"),
            policy,
            &["Always"],
        ));
    }
    let ephemeral = spec.ephemeral_containers.as_deref().unwrap_or_default();
    if !ephemeral.is_empty() {
        let names: Vec<_> = ephemeral.iter().map(|c| c.name.as_str()).collect();
        let detail = format!(
            "a pod template cannot have them (value {}); add them to a running pod by kubectl debug",
            shown(&Value::from(names))
        );
        faults.push(FieldError::forbidden(
            path.child("ephemeralContainers"),
            detail,
        ));
    }
    if let Some(seconds) = spec.active_deadline_seconds {
        let detail = format!("a server runs until it is deleted (value {seconds}); remove it");
        faults.push(FieldError::forbidden(
            path.child("activeDeadlineSeconds"),
            detail,
        ));
    }
    for (field, account) in [
        ("serviceAccountName", &spec.service_account_name),
        ("serviceAccount", &spec.service_account),
    ] {
        let account = account.as_deref().unwrap_or_default();
        if !account.is_empty() && !names::is_dns1123_subdomain(account) {
            faults.push(FieldError::invalid(
                path.child(field),
                account,
                names::DNS_1123,
            ));
        }
    }
    if let Some(seconds) = spec
        .termination_grace_period_seconds
        .filter(|seconds| *seconds < 0)
    {
        let field = path.child("terminationGracePeriodSeconds");
        faults.push(FieldError::invalid(field, seconds, "must be 0 or more"));
    }
    let init = spec.init_containers.as_deref().unwrap_or_default();
    let names: HashSet<_> = spec.containers.iter().map(|c| c.name.as_str()).collect();
    for (list, containers) in [
        ("containers", spec.containers.as_slice()),
        ("initContainers", init),
    ] {
        let path = path.child(list);
        for (index, container) in containers.iter().enumerate() {
            let is_init = list == "initContainers";
            let ours = !is_init && container.name == labels::CONTAINER;
            one_container(
                &path.index(index),
                container,
                (!ours).then_some(spec),
                is_init && names.contains(container.name.as_str()),
                faults,
            );
        }
    }
    let volumes = overlay["spec"]["volumes"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let path = path.child("volumes");
    for (index, volume) in volumes.iter().enumerate() {
        let path = path.index(index);
        let name = volume["name"].as_str().unwrap_or_default();
        if name.is_empty() {
            faults.push(FieldError::required(path.child("name"), "name the volume"));
        } else if !names::is_dns1123_label(name) {
            let path = path.child("name");
            faults.push(FieldError::invalid(path, name, names::DNS_1123_LABEL));
        }
        let sources = volume.as_object().into_iter().flatten();
        let sources: Vec<_> = sources
            .filter(|(k, v)| *k != "name" && !v.is_null())
            .map(|(k, _)| k.as_str())
            .collect();
        if sources.len() > 1 {
            faults.push(FieldError::invalid(
                path,
                sources.join(", "),
                "a volume has one source; keep one of them",
            ));
        }
    }
}

/// Checks a container as the user wrote it. `pod` is set for a container that is not ours, which is complete as written
/// and takes its pod's settings. `elsewhere` says that a container of the pod's other list has the same name.
fn one_container(
    path: &FieldPath<'_>,
    container: &Container,
    pod: Option<&PodSpec>,
    elsewhere: bool,
    faults: &mut Vec<FieldError>,
) {
    let ours = pod.is_none();
    let name = container.name.as_str();
    if name.is_empty() {
        let detail = format!(
            "name the container; {:?} amends the server's own",
            labels::CONTAINER
        );
        faults.push(FieldError::required(path.child("name"), detail));
    } else if !names::is_dns1123_label(name) {
        let path = path.child("name");
        faults.push(FieldError::invalid(path, name, names::DNS_1123_LABEL));
    } else if elsewhere || (!ours && name == labels::CONTAINER) {
        faults.push(FieldError::duplicate(path.child("name"), name));
    }
    if !ours && container.image.as_deref().unwrap_or_default().is_empty() {
        let detail = format!(
            "container {name:?} needs an image; only {:?} has one already",
            labels::CONTAINER
        );
        faults.push(FieldError::required(path.child("image"), detail));
    }
    super::one_of(
        &path.child("imagePullPolicy"),
        container.image_pull_policy.as_deref(),
        &["Always", "IfNotPresent", "Never"],
        faults,
    );
    let env = container.env.as_deref().unwrap_or_default();
    container::env_entries(&path.child("env"), env, faults);
    container::env_from(
        &path.child("envFrom"),
        container.env_from.as_deref().unwrap_or_default(),
        faults,
    );
    if let Some(pod) = pod {
        let resources = container.resources.as_ref().map(own_resources);
        container::resources(&path.child("resources"), resources.as_ref(), faults);
        let context = with_pod(container.security_context.clone().unwrap_or_default(), pod);
        container::security_context(
            &path.child("securityContext"),
            Some(&context),
            pod.host_users != Some(false),
            faults,
        );
        let ports = container.ports.as_deref().unwrap_or_default();
        port_names(&path.child("ports"), ports, ports, faults);
    }
    let ports = path.child("ports");
    for (index, port) in container.ports.iter().flatten().enumerate() {
        if !(1..=65535).contains(&port.container_port) {
            faults.push(FieldError::invalid(
                ports.index(index).child("containerPort"),
                port.container_port,
                "must be between 1 and 65535",
            ));
        }
    }
    let mounts = path.child("volumeMounts");
    for (index, mount) in container.volume_mounts.iter().flatten().enumerate() {
        if mount.mount_path.is_empty() {
            faults.push(FieldError::required(
                mounts.index(index).child("mountPath"),
                "say where the volume is mounted",
            ));
        }
    }
}

/// Port names are unique, among those written and, for our own container, among those merged.
fn port_names(
    path: &FieldPath<'_>,
    written: &[ContainerPort],
    merged: &[ContainerPort],
    faults: &mut Vec<FieldError>,
) {
    let key = |port: &ContainerPort| (port.name.clone(), port.container_port);
    let places: HashMap<_, _> = written.iter().map(key).zip(0..).collect();
    let mut seen = HashSet::new();
    for port in merged {
        let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) else {
            continue;
        };
        if !seen.insert(name) {
            // The built ports come first, so the second port of a name is one that the user wrote.
            let place: Option<&usize> = places.get(&key(port));
            faults.push(match place {
                Some(at) => FieldError::duplicate(path.index(*at).child("name"), name),
                None => FieldError::duplicate(path, name),
            });
        }
    }
}

fn own_resources(resources: &ResourceRequirements) -> Resources {
    Resources {
        requests: resources.requests.clone().unwrap_or_default(),
        limits: resources.limits.clone().unwrap_or_default(),
    }
}

/// The merged template still has what the operator relies on, and no contradictions.
fn merged(server: &MCPServer, written: &PodTemplateSpec, faults: &mut Vec<FieldError>) {
    const ROOT: FieldPath<'_> = FieldPath::POD_TEMPLATE;
    let metadata = ROOT.child("metadata");
    let labels_path = metadata.child("labels");
    let pod = ROOT.child("spec");
    let containers = pod.child("containers");
    // No rule depends on where the pods run.
    let merged = match build::deployment::template(server, &Platform::default()) {
        Ok(merged) => merged,
        Err(error) => return faults.push(FieldError::invalid(ROOT, "object", error)),
    };
    let found = merged
        .metadata
        .and_then(|metadata| metadata.labels)
        .unwrap_or_default();
    for (key, ours) in labels::selector(&server.name_any()) {
        let theirs = found.get(&key);
        if theirs != Some(&ours) {
            let detail =
                format!("the pods are selected by this label; it must be {ours:?}; leave it out");
            let shown = theirs.map_or(Value::Null, |value| Value::from(value.as_str()));
            faults.push(FieldError::invalid(labels_path.key(&key), shown, detail));
        }
    }
    let spec = merged.spec.unwrap_or_default();
    let Some(container) = spec
        .containers
        .iter()
        .find(|container| container.name == labels::CONTAINER)
    else {
        let detail = format!(
            "the server's own container {:?} cannot be removed",
            labels::CONTAINER
        );
        return faults.push(FieldError::required(containers, detail));
    };
    let written = written
        .spec
        .as_ref()
        .map(|spec| spec.containers.as_slice())
        .unwrap_or_default();
    let index = written
        .iter()
        .position(|container| container.name == labels::CONTAINER);
    let path = index.map_or(pod, |index| containers.index(index));
    // One that the spec does not name is no fault of the pod template.
    let has_none = container.image.as_deref().unwrap_or_default().is_empty();
    if has_none && !server.spec.image.is_empty() {
        faults.push(FieldError::required(
            path.child("image"),
            "the server's image cannot be removed",
        ));
    }
    let is_mcp = |port: &ContainerPort| {
        port.name.as_deref() == Some(labels::PORT) && port.container_port == server.spec.port
    };
    if server.spec.transport.is_network() && !container.ports.iter().flatten().any(is_mcp) {
        let detail = format!(
            "the Service and the probes go to the port {:?} ({}); keep it, and give other ports other names",
            labels::PORT,
            server.spec.port
        );
        faults.push(FieldError::invalid(
            path.child("ports"),
            labels::PORT,
            detail,
        ));
    }
    port_names(
        &path.child("ports"),
        index
            .and_then(|index| written[index].ports.as_deref())
            .unwrap_or_default(),
        container.ports.as_deref().unwrap_or_default(),
        faults,
    );
    contradictions(server, container, &spec, &path, faults);
    mounts(&spec, faults);
}

/// Our container has no contradictions once it is merged.
fn contradictions(
    server: &MCPServer,
    container: &Container,
    spec: &PodSpec,
    path: &FieldPath<'_>,
    faults: &mut Vec<FieldError>,
) {
    // The faults of the spec itself are reported with the spec's paths; they are left out here.
    let host_users = spec.host_users != Some(false);
    let mut found = Vec::new();
    let resources = container.resources.as_ref().map(own_resources);
    container::resources(&path.child("resources"), resources.as_ref(), &mut found);
    let context = with_pod(container.security_context.clone().unwrap_or_default(), spec);
    container::security_context(
        &path.child("securityContext"),
        Some(&context),
        host_users,
        &mut found,
    );
    let mut known = Vec::new();
    container::resources(
        &path.child("resources"),
        server.spec.resources.as_ref(),
        &mut known,
    );
    let context = defaults::security_context(&server.spec, &Platform::default());
    container::security_context(
        &path.child("securityContext"),
        Some(&context),
        host_users,
        &mut known,
    );
    let known: HashSet<_> = known.into_iter().collect();
    faults.extend(found.into_iter().filter(|fault| !known.contains(fault)));
}

/// The security context with the pod's values where the container has none.
fn with_pod(mut context: SecurityContext, spec: &PodSpec) -> SecurityContext {
    if let Some(pod) = &spec.security_context {
        context.run_as_user = context.run_as_user.or(pod.run_as_user);
        context.run_as_non_root = context.run_as_non_root.or(pod.run_as_non_root);
    }
    context
}

/// The most volumes that are listed in the fault about an unknown one.
const SHOWN: usize = 10;

/// Every mount refers to an existing volume.
fn mounts(spec: &PodSpec, faults: &mut Vec<FieldError>) {
    let volumes: HashSet<_> = spec
        .volumes
        .iter()
        .flatten()
        .map(|v| v.name.as_str())
        .collect();
    // Malformed names are reported elsewhere, and may be as long as the object.
    let named = spec.volumes.iter().flatten().map(|v| v.name.as_str());
    let mut named: Vec<_> = named.filter(|name| names::is_dns1123_label(name)).collect();
    if named.len() > SHOWN {
        named.truncate(SHOWN);
        named.push("…");
    }
    let detail = if volumes.is_empty() {
        "no such volume; there is none".to_owned()
    } else {
        format!("no such volume; there are {}", named.join(", "))
    };
    let init = spec.init_containers.as_deref().unwrap_or_default();
    let path = FieldPath::POD_TEMPLATE.child("spec");
    for (list, containers) in [
        ("containers", spec.containers.as_slice()),
        ("initContainers", init),
    ] {
        let path = path.child(list);
        for container in containers
            .iter()
            .filter(|c| names::is_dns1123_label(&c.name))
        {
            let mounts = container.volume_mounts.iter().flatten();
            for mount in mounts.filter(|mount| !volumes.contains(mount.name.as_str())) {
                let path = path.key(&container.name);
                let path = path.child("volumeMounts");
                faults.push(FieldError::invalid(path, mount.name.as_str(), &detail));
            }
        }
    }
}
