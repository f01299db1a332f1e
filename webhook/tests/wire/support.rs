//! A running server, clients for it, and handlers to put into it.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::{http1, http2};
use hyper::header::{CONTENT_TYPE, HOST, HeaderMap};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::{TlsConnector, client::TlsStream};
use webhook::{Error, Handler, Limits, Server, TlsVersions, Verdict, tls_config};

pub type Body = BoxBody<Bytes, Infallible>;

/// No test waits longer for anything.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub struct Running {
    pub address: SocketAddr,
    client: Arc<ClientConfig>,
    roots: RootCertStore,
    shutdown: oneshot::Sender<()>,
    task: JoinHandle<Result<(), Error>>,
}

/// A server with handlers as `build` puts them in.
pub async fn start(limits: Limits, build: impl FnOnce(Server) -> Server) -> Running {
    start_with(TlsVersions::default(), limits, build).await
}

pub async fn start_with(
    versions: TlsVersions,
    limits: Limits,
    build: impl FnOnce(Server) -> Server,
) -> Running {
    let ring = Arc::new(rustls::crypto::ring::default_provider());
    let issued = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let certificate = issued.cert.der().clone();
    let key = PrivateKeyDer::try_from(issued.signing_key.serialize_der()).unwrap();
    let certified = CertifiedKey::from_der(vec![certificate.clone()], key, &ring).unwrap();
    let tls = tls_config(Arc::new(SingleCertAndKey::from(certified)), versions);

    let mut roots = RootCertStore::empty();
    roots.add(certificate).unwrap();
    let client = ClientConfig::builder_with_provider(ring)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots.clone())
        .with_no_client_auth();

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = build(Server::new(listener, tls, limits));
    let (shutdown, told) = oneshot::channel::<()>();
    let task = tokio::spawn(server.run(async {
        let _ = told.await;
    }));
    Running {
        address,
        client: Arc::new(client),
        roots,
        shutdown,
        task,
    }
}

impl Running {
    /// Tells the server to shut down; the task ends when it has.
    pub fn shut_down(self) -> JoinHandle<Result<(), Error>> {
        self.shutdown.send(()).unwrap();
        self.task
    }

    pub fn dialer(&self) -> Dialer {
        Dialer {
            address: self.address,
            from: Ipv4Addr::LOCALHOST.into(),
            client: Arc::clone(&self.client),
            roots: self.roots.clone(),
        }
    }

    pub async fn tls(&self, protocol: &str) -> TlsStream<TcpStream> {
        self.dialer().tls(protocol).await.unwrap()
    }

    pub async fn http1(&self) -> http1::SendRequest<Body> {
        self.dialer().http1().await.unwrap()
    }

    pub async fn http2(&self) -> http2::SendRequest<Body> {
        let io = TokioIo::new(self.tls("h2").await);
        let (client, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(connection);
        client
    }

    /// A connection whose request has the head of its answer; from then on the client neither
    /// reads nor writes. Frame by frame, because hyper's client goes on in the background.
    pub async fn silent_http2(
        &self,
        method: Method,
        path: &str,
        body: &str,
    ) -> TlsStream<TcpStream> {
        let end_stream = u8::from(body.is_empty());
        // HPACK: method and scheme from the static table, the others by name from there.
        let mut head = vec![if method == Method::POST { 0x83 } else { 0x82 }, 0x87];
        for (name, value) in [
            (&[0x04][..], path),
            (&[0x01], "localhost"),
            (&[0x0f, 0x10], "application/json"),
        ] {
            head.extend(name);
            head.push(u8::try_from(value.len()).unwrap());
            head.extend(value.as_bytes());
        }
        let mut stream = self.tls("h2").await;
        let mut sent = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        sent.extend(frame(SETTINGS, 0, 0, b""));
        sent.extend(frame(HEADERS, 0x4 | end_stream, 1, &head));
        if end_stream == 0 {
            sent.extend(frame(DATA, 0x1, 1, body.as_bytes()));
        }
        stream.write_all(&sent).await.unwrap();
        let answered = async {
            loop {
                let mut head = [0; 9];
                stream.read_exact(&mut head).await.unwrap();
                let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
                let mut payload = vec![0; usize::try_from(length).unwrap()];
                stream.read_exact(&mut payload).await.unwrap();
                if head[3] == HEADERS {
                    // `:status: 200` in the static table.
                    assert_eq!(payload[0], 0x88);
                    return;
                }
            }
        };
        timeout(PATIENCE, answered).await.unwrap();
        stream
    }

    /// The server still answers on a new connection.
    pub async fn assert_lives(&self) {
        let mut client = self.http1().await;
        let answer = http1_answer(&mut client, get("/healthz")).await;
        assert_eq!(
            (answer.code, answer.text().as_str()),
            (StatusCode::OK, "ok")
        );
    }
}

// Frame types of RFC 9113.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![
        length[1], length[2], length[3], kind, flags, 0, 0, 0, stream,
    ];
    frame.extend(payload);
    frame
}

/// Connects; outlives [`Running::shut_down`].
#[derive(Clone)]
pub struct Dialer {
    address: SocketAddr,
    from: IpAddr,
    client: Arc<ClientConfig>,
    roots: RootCertStore,
}

impl Dialer {
    /// The same from another address, which is another peer to the server.
    pub fn from(mut self, address: [u8; 4]) -> Self {
        self.from = address.into();
        self
    }

    /// Whether the server answers on a new connection.
    pub async fn lives(&self) -> bool {
        let Ok(mut client) = self.http1().await else {
            return false;
        };
        let answer = client.send_request(get("/healthz")).await;
        answer.is_ok_and(|answer| answer.status() == StatusCode::OK)
    }

    pub async fn tls(&self, protocol: &str) -> std::io::Result<TlsStream<TcpStream>> {
        let mut config = ClientConfig::clone(&self.client);
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        let stream = self.shake_hands(config).await?;
        assert_eq!(
            stream.get_ref().1.alpn_protocol(),
            Some(protocol.as_bytes())
        );
        Ok(stream)
    }

    async fn shake_hands(&self, config: ClientConfig) -> std::io::Result<TlsStream<TcpStream>> {
        let socket = TcpSocket::new_v4()?;
        socket.bind((self.from, 0).into())?;
        let stream = socket.connect(self.address).await?;
        // Or else each request would wait for the acknowledgement of the one before.
        stream.set_nodelay(true)?;
        let name = ServerName::try_from("localhost").unwrap();
        let connector = TlsConnector::from(Arc::new(config));
        let shaken = timeout(PATIENCE, connector.connect(name, stream)).await;
        shaken.expect("a handshake in time")
    }

    /// A handshake that offers TLS 1.2 only.
    pub async fn tls_1_2(&self) -> std::io::Result<TlsStream<TcpStream>> {
        let mut config =
            ClientConfig::builder_with_provider(Arc::clone(self.client.crypto_provider()))
                .with_protocol_versions(&[&rustls::version::TLS12])
                .unwrap()
                .with_root_certificates(self.roots.clone())
                .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        self.shake_hands(config).await
    }

    pub async fn http1(&self) -> std::io::Result<http1::SendRequest<Body>> {
        let io = TokioIo::new(self.tls("http/1.1").await?);
        let (client, connection) = http1::handshake(io).await.unwrap();
        tokio::spawn(connection);
        Ok(client)
    }
}

pub struct Answer {
    pub code: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub async fn of(response: Response<Incoming>) -> Self {
        let (head, body) = response.into_parts();
        let body = timeout(PATIENCE, body.collect()).await.unwrap().unwrap();
        Self {
            code: head.status,
            headers: head.headers,
            body: body.to_bytes(),
        }
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.body.to_vec()).unwrap()
    }

    pub fn json(&self) -> Value {
        assert_eq!(self.headers[CONTENT_TYPE], "application/json");
        serde_json::from_slice(&self.body).unwrap()
    }

    /// Asserts a `metav1.Status` of this code and reason; gives its message.
    pub fn refusal(&self, code: u16, reason: &str) -> String {
        let status = self.json();
        assert_eq!(self.code, code, "{status}");
        assert_eq!(status["kind"], "Status");
        assert_eq!(status["apiVersion"], "v1");
        assert_eq!(status["status"], "Failure");
        assert_eq!(status["code"], code);
        assert_eq!(status["reason"], reason);
        status["message"].as_str().unwrap().to_owned()
    }

    /// Asserts a review with this uid; gives its response.
    pub fn review(&self, uid: &str) -> Value {
        let review = self.json();
        assert_eq!(self.code, StatusCode::OK, "{review}");
        assert_eq!(review["kind"], "AdmissionReview");
        assert_eq!(review["response"]["uid"], uid);
        review["response"].clone()
    }
}

pub async fn http1_answer(client: &mut http1::SendRequest<Body>, request: Request<Body>) -> Answer {
    timeout(PATIENCE, client.ready()).await.unwrap().unwrap();
    let response = timeout(PATIENCE, client.send_request(request))
        .await
        .unwrap();
    Answer::of(response.unwrap()).await
}

pub async fn http2_answer(client: &http2::SendRequest<Body>, request: Request<Body>) -> Answer {
    let mut client = client.clone();
    let response = timeout(PATIENCE, client.send_request(request))
        .await
        .unwrap();
    Answer::of(response.unwrap()).await
}

pub fn get(path: &str) -> Request<Body> {
    request(Method::GET, path, full(""))
}

pub fn post(path: &str, body: impl Into<Bytes>) -> Request<Body> {
    request(Method::POST, path, full(body))
}

/// Absolute, as HTTP/2 needs it; HTTP/1 servers take it too.
pub fn request(method: Method, path: &str, body: Body) -> Request<Body> {
    Request::builder()
        .method(method)
        .uri(format!("https://localhost{path}"))
        .header(HOST, "localhost")
        .header(CONTENT_TYPE, "application/json")
        .body(body)
        .unwrap()
}

pub fn full(body: impl Into<Bytes>) -> Body {
    Full::new(body.into()).boxed()
}

/// A create of `object`.
pub fn review(uid: &str, object: &Value) -> Value {
    json!({
        "kind": "AdmissionReview",
        "apiVersion": "admission.k8s.io/v1",
        "request": {
            "uid": uid,
            "kind": { "group": "apps", "version": "v1", "kind": "Deployment" },
            "resource": { "group": "apps", "version": "v1", "resource": "deployments" },
            "name": "one",
            "operation": "CREATE",
            "userInfo": { "username": "me" },
            "object": object,
        },
    })
}

pub fn body(uid: &str) -> String {
    review(uid, &json!({})).to_string()
}

/// Answers as its function does.
pub struct By<F>(pub &'static str, pub F);

impl<F: Fn(webhook::Request) -> Verdict + Send + Sync + 'static> Handler for By<F> {
    fn path(&self) -> &str {
        self.0
    }

    fn review(&self, request: webhook::Request) -> BoxFuture<'_, Verdict> {
        Box::pin(async { (self.1)(request) })
    }
}

/// Allows everything at `/allow`.
pub fn allow() -> impl Handler {
    By("/allow", |_| Verdict::Allow { warnings: vec![] })
}

/// Keeps reviews at `/gate` until it is opened, and counts them.
#[derive(Clone)]
pub struct Gate {
    open: Arc<Semaphore>,
    inside: watch::Sender<usize>,
    most: Arc<AtomicUsize>,
}

impl Gate {
    pub fn closed() -> Self {
        Self {
            open: Arc::new(Semaphore::new(0)),
            inside: watch::Sender::new(0),
            most: Arc::default(),
        }
    }

    pub fn open(&self) {
        self.open.add_permits(Semaphore::MAX_PERMITS);
    }

    /// Waits until so many are kept.
    pub async fn holds(&self, count: usize) {
        let mut inside = self.inside.subscribe();
        let full = inside.wait_for(|inside| *inside == count);
        timeout(PATIENCE, full).await.unwrap().unwrap();
    }

    /// The most that ever were kept at once.
    pub fn most(&self) -> usize {
        self.most.load(Ordering::SeqCst)
    }
}

impl Handler for Gate {
    fn path(&self) -> &'static str {
        "/gate"
    }

    fn review(&self, _: webhook::Request) -> BoxFuture<'_, Verdict> {
        Box::pin(async {
            let _inside = Inside::enter(self);
            let _open = self.open.acquire().await;
            Verdict::Allow { warnings: vec![] }
        })
    }
}

/// Leaves also when the review is given up.
struct Inside<'a>(&'a Gate);

impl<'a> Inside<'a> {
    fn enter(gate: &'a Gate) -> Self {
        gate.inside.send_modify(|inside| {
            *inside += 1;
            gate.most.fetch_max(*inside, Ordering::SeqCst);
        });
        Self(gate)
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.inside.send_modify(|inside| *inside -= 1);
    }
}
