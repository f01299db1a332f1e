//! The fence around a leader's writes: past a deadline none gets out, whatever is still running.
//!
//! A process can be paused at any moment (SIGSTOP, a frozen machine) and wake up when another one leads. What it
//! was about to write must not be written then, so the deadline is looked at where requests leave.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use futures::future::{BoxFuture, FutureExt};
use kube::client::Body;
use tower::{BoxError, Layer, Service};

/// Until when writes may leave. Closed at first.
#[derive(Clone, Debug, Default)]
pub struct Fence(Arc<Mutex<Option<Open>>>);

/// Open for so long from a moment on, by both clocks: the monotonic one stands still while a machine
/// sleeps, the other can be set back.
#[derive(Clone, Copy, Debug)]
struct Open {
    since: Moment,
    time: Duration,
}

/// A moment by both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    monotonic: Instant,
    wall: SystemTime,
}

impl Moment {
    /// Now.
    pub fn now() -> Self {
        Self {
            monotonic: Instant::now(),
            wall: SystemTime::now(),
        }
    }

    /// The time since then, by the clock that went further.
    pub fn elapsed(&self) -> Duration {
        let wall = self.wall.elapsed().unwrap_or_default();
        self.monotonic.elapsed().max(wall)
    }
}

/// A write was held back.
#[derive(Debug, thiserror::Error)]
#[error("this replica does not lead any more; another one goes on")]
pub struct NotLeading;

impl Fence {
    /// Lets writes out for `time` from `since` on.
    pub fn open(&self, since: Moment, time: Duration) {
        *self.lock() = Some(Open { since, time });
    }

    /// Lets no write out any more.
    pub fn close(&self) {
        *self.lock() = None;
    }

    /// How long writes may go out from now on; zero when they may not.
    pub fn left(&self) -> Duration {
        self.lock()
            .map(|open| open.time.saturating_sub(open.since.elapsed()))
            .unwrap_or_default()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Open>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S> Layer<S> for Fence {
    type Service = Fenced<S>;

    fn layer(&self, inner: S) -> Fenced<S> {
        Fenced {
            inner,
            fence: self.clone(),
        }
    }
}

/// A client's service whose writes pass the fence.
#[derive(Clone, Debug)]
pub struct Fenced<S> {
    inner: S,
    fence: Fence,
}

impl<S, R> Service<http::Request<Body>> for Fenced<S>
where
    S: Service<http::Request<Body>, Response = R, Error: Into<BoxError>, Future: Send + 'static>,
    R: Send + 'static,
{
    type Response = R;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<R, BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        if request.method() != http::Method::GET && self.fence.left().is_zero() {
            return futures::future::err(NotLeading.into()).boxed();
        }
        let (is_write, fence) = (request.method() != http::Method::GET, self.fence.clone());
        let mut answer = Box::pin(self.inner.call(request));
        // Between here and the wire there may be a connection to open or a token to fetch, so it is looked at
        // again before each step. A write whose answer comes too late is given up; whether it was done, the
        // next leader sees.
        poll_fn(move |context| {
            if is_write && fence.left().is_zero() {
                return Poll::Ready(Err(NotLeading.into()));
            }
            answer.as_mut().poll(context).map_err(Into::into)
        })
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_open_for_a_time_only() {
        let fence = Fence::default();
        assert!(fence.left().is_zero(), "closed at first");
        fence.open(Moment::now(), Duration::from_mins(1));
        assert!(fence.left() > Duration::from_secs(50));
        fence.close();
        assert!(fence.left().is_zero(), "closed by hand");
        fence.open(Moment::now(), Duration::ZERO);
        assert!(fence.left().is_zero(), "its time is over");
    }

    #[test]
    fn the_clock_that_went_further_counts() {
        let hour = Duration::from_hours(1);
        let slept = Moment {
            monotonic: Instant::now(),
            wall: SystemTime::now() - hour,
        };
        assert!(slept.elapsed() >= hour, "a machine that slept");
        let set_back = Moment {
            monotonic: Instant::now(),
            wall: SystemTime::now() + hour,
        };
        assert!(set_back.elapsed() < hour, "a clock that was set back");
    }

    #[tokio::test]
    async fn reads_pass_and_writes_do_only_while_it_is_open() {
        let fence = Fence::default();
        let inner = tower::service_fn(|_: http::Request<Body>| async { Ok::<_, BoxError>(()) });
        let mut service = fence.layer(inner);
        let mut send = |method: &str| {
            let request = http::Request::builder().method(method).body(Body::empty());
            service.call(request.unwrap())
        };
        let writes = ["POST", "PUT", "PATCH", "DELETE"];
        send("GET").await.unwrap();
        for method in writes {
            let error = send(method).await.unwrap_err();
            assert!(error.is::<NotLeading>(), "{method}: {error}");
        }
        fence.open(Moment::now(), Duration::from_mins(1));
        for method in writes {
            send(method).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_write_whose_connection_opens_too_late_does_not_leave() {
        let fence = Fence::default();
        let connected = Arc::new(tokio::sync::Notify::new());
        let left = Arc::new(Mutex::new(Vec::new()));
        let (opens, log) = (connected.clone(), left.clone());
        let inner = tower::service_fn(move |request: http::Request<Body>| {
            let (opens, log) = (opens.clone(), log.clone());
            async move {
                opens.notified().await;
                log.lock().unwrap().push(request.method().clone());
                Ok::<_, BoxError>(())
            }
        });
        let mut service = fence.layer(inner);
        fence.open(Moment::now(), Duration::from_mins(1));
        for (method, expected) in [("GET", true), ("PATCH", false)] {
            let request = http::Request::builder().method(method).body(Body::empty());
            let mut answer = service.call(request.unwrap());
            assert!(futures::poll!(&mut answer).is_pending(), "{method}");
            fence.close();
            connected.notify_one();
            assert_eq!(answer.await.is_ok(), expected, "{method}");
            let has_left = left.lock().unwrap().iter().any(|left| left == method);
            assert_eq!(has_left, expected, "{method}");
            fence.open(Moment::now(), Duration::from_mins(1));
        }
    }
}
