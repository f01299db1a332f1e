//! Connecting to the cluster: one client for every replica, one for what only a leader may do.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use hyper_timeout::TimeoutConnector;
use hyper_util::client::legacy::Builder;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::{ClientBuilder, ConfigExt};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tower::{BoxError, ServiceBuilder, ServiceExt};

use crate::cli::RunArgs;
use crate::fence::{Fence, Gate};
use crate::limit::{self, Limit};

/// A watch delivers a bookmark every minute; one that is silent for longer than this is dead.
const READ_TIMEOUT: Duration = Duration::from_secs(150);

/// A connection to a cluster.
#[derive(Clone)]
pub struct Connection {
    /// The client for what every replica does.
    pub client: Client,
    /// The operator's own namespace.
    pub namespace: String,
    config: Config,
}

impl Connection {
    /// A client for reconciling and for the Lease. It sends nothing once the fence is closed, it does not retry on its
    /// own, and every request has a timeout. With `patience`, the kernel drops sent bytes that are not acknowledged
    /// within that time. Fails when the credentials cannot be read.
    pub fn fenced(&self, fence: &Fence, patience: Option<Duration>) -> kube::Result<Client> {
        fenced(&self.config, fence, patience)
    }
}

/// Connects as the arguments say. Fails when there is no cluster or it does not answer.
pub async fn connect(args: &RunArgs) -> anyhow::Result<Connection> {
    let config = config(args.kubeconfig.as_deref()).await?;
    let default = || config.default_namespace.clone();
    let namespace = args.namespace.clone().unwrap_or_else(default);
    let unusable = "the cluster's address or credentials cannot be used";
    let builder = ClientBuilder::try_from(config.clone()).context(unusable)?;
    // With kube's own retries inside.
    let client = builder.with_layer(&Limit(limit::REQUEST)).build();
    let version = client
        .apiserver_version()
        .await
        .context("the API server does not answer")?;
    tracing::info!(kubernetes = version.git_version, namespace, "starting");
    Ok(Connection {
        client,
        namespace,
        config,
    })
}

/// Put together by hand, because kube's own client has no place for the gate. Without kube's retries: a failed pass is
/// retried as a whole, with a backoff of 1, 2, 4 … s; retrying one request for minutes would keep the worker from
/// other servers.
fn fenced(config: &Config, fence: &Fence, patience: Option<Duration>) -> kube::Result<Client> {
    let gate = fence.clone();
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    // Without this the kernel goes on sending for many minutes, even while the process is paused or after it ended.
    #[cfg(target_os = "linux")]
    tcp.set_tcp_user_timeout(patience);
    #[cfg(not(target_os = "linux"))]
    let _ = patience;
    let gated = tcp.map_response(move |connection| Gate::new(connection, gate.clone()));
    let https = config.rustls_https_connector_with_connector(gated)?;
    let mut connector = TimeoutConnector::new(https);
    connector.set_connect_timeout(config.connect_timeout);
    connector.set_read_timeout(config.read_timeout);
    connector.set_write_timeout(config.write_timeout);
    connector.set_reset_reader_on_write(config.reset_reader_on_write);
    let connections = Builder::new(TokioExecutor::new()).build(connector);
    let service = ServiceBuilder::new()
        .layer(fence)
        .layer(Limit(limit::REQUEST))
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(connections);
    Ok(Client::new(service, config.default_namespace.clone()))
}

/// A cluster's address and credentials, from a kubeconfig, the environment or the pod.
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

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::Api;
    use kube::api::PostParams;
    use tokio::io::AsyncReadExt;
    use tokio::net::{TcpListener, TcpStream};
    use tokio::task::JoinHandle;
    use tokio::time::timeout;

    use super::*;

    /// More than a socket's buffers hold.
    const LARGE: usize = 32 << 20;

    const BEGINNING: usize = 1024;

    /// A server that was asked for something large, and has read the beginning.
    async fn ask(fence: &Fence, patience: Option<Duration>) -> (TcpStream, JoinHandle<bool>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let mut config = Config::new(address.parse().unwrap());
        // Not the machine's: it may have none.
        config.root_cert = Some(Vec::new());
        let client = fenced(&config, fence, patience).unwrap();
        let map = ConfigMap {
            data: Some([("key".to_owned(), "x".repeat(LARGE))].into()),
            ..ConfigMap::default()
        };
        let sends = tokio::spawn(async move {
            let api: Api<ConfigMap> = Api::default_namespaced(client);
            api.create(&PostParams::default(), &map).await.is_ok()
        });
        let (mut server, _) = listener.accept().await.unwrap();
        server.read_exact(&mut [0; BEGINNING]).await.unwrap();
        (server, sends)
    }

    #[tokio::test]
    async fn a_request_half_written_when_the_fence_closes_is_not_written_to_its_end() {
        for closes in [false, true] {
            let fence = Fence::none();
            let (mut server, sends) = ask(&fence, None).await;
            if closes {
                fence.close();
            }
            let (mut came, mut read) = (BEGINNING, vec![0; 1 << 16]);
            // It never answers: a request that came whole is waited for, one that was cut ends the connection.
            while came < LARGE {
                let more = timeout(Duration::from_mins(1), server.read(&mut read)).await;
                match more.expect("no more bytes came").unwrap() {
                    0 => break,
                    more => came += more,
                }
            }
            assert_eq!(came < LARGE, closes, "{came} bytes came");
            sends.abort();
        }
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn what_is_not_received_in_time_is_given_up() {
        let (server, sends) = ask(&Fence::none(), Some(Duration::from_millis(500))).await;
        let given_up = timeout(Duration::from_mins(1), sends).await;
        assert!(!given_up.expect("it is still waiting").unwrap());
        drop(server);
    }
}
