//! A release's life with real Helm: install, upgrade, rollback, uninstall, and what outlives it.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use cluster::eventually;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};

use super::release::{CRD, Life, NAMESPACE, UNANSWERED};
use super::{RELEASE, chart, helm, run_helm};
use crate::setup::{self, SOON};

/// The chart as it was before: another version, one replica, a kind without its last column.
fn previous(folder: &Path) -> Result<String> {
    copy(&chart(), folder)?;
    change(
        &folder.join("Chart.yaml"),
        "\nversion: ",
        "\nversion: 0.0.1-before.",
    )?;
    change(
        &folder.join("values.yaml"),
        "\nreplicas: 2\n",
        "\nreplicas: 1\n",
    )?;
    let age = "    - jsonPath: .metadata.creationTimestamp\n      name: Age\n      type: date\n";
    change(&folder.join("files/crd.yaml"), age, "")?;
    Ok(folder.display().to_string())
}

fn change(file: &Path, from: &str, to: &str) -> Result<()> {
    let text = std::fs::read_to_string(file)?;
    ensure!(text.contains(from), "{}: no {from:?}", file.display());
    Ok(std::fs::write(file, text.replacen(from, to, 1))?)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// A server as the webhooks leave it: with the finalizer.
fn server(namespace: &str) -> String {
    json!({
        "apiVersion": "mcp.example.com/v1alpha1",
        "kind": "MCPServer",
        "metadata": {"name": "kept", "namespace": namespace, "finalizers": ["mcp.example.com/finalizer"]},
        "spec": {"image": "registry.example.com/a:1"},
    })
    .to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn install_upgrade_rollback_uninstall() -> Result<()> {
    let life = Life::start().await?;
    let before = tempfile::tempdir()?;
    let before = previous(before.path())?;

    let notes = life
        .put("install", &before, &["--create-namespace"])
        .await?;
    for hint in [
        "kubectl -n mcp-operator-system rollout status deployment/mcp-operator",
        "image.repository is a placeholder",
    ] {
        assert!(notes.contains(hint), "no {hint:?} in: {notes}");
    }
    assert_eq!(life.available().await?, Some(1));
    assert!(!life.has_age().await?);
    assert_eq!(life.bundles().await?, ["", ""], "the operator's to set");
    let bundle = include_str!("certificate.pem").trim();
    life.trust(bundle).await?;
    life.kubectl(
        &[
            "wait",
            "--for=condition=Established",
            "--timeout=60s",
            &format!("crd/{CRD}"),
        ],
        "",
    )?;
    first_server(&life, &notes)?;
    life.kubectl(&["apply", "-f", "-"], &server("default"))?;
    life.kubectl(&["apply", "-f", "-"], &server(NAMESPACE))?;

    life.put("upgrade", &life.chart, &[]).await?;
    assert_eq!(life.available().await?, Some(2));
    assert!(life.has_age().await?, "the kind is upgraded, too");
    assert_eq!(life.bundles().await?, [bundle, bundle], "upgraded");
    // A second one, in which nothing of the chart differs.
    life.put("upgrade", &life.chart, &["--reuse-values"])
        .await?;
    assert_eq!(life.bundles().await?, [bundle, bundle], "upgraded again");

    let rollback = [
        "rollback",
        RELEASE,
        "1",
        "-n",
        NAMESPACE,
        "--wait",
        "--timeout",
        "8m",
    ];
    helm(&life.cluster, &rollback).await?;
    assert_eq!(life.available().await?, Some(1));
    assert!(
        !life.has_age().await?,
        "the kind goes back with its operator"
    );
    assert_eq!(life.bundles().await?, [bundle, bundle], "rolled back");
    life.kubectl(&["get", "mcpserver", "kept"], "")?;

    rights_are_by_name(&life)?;
    tests_leave_nothing(&life).await?;

    life.uninstall().await?;
    let selector = "app.kubernetes.io/instance=mcp-operator";
    let kept = format!("customresourcedefinition.apiextensions.k8s.io/{CRD}");
    life.until_left(selector, &[kept]).await?;
    // Nobody is there to remove the finalizer, and no webhook is in the way of who does.
    for namespace in ["default", NAMESPACE] {
        life.kubectl(
            &[
                "delete",
                "mcpserver",
                "kept",
                "-n",
                namespace,
                "--wait=false",
            ],
            "",
        )?;
    }
    let waiting = life.kubectl(
        &[
            "get",
            "mcpserver",
            "kept",
            "-o",
            "jsonpath={.metadata.deletionTimestamp}",
        ],
        "",
    )?;
    assert!(!waiting.is_empty());
    let_go(&life)?;
    let left = life.kubectl(&["get", "mcpservers", "-A", "-o", "name"], "")?;
    assert_eq!(left, "");

    // Again, over the kind that was kept; and by another name only when told so.
    life.put("install", &life.chart, &[]).await?;
    life.uninstall().await?;
    let mut other = vec!["install", "other", &life.chart, "-n", NAMESPACE];
    let refused = run_helm(&life.cluster, &other).await?;
    let words = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && words.contains(CRD), "{words}");
    other.push("--take-ownership");
    helm(&life.cluster, &other).await?;
    helm(
        &life.cluster,
        &["uninstall", "other", "-n", NAMESPACE, "--wait"],
    )
    .await?;

    // Who wants the kind to go with the release says so.
    life.put(
        "install",
        &life.chart,
        &["--take-ownership", "--set", "crds.keep=false"],
    )
    .await?;
    life.uninstall().await?;
    life.until_left("app.kubernetes.io/managed-by=Helm", &[])
        .await?;
    life.cluster.stop().await
}

/// As the API server sees it: server-side apply of an object that is not there yet is a right by name, too.
fn rights_are_by_name(life: &Life) -> Result<()> {
    let account = "--as=system:serviceaccount:mcp-operator-system:mcp-operator";
    let apply = [
        "apply",
        "--server-side",
        "--force-conflicts",
        "-n",
        NAMESPACE,
        account,
        "-f",
        "-",
    ];
    let objects = [
        ("v1", "Secret", "mcp-operator-webhook-ca"),
        ("coordination.k8s.io/v1", "Lease", "mcp-operator"),
    ];
    for (version, kind, name) in objects {
        let object = |name: &str| {
            json!({"apiVersion": version, "kind": kind, "metadata": {"name": name}}).to_string()
        };
        // Made, and changed.
        life.kubectl(&apply, &object(name))?;
        life.kubectl(&apply, &object(name))?;
        let watched = format!("--field-selector=metadata.name={name}");
        life.kubectl(&["get", kind, "-n", NAMESPACE, account, &watched], "")?;
        let others = [
            (apply.to_vec(), object("another")),
            (vec!["get", kind, "-n", NAMESPACE, account], String::new()),
            (
                vec!["get", kind, name, "-n", "default", account],
                String::new(),
            ),
            (
                vec!["delete", kind, name, "-n", NAMESPACE, account],
                String::new(),
            ),
        ];
        for (arguments, input) in others {
            let refused = setup::kubectl(&life.cluster, &arguments, &input)?;
            let words = String::from_utf8_lossy(&refused.stderr);
            assert!(words.contains("orbidden"), "{arguments:?}: {words}");
        }
        life.kubectl(&["delete", kind, name, "-n", NAMESPACE], "")?;
    }
    Ok(())
}

/// Does what docs/installing.md tells to do then, word by word.
fn let_go(life: &Life) -> Result<()> {
    let page = include_str!("../../../docs/installing.md");
    let start = page.find("    kubectl get mcpservers --all-namespaces --no-headers");
    let script = &page[start.context("the page does not tell it any more")?..];
    let script = &script[..script.find("\n\n").context("it does not end")?];
    life.shell(script).map(drop)
}

/// Pastes what the notes tell to try first.
fn first_server(life: &Life, notes: &str) -> Result<()> {
    let start = notes.find("kubectl apply -f - <<");
    let end = notes.find("\nTry out the webhooks").context("no end")?;
    let script = &notes[start.context("the notes do not tell it any more")?..end];
    let (apply, watch) = script.split_once("\n\n").context("no two commands")?;
    let said = life.shell(apply)?;
    assert!(
        said.contains("mcpserver.mcp.example.com/everything created"),
        "{said}"
    );
    // Not watched here: it would not end.
    let get = watch.trim().trim_end_matches("--watch");
    let said = life.shell(get)?;
    assert!(said.contains("streamable-http"), "{said}");
    life.kubectl(&["delete", "mcpserver", "everything", "-n", "default"], "")
        .map(drop)
}

/// `helm test`, with the pod's end told by us: there are no containers here.
async fn tests_leave_nothing(life: &Life) -> Result<()> {
    let pods = Api::<Pod>::namespaced(life.client.clone(), NAMESPACE);
    for (phase, succeeds) in [("Failed", false), ("Succeeded", true)] {
        let arguments = ["test", RELEASE, "-n", NAMESPACE, "--timeout", "8m"];
        let test = run_helm(&life.cluster, &arguments);
        let end = eventually("the test's pod runs", SOON, || async {
            let pod = pods.get("mcp-operator-test").await?;
            let status = pod.status.context("no status")?;
            match status.phase.as_deref() {
                Some("Running") => {}
                // The one of the test before.
                other => bail!("it is {other:?}"),
            }
            let patch = Patch::Merge(json!({"status": {"phase": phase}}));
            pods.patch_status("mcp-operator-test", &PatchParams::default(), &patch)
                .await?;
            Ok(Some(()))
        });
        let (output, ended) = tokio::join!(test, end);
        ended?;
        let output = output?;
        let words = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.success(), succeeds, "{phase}: {words}");
        let left = life.kubectl(
            &[
                "-n",
                NAMESPACE,
                "get",
                "pod/mcp-operator-test",
                "sa/mcp-operator-test",
                "role/mcp-operator-test",
                "rolebinding/mcp-operator-test",
                "--ignore-not-found",
                "-o",
                "name",
            ],
            "",
        )?;
        let expected = if succeeds {
            ""
        } else {
            "pod/mcp-operator-test\n"
        };
        assert_eq!(
            left, expected,
            "after a test that {phase}: its pod, for its log, at most"
        );
    }
    Ok(())
}

/// The caBundle has another owner in each mode; changing it is a matter of one flag at most.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_mode_of_certificates_can_be_changed() -> Result<()> {
    let life = Life::start().await?;
    let bundle = include_str!("certificate.pem").trim();
    let file = super::values_file(
        &json!({"certificates": {
            "mode": "existing-secret",
            "existingSecret": {"name": "ours", "caBundle": bundle},
        }})
        .to_string(),
    )?;
    let existing = file.path().display().to_string();

    life.put("install", &life.chart, &["--create-namespace"])
        .await?;
    let other = include_str!("other-certificate.pem").trim();
    life.trust(other).await?;
    // The operator's field: Helm asks before it takes it.
    let refused = life.put("upgrade", &life.chart, &["-f", &existing]).await;
    let words = format!("{:#}", refused.err().context("the conflict was not seen")?);
    assert!(
        words.contains("caBundle") && words.contains("mcp-operator"),
        "{words}"
    );
    assert_eq!(life.bundles().await?, [other, other]);
    life.put(
        "upgrade",
        &life.chart,
        &["-f", &existing, "--force-conflicts"],
    )
    .await?;
    assert_eq!(life.bundles().await?, [bundle, bundle]);
    // And back: what Helm no longer sets is the operator's again.
    life.put("upgrade", &life.chart, &[]).await?;
    assert_eq!(life.bundles().await?, ["", ""]);
    life.trust(other).await?;
    life.put("upgrade", &life.chart, &[]).await?;
    assert_eq!(life.bundles().await?, [other, other]);
    life.uninstall().await?;
    life.cluster.stop().await
}

/// Each looks after namespaces of its own; who does not say so is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_releases_share_a_cluster_only_by_namespaces() -> Result<()> {
    let life = Life::start().await?;
    for namespace in ["team-a", "team-b"] {
        life.kubectl(&["create", "namespace", namespace], "")?;
    }
    life.put(
        "install",
        &life.chart,
        &["--create-namespace", "--set", "watch.namespaces={team-a}"],
    )
    .await?;
    let mut second = vec![
        "install",
        "second",
        &life.chart,
        "-n",
        "team-b",
        "--wait",
        "--timeout",
        "8m",
    ];
    second.extend(UNANSWERED);
    second.extend(["--set", "watch.namespaces={team-b}"]);
    let refused = run_helm(&life.cluster, &second).await?;
    let words = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && words.contains(CRD), "{words}");
    second.extend(["--set", "crds.install=false"]);
    helm(&life.cluster, &second).await?;

    let asked = |name: &str| -> Result<Value> {
        let kind = "validatingwebhookconfiguration";
        let found = life.kubectl(&["get", kind, name, "-o", "json"], "")?;
        let found: Value = serde_json::from_str(&found)?;
        Ok(found["webhooks"][0]["namespaceSelector"]["matchExpressions"][0]["values"].clone())
    };
    assert_eq!(asked("mcp-operator")?, json!(["team-a"]));
    assert_eq!(asked("second-mcp-operator")?, json!(["team-b"]));
    // Seen by the API server: rights in one namespace, none in the other.
    let may = |namespace: &str| -> Result<bool> {
        let account = "--as=system:serviceaccount:team-b:second-mcp-operator";
        let arguments = [
            "auth",
            "can-i",
            "patch",
            "deployments",
            "-n",
            namespace,
            account,
        ];
        Ok(setup::kubectl(&life.cluster, &arguments, "")?
            .status
            .success())
    };
    assert!(may("team-b")?);
    assert!(!may("team-a")?);

    helm(
        &life.cluster,
        &["uninstall", "second", "-n", "team-b", "--wait"],
    )
    .await?;
    life.until_left("app.kubernetes.io/instance=second", &[])
        .await?;
    assert_eq!(asked("mcp-operator")?, json!(["team-a"]));
    assert_eq!(life.available().await?, Some(2));
    life.uninstall().await?;
    life.cluster.stop().await
}
