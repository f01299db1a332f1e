//! The operator is broken on purpose, and what it does ends as if nothing had happened. See docs/reliability.md.
//!
//! `cargo test --test faults` is the short form, in CI; `cargo test --test faults -- --ignored` the long one.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    reason = "tests"
)]

mod killed;
mod room;
mod scenarios;
mod state;
mod survived;
