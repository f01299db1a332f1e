//! The running operator: its parts, started together, ended together.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use certs::Serving;
use futures::FutureExt;
use kube::Client;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use uuid::Uuid;
use webhook::{Limits, Server};

use crate::access::Access;
use crate::admission::{Mutator, VERDICT_LIMIT, Validator};
use crate::api::{Platform, labels};
use crate::certificates;
use crate::cli::{RunArgs, TlsVersion};
use crate::connect::{Connection, connect};
use crate::controller::{Scope, Settings};
use crate::controllers;
use crate::fence::Fence;
use crate::http;
use crate::leader::{self, Candidate};
use crate::metrics::Metrics;
use crate::namespaces::{self, Levels};
use crate::scrape::Scrapers;

/// Runs the operator until SIGTERM or SIGINT. Fails when a part of it dies before that. The process then exits, so
/// that it is restarted.
pub async fn run(args: RunArgs) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    // An API server that does not answer must not delay the shutdown.
    let connection = tokio::select! {
        connection = connect(&args) => connection?,
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    };
    let plain = bind("--http-address", args.http_address).await?;
    let (stop, stopped) = watch::channel(false);
    // These parts end by themselves once they are told to stop.
    let mut parts = JoinSet::new();
    // These parts run until the others have ended.
    let mut lasting = JoinSet::new();
    let serving = if args.no_webhooks {
        None
    } else {
        let (keeper, serving) =
            certificates::start(connection.client.clone(), &args, &connection.namespace)?;
        lasting.spawn(keeper.map(|()| ("certificate keeper", Ok(()))));
        Some(serving)
    };
    let metrics = Arc::new(Metrics::new(serving.clone().unwrap_or_default())?);
    if let Some(serving) = &serving {
        let webhooks = bind("--webhook-address", args.webhook_address).await?;
        let levels = Arc::new(Levels::default());
        let server = admission(webhooks, &args, &connection, serving, &levels, &metrics);
        let serves = server.run(stopping(&stopped));
        parts.spawn(serves.map(|ended| ("webhook server", ended.map_err(anyhow::Error::from))));
        let watched = namespaces::watch(connection.client.clone(), levels);
        lasting.spawn(watched.map(|never| match never {}));
    }
    let client = connection.client.clone();
    let (secure, lowest) = (args.metrics_address, args.tls_min_version);
    let reconciles = reconcile(args, connection, metrics.clone(), stopped.clone());
    parts.spawn(reconciles.map(|ended| ("controller", ended)));
    let certificate = serving.clone();
    let ready = move || {
        if *stopped.borrow() {
            return Err("shutting down".to_owned());
        }
        // Without webhooks there is nothing to wait for.
        serving.as_ref().map_or(Ok(()), |serving| serving.ready())
    };
    let mut routes = http::health(ready);
    if let (Some(address), Some(certificate)) = (secure, certificate) {
        let listener = bind("--metrics-address", address).await?;
        let metrics = http::metrics(metrics, Some(Scrapers::new(client)));
        let served = http::serve(listener, Some(acceptor(certificate, lowest)), metrics);
        lasting.spawn(served.map(|ended| ("metrics server", ended)));
    } else {
        routes = routes.merge(http::metrics(metrics, None));
    }
    lasting.spawn(http::serve(plain, None, routes).map(|ended| ("HTTP server", ended)));

    tokio::select! {
        _ = terminate.recv() => tracing::info!("SIGTERM: draining"),
        _ = interrupt.recv() => tracing::info!("SIGINT: draining"),
        Some(ended) = parts.join_next() => bail!(died(ended)),
        Some(ended) = lasting.join_next() => bail!(died(ended)),
    }
    stop.send_replace(true);
    while let Some(ended) = tokio::select! {
        ended = parts.join_next() => ended,
        Some(ended) = lasting.join_next() => bail!(died(ended)),
        _ = interrupt.recv() => bail!("interrupted while draining"),
    } {
        match ended {
            Ok((part, Ok(()))) => tracing::info!("{part} ended"),
            ended => bail!(died(ended)),
        }
    }
    Ok(())
}

/// Resolves when the parts have to stop.
fn stopping(stopped: &watch::Receiver<bool>) -> impl Future<Output = ()> + Send + Sync + use<> {
    let mut stopped = stopped.clone();
    async move {
        // An error means that the sender is gone, which means stop too.
        let _ = stopped.wait_for(|stopped| *stopped).await;
    }
}

fn died(ended: Result<(&'static str, anyhow::Result<()>), tokio::task::JoinError>) -> String {
    match ended {
        Ok((part, Ok(()))) => format!("the {part} ended"),
        Ok((part, Err(error))) => format!("the {part} failed: {error:#}"),
        Err(error) => format!("a part of the operator panicked: {error}"),
    }
}

async fn bind(flag: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("{flag} {address} cannot be bound; choose a free one"))
}

/// TLS with this certificate, for HTTP/1.1.
fn acceptor(certificate: Arc<Serving>, lowest: TlsVersion) -> TlsAcceptor {
    let mut config = (*webhook::tls_config(certificate, lowest.into())).clone();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

/// The webhook server. Every replica runs one.
fn admission(
    listener: TcpListener,
    args: &RunArgs,
    connection: &Connection,
    serving: &Arc<Serving>,
    levels: &Arc<Levels>,
    metrics: &Arc<Metrics>,
) -> Server {
    let limits = Limits {
        request_time: VERDICT_LIMIT,
        drain: Duration::from_secs(args.drain_seconds),
        ..Limits::default()
    };
    let ready = serving.clone();
    Server::new(
        listener,
        webhook::tls_config(serving.clone(), args.tls_min_version.into()),
        limits,
    )
    .handler(Mutator {
        metrics: metrics.clone(),
    })
    .handler(Validator {
        access: (!args.trust_creators).then(|| Access::new(connection.client.clone())),
        levels: levels.clone(),
        metrics: metrics.clone(),
    })
    .ready(move || ready.ready())
}

/// Reconciles; with leader election, only while this replica leads.
async fn reconcile(
    args: RunArgs,
    connection: Connection,
    metrics: Arc<Metrics>,
    stopped: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let pod = std::env::var("POD_NAME").ok();
    let scopes = scopes(&args);
    let settings = Settings {
        pod: pod.clone(),
        platform: Platform {
            cluster_domain: args.cluster_domain.clone(),
            assigns_users: args.openshift,
        },
    };
    let controllers = |client: Client| {
        let stop = stopping(&stopped).shared();
        let (scopes, settings) = (scopes.clone(), settings.clone());
        controllers::run(client, scopes, settings, metrics.clone(), stop).boxed()
    };
    if !args.leader_elect {
        let client = connection.fenced(&Fence::none(), None)?;
        metrics.leads(true);
        loop {
            // There is no other replica to take over, so this one starts again.
            if let Some(ended) = controllers(client.clone()).await {
                return ended;
            }
        }
    }
    let settings = leader::Settings {
        namespace: connection.namespace.clone(),
        lease: args.lease,
        // A restarted container is a new candidate.
        identity: format!(
            "{}-{}",
            pod.as_deref().unwrap_or(labels::MANAGER),
            Uuid::new_v4()
        ),
        duration: args.lease_duration,
    };
    let told = metrics.clone();
    let candidate = Candidate::new(connection, settings, move |leads| told.leads(leads))?;
    let reconciled = candidate.run(controllers, stopping(&stopped));
    reconciled.await.unwrap_or(Ok(()))
}

fn scopes(args: &RunArgs) -> Vec<Scope> {
    if args.watch_namespace.is_empty() {
        return vec![Scope::Cluster];
    }
    // A namespace that is given twice is watched once.
    let namespaces: std::collections::BTreeSet<_> = args.watch_namespace.iter().cloned().collect();
    namespaces.into_iter().map(Scope::Namespace).collect()
}
