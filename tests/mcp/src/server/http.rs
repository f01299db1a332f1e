//! The transport streamable HTTP: the listener, its paths, and its end.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONNECTION, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::tools::Tools;

/// How long connections may take to close after the last answer.
const CLOSING: Duration = Duration::from_secs(5);

/// How long to wait after a connection could not be accepted, mostly for want of file descriptors.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

type Answer = Response<BoxBody<Bytes, Infallible>>;

struct App {
    mcp: StreamableHttpService<Tools, LocalSessionManager>,
    ready: AtomicBool,
    calls: TaskTracker,
}

/// Serves until `stop` is done, then for `linger` and until no call is in flight; `/ready` says 503
/// meanwhile.
///
/// Without `sessions` each request stands for itself, so that any replica answers any of them. A client of
/// MCP's newest version has no sessions anyway.
pub async fn serve(
    listener: TcpListener,
    tools: Tools,
    sessions: bool,
    stop: impl Future<Output = ()>,
    linger: Duration,
) {
    let streams = CancellationToken::new();
    // A server in a cluster is called by the names and addresses of its Service and its pods,
    // none of which it knows. The check is against web pages that reach for a server on the
    // machine of the one who reads them.
    let config = StreamableHttpServerConfig::default()
        .disable_allowed_hosts()
        .with_legacy_session_mode(sessions)
        .with_cancellation_token(streams.clone());
    let calls = tools.calls.clone();
    let app = Arc::new(App {
        mcp: StreamableHttpService::new(move || Ok(tools.clone()), Arc::default(), config),
        ready: AtomicBool::new(true),
        calls: calls.clone(),
    });

    let connections = GracefulShutdown::new();
    let quiet = async {
        stop.await;
        app.ready.store(false, Ordering::Relaxed);
        sleep(linger).await;
        calls.close();
        calls.wait().await;
    };
    tokio::select! {
        never = accept(&listener, &app, &connections) => match never {},
        () = quiet => {}
    }
    drop(listener);
    // Clients keep a stream open to hear from the server; it would never end.
    streams.cancel();
    if timeout(CLOSING, connections.shutdown()).await.is_err() {
        tracing::warn!("cut off connections that did not close within {CLOSING:?}");
    }
}

async fn accept(
    listener: &TcpListener,
    app: &Arc<App>,
    connections: &GracefulShutdown,
) -> Infallible {
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                sleep(ACCEPT_BACKOFF).await;
                continue;
            }
        };
        let app = Arc::clone(app);
        let service = service_fn(move |request| {
            let app = Arc::clone(&app);
            async move { Ok::<_, Infallible>(app.answer(request).await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .serve_connection(TokioIo::new(stream), service);
        let connection = connections.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%peer, %error, "a connection broke");
            }
        });
    }
}

impl App {
    async fn answer(&self, request: Request<Incoming>) -> Answer {
        let mut answer = self.route(request).await;
        if !self.ready.load(Ordering::Relaxed) {
            // So that the client's next request goes to another pod. To close what is idle instead
            // would lose the requests that are on their way here.
            let close = HeaderValue::from_static("close");
            answer.headers_mut().insert(CONNECTION, close);
        }
        answer
    }

    async fn route(&self, request: Request<Incoming>) -> Answer {
        match request.uri().path() {
            "/mcp" | "/" => self.mcp(request).await,
            "/health" => text(StatusCode::OK, "ok"),
            "/ready" if self.ready.load(Ordering::Relaxed) => text(StatusCode::OK, "ok"),
            "/ready" => text(StatusCode::SERVICE_UNAVAILABLE, "shutting down"),
            _ => text(
                StatusCode::NOT_FOUND,
                "MCP is at /mcp; there are /health and /ready",
            ),
        }
    }

    /// A call is in flight until its answer has been written to the end.
    async fn mcp(&self, request: Request<Incoming>) -> Answer {
        if request.method() != Method::POST {
            return self.mcp.handle(request).await;
        }
        let call = self.calls.token();
        let answer = self.mcp.handle(request).await;
        answer.map(|body| {
            body.map_frame(move |frame| {
                let _ = &call;
                frame
            })
            .boxed()
        })
    }
}

fn text(status: StatusCode, text: &'static str) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from_static(text.as_bytes())).boxed());
    *answer.status_mut() = status;
    answer
}
