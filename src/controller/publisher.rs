//! Publishing Events beside the passes: an Event that cannot be published holds up nothing.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::{Notify, watch};
use tracing::Instrument;

use super::cache::lock;
use super::error::{Class, Error};
use super::events::News;
use super::key::Key;
use super::view::server::ServerView;
use crate::api::labels;

/// Pauses before an Event that could not be published is tried again, in seconds. Then it is given up.
const RETRIES: [u64; 4] = [1, 2, 4, 8];
/// How many Events are under way at one time, tries and the pauses between them included.
const AT_ONCE: usize = 64;
/// Of these, Events of one namespace: where they hang, the others' go on.
const OF_ONE_NAMESPACE: usize = 2;
/// How many Events wait at most. When there are more, the oldest is given up.
const WAITING: usize = 1_000;

/// The queue of news that are to be published. Cheap to clone.
#[derive(Clone)]
pub struct Publisher(Arc<Queue>);

struct Queue {
    waiting: Mutex<VecDeque<(Key, Event)>>,
    comes: Notify,
    /// How many are neither published nor given up.
    open: watch::Sender<usize>,
    /// Which replica tells.
    instance: String,
}

impl Publisher {
    /// `instance` is this replica's pod, if it is known.
    pub fn new(instance: Option<String>) -> Self {
        Self(Arc::new(Queue {
            waiting: Mutex::default(),
            comes: Notify::new(),
            open: watch::Sender::new(0),
            instance: instance.unwrap_or_else(|| labels::MANAGER.to_owned()),
        }))
    }

    /// Queues the news; [`Self::run`] publishes them, unless they were before.
    pub fn publish(&self, server: &ServerView, news: &News) {
        let event = news.event(server, &self.0.instance, Timestamp::now());
        self.0.open.send_modify(|open| *open += 1);
        let mut waiting = lock(&self.0.waiting);
        waiting.push_back((server.key.clone(), event));
        let given_up = if waiting.len() > WAITING {
            waiting.pop_front()
        } else {
            None
        };
        drop(waiting);
        if let Some((key, event)) = given_up {
            self.0.open.send_modify(|open| *open -= 1);
            let _span = key.span().entered();
            let (reason, note) = (&event.reason, &event.note);
            tracing::warn!(reason, note, "an Event is not published: too many wait");
        }
        self.0.comes.notify_one();
    }

    /// Waits until all is published or given up, but not longer than this.
    pub async fn flush(&self, limit: Duration) {
        let mut open = self.0.open.subscribe();
        let all = open.wait_for(|open| *open == 0);
        if !matches!(tokio::time::timeout(limit, all).await, Ok(Ok(_))) {
            let left = *self.0.open.borrow();
            tracing::warn!(left, "Events are not published: the operator stops");
        }
    }

    /// Publishes what is queued, and never ends.
    pub async fn run(self, client: Client) {
        let mut under_way = FuturesUnordered::new();
        let mut of_namespace: HashMap<Arc<str>, usize> = HashMap::new();
        loop {
            while under_way.len() < AT_ONCE {
                let Some((key, event)) = self.next(&of_namespace) else {
                    break;
                };
                *of_namespace.entry(key.namespace.clone()).or_default() += 1;
                let api = Api::<Event>::namespaced(client.clone(), &key.namespace);
                let (span, namespace) = (key.span(), key.namespace);
                let published = publish(api, event).map(|()| namespace);
                under_way.push(published.instrument(span));
            }
            tokio::select! {
                Some(namespace) = under_way.next() => {
                    if let Some(count) = of_namespace.get_mut(&namespace) {
                        *count -= 1;
                        if *count == 0 {
                            of_namespace.remove(&namespace);
                        }
                    }
                    self.0.open.send_modify(|open| *open -= 1);
                }
                () = self.0.comes.notified() => {}
            }
        }
    }

    /// The oldest whose namespace has not its share under way.
    fn next(&self, of_namespace: &HashMap<Arc<str>, usize>) -> Option<(Key, Event)> {
        let mut waiting = lock(&self.0.waiting);
        let is_free = |(key, _): &(Key, Event)| {
            let count = of_namespace.get(&key.namespace);
            count.is_none_or(|count| *count < OF_ONE_NAMESPACE)
        };
        let at = waiting.iter().position(is_free)?;
        waiting.remove(at)
    }
}

async fn publish(api: Api<Event>, event: Event) {
    let mut told = create(&api, &event).await;
    for pause in RETRIES.map(Duration::from_secs) {
        match &told {
            // Whoever leads now looks at the server anew.
            Err(error) if error.is_not_leading() => return,
            Err(error) if error.class() == Class::Transient => {
                let (reason, note) = (&event.reason, &event.note);
                tracing::debug!(reason, note, "the Event is tried again: {error}");
            }
            _ => break,
        }
        tokio::time::sleep(pause).await;
        told = create(&api, &event).await;
    }
    if let Err(error) = told {
        let (reason, note) = (&event.reason, &event.note);
        tracing::warn!(reason, note, "an Event is not published: {error}");
    }
}

/// Creates the Event, if there is none of its name and its namespace takes any.
async fn create(api: &Api<Event>, event: &Event) -> Result<(), Error> {
    let params = PostParams {
        field_manager: Some(labels::MANAGER.to_owned()),
        ..Default::default()
    };
    let (reason, note) = (&event.reason, &event.note);
    match api.create(&params, event).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 409 => {
            tracing::debug!(reason, note, "there is this Event already");
            Ok(())
        }
        // It takes no new objects, and nobody reads what goes with it.
        Err(kube::Error::Api(status)) if is_terminating(&status) => {
            tracing::debug!(reason, note, "no Event: the namespace is being deleted");
            Ok(())
        }
        Err(error) => Err(Error::api("publishing the Event")(error)),
    }
}

fn is_terminating(status: &kube::core::Status) -> bool {
    let mut causes = status.details.iter().flat_map(|details| &details.causes);
    causes.any(|cause| cause.reason == "NamespaceTerminating")
}

#[cfg(test)]
mod tests;
