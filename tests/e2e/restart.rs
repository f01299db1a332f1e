//! The operator comes late, is killed, comes back: nothing is lost, nothing is done twice.

use std::time::Duration;

use anyhow::{Result, bail};
use cluster::{Cluster, eventually};
use kube::ResourceExt;
use kube::api::{DeleteParams, Patch, PatchParams};
use mcp_operator::api::v1alpha1::Phase;
use mcp_operator::api::{MCPServer, labels};
use serde_json::json;

use crate::events;
use crate::rbac;
use crate::setup::{self, SOON, Space, USER, condition, refusal};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_stored_before_any_webhook_are_defaulted_and_their_faults_kept_open() -> Result<()>
{
    let cluster = setup::start().await?;
    let space = Space::within(&cluster, "before").await;
    space
        .create("good", json!({"image": "x:1", "transport": "http"}))
        .await?;

    // As from a time when the schema was another one.
    let spec = "/spec/versions/0/schema/openAPIV3Schema/properties/spec";
    let value = json!({"x-kubernetes-int-or-string": true});
    let looser = json!([
        {"op": "replace", "path": format!("{spec}/properties/port"), "value": value},
        {"op": "remove", "path": format!("{spec}/x-kubernetes-validations")},
    ]);
    let looser = looser.to_string();
    let crd = "mcpservers.mcp.example.com";
    let arguments = ["patch", "crd", crd, "--type=json", "-p", &looser];
    let patched = setup::kubectl(&cluster, &arguments, "")?;
    assert!(patched.status.success(), "{patched:?}");
    let unreadable = json!({
        "apiVersion": "mcp.example.com/v1alpha1", "kind": "MCPServer", "metadata": {"name": "unreadable"},
        "spec": {"image": "x:1", "port": "http"},
    });
    eventually("the looser schema is in force", SOON, || async {
        let arguments = ["-n", &space.namespace, "create", "-f", "-"];
        let created = setup::kubectl(&cluster, &arguments, &unreadable.to_string())?;
        anyhow::ensure!(created.status.success(), "{created:?}");
        Ok(Some(()))
    })
    .await?;
    for name in ["bad", "doomed"] {
        let spec = json!({"image": "x:1", "transport": "stdio", "replicas": 3});
        space.create(name, spec).await?;
    }

    let check = || {
        let kubeconfig = cluster.kubeconfig().display().to_string();
        let arguments = [
            "check",
            "--namespace",
            &space.namespace,
            "--kubeconfig",
            &kubeconfig,
        ];
        setup::binary().args(arguments).output()
    };
    let alone = check()?;
    let said = String::from_utf8_lossy(&alone.stderr).into_owned();
    assert!(
        !alone.status.success() && said.contains("the mutating webhook was not asked"),
        "{alone:?}"
    );
    let operator = setup::spawn_operator(&cluster, "operator", &["--log", "warn"])?;
    setup::install(&cluster, operator.port)?;
    setup::wait_ready(&operator)?;
    setup::eventually_admitted(&space).await?;
    let installed = check()?;
    let said = String::from_utf8_lossy(&installed.stdout).into_owned();
    assert!(
        installed.status.success() && said.contains("invalid SESSION_TIMEOUT format: soon"),
        "{installed:?}"
    );

    let good = space.until_ready("good").await;
    assert_eq!(good.finalizers(), [labels::FINALIZER]);
    let logged = setup::logged(&operator)?;
    let warning = logged.iter().find(|line| {
        let message = line["message"].as_str().unwrap_or_default();
        message.starts_with("this MCPServer cannot be read")
    });
    let warning = warning.unwrap_or_else(|| panic!("nothing of the unreadable one: {logged:?}"));
    let span = &warning["span"];
    assert_eq!(
        [&span["namespace"], &span["mcpserver"]],
        [space.namespace.as_str(), "unreadable"],
        "a filter for warnings leaves the name in"
    );
    assert!(
        logged.iter().all(|line| line["level"] != "INFO"),
        "{logged:?}"
    );
    let deployment: k8s_openapi::api::apps::v1::Deployment = space.api().get("good").await?;
    let container = deployment.spec.unwrap().template.spec.unwrap().containers[0].clone();
    assert_eq!(
        container.resources.unwrap().requests.unwrap()["cpu"].0,
        "100m"
    );

    let bad = space
        .until_reason("bad", "ConfigurationValid", "ConfigurationInvalid")
        .await;
    let text = "stdio transport does not support multiple replicas (requested: 3)";
    assert!(
        condition(&bad, "ConfigurationValid")
            .unwrap()
            .message
            .contains(text)
    );
    assert_eq!(bad.status.as_ref().unwrap().phase, Some(Phase::Failed));
    assert_eq!(condition(&bad, "Ready").unwrap().status, "False");

    // The stored fault locks nothing; a new one, or a worse one, is refused.
    space
        .patch("bad", json!({"metadata": {"labels": {"a": "b"}}}))
        .await?;
    space
        .patch("bad", json!({"spec": {"image": "x:2"}}))
        .await?;
    assert_eq!(
        refusal(space.patch("bad", json!({"spec": {"replicas": 4}})).await).code,
        422
    );
    assert_eq!(
        refusal(space.patch("bad", json!({"spec": {"image": "X"}})).await).code,
        422
    );
    space
        .servers()
        .delete("doomed", &DeleteParams::default())
        .await?;
    space.until_gone::<MCPServer>("doomed").await;
    space.patch("bad", json!({"spec": {"replicas": 1}})).await?;
    space.until_ready("bad").await;
    setup::stop(cluster).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_time_it_goes_on_where_it_was() -> Result<()> {
    let (cluster, operator) = setup::start_with("operator-0", &[]).await?;
    let port = operator.port;
    let space = Space::within(&cluster, "killed").await;
    for index in 0..20 {
        space
            .create(
                &format!("s{index}"),
                json!({"image": "x:1", "config": {"K": "v"}}),
            )
            .await?;
    }
    // In the midst of it.
    operator.process.signal("KILL")?;
    let servers = space.servers();
    // Deleted while nobody is there to see to it: the finalizer keeps it.
    servers.delete("s0", &DeleteParams::default()).await?;
    assert!(
        servers
            .get("s0")
            .await?
            .metadata
            .deletion_timestamp
            .is_some()
    );
    // Whoever does not want to wait for it can let one go; no webhook is asked about that.
    servers.delete("s19", &DeleteParams::default()).await?;
    space
        .patch("s19", json!({"metadata": {"finalizers": null}}))
        .await?;
    assert!(servers.get_opt("s19").await?.is_none());
    let second = setup::spawn_operator_at(&cluster, "operator-1", port, &[])?;
    setup::wait_ready(&second)?;
    space.until_gone::<MCPServer>("s0").await;
    for index in 1..19 {
        let name = format!("s{index}");
        space.until_ready(&name).await;
        let told = events::told(&space, &name).await?;
        // One that waited to be published when the operator was killed is not told; none is told twice.
        let created = "Created: Created ConfigMap, Deployment, Service";
        assert!(told.is_empty() || told == [created], "{name}: {told:?}");
    }

    // Another one that comes back finds nothing to do.
    second.process.signal("TERM")?;
    eventually("the operator ended well", SOON, || async {
        match second.process.success() {
            Some(true) => Ok(Some(())),
            Some(false) => bail!("it failed"),
            None => Ok(None),
        }
    })
    .await?;
    let before = cluster.writes_by(USER).await?.len();
    let third = setup::spawn_operator_at(&cluster, "operator-2", port, &[])?;
    setup::wait_ready(&third)?;
    // A change is seen to after everything that was listed at the start.
    space.patch("s1", json!({"spec": {"image": "x:2"}})).await?;
    space.until_ready("s1").await;
    let writes = cluster.writes_by(USER).await?;
    let others: Vec<_> = writes[before..]
        .iter()
        .filter(|write| write.name != "s1" && write.resource != "secrets")
        .collect();
    assert!(
        others.is_empty(),
        "an operator that comes back wrote {others:?}"
    );
    let reads = cluster.requests_by(USER).await?;
    let reads = reads.iter().filter(|request| {
        let is_child = matches!(
            request.resource.as_str(),
            "deployments" | "services" | "configmaps"
        );
        request.verb == "get" && is_child && request.name != "s1" && request.name != "s1-config"
    });
    let reads: Vec<_> = reads.collect();
    assert!(
        reads.is_empty(),
        "nothing was to be read one by one: {reads:?}"
    );
    setup::stop(cluster).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_cluster_it_ends_with_a_word() -> Result<()> {
    let nowhere = setup::binary()
        .args(["run", "--kubeconfig", "no-such-file"])
        .output()?;
    let said = String::from_utf8_lossy(&nowhere.stderr).into_owned();
    assert!(
        !nowhere.status.success() && said.contains("no-such-file"),
        "{said}"
    );

    let (cluster, first) = setup::start_with("first", &[]).await?;
    let second = setup::spawn_operator_at(&cluster, "second", first.port, &[])?;
    eventually("the second operator at one address ends", SOON, || async {
        match second.process.success() {
            Some(false) => Ok(Some(())),
            Some(true) => bail!("it ended well"),
            None => Ok(None),
        }
    })
    .await?;
    let said = std::fs::read_to_string(second.process.log())?;
    assert!(said.contains("--webhook-address"), "{said}");
    setup::stop(cluster).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_kind_it_waits_and_says_so() -> Result<()> {
    let cluster = Cluster::start(cluster::Options::default()).await?;
    setup::grant(&cluster, &rbac::rules(&[]).await?)?;
    let operator = setup::spawn_operator(&cluster, "operator", &[])?;
    eventually("the operator says what is missing", SOON, || async {
        operator.process.alive()?;
        let said = std::fs::read_to_string(operator.process.log())?;
        if said.contains("mcpservers") || said.contains("404") {
            Ok(Some(()))
        } else {
            bail!("{said}")
        }
    })
    .await?;
    let crd = setup::binary().arg("crd").output()?;
    let applied = setup::kubectl(
        &cluster,
        &["apply", "-f", "-"],
        &String::from_utf8(crd.stdout)?,
    )?;
    assert!(applied.status.success(), "{applied:?}");
    setup::install(&cluster, operator.port)?;
    setup::wait_ready(&operator)?;
    let space = Space::within(&cluster, "late").await;
    let _ = tokio::time::timeout(
        Duration::from_secs(1),
        space.servers().list(&Default::default()),
    )
    .await;
    space.create("a", json!({"image": "x:1"})).await?;
    space.until_ready("a").await;
    let none = PatchParams::default();
    space
        .servers()
        .patch(
            "a",
            &none,
            &Patch::Merge(json!({"metadata": {"labels": {"a": "b"}}})),
        )
        .await?;
    setup::stop(cluster).await
}
