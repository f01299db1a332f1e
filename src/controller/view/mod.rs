//! What a pass reads of an object: a dozen values, taken when the watch delivers it. The object is dropped there.

pub mod child;
pub mod pod;
pub mod server;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::key::Key;

/// A view that a cache can hold.
pub trait View: Send + Sync + 'static {
    /// The object's uid.
    fn uid(&self) -> &str;
    /// The object's version; of one kind, versions grow.
    fn version(&self) -> u64;
    /// Whether a pass would find the same in both. Versions do not count.
    fn same(&self, other: &Self) -> bool;
}

/// An object before its parts are read.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Parts<'a> {
    #[serde(borrow)]
    pub metadata: Metadata<'a>,
    #[serde(borrow)]
    pub spec: Option<&'a RawValue>,
    #[serde(borrow)]
    pub status: Option<&'a RawValue>,
    #[serde(borrow)]
    pub data: Option<&'a RawValue>,
    #[serde(borrow)]
    pub binary_data: Option<&'a RawValue>,
    #[serde(borrow)]
    pub immutable: Option<&'a RawValue>,
}

/// The metadata that some view needs.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Metadata<'a> {
    #[serde(borrow)]
    pub name: Cow<'a, str>,
    #[serde(borrow, default)]
    pub namespace: Cow<'a, str>,
    #[serde(borrow, default)]
    pub uid: Cow<'a, str>,
    #[serde(borrow, default)]
    pub resource_version: Cow<'a, str>,
    pub generation: Option<i64>,
    #[serde(borrow)]
    pub creation_timestamp: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub deletion_timestamp: Option<Cow<'a, str>>,
    #[serde(default)]
    pub finalizers: Vec<String>,
    #[serde(borrow)]
    pub labels: Option<&'a RawValue>,
    #[serde(borrow)]
    pub annotations: Option<&'a RawValue>,
    #[serde(borrow)]
    pub owner_references: Option<&'a RawValue>,
}

impl<'a> Parts<'a> {
    /// Takes an object apart. An error when its metadata is not an object's.
    pub fn of(text: &'a str) -> serde_json::Result<Self> {
        serde_json::from_str(text)
    }
}

impl Metadata<'_> {
    pub fn key(&self) -> Key {
        Key::new(&*self.namespace, &*self.name)
    }

    /// Zero for what is no number, which no API server sends.
    pub fn version(&self) -> u64 {
        self.resource_version.parse().unwrap_or(0)
    }

    pub fn labels(&self) -> serde_json::Result<BTreeMap<String, String>> {
        read(self.labels)
    }

    pub fn annotations(&self) -> serde_json::Result<BTreeMap<String, String>> {
        read(self.annotations)
    }
}

/// A part of an object, or nothing of it where it is not there.
pub(super) fn read<'a, T: Deserialize<'a> + Default>(
    part: Option<&'a RawValue>,
) -> serde_json::Result<T> {
    part.map_or_else(|| Ok(T::default()), |part| serde_json::from_str(part.get()))
}

/// A hash of parts of an object: the same as long as none of them changes. Good within this process only, so that
/// nobody can make two objects with one hash.
pub(super) fn digest(parts: &[Option<&RawValue>]) -> u64 {
    static KEYS: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    let texts: Vec<_> = parts.iter().map(|part| part.map(RawValue::get)).collect();
    KEYS.hash_one(texts)
}
