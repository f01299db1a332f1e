//! Starting a control plane, and what can be done with a running one.

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use http::Uri;
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::conditions;
use kube::{Client, Config, ResourceExt};
use serde_json::{Value, json};

use crate::audit::{self, AuditEntry};
use crate::fake_kubelet::{self, FakeKubelet};
use crate::flags::{self, Ports, file};
use crate::node::{self, Node};
use crate::pki::{self, Authority};
use crate::pod_network::{self, PodNetwork};
use crate::process::{Family, Process, tail};
use crate::tools::{self, Tools};
use crate::wait::eventually;

/// How often a start is tried when another process takes a port just chosen.
const STARTS: usize = 3;
/// How long each part may take to come up, on a machine busy with other things.
const LIMIT: Duration = Duration::from_mins(5);
/// Who owns the fields of what is applied here.
pub(crate) const FIELD_MANAGER: &str = "cluster";
/// The group whose members may do everything.
pub(crate) const MASTERS: &str = "system:masters";

/// The name of the API server's process.
const API_SERVER: &str = "kube-apiserver";

/// What a cluster is to be like.
#[derive(Clone, Debug)]
pub struct Options {
    /// Whether every request is logged; see [`Cluster::requests_by`].
    pub audit: bool,
    /// What pods run on. [`Cluster::lead`] is for the pods of a fake node.
    pub node: NodeKind,
    /// Kinds to create before the controllers start. The garbage collector looks for new kinds
    /// every 30 s only; it knows these from the start.
    pub crds: Vec<CustomResourceDefinition>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            audit: true,
            node: NodeKind::Fake,
            crds: Vec::new(),
        }
    }
}

/// What pods run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeKind {
    /// Nothing: pods stay pending.
    None,
    /// A node without containers on which pods become Ready; see [`crate::fake_kubelet`].
    Fake,
    /// A node that runs containers, in namespaces of its own; see [`crate::node`].
    Real,
}

/// A running control plane. Ends when dropped, and whenever this process ends.
pub struct Cluster {
    // Dropped in this order: the kubelet first, as it would complain about a vanished server.
    kubelet: Option<FakeKubelet>,
    network: Option<PodNetwork>,
    node: Option<Node>,
    family: Family,
    processes: Vec<Process>,
    folder: PathBuf,
    url: String,
    kubeconfig: PathBuf,
    tools: Tools,
    client: Client,
    authority: Authority,
    /// Of etcd's clients.
    etcd: Uri,
    /// How the API server is started once more.
    apiserver: Box<dyn Fn() -> std::process::Command + Send + Sync>,
}

impl Cluster {
    /// Builds the programs if that has not been done yet, and starts a cluster.
    ///
    /// Returns when the API server is ready and the namespace `default` has its service account,
    /// so that pods can be created; and when a real node is ready. Fails before anything is built
    /// if a real node cannot be had on this machine, with all that is missing.
    pub async fn start(options: Options) -> Result<Self> {
        let machine = match options.node {
            NodeKind::Real => Some(node::Prepared::check()?),
            NodeKind::None | NodeKind::Fake => None,
        };
        let tools = tools::control_plane().await?;
        let prepared = match machine {
            Some(machine) => Some(node::Prepared::build(machine).await?),
            None => None,
        };
        let mut tries = 1;
        loop {
            match Self::start_once(tools.clone(), prepared.clone(), &options, free_ports()?).await {
                // A port is free when it is chosen; it can be taken before it is used.
                Err(error)
                    if tries < STARTS
                        && format!("{error:#}").contains("address already in use") =>
                {
                    tries += 1;
                }
                result => return result.context("starting a test cluster"),
            }
        }
    }

    async fn start_once(
        tools: Tools,
        prepared: Option<node::Prepared>,
        options: &Options,
        ports: Ports,
    ) -> Result<Self> {
        // Other programs choose the TLS library's provider too; whoever is first wins.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let folder = tempfile::Builder::new()
            .prefix("mcp-cluster-")
            .tempdir()
            .context("creating a folder")?;
        let family = match prepared {
            None => Family::new(folder.path())?,
            Some(_) => Node::family(folder.path())?,
        };
        let folder = folder.keep(); // It is the family's to remove from here on.
        let fake = options.node == NodeKind::Fake;
        let network = fake.then(|| start_network(&folder)).transpose()?;
        let log = |name: &str| folder.join(format!("{name}.log"));
        let mut processes = Vec::new();
        let node = match prepared {
            None => None,
            Some(prepared) => Some(Node::make(prepared, &family, &folder, &mut processes).await?),
        };
        // A real node's control plane is in its network, so that it reaches webhooks in pods.
        let start = |name: &str, command| {
            let start = || family.start(name, command, &log(name), true);
            match &node {
                None => start(),
                Some(node) => node.inside(start),
            }
        };

        let node_address = node.as_ref().map(Node::address);
        let address = node_address.unwrap_or(Ipv4Addr::LOCALHOST);
        let url = format!("https://{address}:{}", ports.apiserver);
        let authority = Authority::new()?;
        write_files(&folder, &authority, address, &url)?;
        let kubeconfig = write_kubeconfig(&folder, &authority, &url, "admin", &[MASTERS])?;

        let etcd = start("etcd", flags::etcd(&tools, &folder, ports))?;
        processes.push(etcd.clone());
        // Its own log, as whatever answers at the port might be another's.
        wait_for("etcd to serve", &processes, || async {
            let log = std::fs::read_to_string(etcd.log()).context("reading etcd's log")?;
            Ok(log.contains("ready to serve client requests").then_some(()))
        })
        .await?;

        let apiserver = {
            let (tools, folder, options) = (tools.clone(), folder.clone(), options.clone());
            move || flags::apiserver(&tools, &folder, ports, &options, node_address)
        };
        processes.push(start(API_SERVER, apiserver())?);
        let client = connect(&kubeconfig).await?;
        wait_for("the API server to be ready", &processes, || ready(&client)).await?;
        for crd in &options.crds {
            create_kind(&client, crd, &processes).await?;
        }

        let manager = flags::controller_manager(&tools, &folder, node.is_some());
        processes.push(start("kube-controller-manager", manager)?);
        let user =
            |user: &str, groups: &[&str]| write_kubeconfig(&folder, &authority, &url, user, groups);
        let kubelet = if options.node == NodeKind::Fake {
            let user = user(fake_kubelet::USER, &[MASTERS])?;
            Some(FakeKubelet::start(load(&user).await?).await?)
        } else {
            None
        };
        if let Some(node) = &node {
            node.start(&family, &client, &authority, user, &mut processes)
                .await?;
        }
        let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), "default");
        wait_for(
            "the service account of namespace default",
            &processes,
            || async { Ok(accounts.get_opt("default").await?) },
        )
        .await?;
        family.tell_of_ends();
        Ok(Self {
            kubelet,
            network,
            node,
            family,
            processes,
            folder,
            url,
            kubeconfig,
            tools,
            client,
            authority,
            etcd: flags::etcd_url(ports).parse().context("etcd's URL")?,
            apiserver: Box::new(apiserver),
        })
    }

    /// Kills the API server, starts it again at the same address, and returns when it is ready. Old versions are gone,
    /// from it and from etcd: whoever watches has to list again. Not for a real node.
    pub async fn restart_api_server(&mut self) -> Result<()> {
        ensure!(self.node.is_none(), "a real node's API server stays");
        let old = self.part(API_SERVER)?.clone();
        old.signal("KILL")?;
        wait_for("the API server to end", &[], || async {
            Ok(old.success().map(|_| ()))
        })
        .await?;
        self.forget_history().await?;
        let log = self.folder.join(format!("{API_SERVER}-again.log"));
        let new = self
            .family
            .start(API_SERVER, (self.apiserver)(), &log, true)?;
        self.processes
            .retain(|process| process.name() != API_SERVER);
        self.processes.push(new);
        let client = self.client.clone();
        wait_for("the API server to be ready again", &self.processes, || {
            ready(&client)
        })
        .await
    }

    /// Has etcd throw away all versions but the newest. An API server that is not warm yet asks etcd for old ones.
    async fn forget_history(&self) -> Result<()> {
        let mut config = Config::new(self.etcd.clone());
        config.root_cert = Some(Vec::new());
        let etcd = Client::try_from(config).context("a client for etcd")?;
        let ask = async |path: &str, body: Value| {
            let request = http::Request::post(path).body(body.to_string().into_bytes())?;
            let answer = etcd.request::<Value>(request).await;
            answer.with_context(|| format!("asking etcd for {path}"))
        };
        // A write of its own, of a key that means nothing: nobody has seen this revision, so nobody can go on from it.
        let put = ask("/v3/kv/put", json!({"key": "Zm9yZ290dGVu", "value": ""})).await?;
        let revision = &put["header"]["revision"];
        let compaction = json!({"revision": revision, "physical": true});
        ask("/v3/kv/compaction", compaction).await?;
        Ok(())
    }

    /// A kubeconfig of a user who may do everything.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The program kubectl. [`Self::kubectl_command`] is better in a test.
    pub fn kubectl(&self) -> &Path {
        &self.tools.kubectl
    }

    /// A kubectl that talks to this cluster as admin and leaves nothing in the home folder.
    pub fn kubectl_command(&self) -> std::process::Command {
        let mut command = std::process::Command::new(&self.tools.kubectl);
        command
            .env("KUBECONFIG", &self.kubeconfig)
            .env("KUBECACHEDIR", self.folder.join("kubectl-cache"))
            .env("KUBERC", "off");
        if let Some(node) = &self.node {
            // Loopback is never reached by a proxy, a node's address might be.
            command.env("NO_PROXY", node.address().to_string());
        }
        command
    }

    /// An admin's client. It belongs to the runtime in which the cluster was started: with
    /// [`crate::shared`], use [`Self::new_client`].
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// An admin's client that belongs to the runtime of the caller.
    pub async fn new_client(&self) -> Result<Client> {
        connect(&self.kubeconfig).await
    }

    /// The API server's URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Where the logs are, and everything else.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A kubeconfig of any user in at most two groups. `system:masters` may do everything; any
    /// other needs a role bound to it.
    pub fn kubeconfig_for(&self, user: &str, groups: &[&str]) -> Result<PathBuf> {
        write_kubeconfig(&self.folder, &self.authority, &self.url, user, groups)
    }

    /// From now on, the API server's connections to an address in the cluster (a pod's, or one
    /// that an `EndpointSlice` names, with the port) lead to a program on loopback: those to the
    /// Service of a webhook, and the `proxy` subresources of pods and Services.
    ///
    /// So the operator can run as a process while its Service leads to it, as on a real node:
    /// start a process for each fake pod, on a port of its own, lead the pod's address and port
    /// to it, and take the pod's annotation `not-ready` away when the process is ready. Pods'
    /// addresses differ, so each replica is reached as the one it is. Needs no rights.
    pub fn lead(&self, address: SocketAddr, program: SocketAddr) -> Result<()> {
        let network = self.network.as_ref().with_context(|| {
            format!("leading {address} to {program}: only a cluster with a fake kubelet does that")
        })?;
        network.lead(address, program)
    }

    /// Starts another program, such as the operator, that ends with the cluster at the latest,
    /// however this process ends. Its output goes to `NAME.log` in the cluster's folder.
    pub fn start_process(&self, name: &str, command: std::process::Command) -> Result<Process> {
        let log = self.folder.join(format!("{name}.log"));
        self.family.start(name, command, &log, false)
    }

    /// As [`Self::start_process`], in the network of the real node: there it reaches pods and
    /// Services by their addresses, and is reached at [`Self::node_address`]. Its file system and
    /// its process id are this machine's.
    pub fn start_process_in_node(
        &self,
        name: &str,
        command: std::process::Command,
    ) -> Result<Process> {
        self.in_node_network(|| self.start_process(name, command))
    }

    /// Does something on another thread, whose network is that of the real node: connections that
    /// it opens and processes that it starts are there. Blocks until it is done.
    pub fn in_node_network<T: Send>(&self, act: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        self.node()?.inside(act)
    }

    /// The real node's address, at which this machine and pods reach it.
    pub fn node_address(&self) -> Result<Ipv4Addr> {
        Ok(self.node()?.address())
    }

    /// This machine's address, at which the real node reaches it (pods do not).
    pub fn host_address(&self) -> Result<Ipv4Addr> {
        Ok(self.node()?.host_address())
    }

    /// Puts the images of an OCI or Docker tarball onto the real node; see [`crate::image`].
    pub async fn load_image(&self, tarball: &Path) -> Result<()> {
        self.node()?.load_image(tarball).await
    }

    /// Gives an image on the real node another name, as `docker tag` does. Names are whole ones, with their registry.
    pub async fn tag_image(&self, name: &str, other: &str) -> Result<()> {
        self.node()?.tag_image(name, other).await
    }

    fn node(&self) -> Result<&Node> {
        self.node
            .as_ref()
            .context("this cluster has no real node; start it with NodeKind::Real")
    }

    /// The API server's audit log: JSON lines, one or two for each request.
    pub fn audit_log(&self) -> PathBuf {
        self.folder.join(file::AUDIT_LOG)
    }

    /// The answered requests of a user that write, whatever the answer was.
    ///
    /// An answer can arrive a moment before its line is in the log.
    pub async fn writes_by(&self, user: &str) -> Result<Vec<AuditEntry>> {
        let mut requests = self.requests_by(user).await?;
        requests.retain(AuditEntry::is_write);
        Ok(requests)
    }

    /// All requests of a user, in the order in which they came; a watch counts once, from its
    /// start on.
    pub async fn requests_by(&self, user: &str) -> Result<Vec<AuditEntry>> {
        audit::requests_by(&self.audit_log(), user).await
    }

    /// Reads a user's requests from the audit log as they come, from its begin on.
    pub fn follow_audit(&self, user: &str) -> Result<audit::Tail> {
        audit::Tail::open(&self.audit_log(), user)
    }

    /// A part of the control plane: `etcd`, `kube-apiserver` or `kube-controller-manager`.
    pub fn part(&self, name: &str) -> Result<&Process> {
        let mut parts = self.processes.iter();
        parts
            .find(|process| process.name() == name)
            .with_context(|| format!("this cluster has no {name}"))
    }

    /// Fails if a part of the control plane has ended, with the last lines of its log.
    pub fn alive(&self) -> Result<()> {
        self.processes.iter().try_for_each(Process::alive)
    }

    /// Returns when a part of the control plane has ended, with what it said.
    pub async fn died(&self) -> anyhow::Error {
        died(&self.processes).await
    }

    /// The parts of the control plane.
    pub(crate) fn processes(&self) -> &[Process] {
        &self.processes
    }

    /// What the cluster's certificates are signed by.
    pub(crate) fn authority(&self) -> &Authority {
        &self.authority
    }

    /// Ends every process and removes the folder. Returns when all is gone.
    pub async fn stop(self) -> Result<()> {
        let Self {
            kubelet,
            network,
            mut family,
            ..
        } = self;
        let end = move || {
            drop(kubelet);
            drop(network);
            family.end()
        };
        tokio::task::spawn_blocking(end)
            .await
            .context("stopping a test cluster")?
            .context("stopping a test cluster")
    }
}

/// Starts the pods' network and tells the API server of it.
fn start_network(folder: &Path) -> Result<PodNetwork> {
    let socket = folder.join(file::POD_NETWORK);
    let path = folder.join(file::EGRESS);
    std::fs::write(&path, pod_network::configuration(&socket).to_string())
        .with_context(|| format!("writing {}", path.display()))?;
    PodNetwork::start(&socket)
}

/// Creates a kind and waits until it can be used.
pub(crate) async fn create_kind(
    client: &Client,
    crd: &CustomResourceDefinition,
    processes: &[Process],
) -> Result<()> {
    let name = crd.name_any();
    let kinds: Api<CustomResourceDefinition> = Api::all(client.clone());
    // Applied, as it may be there already.
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    kinds
        .patch(&name, &parameters, &Patch::Apply(crd))
        .await
        .with_context(|| format!("creating the kind {name}"))?;
    let kinds = &kinds;
    wait_for(&format!("the kind {name}"), processes, || async {
        let kind = kinds.get(&name).await?;
        let established = conditions::is_crd_established();
        Ok(kube::runtime::wait::Condition::matches_object(&established, Some(&kind)).then_some(()))
    })
    .await
}

/// Waits for something that needs the processes to live; fails at once when one dies.
pub(crate) async fn wait_for<T, F, Fut>(what: &str, processes: &[Process], check: F) -> Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<Option<T>>>,
{
    tokio::select! {
        biased;
        error = died(processes) => Err(error.context(format!("waiting for {what}"))),
        result = eventually(what, LIMIT, check) => result.with_context(|| {
            let logs = processes.iter().map(|process| format!("{}:\n{}", process.log().display(), tail(process.log())));
            format!("the logs end so:\n{}", logs.collect::<Vec<_>>().join("\n"))
        }),
    }
}

async fn died(processes: &[Process]) -> anyhow::Error {
    loop {
        if let Err(error) = processes.iter().try_for_each(Process::alive) {
            return error;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn ready(client: &Client) -> Result<Option<()>> {
    let request = http::Request::get("/readyz")
        .body(Vec::new())
        .context("writing a request")?;
    client.request_text(request).await?;
    Ok(Some(()))
}

/// Ports that are free now. Both are held until both are chosen, so they differ; and within this
/// process none is given out twice, since clusters that start at once choose at once.
fn free_ports() -> Result<Ports> {
    static GIVEN: Mutex<Vec<u16>> = Mutex::new(Vec::new());
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut held = Vec::new();
    let mut choose = || -> Result<u16> {
        loop {
            let listener =
                TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("looking for a free port")?;
            let port = listener
                .local_addr()
                .context("looking for a free port")?
                .port();
            held.push(listener);
            if !given.contains(&port) {
                given.push(port);
                return Ok(port);
            }
        }
    };
    Ok(Ports {
        etcd: choose()?,
        apiserver: choose()?,
    })
}

/// Writes what the control plane reads.
fn write_files(folder: &Path, authority: &Authority, address: Ipv4Addr, url: &str) -> Result<()> {
    let server = authority.server(&[Ipv4Addr::LOCALHOST, address, flags::SERVICE_IP])?;
    let kubelet_client = authority.client("kube-apiserver-kubelet-client", &[MASTERS])?;
    let (token_key, token_public_key) = pki::token_key()?;
    let manager = authority.kubeconfig(url, "system:kube-controller-manager", &[])?;
    for (name, content) in [
        (file::CA, authority.certificate()),
        (file::CA_KEY, authority.key()),
        (file::SERVER, server.certificate),
        (file::SERVER_KEY, server.key),
        (file::KUBELET_CLIENT, kubelet_client.certificate),
        (file::KUBELET_CLIENT_KEY, kubelet_client.key),
        (file::TOKEN_KEY, token_key),
        (file::TOKEN_PUBLIC_KEY, token_public_key),
        (file::AUDIT_POLICY, audit::policy().to_string()),
        (file::CONTROLLER_MANAGER, manager.to_string()),
    ] {
        let path = folder.join(name);
        std::fs::write(&path, content).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

fn write_kubeconfig(
    folder: &Path,
    authority: &Authority,
    url: &str,
    user: &str,
    groups: &[&str],
) -> Result<PathBuf> {
    write_user(folder, user, &authority.kubeconfig(url, user, groups)?)
}

/// Writes a user's kubeconfig into the cluster's folder.
pub(crate) fn write_user(folder: &Path, user: &str, content: &Value) -> Result<PathBuf> {
    // A user's name may hold colons and slashes; two users that differ in them alone are none.
    let name: String = user
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect();
    let path = folder.join(format!("{name}.kubeconfig"));
    // Renamed into place: somebody else may be reading the last one.
    let writing = || -> std::io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        writeln!(file, "{content:#}")?;
        file.persist(&path)?;
        Ok(())
    };
    writing().with_context(|| format!("writing {}", path.display()))?;
    Ok(path)
}

async fn load(kubeconfig: &Path) -> Result<kube::Config> {
    let content = Kubeconfig::read_from(kubeconfig)
        .with_context(|| format!("reading {}", kubeconfig.display()))?;
    let config = kube::Config::from_custom_kubeconfig(content, &KubeConfigOptions::default()).await;
    let mut config = config.with_context(|| format!("using {}", kubeconfig.display()))?;
    // $HTTPS_PROXY is for addresses elsewhere, not for one on loopback.
    config.proxy_url = None;
    Ok(config)
}

async fn connect(kubeconfig: &Path) -> Result<Client> {
    let config = load(kubeconfig).await?;
    Client::try_from(config).with_context(|| format!("making a client of {}", kubeconfig.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the start is tried again for.
    #[tokio::test]
    async fn a_taken_port_is_named() {
        let tools = tools::control_plane().await.unwrap();
        let holder = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let taken = holder.local_addr().unwrap().port();
        let free = free_ports().unwrap();
        for ports in [
            Ports {
                etcd: taken,
                ..free
            },
            Ports {
                apiserver: taken,
                ..free
            },
        ] {
            let started =
                Cluster::start_once(tools.clone(), None, &Options::default(), ports).await;
            let message = format!("{:#}", started.err().unwrap());
            assert!(message.contains("address already in use"), "{message}");
        }
    }
}
