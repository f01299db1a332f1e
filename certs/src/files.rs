//! Serves the certificate of a mounted folder, and checks whether the API server can verify it. Writes nothing.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::core::DynamicObject;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, watch_object};

use crate::Clock;
use crate::folder::{self, Content};
use crate::keeper::verify;
use crate::registration::{Kind, Registered, missing, registered};
use crate::serving::Serving;

/// How often the files are read and compared. Notifications will not do: the kubelet swaps a symlink two levels above
/// the files, and some file systems send none.
const INTERVAL: Duration = Duration::from_millis(500);

/// The folder and the names of the objects.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The folder with [`folder::CERTIFICATE`] and [`folder::KEY`].
    pub folder: PathBuf,
    /// Name of both webhook configurations.
    pub configuration: String,
    /// Names of our webhooks in them.
    pub webhooks: Vec<String>,
}

/// Serves a folder's certificate.
pub struct Files {
    client: Client,
    settings: Settings,
    clock: Clock,
    serving: Arc<Serving>,
    /// The contents of the files when they were last read.
    read: Option<Content>,
    /// Why they cannot be served, as logged.
    problem: Option<String>,
    /// Our webhooks, or why they cannot be called; in the order of [`Kind::ALL`].
    registered: [Result<Vec<Registered>, String>; 2],
}

impl Files {
    /// The task that serves the folder, and the certificate that is served.
    pub fn new(client: Client, settings: Settings, clock: Clock) -> (Self, Arc<Serving>) {
        let serving = Arc::new(Serving::default());
        let registered = Kind::ALL.map(|kind| {
            let (what, name) = (kind.resource().kind, &settings.configuration);
            Err(format!("{what} {name} has not been read yet"))
        });
        (
            Self {
                client,
                settings,
                clock,
                serving: serving.clone(),
                read: None,
                problem: None,
                registered,
            },
            serving,
        )
    }

    /// Runs until it is dropped.
    pub async fn run(mut self) {
        let mut configurations = self.configurations();
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => self.look().await,
                Some((index, seen)) = configurations.next() => self.seen(index, seen),
            }
            self.serving.set_state(self.state());
        }
    }

    /// Reads the files, and serves them if they have changed and are valid. Otherwise the last certificate stays in
    /// use.
    async fn look(&mut self) {
        let folder = &self.settings.folder;
        let parsed = match folder::read(folder).await {
            Ok(content) if self.read.as_ref() == Some(&content) => return,
            Ok(content) => {
                let parsed = folder::parse(folder, &content);
                self.read = Some(content);
                parsed
            }
            Err(error) => {
                self.read = None;
                Err(error)
            }
        };
        match parsed {
            Ok(pair) => {
                let until = Timestamp::try_from(pair.validity().until)
                    .map_or_else(|error| error.to_string(), |until| until.to_string());
                tracing::info!(folder = %folder.display(), until, "serving another certificate");
                self.serving.serve_pair(pair);
                self.problem = None;
            }
            Err(error) => {
                let problem = error.to_string();
                // While there is no certificate yet, this is the reason for not being ready, which is logged elsewhere.
                let serving = self.serving.not_after().is_some();
                if serving && self.problem.as_ref() != Some(&problem) {
                    tracing::warn!("the last certificate is served on: {problem}");
                }
                self.problem = Some(problem);
            }
        }
    }

    /// Ready, or why not.
    fn state(&self) -> Result<(), String> {
        if self.serving.not_after().is_none() {
            let problem = self.problem.as_deref();
            return Err(problem
                .unwrap_or("the files have not been read yet")
                .to_owned());
        }
        for registered in &self.registered {
            let registered = registered.as_ref().map_err(Clone::clone)?;
            verify(&self.serving, registered, (self.clock)())?;
        }
        Ok(())
    }

    /// A stream of changed configurations, each with its index in [`Kind::ALL`].
    fn configurations(
        &self,
    ) -> BoxStream<'static, (usize, watcher::Result<Option<DynamicObject>>)> {
        let watches = Kind::ALL.into_iter().enumerate().map(|(index, kind)| {
            watch_object(kind.api(self.client.clone()), &self.settings.configuration)
                .default_backoff()
                .map(move |seen| (index, seen))
                .boxed()
        });
        stream::select_all(watches).boxed()
    }

    fn seen(&mut self, index: usize, seen: watcher::Result<Option<DynamicObject>>) {
        let (kind, name) = (Kind::ALL[index], &self.settings.configuration);
        let ours = &self.settings.webhooks;
        match seen {
            Ok(found) => {
                self.registered[index] = match missing(kind, name, found.as_ref(), ours) {
                    Some(problem) => Err(problem),
                    None => Ok(found.map_or_else(Vec::new, |found| registered(&found, ours))),
                };
            }
            Err(error) => {
                let problem = format!("watching {} {name} failed: {error}", kind.resource().kind);
                tracing::warn!("{problem}");
                // The last known state holds until the watch is back.
                if self.registered[index].is_err() {
                    self.registered[index] = Err(problem);
                }
            }
        }
    }
}
