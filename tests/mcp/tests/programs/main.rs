//! The two programs against each other, over loopback and over pipes.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

mod http;
mod run;
mod sessions;
mod shutdown;
mod stdio;
