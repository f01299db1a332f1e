//! The connections that there are. When there are too many, one of the peer that has the most goes: whoever keeps many open
//! is not to keep others out.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::pulse::Pulse;

/// A connection without a request is no idle one for this long: the first request is on its way.
const FIRST_REQUEST: Duration = Duration::from_secs(1);

/// A peer with at most this part of the connections is told before one of its connections is closed.
const FEW: usize = 8;

/// What a connection is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// Nothing.
    Stay,
    /// To take no more requests, and to end after those that it has.
    Close,
    /// To end now.
    Cut,
}

/// All connections of a server.
pub(crate) struct Connections {
    most: usize,
    all: Mutex<All>,
}

#[derive(Default)]
struct All {
    next: u64,
    /// In the order in which they came.
    here: BTreeMap<u64, Connection>,
}

struct Connection {
    peer: IpAddr,
    since: Instant,
    /// From the end of the handshake on.
    pulse: Option<Arc<Pulse>>,
    told: watch::Sender<Told>,
}

impl Connection {
    fn is_told(&self) -> bool {
        *self.told.borrow() != Told::Stay
    }

    /// Since when nothing is asked on it.
    fn idle_since(&self, now: Instant) -> Option<Instant> {
        match &self.pulse {
            Some(pulse) if pulse.has_asked() => pulse.idle_since(),
            _ => Some(self.since).filter(|since| now >= *since + FIRST_REQUEST),
        }
    }

    fn has_asked(&self) -> bool {
        self.pulse.as_ref().is_some_and(|pulse| pulse.has_asked())
    }
}

/// A connection's place among them, until it is dropped.
pub(crate) struct Place {
    connections: Arc<Connections>,
    id: u64,
    told: watch::Receiver<Told>,
    /// How many there were before it.
    pub crowd: usize,
}

impl Connections {
    /// No more than `most`, but for those that have been told to go.
    pub(crate) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self {
            most: most.max(1),
            all: Mutex::default(),
        })
    }

    fn all(&self) -> MutexGuard<'_, All> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a new connection a place. Where there are too many, another one is told to go, if one can be.
    pub(crate) fn admit(self: &Arc<Self>, peer: IpAddr) -> Place {
        let mut all = self.all();
        let (told, receiver) = watch::channel(Told::Stay);
        let (id, crowd, now) = (all.next, all.here.len(), Instant::now());
        all.next += 1;
        let connection = Connection {
            peer,
            since: now,
            pulse: None,
            told,
        };
        all.here.insert(id, connection);
        let staying = all.here.values().filter(|one| !one.is_told()).count();
        if staying > self.most {
            all.send_one_away(id, peer, self.most, now);
        }
        Place {
            connections: self.clone(),
            id,
            told: receiver,
            crowd,
        }
    }
}

impl All {
    fn send_one_away(&self, newest: u64, newcomer: IpAddr, most: usize, now: Instant) {
        let mut counts: HashMap<IpAddr, usize> = HashMap::new();
        let staying = || self.here.iter().filter(|(_, one)| !one.is_told());
        for (_, one) in staying() {
            *counts.entry(one.peer).or_default() += 1;
        }
        let largest = counts.values().copied().max().unwrap_or(0);
        let of_largest = || {
            staying().filter(|(id, one)| **id != newest && counts.get(&one.peer) == Some(&largest))
        };
        let idle = of_largest()
            .filter_map(|(_, one)| Some((one.idle_since(now)?, one)))
            .min_by_key(|(since, _)| *since)
            .map(|(_, one)| one);
        // For the sake of another peer one is cut in the midst of a request. For the peer's own sake none is: then it is the
        // newest that goes.
        let busy = || {
            let is_others = counts.get(&newcomer).copied() < Some(largest);
            let oldest = of_largest().map(|(_, one)| one).find(|_| is_others);
            oldest.or_else(|| self.here.get(&newest))
        };
        let Some(one) = idle.or_else(busy) else {
            return;
        };
        let is_modest = largest <= most / FEW && one.has_asked() && idle.is_some();
        let told = if is_modest { Told::Close } else { Told::Cut };
        tracing::debug!(peer = %one.peer, of_peer = largest, ?told, "too many connections");
        one.told.send_replace(told);
    }
}

impl Place {
    /// The handshake is over.
    pub(crate) fn shook_hands(&self, pulse: Arc<Pulse>) {
        if let Some(one) = self.connections.all().here.get_mut(&self.id) {
            one.pulse = Some(pulse);
        }
    }

    /// Ends when the connection is told to go, with how.
    pub(crate) async fn told(&mut self) -> Told {
        match self.told.wait_for(|told| *told != Told::Stay).await {
            Ok(told) => *told,
            // The sender lives as long as this.
            Err(_) => Told::Cut,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connections.all().here.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::Limits;

    fn peer(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    async fn pass(seconds: u64) {
        tokio::time::advance(Duration::from_secs(seconds)).await;
    }

    /// A connection that has made a request and is idle from now on, or is in the midst of one.
    fn connect(connections: &Arc<Connections>, of: u8, is_busy: bool) -> Place {
        let place = connections.admit(peer(of));
        let pulse = Arc::new(Pulse::new(Limits::default(), false));
        pulse.begin();
        if !is_busy {
            pulse.end();
        }
        place.shook_hands(pulse);
        place
    }

    fn told(places: &[Place]) -> Vec<Told> {
        places.iter().map(|place| *place.told.borrow()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_idle_one_of_the_peer_that_has_the_most_goes() {
        use Told::{Cut, Stay};
        let connections = Connections::new(4);
        let mut places = vec![connect(&connections, 1, false)];
        for _ in 0..3 {
            pass(1).await;
            places.push(connect(&connections, 2, false));
        }
        assert_eq!(told(&places), [Stay; 4]);
        pass(1).await;
        places.push(connect(&connections, 3, false));
        assert_eq!(told(&places), [Stay, Cut, Stay, Stay, Stay]);
        // Also when it comes itself.
        places.push(connect(&connections, 2, false));
        assert_eq!(told(&places), [Stay, Cut, Cut, Stay, Stay, Stay]);
        drop(places.remove(1));
        drop(places.remove(1));
        assert_eq!(connections.all().here.len(), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_is_cut_for_the_sake_of_others_only() {
        use Told::{Cut, Stay};
        let connections = Connections::new(2);
        let mut places: Vec<_> = (0..2).map(|_| connect(&connections, 1, true)).collect();
        pass(5).await;
        places.push(connect(&connections, 1, false));
        assert_eq!(told(&places), [Stay, Stay, Cut], "the peer's own newcomer");
        drop(places.remove(2));
        places.push(connect(&connections, 2, false));
        assert_eq!(told(&places), [Cut, Stay, Stay], "somebody else's");
    }

    #[tokio::test(start_paused = true)]
    async fn who_says_nothing_is_idle_and_who_has_few_is_told_first() {
        use Told::{Close, Cut, Stay};
        let connections = Connections::new(16);
        let mut places: Vec<_> = (0..16).map(|of| connect(&connections, of, false)).collect();
        pass(1).await;
        places.push(connections.admit(peer(99)));
        assert_eq!(told(&places)[0], Close, "by GOAWAY");
        let silent = Connections::new(1);
        let mut places = vec![silent.admit(peer(1))];
        places.push(silent.admit(peer(1)));
        assert_eq!(told(&places), [Stay, Cut], "its request may be on its way");
        drop(places.remove(1));
        pass(1).await;
        places.push(silent.admit(peer(1)));
        assert_eq!(told(&places), [Cut, Stay]);
        assert_eq!(places[0].told().await, Cut);
    }
}
