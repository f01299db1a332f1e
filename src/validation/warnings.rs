//! Warnings about what is valid but probably not meant. Never a reason to refuse.

use super::{BUILT_IN_ENV, CONFIG_FILE_ENV, rollout};
use crate::api::v1alpha1::{MCPServer, MCPServerSpec, Transport};
use crate::api::{FieldPath, image_reference, labels, pod_template, session};

/// Warnings about what is valid but probably not meant. Never a reason to refuse.
pub fn warnings(server: &MCPServer) -> Vec<String> {
    let spec = &server.spec;
    let mut warnings = Vec::new();
    warnings.extend(moving_tag(spec));
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
    if rollout::blocks_eviction(spec) {
        let path = FieldPath::SPEC.child("disruptionBudget");
        warnings.push(format!(
            "{path}: no pod of this server may ever be evicted, so that the drain of its node waits for ever"
        ));
    }
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
    .filter(|field| !is_set_by_pod_template(spec, field))
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

fn is_set_by_pod_template(spec: &MCPServerSpec, field: &str) -> bool {
    let own = pod_template::own_container(spec.pod_template.as_ref());
    own.is_some_and(|(_, container)| !container["securityContext"][field].is_null())
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

/// The warning about the image that the pods get: the pod template may name another one.
fn moving_tag(spec: &MCPServerSpec) -> Option<String> {
    let pod = FieldPath::POD_TEMPLATE.child("spec");
    let containers = pod.child("containers");
    let own = pod_template::own_container(spec.pod_template.as_ref());
    let amended = own.and_then(|(at, container)| Some((at, container["image"].as_str()?)));
    let index = amended.map(|(at, _)| containers.index(at));
    let (path, image) = match (&index, amended) {
        (Some(path), Some((_, image))) => (path.child("image"), image),
        _ => (FieldPath::SPEC.child("image"), spec.image.as_str()),
    };
    let reference = image_reference::parse(image)?;
    if reference.digest.is_some() {
        return None;
    }
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
