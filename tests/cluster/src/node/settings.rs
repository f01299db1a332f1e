//! The files that the parts of a node read.

use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::flags::file;
use crate::node::preflight::Machine;
use crate::node::room::Room;
use crate::node::{NODE, PAUSE_IMAGE};

/// Addresses of pods.
pub(crate) const POD_RANGE: &str = "10.244.0.0/16";
/// The address of the Service that resolves names.
pub(crate) const DNS_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
/// Where CoreDNS tells on the node's address that it is ready.
pub(crate) const DNS_READY_PORT: u16 = 8181;

/// Files in the cluster's folder.
pub(crate) const CONTAINERD: &str = "containerd.toml";
pub(crate) const SOCKET: &str = "containerd.sock";
pub(crate) const KUBELET: &str = "kubelet.json";
pub(crate) const KUBELET_CERTIFICATE: &str = "kubelet.crt";
pub(crate) const KUBELET_KEY: &str = "kubelet.key";
pub(crate) const PROXY: &str = "kube-proxy.json";
pub(crate) const COREFILE: &str = "Corefile";
/// The users of parts that name their kubeconfig in their settings; it is named after them.
pub(crate) const PROXY_USER: &str = "system:kube-proxy";
pub(crate) const COREDNS_USER: &str = "coredns";
/// A folder with one file.
pub(crate) const CNI: &str = "cni";

/// Writes them all, but for certificates and kubeconfigs.
pub(crate) fn write(folder: &Path, machine: &Machine, room: &Room) -> Result<()> {
    let cni = folder.join(CNI);
    std::fs::create_dir(&cni).with_context(|| format!("creating {}", cni.display()))?;
    for (name, content) in [
        (CONTAINERD, containerd(folder, machine)),
        ("cni/10-pods.conflist", network(folder).to_string()),
        (KUBELET, kubelet(folder, &room.cgroup()).to_string()),
        (PROXY, proxy(folder).to_string()),
        (COREFILE, corefile(folder, room.address)),
    ] {
        let path = folder.join(name);
        std::fs::write(&path, content).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

fn containerd(folder: &Path, machine: &Machine) -> String {
    let folder = folder.display();
    let (runc, plugins) = (machine.runc.display(), machine.cni.display());
    // `restrict_oom_score_adj`: where this process may not lower its own, runc would die of it.
    // `disable_apparmor`: a profile would be put into this machine's kernel, and stay.
    format!(
        r#"version = 3
root = "{folder}/containerd"
state = "/run/containerd"

[grpc]
  address = "{folder}/{SOCKET}"

[plugins."io.containerd.cri.v1.images"]
  snapshotter = "overlayfs"

[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "{PAUSE_IMAGE}"

[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
  disable_apparmor = true

[plugins."io.containerd.cri.v1.runtime".cni]
  bin_dirs = ["{plugins}"]
  conf_dir = "{folder}/{CNI}"

[plugins."io.containerd.cri.v1.runtime".containerd]
  default_runtime_name = "runc"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
  BinaryName = "{runc}"
  SystemdCgroup = false
"#
    )
}

/// Each pod has a pair of veths of its own and no bridge, so that what goes from pod to pod by
/// a Service's address comes back the way it went, whatever the kernel does on bridges.
fn network(folder: &Path) -> Value {
    json!({
        "cniVersion": "1.0.0",
        "name": "pods",
        "plugins": [{
            "type": "ptp",
            "ipMasq": false,
            "ipam": {
                "type": "host-local",
                "dataDir": folder.join("cni-addresses"),
                "ranges": [[{"subnet": POD_RANGE}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        }],
    })
}

fn kubelet(folder: &Path, cgroup: &str) -> Value {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "containerRuntimeEndpoint": format!("unix://{}", folder.join(SOCKET).display()),
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": folder.join(file::CA)},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": folder.join(KUBELET_CERTIFICATE),
        "tlsPrivateKeyFile": folder.join(KUBELET_KEY),
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": cgroup,
        "failCgroupV1": false,
        "failSwapOn": false,
        "enforceNodeAllocatable": [],
        "localStorageCapacityIsolation": false,
        // A full disk or little memory is the machine's business, not the test's.
        "evictionHard": {"memory.available": "0%", "nodefs.available": "0%", "imagefs.available": "0%", "nodefs.inodesFree": "0%", "imagefs.inodesFree": "0%"},
        "imageGCHighThresholdPercent": 100,
        "makeIPTablesUtilChains": false,
        "oomScoreAdj": 0,
        "clusterDNS": [DNS_IP],
        "clusterDomain": "cluster.local",
        "resolvConf": "/dev/null",
        "podLogsDir": folder.join("pods"),
        "volumePluginDir": folder.join("kubelet-plugins"),
        "maxPods": 500,
        "registryPullQPS": 0,
        // So that a changed Secret is in its pods within seconds.
        "syncFrequency": "2s",
        "kubeAPIQPS": 500,
        "kubeAPIBurst": 1000,
        "eventRecordQPS": 0,
        "enableProfilingHandler": false,
    })
}

fn proxy(folder: &Path) -> Value {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {
            "kubeconfig": folder.join("system-kube-proxy.kubeconfig"),
            "qps": 500,
            "burst": 1000,
        },
        "hostnameOverride": NODE,
        "mode": "nftables",
        "clusterCIDR": POD_RANGE,
        // A change of a Service's endpoints is followed at once.
        "nftables": {"minSyncPeriod": "50ms"},
        // The kernel's table is the machine's, not the node's.
        "conntrack": {"maxPerCore": 0},
        "oomScoreAdj": 0,
    })
}

/// Names of the cluster; there are no others. Two blocks, as within one the answer to all names
/// would come before the cluster's.
fn corefile(folder: &Path, address: Ipv4Addr) -> String {
    let kubeconfig = folder.join(format!("{COREDNS_USER}.kubeconfig"));
    let kubeconfig = kubeconfig.display();
    format!(
        r"cluster.local:53 in-addr.arpa:53 {{
    bind {address}
    errors
    ready {address}:{DNS_READY_PORT}
    kubernetes cluster.local in-addr.arpa {{
        kubeconfig {kubeconfig}
        ttl 5
    }}
}}
.:53 {{
    bind {address}
    errors
    template ANY ANY {{
        rcode NXDOMAIN
    }}
}}
"
    )
}

/// The user of a kubelet, which the API server lets see what is on its node.
pub(crate) fn kubelet_user() -> String {
    format!("system:node:{NODE}")
}
