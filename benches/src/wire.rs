//! Requests to a webhook server as the API server makes them, from an address of choice.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context, Result};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use kube::{Api, Client};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// How a webhook server on loopback is reached.
#[derive(Clone)]
pub(crate) struct Wire {
    address: SocketAddr,
    from: IpAddr,
    roots: Arc<RootCertStore>,
}

impl Wire {
    /// A server at this port that has one of these certificates.
    pub(crate) fn new<'a>(
        port: u16,
        trusted: impl IntoIterator<Item = CertificateDer<'a>>,
    ) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        for certificate in trusted {
            roots.add(certificate).context("reading a certificate")?;
        }
        Ok(Self {
            address: (Ipv4Addr::LOCALHOST, port).into(),
            from: Ipv4Addr::LOCALHOST.into(),
            roots: Arc::new(roots),
        })
    }

    /// The operator's webhooks at this port, trusted as its configuration says.
    pub(crate) async fn of_operator(client: Client, port: u16) -> Result<Self> {
        let configurations: Api<ValidatingWebhookConfiguration> = Api::all(client);
        let configuration = configurations.get("mcp-operator").await?;
        let webhooks = configuration.webhooks.unwrap_or_default();
        let bundle = webhooks
            .into_iter()
            .find_map(|webhook| webhook.client_config.ca_bundle)
            .context("no caBundle")?;
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bundle.0).collect();
        Self::new(port, certificates.context("reading the caBundle")?)
    }

    /// The same from another address of loopback: another peer to the server.
    pub(crate) fn from(&self, last: u8) -> Self {
        Self {
            from: Ipv4Addr::new(127, 0, 0, last).into(),
            ..self.clone()
        }
    }

    async fn tls(&self, protocol: &[u8]) -> Result<TlsStream<TcpStream>> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(self.roots.clone())
            .with_no_client_auth();
        config.alpn_protocols = vec![protocol.to_vec()];
        let socket = TcpSocket::new_v4()?;
        socket.bind((self.from, 0).into())?;
        let stream = socket.connect(self.address).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from("localhost")?;
        Ok(TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await?)
    }

    /// A connection for any number of requests.
    pub(crate) async fn http2(&self) -> Result<Http2> {
        let io = TokioIo::new(self.tls(b"h2").await?);
        let mut builder = http2::Builder::new(TokioExecutor::new());
        let (client, connection) = builder.timer(TokioTimer::new()).handshake(io).await?;
        tokio::spawn(connection);
        Ok(Http2(client))
    }

    /// A request that announces so many bytes and sends so many of them, and nothing after that.
    pub(crate) async fn stuck(&self, path: &str, announced: usize, sent: usize) -> Result<Stuck> {
        let mut stream = self.tls(b"http/1.1").await?;
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {announced}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await?;
        // What the server does not read fills the socket; that is as good.
        let _ = tokio::time::timeout(STUCK, stream.write_all(&vec![b' '; sent])).await;
        Ok(Stuck(stream))
    }
}

/// How long a client tries to send what nobody reads.
const STUCK: std::time::Duration = std::time::Duration::from_secs(1);

/// A connection for any number of requests.
#[derive(Clone)]
pub(crate) struct Http2(SendRequest<Full<Bytes>>);

impl Http2 {
    /// The answer to a POST of this JSON.
    pub(crate) async fn post(&self, path: &str, body: Bytes) -> Result<(StatusCode, Bytes)> {
        let mut client = self.0.clone();
        let request = Request::post(format!("https://localhost{path}"))
            .header("content-type", "application/json")
            .body(Full::new(body))?;
        client.ready().await?;
        let answer: http::Response<Incoming> = client.send_request(request).await?;
        let code = answer.status();
        Ok((code, answer.into_body().collect().await?.to_bytes()))
    }

    /// Whether the server has closed it.
    pub(crate) fn is_closed(&self) -> bool {
        self.0.is_closed()
    }
}

/// A request that does not get on.
pub(crate) struct Stuck(#[expect(dead_code, reason = "it is held open")] TlsStream<TcpStream>);
