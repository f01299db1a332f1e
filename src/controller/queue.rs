//! Which server gets a pass when: many at once, each once at a time, and what comes close together in one pass.
//!
//! kube's scheduler (5.0) merges and delays. Its `Controller` was used before: it wants a store of whole objects, runs
//! all passes on one thread, and lets a panic through.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, stream};
use kube::runtime::scheduler::{ScheduleRequest, debounced_scheduler};
use tokio::sync::mpsc;
use tokio::task::{Id, JoinSet};
use tokio::time::Instant;

use super::key::Key;

/// Passes at one time, each over another server. Not counted are those that are slow: they wait for somebody else.
const WORKERS: usize = 24;
/// A pass is slow after this time.
const SLOW: Duration = Duration::from_secs(2);
/// Passes at one time with the slow ones.
const WITH_SLOW: usize = 256;
/// Of these, passes over servers of one namespace: a policy that makes its requests slow leaves most to the others.
const OF_ONE_NAMESPACE: usize = 16;
/// What comes this close together makes one pass.
const DEBOUNCE: Duration = Duration::from_millis(20);
/// Passes that are under way when the controller is told to stop get this long.
const DRAIN: Duration = Duration::from_secs(15);
/// Every server gets a pass within twice this time, whatever happens or does not.
const NOW_AND_THEN: Duration = Duration::from_hours(7);

/// When the next pass is to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// When something changes, and now and then.
    OnChange,
    /// When something changes, and after this time at the latest.
    In(Duration),
    /// There is no such server any more.
    Never,
}

/// Runs passes until `stop`, and then waits for those that are under way.
///
/// A change names a server, and the time after which it is to get a pass.
/// `pass` makes one and says what is next. `on_panic` does so for one that panicked, and is told what the panic said.
/// `depth` is told how many are due.
pub async fn run<P: Future<Output = Next> + Send + 'static>(
    mut changes: mpsc::UnboundedReceiver<(Key, Duration)>,
    pass: impl Fn(Key) -> P,
    on_panic: impl Fn(&Key, String) -> Next,
    depth: impl Fn(usize),
    stop: impl Future<Output = ()>,
) {
    let (schedule, mut scheduled) = mpsc::unbounded_channel();
    let requests = stream::poll_fn(move |context| scheduled.poll_recv(context));
    let mut times = pin!(debounced_scheduler(requests, DEBOUNCE));
    let mut stop = pin!(stop);
    let mut queue = Queue::default();
    let mut passes = JoinSet::new();
    let mut running: HashMap<Id, Key> = HashMap::new();
    // The passes that are not slow yet, and when they are; the oldest first.
    let mut quick: VecDeque<(Instant, Id)> = VecDeque::new();
    let at = |key: Key, after: Duration| {
        // It is received as long as this function runs.
        let _ = schedule.send(ScheduleRequest {
            message: key,
            run_at: Instant::now() + after,
        });
    };
    loop {
        while quick.len() < WORKERS
            && passes.len() < WITH_SLOW
            && let Some(key) = queue.next()
        {
            let handle = passes.spawn(pass(key.clone()));
            quick.push_back((Instant::now() + SLOW, handle.id()));
            running.insert(handle.id(), key);
        }
        depth(queue.depth());
        tokio::select! {
            () = &mut stop => break,
            Some((key, within)) = changes.recv() => {
                if queue.changed(key.clone(), Instant::now() + within) {
                    at(key, within);
                }
            }
            Some(key) = times.next() => queue.due(key),
            () = until(quick.front().map(|(slow_at, _)| *slow_at)) => drop(quick.pop_front()),
            Some(ended) = passes.join_next_with_id() => {
                let id = ended.as_ref().map_or_else(tokio::task::JoinError::id, |(id, _)| *id);
                quick.retain(|(_, quick)| *quick != id);
                let Some(key) = running.remove(&id) else { continue };
                let next = ended.map_or_else(|error| on_panic(&key, words(error)), |(_, next)| next);
                match next {
                    Next::Never => {}
                    Next::OnChange => at(key.clone(), now_and_then(&key)),
                    Next::In(time) => at(key.clone(), time),
                }
                queue.ended(&key);
            }
        }
    }
    let drained = async {
        while let Some(ended) = passes.join_next_with_id().await {
            if let Err(error) = ended
                && let Some(key) = running.get(&error.id())
            {
                on_panic(key, words(error));
            }
        }
    };
    if tokio::time::timeout(DRAIN, drained).await.is_err() {
        tracing::warn!("passes are cut off: they did not end in time; the next leader goes on");
    }
}

/// Waits until then, or for ever.
async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// Spread, so that not all servers come at once.
fn now_and_then(key: &Key) -> Duration {
    let share = RandomState::new().hash_one(key) % 1_000;
    NOW_AND_THEN + NOW_AND_THEN * u32::try_from(share).unwrap_or_default() / 1_000
}

/// What a panic said.
fn words(error: tokio::task::JoinError) -> String {
    let Ok(panic) = error.try_into_panic() else {
        return "it was stopped".to_owned();
    };
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no words".to_owned())
}

/// The servers whose pass is due: namespaces take turns, and within one the first comes first.
#[derive(Default)]
struct Queue {
    due: HashMap<Arc<str>, VecDeque<Key>>,
    /// The namespaces in which some are due.
    turns: VecDeque<Arc<str>>,
    waiting: HashSet<Key>,
    /// Whose pass will be due because something changed, and when.
    changed: HashMap<Key, Instant>,
    running: HashSet<Key>,
    running_in: HashMap<Arc<str>, usize>,
    /// Due again when the pass that is under way has ended.
    again: HashSet<Key>,
}

impl Queue {
    /// Notes a change. Whether the pass is to be earlier than was known: changes that keep coming do not put it off.
    fn changed(&mut self, key: Key, at: Instant) -> bool {
        let is_earlier = self.changed.get(&key).is_none_or(|known| at < *known);
        if is_earlier {
            self.changed.insert(key, at);
        }
        is_earlier
    }

    fn due(&mut self, key: Key) {
        if self.running.contains(&key) {
            self.again.insert(key);
        } else if self.waiting.insert(key.clone()) {
            let due = self.due.entry(key.namespace.clone()).or_default();
            if due.is_empty() {
                self.turns.push_back(key.namespace.clone());
            }
            due.push_back(key);
        }
    }

    fn next(&mut self) -> Option<Key> {
        for _ in 0..self.turns.len() {
            let namespace = self.turns.pop_front()?;
            if self
                .running_in
                .get(&namespace)
                .is_some_and(|running| *running >= OF_ONE_NAMESPACE)
            {
                self.turns.push_back(namespace);
                continue;
            }
            let due = self.due.get_mut(&namespace)?;
            let key = due.pop_front()?;
            if due.is_empty() {
                self.due.remove(&namespace);
            } else {
                self.turns.push_back(namespace.clone());
            }
            self.waiting.remove(&key);
            self.running.insert(key.clone());
            *self.running_in.entry(namespace).or_default() += 1;
            self.changed.remove(&key);
            return Some(key);
        }
        None
    }

    fn ended(&mut self, key: &Key) {
        self.running.remove(key);
        if let Some(running) = self.running_in.get_mut(&key.namespace) {
            *running -= 1;
            if *running == 0 {
                self.running_in.remove(&key.namespace);
            }
        }
        if let Some(key) = self.again.take(key) {
            self.due(key);
        }
    }

    fn depth(&self) -> usize {
        self.waiting.len()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::Semaphore;

    use super::*;

    fn key(name: &str) -> Key {
        Key::new("n", name)
    }

    #[test]
    fn a_server_has_one_pass_at_a_time_and_another_one_for_what_came_meanwhile() {
        let mut queue = Queue::default();
        for name in ["a", "b", "a"] {
            queue.changed(key(name), Instant::now());
            queue.due(key(name));
        }
        assert_eq!(queue.depth(), 2);
        assert_eq!(queue.next(), Some(key("a")));
        queue.due(key("a"));
        assert_eq!(queue.next(), Some(key("b")));
        assert_eq!(queue.next(), None, "a is under way");
        queue.ended(&key("a"));
        assert_eq!(queue.next(), Some(key("a")), "what came meanwhile");
    }

    #[test]
    fn changes_that_keep_coming_do_not_put_a_pass_off() {
        let mut queue = Queue::default();
        let now = Instant::now();
        let after = |millis| now + Duration::from_millis(millis);
        assert!(queue.changed(key("a"), after(100)));
        assert!(
            !queue.changed(key("a"), after(110)),
            "it is due before that"
        );
        assert!(
            queue.changed(key("a"), after(20)),
            "this one is more urgent"
        );
        queue.due(key("a"));
        queue.next().unwrap();
        assert!(queue.changed(key("a"), after(130)), "the pass has begun");
    }

    #[test]
    fn one_namespace_cannot_take_all_workers_and_does_not_come_first_for_ever() {
        let mut queue = Queue::default();
        for number in 0..100 {
            queue.due(Key::new("crowded", number.to_string()));
        }
        queue.due(Key::new("small", "a"));
        let namespaces: Vec<_> = std::iter::from_fn(|| queue.next())
            .map(|key| key.namespace.to_string())
            .collect();
        assert_eq!(
            namespaces[..3],
            ["crowded", "small", "crowded"],
            "they take turns"
        );
        assert_eq!(namespaces.len(), OF_ONE_NAMESPACE + 1);
        queue.due(Key::new("small", "b"));
        assert_eq!(queue.next().unwrap(), Key::new("small", "b"), "also later");
        queue.ended(&Key::new("crowded", "0"));
        assert_eq!(queue.next().unwrap(), Key::new("crowded", "16"));
        assert_eq!(queue.depth(), 83);
    }

    #[tokio::test(start_paused = true)]
    async fn slow_namespaces_leave_the_workers_to_the_others() {
        let (change, changes) = mpsc::unbounded_channel();
        let (told, mut passes) = mpsc::unbounded_channel();
        let begin = Instant::now();
        for server in 0..100 {
            for namespace in 0..10 {
                let key = Key::new(format!("slow-{namespace}"), server.to_string());
                change.send((key, Duration::ZERO)).unwrap();
            }
        }
        change
            .send((Key::new("quick", "a"), Duration::from_millis(100)))
            .unwrap();
        let pass = move |key: Key| {
            let told = told.clone();
            async move {
                if &*key.namespace == "quick" {
                    told.send(begin.elapsed()).unwrap();
                } else {
                    tokio::time::sleep(Duration::from_secs(30)).await;
                }
                Next::OnChange
            }
        };
        let stop = tokio::time::sleep(Duration::from_mins(1));
        run(changes, pass, |_, text| panic!("{text}"), |_| {}, stop).await;
        let took = passes.try_recv().unwrap();
        // 160 passes are slow, and are so one after another of 24.
        assert!(took < 8 * SLOW, "its turn came after {took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_at_which_nothing_happens_gets_a_pass_now_and_then() {
        let (change, changes) = mpsc::unbounded_channel();
        let (told, mut passes) = mpsc::unbounded_channel();
        let begin = Instant::now();
        for name in 0..100 {
            change
                .send((key(&format!("{name}")), Duration::ZERO))
                .unwrap();
        }
        let pass = move |key: Key| {
            told.send((key, begin.elapsed())).unwrap();
            std::future::ready(Next::OnChange)
        };
        let stop = tokio::time::sleep(2 * NOW_AND_THEN + Duration::from_mins(1));
        run(changes, pass, |_, text| panic!("{text}"), |_| {}, stop).await;
        let mut seconds: HashMap<Key, Vec<u64>> = HashMap::new();
        while let Ok((key, at)) = passes.try_recv() {
            seconds.entry(key).or_default().push(at.as_secs());
        }
        assert_eq!(seconds.len(), 100);
        let shortest = NOW_AND_THEN.as_secs();
        for (key, times) in &seconds {
            assert!(
                times.len() == 2 && (shortest..=2 * shortest + 1).contains(&times[1]),
                "{key}: {times:?}"
            );
        }
        let first = seconds.values().map(|times| times[1]).min().unwrap();
        let last = seconds.values().map(|times| times[1]).max().unwrap();
        assert!(
            last - first > shortest / 2,
            "they come from {first} to {last}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_ends_the_pass_and_nothing_else() {
        let (change, changes) = mpsc::unbounded_channel();
        let passes = Arc::new(Mutex::new(Vec::new()));
        let (told, enough) = (passes.clone(), Arc::new(Semaphore::new(0)));
        let done = enough.clone();
        for name in ["bad", "good"] {
            change.send((key(name), Duration::ZERO)).unwrap();
        }
        let pass = move |key: Key| {
            let (told, enough) = (told.clone(), enough.clone());
            async move {
                told.lock().unwrap().push(key.name.to_string());
                enough.add_permits(1);
                assert_eq!(&*key.name, "good", "this one is bad");
                Next::In(Duration::from_secs(100))
            }
        };
        let panics = AtomicUsize::new(0);
        let on_panic = |key: &Key, text: String| {
            assert!(
                &*key.name == "bad" && text.contains("this one is bad"),
                "{key}: {text}"
            );
            panics.fetch_add(1, Ordering::Relaxed);
            Next::In(Duration::from_mins(1))
        };
        let stop = async {
            let _ = done.acquire_many(5).await.unwrap();
        };
        run(changes, pass, on_panic, |_| {}, stop).await;
        let mut passes = passes.lock().unwrap().clone();
        passes[..2].sort_unstable();
        assert_eq!(passes, ["bad", "good", "bad", "good", "bad"]);
        assert_eq!(panics.into_inner(), 3);
    }
}
