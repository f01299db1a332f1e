//! The Pod Security level of each namespace, by a watch of their metadata. A namespace that enforces none is not seen.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Namespace;
use kube::core::PartialObjectMeta;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{Config, DefaultBackoff, Event, watcher};
use kube::{Api, Client, ResourceExt};
use tokio::time::sleep;

use crate::controller::cache::lock;
use crate::validation::pod_security::{ENFORCE, Level};

/// Namespaces of one page of a list.
const PAGE: u32 = 100;
/// Without a watch there are no warnings, and nothing else is missing: that is said this often at most.
const SAY_AGAIN: Duration = Duration::from_mins(10);

/// The levels that are known, by namespace.
#[derive(Default)]
pub struct Levels(Mutex<HashMap<String, Level>>);

impl Levels {
    /// The level that the namespace enforces.
    pub fn of(&self, namespace: &str) -> Option<Level> {
        lock(&self.0).get(namespace).copied()
    }

    fn see(&self, namespace: &PartialObjectMeta<Namespace>) {
        let mut levels = lock(&self.0);
        match level(namespace) {
            Some((name, level)) => levels.insert(name, level),
            None => levels.remove(&namespace.name_any()),
        };
    }
}

fn level(namespace: &PartialObjectMeta<Namespace>) -> Option<(String, Level)> {
    let level = namespace.labels().get(ENFORCE)?;
    Some((namespace.name_any(), Level::named(level)?))
}

/// Watches the namespaces for ever. Where that fails, it is tried again, and the levels are as they were last seen.
pub async fn watch(client: Client, levels: Arc<Levels>) -> Infallible {
    let config = || Config::default().labels(ENFORCE).page_size(PAGE);
    let mut events = watcher(Api::<PartialObjectMeta<Namespace>>::all(client), config()).boxed();
    let mut backoff = DefaultBackoff::default();
    let mut said: Option<tokio::time::Instant> = None;
    let mut listed = HashMap::new();
    loop {
        match events.next().await {
            Some(Ok(event)) => {
                // That a list begins is no success yet.
                if !matches!(event, Event::Init | Event::InitApply(_)) {
                    backoff.reset();
                }
                match event {
                    Event::Init => listed.clear(),
                    Event::InitApply(namespace) => listed.extend(level(&namespace)),
                    Event::InitDone => *lock(&levels.0) = std::mem::take(&mut listed),
                    Event::Apply(namespace) => levels.see(&namespace),
                    Event::Delete(namespace) => drop(lock(&levels.0).remove(&namespace.name_any())),
                }
            }
            Some(Err(error)) => {
                if said.is_none_or(|said| said.elapsed() >= SAY_AGAIN) {
                    tracing::warn!(
                        "namespaces cannot be watched, so that nobody is warned of what their Pod Security level refuses: {error}"
                    );
                    said = Some(tokio::time::Instant::now());
                }
                // It never gives up.
                sleep(backoff.next().unwrap_or(SAY_AGAIN)).await;
            }
            // It never ends.
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use http::{Request, Response};
    use kube::client::Body;
    use serde_json::json;
    use tower::BoxError;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_may_not_watch_asks_seldom() {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        let service = tower::service_fn(move |_: Request<Body>| {
            count.fetch_add(1, Ordering::Relaxed);
            let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 403,
                "reason": "Forbidden", "message": "no"});
            async move {
                let body = Body::from(status.to_string().into_bytes());
                Ok::<_, BoxError>(Response::builder().status(403).body(body)?)
            }
        });
        let watch = watch(Client::new(service, "n"), Arc::default());
        let hour = tokio::time::timeout(Duration::from_hours(1), watch);
        assert!(hour.await.is_err());
        let asked = asked.load(Ordering::Relaxed);
        assert!((60..400).contains(&asked), "{asked} requests in an hour");
    }
}
