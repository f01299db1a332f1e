//! From a review to its answer: the handler is asked, and answered for when it panics or takes too long.

use std::panic::AssertUnwindSafe;

use axum::extract::State;
use axum::response::Response;
use futures::FutureExt;
use tokio::time::{Instant, timeout_at};

use crate::app::Hook;
use crate::extract::Review;
use crate::refusal::json;
use crate::respond::Asked;
use crate::review::{Handler, Request, Verdict};

/// Answers a review.
pub(crate) async fn review(State(hook): State<Hook>, review: Review) -> Response {
    let handler = hook.handler.as_ref();
    let Review {
        request,
        deadline,
        held: _held,
    } = review;
    let asked = Asked::of(&request);
    let verdict = judge(handler, request, &asked, deadline).await;
    tracing::debug!(
        uid = asked.uid,
        operation = ?asked.operation,
        namespace = asked.namespace,
        name = asked.name,
        verdict = word(&verdict),
        "review"
    );
    json(&asked.answer(verdict))
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
            tracing::error!(uid, ?operation, namespace, name, "handler panicked");
            (
                500,
                "InternalError",
                "the webhook's handler panicked: see its log",
            )
        }
        Err(_) => {
            tracing::warn!(uid, ?operation, namespace, name, "handler took too long");
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

fn word(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Allow { .. } => "allow",
        Verdict::Mutate { .. } => "mutate",
        Verdict::Invalid { .. } => "invalid",
        Verdict::Forbidden { .. } => "forbidden",
        Verdict::Deny { .. } => "deny",
    }
}
