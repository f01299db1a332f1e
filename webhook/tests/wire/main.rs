//! The server as a client sees it: over real TLS on loopback.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    reason = "tests"
)]

mod bad_input;
mod connections;
mod drain;
mod load;
mod reviews;
mod support;
mod unheard;
