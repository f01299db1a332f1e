//! The running operator: its parts, started together, ended together.

use std::time::Duration;

use anyhow::{Context as _, bail};
use futures::FutureExt;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use webhook::{Limits, Server};

use crate::admission::{Mutator, Validator};
use crate::certificates;
use crate::cli::RunArgs;
use crate::controller;

/// A watch brings a bookmark a minute; one that is silent for longer than this is dead.
const READ_TIMEOUT: Duration = Duration::from_secs(150);

/// Runs the operator until SIGTERM or SIGINT. An error when a part of it dies before: the process is
/// to end with it, so that whoever started it starts it again.
pub async fn run(args: RunArgs) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let config = config(&args).await?;
    let namespace = args
        .namespace
        .clone()
        .unwrap_or_else(|| config.default_namespace.clone());
    let client = Client::try_from(config).context("the cluster cannot be reached")?;
    let version = client
        .apiserver_version()
        .await
        .context("the API server does not answer")?;
    tracing::info!(kubernetes = version.git_version, namespace, "starting");

    let listener = TcpListener::bind(args.webhook_address)
        .await
        .with_context(|| {
            format!(
                "--webhook-address {} cannot be bound; choose a free one",
                args.webhook_address
            )
        })?;
    let (keeper, serving) = certificates::start(client.clone(), &args, &namespace)?;
    let limits = Limits {
        drain: Duration::from_secs(args.drain_seconds),
        ..Limits::default()
    };
    let (stop, stopped) = watch::channel(false);
    let stopping = || {
        let mut stopped = stopped.clone();
        async move {
            // An error means that the sender has gone, which is a stop too.
            let _ = stopped.wait_for(|stopped| *stopped).await;
        }
    };
    let ready = serving.clone();
    let server = Server::new(
        listener,
        webhook::tls_config(serving, webhook::TlsVersions::default()),
        limits,
    )
    .handler(Mutator)
    .handler(Validator {
        client: client.clone(),
    })
    .ready(move || ready.ready());
    let instance = std::env::var("POD_NAME").ok();

    let mut parts = JoinSet::new();
    parts.spawn(
        server
            .run(stopping())
            .map(|ended| ("webhook server", ended.map_err(anyhow::Error::from))),
    );
    parts.spawn(controller::run(client, instance, stopping()).map(|ended| ("controller", ended)));
    // Goes on until the webhook server has drained.
    let keeper = tokio::spawn(keeper);
    let keeper_handle = keeper.abort_handle();
    let mut keeper = Box::pin(keeper);

    tokio::select! {
        _ = terminate.recv() => tracing::info!("SIGTERM: draining"),
        _ = interrupt.recv() => tracing::info!("SIGINT: draining"),
        Some(ended) = parts.join_next() => bail!(died(ended)),
        ended = &mut keeper => bail!("the certificate keeper ended: {ended:?}"),
    }
    stop.send_replace(true);
    while let Some(ended) = tokio::select! {
        ended = parts.join_next() => ended,
        _ = interrupt.recv() => bail!("interrupted while draining"),
    } {
        match ended {
            Ok((part, Ok(()))) => tracing::info!("{part} ended"),
            ended => bail!(died(ended)),
        }
    }
    keeper_handle.abort();
    Ok(())
}

fn died(ended: Result<(&'static str, anyhow::Result<()>), tokio::task::JoinError>) -> String {
    match ended {
        Ok((part, Ok(()))) => format!("the {part} ended"),
        Ok((part, Err(error))) => format!("the {part} failed: {error:#}"),
        Err(error) => format!("a part of the operator panicked: {error}"),
    }
}

async fn config(args: &RunArgs) -> anyhow::Result<Config> {
    let mut own_proxy = false;
    let mut config = match &args.kubeconfig {
        Some(file) => {
            let read = Kubeconfig::read_from(file)
                .with_context(|| format!("--kubeconfig {} cannot be read", file.display()))?;
            let clusters = read
                .clusters
                .iter()
                .filter_map(|named| named.cluster.as_ref());
            own_proxy = clusters
                .into_iter()
                .any(|cluster| cluster.proxy_url.is_some());
            Config::from_custom_kubeconfig(read, &KubeConfigOptions::default())
                .await
                .with_context(|| format!("--kubeconfig {} cannot be used", file.display()))?
        }
        None => Config::infer()
            .await
            .context("no cluster: use --kubeconfig, $KUBECONFIG, or run in a pod")?,
    };
    if !own_proxy {
        // $HTTPS_PROXY leads out of the cluster, not to its API server.
        config.proxy_url = None;
    }
    config.read_timeout = Some(READ_TIMEOUT);
    config.reset_reader_on_write = true;
    Ok(config)
}
