//! The certificate that is served now; another one takes its place without a restart.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::{ArcSwap, ArcSwapOption};
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::authority::Leaf;

/// The served certificate, and whether clients can verify it.
pub struct Serving {
    key: ArcSwapOption<CertifiedKey>,
    state: ArcSwap<Result<(), String>>,
}

impl fmt::Debug for Serving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serving")
            .field("state", &self.state.load())
            .finish_non_exhaustive()
    }
}

impl Default for Serving {
    fn default() -> Self {
        let state = ArcSwap::from_pointee(Err("no certificate has been issued yet".to_owned()));
        Self {
            key: ArcSwapOption::empty(),
            state,
        }
    }
}

impl Serving {
    /// Ready, or why not: the served certificate verifies against the live caBundle.
    pub fn ready(&self) -> Result<(), String> {
        self.state.load().as_ref().clone()
    }

    pub(crate) fn set_state(&self, state: Result<(), String>) {
        let was = self.state.swap(Arc::new(state.clone()));
        match (&*was, &state) {
            (Err(_), Ok(())) => {
                tracing::info!("the served certificate verifies against the live caBundle");
            }
            (old, Err(reason)) if old != &state => {
                tracing::warn!("not ready to serve admission: {reason}");
            }
            _ => {}
        }
    }

    pub(crate) fn serve(&self, leaf: &Leaf) -> Result<(), rustls::Error> {
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(leaf.key.clone()));
        let key = ring::sign::any_supported_type(&key)?;
        let chain = vec![CertificateDer::from(leaf.certificate.clone())];
        self.key
            .store(Some(Arc::new(CertifiedKey::new(chain, key))));
        Ok(())
    }

    /// When the served certificate ends.
    pub fn not_after(&self) -> Option<SystemTime> {
        None
    }

    /// When the CA that signs ends.
    pub fn authority_not_after(&self) -> Option<SystemTime> {
        None
    }

    /// Whether the served certificate verifies for `name` by the trusted certificates (PEM).
    pub fn verify(&self, name: &str, trusted: &[u8], now: SystemTime) -> Result<(), String> {
        let served = self
            .key
            .load_full()
            .ok_or("no certificate has been issued yet")?;
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(trusted) {
            let certificate =
                certificate.map_err(|error| format!("the caBundle cannot be read: {error}"))?;
            roots
                .add(certificate)
                .map_err(|error| format!("the caBundle cannot be used: {error}"))?;
        }
        let verifier = WebPkiServerVerifier::builder_with_provider(
            Arc::new(roots),
            Arc::new(ring::default_provider()),
        )
        .build()
        .map_err(|error| format!("the caBundle holds no certificate: {error}"))?;
        let server = ServerName::try_from(name.to_owned())
            .map_err(|error| format!("{name:?} is no host name: {error}"))?;
        let since = now
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or(Duration::ZERO);
        let (leaf, rest) = served
            .cert
            .split_first()
            .ok_or("the served chain is empty")?;
        verifier
            .verify_server_cert(leaf, rest, &server, &[], UnixTime::since_unix_epoch(since))
            .map(|_| ())
            .map_err(|error| format!("the served certificate does not verify for {name}: {error}"))
    }
}

impl ResolvesServerCert for Serving {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.key.load_full()
    }
}
