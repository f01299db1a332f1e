//! Properties of defaults and rules, on objects that the schema admits.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::api::v1alpha1::Transport;
use crate::api::{FieldPath, MCPServer, Platform, decode, defaults};
use crate::build::deployment::deployment;
use crate::validation;

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z]{1,8}",
        ".{0,12}",
        Just(String::new()),
        Just("30m".to_owned()),
        Just("*".to_owned()),
        Just("https://a.b".to_owned()),
    ]
}

fn quantity() -> impl Strategy<Value = Value> {
    prop_oneof![
        "[0-9]{1,4}(m|Mi|Gi|k)?".prop_map(Value::from),
        (0..2000i64).prop_map(Value::from),
        text().prop_map(Value::from),
    ]
}

fn quantities() -> impl Strategy<Value = Value> {
    let name = prop_oneof![Just("cpu".to_owned()), Just("memory".to_owned()), text()];
    prop::collection::btree_map(name, quantity(), 0..3).prop_map(|map| json!(map))
}

/// Any JSON, with keys and texts that mean something in a pod.
pub(crate) fn any_json() -> impl Strategy<Value = Value> {
    let key = prop::sample::select(vec![
        "metadata",
        "labels",
        "annotations",
        "spec",
        "containers",
        "name",
        "image",
        "env",
        "value",
        "valueFrom",
        "volumes",
        "volumeMounts",
        "mountPath",
        "ports",
        "containerPort",
        "livenessProbe",
        "httpGet",
        "resources",
        "limits",
        "requests",
        "cpu",
        "securityContext",
        "runAsUser",
        "$patch",
        "tolerations",
        "x",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        Just(json!("mcp-server")),
        text().prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 64, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(key.clone().prop_map(str::to_owned), inner, 0..5)
                .prop_map(|map| json!(map)),
        ]
    })
}

fn pod_template() -> impl Strategy<Value = Value> {
    let metadata = prop_oneof![Just(json!({})), any_json()];
    let containers = prop::collection::vec(any_json(), 0..3);
    prop_oneof![
        (metadata, containers).prop_map(|(metadata, containers)| {
            let containers: Vec<_> = containers
                .into_iter()
                .map(|container| match container {
                    Value::Object(fields) => json!(fields),
                    other => json!({"name": "mcp-server", "image": other}),
                })
                .collect();
            json!({"metadata": metadata, "spec": {"containers": containers}})
        }),
        any_json().prop_filter("the schema admits objects only", Value::is_object),
    ]
}

/// Spec fields as the schema admits them, each there or not.
pub(crate) fn spec() -> impl Strategy<Value = Value> {
    let image = prop_oneof![
        Just("node:18".to_owned()),
        text().prop_filter("not empty", |t| !t.is_empty())
    ];
    let transport = prop::sample::select(Transport::ALL.map(Transport::as_str).to_vec());
    let key = prop_oneof![
        Just("SESSION_TIMEOUT".to_owned()),
        Just("CORS_ORIGINS".to_owned()),
        text()
    ];
    let config = prop::collection::btree_map(key, text(), 0..4).prop_map(|map| json!(map));
    let resources =
        (quantities(), quantities()).prop_map(|(r, l)| json!({"requests": r, "limits": l}));
    let env = prop::collection::vec(
        text().prop_map(|name| json!({"name": name, "value": "v"})),
        0..4,
    );
    let context = (any::<Option<bool>>(), any::<Option<bool>>(), any::<Option<i64>>()).prop_map(|(p, e, u)| {
        json!({"privileged": p, "allowPrivilegeEscalation": e, "runAsUser": u, "runAsNonRoot": p})
    });
    let service = prop::sample::select(vec![
        json!({}),
        json!({"type": "NodePort"}),
        json!({"sessionAffinity": "None"}),
        json!({"port": 80, "appProtocol": "a b", "labels": {"a": "b", "c": "-"}}),
        json!({"type": "LoadBalancer", "loadBalancerSourceRanges": ["10.0.0.0/8", "x"], "loadBalancerClass": "c"}),
        json!({"externalTrafficPolicy": "Local", "annotations": {"mcp.example.com/a": "b"}}),
    ]);
    let around = prop::sample::select(vec![
        json!({"path": "/x"}),
        json!({"path": "x y"}),
        json!({"strategy": {"type": "Recreate"}}),
        json!({"strategy": {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": "0%"}}}),
        json!({"disruptionBudget": {}}),
        json!({"disruptionBudget": {"minAvailable": "50%"}}),
        json!({"commonMetadata": {"labels": {"team": "a b"}, "annotations": {"a": "b"}}}),
    ]);
    let health = prop_oneof![
        text().prop_map(|path| json!({"livenessPath": path})),
        Just(json!({"type": "TCP"})),
        text().prop_map(|path| json!({"type": "None", "readinessPath": path})),
    ];
    let base = (image, transport, 1..=65535i32, 0..=i32::MAX).prop_map(|(image, transport, port, replicas)| {
        json!({"image": image, "transport": transport, "port": port, "replicas": replicas})
    });
    let optional = (
        prop::option::of(config),
        prop::option::of(resources),
        prop::option::of(env),
        prop::option::of(context),
        prop::option::of(service),
        prop::option::of(health),
        prop::option::weighted(0.3, pod_template()),
        prop::option::of(text()),
        prop::option::of(around),
    );
    (base, optional).prop_map(
        |(base, (config, resources, env, context, service, health, template, account, around))| {
            let mut spec: Map<String, Value> = base.as_object().cloned().unwrap_or_default();
            let named = [
                ("config", config),
                ("resources", resources),
                ("env", env.map(Value::from)),
                ("securityContext", context),
                ("service", service),
                ("health", health),
                ("podTemplate", template),
                ("serviceAccount", account.map(Value::from)),
            ];
            let around = around.unwrap_or_default();
            spec.extend(around.as_object().cloned().unwrap_or_default());
            spec.extend(
                named
                    .into_iter()
                    .filter_map(|(key, value)| Some((key.to_owned(), value?))),
            );
            Value::Object(spec)
        },
    )
}

fn server() -> impl Strategy<Value = MCPServer> {
    spec().prop_map(|spec| {
        decode::lenient(
            &json!({"metadata": {"name": "a", "namespace": "n"}, "spec": spec}),
            &FieldPath::OBJECT,
        )
        .expect("admitted")
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn defaulting_twice_is_defaulting_once(server in server()) {
        let mut once = server.clone();
        defaults::default(&mut once, None);
        let mut twice = once.clone();
        defaults::default(&mut twice, None);
        prop_assert_eq!(&once, &twice);
        // Also as an update of what was stored.
        defaults::default(&mut twice, Some(&once));
        prop_assert_eq!(&once, &twice);
    }

    #[test]
    fn an_update_defaulted_twice_is_defaulted_once(old in server(), new in server()) {
        let mut once = new.clone();
        defaults::default(&mut once, Some(&old));
        let mut twice = once.clone();
        defaults::default(&mut twice, Some(&old));
        prop_assert_eq!(once, twice);
    }

    #[test]
    fn defaulting_makes_no_faults(server in server()) {
        let before = validation::faults(&server, None);
        let mut defaulted = server;
        defaults::default(&mut defaulted, None);
        let after = validation::faults(&defaulted, None);
        let new: Vec<_> = after.iter().filter(|fault| !before.contains(fault)).collect();
        prop_assert!(new.is_empty(), "{new:?}");
    }

    #[test]
    fn what_is_valid_can_be_built(server in server()) {
        let warnings = validation::warnings(&server);
        prop_assert!(warnings.len() < 20);
        if validation::faults(&server, None).is_empty() {
            deployment(&server, &Platform::default()).expect("a valid server can be built");
        }
    }

    #[test]
    fn a_stored_fault_is_let_through(server in server()) {
        prop_assert!(validation::faults(&server, Some(&server)).is_empty());
    }
}
