//! The fence at the client: where requests are handed over.

use std::future::poll_fn;
use std::task::{Context, Poll};

use futures::future::{BoxFuture, FutureExt};
use kube::client::Body;
use tower::{BoxError, Layer, Service};

use super::Fence;

impl<S> Layer<S> for Fence {
    type Service = Fenced<S>;

    fn layer(&self, inner: S) -> Fenced<S> {
        Fenced {
            inner,
            fence: self.clone(),
        }
    }
}

/// A client's service that takes requests only while the fence is open.
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
        if let Err(error) = self.fence.check() {
            return futures::future::err(error.into()).boxed();
        }
        let fence = self.fence.clone();
        let mut answer = Box::pin(self.inner.call(request));
        // Before the request is sent, a connection may have to be opened or a token fetched. So the fence is checked
        // again before each step. A write whose answer comes too late is abandoned; the next leader sees whether it
        // took effect.
        poll_fn(move |context| {
            fence.check()?;
            answer.as_mut().poll(context).map_err(Into::into)
        })
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::fence::NotLeading;

    #[tokio::test]
    async fn requests_pass_only_while_it_is_open() {
        let fence = Fence::none();
        let inner = tower::service_fn(|_: http::Request<Body>| async { Ok::<_, BoxError>(()) });
        let mut service = fence.layer(inner);
        let mut send = |method: &str| {
            let request = http::Request::builder().method(method).body(Body::empty());
            service.call(request.unwrap())
        };
        let methods = ["GET", "POST", "PUT", "PATCH", "DELETE"];
        for method in methods {
            send(method).await.unwrap();
        }
        fence.close();
        for method in methods {
            let error = send(method).await.unwrap_err();
            assert!(error.is::<NotLeading>(), "{method}: {error}");
        }
    }

    #[tokio::test]
    async fn a_request_whose_connection_opens_too_late_does_not_leave() {
        for closes in [false, true] {
            let fence = Fence::none();
            let connected = Arc::new(tokio::sync::Notify::new());
            let left = Arc::new(Mutex::new(false));
            let (opens, log) = (connected.clone(), left.clone());
            let inner = tower::service_fn(move |_: http::Request<Body>| {
                let (opens, log) = (opens.clone(), log.clone());
                async move {
                    opens.notified().await;
                    *log.lock().unwrap() = true;
                    Ok::<_, BoxError>(())
                }
            });
            let mut answer = fence.layer(inner).call(http::Request::new(Body::empty()));
            assert!(futures::poll!(&mut answer).is_pending());
            if closes {
                fence.close();
            }
            connected.notify_one();
            assert_eq!(answer.await.is_err(), closes);
            assert_eq!(*left.lock().unwrap(), !closes);
        }
    }
}
