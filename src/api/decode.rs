//! Decoding that says which field is wrong, in Kubernetes' words.

use std::collections::HashSet;

use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_path_to_error::Segment;

use super::FieldError;
use super::field_error::shown;

/// Most wrong types that are named at once: each costs another decoding.
const MOST_TYPES: usize = 16;

/// Decodes `value`, found at `base` in the object, refusing fields that the type does not have.
pub fn strict<T: DeserializeOwned>(value: &Value, base: &str) -> Result<T, Vec<FieldError>> {
    let (mut unknown, mut wrong) = (Vec::new(), Vec::new());
    let mut seen = HashSet::new();
    let mut rest = value.clone();
    let decoded = loop {
        let mut note = |path: serde_ignored::Path<'_>| {
            let (field, found) = ignored(base, value, &path);
            if !seen.insert(field.clone()) {
                return;
            }
            let detail = format!(
                "unknown field (value {}); check its spelling and its place",
                shown(found)
            );
            unknown.push(FieldError::forbidden(field, detail));
        };
        let decoder = serde_ignored::Deserializer::new(&rest, &mut note);
        let (pointer, fault) = match tracked(base, &rest, decoder) {
            Ok(decoded) => break Some(decoded),
            Err(fault) => fault,
        };
        // Decoding ends at the first wrong type. The next ones are found without that value; where it
        // cannot be null, without what holds it, which is no fault of its own.
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

/// Makes null of what the pointer says, or of the nearest thing around it that is not null yet. Whether
/// there was any but the whole.
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

/// Decodes `value`, found at `base` in the object (empty for the object itself).
pub fn lenient<T: DeserializeOwned>(value: &Value, base: &str) -> Result<T, FieldError> {
    tracked(base, value, value).map_err(|(_, fault)| fault)
}

/// A fault comes with the JSON pointer to it.
fn tracked<'de, T: DeserializeOwned, D: serde::Deserializer<'de, Error = serde_json::Error>>(
    base: &str,
    value: &Value,
    deserializer: D,
) -> Result<T, (String, FieldError)> {
    serde_path_to_error::deserialize(deserializer).map_err(|error| {
        let (mut pointer, mut field, mut found) = (String::new(), base.to_owned(), Some(value));
        for segment in error.path() {
            match segment {
                Segment::Seq { index } => {
                    pointer.push('/');
                    pointer.push_str(&index.to_string());
                    push_index(&mut field, *index);
                    found = found.and_then(|v| v.get(index));
                }
                Segment::Map { key } => {
                    pointer.push('/');
                    pointer.push_str(&key.replace('~', "~0").replace('/', "~1"));
                    push_key(&mut field, key);
                    found = found.and_then(|v| v.get(key));
                }
                Segment::Enum { .. } | Segment::Unknown => {}
            }
        }
        (pointer, fault(field, found, error.inner()))
    })
}

/// What is wrong with the value found at `field`, in Kubernetes' words.
fn fault(mut field: String, found: Option<&Value>, error: &serde_json::Error) -> FieldError {
    // What Rust calls its numbers says nothing to a user.
    let reason = error.to_string();
    let reason = ["i64", "i32", "u32"].iter().fold(reason, |text, name| {
        text.replace(&format!("expected {name}"), "expected a whole number")
    });
    if let Some(name) = reason
        .strip_prefix("missing field `")
        .and_then(|rest| rest.split('`').next())
    {
        push_key(&mut field, name);
        return FieldError::required(field, "must be set");
    }
    if let (Some(rest), Some(Value::String(value))) =
        (reason.strip_prefix("unknown variant "), found)
    {
        // `a`, expected one of `b`, `c`
        let known: Vec<_> = rest.split('`').skip(3).step_by(2).collect();
        return FieldError::not_supported(field, value, &known);
    }
    if reason.contains("expected struct") {
        let shown = found.cloned().unwrap_or_default();
        let shown = if shown.is_array() {
            Value::from("array")
        } else {
            shown
        };
        return FieldError::invalid(field, shown, "must be an object");
    }
    let shown = match found {
        Some(Value::Object(_)) => Value::from("object"),
        Some(Value::Array(_)) => Value::from("array"),
        other => other.cloned().unwrap_or_default(),
    };
    FieldError::invalid(field, shown, reason)
}

/// Where the unknown field stands, and its value.
fn ignored<'a>(
    base: &str,
    value: &'a Value,
    path: &serde_ignored::Path<'_>,
) -> (String, &'a Value) {
    match path {
        serde_ignored::Path::Root => (base.to_owned(), value),
        serde_ignored::Path::Seq { parent, index } => {
            let (mut field, found) = ignored(base, value, parent);
            push_index(&mut field, *index);
            (field, &found[index])
        }
        serde_ignored::Path::Map { parent, key } => {
            let (mut field, found) = ignored(base, value, parent);
            push_key(&mut field, key);
            (field, &found[key.as_str()])
        }
        serde_ignored::Path::Some { parent }
        | serde_ignored::Path::NewtypeStruct { parent }
        | serde_ignored::Path::NewtypeVariant { parent } => ignored(base, value, parent),
    }
}

fn push_index(field: &mut String, index: usize) {
    *field = format!("{field}[{index}]");
}

fn push_key(field: &mut String, key: &str) {
    if !field.is_empty() {
        field.push('.');
    }
    field.push_str(key);
}
