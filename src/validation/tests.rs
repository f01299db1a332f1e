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
