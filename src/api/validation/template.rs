//! Rules of `spec.podTemplate`: what of it would stop the pods later.

use std::collections::BTreeMap;

use k8s_openapi::DeepMerge;
use k8s_openapi::api::core::v1::{Container, PodSpec, PodTemplateSpec};
use kube::ResourceExt;

use super::container;
use crate::api::v1alpha1::{MCPServer, Resources};
use crate::api::{FieldError, defaults, labels, names, pod_template};

/// The overlay decodes, leaves the selector alone, and amends what there is.
pub fn pod_template(server: &MCPServer, faults: &mut Vec<FieldError>) {
    let Some(overlay) = &server.spec.pod_template else {
        return;
    };
    let template = match pod_template::decode(overlay) {
        Ok(template) => template,
        Err(errors) => return faults.extend(errors),
    };
    metadata(server, &template, faults);
    let Some(spec) = &template.spec else { return };
    let path = format!("{}.spec", pod_template::PATH);
    if let Some(policy) = spec
        .restart_policy
        .as_deref()
        .filter(|policy| *policy != "Always")
    {
        faults.push(FieldError::not_supported(
            format!("{path}.restartPolicy"),
            policy,
            &["Always"],
        ));
    }
    if spec
        .ephemeral_containers
        .as_ref()
        .is_some_and(|list| !list.is_empty())
    {
        let detail = "a pod template cannot have them; add them to a running pod by kubectl debug";
        faults.push(FieldError::forbidden(
            format!("{path}.ephemeralContainers"),
            detail,
        ));
    }
    if let Some(name) = spec
        .service_account_name
        .as_deref()
        .filter(|n| !n.is_empty() && !names::is_dns1123_subdomain(n))
    {
        faults.push(FieldError::invalid(
            format!("{path}.serviceAccountName"),
            name,
            names::DNS_1123,
        ));
    }
    if let Some(seconds) = spec
        .termination_grace_period_seconds
        .filter(|seconds| *seconds < 0)
    {
        let field = format!("{path}.terminationGracePeriodSeconds");
        faults.push(FieldError::invalid(field, seconds, "must be 0 or more"));
    }
    containers(server, &path, spec, faults);
    volumes(&path, spec, faults);
}

fn metadata(server: &MCPServer, template: &PodTemplateSpec, faults: &mut Vec<FieldError>) {
    let empty = BTreeMap::new();
    let metadata = template.metadata.as_ref();
    let of_selector = labels::selector(&server.name_any());
    for (key, value) in metadata.and_then(|m| m.labels.as_ref()).unwrap_or(&empty) {
        let path = format!("{}.metadata.labels[{key}]", pod_template::PATH);
        if !names::is_qualified_name(key) {
            faults.push(FieldError::invalid(
                &path,
                key.as_str(),
                names::QUALIFIED_NAME,
            ));
        }
        if !names::is_label_value(value) {
            faults.push(FieldError::invalid(
                &path,
                value.as_str(),
                names::LABEL_VALUE,
            ));
        }
        if let Some(ours) = of_selector.get(key).filter(|ours| *ours != value) {
            let detail =
                format!("the pods are selected by this label; it must be {ours:?}; leave it out");
            faults.push(FieldError::invalid(&path, value.as_str(), detail));
        }
    }
    for key in metadata
        .and_then(|m| m.annotations.as_ref())
        .unwrap_or(&empty)
        .keys()
    {
        if !names::is_qualified_name(&key.to_lowercase()) {
            let path = format!("{}.metadata.annotations", pod_template::PATH);
            faults.push(FieldError::invalid(
                path,
                key.as_str(),
                names::QUALIFIED_NAME,
            ));
        }
    }
}

fn containers(server: &MCPServer, path: &str, spec: &PodSpec, faults: &mut Vec<FieldError>) {
    let init = spec.init_containers.as_deref().unwrap_or_default();
    let lists = [
        ("containers", spec.containers.as_slice()),
        ("initContainers", init),
    ];
    let mut seen = Vec::new();
    for (list, containers) in lists {
        for (index, container) in containers.iter().enumerate() {
            let path = format!("{path}.{list}[{index}]");
            let ours = list == "containers" && container.name == labels::CONTAINER;
            if container.name.is_empty() {
                let detail = format!(
                    "name the container; {:?} amends the server's own",
                    labels::CONTAINER
                );
                faults.push(FieldError::required(format!("{path}.name"), detail));
            } else if !names::is_dns1035_label(&format!("a{}", container.name)) {
                let detail = "must be a DNS-1123 label: lower case letters, digits and '-'";
                faults.push(FieldError::invalid(
                    format!("{path}.name"),
                    container.name.as_str(),
                    detail,
                ));
            } else if seen.contains(&container.name)
                || (!ours && container.name == labels::CONTAINER)
            {
                faults.push(FieldError::duplicate(
                    format!("{path}.name"),
                    container.name.as_str(),
                ));
            }
            seen.push(container.name.clone());
            if !ours && container.image.as_deref().unwrap_or_default().is_empty() {
                let detail = format!("container {:?} needs an image", container.name);
                faults.push(FieldError::required(format!("{path}.image"), detail));
            }
            parts(server, &path, container, ours, faults);
        }
    }
}

fn parts(
    server: &MCPServer,
    path: &str,
    container: &Container,
    ours: bool,
    faults: &mut Vec<FieldError>,
) {
    container::env(
        &format!("{path}.env"),
        container.env.as_deref().unwrap_or_default(),
        faults,
    );
    container::env_from(
        &format!("{path}.envFrom"),
        container.env_from.as_deref().unwrap_or_default(),
        faults,
    );
    if let Some(given) = &container.resources {
        let mut resources = Resources {
            requests: given.requests.clone().unwrap_or_default(),
            limits: given.limits.clone().unwrap_or_default(),
        };
        if ours && let Some(below) = &server.spec.resources {
            // What is merged is what the pod gets.
            for (name, value) in &below.requests {
                resources
                    .requests
                    .entry(name.clone())
                    .or_insert_with(|| value.clone());
            }
            for (name, value) in &below.limits {
                resources
                    .limits
                    .entry(name.clone())
                    .or_insert_with(|| value.clone());
            }
        }
        container::resources(&format!("{path}.resources"), Some(&resources), faults);
    }
    if let Some(given) = &container.security_context {
        let mut context = if ours {
            defaults::security_context(&server.spec)
        } else {
            Default::default()
        };
        context.merge_from(given.clone());
        container::security_context(&format!("{path}.securityContext"), Some(&context), faults);
    }
    for (index, port) in container.ports.iter().flatten().enumerate() {
        if !(1..=65535).contains(&port.container_port) {
            let path = format!("{path}.ports[{index}].containerPort");
            faults.push(FieldError::invalid(
                path,
                port.container_port,
                "must be between 1 and 65535",
            ));
        }
    }
    for (index, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let path = format!("{path}.volumeMounts[{index}]");
        if mount.mount_path.is_empty() {
            faults.push(FieldError::required(
                format!("{path}.mountPath"),
                "say where the volume is mounted",
            ));
        }
        if mount.name.is_empty() {
            faults.push(FieldError::required(
                format!("{path}.name"),
                "name the volume that is mounted",
            ));
        }
    }
}

fn volumes(path: &str, spec: &PodSpec, faults: &mut Vec<FieldError>) {
    let volumes = spec.volumes.as_deref().unwrap_or_default();
    for (index, volume) in volumes.iter().enumerate() {
        let path = format!("{path}.volumes[{index}].name");
        if volume.name.is_empty() {
            faults.push(FieldError::required(path, "name the volume"));
        } else if volumes[..index]
            .iter()
            .any(|earlier| earlier.name == volume.name)
        {
            faults.push(FieldError::duplicate(path, volume.name.as_str()));
        }
    }
}
