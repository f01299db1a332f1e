//! What the operator may do about certificates, by name only, and that it needs all of it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::SystemTime;

use anyhow::Result;
use cluster::Cluster;
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use super::{NAME, SECRET};
use crate::certificates::life::{DAY, World, keeper_clock};
use crate::setup::{self, OWN, Space, USER};

const SECRET_VERBS: [&str; 6] = ["get", "list", "watch", "create", "patch", "update"];
const CONFIGURATION_VERBS: [&str; 4] = ["get", "list", "watch", "patch"];

/// Creates roles and binds them to this user.
pub fn grant(
    cluster: &Cluster,
    user: &str,
    secret_verbs: &[&str],
    configuration_verbs: &[&str],
) -> Result<PathBuf> {
    let subject = json!([{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}]);
    let role = |kind: &str, rules: Value| {
        let namespace = if kind == "Role" {
            json!(OWN)
        } else {
            Value::Null
        };
        let metadata = json!({"name": user, "namespace": namespace});
        let version = "rbac.authorization.k8s.io/v1";
        [
            json!({"apiVersion": version, "kind": kind, "metadata": metadata, "rules": rules}),
            json!({
                "apiVersion": version, "kind": format!("{kind}Binding"), "metadata": metadata,
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": user},
                "subjects": subject,
            }),
        ]
    };
    let mut rules = vec![
        // Beside certificates; what of this is needed is another test's matter.
        json!({"apiGroups": ["mcp.example.com"], "resources": ["*"], "verbs": ["*"]}),
        json!({"apiGroups": ["apps"], "resources": ["deployments", "replicasets"], "verbs": ["*"]}),
        json!({"apiGroups": [""], "resources": ["services", "configmaps", "pods", "events", "namespaces"], "verbs": ["*"]}),
        json!({"apiGroups": ["policy"], "resources": ["poddisruptionbudgets"], "verbs": ["*"]}),
        json!({"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["*"]}),
        json!({"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["*"]}),
    ];
    rules.push(json!({
        "apiGroups": ["admissionregistration.k8s.io"],
        "resources": ["mutatingwebhookconfigurations", "validatingwebhookconfigurations"],
        "resourceNames": [NAME], "verbs": configuration_verbs,
    }));
    let mut items = Vec::from(role("ClusterRole", json!(rules)));
    if !secret_verbs.is_empty() {
        let secrets = json!([{"apiGroups": [""], "resources": ["secrets"], "resourceNames": [SECRET], "verbs": secret_verbs}]);
        items.extend(role("Role", secrets));
    }
    setup::put_in_force(cluster, user, &items)?;
    cluster.kubeconfig_for(user, &[])
}

/// The operator's user, with exactly the rights about certificates that it needs.
pub fn by_name(cluster: &Cluster) -> Result<PathBuf> {
    grant(cluster, USER, &SECRET_VERBS, &CONFIGURATION_VERBS)
}

/// A create by apply is a patch in the audit log; that it needs `create` too, another test shows.
pub async fn every_one_is_used(cluster: &Cluster) -> Result<()> {
    let requests = cluster.requests_by(USER).await?;
    setup::assert_none_forbidden(&requests);
    for (resource, granted) in [
        ("secrets", &SECRET_VERBS[..]),
        ("mutatingwebhookconfigurations", &CONFIGURATION_VERBS),
        ("validatingwebhookconfigurations", &CONFIGURATION_VERBS),
    ] {
        let used = requests
            .iter()
            .filter(|request| request.resource == resource)
            .map(|request| &*request.verb);
        let used: BTreeSet<_> = used.collect();
        let granted: BTreeSet<_> = granted
            .iter()
            .copied()
            .filter(|verb| *verb != "create")
            .collect();
        assert_eq!(used, granted, "{resource}");
    }
    Ok(())
}

#[tokio::test]
async fn what_may_be_patched_is_neither_made_nor_overwritten_by_mistake() -> Result<()> {
    let cluster = Cluster::start(setup::options()).await?;
    setup::install(&cluster, setup::free_port()?)?;
    let space = Space::within(&cluster, "rights").await;
    let all_but_create = SECRET_VERBS.map(|verb| if verb == "create" { "get" } else { verb });
    for (user, verbs, may) in [
        ("without-create", &all_but_create, false),
        ("with-create", &SECRET_VERBS, true),
    ] {
        let kubeconfig = grant(&cluster, user, verbs, &CONFIGURATION_VERBS)?;
        let client = super::life::client_of(&kubeconfig).await?;
        let settings = certs::Settings {
            namespace: OWN.to_owned(),
            secret: SECRET.to_owned(),
            configuration: NAME.to_owned(),
            webhooks: vec![
                "mmcpserver.mcp.example.com".to_owned(),
                "vmcpserver.mcp.example.com".to_owned(),
            ],
            ..World::settings("unused")
        };
        let (_, clock) = keeper_clock();
        let (mut keeper, serving) = certs::Keeper::new(client, settings, clock);
        let looked = keeper.look().await;
        assert_eq!(looked.is_ok(), may, "{user}: {looked:?}");
        assert_eq!(
            serving.ready().is_ok(),
            may,
            "{user}: {:?}",
            serving.ready()
        );
        if let Err(error) = looked {
            assert!(error.to_string().contains("forbidden"), "{error}");
        }
    }

    // Should somebody else's Secret come between looking and making, it is refused, not merged into.
    let own: Api<Secret> = space.api();
    let foreign =
        serde_json::from_value(json!({"metadata": {"name": "foreign"}, "stringData": {"a": "b"}}))?;
    let made = own.create(&PostParams::default(), &foreign).await?;
    let authority = certs::authority::Authority::new("test", SystemTime::now(), DAY)?;
    let ours = certs::secret::new(&space.namespace, "foreign", "test", &authority, &[]);
    let params = PatchParams::apply("test-1");
    let refused = setup::refusal(own.patch("foreign", &params, &Patch::Apply(&ours)).await);
    assert_eq!(refused.code, 409, "{refused:?}");
    assert_eq!(own.get("foreign").await?, made);
    // Nor does the second of two that make it at once overwrite the first.
    let ours = certs::secret::new(&space.namespace, "ca", "test", &authority, &[]);
    own.patch("ca", &params, &Patch::Apply(&ours)).await?;
    let other = certs::authority::Authority::new("test", SystemTime::now(), DAY)?;
    let theirs = certs::secret::new(&space.namespace, "ca", "test", &other, &[]);
    let params = PatchParams::apply("test-2");
    let refused = setup::refusal(own.patch("ca", &params, &Patch::Apply(&theirs)).await);
    assert_eq!(refused.code, 409, "{refused:?}");
    assert_eq!(own.get("ca").await?.data, ours.data);

    // What the operator's right to patch cannot do: bring a deleted configuration back.
    let configurations = Api::<ValidatingWebhookConfiguration>::all(space.client.clone());
    let was = configurations.get(NAME).await?;
    configurations
        .delete(NAME, &DeleteParams::default())
        .await?;
    let patch = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": NAME, "uid": was.uid(), "resourceVersion": was.resource_version()},
        "webhooks": [{"name": "vmcpserver.mcp.example.com", "clientConfig": {"caBundle": "", "url": "https://127.0.0.1:1/"},
            "admissionReviewVersions": ["v1"], "sideEffects": "None"}],
    });
    let params = PatchParams::apply("test").force();
    let refused = configurations
        .patch(NAME, &params, &Patch::Apply(&patch))
        .await;
    let refused = setup::refusal(refused);
    assert!(refused.code == 409 || refused.code == 404, "{refused:?}");
    assert!(configurations.get_opt(NAME).await?.is_none());
    cluster.stop().await
}
