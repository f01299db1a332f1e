//! The operator's requests, by the audit log.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use cluster::audit::Tail;
use cluster::{AuditEntry, Cluster};
use k8s_openapi::jiff::Timestamp;

use crate::install::USER;

/// Without a request for so long, the operator is quiet.
pub(crate) const QUIET: Duration = Duration::from_secs(2);
/// How long it may take to become quiet.
const LIMIT: Duration = Duration::from_mins(30);
const PAUSE: Duration = Duration::from_millis(100);

/// The operator's requests since the cluster began, less those that only keep it going: watches, its Lease, its
/// webhook configurations, what it asks about its own rights.
pub(crate) struct Requests {
    tail: Tail,
    all: Vec<AuditEntry>,
}

impl Requests {
    /// Of this cluster.
    pub(crate) fn follow(cluster: &Cluster) -> Result<Self> {
        Ok(Self {
            tail: cluster.follow_audit(USER)?,
            all: Vec::new(),
        })
    }

    /// Those that have been logged until now, in the order of their answers.
    pub(crate) fn read(&mut self) -> Result<&[AuditEntry]> {
        let new = self.tail.read()?;
        self.all.extend(new.into_iter().filter(counts));
        Ok(&self.all)
    }

    /// Those that came at this time or later.
    pub(crate) fn since(&mut self, time: Timestamp) -> Result<Vec<AuditEntry>> {
        let all = self.read()?.iter();
        Ok(all.filter(|entry| entry.time >= time).cloned().collect())
    }

    /// Waits until the operator is quiet: none for a while, counted from now or from the last one.
    pub(crate) async fn until_quiet(&mut self) -> Result<()> {
        let (start, mut last) = (Instant::now(), Instant::now());
        let mut known = self.read()?.len();
        while last.elapsed() < QUIET {
            ensure!(
                start.elapsed() < LIMIT,
                "the operator has not been quiet for {LIMIT:?}"
            );
            tokio::time::sleep(PAUSE).await;
            let now = self.read()?.len();
            if now != known {
                (known, last) = (now, Instant::now());
            }
        }
        Ok(())
    }
}

fn counts(entry: &AuditEntry) -> bool {
    entry.verb != "watch"
        && !matches!(
            entry.resource.as_str(),
            "leases"
                | "mutatingwebhookconfigurations"
                | "selfsubjectaccessreviews"
                | "validatingwebhookconfigurations"
        )
}

/// What a request is counted as, as in `patch deployments`.
pub(crate) fn kind(entry: &AuditEntry) -> String {
    let refused = match entry.code {
        200..=299 => String::new(),
        code => format!(" ({code})"),
    };
    format!("{} {}{refused}", entry.verb, entry.resource)
}
