//! Sets the API server's defaults in what we apply, so that we own them.
//!
//! Server-side apply removes only fields that we own. A default that the API server added beside a field of ours would
//! stay when our field goes: a probe without a handler, a volume of two kinds, a variable with a value and a source.
//! The API server would refuse the change. A default that we own is removed with the rest.

use k8s_openapi::api::core::v1::{
    Container, EnvVarSource, HTTPGetAction, Lifecycle, PodTemplateSpec, Probe, Volume,
    VolumeProjection,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// Sets the defaults. Source: `SetDefaults_*` of k8s.io/kubernetes `pkg/apis/core/v1`.
pub fn defaults(template: &mut PodTemplateSpec) {
    let Some(spec) = &mut template.spec else {
        return;
    };
    for container in spec
        .containers
        .iter_mut()
        .chain(spec.init_containers.iter_mut().flatten())
    {
        self::container(container);
    }
    for volume in spec.volumes.iter_mut().flatten() {
        self::volume(volume);
    }
    // The API server copies the name to this deprecated twin, and would restore the name from it.
    spec.service_account.clone_from(&spec.service_account_name);
    // False is the default of these; the API server does not store it.
    for flag in [
        &mut spec.host_network,
        &mut spec.host_pid,
        &mut spec.host_ipc,
    ] {
        flag.take_if(|flag| !*flag);
    }
}

fn container(container: &mut Container) {
    let probes = [
        &mut container.liveness_probe,
        &mut container.readiness_probe,
        &mut container.startup_probe,
    ];
    for probe in probes.into_iter().flatten() {
        self::probe(probe);
    }
    if let Some(lifecycle) = &mut container.lifecycle {
        self::lifecycle(lifecycle);
    }
    for env in container.env.iter_mut().flatten() {
        if let Some(source) = &mut env.value_from {
            env_source(source);
        }
        env.value.take_if(|value| value.is_empty());
    }
    for port in container.ports.iter_mut().flatten() {
        port.protocol.get_or_insert_with(|| "TCP".to_owned());
    }
    for mount in container.volume_mounts.iter_mut().flatten() {
        mount.read_only.take_if(|read_only| !*read_only);
    }
    for flag in [
        &mut container.stdin,
        &mut container.stdin_once,
        &mut container.tty,
    ] {
        flag.take_if(|flag| !*flag);
    }
}

fn probe(probe: &mut Probe) {
    probe.timeout_seconds.get_or_insert(1);
    probe.period_seconds.get_or_insert(10);
    probe.success_threshold.get_or_insert(1);
    probe.failure_threshold.get_or_insert(3);
    probe.initial_delay_seconds.take_if(|seconds| *seconds == 0);
    if let Some(get) = &mut probe.http_get {
        http_get(get);
    }
    if let Some(grpc) = &mut probe.grpc {
        grpc.service.get_or_insert_default();
    }
}

fn lifecycle(lifecycle: &mut Lifecycle) {
    for handler in [&mut lifecycle.pre_stop, &mut lifecycle.post_start]
        .into_iter()
        .flatten()
    {
        if let Some(get) = &mut handler.http_get {
            http_get(get);
        }
    }
}

fn http_get(get: &mut HTTPGetAction) {
    get.scheme.get_or_insert_with(|| "HTTP".to_owned());
    get.path.get_or_insert_with(|| "/".to_owned());
}

fn env_source(source: &mut EnvVarSource) {
    if let Some(field) = &mut source.field_ref {
        field.api_version.get_or_insert_with(|| "v1".to_owned());
    }
    if let Some(field) = &mut source.resource_field_ref {
        field
            .divisor
            .get_or_insert_with(|| Quantity("0".to_owned()));
    }
}

fn volume(volume: &mut Volume) {
    const MODE: i32 = 0o644;
    if let Some(source) = &mut volume.config_map {
        source.default_mode.get_or_insert(MODE);
    }
    if let Some(source) = &mut volume.secret {
        source.default_mode.get_or_insert(MODE);
    }
    if let Some(source) = &mut volume.downward_api {
        source.default_mode.get_or_insert(MODE);
    }
    if let Some(source) = &mut volume.host_path {
        source.type_.get_or_insert_default();
    }
    if let Some(source) = &mut volume.projected {
        source.default_mode.get_or_insert(MODE);
        source.sources.iter_mut().flatten().for_each(projection);
    }
}

fn projection(projection: &mut VolumeProjection) {
    if let Some(token) = &mut projection.service_account_token {
        token.expiration_seconds.get_or_insert(3600);
    }
    for item in projection
        .downward_api
        .iter_mut()
        .flat_map(|source| &mut source.items)
        .flatten()
    {
        if let Some(field) = &mut item.field_ref {
            field.api_version.get_or_insert_with(|| "v1".to_owned());
        }
    }
}
