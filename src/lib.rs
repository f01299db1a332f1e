//! mcp-operator: runs Model Context Protocol servers on Kubernetes.

#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")
)]

pub mod access;
pub mod admission;
pub mod api;
pub mod build;
pub mod certificates;
pub mod check;
pub mod cli;
pub mod connect;
pub mod controller;
pub mod controllers;
pub mod fence;
pub mod hash;
pub mod http;
pub mod leader;
pub mod limit;
pub mod manifests;
pub mod metrics;
pub mod namespaces;
pub mod offline;
pub mod operator;
pub mod scrape;
pub mod telemetry;
pub mod validation;
