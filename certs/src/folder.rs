//! A folder with a certificate and its key, as a Secret of type `kubernetes.io/tls` is mounted.

use std::path::{Path, PathBuf};

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::serving::Pair;

/// The certificate chain, leaf first, PEM.
pub const CERTIFICATE: &str = "tls.crt";
/// The leaf's private key, PEM: PKCS #8, PKCS #1 or SEC 1; RSA, ECDSA or Ed25519.
pub const KEY: &str = "tls.key";

/// Why a folder's content cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file is not there or cannot be read.
    #[error("{} cannot be read: {error}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// A file is not PEM of what it ought to be.
    #[error("{} holds no {what} in PEM: {error}", file.display())]
    Pem {
        /// The file.
        file: PathBuf,
        /// A certificate or a private key.
        what: &'static str,
        /// Why.
        error: pem::Error,
    },
    /// The files do not belong together, or TLS cannot use them.
    #[error("{CERTIFICATE} and {KEY} in {} cannot be served together: {error}", folder.display())]
    Pair {
        /// The folder.
        folder: PathBuf,
        /// Why.
        error: rustls::Error,
    },
}

/// What the files hold, byte for byte.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Content {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

/// Reads both files. When they are swapped in between, they may not belong together; then the next check reads them
/// again.
pub(crate) async fn read(folder: &Path) -> Result<Content, Error> {
    let read = async |name: &str| {
        let file = folder.join(name);
        let read = tokio::fs::read(&file).await;
        read.map_err(|error| Error::Read { file, error })
    };
    Ok(Content {
        certificate: read(CERTIFICATE).await?,
        key: read(KEY).await?,
    })
}

/// What can be served.
pub(crate) fn parse(folder: &Path, content: &Content) -> Result<Pair, Error> {
    let pem = |name: &str, what, error| Error::Pem {
        file: folder.join(name),
        what,
        error,
    };
    // Every certificate must be complete: a truncated chain would be served without its intermediates.
    let chain = CertificateDer::pem_slice_iter(&content.certificate)
        .collect::<Result<Vec<_>, _>>()
        .and_then(|chain| {
            if chain.is_empty() {
                Err(pem::Error::NoItemsFound)
            } else {
                Ok(chain)
            }
        })
        .map_err(|error| pem(CERTIFICATE, "certificate", error))?;
    let key = PrivateKeyDer::from_pem_slice(&content.key)
        .map_err(|error| pem(KEY, "private key", error))?;
    Pair::new(chain, key).map_err(|error| Error::Pair {
        folder: folder.to_owned(),
        error,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const RSA: &str = include_str!("../tests/pairs/rsa.crt");
    const RSA_PKCS1: &str = include_str!("../tests/pairs/rsa.pkcs1.key");
    const RSA_PKCS8: &str = include_str!("../tests/pairs/rsa.pkcs8.key");
    const ECDSA: &str = include_str!("../tests/pairs/ecdsa.crt");
    const ECDSA_SEC1: &str = include_str!("../tests/pairs/ecdsa.sec1.key");
    const ECDSA_PKCS8: &str = include_str!("../tests/pairs/ecdsa.pkcs8.key");

    async fn taken(certificate: &str, key: &str) -> Result<Pair, String> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(CERTIFICATE), certificate).unwrap();
        std::fs::write(folder.path().join(KEY), key).unwrap();
        let content = read(folder.path()).await.map_err(|e| e.to_string())?;
        parse(folder.path(), &content).map_err(|e| e.to_string())
    }

    #[tokio::test]
    async fn every_usual_form_of_a_key_is_taken() {
        for (what, certificate, key) in [
            ("RSA, PKCS #1", RSA, RSA_PKCS1),
            ("RSA, PKCS #8", RSA, RSA_PKCS8),
            ("ECDSA, SEC 1 after its parameters", ECDSA, ECDSA_SEC1),
            ("ECDSA, PKCS #8", ECDSA, ECDSA_PKCS8),
        ] {
            let pair = taken(certificate, key).await;
            assert!(pair.is_ok(), "{what}: {pair:?}");
        }
        let chain = format!("some words\n{ECDSA}{RSA}");
        let pair = taken(&chain, ECDSA_PKCS8).await.unwrap();
        assert_eq!(pair.chain().len(), 2);
    }

    #[tokio::test]
    async fn what_cannot_be_served_is_named() {
        let half = &ECDSA[..ECDSA.len() / 2];
        let half_chain = format!("{ECDSA}{half}");
        for (what, certificate, key, expected) in [
            ("nothing", "", "", "tls.crt holds no certificate in PEM"),
            ("no key", ECDSA, "", "tls.key holds no private key in PEM"),
            (
                "half a certificate",
                half,
                ECDSA_PKCS8,
                "tls.crt holds no certificate in PEM",
            ),
            (
                "half a chain",
                &half_chain,
                ECDSA_PKCS8,
                "tls.crt holds no certificate in PEM",
            ),
            (
                "half a key",
                ECDSA,
                &ECDSA_PKCS8[..60],
                "tls.key holds no private key in PEM",
            ),
            (
                "a key as certificate",
                RSA_PKCS8,
                RSA_PKCS8,
                "tls.crt holds no certificate",
            ),
            (
                "another's key",
                ECDSA,
                RSA_PKCS8,
                "cannot be served together",
            ),
            (
                "rubbish in the right wrapping",
                "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
                RSA_PKCS8,
                "cannot be served together",
            ),
        ] {
            let error = taken(certificate, key).await.unwrap_err();
            assert!(error.contains(expected), "{what}: {error}");
        }
        let folder = tempfile::tempdir().unwrap();
        let error = read(folder.path()).await.map(|_| ()).unwrap_err();
        let file = folder.path().join(CERTIFICATE);
        assert!(
            error.to_string().contains(file.to_str().unwrap()),
            "{error}"
        );
    }
}
