//! Watching one kind: each object is read by itself, and who sees nothing says so.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::NamespaceResourceScope;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{Config, DefaultBackoff, Error, Event, watcher};
use kube::{Client, Resource};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::item::Item;
use super::{Scope, failpoint};
use crate::limit::TooLarge;
use crate::metrics::Metrics;

/// Objects of one page of a list. A page is held in memory as a whole, twice, before its objects are read. Where it is
/// too large for that, pages get smaller.
const PAGE: u32 = 100;
/// By so much.
const SMALLER: u32 = 5;
/// A kind that could not be seen for this long is not waited for any more.
const PATIENCE: Duration = Duration::from_mins(5);
/// Errors of a watch that lie further apart than this are not one failure.
const APART: Duration = Duration::from_mins(2);
/// A watch that breaks after this time has worked: what is between may end connections on which nothing is sent.
const WORKED: Duration = Duration::from_secs(20);

/// A kind that cannot be seen.
#[derive(Debug, thiserror::Error)]
#[error("{kind} could not be watched for {} s, last because: {cause}", patience.as_secs())]
pub struct Blind {
    kind: String,
    patience: Duration,
    cause: String,
}

/// What there is to tell of a kind.
pub enum Seen<'a, K> {
    /// The list begins.
    ListBegins,
    /// An object of the list.
    Listed(&'a Item<K>),
    /// The list is over.
    ListEnds,
    /// An object that is there.
    Shown(&'a Item<K>),
    /// An object that has gone.
    Deleted(&'a Item<K>),
}

/// Watches a kind for ever, or until it could not be seen for too long. `listed` becomes true with the first list.
///
/// `see` reads an object, and gives an error for one that it cannot read: that is named and skipped.
pub async fn run<K>(
    client: Client,
    scope: Scope,
    labels: Option<String>,
    metrics: Arc<Metrics>,
    listed: watch::Sender<bool>,
    mut see: impl FnMut(Seen<'_, K>) -> serde_json::Result<()>,
) -> Blind
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + 'static,
{
    let kind = K::plural(&()).into_owned();
    let (api, namespace) = (scope.api(&client), scope.namespace());
    metrics.watch_begins(&kind, namespace);
    let mut page = PAGE;
    let begin = |page: u32| {
        let mut config = Config::default().page_size(page);
        config.label_selector.clone_from(&labels);
        watcher(api.clone(), config).boxed()
    };
    let mut events = begin(page);
    // Not kube's: to that a list that only begins is a success, so one that fails for ever is tried every second.
    let mut backoff = DefaultBackoff::default();
    let patience = failpoint::patience(PATIENCE);
    let mut sight = Sight::new(patience);
    let mut asked = Instant::now();
    while let Some(event) = events.next().await {
        let waited = asked.elapsed();
        asked = Instant::now();
        let event = match event {
            Ok(event) => event,
            Err(error) if page > 1 && is_too_large(&error) => {
                page = (page / SMALLER).max(1);
                tracing::info!("listing {kind}: {error}; going on with {page} objects a page");
                events = begin(page);
                continue;
            }
            Err(Error::WatchFailed(error)) if waited >= WORKED => {
                tracing::debug!("the watch of {kind} ended, and is begun again: {error}");
                sight.works();
                continue;
            }
            Err(error) => {
                metrics.watch_failed(&kind, namespace);
                tracing::warn!("watching {kind}: {error}; trying again");
                if sight.failed(Instant::now()) {
                    let cause = error.to_string();
                    return Blind {
                        kind,
                        patience,
                        cause,
                    };
                }
                sleep(backoff.next().unwrap_or(PATIENCE)).await;
                asked = Instant::now();
                continue;
            }
        };
        // A list that is not over has shown nothing yet: its next page may fail, again and again.
        let is_seen = !matches!(event, Event::Init | Event::InitApply(_));
        if is_seen {
            sight.works();
            backoff.reset();
        }
        let is_over = matches!(event, Event::InitDone);
        sight.is_listing = !is_seen;
        let (seen, item) = match &event {
            Event::Init => (Seen::ListBegins, None),
            Event::InitApply(item) => (Seen::Listed(item), Some(item)),
            Event::InitDone => (Seen::ListEnds, None),
            Event::Apply(item) => (Seen::Shown(item), Some(item)),
            Event::Delete(item) => (Seen::Deleted(item), Some(item)),
        };
        if let Err(error) = see(seen) {
            metrics.unreadable(&kind);
            tracing::warn!(
                "this object of {kind} cannot be read and is skipped: {item:?}: {error}"
            );
        }
        if is_seen {
            metrics.watched(&kind, namespace, is_over);
        }
        if is_over {
            listed.send_replace(true);
        }
    }
    let cause = "the watch ended".to_owned();
    Blind {
        kind,
        patience,
        cause,
    }
}

/// Whether a page of a list was too large.
fn is_too_large(error: &Error) -> bool {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = cause {
        if error.is::<TooLarge>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// Whether a kind can be seen.
#[derive(Debug)]
struct Sight {
    patience: Duration,
    /// Whether a list is under way. It has shown nothing until it is over, however long that takes.
    is_listing: bool,
    /// The first and the last error of a failure that goes on.
    failing: Option<(Instant, Instant)>,
}

impl Sight {
    fn new(patience: Duration) -> Self {
        Self {
            patience,
            is_listing: false,
            failing: None,
        }
    }

    fn works(&mut self) {
        self.failing = None;
    }

    /// Notes an error. Whether there was nothing else for too long.
    fn failed(&mut self, now: Instant) -> bool {
        let first = match self.failing {
            // A watch that works may be quiet, so a long time between two errors counts as working.
            Some((first, last))
                if self.is_listing || now.saturating_duration_since(last) < APART =>
            {
                first
            }
            _ => now,
        };
        self.failing = Some((first, now));
        now.saturating_duration_since(first) >= self.patience
    }
}

impl<K> fmt::Debug for Seen<'_, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ListBegins => f.write_str("ListBegins"),
            Self::Listed(item) => f.debug_tuple("Listed").field(item).finish(),
            Self::ListEnds => f.write_str("ListEnds"),
            Self::Shown(item) => f.debug_tuple("Shown").field(item).finish(),
            Self::Deleted(item) => f.debug_tuple("Deleted").field(item).finish(),
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;
    use tower::{BoxError, Layer};

    use crate::limit::{self, Limit};

    use super::*;

    /// Lists are forbidden.
    #[tokio::test(start_paused = true)]
    async fn a_kind_that_may_not_be_listed_is_given_up_and_not_asked_for_every_second() {
        let (asked, count) = watch::channel(0);
        let service = tower::service_fn(move |_: http::Request<kube::client::Body>| {
            asked.send_modify(|asked| *asked += 1);
            let status = r#"{"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 403, "message": "no"}"#;
            let body = kube::client::Body::from(status.as_bytes().to_vec());
            let answer = http::Response::builder().status(403).body(body);
            async move { Ok::<_, BoxError>(answer?) }
        });
        let client = Client::new(service, "n");
        let metrics = Arc::new(Metrics::new(Arc::default()).unwrap());
        let (listed, is_listed) = watch::channel(false);
        let begun = tokio::time::Instant::now();
        let run = run::<Pod>(
            client,
            Scope::Cluster,
            None,
            metrics.clone(),
            listed,
            |_| Ok(()),
        );
        let blind = run.await;
        let took = begun.elapsed();
        assert!(took >= PATIENCE && took < 2 * PATIENCE, "after {took:?}");
        assert!(
            blind
                .to_string()
                .starts_with("pods could not be watched for 300 s"),
            "{blind}"
        );
        let asked = *count.borrow();
        assert!((5..40).contains(&asked), "asked {asked} times");
        assert!(!*is_listed.borrow());
        let text = metrics.text().unwrap();
        assert!(
            !text.contains("watch_last_event_timestamp_seconds{kind=\"pods\""),
            "nothing was seen: {text}"
        );
    }

    /// Each pod is of 1 MiB, as any of a tenant's may be.
    #[tokio::test(start_paused = true)]
    async fn large_objects_are_listed_in_smaller_pages() {
        let service = tower::service_fn(|request: http::Request<kube::client::Body>| async move {
            let query = request.uri().query().unwrap_or_default();
            let value = |name: &str| {
                let mut parts = query.split('&');
                parts.find_map(|part| part.strip_prefix(name)?.strip_prefix('=')?.parse().ok())
            };
            let (limit, from): (usize, usize) =
                (value("limit").unwrap_or(0), value("continue").unwrap_or(0));
            let to = (from + limit).min(30);
            let large = "x".repeat(1 << 20);
            let items: Vec<_> = (from..to)
                .map(|index| json!({"metadata": {"name": format!("p{index}"), "namespace": "n", "uid": index.to_string(),
                    "resourceVersion": "1", "annotations": {"a": large}}}))
                .collect();
            let more = (to < 30).then(|| to.to_string());
            let list =
                json!({"metadata": {"resourceVersion": "5", "continue": more}, "items": items});
            let body = kube::client::Body::from(list.to_string().into_bytes());
            Ok::<_, BoxError>(http::Response::builder().status(200).body(body)?)
        });
        let limited = Limit(limit::REQUEST).layer(service);
        let client = Client::new(limited, "n");
        let metrics = Arc::new(Metrics::new(Arc::default()).unwrap());
        let (listed, mut is_listed) = watch::channel(false);
        let mut pods = Vec::new();
        let see = |seen: Seen<'_, Pod>| {
            match seen {
                Seen::ListBegins => pods.clear(),
                Seen::Listed(item) => pods.push(item.meta().name.clone().unwrap()),
                _ => {}
            }
            Ok(())
        };
        tokio::select! {
            blind = run(client, Scope::Cluster, None, metrics, listed, see) => panic!("{blind}"),
            _ = is_listed.wait_for(|listed| *listed) => {}
        }
        let expected: Vec<_> = (0..30).map(|index| format!("p{index}")).collect();
        assert_eq!(pods, expected);
    }

    #[test]
    fn a_kind_is_given_up_after_five_minutes_of_errors_and_nothing_else() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut sight = Sight::new(PATIENCE);
        assert!(
            (0..10).all(|n| !sight.failed(at(n * 30))),
            "for less than 5 minutes"
        );
        assert!(sight.failed(at(300)));
        let mut sight = Sight::new(PATIENCE);
        assert!((0..10).all(|n| !sight.failed(at(n * 30))));
        sight.works();
        assert!(!sight.failed(at(300)), "it was seen in between");
        let mut sight = Sight::new(PATIENCE);
        assert!(
            (0..10).all(|n| !sight.failed(at(n * 130))),
            "errors far apart"
        );
        let mut sight = Sight::new(PATIENCE);
        sight.is_listing = true;
        assert!(!sight.failed(at(0)) && !sight.failed(at(130)));
        assert!(sight.failed(at(390)), "no list has come to its end");
    }
}
