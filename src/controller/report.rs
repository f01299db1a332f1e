//! The last step of a pass: the status is written if it is due, and what is new in it is told.

use std::time::{Duration, Instant};

use kube::api::Patch;
use serde_json::{Value, json};

use super::apply::as_manager;
use super::context::Context;
use super::error::Error;
use super::events;
use super::memory::Written;
use super::status::{self, Report};
use super::view::View;
use super::view::server::ServerView;
use crate::api::v1alpha1::Phase;
use crate::api::{MCPServer, MCPServerStatus};

/// Writes the status if it is due, and tells the news in it after that. Says when the next pass is to begin: if it is
/// not due yet, or if the server has changed meanwhile. `children` are the kinds that are there.
pub async fn write(
    context: &Context,
    server: &ServerView,
    old: Option<&MCPServerStatus>,
    report: &Report,
    children: &[&str],
) -> Result<Option<Duration>, Error> {
    let (key, uid) = (&server.key, server.uid());
    let trouble = report
        .progress
        .as_ref()
        .and_then(|progress| progress.trouble.as_ref());
    let cause = trouble.map(|trouble| trouble.cause.to_string());
    let (last, told) = context.memories.of(key, uid, |memory| {
        (memory.written, memory.told_trouble.clone())
    });
    match status::due_in(old, report, last.as_ref(), Instant::now()) {
        // As long as it is due and not written, what was told last stays what is told of it.
        Some(Duration::ZERO) => {}
        Some(wait) => return Ok(Some(wait)),
        None => {
            // It is written as it is, so what is in it was told.
            context
                .memories
                .of(key, uid, |memory| memory.told_trouble = cause);
            return Ok(None);
        }
    }
    let news = events::of_report(old, report, children, told.as_deref());
    let Some(moved) = store(context, server, report).await? else {
        return Ok(None);
    };
    context
        .memories
        .of(key, uid, |memory| memory.told_trouble = cause);
    for news in news {
        context.publisher.publish(server, &news);
    }
    Ok(moved.then_some(Duration::ZERO))
}

/// Writes the status. Tells whether the server is another one meanwhile than the pass has seen: the answer is taken in,
/// so that the watch has no news of it. Nothing when it has gone.
pub async fn store(
    context: &Context,
    server: &ServerView,
    report: &Report,
) -> Result<Option<bool>, Error> {
    let (key, uid) = (&server.key, server.uid());
    let body = json!({"metadata": {"uid": uid}, "status": whole(&report.status)?});
    let api = context.api::<MCPServer>(key);
    let patched = api
        .patch_status(&key.name, &as_manager(), &Patch::Merge(&body))
        .await;
    let written = match patched.map_err(Error::api("writing the status")) {
        Ok(written) => written,
        // Deleted meanwhile: nothing to report on.
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return Err(error),
    };
    let view = ServerView::read(written.text()).map_err(|source| Error::Json {
        action: "reading the status that was written".to_owned(),
        source,
    })?;
    let written = Written {
        gist: report.gist,
        stored: status::stored(view.status().as_ref()),
        at: Instant::now(),
    };
    let moved = view.is_moved(server);
    context.servers.wrote(key, view);
    context
        .memories
        .of(key, uid, |memory| memory.written = Some(written));
    let phase = report.status.phase.map_or("none", Phase::as_str);
    tracing::info!(
        phase,
        ready = report.status.ready_replicas,
        "status written"
    );
    Ok(Some(moved))
}

/// A merge patch with a null for what there is not: whatever somebody else wrote there goes, too.
fn whole(status: &MCPServerStatus) -> Result<Value, Error> {
    let mut fields = json!({
        "phase": null, "selector": null, "endpoint": null, "observedGeneration": null, "lastTransitionTime": null,
    });
    let given = serde_json::to_value(status).map_err(|source| Error::Json {
        action: "writing the status".to_owned(),
        source,
    })?;
    if let (Some(fields), Value::Object(given)) = (fields.as_object_mut(), given) {
        fields.extend(given);
    }
    Ok(fields)
}
