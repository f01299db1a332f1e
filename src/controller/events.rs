//! Events: what a user must know, once. What is told is pure, from one status to the next; and what was told
//! is known by its name, so that no restart, no other leader and no second try tells it again.
//!
//! Not kube's `Recorder` (5.0): to that all Events of a reason are one, whatever they say, and the second is
//! counted under the first one's words; and what it has told it forgets with the process.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client, Resource, ResourceExt};
use tokio::sync::Semaphore;
use tracing::Instrument;

use super::build::config_map::short_hash;
use super::error::{Class, Error};
use super::status::{TROUBLE, of_deployment};
use crate::api::v1alpha1::Phase;
use crate::api::{MCPServer, MCPServerStatus, labels};

/// An Event's note may have 1 kB.
const NOTE: usize = 1000;
/// Pauses before an Event that could not be published is tried again, in seconds. Then it is given up.
const RETRIES: [u64; 4] = [1, 2, 4, 8];
/// At most so many of these are under way at one time.
const TRIES: usize = 4;

/// Something that a user must know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    is_warning: bool,
    /// Why, in one word.
    pub reason: &'static str,
    action: &'static str,
    /// In a sentence.
    pub note: String,
    /// What tells it from other news of this reason. Of one cause there is one Event, a warning one a
    /// generation of the spec, for as long as the API server keeps it (an hour, unless set otherwise).
    cause: String,
}

impl News {
    fn normal(reason: &'static str, action: &'static str, note: String) -> Self {
        Self {
            is_warning: false,
            reason,
            action,
            note,
            cause: String::new(),
        }
    }

    fn warning(reason: &'static str, note: String, cause: String) -> Self {
        Self {
            is_warning: true,
            reason,
            action: "Reconcile",
            note,
            cause,
        }
    }

    /// The Event of this server.
    fn event(&self, server: &MCPServer, instance: &str, now: Timestamp) -> Event {
        let (uid, name) = (server.uid().unwrap_or_default(), server.name_any());
        // A deletion is a generation of its own, and a creation has none yet.
        let generation = server.metadata.generation.filter(|_| self.is_warning);
        let told = format!("{uid} {generation:?} {} {}", self.reason, self.cause);
        Event {
            metadata: ObjectMeta {
                namespace: server.namespace(),
                name: Some(format!("{name}.{}", short_hash(told.as_bytes()))),
                ..Default::default()
            },
            event_time: Some(MicroTime(now)),
            type_: Some(if self.is_warning { "Warning" } else { "Normal" }.to_owned()),
            reason: Some(self.reason.to_owned()),
            action: Some(self.action.to_owned()),
            note: Some(self.note.chars().take(NOTE).collect()),
            regarding: Some(server.object_ref(&())),
            reporting_controller: Some(labels::MANAGER.to_owned()),
            reporting_instance: Some(instance.to_owned()),
            ..Default::default()
        }
    }
}

/// The news in a change of status. `children` are the kinds that are there.
pub fn of_change(
    old: Option<&MCPServerStatus>,
    new: &MCPServerStatus,
    children: &[&str],
) -> Vec<News> {
    let mut news = Vec::new();
    let is_there = |status| of_deployment(status).is_some();
    let was_there = old.is_some_and(is_there);
    if is_there(new) && !was_there && !children.is_empty() {
        let note = format!("Created {}", children.join(", "));
        news.push(News::normal("Created", "Create", note));
    }
    for (type_, reason) in [
        ("ConfigurationValid", "ConfigurationInvalid"),
        ("Ready", "NameConflict"),
    ] {
        let message = |status| message_of(status, type_, reason);
        if let Some(now) = message(new).filter(|now| old.and_then(message) != Some(*now)) {
            news.push(News::warning(reason, now.to_owned(), now.to_owned()));
        }
    }
    let text = |status| trouble(status).map(without_pod);
    if let Some(why) = trouble(new).filter(|_| old.and_then(text) != text(new)) {
        // The first word: what comes after it changes from look to look.
        let (cause, _) = without_pod(why).split_once(": ").unwrap_or((why, ""));
        news.push(News::warning("NotReady", why.to_owned(), cause.to_owned()));
    }
    let failed = |status: &MCPServerStatus| status.phase == Some(Phase::Failed);
    if news.is_empty() && failed(new) && trouble(new).is_none() && !old.is_some_and(failed) {
        let note =
            "The Deployment made no progress within its deadline; see the conditions of its status";
        let cause = "ProgressDeadlineExceeded";
        news.push(News::warning("NotReady", note.to_owned(), cause.to_owned()));
    }
    news
}

/// The message of a condition that is false for this reason.
fn message_of<'a>(status: &'a MCPServerStatus, type_: &str, reason: &str) -> Option<&'a str> {
    let mut conditions = status.conditions.iter();
    let condition = conditions.find(|condition| condition.type_ == type_)?;
    let named = condition.status == "False" && condition.reason == reason;
    named.then_some(condition.message.as_str())
}

/// Why pods do not get ready, without the counters before it.
fn trouble(status: &MCPServerStatus) -> Option<&str> {
    Some(of_deployment(status)?.split_once(TROUBLE)?.1)
}

/// Of many pods in the same trouble now this one comes first, now that.
fn without_pod(why: &str) -> &str {
    why.strip_prefix("pod ")
        .and_then(|rest| rest.split_once(": "))
        .map_or(why, |(_, rest)| rest)
}

/// The last news of a server whose children have gone, or were given up with `pods` still there.
pub fn deleted(pods: usize) -> News {
    let note = if pods == 0 {
        "The pods have gone; the finalizer was removed".to_owned()
    } else {
        format!("{pods} pods did not end in time and go by themselves; the finalizer was removed")
    };
    News::normal("Deleted", "Delete", note)
}

/// The last news of a server that was deleted without its children.
pub fn orphaned() -> News {
    let note = "The children stay and run on, as asked for; the finalizer was removed";
    News::normal("Deleted", "Delete", note.to_owned())
}

/// The news of a pass that failed for the so manieth time in a row, if neither the status tells it nor the last
/// news did, which were `told` of that cause.
pub fn of_failure(
    error: &Error,
    failures: u32,
    told: Option<&str>,
    status: Option<&MCPServerStatus>,
) -> Option<News> {
    // Transient errors mostly are over before anybody could read of them; a conflict is the normal way to
    // learn that the object changed meanwhile.
    let is_time = error.class() != Class::Transient || failures >= 3;
    let text = error.to_string();
    let cause = error.cause();
    // A long message of a condition is cut off at its end.
    let begin: String = text.chars().take(NOTE).collect();
    let is_told = told == Some(&*cause)
        || status
            .and_then(|status| message_of(status, "ConfigurationValid", "ConfigurationInvalid"))
            .is_some_and(|message| message.contains(&begin));
    (is_time && !is_told).then(|| News::warning("ReconcileFailed", text, cause))
}

/// Tells news to those who ask Kubernetes.
pub struct Publisher {
    client: Client,
    /// Which replica tells.
    instance: String,
    /// So many are tried again at one time, however many wait for it.
    tries: Arc<Semaphore>,
}

impl Publisher {
    /// `instance` is this replica's pod, if it is known.
    pub fn new(client: Client, instance: Option<String>) -> Self {
        Self {
            client,
            instance: instance.unwrap_or_else(|| labels::MANAGER.to_owned()),
            tries: Arc::new(Semaphore::new(TRIES)),
        }
    }

    /// Publishes the news, unless they were before. Of an Event that could not be published a few more tries
    /// are made beside what goes on; then, or when no try would help, it is logged. It stops nothing.
    pub async fn publish(&self, server: &MCPServer, news: &News) {
        let namespace = server.namespace().unwrap_or_default();
        let api = Api::<Event>::namespaced(self.client.clone(), &namespace);
        let event = news.event(server, &self.instance, Timestamp::now());
        match create(&api, &event).await {
            Err(error) if error.class() == Class::Transient => {
                let tries = self.tries.clone();
                tokio::spawn(try_again(api, event, error, tries).in_current_span());
            }
            told => log(&event, told),
        }
    }
}

async fn try_again(api: Api<Event>, event: Event, error: Error, tries: Arc<Semaphore>) {
    let mut told = Err(error);
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
        // It is never closed.
        let _try = tries.acquire().await;
        told = create(&api, &event).await;
    }
    log(&event, told);
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

fn log(event: &Event, told: Result<(), Error>) {
    if let Err(error) = told {
        let (reason, note) = (&event.reason, &event.note);
        tracing::warn!(reason, note, "an Event is not published: {error}");
    }
}

fn is_terminating(status: &kube::core::Status) -> bool {
    let mut causes = status.details.iter().flat_map(|details| &details.causes);
    causes.any(|cause| cause.reason == "NamespaceTerminating")
}

#[cfg(test)]
mod tests;
