//! One connection: handshake, protocol, its requests, its end.

use std::convert::Infallible;
use std::fmt::Display;
use std::future::poll_fn;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use axum::Router;
use axum::http::Request;
use axum::http::header::{CONNECTION, HeaderValue};
use axum::response::IntoResponse;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulConnection;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;

use crate::app::App;
use crate::connections::{Place, Told};
use crate::extract::Peer;
use crate::pulse::{Expiry, InFlight, Pulse, Watched};
use crate::refusal::Refusal;
use crate::tls::H2;

/// The fewest streams that an HTTP/2 peer is granted. Some peers assume this many before the server says so.
const STREAMS: usize = 100;

/// How many bytes of a request an HTTP/2 peer may send before they are read. What is read is counted; this is not.
const STREAM: u32 = 64 << 10;

/// The same of all requests on a connection: some may wait for memory, and the others must get on beside them.
const CONNECTION_WINDOW: u32 = 1 << 20;

/// Connections beyond this number get no more of it than one request: all of them together take a bounded memory.
const CROWD: usize = 32;

fn window(crowd: usize) -> u32 {
    if crowd < CROWD {
        CONNECTION_WINDOW
    } else {
        STREAM
    }
}

/// The most bytes of an HTTP/1 request's headers.
const HEADERS: usize = 64 << 10;

/// Serves a connection until it ends. `stop` turns true when it should take no more requests.
pub(crate) async fn serve(
    stream: TcpStream,
    mut place: Place,
    peer: SocketAddr,
    tls: TlsAcceptor,
    routes: Router,
    app: Arc<App>,
    stop: watch::Receiver<bool>,
) {
    // Without this the kernel may delay answers, which are small and urgent.
    let _ = stream.set_nodelay(true);
    let handshake = tokio::select! {
        handshake = timeout(app.limits.handshake_time, tls.accept(stream)) => handshake,
        _ = place.told() => return tracing::debug!(%peer, "no TLS handshake, and too many connections"),
    };
    let stream = match handshake {
        Ok(Ok(stream)) => stream,
        // A probe that only connects, such as a load balancer's.
        Ok(Err(error))
            if matches!(
                error.kind(),
                ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset
            ) =>
        {
            return tracing::debug!(%peer, %error, "connection closed before the TLS handshake");
        }
        Ok(Err(error)) => {
            return tracing::warn!(%peer, %error, "TLS handshake failed");
        }
        Err(_) => return tracing::debug!(%peer, "no TLS handshake in time"),
    };
    let h2 = stream.get_ref().1.alpn_protocol() == Some(H2);
    let limits = app.limits.clone();
    let pulse = Arc::new(Pulse::new(limits.clone(), !h2));
    let io = TokioIo::new(Watched {
        stream,
        pulse: Arc::clone(&pulse),
    });
    place.shook_hands(Arc::clone(&pulse));
    let counted = Arc::clone(&pulse);
    let service = service_fn(move |mut request: Request<Incoming>| {
        let in_flight = InFlight::begin(&counted, &app.in_flight);
        request.extensions_mut().insert(Peer(peer.ip()));
        let mut share = app.requests.of(peer.ip());
        let answer = share.grow(1).then(|| routes.clone().oneshot(request));
        let app = Arc::clone(&app);
        async move {
            let _share = share;
            let mut response = match answer {
                Some(answer) => answer.await?,
                None => Refusal::too_busy().into_response(),
            };
            // An HTTP/1 client that keeps its connection could send the next request just as we close it, and could
            // not tell whether we read it. HTTP/2 has GOAWAY for this.
            if !h2 && app.is_leaving() {
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(CONNECTION, close);
            }
            Ok::<_, Infallible>(response.map(|body| in_flight.until_sent(body)))
        }
    });
    let end = if h2 {
        let streams = limits.concurrent.max(STREAMS);
        let connection = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(limits.ping_time)
            .keep_alive_timeout(limits.ping_time)
            .initial_stream_window_size(STREAM)
            .initial_connection_window_size(window(place.crowd))
            .max_concurrent_streams(u32::try_from(streams).unwrap_or(u32::MAX))
            .serve_connection(io, service);
        drive(connection, &pulse, &mut place, stop).await
    } else {
        let connection = http1::Builder::new()
            // The pulse takes care of this timeout; see there.
            .header_read_timeout(None)
            .max_buf_size(HEADERS)
            .serve_connection(io, service);
        drive(connection, &pulse, &mut place, stop).await
    };
    match end {
        End::Closed => tracing::trace!(%peer, "connection closed"),
        End::Failed(error) => tracing::debug!(%peer, error, "connection failed"),
        End::Cut => tracing::debug!(%peer, "connection took too long and was closed"),
        End::Crowded => tracing::debug!(%peer, "connection closed, as there are too many"),
    }
}

enum End {
    Closed,
    Failed(String),
    Cut,
    Crowded,
}

async fn drive<C>(
    connection: C,
    pulse: &Pulse,
    place: &mut Place,
    mut stop: watch::Receiver<bool>,
) -> End
where
    C: GracefulConnection<Error: Display>,
{
    let mut connection = pin!(connection);
    let mut leaving = None;
    loop {
        let armed = pulse.deadline(leaving);
        // Ends with the connection, or when an event moved the deadline nearer.
        let progress = poll_fn(|cx| match connection.as_mut().poll(cx) {
            Poll::Ready(result) => Poll::Ready(Some(result)),
            Poll::Pending => match (pulse.deadline(leaving), armed) {
                (Some((deadline, _)), Some((armed, _))) if deadline >= armed => Poll::Pending,
                (None, _) => Poll::Pending,
                _ => Poll::Ready(None),
            },
        });
        let timer = async {
            match armed {
                Some((deadline, _)) => sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        let told = tokio::select! {
            biased;
            result = progress => match result {
                Some(Ok(())) => return End::Closed,
                Some(Err(error)) => return End::Failed(error.to_string()),
                None => false,
            },
            () = timer => match pulse.deadline(leaving) {
                Some((deadline, Expiry::Cut)) if deadline <= Instant::now() => return End::Cut,
                Some((deadline, Expiry::Close)) if deadline <= Instant::now() => true,
                // Something happened since the timer was set; set it again.
                _ => false,
            },
            told = place.told(), if leaving.is_none() => match told {
                Told::Cut => return End::Crowded,
                Told::Stay | Told::Close => true,
            },
            // When the sender is gone, the server is ending too.
            _ = stop.wait_for(|stop| *stop), if leaving.is_none() => true,
        };
        if told {
            leaving = Some(Instant::now());
            connection.as_mut().graceful_shutdown();
        }
    }
}
