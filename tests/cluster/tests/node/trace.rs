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
    /// Of the cgroups and the network interface.
    name: String,
    /// The processes that name the folder, and those that share a namespace with the node or a
    /// container. Namespaces cannot be looked for later: the kernel gives their numbers to others.
    processes: BTreeSet<Started>,
}

/// A process id, and when it started, as the id is given to others later.
type Started = (String, String);

impl Trace {
    /// Of the cluster with this folder.
    pub fn of(folder: &Path) -> Self {
        let name = folder.file_name().unwrap().to_str().unwrap();
        let name = format!("mcp-{}", name.rsplit('-').next().unwrap());
        // The containers' processes do not name the folder, but are in the cgroups.
        let inside = cgroup_processes(&name);
        assert!(inside.len() > 5, "kubelet, containerd, a shim: {inside:?}");
        let own = namespaces("self");
        let theirs: BTreeSet<PathBuf> = inside
            .iter()
            .flat_map(|id| namespaces(id))
            .filter(|namespace| !own.contains(namespace))
            .collect();
        let processes: BTreeSet<Started> = living()
            .filter(|(id, _)| {
                let sharing = namespaces(id).iter().any(|one| theirs.contains(one));
                sharing || command_line(id).contains(folder.to_str().unwrap())
            })
            .collect();
        let trace = Self {
            folder: folder.to_owned(),
            name,
            processes,
        };
        // This is able to find what is there, so it means something when it finds nothing.
        assert!(trace.left().len() > 12, "{:?}", trace.left());
        assert!(!cgroups(&trace.name).is_empty());
        assert!(trace.interface().exists());
        trace
    }

    /// Fails if anything is left.
    pub fn check(&self) -> anyhow::Result<()> {
        let processes = self.left();
        ensure!(processes.is_empty(), "processes: {processes:?}");
        let cgroups = cgroups(&self.name);
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

    /// The command lines of processes that were there, or are new and name the folder.
    fn left(&self) -> Vec<String> {
        let folder = self.folder.to_str().unwrap();
        living()
            .map(|process| (self.processes.contains(&process), command_line(&process.0)))
            // One without a command line has ended, but for the kernel's last steps.
            .filter(|(known, line)| (*known && !line.is_empty()) || line.contains(folder))
            .map(|(_, line)| line)
            .collect()
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

/// All processes, but for those that have ended and are only to be buried by this machine's
/// process 1: they hold nothing.
fn living() -> impl Iterator<Item = Started> {
    std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| {
            let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
            // Behind the program's name, which may hold anything.
            let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
            let (state, start) = (fields.first()?, fields.get(19)?);
            let id = entry.file_name().into_string().ok()?;
            (*state != "Z" && id != "self").then(|| (id, (*start).to_owned()))
        })
}

fn command_line(id: &str) -> String {
    let line = std::fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&line).replace('\0', " ")
}

fn namespaces(id: &str) -> Vec<PathBuf> {
    NAMESPACES
        .iter()
        .filter_map(|kind| std::fs::read_link(format!("/proc/{id}/ns/{kind}")).ok())
        .collect()
}
