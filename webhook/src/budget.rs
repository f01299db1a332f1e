//! How much of an object may be built in memory: measured in its text, before anything of it is built.
//!
//! A JSON value takes a byte or two as text and a hundred in memory, so a limit of bytes alone is none. Counting with
//! `serde_json` was tried: it goes down by recursion, so at 128 levels it stops and cannot tell the number.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::review::Cause;

/// The most values beside the field with a budget and managedFields. What the API server takes stays below: annotations
/// may have 256 KiB.
const OTHER_VALUES: usize = 60_000;

/// A map with one such key is no map to `serde_json`: its value is text, which is read as JSON in place of the map. So it
/// would hold more than can be counted.
const PRIVATE: &str = "$serde_json::private::";

/// What a handler is ready to look at of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// The field in which an object may be large, such as `spec`.
    pub field: &'static str,
    /// The most JSON values below it: scalars, lists and maps; keys are none.
    pub values: usize,
    /// How deep lists and maps may be nested; the field itself is 1.
    pub depth: usize,
}

/// What is too much, in Kubernetes' words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beyond {
    /// A `metav1.CauseType`.
    pub reason: &'static str,
    /// The number and the limit.
    pub message: String,
}

impl Budget {
    /// What is beyond the budget in the text of a field, which is one JSON value. Takes no memory.
    pub fn exceeded_by(&self, text: &str) -> Option<Beyond> {
        Size::of(text).beyond(self)
    }
}

/// An object is beyond its handler's budget. The field is left out of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OverBudget {
    /// Says so, with the number and the limit.
    pub cause: Cause,
    /// Whether the field of the stored object is just the same, so that the request is not about it.
    pub is_stored: bool,
}

/// The two objects of a request.
pub(crate) struct Objects {
    pub object: Value,
    pub old_object: Value,
    pub over_budget: Option<OverBudget>,
}

/// Builds the objects of a request, as far as they are within the budget. With a budget, metadata.managedFields is left
/// out: it is as large as the object, and no handler's business. The error says what cannot be read.
pub(crate) fn objects(
    object: Option<&RawValue>,
    old_object: Option<&RawValue>,
    budget: Option<&Budget>,
) -> Result<Objects, String> {
    let Some(budget) = budget else {
        return Ok(Objects {
            object: whole(object, "object")?,
            old_object: whole(old_object, "oldObject")?,
            over_budget: None,
        });
    };
    let new = Measured::of(object, budget, "object")?;
    let old = Measured::of(old_object, budget, "oldObject")?;
    let is_stored = new.field == old.field;
    let cause = new.cause.clone();
    Ok(Objects {
        object: new.built(budget, "object")?,
        old_object: old.built(budget, "oldObject")?,
        over_budget: cause.map(|cause| OverBudget { cause, is_stored }),
    })
}

fn whole(object: Option<&RawValue>, key: &str) -> Result<Value, String> {
    if object.is_some_and(|object| Size::of(object.get()).is_private) {
        return Err(format!(
            "request.{key} must have no keys that begin with {PRIVATE:?}"
        ));
    }
    object.map_or(Ok(Value::Null), |object| {
        serde_json::from_str(object.get()).map_err(unreadable(key))
    })
}

fn unreadable(key: &str) -> impl Fn(serde_json::Error) -> String {
    move |error| format!("request.{key} cannot be read: {error}")
}

/// An object that was measured, and not built.
struct Measured<'a> {
    text: Option<&'a RawValue>,
    /// All of it together is within the budget of the field, as most objects are.
    is_small: bool,
    /// The text of the field that has a budget.
    field: Option<&'a str>,
    /// Why the field is beyond it.
    cause: Option<Cause>,
}

impl<'a> Measured<'a> {
    fn of(text: Option<&'a RawValue>, budget: &Budget, key: &str) -> Result<Self, String> {
        let Some(object) = text else {
            return Ok(Self {
                text: None,
                is_small: true,
                field: None,
                cause: None,
            });
        };
        let all = Size::of(object.get());
        if all.beyond(budget).is_none() {
            return Ok(Self {
                text,
                is_small: true,
                field: None,
                cause: None,
            });
        }
        let part = |of: &'a RawValue, name| field(of, name).map_err(unreadable(key));
        let large = part(object, budget.field)?;
        let managed = match part(object, "metadata")? {
            Some(metadata) => part(metadata, "managedFields")?,
            None => None,
        };
        let of_field = large.map_or(Size::default(), |field| Size::of(field.get()));
        let of_managed = managed.map_or(Size::default(), |field| Size::of(field.get()));
        let others = all.values - of_field.values - of_managed.values;
        let too_much = if others > OTHER_VALUES {
            let field = budget.field;
            Some(format!(
                "must have at most {OTHER_VALUES} JSON values beside {field} ({others})"
            ))
        } else if all.is_private && !of_field.is_private {
            Some(format!("must have no keys that begin with {PRIVATE:?}"))
        } else {
            None
        };
        let text = match too_much {
            // It was stored while no webhook ran, and may be mended.
            Some(_) if key == "oldObject" => None,
            Some(too_much) => return Err(format!("request.{key} {too_much}")),
            None => text,
        };
        Ok(Self {
            text,
            is_small: false,
            field: large.map(RawValue::get),
            cause: of_field.beyond(budget).map(|beyond| Cause {
                reason: beyond.reason.to_owned(),
                message: beyond.message,
                field: budget.field.to_owned(),
            }),
        })
    }

    /// The object, without what is beyond the budget.
    fn built(&self, budget: &Budget, key: &str) -> Result<Value, String> {
        let Some(text) = self.text else {
            return Ok(Value::Null);
        };
        if self.is_small {
            let built = serde_json::from_str(text.get());
            let mut object: Value = built.map_err(unreadable(key))?;
            if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
                metadata.remove("managedFields");
            }
            return Ok(object);
        }
        let is_over = self.cause.is_some();
        let build = |text: &RawValue| {
            let mut object = Map::new();
            for (name, text) in parts(text)? {
                if !(is_over && name == budget.field) {
                    let value = if name == "metadata" && text.get().starts_with('{') {
                        without_managed_fields(text)?
                    } else {
                        serde_json::from_str(text.get())?
                    };
                    object.insert(name, value);
                }
            }
            Ok(Value::from(object))
        };
        build(text).map_err(unreadable(key))
    }
}

fn parts(object: &RawValue) -> serde_json::Result<BTreeMap<String, &RawValue>> {
    serde_json::from_str(object.get())
}

fn without_managed_fields(metadata: &RawValue) -> serde_json::Result<Value> {
    let mut parts = parts(metadata)?;
    parts.remove("managedFields");
    let values = parts.into_iter().map(|(name, text)| {
        let value: Value = serde_json::from_str(text.get())?;
        Ok((name, value))
    });
    values
        .collect::<serde_json::Result<Map<_, _>>>()
        .map(Value::from)
}

/// The text of a field of an object; nothing when it has none, or is no object.
pub(crate) fn field<'a>(
    object: &'a RawValue,
    name: &'static str,
) -> serde_json::Result<Option<&'a RawValue>> {
    if !object.get().starts_with('{') {
        return Ok(None);
    }
    FieldOf(name).deserialize(&mut serde_json::Deserializer::from_str(object.get()))
}

struct FieldOf(&'static str);

#[derive(Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de> DeserializeSeed<'de> for FieldOf {
    type Value = Option<&'de RawValue>;

    fn deserialize<D: serde::Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for FieldOf {
    type Value = Option<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(Key(key)) = map.next_key()? {
            if key == self.0 {
                found = Some(map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}

/// How large a JSON value is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Size {
    /// Itself, and all values in it.
    values: usize,
    /// Lists and maps in each other.
    depth: usize,
    /// Whether a key begins with [`PRIVATE`].
    is_private: bool,
}

impl Size {
    /// Of a text that is one JSON value, in constant memory.
    fn of(text: &str) -> Self {
        let bytes = text.as_bytes();
        let (mut size, mut depth, mut at) = (Self::default(), 0_usize, 0);
        while let Some(byte) = bytes.get(at) {
            at += 1;
            match byte {
                b'{' | b'[' => {
                    depth += 1;
                    size.depth = size.depth.max(depth);
                    size.values += 1;
                }
                b'}' | b']' => depth = depth.saturating_sub(1),
                b'"' => {
                    let begin = at - 1;
                    at = end_of_string(bytes, at);
                    let next = bytes.get(at..).unwrap_or_default().trim_ascii_start();
                    if next.first() == Some(&b':') {
                        size.is_private |= text.get(begin..at).is_some_and(is_private);
                    } else {
                        size.values += 1;
                    }
                }
                b',' | b':' | b' ' | b'\t' | b'\n' | b'\r' => {}
                _ => {
                    size.values += 1;
                    let rest = bytes.get(at..).unwrap_or_default();
                    let is_end = |byte: &u8| {
                        matches!(byte, b',' | b'}' | b']') || byte.is_ascii_whitespace()
                    };
                    at += rest.iter().position(is_end).unwrap_or(rest.len());
                }
            }
        }
        size
    }

    /// Why that is beyond the budget of its field, if it is.
    fn beyond(self, budget: &Budget) -> Option<Beyond> {
        // The field itself is not below it.
        let values = self.values.saturating_sub(1);
        let (reason, message) = if values > budget.values {
            let most = budget.values;
            let message = format!("Too many: {values}: must have at most {most} JSON values");
            ("FieldValueTooMany", message)
        } else if self.depth > budget.depth {
            let (depth, most) = (self.depth, budget.depth);
            let message = format!(
                "Invalid value: \"object\": its lists and maps are nested {depth} levels deep, must be at most {most}"
            );
            ("FieldValueInvalid", message)
        } else if self.is_private {
            let message = format!("Forbidden: keys that begin with {PRIVATE:?} are not supported");
            ("FieldValueForbidden", message)
        } else {
            return None;
        };
        Some(Beyond { reason, message })
    }
}

/// Whether a key, given as JSON, begins with [`PRIVATE`]. Any letter may be written as `\u0024`.
fn is_private(key: &str) -> bool {
    // Longer than the prefix with each letter written so, and some more: what is longer is read up to there.
    const LONG: usize = 6 * PRIVATE.len() + 2;
    if !key.contains('\\') {
        return key.get(1..).is_some_and(|key| key.starts_with(PRIVATE));
    }
    let is_so =
        |key: &str| serde_json::from_str::<String>(key).is_ok_and(|key| key.starts_with(PRIVATE));
    if key.len() <= LONG {
        return is_so(key);
    }
    // The end may be amid an escape or a letter.
    (0..6).any(|less| {
        let begin = key.get(..LONG - less);
        begin.is_some_and(|begin| is_so(&format!("{begin}\"")))
    })
}

/// The place after the quote that ends the string whose text begins here.
fn end_of_string(bytes: &[u8], mut at: usize) -> usize {
    while let Some(byte) = bytes.get(at) {
        at += 1;
        match byte {
            b'"' => break,
            b'\\' => at += 1,
            _ => {}
        }
    }
    at
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
