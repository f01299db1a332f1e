//! A Kubernetes admission server for any kind: TLS, `AdmissionReview` in and out, limits, drain.
//!
//! A [`Handler`] judges one kind of request at one URL path; the [`Server`] does the rest. Whatever
//! arrives, the caller gets a proper answer: a review with its uid as long as the uid can be read,
//! otherwise an HTTP error with a `metav1.Status`.
//!
//! Only `admission.k8s.io/v1` is spoken.
#![forbid(unsafe_code)]

mod app;
mod body;
mod budget;
mod connection;
mod connections;
mod decode;
mod extract;
mod judge;
mod limits;
mod pulse;
mod refusal;
mod respond;
mod review;
mod routes;
mod server;
mod shares;
mod status;
mod tls;

pub use budget::{Beyond, Budget, OverBudget};
pub use limits::Limits;
pub use review::{
    Cause, GroupVersionKind, GroupVersionResource, Handler, Operation, Request, User, Verdict,
};
pub use server::{Error, Server};
pub use shares::{Share, Shares};
pub use tls::{TlsVersions, tls_config};
