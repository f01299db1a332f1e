//! A `metav1.Status` of a failure, as part of a review and as a whole body.

use serde_json::{Value, json};

/// As part of a review.
pub(crate) fn failure(code: u16, reason: &str, message: &str) -> Value {
    json!({
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
        "code": code,
    })
}

/// As the whole body of an HTTP error.
pub(crate) fn body(code: u16, reason: &str, message: &str) -> Value {
    let mut status = failure(code, reason, message);
    status["kind"] = json!("Status");
    status["apiVersion"] = json!("v1");
    status
}
