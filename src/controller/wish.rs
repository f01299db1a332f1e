//! What a child is to be: the JSON that is applied, and the hash that tells one wish from another.

use std::fmt;
use std::marker::PhantomData;

use kube::ResourceExt;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::view::child::ChildKind;
use crate::api::labels;

/// The first half of a SHA-256.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Hash(u128);

impl Hash {
    /// The hash of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        let digest = Sha256::digest(bytes);
        let half = digest.iter().take(16);
        Self(half.fold(0, |hash, byte| hash << 8 | u128::from(*byte)))
    }

    /// Reads what `Display` writes.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() != 32 || text.starts_with('+') {
            return None;
        }
        u128::from_str_radix(text, 16).ok().map(Self)
    }
}

/// In hexadecimal, 32 digits.
impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_read_as_it_is_written() {
        let hash = Hash::of(b"a");
        assert_eq!(hash.to_string(), "ca978112ca1bbdcafac231b39a23dc4d");
        assert_eq!(Hash::parse(&hash.to_string()), Some(hash));
        for text in [
            "",
            "ca97",
            "+a978112ca1bbdcafac231b39a23dc4d",
            "xa978112ca1bbdcafac231b39a23dc4d",
        ] {
            assert_eq!(Hash::parse(text), None, "{text}");
        }
    }
}
