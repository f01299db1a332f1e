//! The controllers of all scopes, as one: each watches and reconciles for itself, and together they decide whether this
//! replica is worth its lead.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use kube::Client;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::controller::{self, Failure, Scope, Settings};
use crate::metrics::Metrics;

/// A scope that could not be seen is tried again for as long as `watch` has patience. If it ended so within this time,
/// it is not seen now.
const BLIND_FOR: Duration = Duration::from_mins(6);

/// Reconciles all these scopes until `stop`. An error when a part dies; nothing when this replica can see none of them,
/// so that another one should try.
pub async fn run(
    client: Client,
    scopes: Vec<Scope>,
    settings: Settings,
    metrics: Arc<Metrics>,
    stop: impl Future<Output = ()> + Clone + Send + Sync + 'static,
) -> Option<anyhow::Result<()>> {
    let mut running = JoinSet::new();
    let begin = |running: &mut JoinSet<_>, scope: Scope| {
        let (client, settings, metrics) = (client.clone(), settings.clone(), metrics.clone());
        let stop = stop.clone();
        running.spawn(async move {
            let ended = controller::run(client, scope.clone(), settings, metrics, stop);
            (scope, Box::pin(ended).await)
        });
    };
    for scope in &scopes {
        begin(&mut running, scope.clone());
    }
    let mut blindness = Blindness::new(scopes.len());
    while let Some(ended) = running.join_next().await {
        match ended.context("a controller panicked") {
            Ok((_, Ok(()))) => {}
            Ok((scope, Err(Failure::Blind(blind)))) => {
                if blindness.is_total(scope.clone(), Instant::now()) {
                    tracing::error!("this replica cannot see what it has to reconcile: {blind}");
                    return None;
                }
                // A namespace that nobody may see is not to take the lead from who sees the others.
                tracing::error!("{scope} cannot be reconciled: {blind}; trying again");
                begin(&mut running, scope);
            }
            Ok((_, Err(died))) => return Some(Err(died.into())),
            Err(died) => return Some(Err(died)),
        }
    }
    Some(Ok(()))
}

/// Which scopes could not be seen, and when that was found.
struct Blindness {
    of: usize,
    found: HashMap<Scope, Instant>,
}

impl Blindness {
    fn new(of: usize) -> Self {
        Self {
            of,
            found: HashMap::new(),
        }
    }

    /// Notes that this scope could not be seen. Whether none can be.
    fn is_total(&mut self, scope: Scope, now: Instant) -> bool {
        self.found.insert(scope, now);
        self.found
            .retain(|_, found| now.saturating_duration_since(*found) < BLIND_FOR);
        self.found.len() == self.of
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_that_sees_one_namespace_keeps_its_lead() {
        let minute = Duration::from_mins(1);
        let start = Instant::now();
        let scope = |name: &str| Scope::Namespace(name.to_owned());
        assert!(Blindness::new(1).is_total(Scope::Cluster, start));
        let mut two = Blindness::new(2);
        for round in 1..4 {
            let now = start + round * 5 * minute;
            assert!(!two.is_total(scope("a"), now), "b is seen");
        }
        let now = start + 17 * minute;
        assert!(two.is_total(scope("b"), now), "a was not seen 2 min ago");
        let mut two = Blindness::new(2);
        assert!(!two.is_total(scope("a"), start));
        assert!(
            !two.is_total(scope("b"), start + 7 * minute),
            "a was not found blind again, so it is seen"
        );
    }
}
