//! The schema: what the API server refuses by itself, where no webhook runs.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use cluster::{Cluster, eventually};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Patch, PatchParams, PostParams};
use mcp_operator::api::{FieldError, defaults, read};
use mcp_operator::validation;
use serde_json::{Value, json};

use crate::setup::{SOON, Space, kubectl, options, refusal};

/// Specs beside the samples: what the schema says of each is compared with what the rules say of the schema.
fn specs() -> Vec<Value> {
    let long = |length: usize| "a".repeat(length);
    let stdio = |mut spec: Value| {
        spec["transport"] = json!("stdio");
        spec
    };
    vec![
        json!({}),
        stdio(json!({"replicas": 0})),
        stdio(json!({"replicas": 2})),
        stdio(json!({"service": {}})),
        stdio(
            json!({"service": {"annotations": {}, "labels": {}, "loadBalancerSourceRanges": []}}),
        ),
        stdio(json!({"service": {"annotations": {"a": "b"}}})),
        stdio(json!({"service": {"labels": {"a": "b"}}})),
        stdio(json!({"service": {"port": 80}})),
        stdio(json!({"service": {"appProtocol": "http"}})),
        stdio(json!({"service": {"sessionAffinity": "None"}})),
        stdio(json!({"service": {"ipFamilyPolicy": "SingleStack"}})),
        stdio(json!({"path": "/mcp"})),
        stdio(json!({"strategy": {}})),
        json!({"path": "/a/b-c_d.e~f!$&'()*+,;=:@%20"}),
        json!({"path": "mcp"}),
        json!({"path": ""}),
        json!({"path": "/a b"}),
        json!({"path": format!("/{}", long(1023))}),
        json!({"path": format!("/{}", long(1024))}),
        json!({"health": {"type": "TCP"}}),
        json!({"health": {"type": "TCP", "livenessPath": "/a"}}),
        json!({"health": {"type": "None", "readinessPath": "/a"}}),
        json!({"health": {"type": "HTTP", "readinessPath": "/a"}}),
        json!({"health": {"readinessPath": "a"}}),
        json!({"strategy": {}}),
        json!({"strategy": {"type": "Recreate"}}),
        json!({"strategy": {"type": "Recreate", "rollingUpdate": {"maxSurge": 1}}}),
        json!({"strategy": {"type": "Blue"}}),
        json!({"strategy": {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": "0%"}}}),
        json!({"strategy": {"rollingUpdate": {"maxSurge": true}}}),
        json!({"disruptionBudget": {}}),
        json!({"disruptionBudget": {"minAvailable": 1}}),
        json!({"disruptionBudget": {"minAvailable": 1, "maxUnavailable": "1%"}}),
        json!({"disruptionBudget": {"maxUnavailable": "101%"}}),
        json!({"commonMetadata": {"labels": {"a": long(63)}}}),
        json!({"commonMetadata": {"labels": {"a": long(64)}}}),
        json!({"commonMetadata": {"labels": {"a": "-"}}}),
        json!({"commonMetadata": {"labels": {"mcp.example.com/transport": "http"}}}),
        json!({"commonMetadata": {"annotations": {"a": long(1000)}}}),
        json!({"service": {"labels": {"a": long(64)}}}),
        json!({"service": {"port": 0}}),
        json!({"service": {"port": 65536}}),
        json!({"service": {"appProtocol": "a b"}}),
        json!({"service": {"appProtocol": long(318)}}),
        json!({"service": {"loadBalancerClass": "a"}}),
        json!({"service": {"type": "LoadBalancer", "loadBalancerClass": long(318)}}),
        json!({"service": {"type": "LoadBalancer", "loadBalancerSourceRanges": ["10.0.0.0/33"]}}),
        json!({"service": {"externalTrafficPolicy": "Local"}}),
        json!({"service": {"type": "NodePort", "externalTrafficPolicy": "Elsewhere"}}),
        json!({"service": {"ipFamilyPolicy": "TripleStack"}}),
        json!({"serviceAccount": long(253)}),
        json!({"serviceAccount": long(254)}),
        json!({"imagePullSecrets": [{"name": "a"}, {"name": "a"}]}),
        json!({"imagePullSecrets": [{"name": long(254)}]}),
        json!({"env": [{"name": "A"}, {"name": "B"}]}),
        json!({"env": [{"name": "A"}, {"name": "A"}]}),
        json!({"imagePullPolicy": "Sometimes"}),
        json!({"port": 0}),
        json!({"replicas": -1}),
        json!({"transport": "sse"}),
        json!({"image": ""}),
        json!({"image": 5}),
        json!({"args": "abc"}),
    ]
}

fn samples() -> Result<Vec<Value>> {
    let mut samples = Vec::new();
    for folder in ["valid", "invalid"] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("config/samples")
            .join(folder);
        for entry in std::fs::read_dir(folder)? {
            let text = std::fs::read_to_string(entry?.path())?;
            let documents: Vec<Value> = serde_saphyr::from_multiple(&text)?;
            samples.extend(
                documents
                    .into_iter()
                    .filter(|document| document["kind"] == "MCPServer"),
            );
        }
    }
    Ok(samples)
}

/// What the operator finds, and whether it says that the schema refuses the object.
fn found(object: &Value) -> (Vec<FieldError>, bool) {
    let (server, mut faults) = read::server(object, false);
    let mut is_refused = !faults.is_empty();
    if let Some(mut server) = server {
        defaults::default(&mut server, None);
        is_refused |= validation::is_refused_by_schema(&server, None);
        validation::add_rules(&mut faults, validation::faults(&server, None));
    }
    (faults, is_refused)
}

#[tokio::test]
async fn the_schema_refuses_by_itself_what_the_rules_say_of_it() {
    let cluster = Cluster::start(options()).await.expect("a cluster");
    let space = Space::within(&cluster, "schema").await;
    let mut objects = samples().expect("the samples");
    let names = ["a-1", "1a", "a.b", &"a".repeat(63), &"a".repeat(64), "a-"];
    objects.extend(names.map(|name| json!({"metadata": {"name": name}, "spec": {"image": "x:1"}})));
    objects.extend(specs().into_iter().map(|mut spec| {
        if spec.get("image").is_none() {
            spec["image"] = json!("x:1");
        }
        json!({"metadata": {"name": "a"}, "spec": spec})
    }));
    let dry = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    for mut object in objects {
        let (faults, is_refused) = found(&object);
        object["metadata"]["namespace"] = json!(space.namespace);
        let created = space.create_with(object.clone(), &dry).await;
        match (is_refused, created) {
            (true, Err(kube::Error::Api(status))) if status.code == 422 => {}
            (false, Ok(_)) => {}
            (_, created) => panic!("{object}: rules: {faults:?}; schema: {created:?}"),
        }
    }

    let spec = json!({"image": "x:1", "transport": "stdio"});
    space.create("a", spec).await.unwrap();
    let (servers, three) = (space.servers(), json!({"spec": {"replicas": 3}}));
    let (parameters, three) = (PatchParams::default(), Patch::Merge(three));
    let status = refusal(servers.patch_scale("a", &parameters, &three).await);
    let text = "stdio transport does not support multiple replicas (requested: 3)";
    assert!(
        status.code == 422 && status.message.contains(text),
        "{status:?}"
    );
    a_name_from_before_the_rule(&cluster, &space).await.unwrap();
    cluster.stop().await.unwrap();
}

/// What was stored before the schema had a rule about names can be told of in its status, and let go.
async fn a_name_from_before_the_rule(cluster: &Cluster, space: &Space) -> Result<()> {
    let crd = "mcpservers.mcp.example.com";
    let change = |patch: Value| -> Result<()> {
        let patch = patch.to_string();
        let arguments = ["patch", "crd", crd, "--type=json", "-p", &patch];
        let patched = kubectl(cluster, &arguments, "")?;
        ensure!(patched.status.success(), "{patched:?}");
        Ok(())
    };
    let rules = "/spec/versions/0/schema/openAPIV3Schema/x-kubernetes-validations";
    let crds = kube::Api::<CustomResourceDefinition>::all(space.client.clone());
    let before = serde_json::to_value(crds.get(crd).await?)?;
    let before = before.pointer(rules).context("no rule")?.clone();
    change(json!([{"op": "remove", "path": rules}]))?;
    eventually("the name is taken", SOON, || async {
        space.create("1a", json!({"image": "x:1"})).await?;
        Ok(Some(()))
    })
    .await?;
    change(json!([{"op": "add", "path": rules, "value": before}]))?;
    eventually("no new one is taken", SOON, || async {
        let dry = PostParams {
            dry_run: true,
            ..PostParams::default()
        };
        let new = json!({"metadata": {"name": "2a"}, "spec": {"image": "x:1"}});
        let created = space.create_with(new, &dry).await;
        Ok(created.is_err().then_some(()))
    })
    .await?;
    let parameters = PatchParams::default();
    let status = json!({"status": {"phase": "Failed"}});
    let told = space
        .servers()
        .patch_status("1a", &parameters, &Patch::Merge(status))
        .await?;
    ensure!(told.status.is_some_and(|status| status.phase.is_some()));
    for finalizers in [json!(["example.com/a"]), json!(null)] {
        space
            .patch("1a", json!({"metadata": {"finalizers": finalizers}}))
            .await?;
    }
    Ok(())
}

#[tokio::test]
async fn two_appliers_each_own_an_entry_of_env() {
    let space = Space::new("appliers").await;
    let apply = async |who: &str, spec: Value| {
        let object = json!({
            "apiVersion": "mcp.example.com/v1alpha1", "kind": "MCPServer", "metadata": {"name": "a"}, "spec": spec,
        });
        let applied = space
            .servers()
            .patch("a", &PatchParams::apply(who), &Patch::Apply(&object))
            .await;
        applied
            .unwrap_or_else(|error| panic!("{who}: {error}"))
            .spec
            .env
    };
    let entry = |name: &str| json!({"name": name, "value": name});
    let names = |env: Vec<k8s_openapi::api::core::v1::EnvVar>| {
        let mut names: Vec<_> = env.into_iter().map(|entry| entry.name).collect();
        names.sort();
        names
    };
    apply(
        "one",
        json!({"image": "x:1", "replicas": 0, "env": [entry("A")]}),
    )
    .await;
    assert_eq!(
        names(apply("two", json!({"env": [entry("B")]})).await),
        ["A", "B"]
    );
    let taken = apply("one", json!({"image": "x:1", "replicas": 0})).await;
    assert_eq!(names(taken), ["B"], "each takes away its own");
}
