//! `mcp-operator check`: asks an installed operator as a user would, by dry runs that store nothing.

use std::collections::BTreeMap;

use anyhow::{Context as _, bail, ensure};
use kube::api::{DynamicObject, PostParams};
use kube::{Api, Client, CustomResourceExt};
use serde_json::{Value, json};

use crate::api::MCPServer;
use crate::api::labels::{FINALIZER, has_finalizer};
use crate::cli::CheckArgs;
use crate::connect;

/// Part of every refusal of the faulty server. It is a fault that only the validating webhook finds: what the schema knows
/// is refused earlier.
const REFUSAL: &str = "invalid SESSION_TIMEOUT format: soon";
/// Why a webhook may not have been asked.
const SELECTORS: &str = "is it registered, and do its namespaceSelector \
     (--namespace) and its objectSelector (--label) select what was asked?";

/// Sends a server that must be accepted and one that must be refused, both as dry runs. Prints what happened; an error
/// says what was expected, what happened and where to look.
pub async fn run(args: CheckArgs) -> anyhow::Result<()> {
    let config = connect::config(args.kubeconfig.as_deref()).await?;
    let namespace = args
        .namespace
        .unwrap_or_else(|| config.default_namespace.clone());
    let client =
        Client::try_from(config).context("the cluster's address or credentials cannot be used")?;
    let api = Api::<DynamicObject>::namespaced_with(client, &namespace, &MCPServer::api_resource());

    let labels: BTreeMap<_, _> = args.label.into_iter().collect();
    let good = json!({"image": "example.com/server:1.0.0"});
    let good = dry_run(&api, &labels, good).await;
    let good = good.context("a valid MCPServer was refused; is the operator ready?")?;
    ensure!(
        has_finalizer(&good),
        "a valid MCPServer was accepted without the finalizer {FINALIZER}: the mutating webhook was not asked; {SELECTORS}"
    );
    println!(
        "a valid MCPServer is accepted, with defaults: {}",
        good.data["spec"]["resources"]
    );

    let bad = json!({"image": "example.com/server:1.0.0", "config": {"SESSION_TIMEOUT": "soon"}});
    match dry_run(&api, &labels, bad).await {
        Err(kube::Error::Api(status)) if status.code == 422 && status.message.contains(REFUSAL) => {
            println!("a faulty one is refused: {}", status.message);
            Ok(())
        }
        Err(error) => Err(error).context("a faulty MCPServer was refused, but not for its fault"),
        Ok(_) => bail!(
            "a faulty MCPServer was accepted: the validating webhook was not asked; {SELECTORS}"
        ),
    }
}

async fn dry_run(
    api: &Api<DynamicObject>,
    labels: &BTreeMap<String, String>,
    spec: Value,
) -> kube::Result<DynamicObject> {
    let resource = MCPServer::api_resource();
    let mut object =
        DynamicObject::new("mcp-operator-check", &resource).data(json!({"spec": spec}));
    object.metadata.labels = Some(labels.clone());
    let params = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    api.create(&params, &object).await
}
