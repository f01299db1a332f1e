//! Requests that are refused before any handler sees them, and the HTTP errors they are answered with.

use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::Value;

use crate::status;

/// An HTTP error, answered with a `metav1.Status` as its body.
#[derive(Debug, PartialEq)]
pub(crate) struct Refusal {
    pub code: StatusCode,
    /// `metav1.StatusReason`
    pub reason: &'static str,
    pub message: String,
    is_to_come_again: bool,
}

/// The message of a refusal, in the extensions of its response: what logs requests has no other way to it.
#[derive(Clone, Debug)]
pub(crate) struct Refused(pub String);

impl Refusal {
    fn new(code: StatusCode, reason: &'static str, message: String) -> Self {
        Self {
            code,
            reason,
            message,
            is_to_come_again: false,
        }
    }

    pub(crate) fn bad_request(message: String) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BadRequest", message)
    }

    pub(crate) fn not_found() -> Self {
        let message = "no webhook is served at this path: compare it with clientConfig of the \
                       webhook configuration";
        Self::new(StatusCode::NOT_FOUND, "NotFound", message.to_owned())
    }

    pub(crate) fn method_not_allowed(allowed: &'static str) -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "MethodNotAllowed",
            format!("this path takes {allowed} only"),
        )
    }

    pub(crate) fn unsupported_media_type() -> Self {
        let message = "the request's Content-Type must be application/json";
        Self::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "UnsupportedMediaType",
            message.to_owned(),
        )
    }

    pub(crate) fn too_large(limit: usize) -> Self {
        let message = format!("the request's body is larger than the limit of {limit} bytes");
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "RequestEntityTooLarge",
            message,
        )
    }

    pub(crate) fn too_slow() -> Self {
        let message = "the request's body did not arrive in time";
        Self::new(StatusCode::REQUEST_TIMEOUT, "Timeout", message.to_owned())
    }

    /// An API server retries a request that is answered like this (client-go's `checkWait`).
    pub(crate) fn too_busy() -> Self {
        Self {
            is_to_come_again: true,
            ..Self::new(
                StatusCode::TOO_MANY_REQUESTS,
                "TooManyRequests",
                "too many reviews at once, try again".to_owned(),
            )
        }
    }

    pub(crate) fn panicked() -> Self {
        let message = "the webhook panicked: see its log";
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "InternalError",
            message.to_owned(),
        )
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = status::body(self.code.as_u16(), self.reason, &self.message);
        let mut response = (self.code, json(&status)).into_response();
        if self.is_to_come_again {
            let headers = response.headers_mut();
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response.extensions_mut().insert(Refused(self.message));
        response
    }
}

/// A response with a JSON body.
pub(crate) fn json(body: &Value) -> Response {
    let kind = HeaderValue::from_static("application/json");
    ([(CONTENT_TYPE, kind)], body.to_string()).into_response()
}
