//! A proxy between a program and the API server that breaks what it is told to.
//!
//! It speaks TLS on both sides: the program's kubeconfig leads to it, and it asks the API server as the program's user. All
//! requests are recorded in their order. It runs on a thread of its own, so that a test which blocks its runtime stops
//! nothing, and ends when it is dropped.

mod request;
mod rule;
mod server;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use tokio::sync::{Notify, oneshot};

use crate::control_plane::{Cluster, write_user};

pub use request::Request;
pub use rule::{Fault, Rule};

/// A running proxy.
#[derive(Debug)]
pub struct FaultProxy {
    kubeconfig: PathBuf,
    state: Arc<State>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What the proxy and whoever tells it share.
#[derive(Debug, Default)]
struct State {
    rules: Mutex<Vec<Rule>>,
    requests: Mutex<Vec<Request>>,
    /// Told when all connections are to be cut.
    sever: Notify,
}

impl State {
    /// Records a request, and says what is to be done to it.
    fn take(&self, request: &Request) -> Option<Fault> {
        lock(&self.requests).push(request.clone());
        let mut rules = lock(&self.rules);
        rules
            .iter_mut()
            .rev()
            .find_map(|rule| rule.applies(request))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl FaultProxy {
    /// Starts one that asks the API server as this user in at most two groups.
    pub async fn start(cluster: &Cluster, user: &str, groups: &[&str]) -> Result<Self> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .context("listening on loopback")?;
        listener.set_nonblocking(true).context("listening")?;
        let address = listener.local_addr().context("listening")?;
        let authority = cluster.authority();
        let identity = authority.serving("fault-proxy", &["localhost"], &[Ipv4Addr::LOCALHOST])?;
        let tls = server::acceptor(&identity)?;
        let own = cluster.kubeconfig_for(user, groups)?;
        let upstream = server::Upstream::new(&own).await?;
        let state = Arc::new(State::default());
        let kubeconfig = kubeconfig(cluster, address, user, groups)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("starting the runtime of the proxy")?;
        let (stop, stopped) = oneshot::channel();
        let shared = state.clone();
        let thread = std::thread::Builder::new()
            .name("fault-proxy".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        _ = stopped => {}
                        error = server::serve(listener, tls, upstream, shared) => {
                            eprintln!("a fault proxy ended: {error:#}");
                        }
                    }
                });
            })
            .context("starting the thread of the proxy")?;
        Ok(Self {
            kubeconfig,
            state,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// A kubeconfig that leads to the proxy.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// From now on this is done, too.
    pub fn add(&self, rule: Rule) {
        lock(&self.state.rules).push(rule);
    }

    /// To how many requests something was done, or is just being done.
    pub fn done(&self) -> usize {
        lock(&self.state.rules).iter().map(Rule::done).sum()
    }

    /// From now on nothing is done. As [`Self::done`] until then. What hangs goes on hanging.
    pub fn clear(&self) -> usize {
        let rules = std::mem::take(&mut *lock(&self.state.rules));
        rules.iter().map(Rule::done).sum()
    }

    /// Cuts all connections that there are, watches among them. New ones are served.
    pub fn sever(&self) {
        self.state.sever.notify_one();
    }

    /// What was asked for since the last call, in its order.
    pub fn take_requests(&self) -> Vec<Request> {
        std::mem::take(&mut *lock(&self.state.requests))
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It panicked if it did not end; there is nobody to tell.
            let _ = thread.join();
        }
    }
}

fn kubeconfig(
    cluster: &Cluster,
    address: SocketAddr,
    user: &str,
    groups: &[&str],
) -> Result<PathBuf> {
    let url = format!("https://{address}");
    let content = cluster.authority().kubeconfig(&url, user, groups)?;
    let name = format!("{user}-by-{}", address.port());
    write_user(cluster.folder(), &name, &content)
}
