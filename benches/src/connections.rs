//! A client with several connections.

use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result};
use cluster::Cluster;
use futures::future::try_join_all;
use kube::Client;

/// How many.
const CONNECTIONS: usize = 16;

/// Connections, each for one request at a time.
pub(crate) struct Connections(Vec<Client>);

impl Connections {
    /// Opens all of them.
    pub(crate) async fn open(cluster: &Cluster) -> Result<Self> {
        let open = || async {
            // A client of its own: another's would share its connections.
            let client = cluster.new_client().await?;
            let asked = client.apiserver_version().await;
            asked.context("opening a connection")?;
            anyhow::Ok(client)
        };
        Ok(Self(try_join_all((0..CONNECTIONS).map(|_| open())).await?))
    }

    /// Does something for each index below `count`, on all connections at once.
    pub(crate) async fn each(
        &self,
        count: usize,
        act: impl AsyncFn(Client, usize) -> Result<()>,
    ) -> Result<()> {
        let (next, act) = (&AtomicUsize::new(0), &act);
        let work = self.0.iter().map(|client| async move {
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= count {
                    return anyhow::Ok(());
                }
                act(client.clone(), index).await?;
            }
        });
        try_join_all(work).await?;
        Ok(())
    }

    /// One of them, in turn.
    pub(crate) fn nth(&self, index: usize) -> Client {
        self.0[index % self.0.len()].clone()
    }
}
