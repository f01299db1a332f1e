//! Defaults, refusals and warnings, through the API server.

use kube::ResourceExt;
use kube::api::{Patch, PatchParams, PostParams};
use mcp_operator::api::labels::FINALIZER;
use serde_json::{Value, json};

use crate::setup::{Space, refusal};

fn requests(server: &mcp_operator::api::MCPServer) -> Value {
    json!(
        server
            .spec
            .resources
            .as_ref()
            .map(|resources| &resources.requests)
    )
}

#[tokio::test]
async fn requests_are_filled_in_by_transport() {
    let space = Space::new("defaults").await;
    let table = [
        (
            "stdio",
            json!({"transport": "stdio"}),
            json!({"cpu": "50m", "memory": "64Mi"}),
        ),
        (
            "http",
            json!({"transport": "http"}),
            json!({"cpu": "100m", "memory": "128Mi"}),
        ),
        (
            "streamable",
            json!({"transport": "streamable-http"}),
            json!({"cpu": "200m", "memory": "256Mi"}),
        ),
        (
            "none-named",
            json!({}),
            json!({"cpu": "200m", "memory": "256Mi"}),
        ),
        (
            "limited",
            json!({"resources": {"limits": {"cpu": "150m", "memory": "1Gi"}}}),
            json!({"cpu": "150m", "memory": "256Mi"}),
        ),
        (
            "chosen",
            json!({"resources": {"requests": {"cpu": "1"}}}),
            json!({"cpu": "1", "memory": "256Mi"}),
        ),
        (
            "a-number",
            json!({"resources": {"requests": {"cpu": 1}}}),
            json!({"cpu": "1", "memory": "256Mi"}),
        ),
    ];
    for (name, mut spec, expected) in table {
        spec["image"] = json!("x:1");
        spec["replicas"] = json!(0);
        let created = space.create(name, spec).await.unwrap();
        assert_eq!(requests(&created), expected, "{name}");
        assert_eq!(
            created.finalizers(),
            [FINALIZER],
            "{name}: the finalizer comes with the creation"
        );
    }
    let created = space.servers().get("none-named").await.unwrap();
    let spec = (
        created.spec.transport.as_str(),
        created.spec.port,
        created.spec.replicas,
    );
    assert_eq!(spec, ("streamable-http", 8080, 0));
}

#[tokio::test]
async fn a_default_follows_the_transport_and_a_chosen_request_stays() {
    let space = Space::new("default-follows").await;
    space
        .create(
            "a",
            json!({"image": "x:1", "replicas": 0, "transport": "http",
        "resources": {"requests": {"memory": "300Mi"}}}),
        )
        .await
        .unwrap();
    let changed = space
        .patch("a", json!({"spec": {"transport": "stdio"}}))
        .await
        .unwrap();
    assert_eq!(requests(&changed), json!({"cpu": "50m", "memory": "300Mi"}));
    let same = space
        .patch("a", json!({"spec": {"port": 9000}}))
        .await
        .unwrap();
    assert_eq!(
        requests(&same),
        json!({"cpu": "50m", "memory": "300Mi"}),
        "an update without transport"
    );
    let bounded = space
        .patch(
            "a",
            json!({"spec": {"resources": {"limits": {"cpu": "20m"}}}}),
        )
        .await
        .unwrap();
    assert_eq!(
        requests(&bounded),
        json!({"cpu": "20m", "memory": "300Mi"}),
        "a limit below the default"
    );
    let change = json!({"spec": {"resources": {"limits": {"cpu": "1"}}}});
    let raised = space.patch("a", change).await.unwrap();
    assert_eq!(
        requests(&raised),
        json!({"cpu": "50m", "memory": "300Mi"}),
        "as if it were new"
    );
}

#[allow(clippy::too_many_lines, reason = "a table")]
#[tokio::test]
async fn each_rule_refuses_with_its_field_and_value() {
    let space = Space::new("rules").await;
    let pod = |spec: Value| json!({"podTemplate": {"spec": spec}});
    let large = "x".repeat(600 * 1024);
    let table = [
        (
            "stdio with replicas",
            json!({"transport": "stdio", "replicas": 3}),
            "spec.replicas",
            "stdio transport does not support multiple replicas (requested: 3)",
        ),
        (
            "a malformed timeout",
            json!({"config": {"SESSION_TIMEOUT": "banana"}}),
            "spec.config[SESSION_TIMEOUT]",
            "invalid SESSION_TIMEOUT format: banana",
        ),
        (
            "a timeout of zero",
            json!({"config": {"SESSION_TIMEOUT": "0"}}),
            "spec.config[SESSION_TIMEOUT]",
            "invalid SESSION_TIMEOUT format: 0",
        ),
        (
            "a negative timeout",
            json!({"config": {"SESSION_TIMEOUT": "-5m"}}),
            "spec.config[SESSION_TIMEOUT]",
            "invalid SESSION_TIMEOUT format: -5m",
        ),
        (
            "no origins",
            json!({"transport": "http", "config": {"CORS_ORIGINS": ""}}),
            "spec.config[CORS_ORIGINS]",
            "CORS_ORIGINS cannot be empty when specified",
        ),
        (
            "an origin with a path",
            json!({"transport": "http", "config": {"CORS_ORIGINS": "*, https://a.b/c"}}),
            "spec.config[CORS_ORIGINS]",
            "https://a.b/c",
        ),
        (
            "a malformed image",
            json!({"image": "Not An Image"}),
            "spec.image",
            "Not An Image",
        ),
        (
            "an image tag that no node takes",
            json!({"image": "x:é"}),
            "spec.image",
            "x:é",
        ),
        (
            "an image digest that no node takes",
            json!({"image": format!("x@sha256:{}", "A".repeat(64))}),
            "spec.image",
            "x@sha256:AAAA",
        ),
        (
            "a port of our name",
            pod(
                json!({"containers": [{"name": "mcp-server", "ports": [{"containerPort": 9000, "name": "mcp"}]}]}),
            ),
            "spec.podTemplate.spec.containers[0].ports[0].name",
            "\"mcp\"",
        ),
        (
            "all volumes taken away",
            pod(json!({"volumes": null})),
            "spec.podTemplate.spec.containers[mcp-server].volumeMounts",
            "\"mcp-tmp\"",
        ),
        (
            "a config key with a slash",
            json!({"config": {"a/b": "c"}}),
            "spec.config[a/b]",
            "a/b",
        ),
        (
            "the operator's own key",
            json!({"config": {"config.json": "c"}}),
            "spec.config[config.json]",
            "config.json",
        ),
        (
            "too much config",
            json!({"config": {"a": large}}),
            "spec.config",
            "1048575",
        ),
        (
            "a request over its limit",
            json!({"resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}}),
            "spec.resources.requests[cpu]",
            "\"2\"",
        ),
        (
            "no quantity",
            json!({"resources": {"limits": {"memory": "lots"}}}),
            "spec.resources.limits[memory]",
            "lots",
        ),
        (
            "privileged without escalation",
            json!({"securityContext": {"privileged": true, "allowPrivilegeEscalation": false}}),
            "spec.securityContext.allowPrivilegeEscalation",
            "false",
        ),
        (
            "root as non-root",
            json!({"securityContext": {"runAsNonRoot": true, "runAsUser": 0}}),
            "spec.securityContext.runAsUser",
            "0",
        ),
        (
            "a malformed account",
            json!({"serviceAccount": "Not_One"}),
            "spec.serviceAccount",
            "Not_One",
        ),
        (
            "a malformed variable",
            json!({"env": [{"name": "A"}, {"name": "a=b"}]}),
            "spec.env[1].name",
            "a=b",
        ),
        (
            "a variable twice",
            json!({"env": [{"name": "A"}, {"name": "A"}]}),
            "spec.env[1].name",
            "\"A\"",
        ),
        (
            "a Service for stdio",
            json!({"transport": "stdio", "service": {"type": "NodePort"}}),
            "spec.service.type",
            "stdio server has no Service (value \"NodePort\")",
        ),
        (
            "a path without slash",
            json!({"health": {"livenessPath": "x"}}),
            "spec.health.livenessPath",
            "\"x\"",
        ),
        (
            "a path for TCP",
            json!({"health": {"type": "TCP", "readinessPath": "/x"}}),
            "spec.health.readinessPath",
            "/x",
        ),
        (
            "a field that no pod has",
            pod(json!({"nodeSelektor": {"a": "b"}})),
            "spec.podTemplate.spec.nodeSelektor",
            "unknown field (value {\"a\":\"b\"})",
        ),
        (
            "a directive",
            pod(json!({"$patch": "replace"})),
            "spec.podTemplate.spec.$patch",
            "directives are not supported (value \"replace\")",
        ),
        (
            "another selector label",
            json!({"podTemplate": {"metadata": {"labels": {"app.kubernetes.io/name": "x"}}}}),
            "spec.podTemplate.metadata.labels[app.kubernetes.io/name]",
            "\"x\"",
        ),
        (
            "a pull secret twice",
            json!({"imagePullSecrets": [{"name": "s"}, {"name": "s"}]}),
            "spec.imagePullSecrets[1].name",
            "\"s\"",
        ),
        (
            "a host alias twice",
            pod(json!({"hostAliases": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.1"}]})),
            "spec.podTemplate.spec.hostAliases[1].ip",
            "10.0.0.1",
        ),
        (
            "our port under another name",
            pod(
                json!({"containers": [{"name": "mcp-server", "ports": [{"containerPort": 8080, "name": "http"}]}]}),
            ),
            "spec.podTemplate.spec.containers[0].ports",
            "\"mcp\" (8080)",
        ),
        (
            "our image taken away",
            pod(json!({"containers": [{"name": "mcp-server", "image": null}]})),
            "spec.podTemplate.spec.containers[0].image",
            "cannot be removed",
        ),
        (
            "all labels taken away",
            json!({"podTemplate": {"metadata": {"labels": null}}}),
            "spec.podTemplate.metadata.labels[app.kubernetes.io/name]",
            "selected by this label",
        ),
        (
            "a mount of nothing",
            pod(
                json!({"containers": [{"name": "mcp-server", "volumeMounts": [{"name": "data", "mountPath": "/d"}]}]}),
            ),
            "spec.podTemplate.spec.containers[mcp-server].volumeMounts",
            "\"data\"",
        ),
        (
            "root by way of the pod",
            json!({"securityContext": {"runAsNonRoot": true},
            "podTemplate": {"spec": {"securityContext": {"runAsUser": 0}}}}),
            "spec.podTemplate.spec.securityContext.runAsUser",
            "0",
        ),
        (
            "half a device",
            json!({"resources": {"limits": {"example.com/gpu": "0.5"}}}),
            "spec.resources.limits[example.com/gpu]",
            "whole number",
        ),
        (
            "a contradiction by the overlay",
            pod(
                json!({"containers": [{"name": "mcp-server", "securityContext": {"privileged": true}}]}),
            ),
            "spec.podTemplate.spec.containers[0].securityContext.allowPrivilegeEscalation",
            "false",
        ),
    ];
    for (what, mut spec, field, text) in table {
        if spec.get("image").is_none() {
            spec["image"] = json!("x:1");
        }
        let status = refusal(space.create("a", spec).await);
        assert_eq!(
            (status.code, status.reason.as_str()),
            (422, "Invalid"),
            "{what}: {status:?}"
        );
        let causes = status.details.clone().expect("details").causes;
        let found = causes
            .iter()
            .find(|cause| cause.field == field && cause.message.contains(text));
        assert!(
            found.is_some(),
            "{what}: expected {field} with {text:?}, got {causes:?}"
        );
        assert!(status.message.contains(text), "{what}: {}", status.message);
    }
    let status = refusal(space.create("1a", json!({"image": "x:1"})).await);
    assert!(
        status.message.contains("metadata.name") && status.message.contains("DNS-1035"),
        "{}",
        status.message
    );
    assert!(
        space
            .servers()
            .list(&Default::default())
            .await
            .unwrap()
            .items
            .is_empty(),
        "nothing is stored"
    );
}

#[tokio::test]
async fn all_faults_come_in_one_answer() {
    let space = Space::new("all-faults").await;
    let spec =
        json!({"image": "X:1", "transport": "stdio", "replicas": 2, "env": [{"name": "a=b"}]});
    let status = refusal(space.create("a", spec).await);
    let details = status.details.clone().expect("details");
    let fields: Vec<_> = details
        .causes
        .iter()
        .map(|cause| cause.field.as_str())
        .collect();
    assert_eq!(
        fields,
        ["spec.image", "spec.replicas", "spec.env[0].name"],
        "{status:?}"
    );
    assert_eq!(
        (details.kind.as_str(), details.name.as_str()),
        ("MCPServer", "a")
    );

    // What the schema would say, and what it knows nothing of; on update, too.
    let spec = json!({
        "image": "", "transport": "stdio", "port": 0, "replicas": -1, "path": "x", "serviceAccount": "A",
        "health": {"type": "TCP", "livenessPath": "/a"}, "disruptionBudget": {}, "strategy": {},
        "env": [{"name": "A"}, {"name": "A"}], "podTemplate": {"spec": {"containers": [{"name": "s"}]}},
    });
    let expected = [
        "spec.image",
        "spec.port",
        "spec.replicas",
        "spec.serviceAccount",
        "spec.env[1].name",
        "spec.health.livenessPath",
        "spec.path",
        "spec.path",
        "spec.strategy",
        "spec.disruptionBudget",
        "spec.podTemplate.spec.containers[0].image",
    ];
    space
        .create("b", json!({"image": "x:1", "replicas": 0}))
        .await
        .unwrap();
    for answer in [
        space.create("a", spec.clone()).await,
        space.patch("b", json!({"spec": spec})).await,
    ] {
        let status = refusal(answer);
        let causes = status.details.clone().expect("details").causes;
        let fields: Vec<_> = causes.iter().map(|cause| cause.field.as_str()).collect();
        assert_eq!(fields, expected, "{status:?}");
    }
}

/// Whoever sends it, and in whichever way.
#[tokio::test]
async fn null_is_absence() {
    let space = Space::new("nulls").await;
    let spec = json!({
        "image": "x:1", "args": null, "transport": null, "replicas": null, "health": {"type": null}, "service": null,
        "config": {"K": null, "L": "v"}, "env": [{"name": "A", "value": null}], "podTemplate": null,
        "resources": {"limits": {"cpu": null, "memory": "1Gi"}},
    });
    space.create("created", spec.clone()).await.unwrap();
    let object = json!({"apiVersion": "mcp.example.com/v1alpha1", "kind": "MCPServer", "metadata": {"name": "applied"}, "spec": spec});
    for (way, apply) in [
        ("client-side", &["apply", "-f", "-"][..]),
        (
            "server-side",
            &["apply", "--server-side", "--force-conflicts", "-f", "-"],
        ),
    ] {
        let (applied, _, said) = space.kubectl(apply, &object.to_string()).await;
        assert!(applied, "{way}: {said}");
    }
    for name in ["created", "applied"] {
        let server = space.servers().get(name).await.unwrap();
        assert_eq!(server.spec.transport.as_str(), "streamable-http");
        assert_eq!((server.spec.replicas, server.spec.args.len()), (1, 0));
        assert_eq!(json!(server.spec.config), json!({"L": "v"}));
        space.until_ready(name).await;
    }
    // Where it has to be set, it is missing; and an item of a list is something.
    for (spec, field) in [
        (json!({"image": null}), "spec.image"),
        (json!({"image": "x:1", "args": ["a", null]}), "spec.args[1]"),
    ] {
        let refused = refusal(space.create("bad", spec).await);
        let causes = refused.details.clone().unwrap().causes;
        assert!(
            causes.iter().any(|cause| cause.field == field),
            "{refused:?}"
        );
    }
}

/// What a spec may hold, whatever is in it: counted before it is looked at.
#[tokio::test]
async fn a_spec_beyond_its_budget_is_refused() {
    let space = Space::new("budget").await;
    let deep = (0..62).fold(json!({}), |inner, _| json!({"a": inner}));
    let annotations =
        |deep: &Value| json!({"podTemplate": {"metadata": {"annotations": {"a": deep}}}});
    let table = [
        (
            "values",
            json!({"args": vec!["x"; 20_000]}),
            // The list, the image, and what the schema fills in, are values too.
            "Too many: 20005: must have at most 20000 JSON values",
        ),
        (
            "levels",
            annotations(&deep),
            "its lists and maps are nested 67 levels deep, must be at most 64",
        ),
        (
            "both",
            json!({"args": vec!["x"; 300_000], "env": deep}),
            "must have at most 20000 JSON values",
        ),
    ];
    for (name, mut spec, expected) in table {
        spec["image"] = json!("x:1");
        let refused = refusal(space.create(name, spec).await);
        assert_eq!(refused.code, 422, "{name}: {refused:?}");
        let details = refused.details.unwrap();
        let causes: Vec<_> = details
            .causes
            .iter()
            .map(|cause| (&*cause.field, cause.message.contains(expected)))
            .collect();
        assert_eq!(causes, [("spec", true)], "{name}: {:?}", details.causes);
    }
    let spec = json!({"image": "x:1", "args": vec!["x"; 19_990]});
    space.create("many", spec).await.unwrap();
}

/// Metadata and finalizers are free, so that it can go; its spec is not, as the controller reads it.
#[tokio::test]
async fn the_spec_of_what_is_being_deleted_is_judged_too() {
    let space = Space::new("dying").await;
    let object = json!({"metadata": {"name": "a", "finalizers": ["example.com/keep"]}, "spec": {"image": "x:1"}});
    space.create_object(object).await.unwrap();
    space
        .servers()
        .delete("a", &Default::default())
        .await
        .unwrap();
    let deep = (0..220).fold(json!({}), |inner, _| json!({"a": inner}));
    for (change, expected) in [
        (
            json!({"podTemplate": {"metadata": {"annotations": deep}}}),
            "levels deep",
        ),
        (json!({"port": 0}), "spec.port"),
    ] {
        let refused = refusal(space.patch("a", json!({"spec": change})).await);
        assert!(
            refused.code == 422 && refused.message.contains(expected),
            "{refused:?}"
        );
    }
    let label = json!({"metadata": {"labels": {"a": "b"}}});
    space.patch("a", label).await.unwrap();
    let free = json!({"metadata": {"finalizers": null}});
    space.patch("a", free).await.unwrap();
    space.until_gone::<mcp_operator::api::MCPServer>("a").await;
}

#[tokio::test]
async fn every_field_of_a_wrong_type_is_named() {
    let space = Space::new("wrong-types").await;
    let spec = json!({"image": "x:1", "transport": "sse", "replicas": "three", "config": {"A": 1}});
    let (applied, _, stderr) = space.kubectl_apply("a", spec).await;
    assert!(!applied, "{stderr}");
    for text in [
        "spec.transport: Unsupported value: \"sse\": supported values: \"stdio\", \"http\", \"streamable-http\"",
        "spec.replicas: Invalid value: \"three\"",
        "spec.config.A: Invalid value: 1",
    ] {
        assert!(stderr.contains(text), "{text}: {stderr}");
    }
    // The rules have their say beside that.
    let spec = json!({"image": "x:1", "transport": "websocket", "port": 0, "replicas": -1});
    let refused = refusal(space.create("b", spec).await);
    let fields: Vec<_> = refused
        .details
        .iter()
        .flat_map(|details| &details.causes)
        .map(|cause| &*cause.field)
        .collect();
    for field in ["spec.transport", "spec.port", "spec.replicas"] {
        assert!(fields.contains(&field), "{field}: {refused:?}");
    }
}

#[tokio::test]
async fn updates_and_the_scale_subresource_obey_the_rules_too() {
    let space = Space::new("updates").await;
    space
        .create("a", json!({"image": "x:1", "transport": "stdio"}))
        .await
        .unwrap();
    let text = "stdio transport does not support multiple replicas (requested: 2)";
    let status = refusal(space.patch("a", json!({"spec": {"replicas": 2}})).await);
    assert!(status.message.contains(text), "{}", status.message);
    let scale = json!({"spec": {"replicas": 2}});
    let scaled = space
        .servers()
        .patch_scale("a", &PatchParams::default(), &Patch::Merge(scale))
        .await;
    let status = refusal(scaled);
    assert!(status.message.contains(text), "{}", status.message);
    let (scaled, stdout, stderr) = space
        .kubectl(&["scale", "mcpserver", "a", "--replicas=2"], "")
        .await;
    assert!(!scaled && stderr.contains(text), "{stdout}{stderr}");
    assert_eq!(space.servers().get("a").await.unwrap().spec.replicas, 1);
    let (scaled, _, stderr) = space
        .kubectl(&["scale", "mcpserver", "a", "--replicas=0"], "")
        .await;
    assert!(scaled, "{stderr}");
    assert!(
        stderr.starts_with("Warning: ") && stderr.contains("0 replicas"),
        "{stderr}"
    );
}

#[tokio::test]
async fn warnings_are_shown_and_refuse_nothing() {
    let space = Space::new("warnings").await;
    let spec = json!({
        "image": "node", "transport": "stdio", "replicas": 0, "env": [{"name": "MCP_PORT", "value": "1"}],
        "config": {"SESSION_TIMEOUT": "x", "CORS_ORIGINS": ""},
    });
    let (applied, _, stderr) = space.kubectl_apply("a", spec).await;
    assert!(applied, "{stderr}");
    for text in [
        "no tag",
        "config[SESSION_TIMEOUT]",
        "config[CORS_ORIGINS]",
        "MCP_PORT replaces",
        "0 replicas",
    ] {
        assert!(
            stderr
                .lines()
                .any(|line| line.starts_with("Warning: ") && line.contains(text)),
            "{text}: {stderr}"
        );
    }
    let (_, _, stderr) = space.kubectl(&["label", "mcpserver", "a", "x=y"], "").await;
    assert!(
        !stderr.contains("Warning"),
        "a change beside the spec: {stderr}"
    );
}

#[tokio::test]
async fn a_dry_run_is_checked_like_the_real_thing() {
    let space = Space::new("dry-run").await;
    let server: mcp_operator::api::MCPServer = serde_json::from_value(json!({
        "apiVersion": "mcp.example.com/v1alpha1", "kind": "MCPServer", "metadata": {"name": "a"},
        "spec": {"image": "x:1", "transport": "stdio", "replicas": 2},
    }))
    .unwrap();
    let dry = PostParams {
        dry_run: true,
        ..Default::default()
    };
    assert_eq!(
        refusal(space.servers().create(&dry, &server).await).code,
        422
    );
}
