//! What a child is to be: the JSON that is applied, and the hash that tells one wish from another.

use std::marker::PhantomData;

use kube::ResourceExt;
use serde_json::Value;

use super::view::child::ChildKind;
use crate::api::labels;
use crate::hash::Hash;

/// A child of the kind `K` as it is to be.
#[derive(Clone, Debug)]
pub struct Wish<K> {
    /// The child's name.
    pub name: String,
    /// Tells this wish from others. The child carries it in an annotation.
    pub hash: Hash,
    /// What is applied.
    pub body: Value,
    kind: PhantomData<fn() -> K>,
}

impl<K: ChildKind> Wish<K> {
    /// The wish for this child. An error when it is no JSON, which no child is.
    pub fn new(child: &K) -> serde_json::Result<Self> {
        let mut body = serde_json::to_value(child)?;
        without_empty_lists(&mut body);
        let hash = Hash::of(body.to_string().as_bytes());
        body["metadata"]["annotations"][labels::APPLIED_HASH] = hash.to_string().into();
        Ok(Self {
            name: child.name_any(),
            hash,
            body,
            kind: PhantomData,
        })
    }
}

/// The API server keeps no empty lists. Applied, they would look taken away ever after.
fn without_empty_lists(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.as_array().is_some_and(Vec::is_empty));
            fields.values_mut().for_each(without_empty_lists);
        }
        Value::Array(items) => items.iter_mut().for_each(without_empty_lists),
        _ => {}
    }
}
