//! A whole admission webhook that makes its own certificates: in a cluster it refuses `ConfigMaps` whose name begins
//! with `no-`.
//!
//! It needs a `ValidatingWebhookConfiguration` and a `MutatingWebhookConfiguration`, both named `example`, with the webhook
//! `example.example.com` that leads to it; it keeps their `caBundle`. It listens on the address that is its argument:
//! `cargo run -p certs --example webhook -- 127.0.0.1:9443`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use certs::{Keeper, Settings};
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::net::TcpListener;
use webhook::{Handler, Limits, Request, Server, TlsVersions, Verdict, tls_config};

struct Refuser;

impl Handler for Refuser {
    fn path(&self) -> &'static str {
        "/"
    }

    fn review(&self, request: Request) -> BoxFuture<'_, Verdict> {
        let verdict = if request.name.starts_with("no-") {
            Verdict::Deny {
                code: 403,
                reason: "Forbidden".to_owned(),
                message: format!("metadata.name: {:?}: choose one without no-", request.name),
            }
        } else {
            Verdict::Allow {
                warnings: Vec::new(),
            }
        };
        async { verdict }.boxed()
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address: SocketAddr = std::env::args()
        .nth(1)
        .ok_or("usage: webhook ADDRESS")?
        .parse()?;
    let client = kube::Client::try_default().await?;
    let settings = Settings {
        namespace: "default".to_owned(),
        secret: "example-ca".to_owned(),
        configuration: "example".to_owned(),
        webhooks: vec!["example.example.com".to_owned()],
        hosts: vec![address.ip().to_string()],
        manager: "example".to_owned(),
        ca_life: Duration::from_hours(24 * 365),
        leaf_life: Duration::from_hours(24),
        settle: Duration::from_mins(1),
    };
    let (keeper, serving) = Keeper::new(client, settings, Arc::new(SystemTime::now));
    let ready = serving.clone();
    let server = Server::new(
        TcpListener::bind(address).await?,
        tls_config(serving, TlsVersions::default()),
        Limits::default(),
    )
    .handler(Refuser)
    .ready(move || ready.ready());
    let stop = async {
        // Without signals it runs until it is killed.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        ended = server.run(stop) => ended?,
        () = keeper.run() => {}
    }
    Ok(())
}
