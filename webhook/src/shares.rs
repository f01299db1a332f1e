//! What there is a bounded number of, shared among peers: whoever takes too much waits or is sent away, so that there is some
//! left for others.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// A bounded number of something.
pub struct Shares {
    state: Mutex<State>,
    /// A peer may have one part in so many of what is left to all others.
    parts: usize,
}

struct State {
    free: usize,
    taken: HashMap<IpAddr, usize>,
    waiting: HashMap<IpAddr, Waiting>,
}

/// Those of one peer that wait, and how many they are.
struct Waiting {
    freed: Arc<Notify>,
    count: usize,
}

/// What a peer has taken of it, until it is dropped.
pub struct Share {
    of: Arc<Shares>,
    peer: IpAddr,
    count: usize,
}

impl Shares {
    /// So many, all free. A peer may have one part in so many (`parts`) of what is left to all others, and one of it in
    /// any case: the more parts, the more is left for those that come later.
    pub fn new(count: usize, parts: usize) -> Arc<Self> {
        let state = State {
            free: count,
            taken: HashMap::new(),
            waiting: HashMap::new(),
        };
        Arc::new(Self {
            state: Mutex::new(state),
            parts,
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A share of this peer, with nothing in it.
    pub fn of(self: &Arc<Self>, peer: IpAddr) -> Share {
        Share {
            of: self.clone(),
            peer,
            count: 0,
        }
    }
}

impl Share {
    /// Takes so many more. False when there are not enough, or when the peer would have more than its part of what is
    /// left to all others. One that has nothing yet gets it as long as there is any.
    pub(crate) fn grow(&mut self, by: usize) -> bool {
        let mut state = self.of.state();
        let has = state.taken.get(&self.peer).copied().unwrap_or(0);
        let is_first = has == 0 && by == 1;
        let fair = |left: &usize| is_first || (has + by).saturating_mul(self.of.parts) <= *left;
        let Some(left) = state.free.checked_sub(by).filter(fair) else {
            return false;
        };
        state.free = left;
        *state.taken.entry(self.peer).or_default() += by;
        self.count += by;
        true
    }

    /// The same, and waits for as long as it takes.
    pub async fn grow_when_free(&mut self, by: usize) {
        if self.grow(by) {
            return;
        }
        let place = WaitingPlace::of(self);
        loop {
            place.freed.notified().await;
            if self.grow(by) {
                break;
            }
        }
        // There may be enough for another one of the same peer, which is woken by nobody else.
        place.freed.notify_one();
    }
}

/// A place among those of a peer that wait.
struct WaitingPlace {
    of: Arc<Shares>,
    peer: IpAddr,
    freed: Arc<Notify>,
}

impl WaitingPlace {
    fn of(share: &Share) -> Self {
        let mut state = share.of.state();
        let waiting = state.waiting.entry(share.peer).or_insert_with(|| Waiting {
            freed: Arc::default(),
            count: 0,
        });
        waiting.count += 1;
        // What was freed since the share was tried woke nobody.
        waiting.freed.notify_one();
        Self {
            of: share.of.clone(),
            peer: share.peer,
            freed: waiting.freed.clone(),
        }
    }
}

impl Drop for WaitingPlace {
    fn drop(&mut self) {
        let mut state = self.of.state();
        if let Some(waiting) = state.waiting.get_mut(&self.peer) {
            waiting.count -= 1;
            if waiting.count == 0 {
                state.waiting.remove(&self.peer);
            }
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
        // One of each peer, and not all: a peer that waits a thousand times must not cost a thousand looks.
        for waiting in state.waiting.values() {
            waiting.freed.notify_one();
        }
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
        let shares = Shares::new(1024, 1);
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
    async fn the_more_parts_the_more_peers_find_some() {
        let shares = Shares::new(1024, 4);
        let mut held = Vec::new();
        for last in 0..20 {
            let mut share = shares.of(peer(last));
            while share.grow(1) {}
            held.push(share);
        }
        let counts: Vec<_> = held.iter().map(|share| share.count).collect();
        assert_eq!(counts[..4], [204, 164, 131, 105]);
        assert!(counts.iter().all(|count| *count > 1), "{counts:?}");
        let pair = Shares::new(2, 4);
        let (mut one, mut other) = (pair.of(peer(1)), pair.of(peer(2)));
        assert!(one.grow(1) && !one.grow(1), "one in any case, and no more");
        assert!(other.grow(1));
    }

    #[tokio::test]
    async fn one_peer_that_waits_often_keeps_no_other_waiting() {
        let shares = Shares::new(4, 1);
        let mut first = shares.of(peer(1));
        first.grow_when_free(2).await;
        let mut crowd = tokio::task::JoinSet::new();
        for _ in 0..1000 {
            let mut share = shares.of(peer(1));
            crowd.spawn(async move {
                share.grow_when_free(1).await;
                share
            });
        }
        tokio::task::yield_now().await;
        let mut other = shares.of(peer(2));
        other.grow_when_free(1).await;
        drop(first);
        // All of the crowd get their turn, as long as one after the other lets go.
        while let Some(share) = crowd.join_next().await {
            drop(share.unwrap());
        }
        drop(other);
        let state = shares.state();
        assert_eq!(
            (state.free, state.taken.len(), state.waiting.len()),
            (4, 0, 0)
        );
    }

    #[tokio::test]
    async fn who_waits_gets_what_is_freed() {
        let shares = Shares::new(10, 1);
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
