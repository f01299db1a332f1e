//! Lines on standard error that say what goes on.

use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

/// How often a long step says how far it is.
const OFTEN: Duration = Duration::from_secs(2);
/// The same after the first lines.
const SELDOM: Duration = Duration::from_secs(10);
/// How many lines come often.
const FIRST: u32 = 5;

/// A line about a step that begins now.
pub(crate) fn step(text: impl std::fmt::Display) {
    eprintln!("{text}");
}

/// A line within a step.
pub(crate) fn note(text: impl std::fmt::Display) {
    eprintln!("  {text}");
}

/// Says how far a step is, until dropped.
#[derive(Debug)]
pub(crate) struct Progress(JoinHandle<()>);

impl Progress {
    /// `far` gives the text, as in "12 of 1000 servers are Ready".
    pub(crate) fn new(far: impl Fn() -> String + Send + 'static) -> Self {
        let start = Instant::now();
        Self(tokio::spawn(async move {
            for line in 0.. {
                eprintln!("  {:>4} s: {}", start.elapsed().as_secs(), far());
                tokio::time::sleep(if line < FIRST { OFTEN } else { SELDOM }).await;
            }
        }))
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Lets a window of observation pass, and says so.
pub(crate) async fn window(length: Duration, why: &str) {
    let end = Instant::now() + length;
    let why = why.to_owned();
    let _progress = Progress::new(move || {
        let left = end.saturating_duration_since(Instant::now());
        format!("{why}; {} s to go", left.as_secs())
    });
    tokio::time::sleep_until(end.into()).await;
}
