//! mcp-operator: runs Model Context Protocol servers on Kubernetes.

#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")
)]

pub mod admission;
pub mod api;
pub mod certificates;
pub mod cli;
pub mod controller;
pub mod manifests;
pub mod offline;
pub mod operator;
pub mod telemetry;
