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
                if seen.insert(fault.field.clone()) {
                    unknown.push(fault);
                }
            });
        };
        let decoder = serde_ignored::Deserializer::new(&rest, &mut note);
        let (pointer, fault) = match tracked(base, &rest, decoder) {
            Ok(decoded) => break Some(decoded),
            Err(fault) => fault,
        };
        // Decoding stops at the first wrong type. To find the next ones, that value is set to null and decoding starts
        // again. Where null is wrong too, the value around it is set to null; that is no fault of the user's.
        if rest.pointer(&pointer) == value.pointer(&pointer) {
            wrong.push(fault);
        }
        if wrong.len() >= MOST_TYPES || !take_out(&mut rest, &pointer) {
            break None;
        }
    };
    unknown.append(&mut wrong);
    match decoded {
        Some(decoded) if unknown.is_empty() => Ok(decoded),
        _ => Err(unknown),
    }
}

/// Sets the value at the pointer to null, or else the nearest value around it that is not null yet. False when only
/// the whole is left.
fn take_out(value: &mut Value, mut pointer: &str) -> bool {
    while !pointer.is_empty() {
        if let Some(found) = value.pointer_mut(pointer).filter(|found| !found.is_null()) {
            *found = Value::Null;
            return true;
        }
        pointer = &pointer[..pointer.rfind('/').unwrap_or_default()];
    }
    false
}

/// Decodes `value`, found at `base` in the object.
pub fn lenient<T: DeserializeOwned>(value: &Value, base: &FieldPath<'_>) -> Result<T, FieldError> {
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
