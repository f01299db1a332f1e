//! What all connections share: the limits, the handlers, and whether the server is leaving.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::Semaphore;

use crate::body::Memory;
use crate::limits::Limits;
use crate::review::Handler;
use crate::shares::Shares;

/// Large reviews at once.
const LARGE_AT_ONCE: usize = 2;

/// Says why the server is not ready.
pub(crate) type Ready = Box<dyn Fn() -> Result<(), String> + Send + Sync>;

/// What all connections share.
pub(crate) struct App {
    pub limits: Limits,
    /// Requests that are being answered, on all connections.
    pub in_flight: Arc<AtomicUsize>,
    /// The requests that are being answered or read, by peer. Each takes some memory before its body is counted.
    pub requests: Arc<Shares>,
    /// One permit per review.
    pub reviews: Arc<Semaphore>,
    /// One permit per large review: it is decoded beside the threads that serve, and what it takes in memory is bounded
    /// by their number.
    pub large_reviews: Arc<Semaphore>,
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
        let permits = |number: usize| {
            let number = number.clamp(1, Semaphore::MAX_PERMITS);
            Arc::new(Semaphore::new(number))
        };
        Self {
            in_flight: Arc::default(),
            requests: Shares::new(limits.requests),
            reviews: permits(limits.concurrent),
            large_reviews: permits(LARGE_AT_ONCE),
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
