//! A look at what is served, with the eyes of an API server that is up to date and of one that is not.

use std::time::{Duration, Instant};

use anyhow::Result;
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration,
};
use kube::{Api, Client};
use rustls::pki_types::UnixTime;

use crate::wire;

/// An API server's knowledge of the caBundle may be almost as old as this, which is less than the time to settle
/// of those who are looked at. What is older when the handshake is over is nothing to judge by.
const LAG: Duration = Duration::from_millis(2500);

/// What the API server trusts, by webhook.
pub async fn bundles(client: &Client, name: &str) -> Result<Vec<Vec<u8>>> {
    let mutating = Api::<MutatingWebhookConfiguration>::all(client.clone());
    let mutating = mutating.get(name).await?.webhooks.unwrap_or_default();
    let mutating = mutating.into_iter().map(|webhook| webhook.client_config);
    let validating = Api::<ValidatingWebhookConfiguration>::all(client.clone());
    let validating = validating.get(name).await?.webhooks.unwrap_or_default();
    let validating = validating.into_iter().map(|webhook| webhook.client_config);
    Ok(mutating
        .chain(validating)
        .map(|config| config.ca_bundle.unwrap_or_default().0)
        .collect())
}

/// The caBundles of the last seconds, each with when it was asked for.
#[derive(Default)]
pub struct Laggard(Vec<(Instant, Vec<Vec<u8>>)>);

/// What one look saw.
pub struct Look {
    /// The certificate, DER; none when the handshake failed.
    pub served: Option<Vec<u8>>,
    /// What the caBundles trust, PEM.
    pub trusted: Vec<String>,
    /// What went wrong.
    pub failures: Vec<String>,
}

impl Laggard {
    /// Connects anew to this port, and verifies what is served there for `host`: by the bundles of now, and by
    /// those of a while ago. `name` is that of the webhook configurations.
    pub async fn look(
        &mut self,
        client: &Client,
        name: &str,
        port: u16,
        host: &str,
    ) -> Result<Look> {
        let asked = Instant::now();
        let now = bundles(client, name).await?;
        let authorities = now
            .iter()
            .flat_map(|bundle| certs::authority::split(&String::from_utf8_lossy(bundle)));
        let mut look = Look {
            served: None,
            trusted: authorities.collect(),
            failures: Vec::new(),
        };
        self.0.push((asked, now));
        let at = UnixTime::now();
        match tokio::task::spawn_blocking(move || wire::served(port)).await? {
            Err(error) => look
                .failures
                .push(format!("a handshake with port {port}: {error:#}")),
            Ok(leaf) => {
                self.0.retain(|(asked, _)| asked.elapsed() < LAG);
                let chain = [leaf];
                let oldest_and_newest = [self.0.first(), self.0.last()];
                for (asked, bundles) in oldest_and_newest.into_iter().flatten() {
                    for bundle in bundles {
                        if let Err(error) = wire::verify(bundle, &chain, host, at) {
                            let age = asked.elapsed();
                            let what = format!("port {port} by a bundle of {age:?} ago: {error:#}");
                            look.failures.push(what);
                        }
                    }
                }
                look.served = Some(chain[0].to_vec());
            }
        }
        Ok(look)
    }
}
