//! Rules on single objects, by table. Those on Kubernetes' own fields follow what Kubernetes 1.36 takes and refuses.

use serde_json::{Value, json};

use super::{MOST_FAULTS, faults, warnings};
use crate::api::{FieldPath, MCPServer, decode, defaults};

fn server(spec: &Value) -> MCPServer {
    let mut spec = spec.clone();
    if spec.get("image").is_none() {
        spec["image"] = json!("x:1");
    }
    let object = json!({"metadata": {"name": "a", "namespace": "n"}, "spec": spec});
    let mut server = decode::lenient(&object, &FieldPath::OBJECT).unwrap();
    defaults::default(&mut server, None);
    server
}

fn pod(spec: Value) -> Value {
    json!({"podTemplate": {"spec": spec}})
}

fn ours(fields: Value) -> Value {
    let mut container: Value = fields;
    container["name"] = json!("mcp-server");
    json!([container])
}

fn digest(letter: &str) -> Value {
    json!({"image": format!("x@sha256:{}", letter.repeat(64))})
}

#[test]
fn what_kubernetes_takes_is_taken() {
    let longest = "a".repeat(63);
    let table = [
        (
            "a sidecar with the longest name there is",
            pod(json!({"containers": [{"name": longest, "image": "s:1"}]})),
        ),
        (
            "a name that starts with a digit",
            pod(
                json!({"containers": [{"name": "1-side", "image": "s:1"}], "volumes": [{"name": "1-v"}]}),
            ),
        ),
        (
            "a part of the source of the config's volume",
            json!({"config": {"A": "b"}, "podTemplate": {"spec": {
                "volumes": [{"name": "mcp-config", "configMap": {"defaultMode": 256}}]}}}),
        ),
        (
            "no volume and no mount of one",
            pod(json!({"volumes": null, "containers": ours(json!({"volumeMounts": null}))})),
        ),
        (
            "another volume at /tmp",
            pod(json!({"volumes": [{"name": "v"}], "containers":
                ours(json!({"volumeMounts": [{"mountPath": "/tmp", "name": "v"}]}))})),
        ),
        (
            "ports of different names",
            pod(
                json!({"containers": ours(json!({"ports": [{"containerPort": 9000, "name": "metrics"}, {"containerPort": 9001}]}))}),
            ),
        ),
        (
            "a limit of the overlay beside a null",
            pod(
                json!({"containers": ours(json!({"resources": {"limits": {"memory": "64Mi", "cpu": null}}}))}),
            ),
        ),
        (
            "a capability in a spelling that Kubernetes lets through",
            json!({"securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"add": ["SYS_ADMIN"]}}}),
        ),
        (
            "a whole number with a suffix",
            json!({"resources": {"limits": {"example.com/x": "1k"}, "requests": {"example.com/x": "1000"}}}),
        ),
        (
            "an unmasked /proc with users of the pod's own",
            json!({"securityContext": {"procMount": "Unmasked"}, "podTemplate": {"spec": {"hostUsers": false}}}),
        ),
        (
            "a non-root user of the pod for a sidecar",
            pod(
                json!({"securityContext": {"runAsNonRoot": true, "runAsUser": 5}, "containers": [{"name": "s", "image": "s:1"}]}),
            ),
        ),
        (
            "a sidecar with a user of its own",
            pod(
                json!({"securityContext": {"runAsNonRoot": true, "runAsUser": 0},
                "containers": [{"name": "s", "image": "s:1", "securityContext": {"runAsUser": 5}}]}),
            ),
        ),
        ("a digest", digest("a")),
        (
            "an image on an IPv6 host",
            json!({"image": "[fd00::1]:5000/app:1"}),
        ),
        (
            "a Service with all that it can have",
            json!({"service": {"type": "LoadBalancer", "port": 80, "appProtocol": "kubernetes.io/h2c",
            "loadBalancerClass": "example.com/lb", "loadBalancerSourceRanges": [" 10.0.0.0/8 ", "fd00::/0"],
            "externalTrafficPolicy": "Local", "ipFamilyPolicy": "RequireDualStack",
            "labels": {"example.com/a": ""}, "annotations": {"Example.com/A": "any text"}}}),
        ),
        (
            "a strategy without numbers",
            json!({"strategy": {"rollingUpdate": {}}}),
        ),
        (
            "more pods at once than there are",
            json!({"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "200%", "maxUnavailable": "0%"}}}),
        ),
        (
            "a disruption budget for stdio",
            json!({"transport": "stdio", "disruptionBudget": {"minAvailable": "100%"}}),
        ),
        (
            "labels and annotations of all children",
            json!({"commonMetadata": {"labels": {"team": "a"}, "annotations": {"example.com/owner": "a b"}}}),
        ),
    ];
    for (what, spec) in table {
        assert_eq!(faults(&server(&spec), None), [], "{what}: {spec}");
    }
}

#[allow(clippy::too_many_lines, reason = "a table")]
#[test]
fn what_kubernetes_refuses_is_refused_with_its_field_and_value() {
    const POD: &str = "spec.podTemplate.spec";
    let too_long = "a".repeat(64);
    let table = [
        (
            "a sidecar's name that is too long",
            pod(json!({"containers": [{"name": too_long, "image": "s:1"}]})),
            format!("{POD}.containers[0].name"),
            too_long.as_str(),
        ),
        (
            "a sidecar's name that starts with a dash",
            pod(json!({"containers": [{"name": "-side", "image": "s:1"}]})),
            format!("{POD}.containers[0].name"),
            "\"-side\"",
        ),
        (
            "a volume's name",
            pod(json!({"volumes": [{"name": "My_Vol", "emptyDir": {}}]})),
            format!("{POD}.volumes[0].name"),
            "\"My_Vol\"",
        ),
        (
            "no volume for a mount of ours",
            pod(json!({"volumes": null})),
            format!("{POD}.containers[mcp-server].volumeMounts"),
            "\"mcp-tmp\"",
        ),
        (
            "a second port of our name",
            pod(
                json!({"containers": ours(json!({"ports": [{"containerPort": 1}, {"containerPort": 9000, "name": "mcp"}]}))}),
            ),
            format!("{POD}.containers[0].ports[1].name"),
            "Duplicate value: \"mcp\"",
        ),
        (
            "a sidecar's port name twice",
            pod(
                json!({"containers": [{"name": "s", "image": "s:1", "ports": [
                {"containerPort": 1, "name": "p"}, {"containerPort": 2, "name": "p"}]}]}),
            ),
            format!("{POD}.containers[0].ports[1].name"),
            "\"p\"",
        ),
        (
            "a capability that always escalates",
            json!({"securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"add": ["CAP_SYS_ADMIN"]}}}),
            "spec.securityContext.allowPrivilegeEscalation".to_owned(),
            "CAP_SYS_ADMIN",
        ),
        (
            "a fraction of a device",
            json!({"resources": {"limits": {"example.com/x": "1500m"}}}),
            "spec.resources.limits[example.com/x]".to_owned(),
            "\"1500m\"",
        ),
        (
            "an unmasked /proc with the node's users",
            json!({"securityContext": {"procMount": "Unmasked"}}),
            "spec.securityContext.procMount".to_owned(),
            "\"Unmasked\"",
        ),
        (
            "an unmasked /proc of a sidecar",
            pod(json!({"containers": [
                {"name": "s", "image": "s:1", "securityContext": {"procMount": "Unmasked"}}]})),
            format!("{POD}.containers[0].securityContext.procMount"),
            "\"Unmasked\"",
        ),
        (
            "root by way of the pod for a sidecar",
            pod(
                json!({"securityContext": {"runAsNonRoot": true, "runAsUser": 0},
                "containers": [{"name": "s", "image": "s:1"}]}),
            ),
            format!("{POD}.containers[0].securityContext.runAsUser"),
            "Invalid value: 0",
        ),
        (
            "root by way of the pod for an init container",
            pod(
                json!({"securityContext": {"runAsUser": 0}, "initContainers": [
                {"name": "s", "image": "s:1", "securityContext": {"runAsNonRoot": true}}]}),
            ),
            format!("{POD}.initContainers[0].securityContext.runAsUser"),
            "Invalid value: 0",
        ),
        (
            "an account by its deprecated alias",
            pod(json!({"serviceAccount": "Not_One"})),
            format!("{POD}.serviceAccount"),
            "\"Not_One\"",
        ),
        (
            "a digest in upper case",
            digest("A"),
            "spec.image".to_owned(),
            "x@sha256:AAAA",
        ),
        (
            "a Service's affinity for stdio",
            json!({"transport": "stdio", "service": {"sessionAffinity": "ClientIP"}}),
            "spec.service.sessionAffinity".to_owned(),
            "\"ClientIP\"",
        ),
        (
            "a Service's type for stdio",
            json!({"transport": "stdio", "service": {"type": "NodePort"}}),
            "spec.service.type".to_owned(),
            "\"NodePort\"",
        ),
        (
            "a Service's annotations for stdio",
            json!({"transport": "stdio", "service": {"annotations": {"a": "b"}}}),
            "spec.service.annotations".to_owned(),
            "{\"a\":\"b\"}",
        ),
        (
            "a deadline",
            pod(json!({"activeDeadlineSeconds": 77})),
            format!("{POD}.activeDeadlineSeconds"),
            "77",
        ),
        (
            "containers that are added to running pods",
            pod(json!({"ephemeralContainers": [{"name": "debug"}]})),
            format!("{POD}.ephemeralContainers"),
            "[\"debug\"]",
        ),
        (
            "options of another system",
            json!({"securityContext": {"windowsOptions": {"runAsUserName": "bob"}}}),
            "spec.securityContext.windowsOptions".to_owned(),
            "\"bob\"",
        ),
        (
            "a Service's port for stdio",
            json!({"transport": "stdio", "service": {"port": 80}}),
            "spec.service.port".to_owned(),
            "80",
        ),
        (
            "a Service's port that is none",
            json!({"service": {"port": 70000}}),
            "spec.service.port".to_owned(),
            "70000",
        ),
        (
            "a protocol's name",
            json!({"service": {"appProtocol": "h2 c"}}),
            "spec.service.appProtocol".to_owned(),
            "\"h2 c\"",
        ),
        (
            "a class without a load balancer",
            json!({"service": {"type": "NodePort", "loadBalancerClass": "a"}}),
            "spec.service.loadBalancerClass".to_owned(),
            "LoadBalancer, not NodePort",
        ),
        (
            "source ranges without a load balancer",
            json!({"service": {"loadBalancerSourceRanges": ["10.0.0.0/8"]}}),
            "spec.service.loadBalancerSourceRanges".to_owned(),
            "[\"10.0.0.0/8\"]",
        ),
        (
            "an address that is no range",
            json!({"service": {"type": "LoadBalancer", "loadBalancerSourceRanges": ["10.0.0.0/8", "10.0.0.1", "::/129", "10.0.0.0/+8"]}}),
            "spec.service.loadBalancerSourceRanges[3]".to_owned(),
            "\"10.0.0.0/+8\"",
        ),
        (
            "traffic from outside that cannot come",
            json!({"service": {"externalTrafficPolicy": "Local"}}),
            "spec.service.externalTrafficPolicy".to_owned(),
            "NodePort or LoadBalancer, not ClusterIP",
        ),
        (
            "a Service's label of the operator's own",
            json!({"service": {"labels": {"app.kubernetes.io/instance": "b"}}}),
            "spec.service.labels[app.kubernetes.io/instance]".to_owned(),
            "\"b\"",
        ),
        (
            "a Service's annotation of the operator's own",
            json!({"service": {"annotations": {"mcp.example.com/applied-hash": "b"}}}),
            "spec.service.annotations[mcp.example.com/applied-hash]".to_owned(),
            "\"b\"",
        ),
        (
            "a label of all children that is the operator's own",
            json!({"commonMetadata": {"labels": {"mcp.example.com/transport": "http"}}}),
            "spec.commonMetadata.labels[mcp.example.com/transport]".to_owned(),
            "\"http\"",
        ),
        (
            "an annotation of all children that is the operator's own",
            json!({"commonMetadata": {"annotations": {"kubectl.kubernetes.io/default-container": "x"}}}),
            "spec.commonMetadata.annotations[kubectl.kubernetes.io/default-container]".to_owned(),
            "\"x\"",
        ),
        (
            "an annotation of all children that a controller of Kubernetes sets back",
            json!({"commonMetadata": {"annotations": {"deployment.kubernetes.io/revision": "7"}}}),
            "spec.commonMetadata.annotations[deployment.kubernetes.io/revision]".to_owned(),
            "\"7\"",
        ),
        (
            "a label's value of all children",
            json!({"commonMetadata": {"labels": {"a": "b c"}}}),
            "spec.commonMetadata.labels[a]".to_owned(),
            "\"b c\"",
        ),
        (
            "annotations that are too long together",
            json!({"commonMetadata": {"annotations": {"a": "x".repeat(200_000), "b": "x".repeat(100_000)}}}),
            "spec.commonMetadata.annotations".to_owned(),
            "300002",
        ),
        (
            "a path of stdio",
            json!({"transport": "stdio", "path": "/mcp"}),
            "spec.path".to_owned(),
            "\"/mcp\"",
        ),
        (
            "a path that does not start as one",
            json!({"path": "mcp"}),
            "spec.path".to_owned(),
            "\"mcp\"",
        ),
        (
            "a path with a query",
            json!({"path": "/mcp?a=b"}),
            "spec.path".to_owned(),
            "\"/mcp?a=b\"",
        ),
        (
            "a strategy of stdio",
            json!({"transport": "stdio", "strategy": {"type": "Recreate"}}),
            "spec.strategy".to_owned(),
            "Recreate",
        ),
        (
            "a strategy that there is not",
            json!({"strategy": {"type": "BlueGreen"}}),
            "spec.strategy.type".to_owned(),
            "\"BlueGreen\"",
        ),
        (
            "numbers for a strategy without any",
            json!({"strategy": {"type": "Recreate", "rollingUpdate": {"maxSurge": 1}}}),
            "spec.strategy.rollingUpdate".to_owned(),
            "{\"maxSurge\":1}",
        ),
        (
            "a strategy that replaces nothing",
            json!({"strategy": {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": "0%"}}}),
            "spec.strategy.rollingUpdate.maxUnavailable".to_owned(),
            "\"0%\"",
        ),
        (
            "less than no pods",
            json!({"strategy": {"rollingUpdate": {"maxSurge": -1}}}),
            "spec.strategy.rollingUpdate.maxSurge".to_owned(),
            "-1",
        ),
        (
            "more than all pods",
            json!({"strategy": {"rollingUpdate": {"maxUnavailable": "101%"}}}),
            "spec.strategy.rollingUpdate.maxUnavailable".to_owned(),
            "\"101%\"",
        ),
        (
            "a disruption budget of nothing",
            json!({"disruptionBudget": {}}),
            "spec.disruptionBudget".to_owned(),
            "set one of minAvailable and maxUnavailable",
        ),
        (
            "a disruption budget of both",
            json!({"disruptionBudget": {"minAvailable": 1, "maxUnavailable": 1}}),
            "spec.disruptionBudget".to_owned(),
            "cannot be used together",
        ),
        (
            "a share of pods in other words",
            json!({"disruptionBudget": {"minAvailable": "half"}}),
            "spec.disruptionBudget.minAvailable".to_owned(),
            "\"half\"",
        ),
        (
            "an item twice beside a field that no pod has",
            pod(json!({"x": 1, "volumes": [{"name": "v"}, {"name": "v"}]})),
            format!("{POD}.volumes[1].name"),
            "\"v\"",
        ),
    ];
    for (what, spec, field, text) in table {
        let all = faults(&server(&spec), None);
        let found = all
            .iter()
            .any(|fault| fault.field == field && fault.message.contains(text));
        assert!(found, "{what}: expected {field} with {text}, got {all:?}");
    }
}

#[test]
fn a_variable_that_replaces_one_of_ours_is_told() {
    let entry = json!([{"name": "MCP_CONFIG_FILE", "value": "/x"}]);
    let replaces = |path: &str, name: &str| {
        format!("{path}.name: {name} replaces the variable that the operator sets")
    };
    let table = [
        (
            "nothing to replace without config",
            json!({"env": entry}),
            vec![],
        ),
        (
            "the config's file",
            json!({"env": entry, "config": {"A": "b"}}),
            vec![replaces("spec.env[0]", "MCP_CONFIG_FILE")],
        ),
        (
            "by way of the pod template",
            pod(json!({"containers": [
                {"name": "side", "image": "s:1", "env": [{"name": "MCP_PORT", "value": "1"}]},
                {"name": "mcp-server", "env": [{"name": "A"}, {"name": "MCP_PORT", "value": "1"}]}]})),
            vec![replaces(
                "spec.podTemplate.spec.containers[1].env[1]",
                "MCP_PORT",
            )],
        ),
    ];
    for (what, spec, expected) in table {
        assert_eq!(warnings(&server(&spec)), expected, "{what}");
    }
}

#[test]
fn a_security_context_that_drops_the_hardening_is_told() {
    let whole = json!({"allowPrivilegeEscalation": false, "capabilities": {}, "readOnlyRootFilesystem": true,
        "runAsNonRoot": true, "runAsUser": 1001, "seccompProfile": {"type": "RuntimeDefault"}});
    let rest = json!({"securityContext": {"runAsUser": 1001}, "podTemplate": {"spec": {"containers": ours(
        json!({"securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": true, "runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}}}))}}});
    assert_eq!(
        warnings(&server(&rest)),
        Vec::<String>::new(),
        "the pod template sets the rest"
    );
    for (context, expected) in [
        (json!(null), None),
        (whole, None),
        (
            json!({"runAsUser": 1001}),
            Some(
                "these are not set any more: allowPrivilegeEscalation, capabilities, readOnlyRootFilesystem, runAsNonRoot, \
                 seccompProfile; to change",
            ),
        ),
    ] {
        let warnings = warnings(&server(&json!({"securityContext": context})));
        match expected {
            Some(text) => assert!(
                warnings.len() == 1 && warnings[0].contains(text),
                "{warnings:?}"
            ),
            None => assert_eq!(warnings, Vec::<String>::new()),
        }
    }
}

#[test]
fn the_class_of_a_load_balancer_stays_while_there_is_one() {
    let service = |type_: &str, class: Option<&str>| {
        server(&json!({"service": {"type": type_, "loadBalancerClass": class}}))
    };
    let balancer = |class: Option<&str>| service("LoadBalancer", class);
    let table = vec![
        ("the same", balancer(Some("a")), balancer(Some("a")), None),
        (
            "another",
            balancer(Some("a")),
            balancer(Some("b")),
            Some("Invalid value: \"b\""),
        ),
        (
            "none any more",
            balancer(Some("a")),
            balancer(None),
            Some("Invalid value: null"),
        ),
        (
            "one where none was",
            balancer(None),
            balancer(Some("a")),
            Some("it is none"),
        ),
        (
            "of a new load balancer",
            service("NodePort", None),
            balancer(Some("a")),
            None,
        ),
        (
            "of one that goes",
            balancer(Some("a")),
            service("NodePort", None),
            None,
        ),
    ];
    for (what, old, new, expected) in table {
        let found = faults(&new, Some(&old));
        match expected {
            None => assert_eq!(found, [], "{what}"),
            Some(text) => {
                let [fault] = &found[..] else {
                    panic!("{what}: {found:?}")
                };
                let field = "spec.service.loadBalancerClass";
                assert!(
                    fault.field == field && fault.message.contains(text),
                    "{what}: {fault}"
                );
            }
        }
    }
}

#[test]
fn a_disruption_budget_that_keeps_a_node_from_being_drained_is_told() {
    for (replicas, budget, blocks) in [
        (2, json!({"minAvailable": 1}), false),
        (1, json!({"minAvailable": 1}), true),
        (0, json!({"minAvailable": 1}), false),
        (3, json!({"minAvailable": "100%"}), true),
        (3, json!({"maxUnavailable": 0}), true),
        (3, json!({"maxUnavailable": "0%"}), true),
        (3, json!({"maxUnavailable": 1}), false),
    ] {
        let warnings = warnings(&server(
            &json!({"replicas": replicas, "disruptionBudget": budget}),
        ));
        let is_told = warnings
            .iter()
            .any(|warning| warning.starts_with("spec.disruptionBudget: no pod"));
        assert_eq!(is_told, blocks, "{replicas} {budget}: {warnings:?}");
    }
}

#[test]
fn a_tag_that_moves_is_told() {
    let sha256 = "a".repeat(64);
    for (image, text) in [
        ("app:1".to_owned(), None),
        ("app:latest".to_owned(), Some("has the tag latest")),
        ("app".to_owned(), Some("has no tag")),
        ("h:5000/app".to_owned(), Some("has no tag")),
        ("[::1]:5000/app".to_owned(), Some("has no tag")),
        ("h:5000/app:1".to_owned(), None),
        (format!("app@sha256:{sha256}"), None),
        (format!("app:latest@sha256:{sha256}"), None),
        ("Not An Image".to_owned(), None),
    ] {
        let warnings = warnings(&server(&json!({"image": image})));
        match text {
            Some(text) => assert!(
                warnings.len() == 1 && warnings[0].contains(text),
                "{image}: {warnings:?}"
            ),
            None => assert_eq!(warnings, Vec::<String>::new(), "{image}"),
        }
    }
    let amended = |image: &str| pod(json!({"containers": ours(json!({"image": image}))}));
    assert_eq!(warnings(&server(&amended("app:1"))), Vec::<String>::new());
    let found = warnings(&server(&amended("app")));
    let path = "spec.podTemplate.spec.containers[0].image: \"app\" has no tag";
    assert!(found.len() == 1 && found[0].starts_with(path), "{found:?}");
}

#[test]
fn more_faults_than_anybody_reads_are_counted() {
    let env: Vec<_> = (0..150).map(|_| json!({"name": "A=B"})).collect();
    let server = server(&json!({"env": env}));
    let found = faults(&server, None);
    assert_eq!(found.len(), MOST_FAULTS + 1);
    let last = found.last().unwrap().to_string();
    // Each is malformed, and all but the first are there twice.
    assert_eq!(
        last,
        "spec: Forbidden: there are 199 more faults, shown when these are mended"
    );
    assert_eq!(faults(&server, Some(&server)), [], "as it was");
}

#[test]
fn a_config_that_is_just_too_large_is_found_however_it_grows() {
    // As a list of origins, with escapes, as many keys: what grows most when it is written out.
    let origins = |count: usize| json!({"transport": "http", "config": {"CORS_ORIGINS": vec!["*"; count].join(",")}});
    let escapes = |count: usize| json!({"config": {"A": "\u{1}".repeat(count)}});
    let keys = |count: usize| {
        let config: Value = (0..count).map(|at| (format!("k{at}"), json!(""))).collect();
        json!({"config": config})
    };
    let is_told = |spec: Value| {
        let faults = faults(&server(&spec), None);
        faults
            .iter()
            .any(|fault| fault.reason == "FieldValueTooLong")
    };
    let shapes: [(&dyn Fn(usize) -> Value, usize); 3] =
        [(&origins, 1 << 20), (&escapes, 1 << 19), (&keys, 1 << 17)];
    for (at, (shape, most)) in shapes.into_iter().enumerate() {
        let (mut fits, mut over) = (1, most);
        assert!(!is_told(shape(fits)) && is_told(shape(over)), "{at}");
        while over - fits > 1 {
            let middle = usize::midpoint(fits, over);
            if is_told(shape(middle)) {
                over = middle;
            } else {
                fits = middle;
            }
        }
        let object = server(&shape(over));
        let values: usize = object
            .spec
            .config
            .iter()
            .map(|(key, value)| key.len() + value.len())
            .sum();
        let size = values + crate::api::config_json::render(&object).len();
        assert!(
            (super::CONFIG_MAP_LIMIT..super::CONFIG_MAP_LIMIT + 100).contains(&size),
            "{at}: {size}"
        );
    }
}
