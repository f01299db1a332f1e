//! The command lines of the control plane.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;

use crate::control_plane::{NodeKind, Options};
use crate::tools::Tools;

/// Addresses of Services.
pub(crate) const SERVICE_RANGE: &str = "10.96.0.0/16";
/// The first of them, which is the API server's own.
pub(crate) const SERVICE_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);

/// Files in the cluster's folder, by the names the flags give them.
pub(crate) mod file {
    pub(crate) const CA: &str = "ca.crt";
    pub(crate) const CA_KEY: &str = "ca.key";
    pub(crate) const SERVER: &str = "apiserver.crt";
    pub(crate) const SERVER_KEY: &str = "apiserver.key";
    pub(crate) const TOKEN_KEY: &str = "service-accounts.key";
    pub(crate) const TOKEN_PUBLIC_KEY: &str = "service-accounts.pub";
    pub(crate) const AUDIT_POLICY: &str = "audit-policy.json";
    pub(crate) const AUDIT_LOG: &str = "audit.log";
    /// Short, as a socket's path is limited to about 100 bytes.
    pub(crate) const POD_NETWORK: &str = "pods";
    pub(crate) const EGRESS: &str = "egress.json";
    pub(crate) const KUBELET_CLIENT: &str = "apiserver-kubelet-client.crt";
    pub(crate) const KUBELET_CLIENT_KEY: &str = "apiserver-kubelet-client.key";
    pub(crate) const CONTROLLER_MANAGER: &str = "kube-controller-manager.kubeconfig";
}

/// Ports chosen for one start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ports {
    pub(crate) etcd: u16,
    pub(crate) apiserver: u16,
}

/// Where etcd's clients find it.
pub(crate) fn etcd_url(ports: Ports) -> String {
    format!("http://127.0.0.1:{}", ports.etcd)
}

pub(crate) fn etcd(tools: &Tools, folder: &Path, ports: Ports) -> Command {
    let url = etcd_url(ports);
    let mut command = command(&tools.etcd, folder);
    command.args([
        "--name=test",
        &format!("--data-dir={}", folder.join("etcd").display()),
        // Nothing needs to survive a crash.
        "--unsafe-no-fsync",
        &format!("--listen-client-urls={url}"),
        &format!("--advertise-client-urls={url}"),
        // It has no peers; any port will do, and the address told to them is never used.
        "--listen-peer-urls=http://127.0.0.1:0",
        "--initial-advertise-peer-urls=http://127.0.0.1:1",
        "--initial-cluster=test=http://127.0.0.1:1",
        // So that it is its own leader sooner.
        "--heartbeat-interval=10",
        "--election-timeout=100",
    ]);
    command
}

/// `node` is the address of a real node, if there is one. The pods of a fake one are reached through
/// [`crate::pod_network`].
pub(crate) fn apiserver(
    tools: &Tools,
    folder: &Path,
    ports: Ports,
    options: &Options,
    node: Option<Ipv4Addr>,
) -> Command {
    let mut command = command(&tools.kube_apiserver, folder);
    match node {
        None => command.args([
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            // An endpoint may not be a loopback address.
            "--endpoint-reconciler-type=none",
        ]),
        // Reached by pods at the node's address, and by the rest of this machine.
        Some(address) => command.args([
            "--bind-address=0.0.0.0",
            &format!("--advertise-address={address}"),
            &at("--kubelet-certificate-authority", folder, file::CA),
            &at("--kubelet-client-certificate", folder, file::KUBELET_CLIENT),
            &at("--kubelet-client-key", folder, file::KUBELET_CLIENT_KEY),
        ]),
    };
    command.args([
        &format!("--etcd-servers={}", etcd_url(ports)),
        &format!("--secure-port={}", ports.apiserver),
        // Off by default, and on in some distributions: whoever sets owners must be allowed to.
        "--enable-admission-plugins=OwnerReferencesPermissionEnforcement",
        &format!("--service-cluster-ip-range={SERVICE_RANGE}"),
        &at("--tls-cert-file", folder, file::SERVER),
        &at("--tls-private-key-file", folder, file::SERVER_KEY),
        &at("--client-ca-file", folder, file::CA),
        "--authorization-mode=Node,RBAC",
        "--service-account-issuer=https://kubernetes.default.svc",
        &at("--service-account-key-file", folder, file::TOKEN_PUBLIC_KEY),
        &at(
            "--service-account-signing-key-file",
            folder,
            file::TOKEN_KEY,
        ),
        "--enable-aggregator-routing=true",
        "--allow-privileged=true",
        "--kubelet-preferred-address-types=InternalIP",
        // A test measures what it tests, not the API server's queues.
        "--max-requests-inflight=2000",
        "--max-mutating-requests-inflight=1000",
        "--profiling=false",
    ]);
    if options.audit {
        command.args([
            &at("--audit-policy-file", folder, file::AUDIT_POLICY),
            &at("--audit-log-path", folder, file::AUDIT_LOG),
            // Written before the request ends, and never rotated.
            "--audit-log-mode=blocking",
            "--audit-log-maxsize=100000",
        ]);
    }
    if options.node == NodeKind::Fake {
        command.arg(at("--egress-selector-config-file", folder, file::EGRESS));
    }
    command
}

/// `real` says whether the node is.
pub(crate) fn controller_manager(tools: &Tools, folder: &Path, real: bool) -> Command {
    let mut command = command(&tools.kube_controller_manager, folder);
    if !real {
        // The fake node renews no lease, so it would be taken for dead.
        command.arg("--controllers=*,-node-lifecycle-controller,-taint-eviction-controller");
    }
    command.args([
        &at("--kubeconfig", folder, file::CONTROLLER_MANAGER),
        "--use-service-account-credentials=true",
        "--leader-elect=false",
        "--secure-port=0",
        &at(
            "--service-account-private-key-file",
            folder,
            file::TOKEN_KEY,
        ),
        &at("--root-ca-file", folder, file::CA),
        &at("--cluster-signing-cert-file", folder, file::CA),
        &at("--cluster-signing-key-file", folder, file::CA_KEY),
        "--kube-api-qps=2000",
        "--kube-api-burst=4000",
        "--concurrent-deployment-syncs=20",
        "--concurrent-replicaset-syncs=20",
        "--concurrent-statefulset-syncs=20",
        "--concurrent-gc-syncs=40",
        "--concurrent-namespace-syncs=40",
        "--concurrent-endpoint-syncs=20",
        "--concurrent-service-endpoint-syncs=20",
        "--concurrent-service-syncs=10",
        "--concurrent-serviceaccount-token-syncs=10",
        "--concurrent-resource-quota-syncs=20",
        "--profiling=false",
    ]);
    command
}

/// A flag that names a file of the cluster's folder.
fn at(flag: &str, folder: &Path, file: &str) -> String {
    format!("{flag}={}", folder.join(file).display())
}

fn command(program: &Path, folder: &Path) -> Command {
    let mut command = Command::new(program);
    clean(&mut command, folder);
    command
}

/// Makes a command run in the cluster's folder, with as little of the environment as can be:
/// proxies, Go's settings and the user's kubeconfig are none of its business.
pub(crate) fn clean(command: &mut Command, folder: &Path) {
    command
        .current_dir(folder)
        .env_clear()
        .env("HOME", folder)
        .env("TMPDIR", folder);
    if let Some(path) = std::env::var_os("PATH") {
        command.env("PATH", path);
    }
}
