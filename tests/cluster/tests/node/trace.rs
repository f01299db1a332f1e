//! What a cluster with a node is made of, noted while it runs, and what is left of that.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::ensure;
use cluster::eventually;

/// How long the kernel may take to clear away a network namespace, on a busy machine.
const LIMIT: Duration = Duration::from_mins(1);
const NAMESPACES: [&str; 3] = ["net", "mnt", "pid"];

pub struct Trace {
    folder: PathBuf,
    /// As the kernel names them; those of the node and of its containers.
    namespaces: BTreeSet<PathBuf>,
    name: String,
}

impl Trace {
    /// Of the cluster with this folder.
    pub fn of(folder: &Path) -> Self {
        let name = folder.file_name().unwrap().to_str().unwrap();
        let name = format!("mcp-{}", name.rsplit('-').next().unwrap());
        let own = namespaces(Path::new("/proc/self"));
        // The containers' processes do not name the folder, but are in the cgroups.
        let processes = cgroup_processes(&name);
        assert!(
            processes.len() > 5,
            "kubelet, containerd, a shim: {processes:?}"
        );
        let namespaces = processes
            .iter()
            .flat_map(|id| namespaces(&Path::new("/proc").join(id)))
            .filter(|namespace| !own.contains(namespace))
            .collect();
        let trace = Self {
            folder: folder.to_owned(),
            namespaces,
            name,
        };
        // This is able to find what is there, so it means something when it finds nothing.
        assert!(trace.namespaces.len() > 3, "{:?}", trace.namespaces);
        assert!(trace.processes().len() > 10, "{:?}", trace.processes());
        assert!(!trace.cgroups().is_empty());
        assert!(trace.interface().exists());
        trace
    }

    /// Fails if anything is left.
    pub fn check(&self) -> anyhow::Result<()> {
        let processes = self.processes();
        ensure!(processes.is_empty(), "processes: {processes:?}");
        let cgroups = self.cgroups();
        ensure!(cgroups.is_empty(), "cgroups: {cgroups:?}");
        ensure!(!self.interface().exists(), "the network interface");
        let folder = self.folder.to_str().unwrap();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
        ensure!(!mounts.contains(folder), "mounts: {mounts}");
        ensure!(!self.folder.exists(), "the folder");
        Ok(())
    }

    /// Waits until nothing is left.
    pub async fn nothing_left(&self) {
        eventually("nothing to be left", LIMIT, || async {
            self.check().map(Some)
        })
        .await
        .unwrap();
    }

    /// Processes that are in a namespace of the cluster's or name its folder.
    fn processes(&self) -> Vec<String> {
        let folder = self.folder.to_str().unwrap();
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let path = entry.path();
            // What has ended and is only to be buried, by this machine's process 1, holds nothing.
            let status = std::fs::read_to_string(path.join("status")).unwrap_or_default();
            if status.contains("State:\tZ") {
                continue;
            }
            let Ok(line) = std::fs::read(path.join("cmdline")) else {
                continue;
            };
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            let inside = namespaces(&path)
                .iter()
                .any(|namespace| self.namespaces.contains(namespace));
            if inside || line.contains(folder) {
                found.push(line);
            }
        }
        found
    }

    fn cgroups(&self) -> Vec<PathBuf> {
        cgroups(&self.name)
    }

    fn interface(&self) -> PathBuf {
        Path::new("/sys/class/net").join(&self.name)
    }
}

/// In every hierarchy.
fn cgroups(name: &str) -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies = std::fs::read_dir(root).unwrap().flatten();
    let mut all: Vec<PathBuf> = hierarchies.map(|entry| entry.path().join(name)).collect();
    all.push(root.join(name));
    all.retain(|path| path.is_dir());
    all
}

/// Process ids in the cgroups.
fn cgroup_processes(name: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut folders = cgroups(name);
    while let Some(folder) = folders.pop() {
        if let Ok(ids) = std::fs::read_to_string(folder.join("cgroup.procs")) {
            found.extend(ids.lines().map(str::to_owned));
        }
        let below = std::fs::read_dir(folder).unwrap().flatten();
        folders.extend(below.map(|entry| entry.path()).filter(|path| path.is_dir()));
    }
    found
}

fn namespaces(process: &Path) -> Vec<PathBuf> {
    NAMESPACES
        .iter()
        .filter_map(|kind| std::fs::read_link(process.join("ns").join(kind)).ok())
        .collect()
}
