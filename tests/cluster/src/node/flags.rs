//! The command lines of a node.

use std::path::Path;
use std::process::Command;

use crate::flags::clean;
use crate::node::NODE;
use crate::node::preflight::Machine;
use crate::node::room::Room;
use crate::node::settings;
use crate::tools::NodeTools;

pub(crate) fn containerd(
    room: &Room,
    tools: &NodeTools,
    machine: &Machine,
    folder: &Path,
) -> Command {
    let mut command = room.enter();
    clean(&mut command, folder);
    // Its shim is beside it.
    let beside = tools.containerd.parent().unwrap_or(Path::new("/"));
    command
        .env("PATH", format!("{}:{}", beside.display(), machine.path))
        .arg(&tools.containerd)
        .arg("--config")
        .arg(folder.join(settings::CONTAINERD));
    command
}

pub(crate) fn kubelet(
    room: &Room,
    tools: &NodeTools,
    machine: &Machine,
    folder: &Path,
    kubeconfig: &Path,
) -> Command {
    let mut command = room.enter();
    clean(&mut command, folder);
    command
        .env("PATH", &machine.path)
        .arg(&tools.kubelet)
        .args([
            format!("--config={}", folder.join(settings::KUBELET).display()),
            format!("--kubeconfig={}", kubeconfig.display()),
            format!("--root-dir={}", folder.join("kubelet").display()),
            format!("--hostname-override={NODE}"),
            format!("--node-ip={}", room.address),
        ]);
    command
}

pub(crate) fn scheduler(tools: &NodeTools, folder: &Path, kubeconfig: &Path) -> Command {
    let mut command = Command::new(&tools.kube_scheduler);
    clean(&mut command, folder);
    command.args([
        &format!("--kubeconfig={}", kubeconfig.display()),
        "--leader-elect=false",
        "--secure-port=0",
        "--profiling=false",
    ]);
    command
}

pub(crate) fn proxy(tools: &NodeTools, machine: &Machine, folder: &Path) -> Command {
    let mut command = Command::new(&tools.kube_proxy);
    clean(&mut command, folder);
    command.env("PATH", &machine.path).arg(format!(
        "--config={}",
        folder.join(settings::PROXY).display()
    ));
    command
}

pub(crate) fn coredns(tools: &NodeTools, folder: &Path) -> Command {
    let mut command = Command::new(&tools.coredns);
    clean(&mut command, folder);
    command.arg("-conf").arg(folder.join(settings::COREFILE));
    command
}

/// A ctr that works on the images of pods.
pub(crate) fn ctr(tools: &NodeTools, folder: &Path) -> Command {
    let mut command = Command::new(&tools.ctr);
    command
        .arg("--address")
        .arg(folder.join(settings::SOCKET))
        .args(["--namespace", "k8s.io"]);
    command
}
