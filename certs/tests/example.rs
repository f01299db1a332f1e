//! The example against a real API server: what README says it does.

use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use cluster::{Cluster, NodeKind, Options, cargo, eventually};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_mins(3);

fn kubectl(cluster: &Cluster, arguments: &[&str], object: &Value) -> Result<(bool, String)> {
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), object.to_string())?;
    let mut command = cluster.kubectl_command();
    let output = command
        .args(arguments)
        .arg("-f")
        .arg(file.path())
        .output()?;
    let said = [output.stdout, output.stderr].concat();
    Ok((output.status.success(), String::from_utf8(said)?))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_example_refuses_what_it_says() -> Result<()> {
    let cluster = Cluster::start(Options {
        node: NodeKind::None,
        ..Options::default()
    })
    .await?;
    let free = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let webhook = json!({
        "name": "example.example.com", "admissionReviewVersions": ["v1"], "sideEffects": "None",
        "clientConfig": {"url": format!("https://{free}/")},
        "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}],
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "default"}},
    });
    for kind in ["Validating", "Mutating"] {
        let configuration = json!({"apiVersion": "admissionregistration.k8s.io/v1",
            "kind": format!("{kind}WebhookConfiguration"), "metadata": {"name": "example"}, "webhooks": [webhook]});
        let (made, said) = kubectl(&cluster, &["create"], &configuration)?;
        ensure!(made, "{said}");
    }
    let programs = cargo::build("certs", cargo::Kind::Examples).await?;
    let [program] = &programs[..] else {
        anyhow::bail!("one example was expected: {programs:?}");
    };
    let mut example = Command::new(program);
    example
        .arg(free.to_string())
        .env("KUBECONFIG", cluster.kubeconfig());
    let example = cluster.start_process("example", example)?;

    let named =
        |name: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
    eventually("a ConfigMap is taken", SOON, || async {
        example.alive()?;
        let (taken, said) = kubectl(&cluster, &["create", "-n", "default"], &named("yes"))?;
        ensure!(taken, "{said}");
        Ok(Some(()))
    })
    .await?;
    let (taken, said) = kubectl(&cluster, &["create", "-n", "default"], &named("no-way"))?;
    ensure!(!taken && said.contains("choose one without no-"), "{said}");
    cluster.stop().await
}
