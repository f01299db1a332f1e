//! Whole lives of certificates in a moment: the keeper is handed the time.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use anyhow::Result;
use certs::authority::Authority;
use certs::{Clock, Keeper, Serving, Settings};
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration,
};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, ResourceExt};
use serde_json::json;

use crate::setup::Space;

pub const HOUR: Duration = Duration::from_hours(1);
pub const DAY: Duration = Duration::from_hours(24);
const HOST: &str = "127.0.0.1";

pub type Time = Arc<Mutex<SystemTime>>;

/// A time to set, and the clock that shows it.
pub fn keeper_clock() -> (Time, Clock) {
    let time = Arc::new(Mutex::new(SystemTime::now()));
    let clock = time.clone();
    (time, Arc::new(move || *clock.lock().expect("the time")))
}

pub async fn client_of(kubeconfig: &Path) -> Result<Client> {
    let read = Kubeconfig::read_from(kubeconfig)?;
    let mut config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await?;
    config.proxy_url = None;
    Ok(Client::try_from(config)?)
}

/// A Secret and two webhook configurations of its own.
pub struct World {
    pub client: Client,
    pub settings: Settings,
    pub time: Time,
    clock: Clock,
    start: SystemTime,
}

impl World {
    /// Lives of 30 hours and of 10.
    pub fn settings(name: &str) -> Settings {
        Settings {
            namespace: String::new(),
            secret: name.to_owned(),
            configuration: name.to_owned(),
            webhooks: vec!["m.example.com".to_owned(), "v.example.com".to_owned()],
            hosts: vec![HOST.to_owned()],
            manager: "test".to_owned(),
            ca_life: 30 * HOUR,
            leaf_life: 10 * HOUR,
            settle: Duration::from_mins(1),
        }
    }

    pub async fn new(space: &Space) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "{}-{}",
            space.namespace,
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let client = space.client.clone();
        let configuration = |webhook: &str| {
            json!({"metadata": {"name": name}, "webhooks": [{
                "name": webhook, "admissionReviewVersions": ["v1"], "sideEffects": "None",
                "clientConfig": {"url": "https://127.0.0.1:1/"},
                "rules": [{"apiGroups": ["nothing.example.com"], "apiVersions": ["v1"],
                    "operations": ["CREATE"], "resources": ["nothings"]}],
            }]})
        };
        let post = PostParams::default();
        Api::<MutatingWebhookConfiguration>::all(client.clone())
            .create(
                &post,
                &serde_json::from_value(configuration("m.example.com"))?,
            )
            .await?;
        Api::<ValidatingWebhookConfiguration>::all(client.clone())
            .create(
                &post,
                &serde_json::from_value(configuration("v.example.com"))?,
            )
            .await?;
        let settings = Settings {
            namespace: space.namespace.clone(),
            ..Self::settings(&name)
        };
        let (time, clock) = keeper_clock();
        let start = *time.lock().expect("the time");
        Ok(Self {
            client,
            settings,
            time,
            clock,
            start,
        })
    }

    pub async fn end(self) -> Result<()> {
        let (name, delete) = (&self.settings.configuration, DeleteParams::default());
        Api::<MutatingWebhookConfiguration>::all(self.client.clone())
            .delete(name, &delete)
            .await?;
        Api::<ValidatingWebhookConfiguration>::all(self.client.clone())
            .delete(name, &delete)
            .await?;
        Ok(())
    }

    pub fn keeper(&self) -> (Keeper, Arc<Serving>) {
        self.keeper_by(self.client.clone())
    }

    pub fn keeper_by(&self, client: Client) -> (Keeper, Arc<Serving>) {
        Keeper::new(client, self.settings.clone(), self.clock.clone())
    }

    pub fn set(&self, after: Duration) {
        *self.time.lock().expect("the time") = self.start + after;
    }

    pub fn now(&self) -> SystemTime {
        (self.clock)()
    }

    /// Both caBundles.
    pub async fn bundles(&self) -> Result<[Vec<u8>; 2]> {
        let name = &self.settings.configuration;
        let mutating = Api::<MutatingWebhookConfiguration>::all(self.client.clone())
            .get(name)
            .await?;
        let validating = Api::<ValidatingWebhookConfiguration>::all(self.client.clone())
            .get(name)
            .await?;
        let mutating = mutating.webhooks.unwrap_or_default().remove(0);
        let validating = validating.webhooks.unwrap_or_default().remove(0);
        Ok([
            mutating.client_config.ca_bundle.unwrap_or_default().0,
            validating.client_config.ca_bundle.unwrap_or_default().0,
        ])
    }

    /// What is stored (`ca.crt`), and its version.
    pub async fn stored(&self) -> Result<(Vec<u8>, Option<String>)> {
        let secrets = Api::<Secret>::namespaced(self.client.clone(), &self.settings.namespace);
        let secret = secrets.get(&self.settings.secret).await?;
        let version = secret.resource_version();
        let certificates = secret.data.unwrap_or_default().remove("ca.crt");
        Ok((certificates.unwrap_or_default().0, version))
    }

    /// What is served verifies now against both bundles.
    pub fn assert_verifies(&self, what: &str, serving: &Serving, bundles: &[Vec<u8>]) {
        for bundle in bundles {
            let verified = serving.verify(HOST, bundle, self.now());
            assert_eq!(
                verified,
                Ok(()),
                "{what}: {}",
                String::from_utf8_lossy(bundle)
            );
        }
    }
}

pub fn certificates(bundle: &[u8]) -> Vec<String> {
    certs::authority::split(&String::from_utf8_lossy(bundle))
}

/// A client that is cut off at its `at`-th write (from 1 on): before it is sent, or after, when the answer
/// is lost. Nothing goes through from then on.
pub fn mortal(client: Client, at: u32, sent: bool) -> Client {
    let writes = Arc::new(AtomicU32::new(0));
    let service = tower::service_fn(move |request: http::Request<Body>| {
        let (client, writes) = (client.clone(), writes.clone());
        async move {
            let is_write = request.method() != "GET";
            let count = if is_write {
                writes.fetch_add(1, Ordering::SeqCst) + 1
            } else {
                writes.load(Ordering::SeqCst)
            };
            if is_write && count == at && sent {
                client.send(request).await?;
                return Err(kube::Error::Service("killed before the answer came".into()));
            }
            if count >= at {
                return Err(kube::Error::Service("killed".into()));
            }
            client.send(request).await
        }
    });
    Client::new(service, "default")
}

/// From one due time to the next, through two CA lives. An API server may lag behind by all but a second of
/// the time to settle.
#[tokio::test]
async fn whoever_looks_when_it_is_due_always_serves_what_laggards_trust() -> Result<()> {
    let space = Space::new("life").await;
    let world = World::new(&space).await?;
    let (mut keeper, serving) = world.keeper();
    assert!(
        serving.ready().is_err(),
        "not before there is a certificate"
    );
    let lag = world.settings.settle.saturating_sub(Duration::from_secs(1));
    let mut history: Vec<(Duration, Vec<Vec<u8>>)> = Vec::new();
    let (mut authorities, mut leaves, mut most) = (BTreeSet::new(), BTreeSet::new(), 0);
    let mut after = Duration::ZERO;
    while after < 65 * HOUR {
        world.set(after);
        let due = keeper.look().await?;
        let what = format!("after {after:?}");
        assert_eq!(serving.ready(), Ok(()), "{what}");
        let bundles = world.bundles().await?;
        assert_eq!(bundles[0], bundles[1], "{what}");
        assert_eq!(bundles[0], world.stored().await?.0, "{what}");
        world.assert_verifies(&what, &serving, &bundles);
        let old = history.iter().rev().find(|(at, _)| *at + lag <= after);
        if let Some((_, old)) = old {
            world.assert_verifies(&format!("{what}, by an old bundle"), &serving, old);
        }
        let left = |until: Option<SystemTime>| {
            until
                .and_then(|until| until.duration_since(world.now()).ok())
                .unwrap_or_default()
        };
        assert!(left(serving.not_after()) > 3 * HOUR, "{what}");
        assert!(left(serving.authority_not_after()) > 9 * HOUR, "{what}");
        let trusted = certificates(&bundles[0]);
        most = most.max(trusted.len());
        authorities.extend(trusted);
        leaves.insert(serving.not_after());
        history.push((after, bundles.into()));
        assert!(due > Duration::ZERO, "{what}: due at once, again and again");
        after += due;
    }
    // 30 hours each, replaced after 20; leaves of 10 hours, renewed after 6 hours and 40 minutes.
    assert_eq!(authorities.len(), 4);
    assert_eq!(most, 2);
    assert!((10..=14).contains(&leaves.len()), "{}", leaves.len());
    assert!(history.len() < 40, "{} looks", history.len());

    // A look that finds everything as it should be writes nothing.
    let before = (world.stored().await?, world.bundles().await?);
    keeper.look().await?;
    assert_eq!((world.stored().await?, world.bundles().await?), before);
    world.end().await
}

/// Expired while nobody looked: nothing to wait for.
#[tokio::test]
async fn after_a_long_sleep_a_new_certificate_is_served_at_once() -> Result<()> {
    let space = Space::new("sleep").await;
    let world = World::new(&space).await?;
    let (mut keeper, serving) = world.keeper();
    keeper.look().await?;
    for (after, expected) in [(25 * HOUR, 2), (20 * DAY, 1)] {
        world.set(after);
        keeper.look().await?;
        assert_eq!(serving.ready(), Ok(()), "after {after:?}");
        let bundles = world.bundles().await?;
        assert_eq!(certificates(&bundles[0]).len(), expected, "after {after:?}");
        world.assert_verifies("by both", &serving, &bundles);
        let newest = certificates(&bundles[0]).remove(0);
        world.assert_verifies("by the new one alone", &serving, &[newest.into_bytes()]);
    }
    assert!(
        serving
            .verify("example.com", &world.bundles().await?[0], world.now())
            .is_err(),
        "it is for its own names"
    );
    world.end().await
}

#[tokio::test]
async fn a_replica_that_starts_amid_a_change_of_the_ca_waits_like_the_others() -> Result<()> {
    let space = Space::new("amid").await;
    let world = World::new(&space).await?;
    let (mut first, serving) = world.keeper();
    first.look().await?;
    assert_eq!(serving.ready(), Ok(()), "there was no CA before this one");
    let (change, second) = (20 * HOUR + HOUR / 60, Duration::from_secs(1));
    world.set(change);
    first.look().await?;
    world.set(change + second);
    let (mut starts, served) = world.keeper();
    let due = starts.look().await?;
    let reason = served.ready().expect_err("laggards know the old CA only");
    assert!(reason.contains("is new"), "{reason}");
    world.assert_verifies(
        "to who calls it all the same",
        &served,
        &world.bundles().await?,
    );
    assert_eq!(
        serving.ready(),
        Ok(()),
        "the other one serves what they know"
    );
    // Times in a certificate are whole seconds.
    let settle = world.settings.settle;
    assert!(
        (settle..=settle + 2 * second).contains(&(due + 2 * second)),
        "it looks again in {due:?}"
    );
    world.set(change + second + due);
    starts.look().await?;
    assert_eq!(served.ready(), Ok(()));
    world.set(change + HOUR);
    let (mut later, served) = world.keeper();
    later.look().await?;
    assert_eq!(served.ready(), Ok(()), "the change has settled");
    world.end().await
}

#[tokio::test]
async fn a_secret_that_lost_its_label_takes_no_replica_out() -> Result<()> {
    let space = Space::new("unlabelled").await;
    let world = World::new(&space).await?;
    let (mut keeper, serving) = world.keeper();
    keeper.look().await?;
    assert_eq!((serving.ready(), serving.failures()), (Ok(()), 0));
    let secrets = Api::<Secret>::namespaced(world.client.clone(), &space.namespace);
    let name = &world.settings.secret;
    let unlabelled = Patch::Merge(json!({"metadata": {"labels": null}}));
    secrets
        .patch(name, &PatchParams::default(), &unlabelled)
        .await?;
    let refused = keeper.look().await.expect_err("it is nobody's");
    assert!(
        refused.to_string().contains("not made by this operator"),
        "{refused}"
    );
    assert_eq!(serving.ready(), Ok(()), "what is served verifies");
    assert_eq!(serving.failures(), 1);
    // It is renewed by the CA in memory.
    let before = serving.not_after();
    world.set(9 * HOUR);
    assert!(keeper.look().await.is_err());
    assert_eq!(serving.ready(), Ok(()));
    assert!(serving.not_after() > before);
    let bundles = world.bundles().await?;
    world.assert_verifies("renewed", &serving, &bundles);

    // A bundle of somebody else's is seen all the same.
    let foreign = Authority::new("foreign", world.now(), HOUR)?.certificate;
    let patch = json!([{"op": "replace", "path": "/webhooks/0/clientConfig/caBundle",
        "value": k8s_openapi::ByteString(foreign.into_bytes())}]);
    let patch: json_patch::Patch = serde_json::from_value(patch)?;
    Api::<ValidatingWebhookConfiguration>::all(world.client.clone())
        .patch(
            &world.settings.configuration,
            &PatchParams::default(),
            &Patch::Json::<()>(patch),
        )
        .await?;
    assert!(keeper.look().await.is_err());
    let reason = serving.ready().expect_err("it is not trusted");
    assert!(reason.contains("not made by this operator"), "{reason}");
    // A replica that starts has nothing to serve.
    let (mut late, serving) = world.keeper();
    assert!(late.look().await.is_err());
    assert!(serving.ready().is_err());
    world.end().await
}

#[tokio::test]
async fn while_the_api_server_is_away_certificates_are_renewed_all_the_same() -> Result<()> {
    let space = Space::new("away").await;
    let world = World::new(&space).await?;
    world.keeper().0.look().await?;
    // The first look of this one writes nothing; the rotation's first write ends it.
    let (mut keeper, serving) = world.keeper_by(mortal(world.client.clone(), 1, false));
    keeper.look().await?;
    let bundles = world.bundles().await?;
    let mut leaves = BTreeSet::new();
    for hours in 15..30 {
        world.set(hours * HOUR);
        let looked = keeper.look().await;
        assert_eq!(looked.is_err(), hours >= 20, "after {hours} h: {looked:?}");
        assert_eq!(serving.ready(), Ok(()), "after {hours} h");
        world.assert_verifies(&format!("after {hours} h"), &serving, &bundles);
        leaves.insert(serving.not_after());
    }
    assert!(leaves.len() >= 2, "{leaves:?}");
    world.set(30 * HOUR + Duration::from_secs(1));
    assert!(keeper.look().await.is_err());
    assert!(serving.ready().is_err(), "nothing is left to renew it by");
    world.end().await
}
