//! A fault of an object: which field, and what is wrong with it, worded as Kubernetes words it.

use std::fmt;

use super::FieldPath;

/// One fault. `Display` gives `spec.port: Invalid value: 0: must be between 1 and 65535`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FieldError {
    /// Path of the field as Kubernetes writes it: `spec.env[2].name`, `spec.config[SESSION_TIMEOUT]`.
    pub field: String,
    /// A `metav1.CauseType`: `FieldValueInvalid`, …
    pub reason: &'static str,
    /// What is wrong and what would be right; holds the value.
    pub message: String,
    /// Whether the CRD's schema refuses it, too. The API server asks the schema after the mutating webhooks and before
    /// the validating ones, and then shows what the schema says and nothing else.
    pub is_in_schema: bool,
}

/// Where one cause can make any number of faults, no more are recorded than this: many more than anybody is shown.
pub const MOST_RECORDED: usize = 1_000;

impl FieldError {
    /// The reason of a field that has to be set.
    pub const REQUIRED: &str = "FieldValueRequired";
    /// The reason of a field that must not be set.
    pub const FORBIDDEN: &str = "FieldValueForbidden";

    fn new(path: FieldPath<'_>, reason: &'static str, message: String) -> Self {
        Self {
            field: path.to_string(),
            reason,
            message,
            is_in_schema: false,
        }
    }

    /// The same, which the CRD's schema refuses, too.
    #[must_use]
    pub fn in_schema(self) -> Self {
        Self {
            is_in_schema: true,
            ..self
        }
    }

    /// The same for a text that is longer than the schema lets it be, in characters.
    #[must_use]
    pub fn in_schema_if_longer(self, text: &str, most: usize) -> Self {
        if text.chars().nth(most).is_some() {
            self.in_schema()
        } else {
            self
        }
    }

    /// A value that the field cannot have; `value` is shown as JSON.
    pub fn invalid<'a>(
        path: impl Into<FieldPath<'a>>,
        value: impl Into<serde_json::Value>,
        detail: impl fmt::Display,
    ) -> Self {
        let value = value.into();
        Self::new(
            path.into(),
            "FieldValueInvalid",
            format!("Invalid value: {value}: {detail}"),
        )
    }

    /// A field that must be set.
    pub fn required<'a>(path: impl Into<FieldPath<'a>>, detail: impl fmt::Display) -> Self {
        Self::new(
            path.into(),
            Self::REQUIRED,
            format!("Required value: {detail}"),
        )
    }

    /// A value that occurs twice and must be unique.
    pub fn duplicate<'a>(
        path: impl Into<FieldPath<'a>>,
        value: impl Into<serde_json::Value>,
    ) -> Self {
        Self::new(
            path.into(),
            "FieldValueDuplicate",
            format!("Duplicate value: {}", value.into()),
        )
    }

    /// A field that must not be set here.
    pub fn forbidden<'a>(path: impl Into<FieldPath<'a>>, detail: impl fmt::Display) -> Self {
        Self::new(path.into(), Self::FORBIDDEN, format!("Forbidden: {detail}"))
    }

    /// A value that is not one of the supported ones.
    pub fn not_supported<'a>(
        path: impl Into<FieldPath<'a>>,
        value: &str,
        supported: &[&str],
    ) -> Self {
        let value = serde_json::Value::from(value);
        let supported: Vec<_> = supported.iter().map(|s| format!("{s:?}")).collect();
        let message = format!(
            "Unsupported value: {value}: supported values: {}",
            supported.join(", ")
        );
        Self::new(path.into(), "FieldValueNotSupported", message)
    }

    /// A value that is too long; `size` is its length.
    pub fn too_long<'a>(path: impl Into<FieldPath<'a>>, size: usize, limit: usize) -> Self {
        let message = format!("Too long: {size} bytes, may not be more than {limit} bytes");
        Self::new(path.into(), "FieldValueTooLong", message)
    }
}

/// The most characters of a value that is shown within a sentence.
const SHOWN: usize = 80;

/// A value as JSON for a sentence, truncated when it is long.
pub fn shown(value: &serde_json::Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_value_is_cut_short_between_letters() {
        assert_eq!(shown(&serde_json::json!({"a": 1})), "{\"a\":1}");
        let long = shown(&serde_json::Value::from("é".repeat(200)));
        assert_eq!(long, format!("\"{}…", "é".repeat(SHOWN - 1)));
    }
}
