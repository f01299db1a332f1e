//! What the two programs share.

#![forbid(unsafe_code)]

use std::time::Duration;

use jiff::SignedDuration;

/// A length of time as people write it: `250ms`, `60s`, `1m30s`.
///
/// # Errors
/// When it is not one, or is negative.
pub fn duration(text: &str) -> Result<Duration, jiff::Error> {
    text.parse::<SignedDuration>()?.try_into()
}
