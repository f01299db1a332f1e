//! A real node: containerd, kubelet, kube-proxy, the scheduler and CoreDNS, in namespaces of
//! their own.
//!
//! It needs root on Linux and a few packages; see [`PACKAGES`]. Images get onto it by
//! [`crate::Cluster::load_image`] only, as nothing in it reaches a registry.

mod dns;
mod flags;
mod preflight;
mod room;
mod settings;

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Node as NodeObject;
use kube::Client;
use kube::api::Api;

use crate::control_plane::{MASTERS, wait_for};
use crate::flags::SERVICE_IP;
use crate::image;
use crate::pki::Authority;
use crate::process::{Family, Process};
use crate::tools::{self, NodeTools};
use preflight::Machine;
use room::Room;

pub use preflight::PACKAGES;

/// The name of the node.
pub const NODE: &str = "node";
/// The image of the container that holds a pod's namespaces: a program that does nothing.
pub const PAUSE_IMAGE: &str = "mcp.example.com/pause:1";

/// Fails with everything that this machine lacks for a real node and how to get it; also programs,
/// each with its package, that are wanted for something else.
pub(crate) fn check(also: &[(&str, &'static str)]) -> Result<()> {
    preflight::check(also).map(drop)
}

/// What a node needs before it can be started.
#[derive(Clone, Debug)]
pub(crate) struct Prepared {
    machine: Machine,
    tools: NodeTools,
}

/// Whether a test of a real node is left out: it is run where the environment variable
/// `MCP_OPERATOR_NODE` is 1 only, as it needs root and changes this machine for a while.
///
/// That is told past the test harness, as it keeps back what a passed test says.
pub fn left_out(test: &str) -> bool {
    if std::env::var("MCP_OPERATOR_NODE").as_deref() == Ok("1") {
        return false;
    }
    let line = format!("{test}: LEFT OUT, as it needs a real node; set MCP_OPERATOR_NODE=1\n");
    // Without a standard error there is nobody to tell.
    let _ = std::io::stderr().write_all(line.as_bytes());
    true
}

/// The place for a node, in which its control plane runs, too.
#[derive(Debug)]
pub(crate) struct Node {
    prepared: Prepared,
    room: Room,
    folder: PathBuf,
}

impl Prepared {
    /// Fails with what this machine lacks, before anything is built.
    pub(crate) fn check() -> Result<Machine> {
        preflight::check(&[])
    }

    /// Builds the programs if that has not been done yet.
    pub(crate) async fn build(machine: Machine) -> Result<Self> {
        let tools = tools::node().await?;
        Ok(Self { machine, tools })
    }
}

impl Node {
    /// A family for the processes of a cluster with a node, which clears away what those leave.
    pub(crate) fn family(folder: &Path) -> Result<Family> {
        Family::with_node(folder, &Room::name_of(folder)?)
    }

    /// The name of the network interface and of the cgroups of a cluster with a node.
    pub(crate) fn name(folder: &Path) -> Result<String> {
        Room::name_of(folder)
    }

    /// Makes the namespaces, and starts containerd in them. The family must be
    /// [`Self::family`]'s.
    pub(crate) async fn make(
        prepared: Prepared,
        family: &Family,
        folder: &Path,
        processes: &mut Vec<Process>,
    ) -> Result<Self> {
        let name = Room::name_of(folder)?;
        let (tools, machine) = (&prepared.tools, &prepared.machine);
        let (room, holder) = Room::make(family, folder, name, &tools.pause, machine).await?;
        processes.push(holder);
        settings::write(folder, machine, &room)?;
        let containerd = flags::containerd(&room, tools, machine, folder);
        let log = folder.join("containerd.log");
        processes.push(family.start("containerd", containerd, &log, true)?);
        Ok(Self {
            prepared,
            room,
            folder: folder.to_owned(),
        })
    }

    /// Starts everything else; returns when the node is ready and names are resolved.
    pub(crate) async fn start(
        &self,
        family: &Family,
        client: &Client,
        authority: &Authority,
        kubeconfig: impl Fn(&str, &[&str]) -> Result<PathBuf>,
        processes: &mut Vec<Process>,
    ) -> Result<()> {
        let (tools, machine) = (&self.prepared.tools, &self.prepared.machine);
        let folder = &self.folder;
        self.load_pause(processes).await?;

        let serving = authority.serving(NODE, &[NODE], &[self.room.address])?;
        for (name, content) in [
            (settings::KUBELET_CERTIFICATE, serving.certificate),
            (settings::KUBELET_KEY, serving.key),
        ] {
            let path = folder.join(name);
            std::fs::write(&path, content)
                .with_context(|| format!("writing {}", path.display()))?;
        }
        let user = kubeconfig(&settings::kubelet_user(), &["system:nodes"])?;
        let kubelet = flags::kubelet(&self.room, tools, machine, folder, &user);
        let user = kubeconfig("system:kube-scheduler", &[])?;
        let scheduler = flags::scheduler(tools, folder, &user);
        kubeconfig(settings::PROXY_USER, &[])?;
        let proxy = flags::proxy(tools, machine, folder);
        kubeconfig(settings::COREDNS_USER, &[MASTERS])?;
        let coredns = flags::coredns(tools, folder);
        for (name, command) in [
            ("kubelet", kubelet),
            ("kube-scheduler", scheduler),
            ("kube-proxy", proxy),
            ("coredns", coredns),
        ] {
            let log = folder.join(format!("{name}.log"));
            processes.push(self.inside(|| family.start(name, command, &log, true))?);
        }
        dns::serve(client, self.room.address).await?;

        let nodes: Api<NodeObject> = Api::all(client.clone());
        wait_for("the node to be ready", processes, || async {
            let node = nodes.get(NODE).await?;
            let conditions = node.status.and_then(|status| status.conditions);
            let ready = conditions
                .unwrap_or_default()
                .into_iter()
                .find(|condition| condition.type_ == "Ready")
                .context("it has not said so")?;
            ensure!(
                ready.status == "True",
                "{}",
                ready.message.unwrap_or_default()
            );
            let taints = node.spec.and_then(|spec| spec.taints).unwrap_or_default();
            ensure!(taints.is_empty(), "it has taints: {taints:?}");
            Ok(Some(()))
        })
        .await?;
        wait_for("the addresses of Services", processes, || async {
            let address = SocketAddr::from((SERVICE_IP, 443));
            self.inside(|| TcpStream::connect_timeout(&address, LOOK).map_err(Into::into))
                .with_context(|| format!("connecting to {address}"))?;
            Ok(Some(()))
        })
        .await?;
        wait_for("CoreDNS to be ready", processes, || async {
            let address = SocketAddr::from((self.room.address, settings::DNS_READY_PORT));
            let answer = get(address, "/ready")?;
            ensure!(answer.starts_with("HTTP/1.0 200 "), "it says: {answer}");
            Ok(Some(()))
        })
        .await
    }

    /// See [`Room::inside`].
    pub(crate) fn inside<T: Send>(&self, act: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        self.room.inside(act)
    }

    /// The node's address, which is the API server's, too.
    pub(crate) fn address(&self) -> Ipv4Addr {
        self.room.address
    }

    /// The address at which the node reaches this machine.
    pub(crate) fn host_address(&self) -> Ipv4Addr {
        self.room.host_address
    }

    /// Puts the images of a tarball onto the node.
    pub(crate) async fn load_image(&self, tarball: &Path) -> Result<()> {
        self.ctr(&["images", "import", "--local"], Some(tarball))
            .await
            .with_context(|| format!("loading the image {}", tarball.display()))
    }

    pub(crate) async fn tag_image(&self, name: &str, other: &str) -> Result<()> {
        self.ctr(&["images", "tag", name, other], None)
            .await
            .with_context(|| format!("giving the image {name} the name {other}"))
    }

    async fn load_pause(&self, processes: &[Process]) -> Result<()> {
        let root = self.folder.join("pause");
        let copy = || -> std::io::Result<()> {
            std::fs::create_dir(&root)?;
            std::fs::copy(&self.prepared.tools.pause, root.join("pause"))?;
            Ok(())
        };
        copy().with_context(|| format!("copying the pause program to {}", root.display()))?;
        let tarball = self.folder.join("pause.tar");
        let pause = image::Image {
            name: PAUSE_IMAGE,
            entrypoint: &["/pause"],
            user: "65535:65535",
            ..image::Image::default()
        };
        image::write(&pause, &root, &tarball)?;
        wait_for("containerd to serve", processes, || async {
            self.ctr(&["version"], None).await.map(Some)
        })
        .await?;
        self.load_image(&tarball).await
    }

    async fn ctr(&self, arguments: &[&str], file: Option<&Path>) -> Result<()> {
        let mut command = flags::ctr(&self.prepared.tools, &self.folder);
        command.args(arguments).args(file);
        let mut command = tokio::process::Command::from(command);
        let output = command
            .kill_on_drop(true)
            .output()
            .await
            .context("running ctr")?;
        ensure!(
            output.status.success(),
            "ctr {} failed: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(())
    }
}

/// How long one look at a port may take.
const LOOK: Duration = Duration::from_secs(1);

/// The answer to a plain GET; small, and soon.
fn get(address: SocketAddr, path: &str) -> Result<String> {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&address, LOOK)?;
        stream.set_read_timeout(Some(LOOK))?;
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().with_context(|| format!("asking {address} for {path}"))
}
