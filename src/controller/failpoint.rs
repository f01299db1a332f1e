//! A fault on purpose, for tests of the real process. Not there in a release.

/// Panics if the environment asks for it: `MCP_OPERATOR_PANIC_AT=NAME` names the server at which a pass panics.
#[cfg(debug_assertions)]
pub fn pass(server: &super::key::Key) {
    let named = std::env::var("MCP_OPERATOR_PANIC_AT").is_ok_and(|name| *name == *server.name);
    assert!(!named, "a pass over {server} was to panic");
}

/// Nothing.
#[cfg(not(debug_assertions))]
pub fn pass(_: &super::key::Key) {}
