//! Decoding that says which field is wrong, in Kubernetes' words.

use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_path_to_error::Segment;

use super::FieldError;

/// Decodes `value`, found at `base` in the object, refusing fields that the type does not have.
pub fn strict<T: DeserializeOwned>(value: &Value, base: &str) -> Result<T, Vec<FieldError>> {
    let mut unknown = Vec::new();
    let mut note = |path: serde_ignored::Path<'_>| unknown.push(ignored(base, &path));
    let decoded = tracked(
        base,
        value,
        serde_ignored::Deserializer::new(value, &mut note),
    );
    let mut faults: Vec<_> = unknown
        .into_iter()
        .map(|field| {
            FieldError::forbidden(field, "unknown field; check its spelling and its place")
        })
        .collect();
    match decoded {
        Ok(decoded) if faults.is_empty() => Ok(decoded),
        Ok(_) => Err(faults),
        Err(fault) => {
            faults.push(fault);
            Err(faults)
        }
    }
}

/// Decodes `value`, found at `base` in the object (empty for the object itself).
pub fn lenient<T: DeserializeOwned>(value: &Value, base: &str) -> Result<T, FieldError> {
    tracked(base, value, value)
}

fn tracked<'de, T: DeserializeOwned, D: serde::Deserializer<'de, Error = serde_json::Error>>(
    base: &str,
    value: &Value,
    deserializer: D,
) -> Result<T, FieldError> {
    serde_path_to_error::deserialize(deserializer).map_err(|error| {
        let mut field = base.to_owned();
        let mut found = Some(value);
        for segment in error.path() {
            match segment {
                Segment::Seq { index } => {
                    push_index(&mut field, *index);
                    found = found.and_then(|v| v.get(index));
                }
                Segment::Map { key } => {
                    push_key(&mut field, key);
                    found = found.and_then(|v| v.get(key));
                }
                Segment::Enum { .. } | Segment::Unknown => {}
            }
        }
        // What Rust calls its numbers says nothing to a user.
        let reason = error.inner().to_string();
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
    })
}

fn ignored(base: &str, path: &serde_ignored::Path<'_>) -> String {
    match path {
        serde_ignored::Path::Root => base.to_owned(),
        serde_ignored::Path::Seq { parent, index } => {
            let mut field = ignored(base, parent);
            push_index(&mut field, *index);
            field
        }
        serde_ignored::Path::Map { parent, key } => {
            let mut field = ignored(base, parent);
            push_key(&mut field, key);
            field
        }
        serde_ignored::Path::Some { parent }
        | serde_ignored::Path::NewtypeStruct { parent }
        | serde_ignored::Path::NewtypeVariant { parent } => ignored(base, parent),
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
