//! Counting, by a watch, the objects that are as wanted.

use std::collections::HashSet;
use std::fmt::Debug;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use futures::StreamExt;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::progress::Progress;

/// How long all of them may take.
const LIMIT: Duration = Duration::from_hours(1);

/// The objects of a namespace that are as wanted. Stops watching when dropped.
#[derive(Debug)]
pub(crate) struct Counter {
    what: String,
    /// Nothing before the first list.
    count: watch::Receiver<Option<usize>>,
    task: JoinHandle<()>,
}

impl Counter {
    /// Begins to count; `what` completes "12 of 1000 …". Returns when the watch stands.
    pub(crate) async fn start<K>(
        what: &str,
        api: Api<K>,
        is: impl Fn(&K) -> bool + Send + Sync + 'static,
    ) -> Result<Self>
    where
        K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    {
        let (sender, count) = watch::channel(None);
        let mut events = watcher(api, watcher::Config::default())
            .default_backoff()
            .boxed();
        let said = what.to_owned();
        let task = tokio::spawn(async move {
            let mut found = HashSet::new();
            let mut listed = false;
            while let Some(event) = events.next().await {
                match event {
                    Ok(Event::Init) => found.clear(),
                    Ok(Event::InitDone) => listed = true,
                    Ok(Event::Apply(object) | Event::InitApply(object)) => {
                        let wanted = is(&object);
                        let name = object.meta().name.clone().unwrap_or_default();
                        if wanted {
                            found.insert(name);
                        } else {
                            found.remove(&name);
                        }
                    }
                    Ok(Event::Delete(object)) => {
                        found.remove(object.meta().name.as_deref().unwrap_or_default());
                    }
                    Err(error) => eprintln!("counting what is {said} (tries again): {error}"),
                }
                if listed {
                    sender.send_replace(Some(found.len()));
                }
            }
        });
        let mut counter = Self {
            what: what.to_owned(),
            count,
            task,
        };
        counter.until(Option::is_some).await?;
        Ok(counter)
    }

    /// Waits until so many are as wanted, and says how far it is meanwhile.
    pub(crate) async fn reaches(&mut self, number: usize) -> Result<()> {
        let (what, count) = (self.what.clone(), self.count.clone());
        let _progress = Progress::new(move || {
            let now = count.borrow().unwrap_or_default();
            format!("{now} of {number} {what}")
        });
        self.reaches_silently(number).await
    }

    /// The same without a word.
    pub(crate) async fn reaches_silently(&mut self, number: usize) -> Result<()> {
        let enough = move |count: &Option<usize>| count.is_some_and(|count| count >= number);
        self.until(enough)
            .await
            .with_context(|| format!("waiting for {number} that are {}", self.what))
    }

    async fn until(&mut self, enough: impl FnMut(&Option<usize>) -> bool) -> Result<()> {
        let waiting = tokio::time::timeout(LIMIT, self.count.wait_for(enough));
        match waiting.await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(anyhow!("the watch ended")),
            Err(_) => Err(anyhow!("not after {LIMIT:?}")),
        }
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        self.task.abort();
    }
}
