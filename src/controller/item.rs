//! One object as the API server wrote it: its text and the few words that a watch needs.
//!
//! A typed object would fail a whole list for one bad item (`serde_json` refuses 128 nested maps, the API server
//! stores them), and would hold in memory what no pass reads. The text is read by `view` and then dropped.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use kube::Resource;
use kube::core::ObjectMeta;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

/// An object of the kind `K` that was not looked into. Reading one never fails for what is in it.
pub struct Item<K> {
    /// Namespace, name and version; nothing else.
    meta: ObjectMeta,
    text: Box<RawValue>,
    kind: PhantomData<fn() -> K>,
}

impl<K> Item<K> {
    /// An object to be sent.
    pub fn new(object: &serde_json::Value) -> serde_json::Result<Self> {
        Ok(Self {
            meta: ObjectMeta::default(),
            text: RawValue::from_string(object.to_string())?,
            kind: PhantomData,
        })
    }

    /// The object as JSON.
    pub fn text(&self) -> &str {
        self.text.get()
    }
}

#[derive(Deserialize)]
struct Named {
    #[serde(default)]
    metadata: Option<Meta>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Meta {
    name: Option<String>,
    namespace: Option<String>,
    resource_version: Option<String>,
}

impl<'de, K> Deserialize<'de> for Item<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Box::<RawValue>::deserialize(deserializer)?;
        // What is not asked for is skipped without recursion, however deep it is.
        let named: Named = serde_json::from_str(text.get()).map_err(D::Error::custom)?;
        let named = named.metadata;
        let meta = named.map_or_else(ObjectMeta::default, |named| ObjectMeta {
            name: named.name,
            namespace: named.namespace,
            resource_version: named.resource_version,
            ..ObjectMeta::default()
        });
        Ok(Self {
            meta,
            text,
            kind: PhantomData,
        })
    }
}

impl<K> Serialize for Item<K> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.text.serialize(serializer)
    }
}

impl<K: Resource> Resource for Item<K> {
    type DynamicType = K::DynamicType;
    type Scope = K::Scope;

    fn kind(dt: &Self::DynamicType) -> Cow<'_, str> {
        K::kind(dt)
    }

    fn group(dt: &Self::DynamicType) -> Cow<'_, str> {
        K::group(dt)
    }

    fn version(dt: &Self::DynamicType) -> Cow<'_, str> {
        K::version(dt)
    }

    fn plural(dt: &Self::DynamicType) -> Cow<'_, str> {
        K::plural(dt)
    }

    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.meta
    }
}

impl<K> Clone for Item<K> {
    fn clone(&self) -> Self {
        Self {
            meta: self.meta.clone(),
            text: self.text.clone(),
            kind: PhantomData,
        }
    }
}

/// Its name, never its contents: they may be secret.
impl<K> fmt::Debug for Item<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = (
            &self.meta.namespace,
            &self.meta.name,
            &self.meta.resource_version,
        );
        f.debug_tuple("Item").field(&named).finish()
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::ResourceExt;
    use kube::core::{ObjectList, WatchEvent};
    use serde_json::json;

    use super::*;

    fn deep(levels: usize) -> String {
        format!("{}{}", "{\"a\":".repeat(levels), "{}") + &"}".repeat(levels)
    }

    #[test]
    fn one_deep_item_spoils_neither_a_list_nor_a_watch() {
        let good = json!({"metadata": {"name": "a", "namespace": "n", "resourceVersion": "7"}});
        let bad = format!(
            r#"{{"metadata": {{"name": "b", "managedFields": [{d}]}}, "spec": {d}}}"#,
            d = deep(5_000)
        );
        let list = format!(
            r#"{{"kind": "ConfigMapList", "apiVersion": "v1", "metadata": {{"resourceVersion": "9"}}, "items": [{good}, {bad}]}}"#
        );
        let list: ObjectList<Item<ConfigMap>> = serde_json::from_str(&list).unwrap();
        let names: Vec<_> = list.items.iter().map(ResourceExt::name_any).collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(list.items[0].resource_version().as_deref(), Some("7"));
        assert_eq!(list.items[1].text(), bad);

        let event = format!(r#"{{"type": "ADDED", "object": {bad}}}"#);
        let WatchEvent::Added(item) =
            serde_json::from_str::<WatchEvent<Item<ConfigMap>>>(&event).unwrap()
        else {
            panic!("not added");
        };
        assert_eq!((item.name_any().as_str(), item.text()), ("b", bad.as_str()));
        assert!(
            !format!("{item:?}").contains("spec"),
            "no contents in a log"
        );
    }
}
