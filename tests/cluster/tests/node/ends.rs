//! However a cluster with a node ends, nothing of it is left.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Instant;

use cluster::{Cluster, server_everything};
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::trace::Trace;
use crate::{apply, http, kubectl, left_out, pod, ready, start};

/// Two containers run, one of them with a token mounted.
async fn with_a_pod(cluster: &Cluster) -> Trace {
    apply(cluster, "default", &[pod("server", http())]);
    ready(cluster, "default", "server", 1).await;
    Trace::of(cluster.folder())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_at_once_are_stopped_and_dropped() {
    if left_out("two_at_once_are_stopped_and_dropped") {
        return;
    }
    let (one, two) = tokio::join!(start(), start());
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_ne!(one.node_address().unwrap(), two.node_address().unwrap());
    let (first, second) = tokio::join!(with_a_pod(&one), with_a_pod(&two));

    let stopping = Instant::now();
    one.stop().await.unwrap();
    // Not in a while: when `stop` returns, all is gone.
    first.check().unwrap();
    eprintln!("stopped in {:?}", stopping.elapsed());

    two.alive().unwrap();
    kubectl(
        &two,
        &["exec", "server", "--", "/usr/bin/node", "--version"],
    );
    let dropping = Instant::now();
    drop(two);
    second.check().unwrap();
    eprintln!("dropped in {:?}", dropping.elapsed());
}

#[tokio::test]
async fn killing_the_command_leaves_nothing() {
    if left_out("killing_the_command_leaves_nothing") {
        return;
    }
    let image = server_everything::image().await.unwrap();
    let machine = machine();
    let mut child = tokio::process::Command::new(env!("CARGO_BIN_EXE_cluster"))
        .args(["up", "--node", "--image"])
        .arg(image)
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let (mut folder, mut program) = (PathBuf::new(), PathBuf::new());
    while let Some(line) = lines.next_line().await.unwrap() {
        match line.split_once(':') {
            Some(("logs", path)) => folder = path.trim().into(),
            Some(("kubectl", path)) => program = path.trim().into(),
            _ if line.starts_with("Ctrl-C") => break,
            _ => {}
        }
    }
    // Read on, so that it does not write into a closed pipe.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    let kubectl = |arguments: &[&str]| {
        let status = std::process::Command::new(&program)
            .arg("--kubeconfig")
            .arg(folder.join("admin.kubeconfig"))
            .args(arguments)
            .stdout(Stdio::null())
            .status();
        assert!(status.unwrap().success());
    };
    let manifest = folder.join("pod.json");
    std::fs::write(&manifest, pod("server", http()).to_string()).unwrap();
    kubectl(&["apply", "-f", manifest.to_str().unwrap()]);
    kubectl(&[
        "wait",
        "pod/server",
        "--for=condition=Ready",
        "--timeout=120s",
    ]);

    let trace = Trace::of(&folder);
    let killing = Instant::now();
    child.kill().await.unwrap();
    trace.nothing_left().await;
    eprintln!("nothing was left {:?} after a kill", killing.elapsed());
    assert_eq!(self::machine(), machine);
}

/// What a kubelet and containerd change on a machine that is theirs: settings of the kernel, and
/// which of their folders there are.
fn machine() -> Vec<(&'static str, Option<String>)> {
    let settings = [
        "/proc/sys/vm/overcommit_memory",
        "/proc/sys/vm/panic_on_oom",
        "/proc/sys/kernel/panic",
        "/proc/sys/kernel/panic_on_oops",
        "/proc/sys/kernel/keys/root_maxkeys",
        "/proc/sys/kernel/keys/root_maxbytes",
        "/proc/sys/net/ipv4/ip_forward",
    ];
    let settings = settings.map(|path| (path, std::fs::read_to_string(path).ok()));
    let folders = [
        "/run/containerd",
        "/run/netns",
        "/var/lib/cni",
        "/var/lib/containerd",
        "/var/lib/kubelet",
        "/var/log/containers",
        "/var/log/pods",
    ];
    let folders = folders.map(|path| (path, Path::new(path).exists().then(String::new)));
    settings.into_iter().chain(folders).collect()
}
