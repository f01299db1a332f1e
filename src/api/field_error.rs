//! A fault of an object: which field, and what is wrong with it, worded as Kubernetes words it.

use std::fmt;

/// One fault. `Display` gives `spec.port: Invalid value: 0: must be between 1 and 65535`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// Path of the field as Kubernetes writes it: `spec.env[2].name`, `spec.config[SESSION_TIMEOUT]`.
    pub field: String,
    /// A `metav1.CauseType`: `FieldValueInvalid`, …
    pub reason: &'static str,
    /// What is wrong and what would be right; holds the value.
    pub message: String,
}

impl FieldError {
    fn new(field: impl Into<String>, reason: &'static str, message: String) -> Self {
        Self {
            field: field.into(),
            reason,
            message,
        }
    }

    /// A value that the field cannot have; `value` is shown as JSON.
    pub fn invalid(
        field: impl Into<String>,
        value: impl Into<serde_json::Value>,
        detail: impl fmt::Display,
    ) -> Self {
        let value = value.into();
        Self::new(
            field,
            "FieldValueInvalid",
            format!("Invalid value: {value}: {detail}"),
        )
    }

    /// A field that has to be there.
    pub fn required(field: impl Into<String>, detail: impl fmt::Display) -> Self {
        Self::new(
            field,
            "FieldValueRequired",
            format!("Required value: {detail}"),
        )
    }

    /// A value that stands twice where it may stand once.
    pub fn duplicate(field: impl Into<String>, value: impl Into<serde_json::Value>) -> Self {
        Self::new(
            field,
            "FieldValueDuplicate",
            format!("Duplicate value: {}", value.into()),
        )
    }

    /// A field that may not be set here.
    pub fn forbidden(field: impl Into<String>, detail: impl fmt::Display) -> Self {
        Self::new(field, "FieldValueForbidden", format!("Forbidden: {detail}"))
    }

    /// A value that is none of the ones there are.
    pub fn not_supported(field: impl Into<String>, value: &str, supported: &[&str]) -> Self {
        let value = serde_json::Value::from(value);
        let supported: Vec<_> = supported.iter().map(|s| format!("{s:?}")).collect();
        let message = format!(
            "Unsupported value: {value}: supported values: {}",
            supported.join(", ")
        );
        Self::new(field, "FieldValueNotSupported", message)
    }

    /// A value that is too large; `size` says how large it is.
    pub fn too_long(field: impl Into<String>, size: usize, limit: usize) -> Self {
        let message = format!("Too long: {size} bytes, may not be more than {limit} bytes");
        Self::new(field, "FieldValueTooLong", message)
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}
