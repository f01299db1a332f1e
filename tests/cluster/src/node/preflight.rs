//! What a machine needs for a real node, and saying exactly what is missing.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::node::room::HIERARCHY;

/// The Debian and Ubuntu packages with the programs that a real node uses and that are not built
/// from source: `cluster node-packages` prints them.
pub const PACKAGES: [&str; 6] = [
    "containernetworking-plugins",
    "iproute2",
    "mount",
    "nftables",
    "runc",
    "util-linux",
];

/// Programs, each with its package.
const PROGRAMS: [(&str, &str); 6] = [
    ("ip", "iproute2"),
    ("mount", "mount"),
    ("nft", "nftables"),
    ("nsenter", "util-linux"),
    ("runc", "runc"),
    ("unshare", "util-linux"),
];
/// Where distributions put the CNI plugins.
const CNI_FOLDERS: [&str; 3] = ["/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni"];
/// The plugins that are used.
const CNI_PLUGINS: [&str; 3] = ["host-local", "loopback", "ptp"];
/// Where programs for root are, which is not in every PATH.
const MORE_FOLDERS: [&str; 2] = ["/usr/sbin", "/sbin"];

/// What of the machine a node uses.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    /// The program that makes containers.
    pub(crate) runc: PathBuf,
    /// The folder of the CNI plugins.
    pub(crate) cni: PathBuf,
    /// A PATH with the programs for root.
    pub(crate) path: String,
    /// Whether cgroups are of version 2.
    pub(crate) unified: bool,
}

/// Fails with everything that is missing and how to get it. `also` are further programs that are
/// wanted, each with its package.
pub(crate) fn check(also: &[(&str, &'static str)]) -> Result<Machine> {
    if !cfg!(target_os = "linux") {
        bail!(
            "a real node needs Linux, and this is {}",
            std::env::consts::OS
        );
    }
    let path = path();
    let find = |program: &str| {
        std::env::split_paths(&path)
            .map(|folder| folder.join(program))
            .find(|file| file.is_file())
    };
    let cni = CNI_FOLDERS.iter().map(Path::new).find(|folder| {
        CNI_PLUGINS
            .iter()
            .all(|plugin| folder.join(plugin).is_file())
    });
    let mut lacking: Vec<(String, &str)> = PROGRAMS
        .iter()
        .chain(also)
        .filter(|(program, _)| find(program).is_none())
        .map(|(program, package)| (format!("the program {program}"), *package))
        .collect();
    if cni.is_none() {
        lacking.push((
            format!(
                "the CNI plugins {} (looked for in {})",
                CNI_PLUGINS.join(", "),
                CNI_FOLDERS.join(", ")
            ),
            "containernetworking-plugins",
        ));
    }
    let overlay = overlay(&path);
    let unified = Path::new("/sys/fs/cgroup/cgroup.controllers").is_file();
    let cgroups = unified || Path::new("/sys/fs/cgroup").join(HIERARCHY).is_dir();
    match (find("runc"), cni) {
        (Some(runc), Some(cni)) if lacking.is_empty() && powerful() && overlay && cgroups => {
            Ok(Machine {
                runc,
                cni: cni.to_owned(),
                path,
                unified,
            })
        }
        _ => bail!(message(powerful(), overlay, cgroups, &lacking)),
    }
}

/// What to tell: what is missing, one a line, and the command that gets it.
fn message(powerful: bool, overlay: bool, cgroups: bool, lacking: &[(String, &str)]) -> String {
    let mut lines = vec!["a real node cannot be had on this machine; missing:".to_owned()];
    if !powerful {
        lines.push(
            "- root with the capabilities SYS_ADMIN and NET_ADMIN: run it by sudo -E, or in a \
             container that is privileged"
                .to_owned(),
        );
    }
    if !overlay {
        lines.push("- the file system overlay in the kernel: modprobe overlay".to_owned());
    }
    if !cgroups {
        lines.push("- cgroups, mounted at /sys/fs/cgroup".to_owned());
    }
    lines.extend(lacking.iter().map(|(what, _)| format!("- {what}")));
    if !lacking.is_empty() {
        let mut packages: Vec<&str> = lacking.iter().map(|(_, package)| *package).collect();
        packages.sort_unstable();
        packages.dedup();
        lines.push(format!(
            "On Debian and Ubuntu: apt-get install --no-install-recommends {}",
            packages.join(" ")
        ));
    }
    lines.join("\n")
}

/// Whether the kernel has the file system overlay, loaded if it is a module.
fn overlay(path: &str) -> bool {
    let listed = || {
        let filesystems = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
        filesystems.split_whitespace().any(|name| name == "overlay")
    };
    listed() || {
        // It may well fail or be missing; what counts is the second look.
        let mut modprobe = Command::new("modprobe");
        let _ = modprobe.env("PATH", path).args(["-q", "overlay"]).status();
        listed()
    }
}

/// The PATH and the folders of programs for root.
fn path() -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    let own = path.split(':').filter(|folder| !folder.is_empty());
    own.chain(MORE_FOLDERS).collect::<Vec<_>>().join(":")
}

#[cfg(target_os = "linux")]
fn powerful() -> bool {
    use rustix::thread::{CapabilitySet, capabilities};
    capabilities(None).is_ok_and(|own| {
        own.effective
            .contains(CapabilitySet::SYS_ADMIN | CapabilitySet::NET_ADMIN)
    })
}

#[cfg(not(target_os = "linux"))]
fn powerful() -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_everything_that_is_missing() {
        let lacking = [
            ("the program nft".to_owned(), "nftables"),
            ("the program nsenter".to_owned(), "util-linux"),
            ("the program unshare".to_owned(), "util-linux"),
        ];
        assert_eq!(
            message(false, true, true, &lacking),
            "a real node cannot be had on this machine; missing:\n\
             - root with the capabilities SYS_ADMIN and NET_ADMIN: run it by sudo -E, or in a \
             container that is privileged\n\
             - the program nft\n\
             - the program nsenter\n\
             - the program unshare\n\
             On Debian and Ubuntu: apt-get install --no-install-recommends nftables util-linux"
        );
    }

    #[test]
    fn every_package_asked_for_is_listed() {
        for (program, package) in PROGRAMS {
            assert!(PACKAGES.contains(&package), "{program}: {package}");
        }
    }
}
