//! The programs of the cluster: built by Go from pinned sources, once, and kept.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};

use crate::process::Family;

/// The folder of the Go modules of pinned sources.
const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tools");
/// What `go build` is told. The versions are what clients see and refuse to work without.
const FLAGS: [&str; 4] = [
    "-trimpath",
    "-v", // so that progress can be shown
    "-ldflags",
    "-s -w \
     -X k8s.io/component-base/version.gitVersion=v1.36.3 \
     -X k8s.io/component-base/version.gitMajor=1 \
     -X k8s.io/component-base/version.gitMinor=36 \
     -X k8s.io/client-go/pkg/version.gitVersion=v1.36.3 \
     -X helm.sh/helm/v4/internal/version.version=v4.3.1 \
     -X helm.sh/helm/v3/internal/version.version=v3.22.0",
];

/// Programs that are built together, from one Go module. What a run does not need is not built.
#[derive(Clone, Copy, Debug)]
pub struct Set {
    /// For messages: what is built, and how long that takes.
    pub about: &'static str,
    /// The folder of the module, within `tools`; empty for `tools` itself.
    pub module: &'static str,
    /// Sources of ours in the module, which decide beside go.mod and go.sum what is built.
    pub sources: &'static [&'static str],
    /// The packages; a program is called like the last part of its package. Without any, nothing is built.
    pub packages: &'static [&'static str],
    /// Folders of files to keep beside the programs.
    pub files: &'static [Files],
}

impl Set {
    /// The programs' names in the folder that [`build`] gives.
    pub fn programs(&self) -> impl Iterator<Item = &'static str> {
        self.packages
            .iter()
            .map(|package| package.rsplit('/').next().unwrap_or(package))
    }
}

/// Files of a required module, which come in the version that the programs are built from.
#[derive(Clone, Copy, Debug)]
pub struct Files {
    /// The module's path.
    pub module: &'static str,
    /// Their folder in the module.
    pub folder: &'static str,
    /// The name of the folder beside the programs.
    pub name: &'static str,
}

/// What every cluster needs.
pub const CONTROL_PLANE: Set = Set {
    about: "etcd, kube-apiserver, kube-controller-manager and kubectl; about 6 minutes on 2 cores",
    module: "",
    sources: &["etcd/main.go"],
    packages: &[
        "./etcd",
        "k8s.io/kubernetes/cmd/kube-apiserver",
        "k8s.io/kubernetes/cmd/kube-controller-manager",
        "k8s.io/kubernetes/cmd/kubectl",
    ],
    files: &[],
};

/// What installs charts. Not in the control plane's module: it would have that built from newer libraries than
/// its release was.
pub const HELM: Set = Set {
    about: "helm; about 2 minutes on 2 cores",
    module: "addons",
    sources: &[],
    packages: &["helm.sh/helm/v4/cmd/helm"],
    files: &[],
};

/// The Helm before it, which many still have.
pub const HELM_3: Set = Set {
    about: "helm 3; about 1 minute on 2 cores, less after helm",
    module: "addons",
    sources: &[],
    packages: &["helm.sh/helm/v3/cmd/helm"],
    files: &[],
};

/// cert-manager's controllers.
pub const CERT_MANAGER: Set = Set {
    about: "cert-manager; about 2 minutes on 2 cores, less after helm",
    module: "addons",
    sources: &["certmanager/main.go"],
    packages: &["./certmanager"],
    files: &[Files {
        module: "github.com/cert-manager/cert-manager",
        folder: "deploy/crds",
        name: CERT_MANAGER_KINDS,
    }],
};
/// The folder of cert-manager's kinds beside its program.
pub const CERT_MANAGER_KINDS: &str = "crds";

/// What checks workflows, and what writes the chart's README.
pub const LINTS: Set = Set {
    about: "actionlint and helm-docs; some seconds",
    module: "lints",
    sources: &[],
    packages: &[
        "github.com/rhysd/actionlint/cmd/actionlint",
        "github.com/norwoodj/helm-docs/cmd/helm-docs",
    ],
    files: &[],
};

/// Kinds that samples have beside an MCPServer, that manifests for Argo CD and Flux have, and the chart for Prometheus: a folder of YAML for each of whom they
/// are of. Nothing is built.
pub const KINDS: Set = Set {
    about: "kinds of gateways, GitOps tools and the Prometheus operator; some seconds",
    module: "kinds",
    sources: &[],
    packages: &[],
    files: &[
        Files {
            module: "sigs.k8s.io/gateway-api",
            folder: "config/crd/standard",
            name: "gateway-api",
        },
        Files {
            module: "github.com/envoyproxy/gateway",
            folder: "charts/gateway-helm/charts/crds/crds/generated",
            name: "envoy-gateway",
        },
        Files {
            module: "github.com/traefik/traefik/v3",
            folder: "docs/content/reference/dynamic-configuration",
            name: "traefik",
        },
        Files {
            module: "github.com/prometheus-operator/prometheus-operator",
            folder: "example/prometheus-operator-crd",
            name: "prometheus-operator",
        },
        Files {
            module: "github.com/argoproj/argo-cd/v3",
            folder: "manifests/crds",
            name: "argo-cd",
        },
        Files {
            module: "github.com/fluxcd/kustomize-controller",
            folder: "config/crd/bases",
            name: "flux",
        },
    ],
};

/// What says how Go reads things; see [`crate::oracles`].
pub const ORACLES: Set = Set {
    about: "oracles; about 1 minute on 2 cores",
    module: "oracles",
    sources: &[
        "main.go",
        "argo.go",
        "flux.go",
        "image.go",
        "kstatus.go",
        "quantity.go",
        "duration.go",
    ],
    packages: &["github.com/mcp-operator/mcp-operator/tests/cluster/tools/oracles"],
    files: &[],
};

/// What a real node needs beside the control plane; see also [`CONTAINERD`] and [`COREDNS`].
pub const NODE: Set = Set {
    about: "kube-scheduler, kubelet and kube-proxy; about 2 minutes on 2 cores",
    module: "",
    sources: &[],
    packages: &[
        "k8s.io/kubernetes/cmd/kube-scheduler",
        "k8s.io/kubernetes/cmd/kubelet",
        "k8s.io/kubernetes/cmd/kube-proxy",
    ],
    files: &[],
};

/// What runs containers on a real node. A module of its own, as it needs a newer cri-api.
pub const CONTAINERD: Set = Set {
    about: "containerd, its shim, ctr and a pause program; about 2 minutes on 2 cores",
    module: "containerd",
    sources: &["pause/main.go"],
    packages: &[
        "github.com/containerd/containerd/v2/cmd/containerd",
        "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
        "github.com/containerd/containerd/v2/cmd/ctr",
        "./pause",
    ],
    files: &[],
};

/// What resolves names on a real node.
pub const COREDNS: Set = Set {
    about: "coredns; about 2 minutes on 2 cores",
    module: "coredns",
    sources: &[],
    packages: &["github.com/coredns/coredns"],
    files: &[],
};

/// What a real node needs beside the control plane.
pub const REAL_NODE: [Set; 3] = [NODE, CONTAINERD, COREDNS];
/// What is installed into a cluster, or installs.
pub const ADDONS: [Set; 3] = [HELM, HELM_3, CERT_MANAGER];

/// The environment of `go build`, beside the user's own.
const ENVIRONMENT: [(&str, &str); 3] = [
    ("CGO_ENABLED", "0"),
    ("GOFLAGS", "-mod=readonly"),
    ("GOWORK", "off"),
];
/// The oldest Go that builds them: its minor version.
const GO_MINOR: u32 = 26;
/// How often a long step says that it is still at it.
const PROGRESS: Duration = Duration::from_secs(15);
/// Names the folder to keep the programs in, if it is not to be in the target folder.
const FOLDER_VARIABLE: &str = "MCP_OPERATOR_TOOLS_DIR";
/// A folder in which a build goes on begins with this.
pub(crate) const UNFINISHED: &str = ".building-";

/// The programs of a control plane.
#[derive(Clone, Debug)]
pub struct Tools {
    /// The store.
    pub etcd: PathBuf,
    /// The API server.
    pub kube_apiserver: PathBuf,
    /// The controllers of the built-in kinds.
    pub kube_controller_manager: PathBuf,
    /// The command-line client.
    pub kubectl: PathBuf,
}

impl Tools {
    fn in_folder(folder: &Path) -> Self {
        Self {
            etcd: folder.join("etcd"),
            kube_apiserver: folder.join("kube-apiserver"),
            kube_controller_manager: folder.join("kube-controller-manager"),
            kubectl: folder.join("kubectl"),
        }
    }
}

/// The programs of a real node.
#[derive(Clone, Debug)]
pub struct NodeTools {
    /// Gives pods a node.
    pub kube_scheduler: PathBuf,
    /// Runs the node's pods.
    pub kubelet: PathBuf,
    /// Makes the addresses of Services work.
    pub kube_proxy: PathBuf,
    /// Runs containers; its shim is beside it.
    pub containerd: PathBuf,
    /// Talks to containerd.
    pub ctr: PathBuf,
    /// Does nothing, statically linked.
    pub pause: PathBuf,
    /// Resolves names.
    pub coredns: PathBuf,
}

/// The programs of a real node, built if that has not been done before; see [`build`].
pub async fn node() -> Result<NodeTools> {
    let node = build(&NODE).await?;
    let containerd = build(&CONTAINERD).await?;
    let coredns = build(&COREDNS).await?;
    Ok(NodeTools {
        kube_scheduler: node.join("kube-scheduler"),
        kubelet: node.join("kubelet"),
        kube_proxy: node.join("kube-proxy"),
        ctr: containerd.join("ctr"),
        pause: containerd.join("pause"),
        containerd: containerd.join("containerd"),
        coredns: coredns.join("coredns"),
    })
}

/// The programs of a control plane, built if that has not been done before; see [`build`].
pub async fn control_plane() -> Result<Tools> {
    Ok(Tools::in_folder(&build(&CONTROL_PLANE).await?))
}

/// The folder with the programs of a set, built if that has not been done before.
///
/// They are kept in `$MCP_OPERATOR_TOOLS_DIR` or in `cluster-tools` of the target folder, by the
/// content of what they are built from. Any number of processes may ask at once; one builds.
pub async fn build(set: &Set) -> Result<PathBuf> {
    let root = folder();
    let folder = root.join(key(set).await?);
    // Whole or not there at all, as it gets its name by a rename when it is complete.
    if folder.is_dir() {
        return Ok(folder);
    }
    std::fs::create_dir_all(&root).with_context(|| {
        format!(
            "creating the folder {} for built tools (set {FOLDER_VARIABLE} to use another)",
            root.display()
        )
    })?;
    let lock = lock(&root.join("lock")).await?;
    if !folder.is_dir() {
        build_into(set, &root, &folder).await?;
    }
    drop(lock);
    Ok(folder)
}

/// Fails with what to do if some of the sets are still to be built and cannot be, for want of Go.
pub(crate) async fn check(sets: &[Set]) -> Result<()> {
    for set in sets {
        if !folder().join(key(set).await?).is_dir() {
            check_go(&Path::new(SOURCES).join(set.module)).await?;
        }
    }
    Ok(())
}

/// The folder of all built tools.
pub(crate) fn folder() -> PathBuf {
    if let Some(folder) = std::env::var_os(FOLDER_VARIABLE) {
        return folder.into();
    }
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    // Canonical only to look better in messages.
    let workspace = workspace.canonicalize().unwrap_or(workspace);
    let target = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    workspace.join(target).join("cluster-tools")
}

/// A name for what would be built: a hash of everything that decides it, so that no program
/// has to be run to find it.
async fn key(set: &Set) -> Result<String> {
    let mut hash = Sha256::new();
    let mut add = |part: &[u8]| {
        hash.update(part.len().to_be_bytes());
        hash.update(part);
    };
    for file in ["go.mod", "go.sum"].iter().chain(set.sources) {
        let path = Path::new(SOURCES).join(set.module).join(file);
        let content = tokio::fs::read(&path).await;
        add(&content
            .with_context(|| format!("reading {}, from which tools are built", path.display()))?);
    }
    for files in set.files {
        for text in [files.module, files.folder, files.name] {
            add(text.as_bytes());
        }
    }
    for text in FLAGS
        .iter()
        .chain(set.packages)
        .chain(ENVIRONMENT.iter().flat_map(|(name, value)| [name, value]))
    {
        add(text.as_bytes());
    }
    add(std::env::consts::OS.as_bytes());
    add(std::env::consts::ARCH.as_bytes());
    let mut name = format!("{:x}", hash.finalize());
    name.truncate(32);
    Ok(name)
}

/// Takes the lock that only one builder has. It is let go when the file is closed, so also by
/// the death of this process.
pub(crate) async fn lock(path: &Path) -> Result<File> {
    let file =
        File::create(path).with_context(|| format!("creating the lock file {}", path.display()))?;
    let mut progress = Progress::new();
    // Asked for again and again, rather than waited for, so that this can be cancelled.
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => {
                progress.tell(|| "another process builds the tools; waiting for it".to_owned());
            }
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("locking {}", path.display()));
            }
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Builds everything into a folder beside, and renames it. The lock must be held.
async fn build_into(set: &Set, root: &Path, folder: &Path) -> Result<()> {
    let module = Path::new(SOURCES).join(set.module);
    check_go(&module).await?;
    remove_leftovers(root)?;
    let start = Instant::now();
    let unfinished = tempfile::Builder::new().prefix(UNFINISHED).tempdir_in(root);
    let unfinished = unfinished
        .with_context(|| format!("creating a folder in {}", root.display()))?
        .keep();
    // With the family, go and its compilers end when this process does, and the folder goes.
    let mut family = Family::new(&unfinished)?;
    let output = unfinished.join("bin");
    std::fs::create_dir(&output).with_context(|| format!("creating {}", output.display()))?;
    let mut go = Command::new("go");
    go.current_dir(&module);
    if set.packages.is_empty() {
        // A module has no folder of its files before.
        go.args(["mod", "download"])
            .args(set.files.iter().map(|files| files.module));
    } else {
        go.arg("build")
            .args(FLAGS)
            .arg("-o")
            .arg(format!("{}/", output.display()))
            .args(set.packages);
    }
    // Its scratch files go into the folder, too: a killed go leaves them.
    go.envs(ENVIRONMENT).env("GOTMPDIR", &unfinished);
    for foreign in ["GOOS", "GOARCH"] {
        go.env_remove(foreign);
    }
    eprintln!("building with go, once: {}", set.about);
    let go = family.start("go build", go, &unfinished.join("log"), false)?;
    let mut progress = Progress::new();
    let success = loop {
        if let Some(success) = go.success() {
            break success;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        progress.later(|| {
            let log = std::fs::read_to_string(go.log()).unwrap_or_default();
            let last = log
                .lines()
                .last()
                .unwrap_or("looking at what there is to do");
            format!("{} steps; {last}", log.lines().count())
        });
    };
    if !success {
        go.alive()
            .with_context(|| format!("building the tools of {} with go", module.display()))?;
        bail!("building the tools of {} with go failed", module.display());
    }
    for files in set.files {
        copy(files, &module, &output).await?;
    }
    std::fs::rename(&output, folder)
        .with_context(|| format!("renaming {} to {}", output.display(), folder.display()))?;
    family.end()?;
    eprintln!(
        "built into {} in {} s",
        folder.display(),
        start.elapsed().as_secs()
    );
    Ok(())
}

/// Copies files of a required module, which the build has fetched, into the folder of programs.
async fn copy(files: &Files, module: &Path, programs: &Path) -> Result<()> {
    let mut command = tokio::process::Command::new("go");
    command
        .current_dir(module)
        .args(["list", "-m", "-f", "{{.Dir}}", files.module])
        .envs(ENVIRONMENT)
        .kill_on_drop(true);
    let finding = || format!("finding the files of module {}", files.module);
    let output = command.output().await.with_context(finding)?;
    let answer = String::from_utf8_lossy(&output.stdout);
    let found = answer.trim();
    ensure!(
        output.status.success() && !found.is_empty(),
        "{} failed: {}",
        finding(),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    let from = Path::new(found).join(files.folder);
    let to = programs.join(files.name);
    let copying = || format!("copying {} to {}", from.display(), to.display());
    std::fs::create_dir(&to).with_context(copying)?;
    for entry in std::fs::read_dir(&from).with_context(copying)? {
        let entry = entry.with_context(copying)?;
        std::fs::copy(entry.path(), to.join(entry.file_name())).with_context(copying)?;
    }
    Ok(())
}

/// Removes what a build left whose machine was switched off.
pub(crate) fn remove_leftovers(root: &Path) -> Result<()> {
    let entries = std::fs::read_dir(root)
        .with_context(|| format!("reading the folder {}", root.display()))?;
    for entry in entries.filter_map(Result::ok) {
        if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
            // Another's sweeper may be at it just now; then it is gone or will be.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
    Ok(())
}

/// Fails with what to do if there is no Go or too old a one.
async fn check_go(module: &Path) -> Result<()> {
    let what_to_do = format!(
        "Go 1.{GO_MINOR} or newer is needed to build the test cluster's tools: \
         install it from https://go.dev/dl and have `go` in the PATH"
    );
    let mut command = tokio::process::Command::new("go");
    // In the module's folder, where an older go with toolchain switching says what it switches to.
    command
        .current_dir(module)
        .arg("version")
        .kill_on_drop(true);
    let output = command.output().await.with_context(|| what_to_do.clone())?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success(),
        "{what_to_do} (`go version` failed: {})",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    ensure!(new_enough(&text), "{what_to_do} (found: {})", text.trim());
    Ok(())
}

/// Whether the answer of `go version` names a Go that builds the tools. A development version
/// has no number, and gets the benefit of the doubt.
fn new_enough(answer: &str) -> bool {
    let Some(version) = answer
        .split_whitespace()
        .find_map(|word| word.strip_prefix("go1."))
    else {
        return answer.contains("devel");
    };
    let digits: String = version.chars().take_while(char::is_ascii_digit).collect();
    digits.parse::<u32>().is_ok_and(|minor| minor >= GO_MINOR)
}

/// Lines on standard error about a step that takes long, some time apart.
struct Progress {
    start: Instant,
    next: Instant,
}

impl Progress {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            start: now,
            next: now,
        }
    }

    /// A line now, and then some time apart.
    fn tell(&mut self, line: impl FnOnce() -> String) {
        let now = Instant::now();
        if now >= self.next {
            eprintln!("  {:>3} s: {}", self.start.elapsed().as_secs(), line());
            self.next = now + PROGRESS;
        }
    }

    /// Lines some time apart, none now.
    fn later(&mut self, line: impl FnOnce() -> String) {
        if self.start.elapsed() >= PROGRESS {
            self.tell(line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_versions() {
        for (answer, expected) in [
            ("go version go1.26.8 linux/amd64", true),
            ("go version go1.26rc1 linux/amd64", true),
            ("go version go1.27 darwin/arm64", true),
            ("go version go1.25.9 linux/amd64", false),
            ("go version go1.9 linux/amd64", false),
            ("go version devel +abc linux/amd64", true),
            ("gcc 12", false),
        ] {
            assert_eq!(new_enough(answer), expected, "{answer}");
        }
    }

    #[tokio::test]
    async fn the_key_is_stable() {
        let set = &CONTROL_PLANE;
        assert_eq!(key(set).await.unwrap(), key(set).await.unwrap());
        assert_eq!(key(set).await.unwrap().len(), 32);
    }

    #[tokio::test]
    async fn one_builder_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let held = lock(&path).await.unwrap();
        let second = tokio::time::timeout(Duration::from_millis(500), lock(&path)).await;
        assert!(second.is_err(), "the lock was given twice");
        drop(held);
        lock(&path).await.unwrap();
    }
}
