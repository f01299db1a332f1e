//! Benchmarks: what the operator costs, beside a floor that no operator can be below.
//!
//! Each run has a fresh cluster: a real etcd, kube-apiserver and kube-controller-manager, and a fake
//! kubelet. The operator runs in it as a process, with its webhooks and with the rights that the chart
//! gives. What each scenario measures is in `docs/benchmarks.md`.

#![forbid(unsafe_code)]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")
)]

mod args;
mod connections;
mod counter;
mod figures;
mod floor;
mod install;
mod kubectl;
mod machine;
mod operator;
mod process;
mod program;
mod progress;
mod requests;
mod reviews;
mod scenarios;
mod servers;
mod sitting;
mod stand;
mod table;
mod wire;

use anyhow::{Result, bail};
use cluster::signals::Signals;

pub use args::Args;

/// Runs the scenarios that were asked for, and prints what they measured.
pub async fn run(args: Args) -> Result<()> {
    // Before anything is started, so that a signal never ends this process halfway.
    let mut signals = Signals::new()?;
    tokio::select! {
        done = scenarios::run(&args) => done,
        () = signals.any() => bail!("interrupted; all that had been started is stopped and removed"),
    }
}
