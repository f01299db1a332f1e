//! The webhook configurations: their `caBundle`, and the name by which the API server calls.

use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration,
};
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

/// A kind of webhook configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `MutatingWebhookConfiguration`.
    Mutating,
    /// `ValidatingWebhookConfiguration`.
    Validating,
}

impl Kind {
    /// Both, in the order the API server calls them.
    pub const ALL: [Self; 2] = [Self::Mutating, Self::Validating];

    pub(crate) fn resource(self) -> ApiResource {
        match self {
            Self::Mutating => ApiResource::erase::<MutatingWebhookConfiguration>(&()),
            Self::Validating => ApiResource::erase::<ValidatingWebhookConfiguration>(&()),
        }
    }

    pub(crate) fn api(self, client: Client) -> Api<DynamicObject> {
        Api::all_with(client, &self.resource())
    }
}

/// One of our webhooks as it is registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registered {
    /// Its name.
    pub name: String,
    /// The host that the API server calls.
    pub host: String,
    /// What the API server trusts (PEM).
    pub ca_bundle: Vec<u8>,
}

/// Our webhooks of a configuration.
pub fn registered(configuration: &DynamicObject, ours: &[String]) -> Vec<Registered> {
    let webhooks = configuration.data["webhooks"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let named = webhooks
        .iter()
        .filter_map(|webhook| Some((webhook["name"].as_str()?, &webhook["clientConfig"])));
    named
        .filter(|(name, _)| ours.iter().any(|ours| ours == name))
        .map(|(name, client)| Registered {
            name: name.to_owned(),
            host: host(client),
            ca_bundle: serde_json::from_value::<ByteString>(client["caBundle"].clone())
                .map(|b| b.0)
                .unwrap_or_default(),
        })
        .collect()
}

fn host(client: &Value) -> String {
    if let Some(url) = client["url"].as_str() {
        let rest = url.strip_prefix("https://").unwrap_or(url);
        let authority = rest.split('/').next().unwrap_or_default();
        let host = match authority.rsplit_once(':') {
            // Not within the brackets of an IPv6 address.
            Some((host, port)) if !port.contains(']') => host,
            _ => authority,
        };
        return host.trim_matches(['[', ']']).to_owned();
    }
    let service = &client["service"];
    let text = |key: &str| service[key].as_str().unwrap_or_default();
    format!("{}.{}.svc", text("name"), text("namespace"))
}

/// Sets the `caBundle` of our webhooks by server-side apply, and returns what is registered then. Writes nothing when
/// nothing differs.
///
/// Fails with a conflict when the configuration was changed or deleted since it was read. Whoever changed it may know a
/// newer CA; that is not undone, and no configuration is created.
pub(crate) async fn trust(
    client: &Client,
    kind: Kind,
    configuration: &DynamicObject,
    ours: &[String],
    bundle: &str,
    manager: &str,
) -> kube::Result<Vec<Registered>> {
    let found = registered(configuration, ours);
    if found
        .iter()
        .all(|webhook| webhook.ca_bundle == bundle.as_bytes())
    {
        return Ok(found);
    }
    let resource = kind.resource();
    let bundle = ByteString(bundle.as_bytes().to_vec());
    let webhooks: Vec<_> = found
        .iter()
        .map(|webhook| json!({"name": webhook.name, "clientConfig": {"caBundle": bundle}}))
        .collect();
    let patch = json!({
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "metadata": {
            "name": configuration.name_any(),
            "uid": configuration.uid(),
            "resourceVersion": configuration.resource_version(),
        },
        "webhooks": webhooks,
    });
    let params = PatchParams::apply(manager).force();
    let patched = kind
        .api(client.clone())
        .patch(&configuration.name_any(), &params, &Patch::Apply(&patch))
        .await?;
    tracing::info!(
        configuration = configuration.name_any(),
        kind = resource.kind,
        "caBundle set"
    );
    Ok(registered(&patched, ours))
}

/// Why the API server cannot call us by this configuration, if it cannot.
pub(crate) fn missing(
    kind: Kind,
    name: &str,
    configuration: Option<&DynamicObject>,
    ours: &[String],
) -> Option<String> {
    let what = format!("{} {name}", kind.resource().kind);
    match configuration {
        None => Some(format!(
            "{what} does not exist; apply what `mcp-operator webhooks` prints"
        )),
        Some(configuration) if registered(configuration, ours).is_empty() => Some(format!(
            "{what} has none of the webhooks {}",
            ours.join(", ")
        )),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_is_what_the_api_server_calls() {
        let table = [
            (
                json!({"url": "https://127.0.0.1:9443/validate"}),
                "127.0.0.1",
            ),
            (
                json!({"url": "https://example.com/validate"}),
                "example.com",
            ),
            (json!({"url": "https://[::1]:9443/x"}), "::1"),
            (
                json!({"service": {"name": "a", "namespace": "b"}}),
                "a.b.svc",
            ),
        ];
        for (client, expected) in table {
            assert_eq!(host(&client), expected, "{client}");
        }
    }
}
