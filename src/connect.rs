//! The way to the cluster: one client for all, one for what only a leader may write.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use kube::client::ClientBuilder;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use crate::cli::RunArgs;
use crate::fence::Fence;

/// A watch brings a bookmark a minute; one that is silent for longer than this is dead.
const READ_TIMEOUT: Duration = Duration::from_secs(150);

/// A cluster that can be talked to.
#[derive(Clone)]
pub struct Connection {
    /// For what every replica does.
    pub client: Client,
    /// For what reconciles: its writes pass the fence, and it retries nothing by itself.
    pub fenced: Client,
    /// Opened by the election, or for good where there is none.
    pub fence: Fence,
    /// The operator's own namespace.
    pub namespace: String,
}

/// Connects as the arguments say. An error when there is no cluster, or no answer.
pub async fn connect(args: &RunArgs) -> anyhow::Result<Connection> {
    let config = config(args.kubeconfig.as_deref()).await?;
    let default = || config.default_namespace.clone();
    let namespace = args.namespace.clone().unwrap_or_else(default);
    let fence = Fence::default();
    let unusable = "the cluster's address or credentials cannot be used";
    let client = Client::try_from(config.clone()).context(unusable)?;
    // A pass that fails is tried again as a whole, after 1, 2, 4 … s. The client's own retries, up to minutes for
    // one request, would keep its worker from other servers.
    let mut once = config;
    once.default_retry = false;
    let fenced = ClientBuilder::try_from(once)
        .context(unusable)?
        .with_layer(&fence)
        .build();
    let version = client
        .apiserver_version()
        .await
        .context("the API server does not answer")?;
    tracing::info!(kubernetes = version.git_version, namespace, "starting");
    Ok(Connection {
        client,
        fenced,
        fence,
        namespace,
    })
}

/// A cluster's address and credentials: of a kubeconfig, of the environment, or of the pod.
pub async fn config(kubeconfig: Option<&Path>) -> anyhow::Result<Config> {
    let mut own_proxy = false;
    let mut config = match kubeconfig {
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
