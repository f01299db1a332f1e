//! The cluster's certificates: an authority of its own, and what it signs.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, Result, ensure};
use k8s_openapi::ByteString;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType,
};
use serde_json::{Value, json};

/// The object identifier of an organisation in a subject. A second organisation is given by it,
/// since rcgen takes one value of each type of name.
const ORGANIZATION: [u64; 4] = [2, 5, 4, 10];

/// A certificate and its key, in PEM.
pub(crate) struct Identity {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

/// The certificate authority of one cluster. All keys are ECDSA P-256.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> Result<Self> {
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name = name("test-cluster", &[])?;
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        let key = KeyPair::generate().context("generating the key of the cluster's CA")?;
        let issuer =
            CertifiedIssuer::self_signed(parameters, key).context("signing the cluster's CA")?;
        Ok(Self { issuer })
    }

    pub(crate) fn certificate(&self) -> String {
        self.issuer.pem()
    }

    pub(crate) fn key(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// The API server's own certificate.
    pub(crate) fn server(&self, service_ip: Ipv4Addr) -> Result<Identity> {
        let names = [
            "localhost",
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
        ];
        let names = names.map(str::to_owned).to_vec();
        let mut parameters =
            CertificateParams::new(names).context("naming the API server in its certificate")?;
        for address in [Ipv4Addr::LOCALHOST, service_ip] {
            parameters
                .subject_alt_names
                .push(SanType::IpAddress(IpAddr::V4(address)));
        }
        parameters.distinguished_name = name("kube-apiserver", &[])?;
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(parameters)
            .context("signing the API server's certificate")
    }

    /// A client's certificate: a user in groups.
    pub(crate) fn client(&self, user: &str, groups: &[&str]) -> Result<Identity> {
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name = name(user, groups)?;
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(parameters)
            .with_context(|| format!("signing a client certificate for user {user}"))
    }

    /// A kubeconfig for a user in groups. JSON, which is YAML.
    pub(crate) fn kubeconfig(&self, url: &str, user: &str, groups: &[&str]) -> Result<Value> {
        let identity = self.client(user, groups)?;
        let credentials = json!({
            "client-certificate-data": base64(identity.certificate),
            "client-key-data": base64(identity.key),
        });
        Ok(self.kubeconfig_with(url, user, credentials))
    }

    /// A kubeconfig for the user that a token is of.
    pub(crate) fn kubeconfig_with_token(&self, url: &str, user: &str, token: &str) -> Value {
        self.kubeconfig_with(url, user, json!({"token": token}))
    }

    fn kubeconfig_with(&self, url: &str, user: &str, credentials: Value) -> Value {
        json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": {
                "server": url,
                "certificate-authority-data": base64(self.certificate()),
            }}],
            "users": [{"name": user, "user": credentials}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": user}}],
            "current-context": "test",
        })
    }

    fn sign(&self, mut parameters: CertificateParams) -> Result<Identity> {
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate().context("generating a key")?;
        let certificate = parameters.signed_by(&key, &self.issuer)?;
        Ok(Identity {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        })
    }
}

/// A key that signs the tokens of service accounts: private, public.
pub(crate) fn token_key() -> Result<(String, String)> {
    let key = KeyPair::generate().context("generating the key of service account tokens")?;
    Ok((key.serialize_pem(), key.public_key_pem()))
}

/// Kubernetes reads the common name as the user and organisations as the groups.
fn name(user: &str, groups: &[&str]) -> Result<DistinguishedName> {
    ensure!(
        groups.len() <= 2,
        "a client certificate of the test cluster holds at most 2 groups, not {groups:?}"
    );
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, user);
    let types = [
        DnType::OrganizationName,
        DnType::CustomDnType(ORGANIZATION.to_vec()),
    ];
    for (kind, group) in types.into_iter().zip(groups) {
        name.push(kind, *group);
    }
    Ok(name)
}

fn base64(text: String) -> ByteString {
    ByteString(text.into_bytes())
}
