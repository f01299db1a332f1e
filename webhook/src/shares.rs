//! What there is a bounded number of, shared among peers: whoever takes too much waits or is sent away, so that there is some
//! left for others.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// A bounded number of something.
pub(crate) struct Shares {
    state: Mutex<State>,
    freed: Notify,
}

struct State {
    free: usize,
    taken: HashMap<IpAddr, usize>,
}

/// What a peer has taken of it, until it is dropped.
pub(crate) struct Share {
    of: Arc<Shares>,
    peer: IpAddr,
    count: usize,
}

impl Shares {
    /// So many, all free.
    pub(crate) fn new(count: usize) -> Arc<Self> {
        let state = State {
            free: count,
            taken: HashMap::new(),
        };
        Arc::new(Self {
            state: Mutex::new(state),
            freed: Notify::new(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A share of this peer, with nothing in it.
    pub(crate) fn of(self: &Arc<Self>, peer: IpAddr) -> Share {
        Share {
            of: self.clone(),
            peer,
            count: 0,
        }
    }
}

impl Share {
    /// Takes so many more. False when there are not enough, or when the peer would have more than is left to all others:
    /// so some is left for one that has nothing yet, however many have come before.
    pub(crate) fn grow(&mut self, by: usize) -> bool {
        let mut state = self.of.state();
        let has = state.taken.get(&self.peer).copied().unwrap_or(0);
        let Some(left) = state.free.checked_sub(by).filter(|left| has + by <= *left) else {
            return false;
        };
        state.free = left;
        *state.taken.entry(self.peer).or_default() += by;
        self.count += by;
        true
    }

    /// The same, and waits for as long as it takes.
    pub(crate) async fn grow_when_free(&mut self, by: usize) {
        let of = self.of.clone();
        loop {
            let freed = of.freed.notified();
            if self.grow(by) {
                return;
            }
            freed.await;
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if self.count == 0 {
            return;
        }
        let mut state = self.of.state();
        state.free += self.count;
        if let Some(taken) = state.taken.get_mut(&self.peer) {
            *taken -= self.count;
            if *taken == 0 {
                state.taken.remove(&self.peer);
            }
        }
        drop(state);
        self.of.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    #[tokio::test]
    async fn there_is_some_left_for_one_that_has_nothing_yet() {
        let shares = Shares::new(1024);
        let mut held = Vec::new();
        for last in 0..8 {
            let mut share = shares.of(peer(last));
            while share.grow(1) {}
            held.push(share);
        }
        let counts: Vec<_> = held.iter().map(|share| share.count).collect();
        assert_eq!(counts, [512, 256, 128, 64, 32, 16, 8, 4]);
        assert!(shares.of(peer(8)).grow(1));
        let mut second = shares.of(peer(0));
        assert!(!second.grow(1), "another share of the same peer");
        drop(held.remove(0));
        assert!(second.grow(100));
        drop((held, second));
        let state = shares.state();
        assert_eq!((state.free, state.taken.len()), (1024, 0));
    }

    #[tokio::test]
    async fn who_waits_gets_what_is_freed() {
        let shares = Shares::new(10);
        let mut first = shares.of(peer(1));
        assert!(first.grow(5));
        let mut second = shares.of(peer(1));
        let waits = async {
            second.grow_when_free(5).await;
            second.count
        };
        let frees = async {
            tokio::task::yield_now().await;
            drop(first);
        };
        let (count, ()) = tokio::join!(waits, frees);
        assert_eq!(count, 5);
    }
}
