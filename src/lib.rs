//! mcp-operator: runs Model Context Protocol servers on Kubernetes.

pub mod admission;
pub mod api;
pub mod cli;
pub mod controller;
pub mod manifests;
pub mod offline;
pub mod operator;
pub mod telemetry;
