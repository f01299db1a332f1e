//! What the watches have seen, ahead of them by what we wrote ourselves.
//!
//! A pass may begin before the watch has brought back what the last one wrote. Seen through the bare
//! cache that write would be missing, and would be done again.

use std::collections::HashMap;
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use kube::runtime::reflector::{ObjectRef, Store, store::WriterDropped};
use kube::runtime::watcher::Event;
use kube::{Resource, ResourceExt};

use super::error::{CONFIGURATION_RETRY, Error, Subject};
use crate::api::labels;

/// A watched kind, by namespace and name.
pub struct Cache<K: Resource<DynamicType = ()> + Clone + 'static> {
    store: Store<K>,
    written: Mutex<HashMap<ObjectRef<K>, Written<K>>>,
    settled: Mutex<HashMap<ObjectRef<K>, Settled>>,
    refused: Mutex<HashMap<ObjectRef<K>, Refused>>,
    /// Uids that the watch has shown deleted, and when. The answer to a write may come later than that.
    deleted: Mutex<HashMap<String, Instant>>,
}

/// No answer to a write comes later than this after the object's deletion was seen.
const LATE_ANSWER: Duration = Duration::from_mins(5);

enum Written<K> {
    /// We wrote this; the watch has not shown it yet.
    Object(Arc<K>),
    /// We deleted the object of this uid; the watch has not shown it yet.
    Gone(String),
}

/// What the API server did not take.
#[derive(Clone, Debug)]
struct Refused {
    hash: String,
    state: Option<String>,
    when: Instant,
    text: String,
    subject: Subject,
}

/// What the API server made of what we applied: as long as neither changes there is nothing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settled {
    /// Hash of what was applied.
    pub hash: String,
    /// The object's resourceVersion after that.
    pub resource_version: Option<String>,
    /// The object's generation after that, for kinds that have one.
    pub generation: Option<i64>,
}

impl<K: Resource<DynamicType = ()> + Clone + Debug + 'static> Cache<K> {
    /// A cache over the store that the watch fills.
    pub fn new(store: Store<K>) -> Self {
        Self {
            store,
            written: Mutex::default(),
            settled: Mutex::default(),
            refused: Mutex::default(),
            deleted: Mutex::default(),
        }
    }

    /// Waits until the watch has listed everything once.
    pub async fn wait_until_ready(&self) -> Result<(), WriterDropped> {
        self.store.wait_until_ready().await
    }

    /// The newest state known here.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        let key = ObjectRef::new(name).within(namespace);
        let cached = self.store.get(&key);
        match (cached, lock(&self.written).get(&key)) {
            (Some(cached), Some(Written::Object(written)))
                if version(&*cached) >= version(&**written) =>
            {
                Some(cached)
            }
            (_, Some(Written::Object(written))) => Some(written.clone()),
            (Some(cached), Some(Written::Gone(uid))) => {
                (cached.meta().uid.as_ref() != Some(uid)).then_some(cached)
            }
            (cached, _) => cached,
        }
    }

    /// All that the watch has shown.
    pub fn all(&self) -> Vec<Arc<K>> {
        self.store.state()
    }

    /// Notes what a write of ours returned, unless the watch is already past it.
    pub fn wrote(&self, object: K) -> Arc<K> {
        let object = Arc::new(object);
        let key = ObjectRef::from_obj(&*object);
        let mut written = lock(&self.written);
        let seen = self
            .store
            .get(&key)
            .is_some_and(|seen| version(&*seen) >= version(&*object));
        let uid = object.meta().uid.as_ref();
        if !seen && !uid.is_some_and(|uid| lock(&self.deleted).contains_key(uid)) {
            written.insert(key, Written::Object(object.clone()));
        }
        object
    }

    /// Notes that a write of ours made the object go, unless the watch has shown that already.
    pub fn gone(&self, object: &K) {
        let key = ObjectRef::from_obj(object);
        let mut written = lock(&self.written);
        if self
            .store
            .get(&key)
            .is_some_and(|seen| seen.meta().uid == object.meta().uid)
        {
            written.insert(
                key,
                Written::Gone(object.meta().uid.clone().unwrap_or_default()),
            );
        } else {
            written.remove(&key);
        }
    }

    /// What the API server made of our last write, if the object is still the one we wrote.
    pub fn settled(&self, object: &K) -> Option<Settled> {
        lock(&self.settled)
            .get(&ObjectRef::from_obj(object))
            .cloned()
    }

    /// Notes what the API server made of a write.
    pub fn settle(&self, object: &K, hash: String) {
        let settled = Settled {
            hash,
            resource_version: object.resource_version(),
            generation: object.meta().generation,
        };
        lock(&self.settled).insert(ObjectRef::from_obj(object), settled);
    }

    /// The error of having applied just this to just this state before, if that is not long ago.
    pub fn refused(&self, key: &ObjectRef<K>, hash: &str, live: Option<&K>) -> Option<Error> {
        let refused = lock(&self.refused);
        let refused = refused.get(key)?;
        let same = refused.hash == hash && refused.state == state(live);
        (same && refused.when.elapsed() < CONFIGURATION_RETRY).then(|| Error::Refused {
            text: refused.text.clone(),
            subject: refused.subject,
        })
    }

    /// Notes that the API server did not take this.
    pub fn refuse(&self, key: ObjectRef<K>, hash: String, live: Option<&K>, error: &Error) {
        let (text, subject) = (error.to_string(), error.subject());
        let refused = Refused {
            hash,
            state: state(live),
            when: Instant::now(),
            text,
            subject,
        };
        lock(&self.refused).insert(key, refused);
    }

    /// Forgets what the watch has now shown. To be called after the store took the event.
    pub fn observe(&self, event: &Event<K>) {
        match event {
            Event::Apply(object) | Event::InitApply(object) => {
                let mut written = lock(&self.written);
                let key = ObjectRef::from_obj(object);
                let seen = match written.get(&key) {
                    Some(Written::Object(written)) => version(object) >= version(&**written),
                    Some(Written::Gone(uid)) => object.meta().uid.as_ref() != Some(uid),
                    None => false,
                };
                if seen {
                    written.remove(&key);
                }
            }
            Event::Delete(object) => {
                let key = ObjectRef::from_obj(object);
                let mut written = lock(&self.written);
                let seen = match written.get(&key) {
                    Some(Written::Object(written)) => {
                        version(object) >= version(&**written)
                            || object.meta().uid == written.meta().uid
                    }
                    Some(Written::Gone(uid)) => object.meta().uid.as_ref() == Some(uid),
                    None => false,
                };
                if seen {
                    written.remove(&key);
                }
                lock(&self.settled).remove(&key);
                lock(&self.refused).remove(&key);
                let mut deleted = lock(&self.deleted);
                deleted.retain(|_, when| when.elapsed() < LATE_ANSWER);
                deleted.extend(object.meta().uid.clone().map(|uid| (uid, Instant::now())));
            }
            // Everything was listed anew: what vanished meanwhile is never shown as deleted.
            Event::InitDone => lock(&self.written).clear(),
            Event::Init => {}
        }
    }
}

/// What tells whether somebody changed an object: its generation, where its status has none of its own.
fn state<K: Resource>(live: Option<&K>) -> Option<String> {
    let meta = live?.meta();
    let generation = meta.generation.map(|generation| generation.to_string());
    Some(format!(
        "{:?} {:?}",
        meta.uid,
        generation.or_else(|| meta.resource_version.clone())
    ))
}

/// Versions of one kind grow (Kubernetes says so since 1.35, and it always was so).
fn version<K: Resource>(object: &K) -> u64 {
    object
        .meta()
        .resource_version
        .as_deref()
        .and_then(|version| version.parse().ok())
        .unwrap_or(0)
}

/// The maps behind these locks are whole at every moment; a panic elsewhere does not spoil them.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The pods of all servers, by server.
#[derive(Default)]
pub struct Pods {
    by_server: Mutex<HashMap<ServerKey, HashMap<String, Arc<Pod>>>>,
    listing: Mutex<HashMap<ServerKey, HashMap<String, Arc<Pod>>>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct ServerKey {
    namespace: String,
    name: String,
}

impl Pods {
    /// The pods of a server, by name.
    pub fn of(&self, namespace: &str, name: &str) -> Vec<Arc<Pod>> {
        let key = ServerKey {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        };
        let mut pods: Vec<_> = lock(&self.by_server)
            .get(&key)
            .map(|pods| pods.values().cloned().collect())
            .unwrap_or_default();
        pods.sort_by_key(|pod| pod.name_any());
        pods
    }

    /// Takes in what the watch shows.
    pub fn observe(&self, event: &Event<Pod>) {
        match event {
            Event::Apply(pod) => insert(&mut lock(&self.by_server), pod),
            Event::Delete(pod) => {
                if let Some(key) = server_key(pod) {
                    let mut by_server = lock(&self.by_server);
                    if let Some(pods) = by_server.get_mut(&key) {
                        pods.remove(&pod.name_any());
                        if pods.is_empty() {
                            by_server.remove(&key);
                        }
                    }
                }
            }
            Event::Init => lock(&self.listing).clear(),
            Event::InitApply(pod) => insert(&mut lock(&self.listing), pod),
            Event::InitDone => *lock(&self.by_server) = std::mem::take(&mut *lock(&self.listing)),
        }
    }
}

fn insert(pods: &mut HashMap<ServerKey, HashMap<String, Arc<Pod>>>, pod: &Pod) {
    if let Some(key) = server_key(pod) {
        pods.entry(key)
            .or_default()
            .insert(pod.name_any(), Arc::new(pod.clone()));
    }
}

fn server_key(pod: &Pod) -> Option<ServerKey> {
    Some(ServerKey {
        namespace: pod.namespace()?,
        name: pod.labels().get(labels::INSTANCE)?.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::runtime::reflector::{store, store::Writer};
    use serde_json::json;

    fn object(uid: &str, version: u64) -> ConfigMap {
        serde_json::from_value(json!({"metadata":
            {"name": "a", "namespace": "n", "uid": uid, "resourceVersion": version.to_string()}}))
        .unwrap()
    }

    /// A watch that has listed nothing yet, and its cache.
    struct Watched(Writer<ConfigMap>, Cache<ConfigMap>);

    impl Watched {
        fn new() -> Self {
            let (reader, writer) = store();
            let mut watched = Self(writer, Cache::new(reader));
            watched.shows(Event::Init);
            watched.shows(Event::InitDone);
            watched
        }

        fn shows(&mut self, event: Event<ConfigMap>) {
            self.0.apply_watcher_event(&event);
            self.1.observe(&event);
        }

        fn version(&self) -> Option<String> {
            self.1
                .get("n", "a")
                .and_then(|object| object.resource_version())
        }

        fn is_clean(&self) -> bool {
            lock(&self.1.written).is_empty()
        }
    }

    #[test]
    fn a_write_is_seen_before_the_watch_brings_it_and_forgotten_after() {
        let mut watched = Watched::new();
        watched.1.wrote(object("u", 5));
        assert_eq!(watched.version().as_deref(), Some("5"));
        watched.shows(Event::Apply(object("u", 4)));
        assert_eq!(
            watched.version().as_deref(),
            Some("5"),
            "the watch is behind"
        );
        watched.shows(Event::Apply(object("u", 5)));
        assert!(watched.is_clean());
        watched.shows(Event::Apply(object("u", 6)));
        watched.1.wrote(object("u", 5));
        assert_eq!(
            watched.version().as_deref(),
            Some("6"),
            "the answer comes after the watch"
        );
        assert!(watched.is_clean());
    }

    #[test]
    fn a_deletion_is_seen_at_once_and_a_successor_is_not_taken_for_it() {
        let mut watched = Watched::new();
        watched.shows(Event::Apply(object("u", 5)));
        watched.1.gone(&object("u", 5));
        assert_eq!(watched.version(), None);
        watched.shows(Event::Apply(object("u", 6)));
        assert_eq!(watched.version(), None, "its last change");
        watched.shows(Event::Delete(object("u", 7)));
        assert!(watched.is_clean());
        watched.shows(Event::Apply(object("v", 8)));
        assert_eq!(watched.version().as_deref(), Some("8"));
        watched.1.gone(&object("u", 5));
        assert_eq!(
            watched.version().as_deref(),
            Some("8"),
            "the answer comes after the successor"
        );
        assert!(watched.is_clean());
    }

    #[test]
    fn an_answer_that_comes_after_the_deletion_brings_no_ghost() {
        let mut watched = Watched::new();
        watched.shows(Event::Apply(object("u", 5)));
        watched.shows(Event::Delete(object("u", 7)));
        watched.1.wrote(object("u", 6));
        assert_eq!(watched.version(), None);
        watched.1.wrote(object("v", 8));
        assert_eq!(
            watched.version().as_deref(),
            Some("8"),
            "a successor is no ghost"
        );
        watched.shows(Event::Delete(object("v", 9)));
        assert_eq!(watched.version(), None);
        assert!(watched.is_clean());
    }
}
