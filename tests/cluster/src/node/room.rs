//! The namespaces a node lives in, made and removed as one.
//!
//! All of them belong to one process that does nothing, and to what is started into them:
//!
//! - a network namespace, so that nothing leaves the machine. A pair of veths ties it to this
//!   machine and to nothing else; it has no default route, and pods do not get through the pair.
//! - a PID namespace, so that the kernel kills all containers with that process.
//! - a mount namespace, so that mounts go with the last process, and so that what the kubelet
//!   and containerd write to /run, /var/lib and /var/log, and the kernel's settings that the
//!   kubelet changes, are theirs alone.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::control_plane::wait_for;
use crate::flags::SERVICE_RANGE;
use crate::node::preflight::Machine;
use crate::process::{Family, Process};

/// Where cgroups are.
const CGROUPS: &str = "/sys/fs/cgroup";
/// The hierarchy of version 1 in which the node's own processes are.
pub(crate) const HIERARCHY: &str = "pids";
/// The node's end of the pair.
const INSIDE: &str = "eth0";
/// Two addresses out of 198.18.0.0/15, which is meant for tests and so in no network, are a
/// pair's. There are so many blocks of four.
const BLOCKS: u32 = 1 << 15;
const FIRST: u32 = u32::from_be_bytes([198, 18, 0, 0]);
/// How many blocks are tried, when others have taken some.
const TRIES: u8 = 20;
/// What the log says when the namespaces are ready.
const READY: &str = "the namespaces are ready";

/// Prepares the namespaces, as their first process; then becomes `$1`.
///
/// The kubelet sets the kernel's `vm` and `kernel` to its liking; it shall have a copy of them.
/// The overlays show what is there and keep what is written in memory.
const INITIAL: &str = r#"
mount --make-rshared /
mount -t tmpfs -o mode=755 tmpfs /run
for setting in vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops \
    kernel/keys/root_maxkeys kernel/keys/root_maxbytes; do
    [ -e "/proc/sys/$setting" ] || continue
    copy="/run/node/$setting"
    mkdir -p "$(dirname "$copy")"
    cat "/proc/sys/$setting" > "$copy"
    mount --bind "$copy" "/proc/sys/$setting"
done
for folder in lib log; do
    [ -d "/var/$folder" ] || continue
    layer="/run/node/$folder"
    mkdir -p "$layer/upper" "$layer/work"
    mount -t overlay -o "lowerdir=/var/$folder,upperdir=$layer/upper,workdir=$layer/work" \
        overlay "/var/$folder"
done
ip link set lo up
echo 1 > /proc/sys/net/ipv4/ip_forward
# At the end, connections into pods that went first are left without an answer, and each keeps the network
# alive until the kernel gives up on it: after minutes, by default.
echo 1 > /proc/sys/net/ipv4/tcp_orphan_retries
echo 1 > /proc/sys/net/ipv4/tcp_fin_timeout
echo "$2"
exec "$1"
"#;

/// Keeps pods away from the pair of veths: answers to them would take this machine's default
/// route, as it knows no way to pods.
const FIREWALL: &str = "
table inet room {
    chain forward {
        type filter hook forward priority 0; policy accept;
        oifname \"eth0\" reject
    }
}";

/// The namespaces, and where they are reached.
#[derive(Clone, Debug)]
pub(crate) struct Room {
    /// Of the cgroups, and of this machine's end of the pair.
    name: String,
    /// The process that made the namespaces; it lives as long as they.
    holder: u32,
    /// The node's address.
    pub(crate) address: Ipv4Addr,
    /// This machine's address, as the node knows it.
    pub(crate) host_address: Ipv4Addr,
}

impl Room {
    /// A name that a folder with a unique name gives, for cgroups and an interface.
    pub(crate) fn name_of(folder: &Path) -> Result<String> {
        let last = folder.file_name().unwrap_or_default().to_string_lossy();
        let unique = last.rsplit('-').next().unwrap_or_default();
        let name = format!("mcp-{unique}");
        // The kernel's limit for interfaces.
        ensure!(name.len() < 16, "{name} is too long for an interface");
        Ok(name)
    }

    /// Makes the namespaces. `pause` is a program that does nothing but bury orphans. The
    /// family must be made by [`Family::with_node`] with this name.
    pub(crate) async fn make(
        family: &Family,
        folder: &Path,
        name: String,
        pause: &Path,
        machine: &Machine,
    ) -> Result<(Self, Process)> {
        make_cgroups(&name, machine.unified)?;
        let mut command = Command::new("unshare");
        command
            .env("PATH", &machine.path)
            .args(["--net", "--mount", "--propagation", "private"])
            .args(["--pid", "--fork", "--kill-child=KILL", "--mount-proc"])
            .args(["sh", "-ec", INITIAL, "sh"])
            .arg(pause)
            .arg(READY);
        let holder = family.start("namespaces", command, &folder.join("namespaces.log"), true)?;
        wait_for(
            "the node's namespaces",
            std::slice::from_ref(&holder),
            || async {
                let log = std::fs::read_to_string(holder.log()).context("reading its log")?;
                Ok(log.contains(READY).then_some(()))
            },
        )
        .await?;
        let (host_address, address) = connect(&name, holder.id(), &machine.path)?;
        let room = Self {
            name,
            holder: holder.id(),
            address,
            host_address,
        };
        let rules = folder.join("namespaces.nft");
        std::fs::write(&rules, FIREWALL).with_context(|| format!("writing {}", rules.display()))?;
        room.inside(|| {
            run(Command::new("nft")
                .env("PATH", &machine.path)
                .arg("-f")
                .arg(&rules))
        })?;
        Ok((room, holder))
    }

    /// Does something on a thread whose network is the node's: it opens connections there, and
    /// processes that it starts are there.
    pub(crate) fn inside<T: Send>(&self, act: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let network = self.namespace("net");
        let on_a_thread = || {
            enter_network(&network)
                .with_context(|| format!("entering the node's network {}", network.display()))?;
            act()
        };
        std::thread::scope(|scope| scope.spawn(on_a_thread).join())
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// A command to which a program and its arguments are to be added, which then run in all the
    /// namespaces and in the node's own cgroup.
    ///
    /// What sends signals to it reaches `nsenter` alone.
    pub(crate) fn enter(&self) -> Command {
        /// What is killed last must be in a cgroup, for then that cannot be removed before.
        const SCRIPT: &str = r#"
            for cgroup in "$1"/cgroup.procs; do echo 0 > "$cgroup"; done
            shift; exec nsenter "$@""#;
        let mut command = Command::new("sh");
        command
            .args(["-ec", SCRIPT, "sh"])
            .arg(self.own_cgroup())
            .arg(format!("--net={}", self.namespace("net").display()))
            .arg(format!("--mount={}", self.namespace("mnt").display()))
            .arg(format!(
                "--pid={}",
                self.namespace("pid_for_children").display()
            ))
            .arg("--");
        command
    }

    /// The cgroup above all pods', as the kubelet names it.
    pub(crate) fn cgroup(&self) -> String {
        format!("/{}", self.name)
    }

    fn namespace(&self, kind: &str) -> PathBuf {
        format!("/proc/{}/ns/{kind}", self.holder).into()
    }

    /// A cgroup for what is no pod: a leaf, since version 2 wants processes in leaves only. In
    /// version 1 one hierarchy is enough to find them.
    fn own_cgroup(&self) -> PathBuf {
        let unified = Path::new(CGROUPS).join(&self.name).join("node");
        if unified.is_dir() {
            unified
        } else {
            Path::new(CGROUPS)
                .join(HIERARCHY)
                .join(&self.name)
                .join("node")
        }
    }
}

/// Makes the cgroups above all pods', which the kubelet wants to find.
fn make_cgroups(name: &str, unified: bool) -> Result<()> {
    let root = Path::new(CGROUPS);
    let mut roots = Vec::new();
    if unified {
        roots.push(root.to_owned());
        let available = root.join("cgroup.controllers");
        let available = std::fs::read_to_string(&available)
            .with_context(|| format!("reading {}", available.display()))?;
        for controller in available.split_whitespace() {
            // One that cannot be handed down, the kubelet will name if it needs it.
            let _ = std::fs::write(
                root.join("cgroup.subtree_control"),
                format!("+{controller}"),
            );
        }
    } else {
        for entry in std::fs::read_dir(root).with_context(|| format!("reading {CGROUPS}"))? {
            let entry = entry.with_context(|| format!("reading {CGROUPS}"))?;
            let kind = entry
                .file_type()
                .with_context(|| format!("looking at {}", entry.path().display()))?;
            // Links are other names of the same; `unified` has no controllers.
            if kind.is_dir() && entry.file_name() != "unified" {
                roots.push(entry.path());
            }
        }
    }
    for root in roots {
        let folder = root.join(name).join("node");
        std::fs::create_dir_all(&folder)
            .with_context(|| format!("creating the cgroup {}", folder.display()))?;
    }
    Ok(())
}

/// Ties the network namespace to this machine's: the addresses of this end and of the other.
fn connect(name: &str, holder: u32, path: &str) -> Result<(Ipv4Addr, Ipv4Addr)> {
    let ip = |arguments: &str| {
        let mut command = Command::new("ip");
        run(command.env("PATH", path).args(arguments.split_whitespace()))
    };
    ip(&format!(
        "link add {name} type veth peer name {INSIDE} netns {holder}"
    ))?;
    ip(&format!("link set {name} up"))?;
    for choice in 0..TRIES {
        let first = FIRST + 4 * (block(name, choice) % BLOCKS);
        let (host, node) = (Ipv4Addr::from(first + 1), Ipv4Addr::from(first + 2));
        ip(&format!("address add {host}/30 dev {name}"))?;
        // Looked at afterwards, so that of two that choose the same at once, one sees it.
        let listed = ip("-json -4 address show")?;
        if owners(&listed, host)? == 1 {
            // The rules that change a Service's address into a pod's come after the choice of a
            // way, so there must be one to Services; nothing is there.
            let inside = format!("/proc/{holder}/ns/net");
            let mut nsenter = Command::new("nsenter");
            nsenter.env("PATH", path).arg(format!("--net={inside}"));
            run(nsenter.args(["sh", "-ec"]).arg(format!(
                "ip address add {node}/30 dev {INSIDE}; ip link set {INSIDE} up; \
                 ip route add {SERVICE_RANGE} dev {INSIDE} src {node}"
            )))?;
            return Ok((host, node));
        }
        ip(&format!("address delete {host}/30 dev {name}"))?;
    }
    bail!("found no free addresses in 198.18.0.0/15 in {TRIES} tries")
}

/// A number that is another for each name and choice.
fn block(name: &str, choice: u8) -> u32 {
    let hash: [u8; 32] = Sha256::digest(format!("{name} {choice}")).into();
    u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]])
}

/// How many interfaces are in the block of an address.
fn owners(listed: &str, address: Ipv4Addr) -> Result<usize> {
    #[derive(Deserialize)]
    struct Interface {
        #[serde(default)]
        addr_info: Vec<Info>,
    }
    #[derive(Deserialize)]
    struct Info {
        local: Ipv4Addr,
        prefixlen: u8,
    }
    let interfaces: Vec<Interface> = serde_json::from_str(listed)
        .with_context(|| format!("reading what `ip address` said: {listed}"))?;
    let covers = |info: &Info| {
        // Of the wider of the two, what is not the host's part.
        let bits = u32::from(info.prefixlen.min(30));
        let differing = u32::from(info.local) ^ u32::from(address);
        differing.checked_shr(32 - bits).unwrap_or(0) == 0
    };
    let infos = interfaces.iter().flat_map(|one| &one.addr_info);
    Ok(infos.filter(|info| covers(info)).count())
}

/// Runs a program to its end: what it said on standard output.
fn run(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("running {command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?} failed: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(target_os = "linux")]
fn enter_network(namespace: &Path) -> Result<()> {
    use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
    use std::os::fd::AsFd;
    let file = std::fs::File::open(namespace)?;
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn enter_network(_: &Path) -> Result<()> {
    bail!("only Linux has network namespaces")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_in_use_is_seen() {
        let listed = r#"[
            {"ifname": "lo", "addr_info": [{"local": "127.0.0.1", "prefixlen": 8}]},
            {"ifname": "mcp-a", "addr_info": [{"local": "198.18.0.5", "prefixlen": 30}]},
            {"ifname": "wide", "addr_info": [{"local": "198.19.1.1", "prefixlen": 16}]},
            {"ifname": "none"}
        ]"#;
        for (address, expected) in [
            ([198, 18, 0, 5], 1),
            ([198, 18, 0, 6], 1),
            ([198, 18, 0, 9], 0),
            ([198, 19, 200, 9], 1),
        ] {
            assert_eq!(
                owners(listed, address.into()).unwrap(),
                expected,
                "{address:?}"
            );
        }
    }

    #[test]
    fn names_fit_an_interface() {
        let name = Room::name_of(Path::new("/tmp/mcp-cluster-AbCdEf")).unwrap();
        assert_eq!(name, "mcp-AbCdEf");
        assert!(Room::name_of(Path::new("/tmp/something.quite.long")).is_err());
    }
}
