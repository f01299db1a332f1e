//! The routes: one for each handler, and two for health.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::handler::Handler as _;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::trace::TraceLayer;
use tracing::Span;

use crate::app::{App, Hook};
use crate::extract;
use crate::judge::review;
use crate::refusal::{Refusal, Refused};
use crate::review::Handler;

/// The routes of these handlers and of health. Health is asked for beside the reviews: it waits for none of them.
pub(crate) fn router(
    app: &Arc<App>,
    handlers: impl IntoIterator<Item = Arc<dyn Handler>>,
) -> Router {
    let readiness = get(ready.layer(CatchPanicLayer::custom(not_ready))).fallback(not_read);
    let health = Router::new()
        .route("/healthz", get("ok").fallback(not_read))
        .route("/readyz", readiness)
        .fallback(nowhere)
        .with_state(Arc::clone(app));
    let routes = handlers.into_iter().fold(health, |routes, handler| {
        let hook = Hook {
            app: Arc::clone(app),
            handler,
        };
        let path = hook.handler.path().to_owned();
        routes.route(&path, post(review).fallback(not_posted).with_state(hook))
    });
    let trace = TraceLayer::new_for_http()
        .make_span_with(
            |request: &Request| tracing::warn_span!("request", path = ?request.uri().path()),
        )
        .on_request(())
        .on_response(told)
        .on_body_chunk(())
        .on_eos(())
        .on_failure(());
    routes.layer(CatchPanicLayer::custom(panicked)).layer(trace)
}

async fn ready(State(app): State<Arc<App>>) -> Response {
    match app.ready() {
        Ok(()) => "ok".into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, reason).into_response(),
    }
}

async fn nowhere(State(app): State<Arc<App>>, request: Request) -> Response {
    extract::refuse(&app, request, Refusal::not_found()).await
}

async fn not_read(State(app): State<Arc<App>>, request: Request) -> Response {
    extract::refuse(&app, request, Refusal::method_not_allowed("GET, HEAD")).await
}

async fn not_posted(State(hook): State<Hook>, request: Request) -> Response {
    hook.handler.unheard(None);
    extract::refuse(&hook.app, request, Refusal::method_not_allowed("POST")).await
}

/// A refusal is logged, in the span of its request.
fn told<B>(response: &Response<B>, _: Duration, _: &Span) {
    if let Some(Refused(message)) = response.extensions().get() {
        let code = response.status().as_u16();
        tracing::warn!(code, message, "request refused");
    }
}

/// A handler's own panic is answered with a review, in `judge`. This is for all others.
fn panicked(_: Box<dyn Any + Send>) -> Response {
    Refusal::panicked().into_response()
}

fn not_ready(_: Box<dyn Any + Send>) -> Response {
    let reason = "the readiness check panicked";
    (StatusCode::SERVICE_UNAVAILABLE, reason).into_response()
}
