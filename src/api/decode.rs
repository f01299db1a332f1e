//! Decoding that says which field is wrong, in Kubernetes' words.

use std::collections::HashSet;

use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_path_to_error::Segment;

use super::field_error::shown;
use super::{FieldError, FieldPath};

/// The most wrong types that are reported at once: each costs another decoding.
const MOST_TYPES: usize = 16;

/// Decodes `value`, found at `base` in the object, refusing fields that the type does not have.
pub fn strict<T: DeserializeOwned>(
    value: &Value,
    base: &FieldPath<'_>,
) -> Result<T, Vec<FieldError>> {
    match all(value, base, true) {
        (Some(decoded), faults) if faults.is_empty() => Ok(decoded),
        (_, faults) => Err(faults),
    }
}

/// Decodes what can be decoded of `value`, found at `base` in the object; and all that cannot, if `is_strict` with the
/// fields that the type does not have. A value of a wrong type is left out. Nothing is decoded where that does not help.
pub fn all<T: DeserializeOwned>(
    value: &Value,
    base: &FieldPath<'_>,
    is_strict: bool,
) -> (Option<T>, Vec<FieldError>) {
    // Most objects are as they should be, and nothing has to be known of where their values stand.
    if !is_strict && let Ok(decoded) = T::deserialize(value) {
        return (Some(decoded), Vec::new());
    }
    let (mut unknown, mut wrong) = (Vec::new(), Vec::new());
    let mut seen = HashSet::new();
    let mut rest = value.clone();
    let decoded = loop {
        let mut note = |path: serde_ignored::Path<'_>| {
            ignored(base, value, &path, &mut |path, found| {
                let detail = format!(
                    "unknown field (value {}); check its spelling and its place",
                    shown(found)
                );
                let fault = FieldError::forbidden(path, detail);
                if is_strict && seen.insert(fault.field.clone()) {
                    unknown.push(fault);
                }
            });
        };
        let decoder = serde_ignored::Deserializer::new(&rest, &mut note);
        let (pointer, fault) = match tracked(base, &rest, decoder) {
            Ok(decoded) => break Some(decoded),
            Err(fault) => fault,
        };
        // Decoding stops at the first wrong type. To find the next ones, that value is mended and decoding starts
        // again. Where that does not help, the value around it is left out; that is no fault of the user's.
        let is_users = rest.pointer(&pointer) == value.pointer(&pointer)
            || fault.reason == FieldError::REQUIRED;
        let is_mended = is_users && mend(&mut rest, &pointer, &fault);
        if is_users {
            wrong.push(fault);
        }
        if wrong.len() >= MOST_TYPES || !is_mended && !leave_out_around(&mut rest, &pointer) {
            break None;
        }
    };
    unknown.append(&mut wrong);
    (decoded, unknown)
}

/// Puts something that can be decoded in the place of a fault. False when there is nothing.
fn mend(value: &mut Value, pointer: &str, fault: &FieldError) -> bool {
    let empty = || Value::from("");
    if fault.reason == FieldError::REQUIRED {
        let name = fault.field.rsplit('.').next().unwrap_or_default();
        let fields = value.pointer_mut(pointer).and_then(Value::as_object_mut);
        return fields.is_some_and(|fields| fields.insert(name.to_owned(), empty()).is_none());
    }
    let Some((parent, key)) = pointer.rsplit_once('/') else {
        return false;
    };
    let is_text = fault.message.contains("expected a string");
    match value.pointer_mut(parent) {
        Some(Value::Object(fields)) => {
            let key = unescaped(key);
            if is_text {
                fields.insert(key, empty()).is_some()
            } else {
                fields.remove(&key).is_some()
            }
        }
        Some(Value::Array(items)) => {
            let item = key.parse().ok().and_then(|at: usize| items.get_mut(at));
            let mended = if is_text {
                empty()
            } else {
                Value::Object(serde_json::Map::new())
            };
            item.is_some_and(|item| std::mem::replace(item, mended.clone()) != mended)
        }
        _ => false,
    }
}

/// Leaves out the nearest value around the pointer that is a field. False when only the whole is left.
fn leave_out_around(value: &mut Value, mut pointer: &str) -> bool {
    while let Some((parent, _)) = pointer.rsplit_once('/') {
        let Some((above, key)) = parent.rsplit_once('/') else {
            return false;
        };
        let key = unescaped(key);
        let fields = value.pointer_mut(above).and_then(Value::as_object_mut);
        if fields.is_some_and(|fields| fields.remove(&key).is_some()) {
            return true;
        }
        pointer = parent;
    }
    false
}

/// Decodes `value`, found at `base` in the object.
pub fn lenient<T: DeserializeOwned>(value: &Value, base: &FieldPath<'_>) -> Result<T, FieldError> {
    if let Ok(decoded) = T::deserialize(value) {
        return Ok(decoded);
    }
    tracked(base, value, value).map_err(|(_, fault)| fault)
}

/// Decodes; a fault comes with the JSON pointer to it.
fn tracked<'de, T: DeserializeOwned, D: serde::Deserializer<'de, Error = serde_json::Error>>(
    base: &FieldPath<'_>,
    value: &Value,
    deserializer: D,
) -> Result<T, (String, FieldError)> {
    serde_path_to_error::deserialize(deserializer).map_err(|error| {
        let segments: Vec<_> = error.path().iter().collect();
        let fault = located(base, Some(value), &segments, error.inner());
        (pointer(&segments), fault)
    })
}

/// The JSON pointer of these segments.
fn pointer(segments: &[&Segment]) -> String {
    let mut pointer = String::new();
    for segment in segments {
        let token = match segment {
            Segment::Seq { index } => index.to_string(),
            Segment::Map { key } => key.replace('~', "~0").replace('/', "~1"),
            Segment::Enum { .. } | Segment::Unknown => continue,
        };
        pointer.push('/');
        pointer.push_str(&token);
    }
    pointer
}

/// The key of a token of a JSON pointer.
fn unescaped(token: &str) -> String {
    token.replace("~1", "/").replace("~0", "~")
}

/// The fault at the end of these segments, which begin at `path`, with the value `found`.
fn located(
    path: &FieldPath<'_>,
    found: Option<&Value>,
    segments: &[&Segment],
    error: &serde_json::Error,
) -> FieldError {
    let Some((first, rest)) = segments.split_first() else {
        return fault(path, found, error);
    };
    match first {
        Segment::Seq { index } => {
            let found = found.and_then(|value| value.get(index));
            located(&path.index(*index), found, rest, error)
        }
        Segment::Map { key } => {
            let found = found.and_then(|value| value.get(key));
            located(&path.child(key), found, rest, error)
        }
        Segment::Enum { .. } | Segment::Unknown => located(path, found, rest, error),
    }
}

/// What is wrong with the value found at `path`, in Kubernetes' words.
fn fault(path: &FieldPath<'_>, found: Option<&Value>, error: &serde_json::Error) -> FieldError {
    // The names of Rust's number types mean nothing to a user.
    let reason = error.to_string();
    let reason = ["i64", "i32", "u32"].iter().fold(reason, |text, name| {
        text.replace(&format!("expected {name}"), "expected a whole number")
    });
    if let Some(name) = reason
        .strip_prefix("missing field `")
        .and_then(|rest| rest.split('`').next())
    {
        return FieldError::required(path.child(name), "must be set");
    }
    if let (Some(rest), Some(Value::String(value))) =
        (reason.strip_prefix("unknown variant "), found)
    {
        // `a`, expected one of `b`, `c`
        let known: Vec<_> = rest.split('`').skip(3).step_by(2).collect();
        return FieldError::not_supported(path, value, &known);
    }
    if reason.contains("expected struct") {
        let shown = found.cloned().unwrap_or_default();
        let shown = if shown.is_array() {
            Value::from("array")
        } else {
            shown
        };
        return FieldError::invalid(path, shown, "must be an object");
    }
    let shown = match found {
        Some(Value::Object(_)) => Value::from("object"),
        Some(Value::Array(_)) => Value::from("array"),
        other => other.cloned().unwrap_or_default(),
    };
    FieldError::invalid(path, shown, reason)
}

/// Tells `found` where the unknown field stands, and its value.
fn ignored(
    base: &FieldPath<'_>,
    value: &Value,
    path: &serde_ignored::Path<'_>,
    found: &mut dyn FnMut(&FieldPath<'_>, &Value),
) {
    match path {
        serde_ignored::Path::Root => found(base, value),
        serde_ignored::Path::Seq { parent, index } => {
            ignored(base, value, parent, &mut |path, value| {
                found(&path.index(*index), &value[index]);
            });
        }
        serde_ignored::Path::Map { parent, key } => {
            ignored(base, value, parent, &mut |path, value| {
                found(&path.child(key), &value[key.as_str()]);
            });
        }
        serde_ignored::Path::Some { parent }
        | serde_ignored::Path::NewtypeStruct { parent }
        | serde_ignored::Path::NewtypeVariant { parent } => ignored(base, value, parent, found),
    }
}
