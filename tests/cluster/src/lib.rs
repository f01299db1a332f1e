//! An embedded Kubernetes for tests and the demo: a real etcd, kube-apiserver and
//! kube-controller-manager on loopback, and a fake kubelet that makes pods Ready; or, in
//! namespaces of their own, the same with a real node that runs containers.
//!
//! Nothing outlives the process that started it, however that ends; see [`process`].

#![forbid(unsafe_code)]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")
)]

pub mod audit;
pub mod cargo;
mod cert_manager;
mod control_plane;
pub mod demo;
pub mod fake_kubelet;
pub mod faults;
mod flags;
mod helm;
pub mod image;
pub mod manifest;
pub mod mcp_test;
pub mod node;
pub mod operator_image;
pub mod oracles;
mod pki;
mod pod_network;
pub mod process;
pub mod server_everything;
mod service_account;
mod shared;
pub mod signals;
pub mod tools;
pub mod wait;

pub use audit::AuditEntry;
pub use control_plane::{Cluster, NodeKind, Options};
pub use shared::{shared, shared_with};
pub use wait::eventually;
