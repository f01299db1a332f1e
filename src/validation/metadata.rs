//! The rules of labels and annotations that a user adds to what the operator makes.

use std::collections::BTreeMap;

use crate::api::{FieldError, FieldPath, labels, names};

/// The most bytes of all annotations of an object, keys included (k8s.io/apimachinery `TotalAnnotationSizeLimitB`).
const MOST_ANNOTATIONS: usize = 256 * 1024;

/// Whether the operator's own keys may stand among these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Own {
    /// They are the operator's alone.
    Refused,
    /// Other rules look at them.
    Judged,
}

/// Keys and values are as Kubernetes takes them. `path` is the path of the map.
pub fn labels(
    path: &FieldPath<'_>,
    map: &BTreeMap<String, String>,
    own: Own,
    faults: &mut Vec<FieldError>,
) {
    for (key, value) in map {
        let path = path.key(key);
        if !names::is_qualified_name(key) {
            let detail = names::QUALIFIED_NAME;
            faults.push(FieldError::invalid(path, key.as_str(), detail));
        } else if own == Own::Refused && labels::is_own_key(key) {
            faults.push(own_key(path, value));
            continue;
        }
        if !names::is_label_value(value) {
            let fault = FieldError::invalid(path, value.as_str(), names::LABEL_VALUE);
            // Of the pod template the schema knows nothing.
            faults.push(match own {
                Own::Refused => fault.in_schema_if_longer(value, names::LONGEST_LABEL_VALUE),
                Own::Judged => fault,
            });
        }
    }
}

/// Keys are as Kubernetes takes them, and all of them together are not too long. `path` is the path of the map.
pub fn annotations(
    path: &FieldPath<'_>,
    map: &BTreeMap<String, String>,
    own: Own,
    faults: &mut Vec<FieldError>,
) {
    for (key, value) in map {
        if !names::is_qualified_name(&key.to_lowercase()) {
            let detail = names::QUALIFIED_NAME;
            faults.push(FieldError::invalid(path, key.as_str(), detail));
        } else if own == Own::Refused && labels::is_own_key(key) {
            faults.push(own_key(path.key(key), value));
        }
    }
    let size = map.iter().map(|(key, value)| key.len() + value.len()).sum();
    if size > MOST_ANNOTATIONS {
        faults.push(FieldError::too_long(path, size, MOST_ANNOTATIONS));
    }
}

fn own_key(path: FieldPath<'_>, value: &str) -> FieldError {
    let value = crate::api::field_error::shown(&value.into());
    let detail = format!("the operator sets this key itself (value {value}); leave it out");
    FieldError::forbidden(path, detail)
}
