//! Keeps the CA, the leaf and the caBundles right: a reconcile loop that runs on every change and for every renewal.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Patch, PatchParams, PostParams};
use kube::core::DynamicObject;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use uuid::Uuid;

use crate::Clock;
use crate::authority::{self, Authority, Leaf};
use crate::decide::{Action, decide};
use crate::leaf::{self, Next};
use crate::registration::{Kind, Registered, missing, registered, trust};
use crate::secret;
use crate::serving::Serving;

/// The backoff between passes that changes cause, from the least to the most. It keeps us from racing, at the speed of
/// the API server, with somebody who keeps setting another caBundle.
const LEAST_REST: Duration = Duration::from_millis(50);
const MOST_REST: Duration = Duration::from_secs(1);
/// A failed pass is retried after this long.
const RETRY: Duration = Duration::from_secs(1);
/// The timeout of a pass. When the API server does not answer, the certificate must be renewed all the same.
const LIMIT: Duration = Duration::from_secs(10);
/// Without any event there is a pass this often, in case a watch went silent.
const IDLE: Duration = Duration::from_mins(1);
/// The most conflicts in one pass before it gives up.
const TRIES: usize = 10;
/// The most changes that one pass takes together.
const CHANGES: usize = 64;

/// The names of the objects and the lives of the certificates.
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
    /// DNS names and IP addresses by which the API server may call us.
    pub hosts: Vec<String>,
    /// Field manager, and value of the Secret's label.
    pub manager: String,
    /// Life of a CA.
    pub ca_life: Duration,
    /// Life of a leaf; at most a third of the CA's, so that a replaced CA outlives its leaves.
    pub leaf_life: Duration,
    /// How long a new CA must have been in both caBundles before a leaf of it is served; at most half of the
    /// leaf's life.
    pub settle: Duration,
}

/// Why a pass failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A request to the API server failed.
    #[error("{0} failed: {1}")]
    Api(String, #[source] kube::Error),
    /// The API server did not answer.
    #[error("the API server did not answer within {LIMIT:?}")]
    Silent,
    /// A certificate could not be made.
    #[error(transparent)]
    Authority(#[from] authority::Error),
    /// A certificate could not be served.
    #[error("the certificate cannot be served: {0}")]
    Tls(#[from] rustls::Error),
    /// The stored Secret must not be touched.
    #[error("Secret {0}: {1}")]
    Refused(String, String),
    /// Every write met a conflict.
    #[error("{0} is changed by others all the time")]
    Contended(String),
}

/// Keeps one replica's certificate.
pub struct Keeper {
    client: Client,
    settings: Settings,
    clock: Clock,
    serving: Arc<Serving>,
    served: Option<Signed>,
    /// The shared CA (PEM), and since when it has been seen in the live bundles of both configurations.
    trusted: Option<(String, SystemTime)>,
    /// Until when the API server may not know the CA of the first certificate.
    settles: Option<SystemTime>,
    /// Our webhooks as last seen.
    registered: Vec<Registered>,
    /// Why the API server cannot call us, as of the last pass.
    problem: Option<String>,
}

/// The leaf that is served and the CA that signed it.
struct Signed {
    leaf: Leaf,
    by: Authority,
}

/// What a pass found and left behind.
struct View {
    authority: Authority,
    /// Whether an older CA that is valid is trusted beside it.
    beside: bool,
    registered: Vec<Registered>,
    /// Why the API server cannot call us.
    problem: Option<String>,
    /// Whether the CA is in all bundles.
    trusted: bool,
    /// Whether it was before this pass.
    was_trusted: bool,
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
                served: None,
                trusted: None,
                settles: None,
                registered: Vec::new(),
                problem: Some("the webhook configurations have not been read yet".to_owned()),
            },
            serving,
        )
    }

    /// Runs until it is dropped. A failed pass is logged and retried.
    pub async fn run(mut self) {
        let mut changes = Box::pin(self.changes().ready_chunks(CHANGES));
        let mut failure = None;
        let mut rest = LEAST_REST;
        loop {
            let pause = match self.look().await {
                Ok(due) => {
                    failure = None;
                    due.min(IDLE)
                }
                Err(error) => {
                    let error = error.to_string();
                    if failure.as_ref() != Some(&error) {
                        tracing::warn!("certificates and caBundle cannot be looked after: {error}");
                    }
                    failure = Some(error);
                    RETRY
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => rest = LEAST_REST,
                _ = changes.next() => {
                    tokio::time::sleep(rest.min(pause)).await;
                    rest = (rest * 2).min(MOST_REST);
                }
            }
        }
    }

    /// An item whenever the Secret or a webhook configuration changed.
    fn changes(&self) -> impl Stream<Item = ()> + use<> {
        let named =
            |name: &str| watcher::Config::default().fields(&format!("metadata.name={name}"));
        let secrets = Api::<Secret>::namespaced(self.client.clone(), &self.settings.namespace);
        let secrets = watcher(secrets, named(&self.settings.secret)).default_backoff();
        let secrets = secrets.map(|change| log("the CA's Secret", change));
        let configurations = Kind::ALL.map(|kind| {
            let config = named(&self.settings.configuration);
            let watched = watcher(kind.api(self.client.clone()), config).default_backoff();
            watched
                .map(|change| log("the webhook configuration", change))
                .boxed()
        });
        futures::stream::select(secrets, futures::stream::select_all(configurations))
    }

    /// One pass: the CA, then the caBundles, then the leaf, so that no leaf is signed by a CA that is not trusted yet.
    /// Returns the time until the next pass is due.
    ///
    /// When a pass fails, the certificate stays in use and is renewed by the CA that signed it. The replica stays ready
    /// if the certificate verifies against the caBundles: those that were last seen when only the API server did not
    /// answer, and those of now when the Secret must not be touched.
    pub async fn look(&mut self) -> Result<Duration, Error> {
        let looked = match tokio::time::timeout(LIMIT, self.align()).await {
            Ok(Ok(view)) => self.after(view),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(Error::Silent),
        };
        if let Err(error) = &looked {
            self.serving.count_failure();
            let seen = match error {
                Error::Refused(..) => tokio::time::timeout(LIMIT, self.see_bundles()).await,
                _ => Ok(Ok(())),
            };
            let renewed = self.renew((self.clock)());
            let state = match error {
                Error::Api(..) | Error::Silent | Error::Contended(_) if self.problem.is_none() => {
                    self.state((self.clock)())
                }
                // Of what is served, the user has to know first what keeps it from being renewed.
                Error::Refused(..) if matches!(seen, Ok(Ok(()))) => {
                    let state = self.state((self.clock)());
                    state.map_err(|_| error.to_string())
                }
                _ => Err(error.to_string()),
            };
            self.serving.set_state(state);
            renewed?;
        }
        looked
    }

    /// Reads the caBundles alone: they tell whether what is served is trusted, whatever became of the CA's Secret.
    async fn see_bundles(&mut self) -> Result<(), Error> {
        let Settings {
            configuration: name,
            webhooks,
            ..
        } = &self.settings;
        let (mut seen, mut problem) = (Vec::new(), None);
        for kind in Kind::ALL {
            let found = self.configuration(kind).await?;
            problem = problem.or(missing(kind, name, found.as_ref(), webhooks));
            seen.extend(found.iter().flat_map(|found| registered(found, webhooks)));
        }
        (self.registered, self.problem) = (seen, problem);
        Ok(())
    }

    /// Serves the certificate that is right for this view.
    fn after(&mut self, view: View) -> Result<Duration, Error> {
        let now = (self.clock)();
        self.serving.set_authority(view.authority.validity.until);
        self.registered = view.registered;
        self.problem = view.problem;
        let issuer = &view.authority.certificate;
        self.trusted = match self.trusted.take() {
            _ if !view.trusted => None,
            Some((seen, since)) if view.was_trusted && seen == *issuer => Some((seen, since)),
            _ => Some((issuer.clone(), now)),
        };
        let due = loop {
            match self.next(Some(issuer), now) {
                Next::Keep(due) => break due,
                Next::Renew => self.renew(now)?,
                Next::Issue => {
                    if self.served.is_none() {
                        let created = view.authority.validity.issued();
                        let settle = self.settings.settle;
                        self.settles = leaf::settles(created, view.beside, settle, now);
                    }
                    self.issue(view.authority.clone(), now)?;
                    // A leaf that expires with its CA may be due at once, so this does not loop; the CA is replaced
                    // in its own time.
                    break self
                        .served
                        .as_ref()
                        .map_or(now, |signed| leaf::renewal(&self.facts(signed, None)));
                }
            }
        };
        self.serving.set_state(self.state(now));
        let due = due.min(view.authority.validity.renewal());
        let due = self
            .settles
            .filter(|settles| *settles > now)
            .map_or(due, |settles| due.min(settles));
        Ok(due.duration_since(now).unwrap_or_default())
    }

    fn next(&self, issuer: Option<&str>, now: SystemTime) -> Next {
        let served = self.served.as_ref();
        leaf::next(
            served.map(|signed| self.facts(signed, issuer)),
            self.trusted.as_ref().map(|(_, since)| *since),
            self.settings.settle,
            now,
        )
    }

    fn facts(&self, signed: &Signed, issuer: Option<&str>) -> leaf::Served {
        let by = &signed.by.certificate;
        leaf::Served {
            validity: signed.leaf.validity,
            signer_until: signed.by.validity.until,
            current: issuer == Some(by.as_str()),
            trusted: self
                .registered
                .iter()
                .all(|webhook| authority::holds(&webhook.ca_bundle, by)),
        }
    }

    /// Renews the served leaf with the CA that signed it, if renewal is due.
    fn renew(&mut self, now: SystemTime) -> Result<(), Error> {
        let due = self.served.as_ref().filter(|signed| {
            let due = leaf::renewal(&self.facts(signed, None));
            due <= now && now < signed.by.validity.until
        });
        match due.map(|signed| signed.by.clone()) {
            Some(authority) => self.issue(authority, now),
            None => Ok(()),
        }
    }

    fn issue(&mut self, by: Authority, now: SystemTime) -> Result<(), Error> {
        let leaf = by.issue(&self.settings.hosts, now, self.settings.leaf_life)?;
        self.serving.serve(&leaf)?;
        tracing::info!(
            hosts = self.settings.hosts.join(","),
            "serving a new certificate"
        );
        self.served = Some(Signed { leaf, by });
        Ok(())
    }

    /// Ready, or why not, as of the last pass. A replica that starts amid a change of the CA serves, for who calls it all
    /// the same, but is not ready before the others serve certificates of that CA.
    fn state(&self, now: SystemTime) -> Result<(), String> {
        match (&self.problem, self.settles) {
            (Some(problem), _) => Err(problem.clone()),
            (None, Some(settles)) if now < settles => Err(
                "the CA of the served certificate is new, and the API server may not know it yet"
                    .to_owned(),
            ),
            (None, _) => verify(&self.serving, &self.registered, now),
        }
    }

    /// Makes the stored CA and both caBundles agree.
    ///
    /// The configurations are read before the CA, and are written only if they have not changed since. So a stale
    /// replica never removes a newer CA from them.
    async fn align(&self) -> Result<View, Error> {
        let Settings {
            configuration: name,
            webhooks,
            manager,
            ..
        } = &self.settings;
        'read: for _ in 0..TRIES {
            let mut found = Vec::new();
            for kind in Kind::ALL {
                found.push((kind, self.configuration(kind).await?));
            }
            let (authority, bundle) = self.authority().await?;
            let holds = |registered: &[Registered]| {
                registered
                    .iter()
                    .all(|webhook| authority::holds(&webhook.ca_bundle, &authority.certificate))
            };
            let now = (self.clock)();
            let mut older = authority::split(&bundle).into_iter().skip(1);
            let is_valid =
                |pem: String| authority::validity(&pem).is_ok_and(|validity| validity.holds(now));
            let mut view = View {
                authority: authority.clone(),
                beside: older.any(is_valid),
                registered: Vec::new(),
                problem: None,
                trusted: true,
                was_trusted: true,
            };
            for (kind, found) in found {
                let problem = missing(kind, name, found.as_ref(), webhooks);
                view.problem = view.problem.or(problem);
                let Some(found) = found else { continue };
                view.was_trusted &= holds(&registered(&found, webhooks));
                match trust(&self.client, kind, &found, webhooks, &bundle, manager).await {
                    Ok(trusted) => view.registered.extend(trusted),
                    Err(error) if is(&error, 409) || is(&error, 404) => continue 'read,
                    Err(error) => {
                        let what =
                            format!("setting the caBundle of {} {name}", kind.resource().kind);
                        return Err(Error::Api(what, error));
                    }
                }
            }
            view.trusted = view.problem.is_none() && holds(&view.registered);
            view.was_trusted &= view.trusted;
            return Ok(view);
        }
        Err(Error::Contended(format!("webhook configuration {name}")))
    }

    async fn configuration(&self, kind: Kind) -> Result<Option<DynamicObject>, Error> {
        let name = &self.settings.configuration;
        let found = kind.api(self.client.clone()).get_opt(name).await;
        found.map_err(|error| Error::Api(format!("reading {} {name}", kind.resource().kind), error))
    }

    /// The certificates that stay trusted beside a new CA: `keep`, and the CA of the leaf that is served until the next
    /// leaf replaces it.
    fn with_signer(&self, now: SystemTime, keep: &[String]) -> Vec<String> {
        let signer = self
            .served
            .as_ref()
            .filter(|signed| signed.leaf.validity.holds(now))
            .map(|signed| signed.by.certificate.clone());
        let signer = signer.filter(|signer| !keep.contains(signer));
        keep.iter().cloned().chain(signer).collect()
    }

    /// The shared CA: created by the first replica, adopted by the others.
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
        for _ in 0..TRIES {
            let found = api.get_opt(name).await;
            let found = found.map_err(|error| Error::Api(format!("reading {what}"), error))?;
            let now = (self.clock)();
            let new = || Authority::new(&format!("{manager} webhook CA"), now, *ca_life);
            let written = match (decide(secret::read(found.as_ref(), manager), now), &found) {
                (Action::Use { authority, bundle }, _) => return Ok((authority, bundle)),
                (Action::Refuse { reason }, _) => {
                    return Err(Error::Refused(format!("{namespace}/{name}"), reason));
                }
                (Action::Drop { authority, keep }, Some(found)) => {
                    tracing::info!("taking an expired CA out of {what}");
                    let secret = secret::with(found, &authority, &keep);
                    api.replace(name, &PostParams::default(), &secret).await
                }
                (Action::Replace { reason, keep }, Some(found)) => {
                    let keep = self.with_signer(now, &keep);
                    let secret = secret::with(found, &new()?, &keep);
                    tracing::warn!("replacing the CA in {what}: {reason}");
                    api.replace(name, &PostParams::default(), &secret).await
                }
                (Action::Create | Action::Drop { .. } | Action::Replace { .. }, _) => {
                    let keep = self.with_signer(now, &[]);
                    let secret = secret::new(namespace, name, manager, &new()?, &keep);
                    tracing::info!("creating {what} with a new CA");
                    // By server-side apply, because RBAC cannot allow `create` for a single name. With a field manager
                    // of its own, so that of two replicas that create it at once, one gets a conflict.
                    let params = PatchParams::apply(&format!("{manager}-{}", Uuid::new_v4()));
                    api.patch(name, &params, &Patch::Apply(&secret)).await
                }
            };
            match written {
                // Read it again: what counts is what is stored.
                Ok(_) => {}
                Err(error) if is(&error, 409) || (is(&error, 404) && found.is_some()) => {
                    tracing::info!("another replica was first to write {what}");
                }
                Err(error) => return Err(Error::Api(format!("writing {what}"), error)),
            }
        }
        Err(Error::Contended(what))
    }
}

/// Whether what is served verifies for every webhook that is registered.
pub(crate) fn verify(
    serving: &Serving,
    registered: &[Registered],
    now: SystemTime,
) -> Result<(), String> {
    registered.iter().try_for_each(|webhook| {
        let verified = serving.verify(&webhook.host, &webhook.ca_bundle, now);
        verified.map_err(|error| format!("webhook {}: {error}", webhook.name))
    })
}

fn is(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}

/// Logs a failed watch: without it the keeper runs only once a minute.
fn log<T>(what: &str, change: Result<T, watcher::Error>) {
    if let Err(error) = change {
        tracing::warn!("watching {what}: {error}; trying again");
    }
}
