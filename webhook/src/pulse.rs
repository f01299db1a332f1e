//! What a connection is doing and since when, so that one that takes too long is noticed.
//!
//! Hyper's own header timeout will not do: it also runs while a connection is idle between two requests, and would
//! close the connections that an API server keeps for its next review.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use http_body_util::BodyExt;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use crate::limits::Limits;

/// How long a peer may take to close a connection that it was told to close.
const GOODBYE: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Since the handshake: no request yet.
    New,
    /// HTTP/1: a later request has begun.
    Headers,
    /// At least one request is being answered.
    Busy,
    /// Between requests.
    Idle,
}

/// What to do with a connection whose time is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expiry {
    /// Close it: it is at fault, or was told to close already.
    Cut,
    /// Close it gracefully: it did nothing wrong, so tell the peer first.
    Close,
}

struct State {
    phase: Phase,
    /// Whether there has been a request.
    has_asked: bool,
    since: Instant,
    in_flight: usize,
    /// Since when the peer has read nothing of what is sent to it.
    stalled: Option<Instant>,
}

/// The pulse of one connection, shared by its stream, its requests and its timer.
pub(crate) struct Pulse {
    state: Mutex<State>,
    limits: Limits,
    http1: bool,
}

impl Pulse {
    /// The pulse of a connection whose handshake has just ended.
    pub(crate) fn new(limits: Limits, http1: bool) -> Self {
        let state = State {
            phase: Phase::New,
            has_asked: false,
            since: Instant::now(),
            in_flight: 0,
            stalled: None,
        };
        Self {
            state: Mutex::new(state),
            limits,
            http1,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When the connection's time will be up if nothing happens, and what to do then. `leaving`
    /// is when it was told to close, if it was.
    pub(crate) fn deadline(&self, leaving: Option<Instant>) -> Option<(Instant, Expiry)> {
        let state = self.state();
        let limits = &self.limits;
        let by_phase = match (state.phase, leaving) {
            (Phase::New | Phase::Headers, _) => {
                Some((state.since + limits.header_time, Expiry::Cut))
            }
            // Once for the review, and once for the client to read the answer.
            (Phase::Busy, None) => Some((state.since + limits.request_time * 2, Expiry::Cut)),
            // However many requests it goes on to make.
            (Phase::Busy, Some(told)) => Some((
                (state.since + limits.request_time * 2).min(told + limits.request_time * 3),
                Expiry::Cut,
            )),
            (Phase::Idle, Some(told)) => Some((state.since.max(told) + GOODBYE, Expiry::Cut)),
            (Phase::Idle, None) if self.http1 => {
                Some((state.since + limits.idle_time, Expiry::Close))
            }
            // Pings tell whether an HTTP/2 peer is still there.
            (Phase::Idle, None) => None,
        };
        let by_stall = state
            .stalled
            .map(|since| (since + limits.request_time, Expiry::Cut));
        by_phase
            .into_iter()
            .chain(by_stall)
            .min_by_key(|(deadline, _)| *deadline)
    }

    /// Whether there has been a request.
    pub(crate) fn has_asked(&self) -> bool {
        self.state().has_asked
    }

    /// Since when no request is being answered; nothing while one is.
    pub(crate) fn idle_since(&self) -> Option<Instant> {
        let state = self.state();
        (state.in_flight == 0).then_some(state.since)
    }

    fn received(&self) {
        let mut state = self.state();
        if self.http1 && state.phase == Phase::Idle {
            state.phase = Phase::Headers;
            state.since = Instant::now();
        }
    }

    fn sent(&self, ready: bool) {
        let mut state = self.state();
        if ready {
            state.stalled = None;
        } else {
            state.stalled.get_or_insert_with(Instant::now);
        }
    }

    pub(crate) fn begin(&self) {
        let mut state = self.state();
        state.has_asked = true;
        state.in_flight += 1;
        if state.in_flight == 1 {
            state.phase = Phase::Busy;
            state.since = Instant::now();
        }
    }

    pub(crate) fn end(&self) {
        let mut state = self.state();
        state.in_flight -= 1;
        state.since = Instant::now();
        if state.in_flight == 0 {
            state.phase = Phase::Idle;
        }
    }
}

/// A request in flight, from its headers to the last byte of its answer.
pub(crate) struct InFlight {
    pulse: Arc<Pulse>,
    total: Arc<AtomicUsize>,
}

impl InFlight {
    /// Counts the request in its connection and in the server's `total`.
    pub(crate) fn begin(pulse: &Arc<Pulse>, total: &Arc<AtomicUsize>) -> Self {
        pulse.begin();
        total.fetch_add(1, Ordering::Relaxed);
        Self {
            pulse: Arc::clone(pulse),
            total: Arc::clone(total),
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.pulse.end();
        self.total.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Bytes of an answer that keep their request in flight until the last of them is sent. Tying this to the body would
/// end it too early: HTTP/2 takes the whole body at once, and then waits for the peer.
struct Sending {
    bytes: Bytes,
    _in_flight: Arc<InFlight>,
}

impl InFlight {
    /// The body of the answer, which keeps the request in flight until it is sent.
    pub(crate) fn until_sent(
        self,
        body: Body,
    ) -> impl HttpBody<Data = Bytes, Error = axum::Error> + Send + 'static {
        let in_flight = Arc::new(self);
        body.map_frame(move |frame| {
            frame.map_data(|bytes| {
                Bytes::from_owner(Sending {
                    bytes,
                    _in_flight: Arc::clone(&in_flight),
                })
            })
        })
    }
}

impl AsRef<[u8]> for Sending {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// A stream that tells the pulse what moves through it.
pub(crate) struct Watched<S> {
    pub stream: S,
    pub pulse: Arc<Pulse>,
}

impl<S> Watched<S> {
    fn sending<T>(&self, poll: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        self.pulse.sent(poll.is_ready());
        poll
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let poll = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.pulse.received();
        }
        poll
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.sending(poll)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.sending(poll)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.stream).poll_flush(cx);
        self.sending(poll)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.sending(poll)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_was_told_to_close_gets_no_more_time_by_asking_on() {
        let limits = Limits::default();
        let pulse = Arc::new(Pulse::new(limits.clone(), false));
        let in_flight = Arc::new(AtomicUsize::new(0));
        let told = Instant::now();
        let mut last = None;
        for _ in 0..100 {
            // One request begins before the other ends.
            let next = InFlight::begin(&pulse, &in_flight);
            drop(last.replace(next));
            tokio::time::advance(Duration::from_secs(1)).await;
            let (deadline, expiry) = pulse.deadline(Some(told)).unwrap();
            assert_eq!(expiry, Expiry::Cut);
            assert!(deadline <= told + limits.request_time * 3, "{deadline:?}");
        }
        let (unhurried, _) = pulse.deadline(None).unwrap();
        assert!(unhurried > Instant::now(), "nobody told it to close");
    }
}
