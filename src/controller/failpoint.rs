//! Faults on purpose, for tests of the real process. Not there in a release.

use std::time::Duration;

use super::key::Key;

/// Panics if the environment asks for it: `MCP_OPERATOR_PANIC_AT=NAME` names the server at which a pass panics.
#[cfg(debug_assertions)]
pub fn pass(server: &Key) {
    let named = std::env::var("MCP_OPERATOR_PANIC_AT").is_ok_and(|name| *name == *server.name);
    assert!(!named, "a pass over {server} was to panic");
}

/// How long a kind that cannot be seen is waited for, if the environment asks for another time than `usual`:
/// `MCP_OPERATOR_BLIND_AFTER=SECONDS`.
#[cfg(debug_assertions)]
pub fn patience(usual: Duration) -> Duration {
    let asked = std::env::var("MCP_OPERATOR_BLIND_AFTER").ok();
    let seconds = asked.and_then(|seconds| seconds.parse().ok());
    seconds.map_or(usual, Duration::from_secs)
}

/// Nothing.
#[cfg(not(debug_assertions))]
pub fn pass(_: &Key) {}

/// The usual time.
#[cfg(not(debug_assertions))]
pub fn patience(usual: Duration) -> Duration {
    usual
}
