//! The operator against a real API server, through the real webhooks: a module a subject.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    reason = "a test may panic"
)]
#![allow(clippy::too_many_lines, reason = "a test tells its story in one piece")]

mod access;
mod admission;
mod blind;
mod certificates;
mod chart;
mod children;
mod commands;
mod deletion;
mod docs;
mod events;
mod flags;
mod gitops;
mod installed;
mod laggard;
mod leader;
mod load;
mod many;
mod metrics;
mod mount;
mod node;
mod policy;
mod rbac;
mod restart;
mod schema;
mod setup;
mod status;
mod wire;
