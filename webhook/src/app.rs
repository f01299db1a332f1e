//! From an HTTP request to its response: routes, reviews, health.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use futures::FutureExt;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, EXPECT, HeaderMap};
use hyper::http::request::Parts;
use hyper::{Method, Response, StatusCode};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use crate::body;
use crate::decode::{Undecodable, decode};
use crate::limits::Limits;
use crate::refusal::{Refusal, json, text};
use crate::respond::{self, Asked};
use crate::review::{Handler, Request, Verdict};

/// Says why the server is not ready.
pub(crate) type Ready = Box<dyn Fn() -> Result<(), String> + Send + Sync>;

/// What all connections share.
pub(crate) struct App {
    pub limits: Limits,
    /// Requests that are being answered, on all connections.
    pub in_flight: Arc<AtomicUsize>,
    handlers: BTreeMap<String, Box<dyn Handler>>,
    ready: Ready,
    leaving: AtomicBool,
    /// One permit per review.
    reviews: Semaphore,
    /// One permit per byte.
    memory: Semaphore,
}

enum Route<'a> {
    Healthy,
    Ready,
    Review(&'a dyn Handler),
}

impl App {
    pub(crate) fn new(
        limits: Limits,
        handlers: BTreeMap<String, Box<dyn Handler>>,
        ready: Ready,
    ) -> Self {
        Self {
            in_flight: Arc::default(),
            handlers,
            ready,
            leaving: AtomicBool::new(false),
            reviews: Semaphore::new(limits.concurrent.clamp(1, Semaphore::MAX_PERMITS)),
            memory: Semaphore::new(
                limits
                    .memory
                    .max(limits.body)
                    .clamp(1, Semaphore::MAX_PERMITS),
            ),
            limits,
        }
    }

    /// Whether callers should go elsewhere.
    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Relaxed)
    }

    /// From now on `/readyz` says no.
    pub(crate) fn leave(&self) {
        self.leaving.store(true, Ordering::Relaxed);
    }

    /// Answers one request, whatever it is.
    pub(crate) async fn answer(&self, request: hyper::Request<Incoming>) -> Response<Bytes> {
        let deadline = Instant::now() + self.limits.request_time;
        let (head, mut body) = request.into_parts();
        let answer = match self.route(&head) {
            Ok(Route::Healthy) => Ok(text(StatusCode::OK, "ok".to_owned())),
            Ok(Route::Ready) => Ok(self.readiness()),
            Ok(Route::Review(handler)) => self.review(handler, &mut body, deadline).await,
            Err(refusal) => Err(refusal),
        };
        match answer {
            Ok(response) => response,
            Err(refusal) => {
                tracing::warn!(
                    path = ?head.uri.path(),
                    code = refusal.code.as_u16(),
                    message = refusal.message,
                    "request refused"
                );
                if let Some(handler) = self.handlers.get(head.uri.path()) {
                    handler.unheard(None);
                }
                // A client that sent `Expect: 100-continue` has not sent its body, and now will not.
                if !head.headers.contains_key(EXPECT) {
                    let limit = self.limits.body.saturating_mul(2);
                    body::discard(&mut body, limit, deadline).await;
                }
                refusal.into_response()
            }
        }
    }

    fn route(&self, head: &Parts) -> Result<Route<'_>, Refusal> {
        let path = head.uri.path();
        if let Some(handler) = self.handlers.get(path) {
            if head.method != Method::POST {
                return Err(Refusal::method_not_allowed("POST"));
            }
            if !is_json(&head.headers) {
                return Err(Refusal::unsupported_media_type());
            }
            return Ok(Route::Review(handler.as_ref()));
        }
        let route = match path {
            "/healthz" => Route::Healthy,
            "/readyz" => Route::Ready,
            _ => return Err(Refusal::not_found()),
        };
        if head.method == Method::GET || head.method == Method::HEAD {
            Ok(route)
        } else {
            Err(Refusal::method_not_allowed("GET, HEAD"))
        }
    }

    fn readiness(&self) -> Response<Bytes> {
        let ready = if self.is_leaving() {
            Err("shutting down".to_owned())
        } else {
            catch_unwind(AssertUnwindSafe(&self.ready))
                .unwrap_or_else(|_| Err("the readiness check panicked".to_owned()))
        };
        match ready {
            Ok(()) => text(StatusCode::OK, "ok".to_owned()),
            Err(reason) => text(StatusCode::SERVICE_UNAVAILABLE, reason),
        }
    }

    async fn review(
        &self,
        handler: &dyn Handler,
        body: &mut Incoming,
        deadline: Instant,
    ) -> Result<Response<Bytes>, Refusal> {
        let limit = self.limits.body;
        let (body, _share) = body::read(body, limit, &self.memory, deadline).await?;
        // The permit comes before decoding, which takes several times the memory of the body.
        let Ok(Ok(_turn)) = timeout_at(deadline, self.reviews.acquire()).await else {
            return Err(Refusal::too_busy());
        };
        let request = match decode(&body) {
            Ok(request) => request,
            Err(Undecodable::Anonymous(refusal)) => return Err(refusal),
            Err(Undecodable::Review {
                api_version,
                uid,
                message,
            }) => {
                tracing::warn!(
                    path = handler.path(),
                    ?uid,
                    message,
                    "review could not be decoded"
                );
                handler.unheard(None);
                let answer = respond::undecodable(&api_version, &uid, &message);
                return Ok(json(StatusCode::OK, &answer));
            }
        };
        let asked = Asked::of(&request);
        let verdict = judge(handler, request, &asked, deadline).await;
        tracing::debug!(
            path = handler.path(),
            uid = asked.uid,
            operation = ?asked.operation,
            namespace = asked.namespace,
            name = asked.name,
            verdict = word(&verdict),
            "review"
        );
        Ok(json(StatusCode::OK, &asked.answer(verdict)))
    }
}

/// Asks the handler, and answers in its place when it panics or takes too long.
async fn judge(
    handler: &dyn Handler,
    request: Request,
    asked: &Asked,
    deadline: Instant,
) -> Verdict {
    // The call itself is inside, because it may panic before it returns a future.
    let verdict = AssertUnwindSafe(async { handler.review(request).await }).catch_unwind();
    let verdict = timeout_at(deadline, verdict).await;
    let path = handler.path();
    let Asked {
        uid,
        operation,
        namespace,
        name,
        ..
    } = asked;
    let (code, reason, message) = match verdict {
        Ok(Ok(verdict)) => return verdict,
        Ok(Err(_)) => {
            // The panic hook has written the panic's message to standard error.
            tracing::error!(path, uid, ?operation, namespace, name, "handler panicked");
            (
                500,
                "InternalError",
                "the webhook's handler panicked: see its log",
            )
        }
        Err(_) => {
            tracing::warn!(
                path,
                uid,
                ?operation,
                namespace,
                name,
                "handler took too long"
            );
            (504, "Timeout", "the webhook's handler took too long")
        }
    };
    handler.unheard(Some(*operation));
    Verdict::Deny {
        code,
        reason: reason.to_owned(),
        message: message.to_owned(),
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let content_type = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    content_type
        .and_then(|value| value.split(';').next())
        .is_some_and(|media_type| media_type.trim().eq_ignore_ascii_case("application/json"))
}

fn word(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Allow { .. } => "allow",
        Verdict::Mutate { .. } => "mutate",
        Verdict::Invalid { .. } => "invalid",
        Verdict::Deny { .. } => "deny",
    }
}
