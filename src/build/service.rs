//! The Service in front of the pods of a network transport.

use k8s_openapi::api::core::v1::{
    ClientIPConfig, Service, ServicePort, ServiceSpec, SessionAffinityConfig,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;

use crate::api::{MCPServer, defaults, labels, session};

/// The Service of a server that is reached over the network.
pub fn service(server: &MCPServer) -> Option<Service> {
    let spec = &server.spec;
    if !spec.transport.is_network() {
        return None;
    }
    let options = spec.service.clone().unwrap_or_default();
    let mut metadata = super::metadata(server, server.name_any());
    // The operator's own keys are not among them.
    metadata
        .labels
        .get_or_insert_default()
        .extend(options.labels);
    if !options.annotations.is_empty() {
        let annotations = metadata.annotations.get_or_insert_default();
        annotations.extend(options.annotations);
    }
    let affinity = defaults::session_affinity(spec);
    let client_ip = (affinity == "ClientIP").then(|| SessionAffinityConfig {
        client_ip: Some(ClientIPConfig {
            timeout_seconds: Some(session::affinity_seconds(spec)),
        }),
    });
    Some(Service {
        metadata,
        spec: Some(ServiceSpec {
            type_: Some(defaults::service_type(spec).to_owned()),
            selector: Some(labels::selector(&server.name_any())),
            ports: Some(vec![ServicePort {
                name: Some(labels::PORT.to_owned()),
                port: defaults::service_port(spec),
                app_protocol: options.app_protocol,
                target_port: Some(IntOrString::String(labels::PORT.to_owned())),
                protocol: Some("TCP".to_owned()),
                ..Default::default()
            }]),
            session_affinity: Some(affinity.to_owned()),
            session_affinity_config: client_ip,
            load_balancer_class: options.load_balancer_class,
            load_balancer_source_ranges: Some(options.load_balancer_source_ranges)
                .filter(|ranges| !ranges.is_empty()),
            external_traffic_policy: options.external_traffic_policy,
            // Kubernetes' default, which we set so that we own it: a Service of two families that is only no longer told
            // to be one could not be updated.
            ip_family_policy: Some(
                options
                    .ip_family_policy
                    .unwrap_or_else(|| "SingleStack".to_owned()),
            ),
            ..Default::default()
        }),
        status: None,
    })
}
