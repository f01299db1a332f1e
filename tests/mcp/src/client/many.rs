//! The command `many`: calls over several sessions, counted and timed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures::future::try_join_all;
use rmcp::model::{CallToolResult, JsonObject};
use serde_json::json;

use crate::calls::good;
use crate::session::{Session, Target};

/// What to call, how often and how.
pub struct Load {
    pub tool: String,
    pub arguments: JsonObject,
    /// Limit of each request.
    pub timeout: Duration,
    pub requests: usize,
    pub sessions: usize,
    /// See [`Session::open`].
    pub reinitialize: bool,
}

/// What came of the calls, or of one session's share of them.
#[derive(Default)]
struct Tally {
    /// Of those that went well.
    latencies: Vec<Duration>,
    answers: BTreeMap<String, usize>,
    errors: BTreeMap<String, usize>,
}

/// Makes the calls. Sessions are opened before the first call, which has to work.
pub async fn run(target: &Target, load: Load) -> Result<bool> {
    ensure!(load.sessions > 0, "--connections must be at least 1");
    let sessions =
        (0..load.sessions).map(|_| Session::open(target, load.timeout, load.reinitialize));
    let sessions = try_join_all(sessions).await?;
    let (load, next) = (Arc::new(load), Arc::new(AtomicUsize::new(0)));
    let tasks = sessions.into_iter().map(|session| {
        let (load, next) = (Arc::clone(&load), Arc::clone(&next));
        tokio::spawn(share(session, load, next))
    });
    let mut all = Tally::default();
    for tally in try_join_all(tasks).await? {
        all.latencies.extend(tally.latencies);
        add(&mut all.answers, tally.answers);
        add(&mut all.errors, tally.errors);
    }
    all.latencies.sort_unstable();
    let failed: usize = all.errors.values().sum();
    let line = json!({
        "made": all.latencies.len() + failed,
        "failed": failed,
        "medianMs": percentile(&all.latencies, 50),
        "p99Ms": percentile(&all.latencies, 99),
        "answers": all.answers,
        "errors": all.errors,
    });
    println!("{line}");
    Ok(failed == 0)
}

/// Calls over one session until all calls have been made.
async fn share(session: Session, load: Arc<Load>, next: Arc<AtomicUsize>) -> Tally {
    let mut tally = Tally::default();
    while next.fetch_add(1, Ordering::Relaxed) < load.requests {
        let begun = Instant::now();
        match session.call(&load.tool, load.arguments.clone()).await {
            Ok(result) if good(&result) => {
                tally.latencies.push(begun.elapsed());
                *tally.answers.entry(text(&result)).or_default() += 1;
            }
            Ok(result) => *tally.errors.entry(text(&result)).or_default() += 1,
            Err(error) => *tally.errors.entry(format!("{error:#}")).or_default() += 1,
        }
    }
    // No call is lost by a session that does not end well.
    if let Err(error) = session.close().await {
        tracing::warn!("{error:#}");
    }
    tally
}

/// The texts of a result.
fn text(result: &CallToolResult) -> String {
    let texts = result.content.iter().filter_map(|block| block.as_text());
    texts
        .map(|text| text.text.as_str())
        .collect::<Vec<_>>()
        .join("\n")
}

fn add(all: &mut BTreeMap<String, usize>, some: BTreeMap<String, usize>) {
    for (key, count) in some {
        *all.entry(key).or_default() += count;
    }
}

/// In milliseconds, of what is sorted; nothing when there is nothing.
fn percentile(sorted: &[Duration], percent: usize) -> Option<f64> {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    let found = sorted.get(rank - 1)?;
    Some((found.as_secs_f64() * 1e6).round() / 1e3)
}
