//! A timeout for every request to the API server: a request without an answer must not hold up its pass for ever.
//!
//! The timeouts of tower and tower-http do not suffice. The first ends with the headers of the answer. The second
//! starts again with every piece of the body, so an answer that drips in never ends.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Buf;
use tokio::time::{Instant, Sleep, sleep_until, timeout_at};
use tower::{BoxError, Layer, Service};

/// A policy's webhook may take 30 s. Less would cut off requests that are about to be answered; more would hold a worker
/// for nothing.
pub const REQUEST: Duration = Duration::from_secs(30);

/// There was no answer in time.
#[derive(Debug, thiserror::Error)]
#[error("the API server did not answer within {} s", .0.as_secs())]
pub struct TooSlow(Duration);

/// A page of a list that holds more than one object is at most this large, in bytes. Its objects are held several times
/// while it is read.
const PAGE: usize = 4 << 20;

/// A page of a list is too large; with fewer objects it is smaller.
#[derive(Debug, thiserror::Error)]
#[error("a page of a list is larger than {PAGE} bytes")]
pub struct TooLarge;

/// Limits the time of each request, and the size of a page of a list, up to the end of its answer; for a watch, up to the beginning of its answer.
#[derive(Clone, Copy, Debug)]
pub struct Limit(pub Duration);

impl<S> Layer<S> for Limit {
    type Service = LimitedService<S>;

    fn layer(&self, inner: S) -> LimitedService<S> {
        LimitedService {
            inner,
            limit: self.0,
        }
    }
}

/// A service whose requests have a timeout.
#[derive(Clone, Debug)]
pub struct LimitedService<S> {
    inner: S,
    limit: Duration,
}

impl<S, B, R> Service<http::Request<B>> for LimitedService<S>
where
    S: Service<
            http::Request<B>,
            Response = http::Response<R>,
            Error: Into<BoxError>,
            Future: Send + 'static,
        >,
    R: Send + 'static,
{
    type Response = http::Response<LimitedBody<R>>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let (limit, end) = (self.limit, Instant::now() + self.limit);
        let query = request.uri().query().unwrap_or_default();
        let mut parts = query.split('&');
        let is_watch = parts.clone().any(|part| part == "watch=true");
        let is_page = parts
            .find_map(|part| part.strip_prefix("limit="))
            .is_some_and(|limit| limit != "1");
        let answer = self.inner.call(request);
        async move {
            let answer = timeout_at(end, answer).await.map_err(|_| TooSlow(limit))?;
            let end = (!is_watch).then(|| Box::pin(sleep_until(end)));
            let left = (is_page && !is_watch).then_some(PAGE);
            Ok(answer.map_err(Into::into)?.map(|body| LimitedBody {
                body,
                end,
                limit,
                left,
            }))
        }
        .boxed()
    }
}

/// A body that fails when its time is over, or when it is too large.
#[derive(Debug)]
pub struct LimitedBody<B> {
    body: B,
    end: Option<Pin<Box<Sleep>>>,
    limit: Duration,
    /// How many bytes may come yet, if that is limited.
    left: Option<usize>,
}

impl<B: Body<Error: Into<BoxError>> + Unpin> Body for LimitedBody<B> {
    type Data = B::Data;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, BoxError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            let came = frame
                .as_ref()
                .and_then(|frame| frame.as_ref().ok()?.data_ref());
            let came = came.map_or(0, Buf::remaining);
            if let Some(left) = &mut self.left {
                let Some(rest) = left.checked_sub(came) else {
                    return Poll::Ready(Some(Err(TooLarge.into())));
                };
                *left = rest;
            }
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let limit = self.limit;
        let is_over = self
            .end
            .as_mut()
            .is_some_and(|end| end.poll_unpin(context).is_ready());
        if is_over {
            return Poll::Ready(Some(Err(TooSlow(limit).into())));
        }
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures::StreamExt;
    use http_body_util::{BodyExt, StreamBody};
    use hyper::body::Bytes;

    use super::*;

    /// An API server that begins to answer after a time, and then sends a letter a second for ever.
    async fn ask(path: &str, begins: Duration) -> Result<Result<usize, String>, String> {
        let inner = tower::service_fn(move |_: http::Request<()>| async move {
            tokio::time::sleep(begins).await;
            let letters = futures::stream::unfold((), |()| async {
                tokio::time::sleep(Duration::from_secs(1)).await;
                Some((Ok::<_, Infallible>(Frame::data(Bytes::from("x"))), ()))
            });
            Ok::<_, BoxError>(http::Response::new(StreamBody::new(letters.boxed())))
        });
        let request = http::Request::get(path).body(()).unwrap();
        let answer = Limit(Duration::from_secs(10))
            .layer(inner)
            .call(request)
            .await;
        let mut body = answer.map_err(|error| error.to_string())?.into_body();
        let mut letters = 0;
        while let Some(frame) = body.frame().await {
            match frame {
                Ok(_) if letters == 100 => break,
                Ok(_) => letters += 1,
                Err(error) => return Ok(Err(error.to_string())),
            }
        }
        Ok(Ok(letters))
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_has_an_end_and_a_watch_has_a_beginning() {
        let too_slow = || "the API server did not answer within 10 s".to_owned();
        let seconds = Duration::from_secs;
        let (list, watch) = ("/api/v1/pods?limit=5", "/api/v1/pods?a=b&watch=true");
        assert_eq!(ask(list, seconds(11)).await, Err(too_slow()), "no answer");
        assert_eq!(
            ask(watch, seconds(11)).await,
            Err(too_slow()),
            "a watch without an answer"
        );
        assert_eq!(
            ask(list, seconds(1)).await,
            Ok(Err(too_slow())),
            "an answer that drips in"
        );
        assert_eq!(
            ask(watch, seconds(1)).await,
            Ok(Ok(100)),
            "a watch that goes on"
        );
    }
}
