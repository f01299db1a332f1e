//! Leader election: only the replica that holds the Lease reconciles.
//!
//! This is our own code because the published crate is not safe. `kube-lease-manager` 0.13 renews and takes over
//! without a precondition on the version it has read, so two replicas may hold the Lease at once after a pause.
//! It also compares the clocks of different machines.

use std::pin::pin;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::future::BoxFuture;
use k8s_openapi::Resource;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use serde_json::json;
use tokio::time::{sleep, timeout};

use crate::connect::Connection;
use crate::fence::{Fence, Moment};

/// Which Lease is used, and how long it lasts.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The operator's namespace.
    pub namespace: String,
    /// The Lease's name.
    pub lease: String,
    /// Identifies this process; unique among the replicas.
    pub identity: String,
    /// How long a holder keeps the Lease without renewing it.
    pub duration: Duration,
}

impl Settings {
    /// A leader that has not renewed the Lease for this long stops leading. That is well before another replica
    /// may take over, so that requests in flight have ended by then.
    fn renew_limit(&self) -> Duration {
        self.duration * 2 / 3
    }

    /// The timeout of a request about the Lease.
    fn grace(&self) -> Duration {
        self.duration / 3
    }

    /// The time between two attempts to renew.
    fn pause(&self) -> Duration {
        self.duration / 5
    }
}

/// One replica that stands for election.
pub struct Candidate {
    connection: Connection,
    api: Api<Lease>,
    settings: Settings,
    on_change: Box<dyn Fn(bool) + Send + Sync>,
}

/// What a candidate does next, given the Lease it sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Take,
    Wait(Duration),
}

/// Decides the next step. `unchanged` is how long the Lease has not changed, measured by this replica's own clock;
/// the clocks of other replicas play no part.
fn step(lease: Option<&LeaseSpec>, settings: &Settings, unchanged: Duration) -> Step {
    let holder = lease
        .and_then(|lease| lease.holder_identity.as_deref())
        .unwrap_or_default();
    if holder.is_empty() || holder == settings.identity {
        return Step::Take;
    }
    let seconds = lease.and_then(|lease| lease.lease_duration_seconds);
    let duration = seconds
        .and_then(|seconds| u64::try_from(seconds).ok())
        .map_or(settings.duration, Duration::from_secs);
    match duration.saturating_sub(unchanged) {
        Duration::ZERO => Step::Take,
        left => Step::Wait(left),
    }
}

/// The Lease with this replica as its holder.
fn held(lease: Option<&Lease>, settings: &Settings, now: Timestamp) -> LeaseSpec {
    let old = lease
        .and_then(|lease| lease.spec.clone())
        .unwrap_or_default();
    let was_ours = old.holder_identity.as_deref() == Some(&settings.identity);
    let transitions = old.lease_transitions.unwrap_or(0);
    LeaseSpec {
        holder_identity: Some(settings.identity.clone()),
        lease_duration_seconds: Some(
            i32::try_from(settings.duration.as_secs()).unwrap_or(i32::MAX),
        ),
        acquire_time: old
            .acquire_time
            .clone()
            .filter(|_| was_ours)
            .or(Some(MicroTime(now))),
        renew_time: Some(MicroTime(now)),
        lease_transitions: Some(if was_ours || lease.is_none() {
            transitions
        } else {
            transitions.saturating_add(1)
        }),
        ..old
    }
}

impl Candidate {
    /// A candidate. `on_change` is called with true when it starts leading, and with false when it stops.
    pub fn new(
        connection: Connection,
        settings: Settings,
        on_change: impl Fn(bool) + Send + Sync + 'static,
    ) -> kube::Result<Self> {
        // The general client will not do: it retries on its own, for minutes.
        let client = connection.fenced(&Fence::none(), Some(settings.grace()))?;
        Ok(Self {
            api: Api::namespaced(client, &settings.namespace),
            connection,
            settings,
            on_change: Box::new(on_change),
        })
    }

    /// Runs `work` while this replica leads, and drops it when the lead is lost. The client that `work` gets sends
    /// nothing after that.
    ///
    /// When `work` returns a value, the Lease is released and this returns that value. When `work` returns nothing,
    /// the Lease is released and this replica stands again later. While it does not lead, `stop` ends it, and it
    /// returns nothing.
    pub async fn run<T>(
        self,
        mut work: impl FnMut(Client) -> BoxFuture<'static, Option<T>>,
        stop: impl Future<Output = ()>,
    ) -> Option<T> {
        let mut stop = pin!(stop);
        loop {
            let (mut lease, fence, client) = tokio::select! {
                taken = self.acquire() => taken,
                () = &mut stop => return None,
            };
            let (name, identity) = (&self.settings.lease, &self.settings.identity);
            tracing::info!(lease = name, identity, "leading");
            (self.on_change)(true);
            let done = tokio::select! {
                done = work(client.clone()) => Some(done),
                () = self.hold(&mut lease, &fence, client) => None,
            };
            fence.close();
            (self.on_change)(false);
            match done {
                Some(Some(done)) => {
                    self.release(lease).await;
                    return Some(done);
                }
                Some(None) => {
                    tracing::warn!(lease = name, identity, "giving up the lead");
                    self.release(lease).await;
                    // Leave another replica the time to take over.
                    tokio::select! {
                        () = sleep(self.settings.duration) => {}
                        () = &mut stop => return None,
                    }
                }
                None => tracing::warn!(lease = name, identity, "lost the lead"),
            }
        }
    }

    /// Waits until the Lease is free, and takes it. Returns it with the fence of this lead and the client behind it.
    async fn acquire(&self) -> (Lease, Fence, Client) {
        let mut changes =
            pin!(watcher::watch_object(self.api.clone(), &self.settings.lease).default_backoff());
        let mut seen: Option<Seen> = None;
        loop {
            let mut pause = self.settings.pause();
            match seen.as_ref().map(|seen| seen.step(&self.settings)) {
                Some(Step::Wait(left)) => pause = left,
                Some(Step::Take) => {
                    let lease = seen.as_ref().and_then(|seen| seen.lease.as_ref());
                    match timeout(self.settings.grace(), self.take(lease)).await {
                        Ok(Ok(taken)) => return taken,
                        // Another replica was faster; the watch will show which one. When we create the Lease,
                        // "not found" means that the namespace is missing, which is no conflict.
                        Ok(Err(error))
                            if is_conflict(&error) && (lease.is_some() || !is_missing(&error)) =>
                        {
                            tracing::debug!("{error}");
                        }
                        Ok(Err(error)) => self.warn("taking", &error),
                        // The request may have succeeded all the same. Then the watch shows the Lease as ours.
                        Err(late) => self.warn("taking", &late),
                    }
                }
                None => {}
            }
            tokio::select! {
                change = changes.next() => match change {
                    Some(Ok(lease)) => seen = Some(Seen::next(seen, lease)),
                    Some(Err(error)) => self.warn("watching", &error),
                    None => sleep(pause).await,
                },
                () = sleep(pause) => {}
            }
        }
    }

    /// Takes the Lease. Fails with a conflict when it has changed since it was read.
    async fn take(&self, lease: Option<&Lease>) -> kube::Result<(Lease, Fence, Client)> {
        // The client comes first: it reads the credentials, and a replica that cannot read them must not lead.
        let fence = Fence::none();
        let client = self
            .connection
            .fenced(&fence, Some(self.settings.grace()))?;
        let since = Moment::now();
        let taken = if let Some(lease) = lease {
            self.write(&self.api, lease).await?
        } else {
            self.create().await?
        };
        fence.renew(since, self.settings.renew_limit());
        Ok((taken, fence, client))
    }

    /// Creates the Lease. By server-side apply, because RBAC can allow that for a single name; it can allow `create`
    /// only for every name.
    async fn create(&self) -> kube::Result<Lease> {
        let wanted = json!({
            "apiVersion": Lease::API_VERSION,
            "kind": Lease::KIND,
            "metadata": {"name": self.settings.lease},
            "spec": held(None, &self.settings, Timestamp::now()),
        });
        // Without force, and with a field manager unique to this process: of two replicas, one gets a conflict.
        let params = PatchParams::apply(&self.settings.identity);
        let api = &self.api;
        api.patch(&self.settings.lease, &params, &Patch::Apply(wanted))
            .await
    }

    /// Renews the Lease until another replica holds it or it was not renewed in time.
    async fn hold(&self, lease: &mut Lease, fence: &Fence, client: Client) {
        let fenced = Api::namespaced(client, &self.settings.namespace);
        let mut pause = self.settings.pause();
        loop {
            sleep(pause).await;
            pause = self.settings.pause();
            let left = fence.left();
            if left.is_zero() {
                return;
            }
            let since = Moment::now();
            match timeout(left, self.write(&fenced, lease)).await {
                Ok(Ok(renewed)) => {
                    *lease = renewed;
                    fence.renew(since, self.settings.renew_limit());
                }
                Ok(Err(error)) if is_conflict(&error) => {
                    match timeout(left, self.api.get_opt(&self.settings.lease)).await {
                        // Somebody changed another field of it.
                        Ok(Ok(Some(found))) if self.is_ours(&found) => {
                            *lease = found;
                            pause = Duration::ZERO;
                        }
                        Ok(Ok(_)) | Err(_) => return,
                        Ok(Err(error)) => self.warn("reading", &error),
                    }
                }
                Ok(Err(_)) if fence.left().is_zero() => return,
                Ok(Err(error)) => self.warn("renewing", &error),
                Err(_) => return,
            }
        }
    }

    /// Releases the Lease, so that the next leader need not wait until it expires.
    async fn release(&self, mut lease: Lease) {
        let spec = lease.spec.get_or_insert_default();
        spec.holder_identity = Some(String::new());
        let released = timeout(self.settings.pause(), replace(&self.api, &lease)).await;
        match released {
            Ok(Ok(_)) => tracing::info!(lease = self.settings.lease, "the lease was given back"),
            // This happens during an uninstall, when the permission is removed first.
            Ok(Err(error)) => tracing::warn!(
                lease = self.settings.lease,
                "the lease was not given back; the next leader has to wait until it expires: {error}"
            ),
            Err(_) => tracing::warn!(
                lease = self.settings.lease,
                "the lease was not given back in time"
            ),
        }
    }

    /// Writes this replica into the Lease, unless the Lease has changed since it was read.
    async fn write(&self, api: &Api<Lease>, lease: &Lease) -> kube::Result<Lease> {
        let spec = Some(held(Some(lease), &self.settings, Timestamp::now()));
        replace(
            api,
            &Lease {
                metadata: lease.metadata.clone(),
                spec,
            },
        )
        .await
    }

    fn is_ours(&self, lease: &Lease) -> bool {
        let spec = lease.spec.as_ref();
        spec.and_then(|spec| spec.holder_identity.as_deref()) == Some(&self.settings.identity)
    }

    fn warn(&self, doing: &str, error: &dyn std::error::Error) {
        let Settings {
            namespace, lease, ..
        } = &self.settings;
        tracing::warn!("{doing} Lease {namespace}/{lease} failed: {error}; trying again");
    }
}

/// Sends the resource version along, so that a Lease which has changed since is left alone.
async fn replace(api: &Api<Lease>, lease: &Lease) -> kube::Result<Lease> {
    let name = lease.metadata.name.as_deref().unwrap_or_default();
    api.replace(name, &PostParams::default(), lease).await
}

/// Whether the Lease was changed or deleted since it was read.
fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if matches!(status.code, 404 | 409))
}

fn is_missing(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

/// The Lease as a follower sees it.
struct Seen {
    lease: Option<Lease>,
    /// Its last known spec. Kept when the Lease is deleted: the holder learns of that only when it next renews.
    spec: Option<LeaseSpec>,
    /// When it last changed. By the monotonic clock, which stands still while a machine sleeps: so a Lease is never
    /// taken too early.
    since: Instant,
}

impl Seen {
    fn next(before: Option<Self>, lease: Option<Lease>) -> Self {
        let same = |before: &Self| match (&before.lease, &lease) {
            (None, None) => true,
            (Some(before), Some(lease)) => before.spec == lease.spec,
            _ => false,
        };
        let since = before
            .as_ref()
            .filter(|before| same(before))
            .map_or_else(Instant::now, |before| before.since);
        let spec = match &lease {
            Some(lease) => lease.spec.clone(),
            None => before.and_then(|before| before.spec),
        };
        Self { lease, spec, since }
    }

    fn step(&self, settings: &Settings) -> Step {
        step(self.spec.as_ref(), settings, self.since.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn settings() -> Settings {
        Settings {
            namespace: "system".to_owned(),
            lease: "operator".to_owned(),
            identity: "me".to_owned(),
            duration: 15 * SECOND,
        }
    }

    fn lease(holder: &str, seconds: Option<i32>) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_duration_seconds: seconds,
            lease_transitions: Some(4),
            acquire_time: Some(MicroTime(Timestamp::UNIX_EPOCH)),
            ..LeaseSpec::default()
        }
    }

    #[test]
    fn the_lease_and_the_time_it_has_been_as_it_is_decide() {
        let (other, mine) = (lease("other", Some(20)), lease("me", Some(20)));
        let table = [
            ("there is none", None, 0, Step::Take),
            ("nobody's", Some(lease("", Some(20))), 0, Step::Take),
            (
                "without a holder",
                Some(LeaseSpec::default()),
                0,
                Step::Take,
            ),
            ("this replica's own", Some(mine), 0, Step::Take),
            (
                "another's, just renewed",
                Some(other.clone()),
                0,
                Step::Wait(20 * SECOND),
            ),
            (
                "another's, some time ago",
                Some(other.clone()),
                19,
                Step::Wait(SECOND),
            ),
            ("another's, over", Some(other), 20, Step::Take),
            (
                "another's, without a duration",
                Some(lease("other", None)),
                14,
                Step::Wait(SECOND),
            ),
            (
                "another's, with a senseless one",
                Some(lease("other", Some(-1))),
                15,
                Step::Take,
            ),
        ];
        for (what, lease, seconds, expected) in table {
            let step = step(lease.as_ref(), &settings(), seconds * SECOND);
            assert_eq!(step, expected, "{what}");
        }
    }

    #[test]
    fn renewing_keeps_since_when_and_taking_over_counts() {
        let now = Timestamp::UNIX_EPOCH + SECOND;
        let of = |spec: Option<LeaseSpec>| {
            let lease = spec.map(|spec| Lease {
                spec: Some(spec),
                ..Lease::default()
            });
            let held = held(lease.as_ref(), &settings(), now);
            assert_eq!(held.holder_identity.as_deref(), Some("me"));
            assert_eq!(held.renew_time, Some(MicroTime(now)));
            assert_eq!(held.lease_duration_seconds, Some(15));
            (held.acquire_time.map(|time| time.0), held.lease_transitions)
        };
        assert_eq!(of(None), (Some(now), Some(0)), "made");
        assert_eq!(
            of(Some(lease("me", None))),
            (Some(Timestamp::UNIX_EPOCH), Some(4)),
            "renewed"
        );
        assert_eq!(
            of(Some(lease("other", None))),
            (Some(now), Some(5)),
            "taken over"
        );
        assert_eq!(
            of(Some(lease("", None))),
            (Some(now), Some(5)),
            "given back before"
        );
    }

    #[test]
    fn a_leader_stops_before_another_may_take_over() {
        let settings = settings();
        assert!(settings.renew_limit() < settings.duration);
        assert!(
            settings.pause() * 2 < settings.renew_limit(),
            "there is more than one try"
        );
    }

    #[test]
    fn only_a_change_of_what_it_says_counts_as_a_change() {
        let of = |spec, version: &str| {
            let mut lease = Lease {
                spec: Some(spec),
                ..Lease::default()
            };
            lease.metadata.resource_version = Some(version.to_owned());
            Some(lease)
        };
        let past = Instant::now().checked_sub(SECOND).unwrap();
        let before = || {
            Some(Seen {
                lease: of(lease("other", None), "1"),
                spec: Some(lease("other", None)),
                since: past,
            })
        };
        let same = Seen::next(before(), of(lease("other", None), "2"));
        assert_eq!(same.since, past, "a label, say");
        assert_eq!(
            same.lease.unwrap().metadata.resource_version.as_deref(),
            Some("2")
        );
        let renewed = Seen::next(before(), of(lease("another", None), "2"));
        assert!(renewed.since > past, "another holder");
    }

    #[test]
    fn a_lease_that_is_deleted_is_left_to_its_holder_for_its_time() {
        let of = |holder: &str| {
            let spec = Some(lease(holder, Some(15)));
            Some(Lease {
                spec,
                ..Lease::default()
            })
        };
        let waits = |seen: &Seen| matches!(seen.step(&settings()), Step::Wait(_));
        let none = Seen::next(None, None);
        assert!(!waits(&none), "there was none when this replica came");
        let gone = Seen::next(Some(Seen::next(None, of("other"))), None);
        assert!(waits(&gone), "the other one does not know yet");
        let later = Seen {
            since: Instant::now().checked_sub(15 * SECOND).unwrap(),
            ..gone
        };
        assert!(!waits(&Seen::next(Some(later), None)), "its time is over");
        let given_back = Seen::next(Some(Seen::next(None, of(""))), None);
        assert!(!waits(&given_back), "it was nobody's");
        let gone = Seen::next(Some(Seen::next(None, of("other"))), None);
        let again = Seen::next(Some(gone), of(""));
        assert!(!waits(&again), "made again and given back");
    }
}
