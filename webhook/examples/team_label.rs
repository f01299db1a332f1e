//! An admission server that refuses Deployments without the label `team`, and warns of those with one replica.
//!
//! It serves a certificate of its own making on loopback, and prints it, so that it can be called by hand:
//! `cargo run -p webhook --example team_label`, then what it prints. In a cluster, the certificate comes from the crate
//! `certs` (its example does that) or from files, and the API server learns of it by a `ValidatingWebhookConfiguration`.

#![allow(
    clippy::expect_used,
    reason = "an example: what fails at the start ends it"
)]

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::PrivateKeyDer;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio::net::TcpListener;
use webhook::{Cause, Handler, Limits, Request, Server, TlsVersions, Verdict, tls_config};

struct TeamLabel;

impl Handler for TeamLabel {
    fn path(&self) -> &'static str {
        "/validate-deployments"
    }

    fn review(&self, request: Request) -> BoxFuture<'_, Verdict> {
        async move { judge(&request) }.boxed()
    }
}

/// What is known of the object decides, so this is a function of the request.
fn judge(request: &Request) -> Verdict {
    let object = &request.object;
    let mut warnings = Vec::new();
    if object["spec"]["replicas"] == 1 {
        warnings.push("spec.replicas: 1: it is gone while its node is drained".to_owned());
    }
    if object["metadata"]["labels"]["team"].is_string() {
        return Verdict::Allow { warnings };
    }
    let causes = vec![Cause {
        reason: "FieldValueRequired".to_owned(),
        message: "Required value: say whose it is".to_owned(),
        field: "metadata.labels[team]".to_owned(),
    }];
    Verdict::Invalid { causes, warnings }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der())?;
    let certified = CertifiedKey::new(vec![made.cert.der().clone()], any_supported_type(&key)?);
    let resolver = Arc::new(SingleCertAndKey::from(certified));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    print!("{}", made.cert.pem());
    println!(
        "curl --cacert FILE_WITH_THE_ABOVE --json @review.json https://localhost:{port}/validate-deployments"
    );
    Server::new(
        listener,
        tls_config(resolver, TlsVersions::default()),
        Limits::default(),
    )
    .handler(TeamLabel)
    .run(async {
        tokio::signal::ctrl_c().await.expect("signals");
    })
    .await?;
    Ok(())
}
