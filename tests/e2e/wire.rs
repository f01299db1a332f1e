//! Bad input over the wire: always a proper answer, and the server lives on.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mcp_operator::admission::{MUTATE_PATH, VALIDATE_PATH};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, SignatureScheme,
    StreamOwned,
};
use serde_json::{Value, json};

use crate::setup::shared;

/// Answers are about input here; the chain is checked where certificates are tested.
#[derive(Debug)]
struct AnyCertificate(CryptoProvider);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            cert,
            signed,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            cert,
            signed,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

type Stream = StreamOwned<ClientConnection, TcpStream>;

fn connect(port: u16) -> Result<Stream> {
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(ring::default_provider())))
        .with_no_client_auth();
    let tcp = TcpStream::connect(("127.0.0.1", port)).context("connecting")?;
    tcp.set_read_timeout(Some(Duration::from_mins(2)))?;
    let connection = ClientConnection::new(Arc::new(config), ServerName::try_from("127.0.0.1")?)?;
    Ok(StreamOwned::new(connection, tcp))
}

/// The certificate that is served now.
pub fn served(port: u16) -> Result<CertificateDer<'static>> {
    let mut stream = connect(port)?;
    stream.conn.complete_io(&mut stream.sock)?;
    let chain = stream.conn.peer_certificates().unwrap_or_default();
    Ok(chain
        .first()
        .context("no certificate")?
        .clone()
        .into_owned())
}

/// Whether a client that trusts this bundle (PEM) talks to who serves this chain as `host` at this time.
pub fn verify(bundle: &[u8], chain: &[CertificateDer<'_>], host: &str, at: UnixTime) -> Result<()> {
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(bundle) {
        roots.add(root?)?;
    }
    ensure!(!roots.is_empty(), "the bundle is empty");
    let provider = Arc::new(ring::default_provider());
    let verifier =
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build()?;
    let (leaf, others) = chain.split_first().context("no certificate")?;
    let name = ServerName::try_from(host.to_owned())?;
    verifier.verify_server_cert(leaf, others, &name, &[], at)?;
    Ok(())
}

/// Reads to the end; a peer that closes without a farewell has said all it will.
fn read_all(stream: &mut impl Read) -> String {
    let mut bytes = Vec::new();
    let mut chunk = [0; 8192];
    while let Ok(count @ 1..) = stream.read(&mut chunk) {
        bytes.extend_from_slice(&chunk[..count]);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn answer(text: &str) -> Result<(u16, String)> {
    let code = text
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .context("no status line")?;
    let body = text
        .split_once("\r\n\r\n")
        .map(|(_, body)| body.to_owned())
        .unwrap_or_default();
    Ok((code, body))
}

pub fn get_blocking(port: u16, path: &str) -> Result<(u16, String)> {
    get_as(port, path, None)
}

/// As who has this token.
pub fn get_as(port: u16, path: &str, token: Option<&str>) -> Result<(u16, String)> {
    let mut stream = connect(port)?;
    let token = token.map(|token| format!("authorization: Bearer {token}\r\n"));
    let token = token.unwrap_or_default();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: a\r\n{token}connection: close\r\n\r\n"
    )?;
    stream.flush()?;
    answer(&read_all(&mut stream))
}

/// The same without TLS.
pub fn get_plain(port: u16, path: &str) -> Result<(u16, String)> {
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
    )?;
    answer(&read_all(&mut stream))
}

fn post(path: &str, content_type: &str, body: &[u8]) -> Result<(u16, String)> {
    post_to(shared().operator.port, path, content_type, body)
}

/// A POST over TLS to the operator at this port.
pub fn post_to(port: u16, path: &str, content_type: &str, body: &[u8]) -> Result<(u16, String)> {
    let mut stream = connect(port)?;
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-type: {content_type}\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    // The server may answer and close before it has read everything.
    let _ = stream.write_all(body).and_then(|()| stream.flush());
    answer(&read_all(&mut stream))
}

fn review(object: Value) -> Value {
    json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "u-1", "operation": "CREATE", "name": "a", "namespace": "n",
            "kind": {"group": "mcp.example.com", "version": "v1alpha1", "kind": "MCPServer"},
            "resource": {"group": "mcp.example.com", "version": "v1alpha1", "resource": "mcpservers"},
            "userInfo": {"username": "me"}, "object": object,
        }
    })
}

fn post_review(path: &str, review: &Value) -> (u16, Value) {
    let (code, body) = post(path, "application/json", review.to_string().as_bytes()).unwrap();
    (
        code,
        serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body:?}")),
    )
}

#[test]
fn undecodable_objects_get_a_verdict_with_their_uid() {
    let table = [
        (
            "a wrong type",
            json!({"metadata": {"name": "a"}, "spec": {"image": "x:1", "replicas": "three"}}),
            "spec.replicas",
        ),
        ("no spec", json!({"metadata": {"name": "a"}}), "spec"),
        ("no object", json!(null), ""),
    ];
    for (path, (what, object, field)) in [MUTATE_PATH, VALIDATE_PATH]
        .into_iter()
        .flat_map(|path| table.clone().map(|row| (path, row)))
    {
        let (code, answer) = post_review(path, &review(object));
        let response = &answer["response"];
        assert_eq!(
            (code, &response["uid"]),
            (200, &json!("u-1")),
            "{what}: {answer}"
        );
        assert_eq!(response["allowed"], json!(false), "{what}: {answer}");
        assert_eq!(response["status"]["code"], json!(422), "{what}: {answer}");
        assert_eq!(
            response["status"]["details"]["causes"][0]["field"],
            json!(field),
            "{what}: {answer}"
        );
    }
}

#[test]
fn an_unknown_kind_is_refused_with_its_uid() {
    let mut asked = review(json!({}));
    asked["request"]["kind"]["kind"] = json!("Deployment");
    for path in [MUTATE_PATH, VALIDATE_PATH] {
        let (code, answer) = post_review(path, &asked);
        assert_eq!(
            (code, &answer["response"]["uid"]),
            (200, &json!("u-1")),
            "{answer}"
        );
        assert_eq!(answer["response"]["status"]["code"], json!(400), "{answer}");
    }
}

#[test]
fn what_is_no_review_gets_a_proper_http_answer() {
    let good = review(json!({"metadata": {"name": "a"}, "spec": {"image": "x:1"}})).to_string();
    let large = vec![b' '; 9 * 1024 * 1024];
    let no_uid =
        json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {}})
            .to_string();
    let table: [(&str, &str, &[u8], u16); 5] = [
        (
            "truncated JSON",
            "application/json",
            &good.as_bytes()[..good.len() / 2],
            400,
        ),
        ("another content type", "text/plain", good.as_bytes(), 415),
        ("9 MiB", "application/json", &large, 413),
        ("no uid", "application/json", no_uid.as_bytes(), 400),
        ("nothing", "application/json", b"", 400),
    ];
    for (what, content_type, body, expected) in table {
        let (code, answer) =
            post(VALIDATE_PATH, content_type, body).unwrap_or_else(|e| panic!("{what}: {e:#}"));
        assert_eq!(code, expected, "{what}: {answer}");
        let status: Value =
            serde_json::from_str(&answer).unwrap_or_else(|e| panic!("{what}: {e}: {answer:?}"));
        assert_eq!(status["kind"], json!("Status"), "{what}: {answer}");
        assert!(
            status["message"].as_str().is_some_and(|m| !m.is_empty()),
            "{what}: {answer}"
        );
    }
    let (code, _) = post("/elsewhere", "application/json", good.as_bytes()).unwrap();
    assert_eq!(code, 404);
}

#[test]
fn another_version_of_the_review_is_refused_with_its_uid() {
    let mut asked = review(json!({}));
    asked["apiVersion"] = json!("admission.k8s.io/v1beta1");
    let (code, answer) = post_review(VALIDATE_PATH, &asked);
    assert_eq!(
        (code, &answer["response"]["uid"]),
        (200, &json!("u-1")),
        "{answer}"
    );
    assert_eq!(answer["response"]["allowed"], json!(false), "{answer}");
    let message = answer["response"]["status"]["message"]
        .as_str()
        .unwrap_or_default();
    assert!(message.contains("admission.k8s.io/v1"), "{answer}");
}

#[test]
fn no_tls_and_slow_headers_end_the_connection_only() {
    let port = shared().operator.port;
    let mut plain = TcpStream::connect(("127.0.0.1", port)).unwrap();
    plain
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    plain
        .write_all(b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n")
        .unwrap();
    let heard = read_all(&mut plain);
    assert!(
        !heard.contains("200"),
        "without TLS there is no answer: {heard:?}"
    );

    let mut slow = connect(port).unwrap();
    slow.write_all(b"POST / HTTP/1.1\r\nhost: a\r\n").unwrap();
    slow.flush().unwrap();
    let start = Instant::now();
    let heard = read_all(&mut slow);
    let took = start.elapsed();
    assert!(
        took < Duration::from_mins(1),
        "headers that never end were waited for {took:?}: {heard:?}"
    );

    assert_eq!(
        get_blocking(port, "/healthz").unwrap().0,
        200,
        "the server lives"
    );
}

/// A small generator: the wire is tried here, the rules have property tests of their own.
struct Random(u64);

impl Random {
    fn next(&mut self, below: u64) -> u64 {
        // Knuth's multiplier; the upper bits are the good ones.
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }

    fn value(&mut self, depth: u32) -> Value {
        const TEXTS: [&str; 12] = [
            "", "a", "stdio", "http", "banana", "1h", "-1", "node:18", "\u{0}", "\u{fffd}", "../x",
            "{{}}",
        ];
        const KEYS: [&str; 16] = [
            "image",
            "transport",
            "port",
            "replicas",
            "config",
            "resources",
            "requests",
            "limits",
            "env",
            "name",
            "valueFrom",
            "podTemplate",
            "spec",
            "containers",
            "health",
            "service",
        ];
        match self.next(if depth == 0 { 5 } else { 8 }) {
            0 => Value::Null,
            1 => json!(self.next(2) == 0),
            2 => json!(i64::try_from(self.next(1 << 40)).unwrap() - (1 << 39)),
            3 => json!(1.5),
            4 => json!(TEXTS[usize::try_from(self.next(12)).unwrap()]),
            5 => (0..self.next(4)).map(|_| self.value(depth - 1)).collect(),
            _ => {
                let pairs = (0..self.next(6)).map(|_| {
                    (
                        KEYS[usize::try_from(self.next(16)).unwrap()].to_owned(),
                        self.value(depth - 1),
                    )
                });
                Value::Object(pairs.collect())
            }
        }
    }
}

#[test]
fn a_thousand_random_objects_get_a_verdict_each() {
    let mut random = Random(42);
    let mut refused = 0;
    for round in 0..1000 {
        let spec = random.value(5);
        let object = if round % 10 == 0 {
            random.value(3)
        } else {
            json!({"metadata": {"name": "a"}, "spec": spec})
        };
        let path = if round % 2 == 0 {
            MUTATE_PATH
        } else {
            VALIDATE_PATH
        };
        let (code, answer) = post_review(path, &review(object.clone()));
        assert_eq!(
            (code, &answer["response"]["uid"]),
            (200, &json!("u-1")),
            "{object}: {answer}"
        );
        let verdict = answer["response"]["allowed"]
            .as_bool()
            .unwrap_or_else(|| panic!("{object}: {answer}"));
        let code = answer["response"]["status"]["code"].as_u64();
        assert!(
            verdict || matches!(code, Some(400 | 422)),
            "{object}: {answer}"
        );
        refused += u32::from(!verdict);
    }
    assert!(
        refused > 100,
        "the objects are not random enough: {refused} refused"
    );
}
