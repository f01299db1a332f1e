//! Requests that are refused before any handler sees them, and the HTTP errors they are answered with.

use hyper::body::Bytes;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use serde_json::Value;

use crate::status;

/// An HTTP error, answered with a `metav1.Status` as its body.
#[derive(Debug, PartialEq)]
pub(crate) struct Refusal {
    pub code: StatusCode,
    /// `metav1.StatusReason`
    pub reason: &'static str,
    pub message: String,
    header: Option<(HeaderName, HeaderValue)>,
}

impl Refusal {
    fn new(code: StatusCode, reason: &'static str, message: String) -> Self {
        Self {
            code,
            reason,
            message,
            header: None,
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
        Self {
            header: Some((ALLOW, HeaderValue::from_static(allowed))),
            ..Self::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "MethodNotAllowed",
                format!("this path takes {allowed} only"),
            )
        }
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
            header: Some((RETRY_AFTER, HeaderValue::from_static("1"))),
            ..Self::new(
                StatusCode::TOO_MANY_REQUESTS,
                "TooManyRequests",
                "too many reviews at once, try again".to_owned(),
            )
        }
    }

    pub(crate) fn into_response(self) -> Response<Bytes> {
        let status = status::body(self.code.as_u16(), self.reason, &self.message);
        let mut response = json(self.code, &status);
        response.headers_mut().extend(self.header);
        response
    }
}

/// A response with a JSON body.
pub(crate) fn json(code: StatusCode, body: &Value) -> Response<Bytes> {
    with_body(
        code,
        HeaderValue::from_static("application/json"),
        body.to_string(),
    )
}

/// A response with a text body, as probes get it.
pub(crate) fn text(code: StatusCode, body: String) -> Response<Bytes> {
    with_body(
        code,
        HeaderValue::from_static("text/plain; charset=utf-8"),
        body,
    )
}

fn with_body(code: StatusCode, content_type: HeaderValue, body: String) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(body));
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}
