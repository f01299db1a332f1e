//! Waiting for a condition instead of for a time.

use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

/// The first pause between two looks; it grows up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// Looks again and again until `check` gives a value, for at most `limit`.
///
/// `Ok(None)` and `Err` both mean "not yet"; an error's message is kept, so a check that says
/// `bail!("2 of 3 replicas are available")` makes the message of a timeout useful: it names
/// `what` was expected and what the last look gave. A look that hangs counts as well.
pub async fn eventually<T, F, Fut>(what: &str, limit: Duration, mut check: F) -> Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<Option<T>>>,
{
    let start = Instant::now();
    let mut pause = FIRST_PAUSE;
    let mut last = None;
    while let Some(left) = limit.checked_sub(start.elapsed()) {
        match tokio::time::timeout(left, check()).await {
            Ok(Ok(Some(value))) => return Ok(value),
            Ok(Ok(None)) => last = Some(anyhow!("not yet")),
            Ok(Err(error)) => last = Some(error),
            Err(_) => {
                last = Some(match last {
                    Some(earlier) => {
                        earlier.context("the last look did not end in time; the one before")
                    }
                    None => anyhow!("the first look did not end in time"),
                });
                break;
            }
        }
        let left = limit.saturating_sub(start.elapsed());
        tokio::time::sleep(pause.min(left)).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    let last = last.unwrap_or_else(|| anyhow!("there was no time for a single look"));
    Err(last.context(format!(
        "waited {limit:?} for this, in vain: {what}; the last look gave"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn gives_the_value_as_soon_as_it_is_there() {
        let mut looks = 0;
        let value = eventually("three looks", Duration::from_secs(10), || {
            looks += 1;
            let value = (looks == 3).then_some(looks);
            async move { Ok(value) }
        });
        assert_eq!(value.await.unwrap(), 3);
    }

    #[tokio::test]
    async fn a_timeout_says_what_was_expected_and_what_came() {
        let error = eventually::<(), _, _>("3 replicas", Duration::from_millis(60), || async {
            anyhow::bail!("2 of 3 are available")
        });
        let message = format!("{:#}", error.await.unwrap_err());
        assert_eq!(
            message,
            "waited 60ms for this, in vain: 3 replicas; the last look gave: 2 of 3 are available"
        );
    }

    #[tokio::test]
    async fn a_look_that_hangs_is_ended() {
        let error = eventually::<(), _, _>("an answer", Duration::from_millis(60), || async {
            std::future::pending().await
        });
        let message = format!("{:#}", error.await.unwrap_err());
        assert!(
            message.contains("the first look did not end in time"),
            "{message}"
        );
    }
}
