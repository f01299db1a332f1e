//! The newest view of each object of a kind: the watch's, or that of our own last write where it is ahead.
//!
//! A pass may begin before the watch has shown what the last pass wrote. Without that write in view it would be
//! done again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::key::Key;
use super::view::View;

/// No answer to a write, and no event of a watch, comes later than this after the object was seen to go.
const LATE: Duration = Duration::from_mins(5);

/// The views of a kind, by name.
pub struct Cache<V>(Mutex<Inner<V>>);

struct Inner<V> {
    views: HashMap<Key, Entry<V>>,
    /// The list that the watch is in the midst of: when it began, and what it has shown.
    listing: Option<(Instant, HashMap<Key, Entry<V>>)>,
    /// Uids of objects that have gone: up to which version, and since when.
    gone: HashMap<Box<str>, (u64, Instant)>,
    /// When the old ones among these were last thrown away.
    tidied: Instant,
}

struct Entry<V> {
    view: Arc<V>,
    /// When we wrote it, until the watch shows it.
    written: Option<Instant>,
}

/// What an event did to a cache.
#[derive(Debug, PartialEq, Eq)]
pub struct Change<V> {
    /// The object as it was known before.
    pub before: Option<Arc<V>>,
    /// As it is known now.
    pub after: Option<Arc<V>>,
}

impl<V> Default for Cache<V> {
    fn default() -> Self {
        Self(Mutex::new(Inner {
            views: HashMap::new(),
            listing: None,
            gone: HashMap::new(),
            tidied: Instant::now(),
        }))
    }
}

impl<V: View> Cache<V> {
    /// The newest view of the object of this name.
    pub fn get(&self, key: &Key) -> Option<Arc<V>> {
        Some(self.lock().views.get(key)?.view.clone())
    }

    /// The newest view of this very object, also while it is being listed.
    pub fn known(&self, key: &Key, uid: &str) -> Option<Arc<V>> {
        self.get(key).filter(|view| view.uid() == uid)
    }

    /// Calls back with every view.
    pub fn each(&self, mut see: impl FnMut(&V)) {
        self.lock()
            .views
            .values()
            .for_each(|entry| see(&entry.view));
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.lock().views.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes in the answer to a request of ours, unless something newer is known.
    pub fn wrote(&self, key: &Key, view: V) -> Arc<V> {
        let view = Arc::new(view);
        let mut inner = self.lock();
        let newer = inner
            .views
            .get(key)
            .is_some_and(|entry| entry.view.version() > view.version());
        if !newer && !inner.is_gone(&*view) {
            let written = Some(Instant::now());
            let entry = Entry {
                view: view.clone(),
                written,
            };
            inner.views.insert(key.clone(), entry);
        }
        view
    }

    /// The object of this uid has gone, as an answer to a request of ours says.
    pub fn gone(&self, key: &Key, uid: &str) {
        let mut inner = self.lock();
        if inner
            .views
            .get(key)
            .is_some_and(|entry| entry.view.uid() == uid)
        {
            inner.views.remove(key);
        }
        inner.bury(uid, u64::MAX);
    }

    /// Takes in what the watch shows. Nothing when it is known already, or when a pass would find the same.
    pub fn shown(&self, key: &Key, view: V) -> Option<Change<V>> {
        let view = Arc::new(view);
        let mut inner = self.lock();
        if inner.is_gone(&view) {
            return None;
        }
        let entry = Entry {
            view: view.clone(),
            written: None,
        };
        let before = match inner.views.get_mut(key) {
            Some(known) if known.view.version() >= view.version() => {
                if known.view.version() == view.version() {
                    known.written = None;
                }
                return None;
            }
            Some(known) => Some(std::mem::replace(known, entry).view),
            None => {
                inner.views.insert(key.clone(), entry);
                None
            }
        };
        let same = before.as_ref().is_some_and(|before| before.same(&view));
        (!same).then_some(Change {
            before,
            after: Some(view),
        })
    }

    /// The watch shows that this object has gone, as of this version. A watch that selects by a label shows so, too, of
    /// an object that has lost the label, and may get it back.
    pub fn deleted(&self, key: &Key, uid: &str, version: u64) -> Option<Change<V>> {
        let mut inner = self.lock();
        inner.bury(uid, version);
        let is_it = inner
            .views
            .get(key)
            .is_some_and(|entry| entry.view.uid() == uid);
        let before = is_it.then(|| inner.views.remove(key)).flatten()?.view;
        Some(Change {
            before: Some(before),
            after: None,
        })
    }

    /// The watch begins to list everything.
    pub fn list_begins(&self) {
        self.lock().listing = Some((Instant::now(), HashMap::new()));
    }

    /// The list holds this object.
    pub fn listed(&self, key: &Key, view: V) {
        let mut inner = self.lock();
        if inner.is_gone(&view) {
            return;
        }
        let entry = Entry {
            view: Arc::new(view),
            written: None,
        };
        if let Some((_, listing)) = &mut inner.listing {
            listing.insert(key.clone(), entry);
        }
    }

    /// The list is over. All that was there before or is there now may have changed: an object that went during
    /// the gap is never shown as deleted.
    pub fn list_ends(&self) -> Vec<Change<V>> {
        let mut inner = self.lock();
        let Some((since, listing)) = inner.listing.take() else {
            return Vec::new();
        };
        let mut before = std::mem::replace(&mut inner.views, listing);
        let mut changes = Vec::with_capacity(inner.views.len());
        // The list is at least as new as all that is in it.
        let newest = inner.views.values().map(|entry| entry.view.version()).max();
        for (key, entry) in &mut inner.views {
            // What we wrote since the list began may be newer than the list.
            let known = before
                .get(key)
                .filter(|known| known.written.is_some_and(|written| written >= since));
            if let Some(known) = known.filter(|known| known.view.version() > entry.view.version()) {
                entry.view = known.view.clone();
                entry.written = known.written;
            }
        }
        for (key, entry) in &inner.views {
            changes.push(Change {
                before: before.remove(key).map(|entry| entry.view),
                after: Some(entry.view.clone()),
            });
        }
        for entry in before.into_values() {
            // What was created since is shown by the watch, with a newer version.
            let version = newest.unwrap_or(0);
            if entry.written.is_none_or(|written| written < since) {
                inner.bury(entry.view.uid(), version.max(entry.view.version()));
            }
            changes.push(Change {
                before: Some(entry.view),
                after: None,
            });
        }
        inner.views.shrink_to_fit();
        changes
    }

    fn lock(&self) -> MutexGuard<'_, Inner<V>> {
        lock(&self.0)
    }
}

impl<V: View> Inner<V> {
    fn bury(&mut self, uid: &str, version: u64) {
        // Not at each: many may go at once.
        if self.tidied.elapsed() >= LATE {
            self.gone.retain(|_, (_, since)| since.elapsed() < LATE);
            self.tidied = Instant::now();
        }
        self.gone.insert(uid.into(), (version, Instant::now()));
    }

    /// Whether this is of before the object went.
    fn is_gone(&self, view: &V) -> bool {
        let gone = self.gone.get(view.uid());
        gone.is_some_and(|(version, since)| view.version() <= *version && since.elapsed() < LATE)
    }
}

/// What is behind these locks is whole at every moment, so a panic elsewhere does not spoil it.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Debug, PartialEq, Eq)]
    struct Thing {
        uid: &'static str,
        version: u64,
        word: &'static str,
    }

    impl View for Thing {
        fn uid(&self) -> &str {
            self.uid
        }

        fn version(&self) -> u64 {
            self.version
        }

        fn same(&self, other: &Self) -> bool {
            (self.uid, self.word) == (other.uid, other.word)
        }
    }

    fn thing(uid: &'static str, version: u64, word: &'static str) -> Thing {
        Thing { uid, version, word }
    }

    fn key(name: &str) -> Key {
        Key::new("n", name)
    }

    fn version(cache: &Cache<Thing>) -> Option<u64> {
        cache.get(&key("a")).map(|view| view.version)
    }

    #[test]
    fn a_write_is_in_view_before_the_watch_shows_it_and_is_no_news_after() {
        let cache = Cache::default();
        cache.wrote(&key("a"), thing("u", 5, "x"));
        assert_eq!(version(&cache), Some(5));
        assert_eq!(
            cache.shown(&key("a"), thing("u", 4, "w")),
            None,
            "the watch is behind"
        );
        assert_eq!(version(&cache), Some(5));
        assert_eq!(
            cache.shown(&key("a"), thing("u", 5, "x")),
            None,
            "our own write"
        );
        assert_eq!(
            cache.shown(&key("a"), thing("u", 6, "x")),
            None,
            "nothing that a pass reads"
        );
        assert!(
            cache.shown(&key("a"), thing("u", 7, "y")).is_some(),
            "somebody's change"
        );
        cache.wrote(&key("a"), thing("u", 6, "x"));
        assert_eq!(version(&cache), Some(7), "the answer comes after the watch");
    }

    #[test]
    fn a_deletion_is_in_view_at_once_and_a_successor_is_not_taken_for_it() {
        let cache = Cache::default();
        cache.shown(&key("a"), thing("u", 5, "x"));
        cache.gone(&key("a"), "u");
        assert_eq!(version(&cache), None);
        assert_eq!(
            cache.shown(&key("a"), thing("u", 6, "y")),
            None,
            "its last change"
        );
        assert_eq!(cache.deleted(&key("a"), "u", 7), None, "known already");
        assert!(cache.shown(&key("a"), thing("v", 8, "x")).is_some());
        cache.gone(&key("a"), "u");
        assert_eq!(
            version(&cache),
            Some(8),
            "the answer comes after the successor"
        );
    }

    #[test]
    fn an_answer_that_comes_after_the_deletion_brings_no_ghost() {
        let cache = Cache::default();
        cache.shown(&key("a"), thing("u", 5, "x"));
        assert!(cache.deleted(&key("a"), "u", 7).is_some());
        cache.wrote(&key("a"), thing("u", 6, "x"));
        assert_eq!(version(&cache), None);
        cache.wrote(&key("a"), thing("v", 8, "x"));
        assert_eq!(version(&cache), Some(8), "a successor is no ghost");
    }

    #[test]
    fn an_object_that_lost_its_label_is_seen_again_when_it_has_it_back() {
        let cache = Cache::default();
        cache.shown(&key("a"), thing("u", 5, "x"));
        assert!(
            cache.deleted(&key("a"), "u", 6).is_some(),
            "the watch selects by the label"
        );
        cache.wrote(&key("a"), thing("u", 7, "x"));
        assert_eq!(version(&cache), Some(7), "put back by us");
        cache.deleted(&key("a"), "u", 8);
        assert!(
            cache.shown(&key("a"), thing("u", 9, "x")).is_some(),
            "put back by somebody"
        );
        cache.list_begins();
        assert_eq!(cache.list_ends().len(), 1, "lost in a gap");
        assert_eq!(
            cache.shown(&key("a"), thing("u", 9, "x")),
            None,
            "of before the list"
        );
        assert!(
            cache.shown(&key("a"), thing("u", 10, "x")).is_some(),
            "put back after it"
        );
    }

    #[test]
    fn a_list_tells_what_was_and_what_is() {
        let cache = Cache::default();
        for (name, uid) in [("a", "u"), ("b", "v")] {
            cache.shown(&key(name), thing(uid, 5, "x"));
        }
        cache.list_begins();
        cache.listed(&key("b"), thing("v", 9, "y"));
        cache.listed(&key("c"), thing("w", 8, "x"));
        assert_eq!(
            version(&cache),
            Some(5),
            "until the list is over nothing has gone"
        );
        let mut changes: Vec<_> = cache
            .list_ends()
            .into_iter()
            .map(|change| {
                [change.before, change.after].map(|view| view.map(|view| (view.uid, view.version)))
            })
            .collect();
        changes.sort_unstable();
        let expected = [
            [None, Some(("w", 8))],
            [Some(("u", 5)), None],
            [Some(("v", 5)), Some(("v", 9))],
        ];
        assert_eq!(changes, expected);
        assert_eq!(version(&cache), None);
    }

    #[test]
    fn a_list_takes_back_neither_what_we_wrote_meanwhile_nor_what_we_deleted() {
        let cache = Cache::default();
        cache.wrote(&key("old"), thing("o", 3, "x"));
        // Clocks of this kind may stand still between two looks.
        std::thread::sleep(Duration::from_millis(2));
        cache.list_begins();
        cache.wrote(&key("a"), thing("u", 12, "x"));
        cache.wrote(&key("new"), thing("n", 13, "x"));
        cache.gone(&key("b"), "v");
        cache.listed(&key("a"), thing("u", 8, "w"));
        cache.listed(&key("b"), thing("v", 9, "x"));
        cache.list_ends();
        assert_eq!(version(&cache), Some(12));
        assert!(
            cache.get(&key("new")).is_none(),
            "it may have gone before the list was made"
        );
        assert!(
            cache.shown(&key("new"), thing("n", 13, "x")).is_some(),
            "the watch tells"
        );
        assert!(
            cache.get(&key("b")).is_none(),
            "deleted since the list was made"
        );
        assert!(
            cache.get(&key("old")).is_none(),
            "written before the list, and not in it"
        );
    }
}
