//! The Deployment: the pods of the server.

use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment,
};
use k8s_openapi::api::core::v1::{
    ConfigMapVolumeSource, Container, ContainerPort, EmptyDirVolumeSource, EnvVar, EnvVarSource,
    HTTPGetAction, ObjectFieldSelector, PodSpec, PodTemplateSpec, Probe, ResourceRequirements,
    TCPSocketAction, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;

use super::config_map::config_hash;
use super::{common_annotations, common_labels, explicit, metadata};
use crate::api::defaults::Probes;
use crate::api::{
    MCPServer, MCPServerSpec, Platform, Transport, config_json, defaults, labels, pod_template,
};

/// The Deployment of a server. Fails only for a pod template that validation refuses.
pub fn deployment(server: &MCPServer, platform: &Platform) -> serde_json::Result<Deployment> {
    let spec = &server.spec;
    Ok(Deployment {
        metadata: metadata(server, server.name_any()),
        spec: Some(DeploymentSpec {
            replicas: Some(spec.replicas),
            selector: LabelSelector {
                match_labels: Some(labels::selector(&server.name_any())),
                match_expressions: None,
            },
            strategy: Some(strategy(spec)),
            template: template(server, platform)?,
            ..Default::default()
        }),
        status: None,
    })
}

/// A stdio server is recreated, because two servers on one standard input make no sense. Of the others, no pod is
/// removed before its successor is ready. The surge is Kubernetes' default; we set it so that we own it, and it goes
/// when the strategy changes.
///
/// The user's strategy replaces ours as a whole.
fn strategy(spec: &MCPServerSpec) -> DeploymentStrategy {
    let given = spec.strategy.clone();
    let type_ = given.as_ref().and_then(|given| given.type_.as_deref());
    if spec.transport == Transport::Stdio || type_ == Some("Recreate") {
        return DeploymentStrategy {
            type_: Some("Recreate".to_owned()),
            rolling_update: None,
        };
    }
    let default = || IntOrString::String("25%".to_owned());
    let (max_unavailable, max_surge) = match given {
        None => (IntOrString::Int(0), default()),
        Some(given) => {
            let given = given.rolling_update.unwrap_or_default();
            (
                given.max_unavailable.unwrap_or_else(default),
                given.max_surge.unwrap_or_else(default),
            )
        }
    };
    DeploymentStrategy {
        type_: Some("RollingUpdate".to_owned()),
        rolling_update: Some(RollingUpdateDeployment {
            max_unavailable: Some(max_unavailable),
            max_surge: Some(max_surge),
        }),
    }
}

/// The template of the server's pods: the operator's own, with `spec.podTemplate` merged over it. Fails only for a pod
/// template that validation refuses.
pub fn template(server: &MCPServer, platform: &Platform) -> serde_json::Result<PodTemplateSpec> {
    let mut template = made(server, platform);
    if let Some(overlay) = &server.spec.pod_template {
        template = pod_template::merge(template, overlay)?;
    }
    if let Some(pod) = &mut template.spec {
        let names_account =
            |name: &Option<String>| name.as_ref().is_some_and(|name| !name.is_empty());
        let is_named =
            names_account(&pod.service_account_name) || names_account(&pod.service_account);
        // A server that names no account has no use for the API.
        if !is_named && pod.automount_service_account_token.is_none() {
            pod.automount_service_account_token = Some(false);
        }
    }
    explicit::defaults(&mut template);
    Ok(template)
}

fn made(server: &MCPServer, platform: &Platform) -> PodTemplateSpec {
    let spec = &server.spec;
    let (volumes, mounts) = volumes(server);
    let config_hash = config_hash(server).map(|hash| (labels::CONFIG_HASH.to_owned(), hash));
    let container_name = (
        labels::DEFAULT_CONTAINER.to_owned(),
        labels::CONTAINER.to_owned(),
    );
    let mut annotations = common_annotations(server);
    annotations.extend(config_hash.into_iter().chain([container_name]));
    PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(common_labels(server)),
            annotations: Some(annotations),
            ..Default::default()
        }),
        spec: Some(PodSpec {
            containers: vec![container(server, platform, mounts)],
            volumes: some(volumes),
            image_pull_secrets: some(spec.image_pull_secrets.clone()),
            service_account_name: spec.service_account.clone(),
            // A Service `mcp` or `kubernetes` beside the server would set MCP_PORT or KUBERNETES_SERVICE_HOST in its pods.
            enable_service_links: Some(false),
            termination_grace_period_seconds: Some(defaults::grace_period_seconds(spec.transport)),
            ..Default::default()
        }),
    }
}

fn container(server: &MCPServer, platform: &Platform, mounts: Vec<VolumeMount>) -> Container {
    let spec = &server.spec;
    let network = spec.transport.is_network();
    let (liveness_probe, readiness_probe) = probes(spec);
    Container {
        name: labels::CONTAINER.to_owned(),
        image: Some(spec.image.clone()),
        image_pull_policy: spec.image_pull_policy.clone(),
        command: some(spec.command.clone()),
        args: some(spec.args.clone()),
        env: Some(env(server)),
        env_from: some(spec.env_from.clone()),
        ports: network.then(|| {
            vec![ContainerPort {
                name: Some(labels::PORT.to_owned()),
                container_port: spec.port,
                protocol: Some("TCP".to_owned()),
                ..Default::default()
            }]
        }),
        // Without an open standard input the server would read end-of-file and exit.
        stdin: (!network).then_some(true),
        resources: spec
            .resources
            .as_ref()
            .map(|resources| ResourceRequirements {
                requests: Some(resources.requests.clone()).filter(|map| !map.is_empty()),
                limits: Some(resources.limits.clone()).filter(|map| !map.is_empty()),
                claims: None,
            }),
        security_context: Some(defaults::security_context(spec, platform)),
        liveness_probe,
        readiness_probe,
        volume_mounts: some(mounts),
        ..Default::default()
    }
}

/// The operator's variables, less those that the user replaces, then the user's.
fn env(server: &MCPServer) -> Vec<EnvVar> {
    let spec = &server.spec;
    let text = |name: &str, value: &str| EnvVar {
        name: name.to_owned(),
        value: Some(value.to_owned()),
        value_from: None,
    };
    let field = |name: &str, path: &str| EnvVar {
        name: name.to_owned(),
        value: None,
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                api_version: None,
                field_path: path.to_owned(),
            }),
            ..Default::default()
        }),
    };
    let mut env = vec![
        text("MCP_TRANSPORT", spec.transport.as_str()),
        text("MCP_PORT", &spec.port.to_string()),
        text("MCP_SERVER_NAME", &server.name_any()),
        field("POD_NAME", "metadata.name"),
        field("POD_NAMESPACE", "metadata.namespace"),
    ];
    if !spec.config.is_empty() {
        env.push(text(
            "MCP_CONFIG_FILE",
            &format!("{}/{}", defaults::CONFIG_FOLDER, config_json::KEY),
        ));
    }
    env.retain(|ours| spec.env.iter().all(|theirs| theirs.name != ours.name));
    env.extend(spec.env.iter().cloned());
    env
}

fn probes(spec: &MCPServerSpec) -> (Option<Probe>, Option<Probe>) {
    let port = || IntOrString::String(labels::PORT.to_owned());
    let get = |path: &str| Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: port(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let connect = || Probe {
        tcp_socket: Some(TCPSocketAction {
            port: port(),
            host: None,
        }),
        ..Default::default()
    };
    let (liveness, readiness) = match defaults::probes(spec) {
        Probes::Http {
            liveness,
            readiness,
        } => (get(liveness), get(readiness)),
        Probes::Tcp => (connect(), connect()),
        Probes::None => return (None, None),
    };
    let timed = |probe: Probe, delay: i32, period: i32| Probe {
        initial_delay_seconds: Some(delay),
        period_seconds: Some(period),
        failure_threshold: Some(3),
        ..probe
    };
    (Some(timed(liveness, 30, 10)), Some(timed(readiness, 5, 5)))
}

/// The volume of the config, and one to write to where the root file system is read-only.
fn volumes(server: &MCPServer) -> (Vec<Volume>, Vec<VolumeMount>) {
    let spec = &server.spec;
    let mut volumes = Vec::new();
    let mut mounts = Vec::new();
    if !spec.config.is_empty() {
        volumes.push(Volume {
            name: defaults::CONFIG_VOLUME.to_owned(),
            config_map: Some(ConfigMapVolumeSource {
                name: labels::config_map_name(&server.name_any()),
                ..Default::default()
            }),
            ..Default::default()
        });
        mounts.push(VolumeMount {
            name: defaults::CONFIG_VOLUME.to_owned(),
            mount_path: defaults::CONFIG_FOLDER.to_owned(),
            read_only: Some(true),
            ..Default::default()
        });
    }
    if defaults::has_tmp(spec) {
        let empty = Some(EmptyDirVolumeSource::default());
        volumes.push(Volume {
            name: defaults::TMP_VOLUME.to_owned(),
            empty_dir: empty,
            ..Default::default()
        });
        mounts.push(VolumeMount {
            name: defaults::TMP_VOLUME.to_owned(),
            mount_path: defaults::TMP_FOLDER.to_owned(),
            ..Default::default()
        });
    }
    (volumes, mounts)
}

fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}
