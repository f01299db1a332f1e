//! The Service that resolves names. It has no pods: its endpoint is the node itself.

use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Client;
use kube::api::{Api, PostParams};
use serde_json::json;

use crate::node::settings::DNS_IP;

const NAMESPACE: &str = "kube-system";
const NAME: &str = "kube-dns";

/// Creates the Service and its endpoint.
pub(crate) async fn serve(client: &Client, address: Ipv4Addr) -> Result<()> {
    let service: Service = serde_json::from_value(json!({
        "metadata": {"name": NAME, "labels": {"k8s-app": NAME}},
        "spec": {"clusterIP": DNS_IP, "ports": [
            {"name": "dns", "port": 53, "protocol": "UDP"},
            {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
        ]},
    }))?;
    let slice: EndpointSlice = serde_json::from_value(json!({
        "metadata": {"name": NAME, "labels": {"kubernetes.io/service-name": NAME}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [address], "conditions": {"ready": true}}],
        "ports": [
            {"name": "dns", "port": 53, "protocol": "UDP"},
            {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
        ],
    }))?;
    let parameters = PostParams::default();
    let services: Api<Service> = Api::namespaced(client.clone(), NAMESPACE);
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), NAMESPACE);
    services
        .create(&parameters, &service)
        .await
        .context("creating the Service that resolves names")?;
    slices
        .create(&parameters, &slice)
        .await
        .context("creating the endpoint of the Service that resolves names")?;
    Ok(())
}
