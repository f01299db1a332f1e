//! Reading a request's body within the limits of size, memory and time.

use std::sync::Arc;

use axum::body::{Body, Bytes, HttpBody};
use http_body_util::BodyExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use crate::refusal::Refusal;

/// Reads a body of at most `limit` bytes until `deadline`. `memory` has one permit per byte; the permits of the body
/// are returned with it.
pub(crate) async fn read(
    body: &mut Body,
    limit: usize,
    memory: &Arc<Semaphore>,
    deadline: Instant,
) -> Result<(Vec<u8>, OwnedSemaphorePermit), Refusal> {
    let hint = body.size_hint();
    if hint.lower() > limit as u64 {
        return Err(Refusal::too_large(limit));
    }
    // Take all permits before the first byte: bodies that grow side by side could fill the memory without any of them
    // ever being complete.
    let most = hint.exact().unwrap_or(limit as u64);
    let most = u32::try_from(most).unwrap_or(u32::MAX);
    let share = timeout_at(deadline, memory.clone().acquire_many_owned(most)).await;
    let Ok(Ok(share)) = share else {
        return Err(Refusal::too_busy());
    };
    let mut bytes = Vec::new();
    loop {
        let frame = match timeout_at(deadline, body.frame()).await {
            Ok(None) => return Ok((bytes, share)),
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(error))) => {
                return Err(Refusal::bad_request(format!(
                    "the request's body broke off: {error}"
                )));
            }
            Err(_) => return Err(Refusal::too_slow()),
        };
        // Trailers mean nothing here.
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if data.len() > limit - bytes.len() {
            return Err(Refusal::too_large(limit));
        }
        bytes.extend_from_slice(&data);
    }
}

/// Reads and drops up to `limit` bytes that a refused client still sends. Closing a connection with unread bytes resets
/// it, and the client would never see the answer.
pub(crate) async fn discard(body: &mut Body, limit: usize, deadline: Instant) {
    let mut left = limit;
    while let Ok(Some(Ok(frame))) = timeout_at(deadline, body.frame()).await {
        let length = frame.data_ref().map_or(0, Bytes::len);
        let Some(rest) = left.checked_sub(length) else {
            return;
        };
        left = rest;
    }
}
