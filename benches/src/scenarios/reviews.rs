//! How many reviews a second, beside a handler that answers a constant.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use axum::Router;
use axum::body::Bytes;
use axum::routing::post;
use futures::future::join_all;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use mcp_operator::admission::{VALIDATE_PATH, Validator};
use mcp_operator::metrics::Metrics;
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use webhook::{Limits, Server, TlsVersions};

use super::{Report, figure, runs};
use crate::args::Args;
use crate::progress;
use crate::reviews;
use crate::table::{Measured, Sample};
use crate::wire::Wire;

/// Requests in flight.
const AT_ONCE: usize = 16;
/// For how long each is measured.
const WINDOW: Duration = Duration::from_secs(5);
/// The title of the column of the constant handler.
const CONSTANT: &str = "constant";

pub(super) async fn run(args: &Args) -> Result<Report> {
    let window = if args.short { WINDOW / 5 } else { WINDOW };
    let servers = [
        ("webhook", serve_webhook().await?),
        (CONSTANT, serve_constant().await?),
    ];
    let mut columns = servers.each_ref().map(|(title, _)| Measured {
        title: (*title).to_owned(),
        samples: Vec::new(),
    });
    for run in 0..args.runs() {
        progress::step(format!("\nreviews, run {} of {}", run + 1, args.runs()));
        let mut rates = [0.0; 2];
        let turns = if run % 2 == 0 { [0, 1] } else { [1, 0] };
        for turn in turns {
            rates[turn] = rate(&servers[turn].1, window).await?;
            progress::note(format!("{}: {:.0} a second", servers[turn].0, rates[turn]));
        }
        for (turn, column) in columns.iter_mut().enumerate() {
            let sample: Sample = vec![
                ("reviews a second".to_owned(), rates[turn]),
                (
                    "share of the constant handler's".to_owned(),
                    rates[turn] / rates[1],
                ),
            ];
            column.samples.push(sample);
        }
    }
    let about = format!(
        "An ordinary creation is sent to the validating webhook, {AT_ONCE} at a time on one HTTP/2 connection, and to an axum \
         handler that reads the body and answers a constant, on the same TLS. Client and servers are one process. {}",
        runs(args.runs())
    );
    Ok(Report {
        about,
        columns: columns.into(),
    })
}

/// Reviews a second.
async fn rate(wire: &Wire, window: Duration) -> Result<f64> {
    let (client, review) = (wire.http2().await?, reviews::ordinary());
    let (_, answer) = client.post(VALIDATE_PATH, review.clone()).await?;
    ensure!(reviews::is_allowed(&answer), "{answer:?}");
    let start = Instant::now();
    let ask = || async {
        let mut count = 0;
        while start.elapsed() < window {
            let (code, _) = client.post(VALIDATE_PATH, review.clone()).await?;
            ensure!(code == 200, "{code}");
            count += 1;
        }
        anyhow::Ok(count)
    };
    let counts = join_all((0..AT_ONCE).map(|_| ask())).await;
    let counts: Vec<usize> = counts.into_iter().collect::<Result<_>>()?;
    Ok(figure(counts.iter().sum()) / start.elapsed().as_secs_f64())
}

/// The TLS of both, and the certificate to trust.
fn tls() -> Result<(Arc<ServerConfig>, CertificateDer<'static>)> {
    let issued = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    let certificate = issued.cert.der().clone();
    let key = PrivateKeyDer::try_from(issued.signing_key.serialize_der());
    let key = key.map_err(anyhow::Error::msg)?;
    let provider = rustls::crypto::ring::default_provider();
    let certified = CertifiedKey::from_der(vec![certificate.clone()], key, &provider)?;
    let resolver = Arc::new(SingleCertAndKey::from(certified));
    let config = webhook::tls_config(resolver, TlsVersions::default());
    Ok((config, certificate))
}

async fn listen() -> Result<(TcpListener, u16)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    Ok((listener, port))
}

async fn serve_webhook() -> Result<Wire> {
    let (config, certificate) = tls()?;
    let (listener, port) = listen().await?;
    let validator = Validator {
        access: None,
        levels: Arc::default(),
        metrics: Arc::new(Metrics::new(Arc::default())?),
    };
    let server = Server::new(listener, config, Limits::default()).handler(validator);
    tokio::spawn(server.run(std::future::pending()));
    Wire::new(port, [certificate])
}

/// What axum and the TLS below it do by themselves.
async fn serve_constant() -> Result<Wire> {
    let (config, certificate) = tls()?;
    let (listener, port) = listen().await?;
    let answer = async |_: Bytes| {
        let kind = [("content-type", "application/json")];
        let answer = "{\"apiVersion\":\"admission.k8s.io/v1\",\"kind\":\"AdmissionReview\",\"response\":{\"allowed\":true,\
                      \"uid\":\"705ab4f5-6393-11e8-b7cc-42010a800002\"}}";
        (kind, answer)
    };
    let routes = Router::new().route(VALIDATE_PATH, post(answer));
    let tls = TlsAcceptor::from(config);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.context("accepting")?;
            let (tls, service) = (tls.clone(), TowerToHyperService::new(routes.clone()));
            tokio::spawn(async move {
                stream.set_nodelay(true)?;
                let io = TokioIo::new(tls.accept(stream).await?);
                let served = auto::Builder::new(TokioExecutor::new())
                    .serve_connection(io, service)
                    .await;
                served.map_err(anyhow::Error::from_boxed)
            });
        }
        #[expect(unreachable_code, reason = "it gives the block its type")]
        anyhow::Ok(())
    });
    Wire::new(port, [certificate])
}
