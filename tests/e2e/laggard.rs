//! A look at what is served, with the eyes of an API server that is up to date and of one that is not.

use std::time::{Duration, Instant};

use anyhow::Result;
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration,
};
use kube::{Api, Client};

use crate::wire;

/// An API server's knowledge of the caBundle may be as old as this; less than the time to settle.
const LAG: Duration = Duration::from_secs(2);

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

/// The caBundles of the last seconds.
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
    /// those of a while ago.
    pub async fn look(&mut self, port: u16, host: &str, now: Vec<Vec<u8>>) -> Result<Look> {
        let authorities = now
            .iter()
            .flat_map(|bundle| certs::authority::split(&String::from_utf8_lossy(bundle)));
        let mut look = Look {
            served: None,
            trusted: authorities.collect(),
            failures: Vec::new(),
        };
        self.0.push((Instant::now(), now.clone()));
        match tokio::task::spawn_blocking(move || wire::served(port)).await? {
            Err(error) => look
                .failures
                .push(format!("a handshake with port {port}: {error:#}")),
            Ok(leaf) => {
                let old = self.0.iter().rev().find(|(at, _)| at.elapsed() >= LAG);
                let old = old.map(|(_, old)| old.clone()).unwrap_or_default();
                let chain = [leaf];
                for (when, bundles) in [("now", &now), ("before", &old)] {
                    for bundle in bundles {
                        if let Err(error) = wire::verify(bundle, &chain, host) {
                            let what = format!("port {port} by the bundle of {when}: {error:#}");
                            look.failures.push(what);
                        }
                    }
                }
                look.served = Some(chain[0].to_vec());
            }
        }
        self.0.retain(|(at, _)| at.elapsed() < 3 * LAG);
        Ok(look)
    }
}
