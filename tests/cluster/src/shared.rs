//! One cluster for all tests of a test binary.

use std::sync::OnceLock;

use anyhow::{Context, Result, anyhow};

use crate::control_plane::{Cluster, Options};

/// The cluster that all tests of this process share, started by the first that asks.
///
/// It lives until the process ends, and on a runtime of its own, since each test's runtime ends
/// with the test. For the same reason a test makes its client by [`Cluster::new_client`]. Blocks
/// while the cluster starts.
pub fn shared() -> Result<&'static Cluster> {
    shared_with(Options::default)
}

/// As [`shared`], with options. Who asks first decides; all tests should give the same.
pub fn shared_with(options: impl FnOnce() -> Options) -> Result<&'static Cluster> {
    static SHARED: OnceLock<Result<Cluster, String>> = OnceLock::new();
    let shared = SHARED.get_or_init(|| {
        let options = options();
        // Another thread, as the caller's may be in a runtime, which cannot block for another.
        let started = std::thread::scope(|scope| scope.spawn(|| start(options)).join());
        let started = started.unwrap_or_else(|_| {
            Err(anyhow!(
                "the thread that starts the shared cluster panicked"
            ))
        });
        started.map_err(|error| format!("{error:#}"))
    });
    shared.as_ref().map_err(|error| anyhow!("{error}"))
}

fn start(options: Options) -> Result<Cluster> {
    static RUNTIME: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("shared-cluster")
        .enable_all()
        .build()
        .context("starting the shared cluster's runtime")?;
    // Kept for as long as the process lives: the cluster's own client belongs to it.
    RUNTIME
        .get_or_init(|| runtime)
        .block_on(Cluster::start(options))
}
