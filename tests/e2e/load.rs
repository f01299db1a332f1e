//! Users that ask without pause, and a look at each replica's certificate meanwhile.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use cluster::{Cluster, eventually};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use mcp_operator::api::MCPServer;
use serde_json::json;
use tokio::task::JoinSet;

use crate::laggard::Laggard;
use crate::setup::SOON;

const PAUSE: Duration = Duration::from_millis(100);

/// What has been seen so far.
#[derive(Default)]
struct Seen {
    made: AtomicU32,
    handshakes: AtomicU32,
    enough: AtomicBool,
    failures: Mutex<Vec<String>>,
    /// By replica: the certificates that it has served, and whether each verified.
    served: Mutex<Vec<BTreeSet<Vec<u8>>>>,
    authorities: Mutex<BTreeSet<String>>,
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Requests and handshakes, until it is ended.
pub struct Load {
    seen: Arc<Seen>,
    work: JoinSet<Result<()>>,
    start: Instant,
}

impl Load {
    /// So many users, each with a connection of its own, begin to create one MCPServer in this namespace and to
    /// change another one, `updated`, which has to be there; all in dry runs.
    pub async fn start(cluster: &Cluster, namespace: &str, users: u32) -> Result<Self> {
        let (seen, mut work) = (Arc::<Seen>::default(), JoinSet::new());
        for index in 0..users {
            let client = cluster.new_client().await?;
            let servers = Api::namespaced(client, namespace);
            work.spawn(ask(servers, index, seen.clone()));
        }
        let start = Instant::now();
        Ok(Self { seen, work, start })
    }

    /// Looks at the certificates that are served at these ports for `host`, as well: whether an API server that is
    /// up to date verifies them, and whether one that is not does. `name` is that of the webhook configurations.
    /// Waits for the first look at each: a change before it would never be seen as one.
    pub async fn watch_certificates(
        &mut self,
        client: &Client,
        name: &'static str,
        host: &'static str,
        ports: &[u16],
    ) -> Result<()> {
        for (index, port) in ports.iter().copied().enumerate() {
            lock(&self.seen.served).push(BTreeSet::new());
            let (client, seen) = (client.clone(), self.seen.clone());
            self.work.spawn(async move {
                let mut laggard = Laggard::default();
                while !seen.enough() {
                    let look = laggard.look(&client, name, port, host).await?;
                    seen.handshakes.fetch_add(1, Ordering::Relaxed);
                    look.failures.into_iter().for_each(|what| seen.failed(what));
                    lock(&seen.served)[index].extend(look.served);
                    lock(&seen.authorities).extend(look.trusted);
                    tokio::time::sleep(PAUSE).await;
                }
                Ok(())
            });
        }
        self.until_served(1, SOON).await
    }

    /// Waits until each replica that is looked at has served so many certificates.
    pub async fn until_served(&self, certificates: usize, limit: Duration) -> Result<()> {
        eventually(
            "every replica serves another certificate",
            limit,
            || async {
                let (seen, failures) = (self.certificates(), self.failures());
                ensure!(
                    seen >= certificates,
                    "{seen} of {certificates} certificates seen, {} failures, the last {:?}",
                    failures.len(),
                    failures.last()
                );
                Ok(Some(()))
            },
        )
        .await
    }

    /// Requests so far.
    pub fn made(&self) -> u32 {
        self.seen.made.load(Ordering::Relaxed)
    }

    /// How many certificates each replica that is looked at has served so far, at least.
    pub fn certificates(&self) -> usize {
        let served = lock(&self.seen.served);
        served.iter().map(BTreeSet::len).min().unwrap_or_default()
    }

    /// How many certificates all of them have served so far.
    pub fn all_certificates(&self) -> usize {
        let served = lock(&self.seen.served);
        served.iter().flatten().collect::<BTreeSet<_>>().len()
    }

    /// How many CAs have been trusted so far.
    pub fn authorities(&self) -> usize {
        lock(&self.seen.authorities).len()
    }

    /// What went wrong so far.
    pub fn failures(&self) -> Vec<String> {
        lock(&self.seen.failures).clone()
    }

    /// Says how it was, and fails if any request or handshake did.
    pub async fn end(mut self, what: &str) -> Result<u32> {
        self.seen.enough.store(true, Ordering::Relaxed);
        while let Some(ended) = self.work.join_next().await {
            ended??;
        }
        let failures = self.failures();
        eprintln!(
            "{what}: {} requests and {} handshakes in {:?}, {} failed; {} certificates of each, {} of all, {} CAs",
            self.made(),
            self.seen.handshakes.load(Ordering::Relaxed),
            self.start.elapsed(),
            failures.len(),
            self.certificates(),
            self.all_certificates(),
            self.authorities(),
        );
        assert!(
            failures.is_empty(),
            "{what}: {} failures, the first of them: {:#?}",
            failures.len(),
            &failures[..failures.len().min(10)]
        );
        Ok(self.made())
    }
}

impl Seen {
    fn failed(&self, what: String) {
        lock(&self.failures).push(what);
    }

    fn enough(&self) -> bool {
        self.enough.load(Ordering::Relaxed)
    }
}

async fn ask(servers: Api<MCPServer>, index: u32, seen: Arc<Seen>) -> Result<()> {
    let create = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    let update = PatchParams {
        dry_run: true,
        ..PatchParams::default()
    };
    let spec = json!({"image": "example.com/a:1", "replicas": 0});
    let server = MCPServer::new("created", serde_json::from_value(spec)?);
    let start = Instant::now();
    let mut round = index;
    while !seen.enough() {
        round += 1;
        let answer = if round.is_multiple_of(2) {
            servers.create(&create, &server).await
        } else {
            let change = json!({"spec": {"config": {"round": round.to_string()}}});
            servers
                .patch("updated", &update, &Patch::Merge(change))
                .await
        };
        if let Err(error) = answer {
            seen.failed(format!("after {:?}: {error}", start.elapsed()));
        }
        seen.made.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}
