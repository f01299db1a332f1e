//! The fence around a leader: after a deadline it sends nothing, whatever is still running.
//!
//! A process can be paused at any moment (SIGSTOP, a frozen machine) and wake up when another replica leads. It must
//! not send then what it was about to write. So the deadline is checked twice: where a request is handed to the
//! client, and again where its bytes are written to the socket, because a connection is a task of its own and may
//! hold requests from before the pause. One gap is left, between the second check and the system call. Bytes that
//! the kernel still holds are dropped in time by a socket option (see `connect`).

mod gate;
mod requests;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

pub use gate::Gate;

/// Until when the requests of one lead may be sent. Once closed it stays closed; the next lead has its own fence.
#[derive(Clone, Debug)]
pub struct Fence(Arc<Mutex<Option<Open>>>);

/// Open for a time from a moment on. Measured by both clocks: the monotonic one stands still while a machine sleeps,
/// the other can be set back.
#[derive(Clone, Copy, Debug)]
struct Open {
    since: Moment,
    time: Duration,
}

impl Open {
    fn left(self) -> Duration {
        self.time.saturating_sub(self.since.elapsed())
    }
}

fn current(open: Option<Open>) -> Option<Open> {
    open.filter(|open| !open.left().is_zero())
}

/// A moment, by both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    monotonic: Instant,
    wall: SystemTime,
}

impl Moment {
    /// Now.
    pub fn now() -> Self {
        Self {
            monotonic: Instant::now(),
            wall: SystemTime::now(),
        }
    }

    /// The time since then, by the clock that advanced further.
    pub fn elapsed(&self) -> Duration {
        let wall = self.wall.elapsed().unwrap_or_default();
        self.monotonic.elapsed().max(wall)
    }
}

/// A request was stopped at the fence.
#[derive(Debug, thiserror::Error)]
#[error("this replica does not lead any more; another one goes on")]
pub struct NotLeading;

impl Fence {
    /// A fence that lets requests out for `time` from `since` on.
    pub fn open(since: Moment, time: Duration) -> Self {
        Self(Arc::new(Mutex::new(Some(Open { since, time }))))
    }

    /// A fence without a deadline; it is open until it is closed.
    pub fn none() -> Self {
        Self::open(Moment::now(), Duration::MAX)
    }

    /// Moves the deadline to `time` after `since`, unless the fence is closed already.
    pub fn renew(&self, since: Moment, time: Duration) {
        let mut open = self.lock();
        *open = current(*open).map(|_| Open { since, time });
    }

    /// Closes the fence for good.
    pub fn close(&self) {
        *self.lock() = None;
    }

    /// How long the fence stays open from now on; zero when it is closed.
    pub fn left(&self) -> Duration {
        let mut open = self.lock();
        // A closed fence stays closed even when a clock is set back later.
        *open = current(*open);
        open.map(Open::left).unwrap_or_default()
    }

    /// Fails when the fence is closed.
    fn check(&self) -> Result<(), NotLeading> {
        if self.left().is_zero() {
            return Err(NotLeading);
        }
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Open>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_open_for_a_time_only() {
        let minute = Duration::from_mins(1);
        let fence = Fence::open(Moment::now(), minute);
        assert!(fence.left() > Duration::from_secs(50));
        fence.renew(Moment::now(), 2 * minute);
        assert!(fence.left() > minute);
        assert!(Fence::none().left() > minute, "for good");
    }

    #[test]
    fn once_closed_it_stays_closed() {
        let minute = Duration::from_mins(1);
        let closed = Fence::open(Moment::now(), minute);
        closed.close();
        let over = Fence::open(Moment::now(), Duration::ZERO);
        for fence in [closed, over] {
            assert!(fence.left().is_zero(), "{fence:?}");
            fence.renew(Moment::now(), minute);
            assert!(fence.left().is_zero(), "{fence:?}");
        }
        let set_back = Fence::none();
        let later = Moment {
            monotonic: Instant::now(),
            wall: SystemTime::now() - 2 * minute,
        };
        set_back.renew(later, minute);
        assert!(set_back.left().is_zero(), "its time is over");
        assert!(set_back.lock().is_none(), "whatever a clock says later");
    }

    #[test]
    fn the_clock_that_went_further_counts() {
        let hour = Duration::from_hours(1);
        let slept = Moment {
            monotonic: Instant::now(),
            wall: SystemTime::now() - hour,
        };
        assert!(slept.elapsed() >= hour, "a machine that slept");
        let set_back = Moment {
            monotonic: Instant::now(),
            wall: SystemTime::now() + hour,
        };
        assert!(set_back.elapsed() < hour, "a clock that was set back");
    }
}
