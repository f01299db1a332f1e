//! What all connections share: the limits, the handlers, and whether the server is leaving.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::body::Memory;
use crate::limits::Limits;
use crate::review::Handler;
use crate::shares::Shares;

/// Large reviews at once.
const LARGE_AT_ONCE: usize = 2;

/// A peer has at most a fourth of what is left to all others: twenty that take what they can leave some for the next.
const PARTS: usize = 4;

/// Says why the server is not ready.
pub(crate) type Ready = Box<dyn Fn() -> Result<(), String> + Send + Sync>;

/// What all connections share.
pub(crate) struct App {
    pub limits: Limits,
    /// Requests that are being answered, on all connections.
    pub in_flight: Arc<AtomicUsize>,
    /// The requests that are being answered or read, by peer. Each takes some memory before its body is counted.
    pub requests: Arc<Shares>,
    /// The reviews that are being judged, by peer.
    pub reviews: Arc<Shares>,
    /// The large ones: each is decoded beside the threads that serve, and what they take in memory is bounded by their
    /// number.
    pub large_reviews: Arc<Shares>,
    /// For the bodies.
    pub memory: Memory,
    ready: Ready,
    leaving: AtomicBool,
}

/// One handler, and what it shares with the others.
#[derive(Clone)]
pub(crate) struct Hook {
    pub app: Arc<App>,
    pub handler: Arc<dyn Handler>,
}

impl App {
    pub(crate) fn new(limits: Limits, ready: Ready) -> Self {
        Self {
            in_flight: Arc::default(),
            requests: Shares::new(limits.requests, PARTS),
            reviews: Shares::new(limits.concurrent.max(1), PARTS),
            large_reviews: Shares::new(LARGE_AT_ONCE, PARTS),
            memory: Memory::new(limits.memory, limits.body),
            ready,
            leaving: AtomicBool::new(false),
            limits,
        }
    }

    /// Whether callers should go elsewhere.
    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Relaxed)
    }

    /// From now on `/readyz` says no.
    pub(crate) fn leave(&self) {
        self.leaving.store(true, Ordering::Relaxed);
    }

    /// Whether the server is ready; if not, why.
    pub(crate) fn ready(&self) -> Result<(), String> {
        if self.is_leaving() {
            return Err("shutting down".to_owned());
        }
        (self.ready)()
    }
}
