//! The TLS side of the server: which versions and protocols are offered.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::server::ResolvesServerCert;
use rustls::version::{TLS12, TLS13};

/// HTTP/2 as negotiated by ALPN (RFC 7301).
pub(crate) const H2: &[u8] = b"h2";
const HTTP_1_1: &[u8] = b"http/1.1";

/// The TLS versions a server accepts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsVersions {
    /// 1.3 only.
    #[default]
    Tls13,
    /// 1.2 too, for a proxy in between that cannot do better.
    Tls12And13,
}

/// A TLS configuration for [`Server::new`](crate::Server::new).
///
/// `resolver` is asked at each handshake, so a certificate it changes takes effect at once and for
/// new connections only. Cryptography is ring's, whatever the process's default provider is.
#[expect(clippy::missing_panics_doc, reason = "it never does, see inside")]
pub fn tls_config(
    resolver: Arc<dyn ResolvesServerCert>,
    versions: TlsVersions,
) -> Arc<ServerConfig> {
    let versions: &[_] = match versions {
        TlsVersions::Tls13 => &[&TLS13],
        TlsVersions::Tls12And13 => &[&TLS13, &TLS12],
    };
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    #[expect(
        clippy::expect_used,
        reason = "depends on nothing but the two constants above, and the tests try both"
    )]
    let mut config = builder
        .with_protocol_versions(versions)
        .expect("ring has cipher suites for TLS 1.2 and 1.3")
        .with_no_client_auth()
        .with_cert_resolver(resolver);
    config.alpn_protocols = vec![H2.to_vec(), HTTP_1_1.to_vec()];
    Arc::new(config)
}
