//! What a requester may do: nobody gains by asking the operator.

use anyhow::{Result, bail};
use cluster::eventually;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use mcp_operator::api::{MCPServer, Platform, defaults, read};
use mcp_operator::build::deployment;
use mcp_operator::validation::pod_security::{ENFORCE, Level, violations};
use serde_json::{Value, json};

use crate::setup::{SOON, Space, put_in_force, shared};

/// A role of this user in the space, with these rules.
async fn allow(space: &Space, user: &str, rules: Value) {
    let (namespace, user) = (space.namespace.clone(), user.to_owned());
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
        "metadata": {"name": user, "namespace": namespace}, "rules": rules,
    });
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": {"name": user, "namespace": namespace},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": user},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
    });
    let granted = tokio::task::spawn_blocking(move || {
        put_in_force(shared().cluster, &user, &[binding, role])
    });
    granted.await.unwrap().unwrap();
}

/// To write MCPServers, first, and then these.
fn rules(more: &[(&str, &str, Option<&str>, &str)]) -> Value {
    let mut rules = vec![
        json!({"apiGroups": ["mcp.example.com"], "resources": ["mcpservers", "mcpservers/scale"],
            "verbs": ["get", "create", "patch", "update"]}),
    ];
    for (group, resource, name, verb) in more {
        let names: Vec<_> = name.iter().collect();
        rules.push(json!({"apiGroups": [group], "resources": [resource], "resourceNames": names, "verbs": [verb]}));
    }
    json!(rules)
}

/// The user of these is whoever runs the tests.
const ADMIN: &str = "";

/// `kubectl apply` as this user.
async fn apply(space: &Space, user: &str, name: &str, spec: &Value) -> (bool, String) {
    let mut spec = spec.clone();
    spec["image"] = json!("x:1");
    spec["replicas"] = json!(0);
    let object = json!({
        "apiVersion": "mcp.example.com/v1alpha1", "kind": "MCPServer", "metadata": {"name": name}, "spec": spec,
    });
    let arguments = ["apply", "--server-side", "-f", "-", "--as", user];
    let count = if user == ADMIN { 4 } else { 6 };
    let (done, _, stderr) = space
        .kubectl(&arguments[..count], &object.to_string())
        .await;
    (done, stderr)
}

#[tokio::test]
async fn a_tenant_without_a_right_does_not_get_there_by_way_of_the_operator() {
    let space = Space::new("deputy").await;
    allow(&space, "tenant", rules(&[])).await;
    let plain = json!({"config": {"A": "b"}, "env": [{"name": "A", "value": "b"}]});
    let (done, said) = apply(&space, "tenant", "plain", &plain).await;
    assert!(done, "a plain server needs no other right: {said}");

    let table = [
        (
            "account",
            json!({"serviceAccount": "default"}),
            vec![(
                "spec.serviceAccount",
                "impersonate serviceaccounts/default, or to create pods",
            )],
        ),
        (
            "secret",
            json!({"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]}),
            vec![(
                "spec.env[0].valueFrom.secretKeyRef",
                "get secrets/s, or to create pods",
            )],
        ),
        (
            "balancer",
            json!({"service": {"type": "LoadBalancer"}}),
            vec![("spec.service.type", "create services")],
        ),
        (
            "all",
            json!({"podTemplate": {"spec": {"hostNetwork": true}}, "securityContext": {"runAsUser": 0},
                "imagePullSecrets": [{"name": "s"}], "service": {"annotations": {"a": "b"}}}),
            vec![
                ("spec.podTemplate", "create pods"),
                ("spec.securityContext.runAsUser", "create pods"),
                (
                    "spec.imagePullSecrets[0]",
                    "get secrets/s, or to create pods",
                ),
                ("spec.service.annotations", "create services"),
            ],
        ),
    ];
    for (name, spec, expected) in &table {
        for name in [*name, "plain"] {
            let (done, said) = apply(&space, "tenant", name, spec).await;
            assert!(!done && said.contains("forbidden"), "{name}: {said}");
            for (field, right) in expected {
                let text = format!(
                    "{field}: Forbidden: user \"tenant\" needs the right to {right} in namespace"
                );
                assert!(said.contains(&text), "{name}: expected {text}, got {said}");
            }
        }
    }
    // A fault is told first.
    let faulty = json!({"serviceAccount": "default", "config": {"SESSION_TIMEOUT": "x"}});
    let (_, said) = apply(&space, "tenant", "faulty", &faulty).await;
    assert!(
        said.contains("invalid SESSION_TIMEOUT") && !said.contains("needs the right"),
        "{said}"
    );

    // Whoever may do it himself notices nothing, and what is there stays editable for others.
    let rights = [
        ("", "secrets", Some("s"), "get"),
        ("", "services", None, "create"),
    ];
    allow(&space, "keeper", rules(&rights)).await;
    allow(
        &space,
        "builder",
        rules(&[
            ("", "pods", None, "create"),
            ("", "services", None, "create"),
        ]),
    )
    .await;
    for (user, may) in [
        ("keeper", vec!["secret", "balancer"]),
        ("builder", vec!["account", "secret", "balancer", "all"]),
    ] {
        for (name, spec, _) in &table {
            let name_of = format!("{user}-{name}");
            let (done, said) = apply(&space, user, &name_of, spec).await;
            assert_eq!(done, may.contains(name), "{user} {name}: {said}");
        }
    }
    let change = json!({"spec": {"args": ["a"]}});
    let arguments = [
        "patch",
        "mcpserver",
        "builder-all",
        "--as",
        "tenant",
        "--type",
        "merge",
        "-p",
        &change.to_string(),
    ];
    let (done, _, said) = space.kubectl(&arguments, "").await;
    assert!(done, "nothing is added to what it has: {said}");
}

#[tokio::test]
async fn the_refusal_is_a_403_with_its_causes() {
    let space = Space::new("deputy-status").await;
    allow(&space, "tenant-2", rules(&[])).await;
    let config = shared().cluster.kubeconfig_for("tenant-2", &[]).unwrap();
    let config = kube::config::Kubeconfig::read_from(config).unwrap();
    let config = kube::Config::from_custom_kubeconfig(config, &Default::default())
        .await
        .unwrap();
    let client = kube::Client::try_from(config).unwrap();
    let servers = Api::<MCPServer>::namespaced(client, &space.namespace);
    let object = json!({"metadata": {"name": "a"}, "spec": {"image": "x:1", "serviceAccount": "b", "podTemplate": {"spec": {}}}});
    let object: MCPServer = serde_json::from_value(object).unwrap();
    let status = crate::setup::refusal(servers.create(&PostParams::default(), &object).await);
    assert_eq!(
        (status.code, &*status.reason),
        (403, "Forbidden"),
        "{status:?}"
    );
    let causes = status.details.expect("details").causes;
    let causes: Vec<_> = causes
        .iter()
        .map(|cause| (&*cause.reason, &*cause.field))
        .collect();
    let expected =
        ["spec.serviceAccount", "spec.podTemplate"].map(|field| ("FieldValueForbidden", field));
    assert_eq!(causes, expected);
}

/// Of each spec: what Pod Security says of its pods, by the API server and by us.
#[tokio::test]
async fn what_pod_security_will_refuse_is_said_in_its_own_words() {
    let ours = |container: Value| {
        let mut container = container;
        container["name"] = json!("mcp-server");
        json!({"podTemplate": {"spec": {"containers": [container]}}})
    };
    let context = |context: Value| ours(json!({"securityContext": context}));
    let pod = |spec: Value| json!({"podTemplate": {"spec": spec}});
    let side = |context: Value| {
        json!({"podTemplate": {"spec": {"initContainers": [{"name": "init", "image": "i:1"}],
            "containers": [{"name": "side", "image": "s:1", "securityContext": context}]}}})
    };
    let specs = [
        json!({}),
        json!({"securityContext": {}}),
        json!({"securityContext": {"runAsUser": 0}}),
        json!({"securityContext": {"privileged": true}}),
        context(json!({"capabilities": {"add": ["NET_RAW", "CHOWN", "SYS_ADMIN"]}})),
        context(json!({"capabilities": {"add": ["NET_BIND_SERVICE"], "drop": null}})),
        context(json!({"seccompProfile": {"type": "Unconfined"}})),
        context(json!({"seccompProfile": null, "runAsNonRoot": null, "runAsUser": null})),
        context(json!({"seLinuxOptions": {"type": "spc_t", "user": "u", "role": "r"}})),
        context(json!({"seLinuxOptions": {"type": "container_t", "level": "s0"}})),
        context(json!({"appArmorProfile": {"type": "Unconfined"}})),
        side(json!({})),
        side(json!({"privileged": true, "runAsNonRoot": false})),
        side(json!({"runAsUser": 0, "seccompProfile": {"type": "Unconfined"}})),
        pod(json!({"hostNetwork": true, "hostPID": true, "hostIPC": true})),
        pod(
            json!({"volumes": [{"name": "h", "hostPath": {"path": "/x"}}, {"name": "n", "nfs": {"server": "s", "path": "/"}}]}),
        ),
        pod(json!({"volumes": [{"name": "h", "hostPath": {"path": "/x"}}]})),
        pod(
            json!({"volumes": [{"name": "e"}, {"name": "p", "persistentVolumeClaim": {"claimName": "c"}}]}),
        ),
        pod(
            json!({"securityContext": {"sysctls": [{"name": "net.ipv4.tcp_syncookies", "value": "1"},
            {"name": "kernel.msgmax", "value": "1"}]}}),
        ),
        pod(
            json!({"securityContext": {"runAsNonRoot": false, "runAsUser": 0, "seLinuxOptions": {"type": "x_t"},
            "seccompProfile": {"type": "Unconfined"}, "appArmorProfile": {"type": "Unconfined"}}}),
        ),
        pod(
            json!({"hostUsers": false, "containers": [{"name": "mcp-server", "securityContext":
            {"procMount": "Unmasked", "runAsNonRoot": false, "runAsUser": 0}}]}),
        ),
        ours(
            json!({"ports": [{"containerPort": 8080, "hostPort": 8080}, {"containerPort": 9, "hostPort": 9, "name": "b"}]}),
        ),
        ours(
            json!({"livenessProbe": {"httpGet": {"host": "a.example"}}, "lifecycle":
            {"preStop": {"httpGet": {"host": "b.example", "port": 1}}}}),
        ),
        json!({"podTemplate": {"metadata": {"annotations":
            {"container.apparmor.security.beta.kubernetes.io/mcp-server": "unconfined"}}}}),
    ];
    for level in [Level::Baseline, Level::Restricted] {
        let name = if level == Level::Baseline {
            "baseline"
        } else {
            "restricted"
        };
        let space = Space::new(name).await;
        enforce(&space, Some(name)).await;
        let dry = PostParams {
            dry_run: true,
            ..PostParams::default()
        };
        let mut refused = 0;
        for spec in &specs {
            let mut spec = spec.clone();
            spec["image"] = json!("x:1");
            let object =
                json!({"metadata": {"name": "a", "namespace": space.namespace}, "spec": spec});
            let (server, faults) = read::server(&object, true);
            assert_eq!(faults, [], "{spec}");
            let mut server = server.unwrap();
            defaults::default(&mut server, None);
            let template = deployment::template(&server, &Platform::default()).unwrap();
            let ours = violations(level, &template);
            let mut pod = json!({"metadata": template.metadata, "spec": template.spec});
            pod["metadata"]["name"] = json!("a");
            let pod: Pod = serde_json::from_value(pod).unwrap();
            let theirs = match space.api::<Pod>().create(&dry, &pod).await {
                Ok(_) => None,
                Err(kube::Error::Api(status)) if status.message.contains("PodSecurity") => {
                    let (_, text) = status.message.split_once("violates PodSecurity").unwrap();
                    Some(format!("would violate PodSecurity{text}"))
                }
                Err(error) => panic!("{spec}: {error}"),
            };
            refused += usize::from(theirs.is_some());
            assert_eq!(ours, theirs, "{name}: {spec}");
        }
        assert!(refused > 10, "{name}: only {refused} of them were refused");
    }
}

async fn enforce(space: &Space, level: Option<&str>) {
    let label = json!({"metadata": {"labels": {ENFORCE: level}}});
    let namespaces = Api::<Namespace>::all(space.client.clone());
    namespaces
        .patch(
            &space.namespace,
            &PatchParams::default(),
            &Patch::Merge(label),
        )
        .await
        .unwrap();
}

#[tokio::test]
async fn the_level_of_the_namespace_decides_what_is_warned_of() {
    let space = Space::new("levels").await;
    let root = json!({"securityContext": {"runAsUser": 0}});
    let warned = |level: Option<&'static str>| {
        let (space, root) = (&space, &root);
        async move {
            enforce(space, level).await;
            let expected = level == Some("restricted");
            // The operator learns of the label by a watch.
            eventually("the warning follows the label", SOON, || async {
                let (done, said) = apply(space, ADMIN, "a", root).await;
                let text = "would violate PodSecurity \"restricted:latest\": allowPrivilegeEscalation != false \
                            (container \"mcp-server\" must set securityContext.allowPrivilegeEscalation=false)";
                if done && said.contains(text) == expected {
                    return Result::Ok(Some(()));
                }
                let _ = space.kubectl(&["delete", "mcpserver", "a"], "").await;
                bail!("{level:?}: {said}")
            })
            .await
            .unwrap();
            let _ = space.kubectl(&["delete", "mcpserver", "a"], "").await;
        }
    };
    warned(Some("restricted")).await;
    warned(Some("baseline")).await;
    warned(Some("restricted")).await;
    warned(None).await;
    enforce(&space, Some("restricted")).await;
    let (_, said) = apply(&space, ADMIN, "b", &json!({})).await;
    assert!(!said.contains("PodSecurity"), "the defaults pass: {said}");
}
