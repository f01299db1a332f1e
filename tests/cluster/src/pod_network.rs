//! The network of pods that have none: leads the API server's connections to a pod's address to a
//! program on this machine.
//!
//! The API server refuses loopback addresses in an `EndpointSlice`, so a Service can never name a
//! program on loopback. But it can be told to open every connection into the cluster (to a
//! webhook's Service, and for the `proxy` subresources) through an HTTP proxy, which real
//! installations use where the control plane is not in the network of the nodes. This is such a
//! proxy, on a socket in the cluster's folder. Pods and slices have addresses that exist nowhere,
//! and what has been said to be at one of them is reached on loopback. It needs no rights and
//! changes nothing on the machine.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::thread::JoinHandle;

use anyhow::{Context as _, Result, ensure};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::ext::ReasonPhrase;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpStream, UnixListener};
use tokio::sync::oneshot;

/// Programs on this machine by the addresses they are said to have in the cluster.
type Programs = Arc<RwLock<HashMap<SocketAddr, SocketAddr>>>;

/// The running proxy; ends with all its connections when dropped.
#[derive(Debug)]
pub(crate) struct PodNetwork {
    programs: Programs,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl PodNetwork {
    /// Listens on a new socket at `path`, on a thread of its own, so that a test that blocks its
    /// runtime does not stop it.
    pub(crate) fn start(path: &Path) -> Result<Self> {
        let listening = || format!("listening on {}", path.display());
        let listener = std::os::unix::net::UnixListener::bind(path).with_context(listening)?;
        listener.set_nonblocking(true).with_context(listening)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("starting the runtime of the pods' network")?;
        let programs = Programs::default();
        let (stop, stopped) = oneshot::channel();
        let known = Arc::clone(&programs);
        let thread = std::thread::Builder::new()
            .name("pod-network".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        _ = stopped => {}
                        error = serve(listener, known) => {
                            eprintln!("the pods' network of a test cluster ended, the API server reaches no Service: {error:#}");
                        }
                    }
                });
            })
            .context("starting the thread of the pods' network")?;
        Ok(Self {
            programs,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// From now on, who is at `address` in the cluster is reached at `program`.
    pub(crate) fn lead(&self, address: SocketAddr, program: SocketAddr) -> Result<()> {
        ensure!(
            program.ip().is_loopback(),
            "connections to {address} cannot be led to {program}: it is not on loopback"
        );
        self.programs
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(address, program);
        Ok(())
    }
}

impl Drop for PodNetwork {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic has been told on standard error when it happened.
            let _ = thread.join();
        }
    }
}

/// The API server's configuration: only what goes into the cluster uses the proxy.
pub(crate) fn configuration(socket: &Path) -> Value {
    json!({
        "apiVersion": "apiserver.k8s.io/v1beta1",
        "kind": "EgressSelectorConfiguration",
        "egressSelections": [{"name": "cluster", "connection": {
            "proxyProtocol": "HTTPConnect",
            "transport": {"uds": {"udsName": socket}},
        }}],
    })
}

/// Accepts connections until that fails; returns why.
async fn serve(listener: std::os::unix::net::UnixListener, programs: Programs) -> anyhow::Error {
    let listener = match UnixListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return anyhow::Error::new(error).context("using its socket"),
    };
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => return anyhow::Error::new(error).context("accepting a connection"),
        };
        let programs = Arc::clone(&programs);
        let service = service_fn(move |request| answer(request, Arc::clone(&programs)));
        let connection = http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        // Ends with the runtime at the latest. An end in the middle is the API server's to notice.
        tokio::spawn(connection);
    }
}

/// Opens a connection to whom the API server asks for, or says in the status line, which is all
/// that it shows, why not.
async fn answer(
    request: Request<Incoming>,
    programs: Programs,
) -> Result<Response<String>, Infallible> {
    let mut response = Response::new(String::new());
    match connect(&request, &programs).await {
        Ok(program) => {
            tokio::spawn(pass_on(hyper::upgrade::on(request), program));
        }
        Err(error) => {
            *response.status_mut() = StatusCode::BAD_GATEWAY;
            if let Ok(reason) = ReasonPhrase::try_from(format!("{error:#}").into_bytes()) {
                response.extensions_mut().insert(reason);
            }
        }
    }
    Ok(response)
}

async fn connect(request: &Request<Incoming>, programs: &Programs) -> Result<TcpStream> {
    ensure!(
        request.method() == Method::CONNECT,
        "the pods' network is a proxy for CONNECT, not for {}",
        request.method()
    );
    let address = request.uri().to_string();
    let known = address.parse().ok().and_then(|address: SocketAddr| {
        let programs = programs.read().unwrap_or_else(PoisonError::into_inner);
        programs.get(&address).copied()
    });
    let program = known.with_context(|| {
        format!("no program of this machine is at {address} (see Cluster::lead)")
    })?;
    TcpStream::connect(program)
        .await
        .with_context(|| format!("connecting to {program}, which is to be at {address}"))
}

/// Passes on what the two say to each other, until both are done or one is gone.
async fn pass_on(apiserver: OnUpgrade, mut program: TcpStream) {
    // The API server went before it had its answer, or one end broke the connection: the other
    // sees its end.
    if let Ok(apiserver) = apiserver.await {
        let _ = copy_bidirectional(&mut TokioIo::new(apiserver), &mut program).await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
    use tokio::net::{TcpListener, UnixStream};

    use super::*;

    /// Asks for an address; the connection and the status line.
    async fn ask(socket: &Path, address: &str) -> (BufReader<UnixStream>, String) {
        let mut stream = BufReader::new(UnixStream::connect(socket).await.unwrap());
        let request = format!("CONNECT {address} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut first = String::new();
        stream.read_line(&mut first).await.unwrap();
        let mut line = first.clone();
        while !line.trim().is_empty() {
            line.clear();
            stream.read_line(&mut line).await.unwrap();
        }
        (stream, first.trim().to_owned())
    }

    #[tokio::test]
    async fn leads_to_the_program_that_is_said_to_be_there() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("socket");
        let network = PodNetwork::start(&socket).unwrap();
        for (address, greeting) in [("10.244.0.1:9443", "one"), ("[fd00::2]:9443", "two")] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let program = listener.local_addr().unwrap();
            network.lead(address.parse().unwrap(), program).unwrap();
            let (mut stream, status) = ask(&socket, address).await;
            assert_eq!(status, "HTTP/1.1 200 OK");
            let (mut accepted, _) = listener.accept().await.unwrap();
            stream.write_all(b"hello").await.unwrap();
            let mut heard = [0; 5];
            accepted.read_exact(&mut heard).await.unwrap();
            assert_eq!(&heard, b"hello");
            accepted.write_all(greeting.as_bytes()).await.unwrap();
            // The end arrives, too.
            drop(accepted);
            let mut said = String::new();
            stream.read_to_string(&mut said).await.unwrap();
            assert_eq!(said, greeting);
        }
    }

    #[tokio::test]
    async fn says_why_it_leads_nowhere() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("socket");
        let network = PodNetwork::start(&socket).unwrap();
        let (_, status) = ask(&socket, "10.244.0.1:1").await;
        assert_eq!(
            status,
            "HTTP/1.1 502 no program of this machine is at 10.244.0.1:1 (see Cluster::lead)"
        );
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let gone = listener.local_addr().unwrap();
        drop(listener);
        network.lead("10.244.0.1:1".parse().unwrap(), gone).unwrap();
        let (_, status) = ask(&socket, "10.244.0.1:1").await;
        assert!(status.contains("Connection refused"), "{status}");
        let elsewhere = network.lead(
            "10.244.0.1:1".parse().unwrap(),
            "192.0.2.1:1".parse().unwrap(),
        );
        assert!(elsewhere.is_err());
    }

    #[tokio::test]
    async fn its_end_ends_the_connections() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("socket");
        let network = PodNetwork::start(&socket).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let program = listener.local_addr().unwrap();
        network
            .lead("10.244.0.1:1".parse().unwrap(), program)
            .unwrap();
        let (mut stream, _) = ask(&socket, "10.244.0.1:1").await;
        drop(network);
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"");
    }
}
