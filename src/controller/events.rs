//! Events: what a user must know, once. What is told is pure; and what was told is known by its name, so that no
//! restart, no other leader and no second try tells it again.
//!
//! kube's `Recorder` (5.0) was tried. To it all Events of a reason are one, whatever they say: the second is counted
//! under the first one's words. And what it has told it forgets with the process.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::Resource;

use super::error::{Class, Error};
use super::status::Report;
use super::view::View;
use super::view::server::ServerView;
use crate::api::{MCPServer, MCPServerStatus, labels};
use crate::hash::Hash;

/// An Event's note may have 1 kB.
const NOTE: usize = 1000;

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
    pub fn event(&self, server: &ServerView, instance: &str, now: Timestamp) -> Event {
        // A deletion is a generation of its own, and a creation has none yet.
        let generation = Some(server.generation).filter(|_| self.is_warning);
        let uid = server.uid();
        let told = format!("{uid} {generation:?} {} {}", self.reason, self.cause);
        let (name, namespace) = (&server.key.name, server.key.namespace.to_string());
        Event {
            metadata: ObjectMeta {
                namespace: Some(namespace.clone()),
                name: Some(format!("{name}.{}", Hash::of(told.as_bytes()))),
                ..Default::default()
            },
            event_time: Some(MicroTime(now)),
            type_: Some(if self.is_warning { "Warning" } else { "Normal" }.to_owned()),
            reason: Some(self.reason.to_owned()),
            action: Some(self.action.to_owned()),
            note: Some(self.note.chars().take(NOTE).collect()),
            regarding: Some(ObjectReference {
                api_version: Some(MCPServer::api_version(&()).into_owned()),
                kind: Some(MCPServer::kind(&()).into_owned()),
                name: Some(name.to_string()),
                namespace: Some(namespace),
                uid: Some(uid.to_owned()),
                ..Default::default()
            }),
            reporting_controller: Some(labels::MANAGER.to_owned()),
            reporting_instance: Some(instance.to_owned()),
            ..Default::default()
        }
    }
}

/// The news in a status that replaces another one. `children` are the kinds that are there, `told` is the trouble of
/// pods that this process told last.
pub fn of_report(
    old: Option<&MCPServerStatus>,
    report: &Report,
    children: &[&str],
    told: Option<&str>,
) -> Vec<News> {
    let mut news = Vec::new();
    let new = &report.status;
    let had_deployment = old.is_some_and(|old| {
        let reason = reason_of(old, "DeploymentReady");
        reason.is_some_and(|reason| matches!(reason, "DeploymentReady" | "DeploymentNotReady"))
    });
    if report.progress.is_some() && !had_deployment && !children.is_empty() {
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
    let trouble = report
        .progress
        .as_ref()
        .and_then(|progress| progress.trouble.as_ref());
    // After a restart nothing is known of what was told but what stands in the status.
    let is_told = |cause: &str| {
        let message = |status| message_of(status, "DeploymentReady", "DeploymentNotReady");
        told == Some(cause) || told.is_none() && old.is_some_and(|old| message(old) == message(new))
    };
    if let Some(trouble) = trouble.filter(|trouble| !is_told(&trouble.cause)) {
        news.push(News::warning(
            "NotReady",
            trouble.to_string(),
            trouble.cause.to_string(),
        ));
    }
    news
}

fn reason_of<'a>(status: &'a MCPServerStatus, type_: &str) -> Option<&'a str> {
    let mut conditions = status.conditions.iter();
    let condition = conditions.find(|condition| condition.type_ == type_)?;
    Some(&condition.reason)
}

/// The message of a condition that is false for this reason.
fn message_of<'a>(status: &'a MCPServerStatus, type_: &str, reason: &str) -> Option<&'a str> {
    let mut conditions = status.conditions.iter();
    let condition = conditions.find(|condition| condition.type_ == type_)?;
    let named = condition.status == "False" && condition.reason == reason;
    named.then_some(condition.message.as_str())
}

/// The last news of a server whose children have gone, or were given up with `pods` still there.
pub fn deleted(pods: usize) -> News {
    let note = if pods == 0 {
        "The pods have gone; the finalizer was removed".to_owned()
    } else {
        format!("Pods that did not end in time go by themselves: {pods}; the finalizer was removed")
    };
    News::normal("Deleted", "Delete", note)
}

/// The last news of a server that was deleted without its children.
pub fn orphaned() -> News {
    let note = "The children stay and run on, as asked for; the finalizer was removed";
    News::normal("Deleted", "Delete", note.to_owned())
}

/// The news of an error, when passes have failed `failures` times in a row. Nothing when the status tells it, or when its
/// cause is among those that were `told`.
pub fn of_failure(
    error: &Error,
    failures: u32,
    told: &BTreeSet<String>,
    status: Option<&MCPServerStatus>,
) -> Option<News> {
    // Most transient errors are over before anybody could read of them. A conflict is the normal way to learn that
    // the object changed meanwhile.
    let is_time = error.class() != Class::Transient || failures >= 3;
    let text = error.to_string();
    let cause = error.cause();
    // A long message of a condition is cut off at its end.
    let begin: String = text.chars().take(NOTE).collect();
    let is_told = told.contains(&cause)
        || status
            .and_then(|status| message_of(status, "ConfigurationValid", "ConfigurationInvalid"))
            .is_some_and(|message| message.contains(&begin));
    (is_time && !is_told).then(|| News::warning("ReconcileFailed", text, cause))
}

#[cfg(test)]
mod tests;
