//! A pod's container as a process of this machine: the binary under test, started as the pod says.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use cluster::Cluster;
use cluster::process::Process;
use k8s_openapi::api::core::v1::{Container, EnvVar, Pod};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;

use super::volume::Volumes;
use crate::setup;
use crate::wire;

/// Flags of addresses to listen at; on this machine the ports are shared with others.
const ADDRESSES: [&str; 2] = ["--webhook-address", "--http-address"];
/// A probe is waited for so long.
const PROBE_LIMIT: Duration = Duration::from_secs(3);

/// What runs.
#[derive(Clone, Debug)]
pub struct Running {
    pub process: Process,
    /// Ports of its pod, and where on loopback each is.
    pub ports: Vec<(u16, u16)>,
}

impl Running {
    /// Where a port of the pod is.
    pub fn at(&self, port: u16) -> Result<u16> {
        let found = self.ports.iter().find(|(of_pod, _)| *of_pod == port);
        let found = found.with_context(|| format!("nothing listens at {port}: {:?}", self.ports));
        Ok(found?.1)
    }
}

fn container(pod: &Pod) -> Result<&Container> {
    let spec = pod.spec.as_ref().context("a pod without spec")?;
    spec.containers.first().context("a pod without container")
}

/// Starts it: arguments, environment, volumes and account are the pod's, as the API server has it. Where it
/// listens and how it reaches the API server are this machine's.
pub async fn start(cluster: &Cluster, pod: &Pod, volumes: &Volumes, name: &str) -> Result<Running> {
    let namespace = pod.namespace().context("a pod without namespace")?;
    let spec = pod.spec.as_ref().context("a pod without spec")?;
    let account = spec.service_account_name.as_deref().unwrap_or("default");
    let kubeconfig = cluster
        .kubeconfig_for_service_account(&namespace, account)
        .await?;
    let container = container(pod)?;
    let mut arguments: Vec<String> = container.args.clone().unwrap_or_default();
    for argument in &mut arguments {
        *argument = volumes.path(argument);
    }
    let ports = listen_on_loopback(&mut arguments)?;
    let mut command = setup::binary();
    command
        .args(arguments)
        .arg("--kubeconfig")
        .arg(kubeconfig)
        .env_clear()
        .current_dir("/");
    for variable in container.env.iter().flatten() {
        command.env(&variable.name, value(variable, pod)?);
    }
    let status = pod.status.as_ref();
    let ip = status.and_then(|status| status.pod_ip.as_deref());
    let ip: IpAddr = ip.context("a pod without address")?.parse()?;
    let process = cluster.start_process(name, command)?;
    for (of_pod, here) in &ports {
        let here = SocketAddr::from(([127, 0, 0, 1], *here));
        cluster.lead(SocketAddr::new(ip, *of_pod), here)?;
    }
    Ok(Running { process, ports })
}

/// Puts free ports in place of the pod's; says which for which.
fn listen_on_loopback(arguments: &mut [String]) -> Result<Vec<(u16, u16)>> {
    let mut ports = Vec::new();
    for flag in ADDRESSES {
        let Some(index) = arguments.iter().position(|argument| argument == flag) else {
            continue;
        };
        let address = arguments
            .get_mut(index + 1)
            .with_context(|| format!("{flag} has no value"))?;
        let of_pod: SocketAddr = address
            .parse()
            .with_context(|| format!("{flag} {address}"))?;
        let here = setup::free_port()?;
        *address = format!("127.0.0.1:{here}");
        ports.push((of_pod.port(), here));
    }
    Ok(ports)
}

fn value(variable: &EnvVar, pod: &Pod) -> Result<String> {
    if let Some(value) = &variable.value {
        return Ok(value.clone());
    }
    let source = variable.value_from.as_ref();
    let field = source.and_then(|source| source.field_ref.as_ref());
    match field.map(|field| field.field_path.as_str()) {
        Some("metadata.name") => Ok(pod.name_any()),
        Some("metadata.namespace") => Ok(pod.namespace().unwrap_or_default()),
        other => anyhow::bail!("{}: a value from {other:?}", variable.name),
    }
}

/// Where a container that has a readiness probe is asked.
#[derive(Clone, Debug)]
pub struct Probe {
    port: u16,
    path: String,
}

impl Probe {
    pub fn of(pod: &Pod, running: &Running) -> Result<Option<Self>> {
        let container = container(pod)?;
        let probe = container.readiness_probe.as_ref();
        let Some(get) = probe.and_then(|probe| probe.http_get.as_ref()) else {
            return Ok(None);
        };
        let port = match &get.port {
            IntOrString::Int(port) => u16::try_from(*port)?,
            IntOrString::String(name) => {
                let named = container.ports.iter().flatten();
                let port = named
                    .filter(|port| port.name.as_ref() == Some(name))
                    .map(|port| port.container_port)
                    .next()
                    .with_context(|| format!("the probe's port {name} is not named"))?;
                u16::try_from(port)?
            }
        };
        Ok(Some(Self {
            port: running.at(port)?,
            path: get.path.clone().unwrap_or_default(),
        }))
    }

    /// Asks. What cannot be asked is not ready; nothing is known of what does not answer in time, as one
    /// probe that fails is nothing to a kubelet yet.
    pub async fn ready(&self) -> Option<bool> {
        let Self { port, path } = self.clone();
        let asked = tokio::task::spawn_blocking(move || wire::get_plain(port, &path));
        let answer = tokio::time::timeout(PROBE_LIMIT, asked).await.ok()?;
        Some(matches!(answer, Ok(Ok((200, _)))))
    }
}

/// All that a process has said.
pub fn log(process: &Process) -> Result<String> {
    let path: &Path = process.log();
    std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
}
