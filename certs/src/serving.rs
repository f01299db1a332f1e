//! The certificate that is served now; another one takes its place without a restart.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use arc_swap::{ArcSwap, ArcSwapOption};
use rustls::RootCertStore;
use rustls::client::danger::ServerCertVerifier;
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::authority::{self, Leaf, Validity};

/// The served certificate, and whether clients can verify it.
pub struct Serving {
    pair: ArcSwapOption<Pair>,
    authority_until: ArcSwapOption<SystemTime>,
    state: ArcSwap<Result<(), String>>,
    failures: AtomicU64,
}

/// A certificate chain with its key, and when its first certificate is valid.
#[derive(Debug)]
pub(crate) struct Pair {
    key: Arc<CertifiedKey>,
    validity: Validity,
}

impl Pair {
    /// A pair of a chain (the leaf first, DER) and its key. Fails when they do not belong together or cannot be used.
    pub(crate) fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Self, rustls::Error> {
        let leaf = chain
            .first()
            .ok_or(rustls::Error::NoCertificatesPresented)?;
        let validity = authority::validity_of_der(leaf)
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        let key = CertifiedKey::from_der(chain, key, &ring::default_provider())?;
        Ok(Self {
            key: Arc::new(key),
            validity,
        })
    }

    #[cfg(test)]
    pub(crate) fn chain(&self) -> &[CertificateDer<'static>] {
        &self.key.cert
    }

    /// When the first certificate is valid.
    pub(crate) fn validity(&self) -> Validity {
        self.validity
    }
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
        let state = ArcSwap::from_pointee(Err("there is no certificate yet".to_owned()));
        Self {
            pair: ArcSwapOption::empty(),
            authority_until: ArcSwapOption::empty(),
            state,
            failures: AtomicU64::new(0),
        }
    }
}

impl Serving {
    /// Ready, or why not: the served certificate verifies against the live caBundle.
    pub fn ready(&self) -> Result<(), String> {
        self.state.load().as_ref().clone()
    }

    /// When the served certificate expires; `None` while there is none.
    pub fn not_after(&self) -> Option<SystemTime> {
        self.pair.load().as_ref().map(|pair| pair.validity.until)
    }

    /// When the shared CA expires; `None` while it is unknown, and when the certificate comes from files.
    pub fn authority_not_after(&self) -> Option<SystemTime> {
        self.authority_until.load().as_deref().copied()
    }

    /// How many times in all the certificates could not be looked after.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    pub(crate) fn count_failure(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn set_authority(&self, until: SystemTime) {
        self.authority_until.store(Some(Arc::new(until)));
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
        let chain = vec![CertificateDer::from(leaf.certificate.clone())];
        self.serve_pair(Pair::new(chain, key)?);
        Ok(())
    }

    pub(crate) fn serve_pair(&self, pair: Pair) {
        self.pair.store(Some(Arc::new(pair)));
    }

    /// Whether the served certificate verifies for `name` by the trusted certificates (PEM), as the API
    /// server would have it.
    pub fn verify(&self, name: &str, trusted: &[u8], now: SystemTime) -> Result<(), String> {
        let served = self.pair.load_full().ok_or("there is no certificate yet")?;
        let trusted = CertificateDer::pem_slice_iter(trusted)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| format!("the caBundle cannot be read: {error}"))?;
        let server = ServerName::try_from(name.to_owned())
            .map_err(|error| format!("{name:?} is no host name: {error}"))?;
        let (leaf, rest) = served
            .key
            .cert
            .split_first()
            .ok_or("the served chain is empty")?;
        let refused = |error: rustls::Error| {
            format!("the served certificate does not verify for {name}: {error}")
        };
        // Go trusts a certificate that is itself in the bundle, webpki does not.
        if trusted.contains(leaf) {
            if !served.validity.holds(now) {
                return Err(format!(
                    "the served certificate does not verify for {name}: it is not valid now"
                ));
            }
            return ParsedCertificate::try_from(leaf)
                .and_then(|parsed| verify_server_name(&parsed, &server))
                .map_err(refused);
        }
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(trusted);
        let verifier = WebPkiServerVerifier::builder_with_provider(
            Arc::new(roots),
            Arc::new(ring::default_provider()),
        )
        .build()
        .map_err(|error| format!("the caBundle holds no certificate: {error}"))?;
        let since = now
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or(Duration::ZERO);
        verifier
            .verify_server_cert(leaf, rest, &server, &[], UnixTime::since_unix_epoch(since))
            .map(|_| ())
            .map_err(refused)
    }
}

impl ResolvesServerCert for Serving {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.pair.load().as_ref().map(|pair| pair.key.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::{Authority, to_pem};

    fn start() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_hours(500_000)
    }

    #[test]
    fn verifies_as_the_api_server_would() {
        let hour = Duration::from_hours(1);
        let ca = Authority::new("test", start(), 30 * hour).unwrap();
        let other = Authority::new("test", start(), 30 * hour).unwrap();
        let names = ["a.example".to_owned(), "127.0.0.1".to_owned()];
        let leaf = ca.issue(&names, start(), hour).unwrap();
        let serving = Serving::default();
        assert_eq!(serving.not_after(), None);
        assert_eq!(serving.authority_not_after(), None);
        serving.serve(&leaf).unwrap();
        assert_eq!(serving.not_after(), Some(start() + hour));
        let both = format!("{}{}", other.certificate, ca.certificate);
        let with_rubbish =
            format!("words\n-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n{both}");
        let itself = to_pem("CERTIFICATE", &leaf.certificate);
        let table = [
            ("its CA", &ca.certificate, "a.example", start(), true),
            ("an address", &ca.certificate, "127.0.0.1", start(), true),
            ("its CA beside another", &both, "a.example", start(), true),
            (
                "its CA beside rubbish",
                &with_rubbish,
                "a.example",
                start(),
                true,
            ),
            (
                "another CA of that name",
                &other.certificate,
                "a.example",
                start(),
                false,
            ),
            ("nothing", &String::new(), "a.example", start(), false),
            ("another name", &ca.certificate, "b.example", start(), false),
            (
                "too late",
                &ca.certificate,
                "a.example",
                start() + 2 * hour,
                false,
            ),
            (
                "itself in the bundle, as Go has it",
                &itself,
                "a.example",
                start(),
                true,
            ),
            (
                "itself, by another name",
                &itself,
                "b.example",
                start(),
                false,
            ),
            (
                "itself, too late",
                &itself,
                "a.example",
                start() + 2 * hour,
                false,
            ),
        ];
        for (what, trusted, name, now, expected) in table {
            let verified = serving.verify(name, trusted.as_bytes(), now);
            assert_eq!(verified.is_ok(), expected, "{what}: {verified:?}");
        }
    }
}
