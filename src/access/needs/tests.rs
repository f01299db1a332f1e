use serde_json::json;

use super::*;

const PODS: &str = "create pods";
const SERVICES: &str = "create services";

fn spec(spec: &Value) -> MCPServerSpec {
    let mut spec = spec.clone();
    spec["image"] = json!("x:1");
    serde_json::from_value(spec).unwrap()
}

/// Each need as `field: right | right`, below spec.
fn needed(new: &Value, old: Option<&Value>) -> Vec<String> {
    let (new, old) = (spec(new), old.map(spec));
    let needs = needs(&new, old.as_ref()).into_iter().map(|need| {
        let rights: Vec<_> = need.one_of.iter().map(ToString::to_string).collect();
        let field = need
            .field
            .strip_prefix("spec.")
            .unwrap_or(&need.field)
            .to_owned();
        format!("{field}: {}", rights.join(" | "))
    });
    needs.collect()
}

fn secret(entry: &str, name: &str, key: &str) -> Value {
    json!({"name": entry, "valueFrom": {"secretKeyRef": {"name": name, "key": key}}})
}

#[test]
fn a_plain_server_needs_nothing() {
    let hardened = json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}, "runAsUser": 1001,
        "readOnlyRootFilesystem": true, "runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}});
    let config_maps = json!([{"configMapRef": {"name": "c"}}]);
    let env = json!([{"name": "A", "value": "b"}, {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]);
    for plain in [
        json!({}),
        json!({"transport": "stdio"}),
        json!({"env": env, "envFrom": config_maps, "args": ["a"], "command": ["b"], "config": {"A": "b"}}),
        json!({"service": {"type": "ClusterIP", "port": 80, "appProtocol": "http", "labels": {},
            "ipFamilyPolicy": "PreferDualStack", "sessionAffinity": "None"}}),
        json!({"resources": {"limits": {"cpu": 1}}, "health": {"type": "TCP"}, "strategy": {}, "path": "/x"}),
        json!({"securityContext": hardened}),
        json!({"podTemplate": {}, "commonMetadata": {"labels": {}}}),
    ] {
        assert_eq!(needed(&plain, None), Vec::<String>::new(), "{plain}");
    }
}

#[test]
fn what_goes_beyond_a_plain_server_needs_a_right() {
    let table = [
        (
            json!({"serviceAccount": "bob"}),
            vec!["serviceAccount: impersonate serviceaccounts/bob | create pods".to_owned()],
        ),
        (
            json!({"env": [{"name": "A"}, secret("B", "s", "k")], "envFrom": [{"secretRef": {"name": "t"}}],
                "imagePullSecrets": [{"name": "u"}]}),
            vec![
                "env[1].valueFrom.secretKeyRef: get secrets/s | create pods".to_owned(),
                "envFrom[0].secretRef: get secrets/t | create pods".to_owned(),
                "imagePullSecrets[0]: get secrets/u | create pods".to_owned(),
            ],
        ),
        (
            json!({"podTemplate": {"metadata": {"labels": {"a": "b"}}}}),
            vec![format!("podTemplate: {PODS}")],
        ),
        (
            json!({"securityContext": {"runAsUser": 1001}}),
            [
                "allowPrivilegeEscalation",
                "capabilities",
                "readOnlyRootFilesystem",
                "runAsNonRoot",
                "seccompProfile",
            ]
            .map(|field| format!("securityContext.{field}: {PODS}"))
            .to_vec(),
        ),
        (
            json!({"securityContext": {"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
                "runAsNonRoot": true, "runAsUser": 0, "seccompProfile": {"type": "Unconfined"},
                "capabilities": {"drop": ["ALL"], "add": ["NET_RAW"]}, "seLinuxOptions": {"type": "spc_t"},
                "appArmorProfile": {"type": "Unconfined"}}}),
            [
                "capabilities",
                "runAsUser",
                "seccompProfile",
                "seLinuxOptions",
                "appArmorProfile",
            ]
            .map(|field| format!("securityContext.{field}: {PODS}"))
            .to_vec(),
        ),
        (
            json!({"securityContext": {"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
                "runAsNonRoot": true, "runAsUser": 5, "capabilities": {"drop": ["ALL"]},
                "seccompProfile": {"type": "Localhost", "localhostProfile": "log-all.json"},
                "appArmorProfile": {"type": "Localhost", "localhostProfile": "complain"}}}),
            ["seccompProfile", "appArmorProfile"]
                .map(|field| format!("securityContext.{field}: {PODS}"))
                .to_vec(),
        ),
        (
            json!({"service": {"labels": {"exported": "true"}}}),
            vec![format!("service.labels: {SERVICES}")],
        ),
        (
            json!({"service": {"type": "LoadBalancer", "annotations": {"a": "b"}, "loadBalancerClass": "c",
                "loadBalancerSourceRanges": ["10.0.0.0/8"], "externalTrafficPolicy": "Local"}}),
            [
                "type",
                "annotations",
                "loadBalancerClass",
                "loadBalancerSourceRanges",
                "externalTrafficPolicy",
            ]
            .map(|field| format!("service.{field}: {SERVICES}"))
            .to_vec(),
        ),
        (
            json!({"commonMetadata": {"labels": {"a": "b"}, "annotations": {"a": "b"}}}),
            vec![
                format!("commonMetadata.labels: {PODS}"),
                format!("commonMetadata.labels: {SERVICES}"),
                format!("commonMetadata.annotations: {PODS}"),
                format!("commonMetadata.annotations: {SERVICES}"),
            ],
        ),
        (
            json!({"disruptionBudget": {"maxUnavailable": 0}}),
            vec!["disruptionBudget: create poddisruptionbudgets.policy".to_owned()],
        ),
    ];
    for (spec, expected) in table {
        assert_eq!(needed(&spec, None), expected, "created: {spec}");
        assert_eq!(needed(&spec, Some(&json!({}))), expected, "added: {spec}");
        let same = needed(&spec, Some(&spec));
        assert_eq!(same, Vec::<String>::new(), "there already: {spec}");
        let gone = needed(&json!({}), Some(&spec));
        assert_eq!(gone, Vec::<String>::new(), "taken away: {spec}");
    }
}

#[test]
fn only_what_an_update_adds_needs_a_right() {
    let balancer = |ranges: Value, annotations: Value| json!({"service": {"type": "LoadBalancer", "loadBalancerSourceRanges": ranges, "annotations": annotations}});
    let context = |add: &str| {
        json!({"securityContext": {"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": false, "runAsNonRoot": true,
            "runAsUser": 5, "seccompProfile": {"type": "RuntimeDefault"}, "capabilities": {"drop": ["ALL"], "add": [add]}}})
    };
    let table = [
        (
            "another account",
            json!({"serviceAccount": "a"}),
            json!({"serviceAccount": "b"}),
            vec!["serviceAccount: impersonate serviceaccounts/b | create pods"],
        ),
        (
            "another key of a Secret",
            json!({"env": [secret("A", "s", "k")]}),
            json!({"env": [secret("A", "s", "k"), secret("B", "s", "l")]}),
            vec!["env[1].valueFrom.secretKeyRef: get secrets/s | create pods"],
        ),
        (
            "the same key at another place",
            json!({"env": [secret("A", "s", "k")]}),
            json!({"env": [{"name": "C"}, secret("B", "s", "k")]}),
            vec![],
        ),
        (
            "a key of a Secret that it had as a whole",
            json!({"envFrom": [{"secretRef": {"name": "s"}}]}),
            json!({"env": [secret("A", "s", "k")]}),
            vec![],
        ),
        (
            "a Secret that only the image was pulled with",
            json!({"imagePullSecrets": [{"name": "s"}]}),
            json!({"envFrom": [{"secretRef": {"name": "s"}}]}),
            vec!["envFrom[0].secretRef: get secrets/s | create pods"],
        ),
        (
            "another capability",
            context("NET_RAW"),
            context("SYS_ADMIN"),
            vec!["securityContext.capabilities: create pods"],
        ),
        (
            "another pod template",
            json!({"podTemplate": {"spec": {"hostNetwork": false}}}),
            json!({"podTemplate": {"spec": {"hostNetwork": true}}}),
            vec!["podTemplate: create pods"],
        ),
        (
            "a load balancer that lets all in",
            balancer(json!(["10.0.0.0/8"]), json!({})),
            balancer(json!([]), json!({})),
            vec!["service.loadBalancerSourceRanges: create services"],
        ),
        (
            "a load balancer that is no internal one any more",
            balancer(json!([]), json!({"example.com/internal": "true"})),
            balancer(json!([]), json!({})),
            vec!["service.annotations: create services"],
        ),
        (
            "an annotation less, within the cluster",
            json!({"service": {"annotations": {"a": "b"}}}),
            json!({"service": {}}),
            vec![],
        ),
        (
            "another image beside it",
            json!({"serviceAccount": "a", "podTemplate": {"spec": {}}, "env": [secret("A", "s", "k")]}),
            json!({"serviceAccount": "a", "podTemplate": {"spec": {}}, "env": [secret("A", "s", "k")], "replicas": 5}),
            vec![],
        ),
    ];
    for (what, old, new, expected) in table {
        assert_eq!(needed(&new, Some(&old)), expected, "{what}");
    }
}

#[test]
fn what_takes_a_restriction_away_adds_something() {
    let contained = |more: Value| {
        let mut spec = json!({"securityContext": {"runAsUser": 0, "runAsNonRoot": false}});
        json_patch::merge(&mut spec, &more);
        spec
    };
    let table = [
        (
            "a capability less",
            json!({"securityContext": {"capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN", "SYS_TIME"]}}}),
            json!({"securityContext": {"capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]}}}),
            vec![],
        ),
        (
            "what is as weak when it is left out",
            json!({"securityContext": {"readOnlyRootFilesystem": false}}),
            json!({"securityContext": {"readOnlyRootFilesystem": null}}),
            vec![],
        ),
        (
            "a user namespace that is taken away from root",
            contained(json!({"podTemplate": {"spec": {"hostUsers": false}}})),
            contained(json!({})),
            vec!["podTemplate: create pods"],
        ),
        (
            "a label by which a policy keeps root in check",
            contained(json!({"commonMetadata": {"labels": {"egress": "restricted"}}})),
            contained(json!({})),
            vec!["podTemplate: create pods"],
        ),
        (
            "a template that is taken away from a plain server",
            json!({"podTemplate": {"spec": {"hostUsers": false}}}),
            json!({}),
            vec![],
        ),
        (
            "annotations that come onto a Service with the transport",
            json!({"transport": "stdio", "commonMetadata": {"annotations": {"a": "b"}}}),
            json!({"transport": "http", "commonMetadata": {"annotations": {"a": "b"}}}),
            vec!["commonMetadata.annotations: create services"],
        ),
        (
            "another pool of addresses",
            json!({"service": {"type": "LoadBalancer", "labels": {"pool": "internal"}}}),
            json!({"service": {"type": "LoadBalancer", "labels": {}}}),
            vec!["service.labels: create services"],
        ),
    ];
    for (what, old, new, expected) in table {
        assert_eq!(needed(&new, Some(&old)), expected, "{what}");
    }
}
