//! Events: what a user must know, once. Pure, from one status to the next.

use kube::runtime::events::{Event, EventType};

use crate::api::MCPServerStatus;

/// The Events that a change of status is worth.
pub fn of_change(old: Option<&MCPServerStatus>, new: &MCPServerStatus) -> Vec<Event> {
    let message = |status: Option<&MCPServerStatus>, type_: &str, reasons: &[&str]| {
        let condition = status?
            .conditions
            .iter()
            .find(|condition| condition.type_ == type_)?;
        let named = condition.status == "False" && reasons.contains(&condition.reason.as_str());
        named.then(|| condition.message.clone())
    };
    let mut events = Vec::new();
    for (type_, reason) in [
        ("ConfigurationValid", "ConfigurationInvalid"),
        ("Ready", "NameConflict"),
    ] {
        let now = message(Some(new), type_, &[reason]);
        if now.is_some() && now != message(old, type_, &[reason]) {
            events.push(warning(reason, now));
        }
    }
    // Why pods do not get ready, without the counters before it.
    let trouble = |status| {
        let message = message(status, "DeploymentReady", &["DeploymentNotReady"])?;
        message.split_once(": ").map(|(_, why)| why.to_owned())
    };
    if let Some(why) = trouble(Some(new)).filter(|_| trouble(old).is_none()) {
        events.push(warning("NotReady", Some(why)));
    }
    events
}

/// The one Event of a server's creation.
pub fn created(children: &[&str]) -> Event {
    normal(
        "Created",
        "Create",
        format!("Created {}", children.join(", ")),
    )
}

/// The last Event of a server.
pub fn deleted() -> Event {
    normal(
        "Deleted",
        "Delete",
        "The pods have gone; the finalizer was removed".to_owned(),
    )
}

/// An error of a pass.
pub fn failed(error: &super::error::Error) -> Event {
    warning("ReconcileFailed", Some(error.to_string()))
}

fn normal(reason: &str, action: &str, note: String) -> Event {
    Event {
        type_: EventType::Normal,
        reason: reason.to_owned(),
        action: action.to_owned(),
        note: Some(note),
        secondary: None,
    }
}

fn warning(reason: &str, note: Option<String>) -> Event {
    // An Event's note may have 1 kB.
    let note = note.map(|note| note.chars().take(1000).collect());
    Event {
        type_: EventType::Warning,
        reason: reason.to_owned(),
        action: "Reconcile".to_owned(),
        note,
        secondary: None,
    }
}
