//! The Secret that holds the shared CA.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::authority::Authority;
use crate::decide::Stored;

/// Key of the certificates.
pub const CERTIFICATES: &str = "ca.crt";
/// Key of the signing certificate's private key.
pub const KEY: &str = "ca.key";
/// Label that says that a Secret is ours.
pub const LABEL: &str = "app.kubernetes.io/managed-by";

/// Reads a Secret. Without our label it is somebody else's, whatever it contains.
pub fn read<'a>(secret: Option<&'a Secret>, manager: &str) -> Stored<'a> {
    let Some(secret) = secret else {
        return Stored::Nothing;
    };
    let label = secret
        .metadata
        .labels
        .as_ref()
        .and_then(|labels| labels.get(LABEL));
    if label.map(String::as_str) != Some(manager) {
        return Stored::Foreign;
    }
    let text = |key| {
        let bytes = secret
            .data
            .as_ref()
            .and_then(|data: &'a BTreeMap<_, ByteString>| data.get(key));
        bytes
            .and_then(|bytes| std::str::from_utf8(&bytes.0).ok())
            .unwrap_or_default()
    };
    Stored::Ours {
        certificates: text(CERTIFICATES),
        key: text(KEY),
    }
}

/// A new Secret of a CA; the certificates in `keep` stay trusted beside it.
///
/// The Secret has a type of our own. If somebody else creates a Secret of that name at the same time, our apply is
/// refused, because the type of a Secret cannot be changed.
pub fn new(
    namespace: &str,
    name: &str,
    manager: &str,
    authority: &Authority,
    keep: &[String],
) -> Secret {
    Secret {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(namespace.to_owned()),
            labels: Some(BTreeMap::from([(LABEL.to_owned(), manager.to_owned())])),
            ..Default::default()
        },
        data: Some(data(authority, keep)),
        type_: Some(format!("{manager}/webhook-ca")),
        ..Default::default()
    }
}

/// The same Secret with other contents. It keeps its resource version, so the API server refuses the write if the
/// Secret has changed since it was read.
pub fn with(read: &Secret, authority: &Authority, keep: &[String]) -> Secret {
    Secret {
        data: Some(data(authority, keep)),
        ..read.clone()
    }
}

fn data(authority: &Authority, keep: &[String]) -> BTreeMap<String, ByteString> {
    let certificates = std::iter::once(&authority.certificate)
        .chain(keep)
        .cloned()
        .collect::<String>();
    BTreeMap::from([
        (
            CERTIFICATES.to_owned(),
            ByteString(certificates.into_bytes()),
        ),
        (
            KEY.to_owned(),
            ByteString(authority.key.clone().into_bytes()),
        ),
    ])
}
