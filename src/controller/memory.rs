//! What is remembered of each server between passes. Losing it costs a write or a try, nothing else.

use std::collections::{BTreeSet, HashMap};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::cache::lock;
use super::key::Key;
use super::view::server::WishOf;

/// What is remembered of all servers.
#[derive(Default)]
pub struct Memories(Mutex<HashMap<Key, Memory>>);

/// What is remembered of one server.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// The uid of the server that this is about: its successor of the same name begins anew.
    uid: Box<str>,
    /// Passes that failed in a row for a reason that may pass.
    pub failures: u32,
    /// The causes of failures that Events told, since the last pass without one.
    pub told_failures: BTreeSet<String>,
    /// The last trouble of pods that an Event told, since the last pass without one.
    pub told_trouble: Option<String>,
    /// The status that was written last.
    pub written: Option<Written>,
    /// When this process first saw that the server is being deleted.
    pub deleting_since: Option<Instant>,
    /// What there is to do about a pass that panicked.
    pub panic: Panic,
    /// When time alone may change what the last pass said.
    pub changes_in: Option<Duration>,
}

/// What there is to do about a pass that panicked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Panic {
    /// Nothing.
    #[default]
    None,
    /// The status is to tell it in these words, as long as the user wants what the pass was over.
    ToTell(String, WishOf),
    /// The status is being written. Another panic now is not told.
    Telling,
}

/// A status that was written.
#[derive(Clone, Copy, Debug)]
pub struct Written {
    /// What it said, without its counters.
    pub gist: u64,
    /// All of it, as it was stored.
    pub stored: u64,
    /// When.
    pub at: Instant,
}

impl Memories {
    /// Looks at, or changes, what is remembered of the server of this name and uid.
    pub fn of<T>(&self, key: &Key, uid: &str, see: impl FnOnce(&mut Memory) -> T) -> T {
        let mut all = lock(&self.0);
        let memory = all.entry(key.clone()).or_default();
        if &*memory.uid != uid {
            *memory = Memory {
                uid: uid.into(),
                ..Memory::default()
            };
        }
        see(memory)
    }

    /// Forgets a server that has gone.
    pub fn forget(&self, key: &Key) {
        lock(&self.0).remove(key);
    }
}
