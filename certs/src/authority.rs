//! A certificate authority and the leaves it signs. Time comes in as an argument.

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};
use x509_parser::pem::Pem;

/// Certificates are valid from this long ago, so that clocks may differ.
const SKEW: Duration = Duration::from_mins(5);

/// Why an authority cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// The text is no PEM of a certificate.
    #[error("the certificate cannot be read: {0}")]
    Certificate(String),
    /// The text is no PEM of a private key.
    #[error("the private key cannot be read: {0}")]
    Key(String),
    /// Key and certificate are not a pair.
    #[error("the private key is not the certificate's")]
    Mismatch,
    /// The certificate may not sign others.
    #[error("the certificate is not one of an authority")]
    NotAnAuthority,
    /// A certificate could not be made.
    #[error("signing failed: {0}")]
    Signing(String),
}

/// A CA that can sign.
#[derive(Clone, Debug)]
pub struct Authority {
    /// Its certificate, PEM.
    pub certificate: String,
    /// Its private key, PEM (PKCS #8).
    pub key: String,
    /// When it is valid from and until.
    pub validity: Validity,
}

/// When a certificate is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// First moment.
    pub from: SystemTime,
    /// Last moment.
    pub until: SystemTime,
}

impl Validity {
    /// Whether `now` is within.
    pub fn holds(&self, now: SystemTime) -> bool {
        self.from <= now && now < self.until
    }

    /// When it was issued: its first moment is backdated. For our own certificates only.
    pub fn issued(&self) -> SystemTime {
        (self.from + SKEW).min(self.until)
    }

    /// When to renew: after two thirds of the life. The life is counted from the time of issue, not from the backdated
    /// first moment: otherwise a certificate that lives shorter than the backdating would be due at once. For our own
    /// certificates only.
    pub fn renewal(&self) -> SystemTime {
        let issued = self.issued();
        let life = self.until.duration_since(issued).unwrap_or_default();
        issued + life / 3 * 2
    }
}

/// A serving certificate.
#[derive(Clone, Debug)]
pub struct Leaf {
    /// The certificate, DER.
    pub certificate: Vec<u8>,
    /// The private key, DER (PKCS #8).
    pub key: Vec<u8>,
    /// When it is valid.
    pub validity: Validity,
    /// The certificate of its authority, PEM.
    pub issuer: String,
}

impl Authority {
    /// Makes a new authority.
    pub fn new(common_name: &str, now: SystemTime, life: Duration) -> Result<Self, Error> {
        let signing = |error: rcgen::Error| Error::Signing(error.to_string());
        let key = KeyPair::generate().map_err(signing)?;
        let mut params = params(common_name, now, life);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        let certificate = params.self_signed(&key).map_err(signing)?;
        Self::parse(&certificate.pem(), &key.serialize_pem())
    }

    /// Reads an authority: the first certificate of `certificates` and its key.
    pub fn parse(certificates: &str, key: &str) -> Result<Self, Error> {
        let certificate = split(certificates)
            .into_iter()
            .next()
            .ok_or_else(|| Error::Certificate("no PEM block".to_owned()))?;
        let validity = inspect(&certificate, |parsed| {
            if parsed.is_ca() {
                Ok(validity_of(parsed))
            } else {
                Err(Error::NotAnAuthority)
            }
        })?;
        let pair = KeyPair::from_pem(key).map_err(|error| Error::Key(error.to_string()))?;
        let public = rcgen::PublicKeyData::subject_public_key_info(&pair);
        let is_pair = inspect(&certificate, |parsed| {
            Ok(parsed.public_key().raw == public.as_slice())
        })?;
        if !is_pair {
            return Err(Error::Mismatch);
        }
        Ok(Self {
            certificate,
            key: key.to_owned(),
            validity,
        })
    }

    /// Signs a serving certificate for these DNS names and IP addresses; it does not outlive the CA.
    pub fn issue(&self, names: &[String], now: SystemTime, life: Duration) -> Result<Leaf, Error> {
        let signing = |error: rcgen::Error| Error::Signing(error.to_string());
        let life = life.min(self.validity.until.duration_since(now).unwrap_or_default());
        let mut params = params(names.first().map_or("webhook", String::as_str), now, life);
        params.subject_alt_names = CertificateParams::new(names.to_vec())
            .map_err(signing)?
            .subject_alt_names;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let issuer_key =
            KeyPair::from_pem(&self.key).map_err(|error| Error::Key(error.to_string()))?;
        let issuer = Issuer::from_ca_cert_pem(&self.certificate, issuer_key)
            .map_err(|error| Error::Certificate(error.to_string()))?;
        let key = KeyPair::generate().map_err(signing)?;
        let certificate = params.signed_by(&key, &issuer).map_err(signing)?;
        let validity = inspect(&certificate.pem(), |parsed| Ok(validity_of(parsed)))?;
        Ok(Leaf {
            certificate: certificate.der().to_vec(),
            key: key.serialize_der(),
            validity,
            issuer: self.certificate.clone(),
        })
    }
}

fn params(common_name: &str, now: SystemTime, life: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    let mut name = DistinguishedName::new();
    // A common name may have 64 characters; nothing reads it.
    name.push(
        DnType::CommonName,
        common_name.chars().take(64).collect::<String>(),
    );
    params.distinguished_name = name;
    params.not_before = (now - SKEW).into();
    params.not_after = (now + life).into();
    params
}

/// The certificates of a PEM text, each a PEM text of its own; anything else in it is left out.
pub fn split(certificates: &str) -> Vec<String> {
    let blocks = Pem::iter_from_buffer(certificates.as_bytes()).map_while(Result::ok);
    blocks
        .filter(|block| block.label == "CERTIFICATE")
        .map(|block| to_pem("CERTIFICATE", &block.contents))
        .collect()
}

/// A PEM block, with lines of 64 characters that end as in Unix.
pub fn to_pem(label: &str, der: &[u8]) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<_> = text
        .as_bytes()
        .chunks(64)
        .map(String::from_utf8_lossy)
        .collect();
    format!(
        "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
        lines.join("\n")
    )
}

/// Whether these certificates (PEM, as a `caBundle` holds them) hold this one (PEM, as [`split`] writes it).
pub fn holds(certificates: &[u8], certificate: &str) -> bool {
    split(&String::from_utf8_lossy(certificates))
        .iter()
        .any(|one| one == certificate)
}

/// When a certificate (DER) is valid.
pub fn validity_of_der(certificate: &[u8]) -> Result<Validity, Error> {
    validity(&to_pem("CERTIFICATE", certificate))
}

/// When a certificate (PEM) is valid.
pub fn validity(certificate: &str) -> Result<Validity, Error> {
    inspect(certificate, |parsed| Ok(validity_of(parsed)))
}

fn inspect<T>(
    certificate: &str,
    look: impl FnOnce(&x509_parser::certificate::X509Certificate<'_>) -> Result<T, Error>,
) -> Result<T, Error> {
    let unreadable = |error: &dyn std::fmt::Display| Error::Certificate(error.to_string());
    let (_, pem) = x509_parser::pem::parse_x509_pem(certificate.as_bytes())
        .map_err(|error| unreadable(&error))?;
    let parsed = pem.parse_x509().map_err(|error| unreadable(&error))?;
    look(&parsed)
}

fn validity_of(parsed: &x509_parser::certificate::X509Certificate<'_>) -> Validity {
    let time = |at: x509_parser::time::ASN1Time| {
        let seconds = u64::try_from(at.timestamp()).unwrap_or(0);
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    };
    Validity {
        from: time(parsed.validity().not_before),
        until: time(parsed.validity().not_after),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewal_is_after_two_thirds_of_a_life_of_any_length() {
        let start = SystemTime::UNIX_EPOCH + Duration::from_hours(500_000);
        for life in [
            Duration::from_secs(3),
            Duration::from_mins(3),
            Duration::from_hours(24),
            Duration::from_hours(8760),
        ] {
            let ca = Authority::new("test", start, life).unwrap();
            assert_eq!(ca.validity.renewal(), start + life / 3 * 2, "{life:?}");
            let leaf = ca.issue(&["a.example".to_owned()], start, life).unwrap();
            assert_eq!(leaf.validity, ca.validity, "{life:?}");
            assert!(leaf.validity.holds(start), "{life:?}");
        }
    }

    #[test]
    fn a_leaf_does_not_outlive_its_authority() {
        let start = SystemTime::UNIX_EPOCH + Duration::from_hours(500_000);
        let hour = Duration::from_hours(1);
        let ca = Authority::new("test", start, 30 * hour).unwrap();
        let names = ["a.example".to_owned()];
        let leaf = ca.issue(&names, start + 29 * hour, 10 * hour).unwrap();
        assert_eq!(leaf.validity.until, ca.validity.until);
    }
}
