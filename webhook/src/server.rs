//! The server: accepts connections until told to shut down, then drains.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use crate::app::{App, Ready};
use crate::connection;
use crate::connections::Connections;
use crate::limits::Limits;
use crate::review::Handler;
use crate::routes::router;

/// The pause after a connection could not be accepted, mostly for lack of file descriptors.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// Why [`Server::run`] failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Requests were still in flight when the time to drain was over.
    #[error(
        "{requests} requests were cut off, unanswered {limit:?} after the webhook's listener \
         closed: handlers are slower than the limit of draining"
    )]
    Cut {
        /// How many.
        requests: usize,
        /// [`Limits::drain_limit`]
        limit: Duration,
    },
}

/// An admission server on one listener.
///
/// Besides its handlers' paths (POST only) it serves `/healthz`, always 200 `ok`, and `/readyz`,
/// 200 `ok` or 503 with the reason, which is `shutting down` from the moment of shutdown.
pub struct Server {
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    limits: Limits,
    handlers: BTreeMap<String, Arc<dyn Handler>>,
    ready: Ready,
}

impl Server {
    /// A server without handlers that is always ready. For `tls` see
    /// [`tls_config`](crate::tls_config).
    pub fn new(listener: TcpListener, tls: Arc<ServerConfig>, limits: Limits) -> Self {
        Self {
            listener,
            tls,
            limits,
            handlers: BTreeMap::new(),
            ready: Box::new(|| Ok(())),
        }
    }

    /// Serves `handler` at its path. It replaces an earlier handler of the same path.
    ///
    /// [`run`](Self::run) panics for a path that does not begin with `/`, or is that of health.
    #[must_use]
    pub fn handler(mut self, handler: impl Handler) -> Self {
        self.handlers
            .insert(handler.path().to_owned(), Arc::new(handler));
        self
    }

    /// Sets the check behind `/readyz`; its error is the reason in the answer.
    #[must_use]
    pub fn ready(mut self, ready: impl Fn() -> Result<(), String> + Send + Sync + 'static) -> Self {
        self.ready = Box::new(ready);
        self
    }

    /// Serves until `shutdown` resolves, and then drains. For [`Limits::drain`] it is not ready but still serves
    /// everything; each HTTP/1 connection is closed after its next answer. Then it takes no new connections, and
    /// requests in flight have at most [`Limits::drain_limit`] to end.
    ///
    /// # Errors
    /// [`Error::Cut`] when requests were still in flight after that. Nothing that happens on the wire is an error.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), Error> {
        let Self {
            listener,
            tls,
            limits,
            handlers,
            ready,
        } = self;
        let places = Connections::new(limits.connections);
        // Those that are told to go take a moment.
        let slots = limits
            .connections
            .saturating_add(limits.connections / 8 + 1);
        let slots = Arc::new(Semaphore::new(slots.min(Semaphore::MAX_PERMITS)));
        let tls = TlsAcceptor::from(tls);
        let app = Arc::new(App::new(limits.clone(), ready));
        let routes = router(&app, handlers.into_values());
        let (stop, stopped) = watch::channel(false);
        let mut connections = JoinSet::new();

        let mut drained = pin!(async {
            shutdown.await;
            tracing::info!(for_time = ?limits.drain, "shutting down: not ready, still serving");
            app.leave();
            sleep(limits.drain).await;
        });
        loop {
            tokio::select! {
                () = &mut drained => break,
                Some(ended) = connections.join_next() => report(ended),
                (stream, peer, slot) = accept(&listener, &slots) => {
                    let (tls, routes, app) = (tls.clone(), routes.clone(), Arc::clone(&app));
                    let (place, stopped) = (places.admit(peer.ip()), stopped.clone());
                    connections.spawn(async move {
                        connection::serve(stream, place, peer, tls, routes, app, stopped).await;
                        drop(slot);
                    });
                }
            }
        }

        drop(listener);
        stop.send_replace(true);
        let all = async {
            while let Some(ended) = connections.join_next().await {
                report(ended);
            }
        };
        if timeout(limits.drain_limit, all).await.is_ok() {
            tracing::info!("shut down: every request was answered");
            return Ok(());
        }
        let requests = app.in_flight.load(Ordering::Relaxed);
        connections.shutdown().await;
        if requests > 0 {
            Err(Error::Cut {
                requests,
                limit: limits.drain_limit,
            })
        } else {
            Ok(())
        }
    }
}

/// The next connection, once there is a slot for it. Until then it waits in the listener's queue.
async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> (TcpStream, SocketAddr, Option<OwnedSemaphorePermit>) {
    // The semaphore is never closed, so there always is a permit.
    let slot = Arc::clone(slots).acquire_owned().await.ok();
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => return (stream, peer, slot),
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
}

/// A panic in one connection must not end the others.
fn report(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a connection's task failed");
    }
}
