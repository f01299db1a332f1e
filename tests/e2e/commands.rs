//! The commands that end by themselves, and the samples.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::Result;
use cluster::eventually;
use serde_json::json;

use crate::setup::{self, SOON, Space, binary};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn samples(kind: &str) -> Vec<PathBuf> {
    let folder = root().join("config/samples").join(kind);
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(files.len() >= 6, "{}: {files:?}", folder.display());
    files
}

/// The texts that a refusal must hold, from the comments at the top of an invalid sample: in the cluster,
/// and offline where that is another one.
fn expected(file: &Path) -> (String, String) {
    let text = std::fs::read_to_string(file).unwrap();
    let after = |prefix: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(prefix))
            .map(|rest| rest.trim().to_owned())
    };
    let online =
        after("# expect: ").unwrap_or_else(|| panic!("{}: no \"# expect: \" line", file.display()));
    assert!(
        text.starts_with("# expect: "),
        "{}: the first line is \"# expect: \"",
        file.display()
    );
    let offline = after("# expect offline: ").unwrap_or_else(|| online.clone());
    (online, offline)
}

#[test]
fn the_committed_crd_is_the_one_the_code_gives() {
    let printed = binary().arg("crd").output().unwrap().stdout;
    let committed = std::fs::read(root().join("config/crd/mcpservers.yaml")).unwrap();
    assert!(
        printed == committed,
        "config/crd/mcpservers.yaml is not what `mcp-operator crd` prints; run: cargo run -- crd > config/crd/mcpservers.yaml"
    );
    assert!(
        printed.len() < 60_000,
        "the CRD has {} bytes",
        printed.len()
    );
}

#[test]
fn validate_takes_the_valid_samples_and_refuses_the_invalid_ones() {
    for file in samples("valid") {
        let output = binary().arg("validate").arg(&file).output().unwrap();
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{}: {printed}", file.display());
    }
    for file in samples("invalid") {
        let output = binary().arg("validate").arg(&file).output().unwrap();
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        let (_, text) = expected(&file);
        assert_eq!(
            output.status.code(),
            Some(1),
            "{}: {printed}",
            file.display()
        );
        assert!(
            printed.contains(&text),
            "{}: expected {text:?}, got {printed:?}",
            file.display()
        );
        assert!(
            printed.starts_with(&format!("{}:1: ", file.display())),
            "{printed:?}"
        );
    }
}

#[test]
fn validate_reads_standard_input_and_says_what_it_cannot_read() {
    let mut child = binary()
        .arg("validate")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let text = "kind: Service\n---\napiVersion: mcp.example.com/v1alpha1\nkind: MCPServer\nmetadata: {name: a}\n\
                spec: {image: 'x:1', transport: stdio, replicas: 3}\n";
    child
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{printed}");
    assert!(
        printed.starts_with("<stdin>:2: spec.replicas: ")
            && printed
                .contains("stdio transport does not support multiple replicas (requested: 3)"),
        "{printed}"
    );
    let missing = binary()
        .args(["validate", "no-such-file.yaml"])
        .output()
        .unwrap();
    assert_eq!(missing.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("no-such-file.yaml"));
}

#[tokio::test]
async fn kubectl_apply_refuses_each_invalid_sample_and_stores_nothing() {
    let space = Space::new("invalid-samples").await;
    for file in samples("invalid") {
        let (text, _) = expected(&file);
        let (applied, stdout, stderr) = space
            .kubectl(&["apply", "-f", &file.display().to_string()], "")
            .await;
        assert!(!applied, "{} was taken: {stdout}", file.display());
        assert!(
            stderr.contains(&text),
            "{}: expected {text:?}, got {stderr:?}",
            file.display()
        );
    }
    let stored = space
        .servers()
        .list(&Default::default())
        .await
        .unwrap()
        .items;
    assert!(stored.is_empty(), "{stored:?}");
}

#[tokio::test]
async fn each_valid_sample_becomes_ready() {
    let space = Space::new("valid-samples").await;
    let folder = root().join("config/samples/valid");
    let (applied, stdout, stderr) = space
        .kubectl(&["apply", "-f", &folder.display().to_string()], "")
        .await;
    assert!(applied, "{stdout}{stderr}");
    for server in space
        .servers()
        .list(&Default::default())
        .await
        .unwrap()
        .items
    {
        space.until_ready(&crate::setup::name_of(&server)).await;
    }
}

#[test]
fn told_to_end_while_the_api_server_is_silent_it_ends() -> Result<()> {
    let silent = std::net::TcpListener::bind("127.0.0.1:0")?;
    let folder = tempfile::tempdir()?;
    let kubeconfig = folder.path().join("kubeconfig");
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "a",
        "clusters": [{"name": "a", "cluster": {"server": format!("http://{}", silent.local_addr()?)}}],
        "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}],
        "users": [{"name": "a", "user": {}}],
    });
    std::fs::write(&kubeconfig, config.to_string())?;
    let mut operator = binary()
        .arg("run")
        .arg("--kubeconfig")
        .arg(&kubeconfig)
        .stderr(Stdio::null())
        .spawn()?;
    // It asks, and nobody answers.
    let asked = silent.accept()?;
    let id = operator.id().to_string();
    let told = std::process::Command::new("kill")
        .args(["-TERM", &id])
        .status()?;
    let start = Instant::now();
    let ended = loop {
        match operator.try_wait()? {
            Some(status) => break Some(status),
            None if start.elapsed() > Duration::from_secs(20) => break None,
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    if ended.is_none() {
        operator.kill()?;
        operator.wait()?;
    }
    drop(asked);
    assert!(
        told.success() && ended.is_some_and(|status| status.success()),
        "{ended:?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_asks_with_the_labels_that_the_webhooks_select() -> Result<()> {
    let (cluster, _) = setup::start_with("operator", &[]).await?;
    let check = |labels: &[&str]| -> Result<(bool, String)> {
        let mut command = binary();
        command.args(["check", "--namespace", "default", "--kubeconfig"]);
        let output = command.arg(cluster.kubeconfig()).args(labels).output()?;
        let said = [output.stdout, output.stderr].concat();
        Ok((output.status.success(), String::from_utf8(said)?))
    };
    let select = |kind: &str, labels: serde_json::Value| -> Result<()> {
        let selector = json!({"matchLabels": labels});
        let patch = json!([{"op": "add", "path": "/webhooks/0/objectSelector", "value": selector}]);
        let (kind, patch) = (format!("{kind}webhookconfiguration"), patch.to_string());
        let arguments = ["patch", &kind, "mcp-operator", "--type=json", "-p", &patch];
        let patched = setup::kubectl(&cluster, &arguments, "")?;
        anyhow::ensure!(patched.status.success(), "{patched:?}");
        Ok(())
    };
    let labelled = ["--label", "a=b", "--label", "example.com/mcp=yes"];
    for kind in ["mutating", "validating"] {
        select(kind, json!({"example.com/mcp": "yes"}))?;
    }
    // The API server takes a moment to see what it is to ask.
    let fails = async |text: &str| {
        eventually(text, SOON, || async {
            let (passed, said) = check(&[])?;
            anyhow::ensure!(!passed && said.contains(text), "{said}");
            Ok(Some(said))
        })
        .await
    };
    let said = fails("the mutating webhook was not asked").await?;
    assert!(
        said.contains("namespaceSelector") && said.contains("objectSelector"),
        "{said}"
    );
    let (passed, said) = check(&labelled)?;
    assert!(
        passed && said.contains("invalid SESSION_TIMEOUT format: soon"),
        "{said}"
    );
    select("mutating", json!({}))?;
    let said = fails("the validating webhook was not asked").await?;
    assert!(
        said.contains("namespaceSelector") && said.contains("objectSelector"),
        "{said}"
    );
    let (passed, said) = check(&["--label", "a"])?;
    assert!(!passed && said.contains("expected KEY=VALUE"), "{said}");
    cluster.stop().await
}
