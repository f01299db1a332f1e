//! Keeps CA, leaf and caBundle right: looks when something changed or comes due, acts, looks again.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::Secret;
use kube::api::PostParams;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};

use crate::authority::{self, Authority, Leaf};
use crate::decide::{Action, decide};
use crate::registration::{Kind, trust};
use crate::secret;
use crate::serving::Serving;

/// A failed look is repeated after this long.
const RETRY: Duration = Duration::from_secs(2);
/// Without any event there is a look this often, in case a watch went silent.
const IDLE: Duration = Duration::from_mins(1);

/// Where things are and how long they live.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The operator's namespace.
    pub namespace: String,
    /// The Secret of the CA.
    pub secret: String,
    /// Name of both webhook configurations.
    pub configuration: String,
    /// Names of our webhooks in them.
    pub webhooks: Vec<String>,
    /// DNS names and IP addresses by which the API server may call.
    pub hosts: Vec<String>,
    /// Field manager, and value of the Secret's label.
    pub manager: String,
    /// Life of a CA.
    pub ca_life: Duration,
    /// Life of a leaf.
    pub leaf_life: Duration,
}

/// Why a look failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A request to the API server failed.
    #[error("{0} failed: {1}")]
    Api(String, #[source] kube::Error),
    /// A certificate could not be made.
    #[error(transparent)]
    Authority(#[from] authority::Error),
    /// A certificate could not be served.
    #[error("the certificate cannot be served: {0}")]
    Tls(#[from] rustls::Error),
    /// What is stored must not be touched.
    #[error("Secret {0}: {1}")]
    Refused(String, String),
}

/// The time, for tests to set.
pub type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// Keeps one replica's certificate.
pub struct Keeper {
    client: Client,
    settings: Settings,
    clock: Clock,
    serving: Arc<Serving>,
    leaf: Option<Leaf>,
}

impl Keeper {
    /// A keeper and what it serves.
    pub fn new(client: Client, settings: Settings, clock: Clock) -> (Self, Arc<Serving>) {
        let serving = Arc::new(Serving::default());
        (
            Self {
                client,
                settings,
                clock,
                serving: serving.clone(),
                leaf: None,
            },
            serving,
        )
    }

    /// Works until it is dropped. An error is logged, makes the replica not ready, and is tried again.
    pub async fn run(mut self) {
        let mut changes = Box::pin(self.changes());
        loop {
            let pause = match self.look().await {
                Ok(due) => due.min(IDLE),
                Err(error) => {
                    self.serving.set_state(Err(error.to_string()));
                    RETRY
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = changes.next() => {}
            }
        }
    }

    /// An item whenever the Secret or a webhook configuration changed.
    fn changes(&self) -> impl Stream<Item = ()> + use<> {
        let named =
            |name: &str| watcher::Config::default().fields(&format!("metadata.name={name}"));
        let secrets = Api::<Secret>::namespaced(self.client.clone(), &self.settings.namespace);
        let secrets = watcher(secrets, named(&self.settings.secret))
            .default_backoff()
            .map(|_| ());
        let configurations = Kind::ALL.map(|kind| {
            let config = named(&self.settings.configuration);
            watcher(kind.api(self.client.clone()), config)
                .default_backoff()
                .map(|_| ())
                .boxed()
        });
        futures::stream::select(secrets, futures::stream::select_all(configurations))
    }

    /// One look: the CA, the caBundles, the leaf, in this order: nothing is signed by a CA that is not
    /// trusted yet. Returns when the next one is due.
    pub async fn look(&mut self) -> Result<Duration, Error> {
        let (authority, bundle) = self.authority().await?;
        let mut problem = None;
        let mut registered = Vec::new();
        for kind in Kind::ALL {
            let name = &self.settings.configuration;
            let what = format!("{} {name}", kind.resource().kind);
            let Settings {
                webhooks, manager, ..
            } = &self.settings;
            let api = kind.api(self.client.clone());
            let found = api
                .get_opt(name)
                .await
                .map_err(|error| Error::Api(format!("reading {what}"), error))?;
            let Some(found) = found else {
                problem.get_or_insert(format!(
                    "{what} does not exist; apply what `mcp-operator webhooks` prints"
                ));
                continue;
            };
            let trusted = trust(&self.client, kind, &found, webhooks, &bundle, manager).await;
            let trusted = trusted
                .map_err(|error| Error::Api(format!("setting the caBundle of {what}"), error))?;
            if trusted.is_empty() {
                problem.get_or_insert(format!(
                    "{what} has none of the webhooks {}",
                    webhooks.join(", ")
                ));
            }
            registered.extend(trusted);
        }
        let now = (self.clock)();
        let renewed = self
            .leaf
            .as_ref()
            .filter(|leaf| leaf.issuer == authority.certificate && now < renewal(leaf));
        if renewed.is_none() {
            let leaf = authority.issue(&self.settings.hosts, now, self.settings.leaf_life)?;
            self.serving.serve(&leaf)?;
            tracing::info!(
                hosts = self.settings.hosts.join(","),
                "serving a new certificate"
            );
            self.leaf = Some(leaf);
        }
        let state = registered.iter().try_for_each(|webhook| {
            let verified = self.serving.verify(&webhook.host, &webhook.ca_bundle, now);
            verified.map_err(|error| format!("webhook {}: {error}", webhook.name))
        });
        self.serving.set_state(problem.map_or(state, Err));
        let due = self
            .leaf
            .as_ref()
            .and_then(|leaf| renewal(leaf).duration_since(now).ok());
        Ok(due.unwrap_or_default())
    }

    /// What stays trusted beside a new CA: `keep`, and the CA of the certificate that is served until the next
    /// one has taken its place.
    fn served_issuer(&self, now: SystemTime, keep: &[String]) -> Vec<String> {
        let served = self
            .leaf
            .as_ref()
            .filter(|leaf| now < leaf.validity.until)
            .map(|leaf| leaf.issuer.clone());
        let served = served.filter(|issuer| !keep.contains(issuer));
        keep.iter().cloned().chain(served).collect()
    }

    /// The shared CA: made by the first replica that looks, adopted by the others.
    async fn authority(&self) -> Result<(Authority, String), Error> {
        let Settings {
            namespace,
            secret: name,
            manager,
            ca_life,
            ..
        } = &self.settings;
        let what = format!("Secret {namespace}/{name}");
        let api = Api::<Secret>::namespaced(self.client.clone(), namespace);
        loop {
            let failed = |doing: &str| {
                let doing = format!("{doing} {what}");
                |error| Error::Api(doing, error)
            };
            let found = api.get_opt(name).await.map_err(failed("reading"))?;
            let now = (self.clock)();
            let written = match decide(secret::read(found.as_ref(), manager), now) {
                Action::Use { authority, bundle } => return Ok((authority, bundle)),
                Action::Refuse { reason } => {
                    return Err(Error::Refused(format!("{namespace}/{name}"), reason));
                }
                Action::Create => {
                    let authority =
                        Authority::new(&format!("{manager} webhook CA"), now, *ca_life)?;
                    let secret = secret::write(
                        namespace,
                        name,
                        manager,
                        &authority,
                        &self.served_issuer(now, &[]),
                        None,
                    );
                    tracing::info!("creating {what} with a new CA");
                    api.create(&PostParams::default(), &secret).await
                }
                Action::Replace { reason, keep } => {
                    let authority =
                        Authority::new(&format!("{manager} webhook CA"), now, *ca_life)?;
                    let keep = self.served_issuer(now, &keep);
                    let secret =
                        secret::write(namespace, name, manager, &authority, &keep, found.as_ref());
                    tracing::warn!("replacing the CA in {what}: {reason}");
                    api.replace(name, &PostParams::default(), &secret).await
                }
            };
            match written {
                // Read again: what counts is what is stored.
                Ok(_) => {}
                Err(kube::Error::Api(status)) if status.code == 409 || status.code == 404 => {
                    tracing::info!("another replica was first to write {what}");
                }
                Err(error) => return Err(Error::Api(format!("writing {what}"), error)),
            }
        }
    }
}

/// A leaf is renewed when two thirds of its life have passed.
fn renewal(leaf: &Leaf) -> SystemTime {
    leaf.validity.after(2, 3)
}
