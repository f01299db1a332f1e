//! The rights that the chart gives to the operator: no more than named here.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{find, objects, of_kind, shared};

const NAMESPACE: &str = "access";

/// Rules that the operator's account is given, each with the namespace it holds in (empty: everywhere).
fn rules(objects: &[Value]) -> Vec<(String, Value)> {
    let mut rules = Vec::new();
    for kind in ["RoleBinding", "ClusterRoleBinding"] {
        for binding in of_kind(objects, kind) {
            if binding["subjects"][0]["name"] != "mcp-operator" {
                continue;
            }
            let namespace = binding["metadata"]["namespace"]
                .as_str()
                .unwrap_or_default();
            let role = &binding["roleRef"];
            let mut roles = of_kind(objects, role["kind"].as_str().unwrap());
            let role = roles.find(|found| {
                found["metadata"]["name"] == role["name"]
                    && found["metadata"]["namespace"] == binding["metadata"]["namespace"]
            });
            let role = role.expect("a binding's role is there");
            for rule in role["rules"].as_array().unwrap() {
                rules.push((namespace.to_owned(), rule.clone()));
            }
        }
    }
    rules
}

fn texts(value: &Value) -> BTreeSet<&str> {
    let values = value.as_array().into_iter().flatten();
    values.map(|value| value.as_str().unwrap()).collect()
}

/// The rule about a resource, and where it holds.
fn about<'a>(rules: &'a [(String, Value)], resource: &str) -> Vec<(&'a str, &'a Value)> {
    rules
        .iter()
        .filter(|(_, rule)| texts(&rule["resources"]).contains(resource))
        .map(|(namespace, rule)| (&**namespace, rule))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rights_are_the_least_in_every_mode() {
    let cluster = shared().await;
    let modes = [
        ("self-signed", true),
        ("cert-manager", false),
        ("existing-secret", false),
    ];
    for (mode, own_certificates) in modes {
        let values = format!(
            "{{certificates: {{mode: {mode}, existingSecret: {{name: tls}}}}, webhook: {{annotations: {{a: b}}}}}}"
        );
        let objects = objects(cluster, NAMESPACE, &values).await.unwrap();
        let rules = rules(&objects);
        for (_, rule) in &rules {
            assert!(
                !rule.to_string().contains('*'),
                "{mode}: a wildcard: {rule}"
            );
        }

        let secrets = about(&rules, "secrets");
        assert_eq!(secrets.len(), usize::from(own_certificates), "{mode}");
        for (namespace, rule) in secrets {
            assert_eq!(namespace, NAMESPACE, "{mode}");
            assert_eq!(
                texts(&rule["resourceNames"]),
                ["mcp-operator-webhook-ca"].into()
            );
            assert!(!texts(&rule["verbs"]).contains("delete"));
        }
        let [(namespace, lease)] = about(&rules, "leases")[..] else {
            panic!("{mode}: one rule about leases is expected")
        };
        assert_eq!(namespace, NAMESPACE, "{mode}");
        assert_eq!(texts(&lease["resourceNames"]), ["mcp-operator"].into());

        for resource in [
            "mutatingwebhookconfigurations",
            "validatingwebhookconfigurations",
        ] {
            let [("", rule)] = about(&rules, resource)[..] else {
                panic!("{mode}: one rule about {resource} is expected")
            };
            assert_eq!(texts(&rule["resourceNames"]), ["mcp-operator"].into());
            let mut verbs = BTreeSet::from(["list", "watch"]);
            if own_certificates {
                verbs.extend(["get", "patch"]);
            }
            assert_eq!(texts(&rule["verbs"]), verbs, "{mode}");
        }
        let [("", servers)] = about(&rules, "mcpservers")[..] else {
            panic!("{mode}: one rule about mcpservers is expected")
        };
        assert_eq!(
            texts(&servers["verbs"]),
            ["get", "list", "watch", "patch"].into(),
            "{mode}: MCPServers are the users' to create and delete"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_named_namespaces_there_are_no_rights_in_others() {
    let values = "{watch: {namespaces: [team-a, access]}}";
    let objects = objects(shared().await, NAMESPACE, values).await.unwrap();
    let everywhere = rules(&objects);
    let everywhere: BTreeSet<_> = everywhere
        .iter()
        .filter(|(namespace, _)| namespace.is_empty())
        .flat_map(|(_, rule)| texts(&rule["resources"]))
        .collect();
    let expected = [
        "mutatingwebhookconfigurations",
        "namespaces",
        "subjectaccessreviews",
        "validatingwebhookconfigurations",
    ];
    assert_eq!(everywhere, expected.into(), "what only a cluster has");
    let rules = rules(&objects);
    for resource in [
        "mcpservers",
        "deployments",
        "services",
        "configmaps",
        "pods",
        "events",
    ] {
        let namespaces: BTreeSet<_> = about(&rules, resource)
            .into_iter()
            .map(|(namespace, _)| namespace)
            .collect();
        assert_eq!(namespaces, ["team-a", "access"].into(), "{resource}");
    }
    // The webhooks are asked about those only: elsewhere the operator could not even read.
    let mut webhooks = of_kind(&objects, "MutatingWebhookConfiguration")
        .chain(of_kind(&objects, "ValidatingWebhookConfiguration"));
    assert!(webhooks.all(|configuration| {
        let selector = &configuration["webhooks"][0]["namespaceSelector"]["matchExpressions"][0];
        selector["key"] == "kubernetes.io/metadata.name"
            && texts(&selector["values"]) == ["team-a", "access"].into()
    }));
    let operator = find(&objects, "Deployment", "mcp-operator");
    let arguments = operator["spec"]["template"]["spec"]["containers"][0]["args"].to_string();
    assert!(
        arguments.contains(r#""--watch-namespace","team-a","--watch-namespace","access""#),
        "{arguments}"
    );
    // `helm test` makes its dry run where the webhooks are asked.
    let test = objects.iter().find(|object| {
        object["kind"] == "Role" && object["metadata"]["name"] == "mcp-operator-test"
    });
    assert_eq!(test.unwrap()["metadata"]["namespace"], "team-a");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_get_rights_by_kubernetes_own_roles() {
    let objects = objects(shared().await, NAMESPACE, "{}").await.unwrap();
    let view = find(&objects, "ClusterRole", "mcp-operator-view");
    let edit = find(&objects, "ClusterRole", "mcp-operator-edit");
    let aggregated = |role: &Value, to: &str| {
        role["metadata"]["labels"][format!("rbac.authorization.k8s.io/aggregate-to-{to}")] == "true"
    };
    for (to, viewing, editing) in [
        ("view", true, false),
        ("edit", true, true),
        ("admin", true, true),
    ] {
        assert_eq!(aggregated(view, to), viewing, "{to}");
        assert_eq!(aggregated(edit, to), editing, "{to}");
    }
    for role in [view, edit] {
        for rule in role["rules"].as_array().unwrap() {
            assert!(!rule.to_string().contains('*'), "{rule}");
            assert_eq!(texts(&rule["apiGroups"]), ["mcp.example.com"].into());
        }
    }
    let verbs = texts(&view["rules"][0]["verbs"]);
    assert_eq!(verbs, ["get", "list", "watch"].into());
}
