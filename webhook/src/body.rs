//! Reading a request's body within the limits of size, memory and time.

use std::net::IpAddr;
use std::sync::Arc;

use axum::body::{Body, Bytes, HttpBody};
use http_body_util::BodyExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use crate::refusal::Refusal;
use crate::shares::{self, Shares};

/// Memory for the bodies that are being read or judged, shared by all.
pub(crate) struct Memory {
    /// Each a byte.
    bytes: Arc<Shares>,
    /// Room for one whole body. Bodies that grow side by side may fill the memory without any of them ever being
    /// complete; one of them then goes on in here.
    reserve: Arc<Semaphore>,
}

/// What one body takes of it, until it is dropped.
pub(crate) struct Share {
    bytes: shares::Share,
    reserve: Option<OwnedSemaphorePermit>,
}

impl Memory {
    /// Memory of this many bytes, for bodies of at most `body` bytes.
    pub(crate) fn new(bytes: usize, body: usize) -> Self {
        Self {
            bytes: Shares::new(bytes.saturating_sub(body), 1),
            reserve: Arc::new(Semaphore::new(1)),
        }
    }

    /// Takes room for that many bytes more. False when there was none until the deadline.
    async fn grow(&self, share: &mut Share, by: usize, deadline: Instant) -> bool {
        if share.reserve.is_some() {
            return true;
        }
        let either = async {
            tokio::select! {
                biased;
                () = share.bytes.grow_when_free(by) => {}
                // It is never closed.
                reserve = self.reserve.clone().acquire_owned() => share.reserve = reserve.ok(),
            }
        };
        timeout_at(deadline, either).await.is_ok()
    }
}

/// Reads a body of at most `limit` bytes, of this peer, until `deadline`. Memory is taken as bytes come: what is only announced keeps
/// nobody waiting.
pub(crate) async fn read(
    body: &mut Body,
    peer: IpAddr,
    limit: usize,
    memory: &Memory,
    deadline: Instant,
) -> Result<(Vec<u8>, Share), Refusal> {
    if body.size_hint().lower() > limit as u64 {
        return Err(Refusal::too_large(limit));
    }
    let mut share = Share {
        bytes: memory.bytes.of(peer),
        reserve: None,
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
        if !memory.grow(&mut share, data.len(), deadline).await {
            return Err(Refusal::too_busy());
        }
        // As large as it will be, without the copies of one that grows.
        if bytes.is_empty() {
            let known = body.size_hint().exact().unwrap_or(0).min(limit as u64);
            bytes.reserve_exact(data.len() + usize::try_from(known).unwrap_or(0));
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
