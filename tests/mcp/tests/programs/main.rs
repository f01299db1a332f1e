//! The two programs against each other, over loopback and over pipes.

mod http;
mod run;
mod sessions;
mod shutdown;
mod stdio;
