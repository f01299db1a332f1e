//! The proxy itself: TLS, HTTP/1.1 and what is done to each request.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Error, Result};
use futures::future::BoxFuture;
use futures::stream::{self, StreamExt, TryStreamExt};
use http::header::{CONNECTION, CONTENT_TYPE, HOST, RETRY_AFTER, TRANSFER_ENCODING};
use http::{HeaderMap, Response, StatusCode, Uri};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, BodyStream, Full, StreamBody};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioIo};
use kube::client::ConfigExt;
use kube::config::{KubeConfigOptions, Kubeconfig};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::{Fault, Request, State, lock};
use crate::pki::Identity;

type Answer = Response<UnsyncBoxBody<Bytes, Error>>;
type Ask = dyn Fn(http::Request<Full<Bytes>>) -> BoxFuture<'static, Result<Response<Incoming>>>
    + Send
    + Sync;
/// An answer that was read to its end.
type Whole = (StatusCode, HeaderMap, Bytes);

/// The API server, asked as one user. Nothing is tried again here.
#[derive(Clone)]
pub(super) struct Upstream {
    ask: Arc<Ask>,
    url: String,
    /// The first answer to each list, by its address.
    first: Arc<Mutex<HashMap<String, Whole>>>,
}

/// Why a connection is closed: on purpose, or because the API server did not answer.
#[derive(Debug)]
struct Closed(String);

impl std::fmt::Display for Closed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Closed {}

impl Upstream {
    /// By the address and the credentials of this kubeconfig.
    pub(super) async fn new(kubeconfig: &Path) -> Result<Self> {
        let reading = || format!("reading {}", kubeconfig.display());
        let kubeconfig = Kubeconfig::read_from(kubeconfig).with_context(reading)?;
        let options = KubeConfigOptions::default();
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options)
            .await
            .with_context(reading)?;
        let connector = config
            .rustls_https_connector()
            .context("making a client of the API server")?;
        let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build(connector);
        let ask = move |request| {
            let asked = client.request(request);
            Box::pin(async move { asked.await.context("asking the API server") })
                as BoxFuture<'static, _>
        };
        Ok(Self {
            ask: Arc::new(ask),
            url: config.cluster_url.to_string(),
            first: Arc::default(),
        })
    }

    /// Passes a request on.
    async fn pass(&self, request: http::Request<Incoming>) -> Result<Response<Incoming>> {
        let (mut parts, body) = request.into_parts();
        let body = body.collect().await.context("reading a request")?;
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        let url = format!("{}{path}", self.url.trim_end_matches('/'));
        parts.uri = url.parse::<Uri>().context("an address")?;
        for name in [HOST, CONNECTION, TRANSFER_ENCODING] {
            parts.headers.remove(name);
        }
        let request = http::Request::from_parts(parts, Full::new(body.to_bytes()));
        (self.ask)(request).await
    }

    /// Passes a list on, and keeps the first answer to it.
    async fn pass_list(&self, request: http::Request<Incoming>) -> Result<Answer> {
        let key = request.uri().to_string();
        let (parts, body) = self.pass(request).await?.into_parts();
        let body = body.collect().await.context("reading a list")?.to_bytes();
        let whole = (parts.status, parts.headers, body);
        if parts.status.is_success() {
            lock(&self.first)
                .entry(key)
                .or_insert_with(|| whole.clone());
        }
        Ok(answer(whole))
    }
}

/// TLS with this certificate, for HTTP/1.1.
pub(super) fn acceptor(identity: &Identity) -> Result<TlsAcceptor> {
    let chain: Result<Vec<_>, _> =
        CertificateDer::pem_slice_iter(identity.certificate.as_bytes()).collect();
    let chain = chain.context("reading the proxy's certificate")?;
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes())
        .context("reading the proxy's key")?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .context("choosing versions of TLS")?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .context("serving the proxy's certificate")?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Serves until it is dropped; ends with an error only.
pub(super) async fn serve(
    listener: std::net::TcpListener,
    tls: TlsAcceptor,
    upstream: Upstream,
    state: Arc<State>,
) -> Error {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return error.into(),
    };
    let mut connections = tokio::task::JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = state.sever.notified() => {
                connections.abort_all();
                continue;
            }
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => return Error::new(error).context("accepting a connection"),
        };
        let (tls, upstream, state) = (tls.clone(), upstream.clone(), state.clone());
        connections.spawn(async move {
            // A connection that was cut on purpose ends with an error, too.
            let _ = connection(stream, tls, upstream, state).await;
        });
    }
}

async fn connection(
    stream: TcpStream,
    tls: TlsAcceptor,
    upstream: Upstream,
    state: Arc<State>,
) -> Result<()> {
    let stream = tls.accept(stream).await.context("the TLS handshake")?;
    let service = service_fn(move |request: http::Request<Incoming>| {
        let (upstream, state) = (upstream.clone(), state.clone());
        async move {
            let about = Request::of(request.method(), request.uri());
            let fault = state.take(&about);
            let answered = match fault {
                None => pass(&upstream, &about, request).await,
                Some(fault) => break_it(&upstream, &about, request, fault).await,
            };
            answered.map_err(|error| Closed(format!("{about}: {error:#}")))
        }
    });
    http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await
        .context("serving a connection")
}

async fn pass(
    upstream: &Upstream,
    about: &Request,
    request: http::Request<Incoming>,
) -> Result<Answer> {
    if about.verb == "list" {
        return upstream.pass_list(request).await;
    }
    let answer = upstream.pass(request).await?;
    Ok(answer.map(|body| body.map_err(Error::new).boxed_unsync()))
}

async fn break_it(
    upstream: &Upstream,
    about: &Request,
    request: http::Request<Incoming>,
    fault: Fault,
) -> Result<Answer> {
    let closed = |why: &str| Err(Error::msg(why.to_owned()));
    match fault {
        Fault::Answer(code) => Ok(status(code, "InternalError", "a fault was asked for", None)),
        Fault::TooMany(seconds) => {
            let message = "too many requests, please try again later";
            Ok(status(429, "TooManyRequests", message, Some(seconds)))
        }
        Fault::Expire => {
            let message = "The resourceVersion for the provided watch is too old.";
            Ok(status(410, "Expired", message, None))
        }
        Fault::Cut => closed("cut"),
        Fault::LoseAnswer => {
            finish(upstream, request).await?;
            closed("the answer is lost")
        }
        Fault::Before(act) => {
            act();
            closed("the client has ended")
        }
        Fault::After(act) => {
            finish(upstream, request).await?;
            act();
            closed("the client has ended")
        }
        Fault::Hang => std::future::pending().await,
        Fault::Delay(time) => {
            tokio::time::sleep(time).await;
            pass(upstream, about, request).await
        }
        Fault::Silence => {
            let (parts, _) = upstream.pass(request).await?.into_parts();
            let silent = StreamBody::new(stream::pending::<Result<_>>());
            Ok(Response::from_parts(parts, silent.boxed_unsync()))
        }
        Fault::CutAfter(time) => {
            let (parts, body) = upstream.pass(request).await?.into_parts();
            Ok(Response::from_parts(parts, cut_after(body, time)))
        }
        Fault::Replay => {
            let key = request.uri().to_string();
            let first = lock(&upstream.first).get(&key).cloned();
            match first {
                Some(whole) => Ok(answer(whole)),
                None => pass(upstream, about, request).await,
            }
        }
    }
}

/// Has the API server do it, and reads its answer to the end.
async fn finish(upstream: &Upstream, request: http::Request<Incoming>) -> Result<()> {
    let answer = upstream.pass(request).await?;
    answer.into_body().collect().await.context("reading")?;
    Ok(())
}

/// What comes until then; and then the connection is closed in the midst of it.
fn cut_after(body: Incoming, time: Duration) -> UnsyncBoxBody<Bytes, Error> {
    let frames = TryStreamExt::map_err(BodyStream::new(body), Error::new);
    let end = Box::pin(tokio::time::sleep(time));
    let cut = frames
        .take_until(end)
        .chain(stream::once(async { Err(Error::msg("cut")) }));
    StreamBody::new(cut).boxed_unsync()
}

fn answer((code, headers, body): Whole) -> Answer {
    let body = Full::new(body).map_err(|never| match never {});
    let mut answer = Response::new(body.boxed_unsync());
    *answer.status_mut() = code;
    *answer.headers_mut() = headers;
    // The body is whole now.
    answer.headers_mut().remove(TRANSFER_ENCODING);
    answer
}

/// A `metav1.Status`.
fn status(code: u16, reason: &str, message: &str, again: Option<u32>) -> Answer {
    let body = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code,
    });
    let mut headers = HeaderMap::new();
    headers.insert(
        CONTENT_TYPE,
        http::HeaderValue::from_static("application/json"),
    );
    if let Some(again) = again {
        headers.insert(RETRY_AFTER, again.into());
    }
    let code = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    answer((code, headers, Bytes::from(body.to_string())))
}
