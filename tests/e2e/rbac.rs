//! The rights that the chart gives the operator: each is used, and none is missing.

use std::collections::BTreeSet;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use cluster::{Cluster, eventually, fake_kubelet, tools};
use k8s_openapi::ByteString;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::Api;
use kube::api::{Patch, PatchParams};
use mcp_operator::api::MCPServer;
use serde_json::{Value, json};

use crate::setup::{self, OWN, SOON, Space, USER, kubectl};

/// What one may do: API group, resource with subresource, verb.
type Right = (String, String, String);

/// The roles of the chart, as it renders them with these values (`key=value`).
pub async fn rules(values: &[&str]) -> Result<String> {
    let home = tempfile::tempdir()?;
    let mut helm = Command::new(tools::build(&tools::HELM).await?.join("helm"));
    helm.args([
        "template",
        "mcp-operator",
        "charts/mcp-operator",
        "--namespace",
        OWN,
    ])
    .args(["--show-only", "templates/rbac.yaml"])
    .args(values.iter().flat_map(|value| ["--set", value]))
    .current_dir(env!("CARGO_MANIFEST_DIR"));
    for variable in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
        helm.env(variable, home.path());
    }
    let output = helm.output()?;
    ensure!(output.status.success(), "{output:?}");
    Ok(String::from_utf8(output.stdout)?)
}

/// The rights that roles give, whatever the namespace.
fn granted(rules: &str) -> Result<BTreeSet<Right>> {
    let objects: Vec<Value> = serde_saphyr::from_multiple(rules)?;
    let mut rights = BTreeSet::new();
    for rule in objects
        .iter()
        .filter_map(|object| object["rules"].as_array())
        .flatten()
    {
        let texts = |key: &str| {
            let list = rule[key]
                .as_array()
                .context("no list")
                .map(|list| list.iter());
            Ok::<_, anyhow::Error>(
                list?
                    .filter_map(Value::as_str)
                    .map(str::to_owned)
                    .collect::<Vec<_>>(),
            )
        };
        for group in texts("apiGroups")? {
            for resource in texts("resources")? {
                for verb in texts("verbs")? {
                    rights.insert((group.clone(), resource.clone(), verb));
                }
            }
        }
    }
    ensure!(!rights.is_empty(), "no rule in {rules}");
    Ok(rights)
}

/// The rights that a user has used, by the audit log.
async fn used(cluster: &Cluster) -> Result<BTreeSet<Right>> {
    let mut rights = BTreeSet::new();
    for request in cluster.requests_by(USER).await? {
        // What every user may ask.
        if request.resource.starts_with('/') {
            continue;
        }
        let right = |verb: &str| {
            (
                request.group.clone(),
                request.resource.clone(),
                verb.to_owned(),
            )
        };
        rights.insert(right(&request.verb));
        // An apply that makes the object needs both.
        if request.verb == "patch" && request.code == 201 {
            rights.insert(right("create"));
        }
    }
    Ok(rights)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_right_is_used_and_none_is_missing() -> Result<()> {
    let rules = rules(&[]).await?;
    assert!(!rules.contains('*'), "there is a wildcard in {rules}");
    let (cluster, _) = setup::start_with("operator", &["--leader-elect"]).await?;
    // The one that does not lead watches the Lease.
    let second = setup::spawn_operator(&cluster, "second", &["--leader-elect"])?;
    setup::wait_ready(&second)?;
    live(&cluster).await?;

    // The one that no log shows: the API server asks for it while it admits an owner reference.
    let hidden = (
        "mcp.example.com".to_owned(),
        "mcpservers/finalizers".to_owned(),
        "update".to_owned(),
    );
    let mut granted = granted(&rules)?;
    assert!(granted.remove(&hidden), "{granted:?}");
    eventually("every right is used", SOON, || async {
        let used = used(&cluster).await?;
        let idle: Vec<_> = granted.difference(&used).collect();
        if idle.is_empty() {
            return Ok(Some(()));
        }
        bail!("never used: {idle:?}")
    })
    .await?;
    let used = used(&cluster).await?;
    let missing: Vec<_> = used.difference(&granted).collect();
    assert!(missing.is_empty(), "asked for without a right: {missing:?}");
    let requests = cluster.requests_by(USER).await?;
    setup::assert_none_forbidden(&requests);
    the_hidden_right_is_needed(&cluster, &rules).await?;
    cluster.stop().await
}

/// Everything that happens to servers and to what belongs to the operator, once.
async fn live(cluster: &Cluster) -> Result<()> {
    let space = Space::within(cluster, "life").await;
    let (merge, by) = (PatchParams::default(), |value: Value| Patch::Merge(value));
    space
        .create(
            "a",
            json!({"image": "x:1", "config": {"A": "b"}, "disruptionBudget": {"maxUnavailable": 1}}),
        )
        .await?;
    space.until_ready("a").await;

    // A replica number by hand, through the webhook.
    let scaled = kubectl(
        cluster,
        &[
            "-n",
            &space.namespace,
            "scale",
            "mcpserver/a",
            "--replicas=2",
        ],
        "",
    )?;
    ensure!(scaled.status.success(), "{scaled:?}");
    space.until_ready("a").await;

    // What an apply cannot mend: a field of somebody else's in the place of ours.
    let deployments: Api<Deployment> = space.api();
    let probe = json!([{"op": "replace", "path": "/spec/template/spec/containers/0/livenessProbe",
        "value": {"tcpSocket": {"port": 1}}}]);
    let probe: json_patch::Patch = serde_json::from_value(probe)?;
    deployments
        .patch("a", &merge, &Patch::Json::<()>(probe))
        .await?;
    space
        .until_object::<Deployment>("a", "its probe is ours", |deployment| {
            let json = serde_json::to_value(deployment).unwrap_or_default();
            json["spec"]["template"]["spec"]["containers"][0]["livenessProbe"]["httpGet"]
                .is_object()
        })
        .await;
    let services: Api<Service> = space.api();
    let port = json!([{"op": "replace", "path": "/spec/ports/0/port", "value": 9999}]);
    let port: json_patch::Patch = serde_json::from_value(port)?;
    services
        .patch("a", &merge, &Patch::Json::<()>(port))
        .await?;
    space
        .until_object::<Service>("a", "its port is ours", |service| {
            let json = serde_json::to_value(service).unwrap_or_default();
            json["spec"]["ports"]
                .as_array()
                .is_some_and(|ports| ports.len() == 1 && ports[0]["port"] == 8080)
        })
        .await;
    let budgets: Api<PodDisruptionBudget> = space.api();
    let other = json!([{"op": "remove", "path": "/spec/maxUnavailable"},
        {"op": "add", "path": "/spec/minAvailable", "value": 1}]);
    let other: json_patch::Patch = serde_json::from_value(other)?;
    budgets
        .patch("a", &merge, &Patch::Json::<()>(other))
        .await?;
    space
        .until_object::<PodDisruptionBudget>("a", "its number is ours", |budget| {
            let spec = budget.spec.clone().unwrap_or_default();
            spec.min_available.is_none() && spec.max_unavailable == Some(IntOrString::Int(1))
        })
        .await;
    // A key that somebody has put there as binary data, and that is wanted as text later.
    let config_maps: Api<ConfigMap> = space.api();
    let binary = json!({"binaryData": {"C": ByteString(b"x".to_vec())}});
    config_maps.patch("a-config", &merge, &by(binary)).await?;
    space
        .patch("a", json!({"spec": {"config": {"C": "d"}}}))
        .await?;
    space
        .until_object::<ConfigMap>("a-config", "its key is ours", |config_map| {
            let data = config_map.data.as_ref();
            data.is_some_and(|data| data.get("C").is_some_and(|value| value == "d"))
        })
        .await;

    // The same trouble twice: one Event, counted.
    for _ in 0..2 {
        for (state, phase) in [("crash-loop", "Pending"), ("none", "Ready")] {
            let annotations = json!({fake_kubelet::ANNOTATION: state});
            space
                .patch(
                    "a",
                    json!({"spec": {"podTemplate": {"metadata": {"annotations": annotations}}}}),
                )
                .await?;
            space
                .until("a", phase, |server| {
                    let observed = server
                        .status
                        .as_ref()
                        .and_then(|status| status.observed_generation);
                    let now = server.status.as_ref().and_then(|status| status.phase);
                    observed == server.metadata.generation
                        && now.is_some_and(|now| now.as_str() == phase)
                })
                .await;
        }
    }

    // No network, no config: children that are not wanted any more.
    let stdio = json!({"spec": {"transport": "stdio", "replicas": 1, "config": null, "disruptionBudget": null}});
    space.patch("a", stdio).await?;
    space.until_gone::<Service>("a").await;
    space.until_gone::<ConfigMap>("a-config").await;
    space.until_gone::<PodDisruptionBudget>("a").await;
    space.servers().delete("a", &Default::default()).await?;
    space.until_gone::<MCPServer>("a").await;

    // A server whose spec is too large to be held in memory is read.
    let large = json!({"image": "x:1", "config": {"A": "x".repeat(100_000)}});
    space.create("large", large).await?;
    space.until_ready("large").await;

    // A CA that is of no use; a Lease that somebody has touched.
    let secrets: Api<Secret> = Api::namespaced(space.client.clone(), OWN);
    let rubbish = json!({"data": {"ca.crt": ByteString(b"rubbish".to_vec())}});
    secrets
        .patch("mcp-operator-webhook-ca", &merge, &by(rubbish))
        .await?;
    let leases: Api<Lease> = Api::namespaced(space.client.clone(), OWN);
    let label = json!({"metadata": {"labels": {"a": "b"}}});
    leases.patch("mcp-operator", &merge, &by(label)).await?;
    Ok(())
}

/// With all rights but one, nothing that has an MCPServer as owner can be made.
async fn the_hidden_right_is_needed(cluster: &Cluster, rules: &str) -> Result<()> {
    let space = Space::within(cluster, "hidden").await;
    let server = space.create("owner", json!({"image": "x:1"})).await?;
    let child = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "child", "namespace": space.namespace, "ownerReferences": [{
            "apiVersion": "mcp.example.com/v1alpha1", "kind": "MCPServer", "name": "owner",
            "uid": server.metadata.uid, "controller": true, "blockOwnerDeletion": true,
        }]},
    });
    let create = |user: &str| {
        let arguments = ["apply", "--server-side", "-f", "-", "--as", user];
        kubectl(cluster, &arguments, &child.to_string())
    };
    let less = rules.replace("mcpservers/finalizers", "mcpservers/nothing");
    ensure!(less != rules, "the rule is not in {rules}");
    for (rules, may) in [(less.as_str(), false), (rules, true)] {
        setup::grant(cluster, rules)?;
        eventually("the rights are in force", SOON, || async {
            let output = create(USER)?;
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            let refused = said.contains("cannot set blockOwnerDeletion");
            if (may && output.status.success()) || (!may && refused) {
                return Ok(Some(()));
            }
            bail!("{output:?}")
        })
        .await?;
    }
    Ok(())
}
