//! From an HTTP request to a review, within the limits of size, memory, number and time.
//!
//! axum's own extractors will not do: `Json` answers a bad object with a transport error, where the API server needs a
//! review with its uid, and `DefaultBodyLimit` knows no limit of all bodies together. Nor will tower's
//! `ConcurrencyLimit`: it would count a request from its headers on, so a body that trickles in would hold a place, and
//! its wait has no end.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{FromRequest, Request};
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_TYPE, EXPECT};
use axum::response::{IntoResponse, Response};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout_at};

use crate::app::{App, Hook};
use crate::body;
use crate::budget::Budget;
use crate::decode::{Undecodable, decode};
use crate::refusal::{Refusal, json};
use crate::respond;
use crate::review;
use crate::shares::{Share, Shares};

/// A review that may be judged now.
pub(crate) struct Review {
    /// What is asked.
    pub request: review::Request,
    /// When the answer is due.
    pub deadline: Instant,
    /// Its turn, and its share of the memory, until it is answered.
    pub held: Held,
}

/// Whose a request is, in its extensions.
#[derive(Clone, Copy)]
pub(crate) struct Peer(pub IpAddr);

impl Peer {
    /// Of a request that did not come by a connection.
    const UNKNOWN: Self = Self(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
}

/// What a review holds until it is answered.
pub(crate) struct Held {
    _review: Share,
    large: Option<Share>,
    _body: body::Share,
}

/// A larger body, in bytes, is decoded on a thread of its own.
const LARGE: usize = 64 << 10;

impl FromRequest<Hook> for Review {
    type Rejection = Response;

    async fn from_request(request: Request, hook: &Hook) -> Result<Self, Response> {
        let deadline = Instant::now() + hook.app.limits.request_time;
        let (head, mut body) = request.into_parts();
        let peer = head.extensions.get().copied().unwrap_or(Peer::UNKNOWN);
        let taken = if is_json(&head.headers) {
            let budget = hook.handler.budget();
            take(&hook.app, &mut body, peer, budget, deadline).await
        } else {
            Err(Undecodable::Anonymous(Refusal::unsupported_media_type()))
        };
        match taken {
            Ok(review) => Ok(review),
            Err(Undecodable::Review {
                api_version,
                uid,
                message,
            }) => {
                tracing::warn!(?uid, message, "review could not be decoded");
                hook.handler.unheard(None);
                Err(json(&respond::undecodable(&api_version, &uid, &message)))
            }
            Err(Undecodable::Anonymous(refusal)) => {
                hook.handler.unheard(None);
                drain(&hook.app, &head.headers, &mut body, deadline).await;
                Err(refusal.into_response())
            }
        }
    }
}

async fn take(
    app: &App,
    body: &mut Body,
    peer: Peer,
    budget: Option<Budget>,
    deadline: Instant,
) -> Result<Review, Undecodable> {
    let read = body::read(body, peer.0, app.limits.body, &app.memory, deadline).await;
    let (bytes, share) = read.map_err(Undecodable::Anonymous)?;
    // The turn comes before decoding, which takes several times the memory of the body.
    let review = turn(&app.reviews, peer, deadline).await?;
    let mut held = Held {
        _review: review,
        large: None,
        _body: share,
    };
    let (request, held) = if bytes.len() > LARGE {
        held.large = Some(turn(&app.large_reviews, peer, deadline).await?);
        // It goes on when the client goes away, so what it holds goes with it.
        let decoded = spawn_blocking(move || (decode(&bytes, budget.as_ref()), held)).await;
        decoded.map_err(|_| Undecodable::Anonymous(Refusal::panicked()))?
    } else {
        (decode(&bytes, budget.as_ref()), held)
    };
    let mut request = request?;
    request.peer = peer.0;
    Ok(Review {
        request,
        deadline,
        held,
    })
}

/// Waits for one of these, but not beyond the deadline.
async fn turn(of: &Arc<Shares>, peer: Peer, deadline: Instant) -> Result<Share, Undecodable> {
    let mut share = of.of(peer.0);
    match timeout_at(deadline, share.grow_when_free(1)).await {
        Ok(()) => Ok(share),
        Err(_) => Err(Undecodable::Anonymous(Refusal::too_busy())),
    }
}

/// Refuses a request that nobody has read.
pub(crate) async fn refuse(app: &App, request: Request, refusal: Refusal) -> Response {
    let deadline = Instant::now() + app.limits.request_time;
    let (head, mut body) = request.into_parts();
    drain(app, &head.headers, &mut body, deadline).await;
    refusal.into_response()
}

/// Lets a client that is refused get to the answer.
async fn drain(app: &App, headers: &HeaderMap, body: &mut Body, deadline: Instant) {
    // A client that sent `Expect: 100-continue` has not sent its body, and now will not.
    if !headers.contains_key(EXPECT) {
        body::discard(body, app.limits.body.saturating_mul(2), deadline).await;
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
