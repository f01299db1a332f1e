//! The pods, by server. A pod belongs to the server that its label names now, whatever it said before.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

use super::cache::{Cache, Change, lock};
use super::key::Key;
use super::view::View;
use super::view::pod::PodView;

/// The pods of all servers.
#[derive(Default)]
pub struct Pods {
    views: Cache<PodView>,
    by_server: Mutex<HashMap<Key, Vec<Arc<str>>>>,
}

impl Pods {
    /// The pods of a server, by name.
    pub fn of(&self, server: &Key) -> Vec<Arc<PodView>> {
        let by_server = lock(&self.by_server);
        let names = by_server.get(server).into_iter().flatten();
        let views = names.filter_map(|name| self.views.get(&server.beside(name.clone())));
        let mut views: Vec<_> = views.collect();
        views.sort_by(|one, other| one.key.name.cmp(&other.key.name));
        views
    }

    /// How many pods a server has.
    pub fn count(&self, server: &Key) -> usize {
        lock(&self.by_server).get(server).map_or(0, Vec::len)
    }

    /// Takes in what the watch shows, and tells whose servers are to be looked at.
    pub fn shown(&self, view: PodView) -> BTreeSet<Key> {
        let key = view.key.clone();
        self.index(self.views.shown(&key, view))
    }

    /// The watch shows that this pod has gone.
    pub fn deleted(&self, view: &PodView) -> BTreeSet<Key> {
        self.index(self.views.deleted(&view.key, view.uid(), view.version()))
    }

    /// The watch begins to list all pods.
    pub fn list_begins(&self) {
        self.views.list_begins();
    }

    /// The list holds this pod.
    pub fn listed(&self, view: PodView) {
        let key = view.key.clone();
        self.views.listed(&key, view);
    }

    /// The list is over.
    pub fn list_ends(&self) -> BTreeSet<Key> {
        self.index(self.views.list_ends())
    }

    fn index(&self, changes: impl IntoIterator<Item = Change<PodView>>) -> BTreeSet<Key> {
        let mut by_server = lock(&self.by_server);
        let mut servers = BTreeSet::new();
        for Change { before, after } in changes {
            let mut of = |view: Option<Arc<PodView>>, is_there: bool| {
                let Some((server, view)) = view.and_then(|view| Some((view.server.clone()?, view)))
                else {
                    return;
                };
                let names = by_server.entry(server.clone()).or_default();
                names.retain(|name| *name != view.key.name);
                if is_there {
                    names.push(view.key.name.clone());
                } else if names.is_empty() {
                    by_server.remove(&server);
                }
                servers.insert(server);
            };
            of(before, false);
            of(after, true);
        }
        servers
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, version: u64, server: &str) -> PodView {
        let object = json!({"metadata": {"name": name, "namespace": "n", "uid": name,
            "resourceVersion": version.to_string(), "labels": {"app.kubernetes.io/instance": server}}});
        PodView::read(&object.to_string()).unwrap()
    }

    fn of(pods: &Pods, server: &str) -> Vec<String> {
        let names = pods.of(&Key::new("n", server)).into_iter();
        names.map(|pod| pod.key.name.to_string()).collect()
    }

    #[test]
    fn a_pod_whose_label_changes_leaves_no_ghost() {
        let pods = Pods::default();
        pods.shown(pod("p", 1, "a"));
        pods.shown(pod("q", 2, "a"));
        assert_eq!(of(&pods, "a"), ["p", "q"]);
        let touched = pods.shown(pod("p", 3, "b"));
        assert_eq!(touched, [Key::new("n", "a"), Key::new("n", "b")].into());
        assert_eq!(
            (of(&pods, "a"), of(&pods, "b")),
            (vec!["q".to_owned()], vec!["p".to_owned()])
        );
        pods.deleted(&pod("p", 4, "b"));
        assert_eq!(pods.count(&Key::new("n", "b")), 0);
        pods.list_begins();
        pods.listed(pod("r", 5, "c"));
        let touched = pods.list_ends();
        assert_eq!(
            touched,
            [Key::new("n", "a"), Key::new("n", "c")].into(),
            "also those that are there no more"
        );
        assert_eq!((of(&pods, "a").len(), of(&pods, "c").len()), (0, 1));
    }
}
