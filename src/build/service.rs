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
    let mut metadata = super::metadata(server, server.name_any());
    metadata.annotations = spec
        .service
        .as_ref()
        .map(|s| s.annotations.clone())
        .filter(|a| !a.is_empty());
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
                port: spec.port,
                target_port: Some(IntOrString::String(labels::PORT.to_owned())),
                protocol: Some("TCP".to_owned()),
                ..Default::default()
            }]),
            session_affinity: Some(affinity.to_owned()),
            session_affinity_config: client_ip,
            ..Default::default()
        }),
        status: None,
    })
}
