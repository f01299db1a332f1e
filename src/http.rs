//! HTTP within the cluster: `/healthz`, `/readyz`, `/metrics`. Small answers to few callers.
//!
//! Metrics are served plainly beside health, or over TLS at an address of their own, to who may read them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use axum::routing::get;
use futures::FutureExt;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tower_http::catch_panic::CatchPanicLayer;

use crate::metrics::{self, Metrics};
use crate::scrape::{self, Scrapers};

/// The most connections at once. One more closes the oldest: idle connections must not lock out the kubelet's probes,
/// or it would restart the operator.
const CONNECTIONS: usize = 64;
/// A connection is closed when its TLS handshake is not done within this time.
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
/// A connection is closed when the headers of its next request do not arrive within this time.
const HEADER_TIME: Duration = Duration::from_secs(30);
/// The longest life of a connection: one that reads its answers slowly must not keep its place.
const CONNECTION_TIME: Duration = Duration::from_mins(10);
/// The pause after a connection could not be accepted, for lack of file descriptors for example.
const PAUSE: Duration = Duration::from_millis(100);

type Ready = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// Serves these routes until it is dropped; over TLS when there is an acceptor.
pub async fn serve(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    routes: Router,
) -> anyhow::Result<()> {
    let routes = fenced(routes);
    let mut connections = JoinSet::new();
    let mut open: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!("a connection could not be accepted: {error}");
                sleep(PAUSE).await;
                continue;
            }
        };
        // Reap the connections that have ended.
        while connections.try_join_next().is_some() {}
        open.retain(|connection| !connection.is_finished());
        if open.len() >= CONNECTIONS
            && let Some(oldest) = open.pop_front()
        {
            oldest.abort();
        }
        let connection = connection(stream, tls.clone(), routes.clone());
        let served = timeout(CONNECTION_TIME, connection);
        open.push_back(connections.spawn(served.map(drop)));
    }
}

async fn connection(stream: TcpStream, tls: Option<TlsAcceptor>, routes: Router) {
    let Some(tls) = tls else {
        return speak(stream, routes).await;
    };
    match timeout(HANDSHAKE_TIME, tls.accept(stream)).await {
        Ok(Ok(stream)) => speak(stream, routes).await,
        Ok(Err(error)) => tracing::debug!("TLS handshake: {error}"),
        Err(_) => tracing::debug!("TLS handshake: not done within {HANDSHAKE_TIME:?}"),
    }
}

async fn speak(stream: impl AsyncRead + AsyncWrite + Unpin, routes: Router) {
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes))
        .await;
    if let Err(error) = served {
        tracing::debug!("connection: {error}");
    }
}

/// `/healthz` and `/readyz`. `ready` decides the answer of the latter; its error is the body.
pub fn health(ready: impl Fn() -> Result<(), String> + Send + Sync + 'static) -> Router {
    let ready: Ready = Arc::new(ready);
    let readiness = move || {
        let ready = ready();
        async {
            ready.map_or_else(
                |reason| (StatusCode::SERVICE_UNAVAILABLE, reason),
                |()| ok(),
            )
        }
    };
    Router::new()
        .route("/healthz", get(async || ok()))
        .route("/readyz", get(readiness))
}

/// `/metrics`, for those that `scrapers` lets; for anybody without.
pub fn metrics(metrics: Arc<Metrics>, scrapers: Option<Scrapers>) -> Router {
    let scrapers = scrapers.map(Arc::new);
    let show = move |headers: HeaderMap| {
        let (metrics, scrapers) = (metrics.clone(), scrapers.clone());
        async move {
            if let Some(scrapers) = scrapers
                && let Err(refusal) = scrapers.check(&headers).await
            {
                return refusal.into_response();
            }
            match metrics.text() {
                Ok(text) => ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
                Err(error) => {
                    (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response()
                }
            }
        }
    };
    Router::new().route(scrape::PATH, get(show))
}

/// With an answer to whatever else is asked.
fn fenced(routes: Router) -> Router {
    routes
        .method_not_allowed_fallback(async || (StatusCode::METHOD_NOT_ALLOWED, "use GET"))
        .fallback(async || {
            (
                StatusCode::NOT_FOUND,
                "there are /healthz and /readyz, and /metrics here or at --metrics-address",
            )
        })
        .layer(CatchPanicLayer::new())
}

fn ok() -> (StatusCode, String) {
    (StatusCode::OK, "ok".to_owned())
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::header::ALLOW;
    use axum::http::{Method, Request};
    use tower::ServiceExt;

    use super::*;

    #[tokio::test]
    async fn answers() {
        let metrics = Arc::new(Metrics::new(Arc::default()).unwrap());
        let ask = |method: Method, path: &str, ready: &Ready| {
            let request = Request::builder().method(method).uri(path);
            let request = request.body(Body::empty()).unwrap();
            let ready = ready.clone();
            fenced(health(move || ready()).merge(super::metrics(metrics.clone(), None)))
                .oneshot(request)
                .map(Result::unwrap)
        };
        let well: Ready = Arc::new(|| Ok(()));
        let ill: Ready = Arc::new(|| Err("no certificate yet".to_owned()));
        let table = [
            ("alive", Method::GET, "/healthz", &ill, 200),
            ("ready", Method::GET, "/readyz", &well, 200),
            ("ready, by HEAD", Method::HEAD, "/readyz", &well, 200),
            ("not ready", Method::GET, "/readyz", &ill, 503),
            ("metrics", Method::GET, "/metrics", &ill, 200),
            ("a write", Method::POST, "/metrics", &well, 405),
            ("something else", Method::GET, "/", &well, 404),
        ];
        for (what, method, path, ready, code) in table {
            let response = ask(method, path, ready).await;
            assert_eq!(response.status().as_u16(), code, "{what}");
            let allowed = response.headers().get(ALLOW).is_some();
            assert_eq!(allowed, code == 405, "{what}");
        }
        let response = ask(Method::GET, "/metrics", &well).await;
        assert_eq!(
            response.headers()[CONTENT_TYPE],
            "text/plain; version=0.0.4"
        );
    }

    #[tokio::test]
    async fn who_asks_is_answered_however_many_are_silent() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};

        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let metrics = Arc::new(Metrics::new(Arc::default()).unwrap());
        let routes = health(|| Ok(())).merge(super::metrics(metrics, None));
        let server = tokio::spawn(serve(listener, None, routes));
        let mut silent = Vec::new();
        for _ in 0..2 * CONNECTIONS {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        let mut probe = TcpStream::connect(address).await.unwrap();
        let request = b"GET /healthz HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
        probe.write_all(request).await.unwrap();
        let mut answer = String::new();
        // Sooner than the silent ones come to their end by themselves.
        let read = timeout(HEADER_TIME / 3, probe.read_to_string(&mut answer));
        read.await.expect("it is answered").unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        server.abort();
    }
}
