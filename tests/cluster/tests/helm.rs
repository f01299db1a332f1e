//! Real Helm against a real API server.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::path::Path;
use std::process::{Command, Output};

use cluster::{Cluster, Options};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::Api;

/// A chart with one object.
fn write_chart(folder: &Path) {
    std::fs::create_dir_all(folder.join("templates")).unwrap();
    for (file, content) in [
        (
            "Chart.yaml",
            "apiVersion: v2\nname: trivial\nversion: 0.1.0\nkubeVersion: '>= 1.36.0'\n",
        ),
        ("values.yaml", "greeting: hello\n"),
        (
            "templates/map.yaml",
            "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {{ .Release.Name }}\ndata:\n  \
             greeting: {{ .Values.greeting }}\n",
        ),
    ] {
        std::fs::write(folder.join(file), content).unwrap();
    }
}

fn run(command: &mut Command, home: &Path) -> String {
    let Output {
        status,
        stdout,
        stderr,
    } = command.env("HOME", home).output().unwrap();
    assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap()
}

#[tokio::test]
async fn a_chart_is_installed_upgraded_and_uninstalled() {
    let cluster = Cluster::start(Options::default()).await.unwrap();
    let home = tempfile::tempdir().unwrap();
    let chart = tempfile::tempdir().unwrap();
    write_chart(chart.path());
    let helm = async || cluster.helm_command().await.unwrap();

    let version = run(helm().await.args(["version", "--short"]), home.path());
    assert!(version.starts_with("v4.3.1"), "{version}");

    let maps: Api<ConfigMap> = Api::namespaced(cluster.client(), "charts");
    let greeting = async || maps.get("one").await.unwrap().data.unwrap()["greeting"].clone();
    let mut install = helm().await;
    install.args(["install", "one"]).arg(chart.path()).args([
        "--namespace",
        "charts",
        "--create-namespace",
        "--wait",
    ]);
    run(&mut install, home.path());
    assert_eq!(greeting().await, "hello");

    let mut upgrade = helm().await;
    upgrade.args(["upgrade", "one"]).arg(chart.path()).args([
        "--namespace",
        "charts",
        "--set",
        "greeting=bye",
        "--wait",
    ]);
    run(&mut upgrade, home.path());
    assert_eq!(greeting().await, "bye");

    let mut uninstall = helm().await;
    uninstall.args(["uninstall", "one", "--namespace", "charts", "--wait"]);
    run(&mut uninstall, home.path());
    assert!(maps.get_opt("one").await.unwrap().is_none());

    let left: Vec<_> = std::fs::read_dir(home.path()).unwrap().collect();
    assert!(left.is_empty(), "helm left in the home folder: {left:?}");
    cluster.stop().await.unwrap();
}
