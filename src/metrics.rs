//! What is counted, for `/metrics`. Labels take few values each, whatever users do.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, SystemTime};

use certs::Serving;
use kube::runtime::reflector::ObjectRef;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use webhook::{Operation, Verdict};

use crate::api::MCPServer;
use crate::api::v1alpha1::Phase;
use crate::controller::cache::{Cache, lock};
use crate::controller::error::{Class, Error};

/// Begins every name.
const PREFIX: &str = "mcp_operator";
/// What [`Metrics::text`] is: `OpenMetrics`, which Prometheus asks for first.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The webhooks, as labels name them.
pub const MUTATE: &str = "mutate";
/// See [`MUTATE`].
pub const VALIDATE: &str = "validate";

/// Upper bounds in seconds of a pass, which makes several requests.
const PASS: [f64; 10] = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0];
/// Upper bounds in seconds of a verdict, which the API server waits 5 s for.
const VERDICT: [f64; 8] = [0.0001, 0.00025, 0.0005, 0.001, 0.005, 0.025, 0.25, 2.5];

type Label = (&'static str, &'static str);
type Histograms<const LABELS: usize> = Family<[Label; LABELS], Histogram, fn() -> Histogram>;

/// All that is counted; shared by whoever counts.
pub struct Metrics {
    registry: Registry,
    passes: Family<[Label; 2], Counter>,
    pass_time: Histogram,
    reviews: Family<[Label; 3], Counter>,
    review_time: Histograms<1>,
    leader: Gauge,
    queue_depth: Gauge,
    servers: Family<[Label; 1], Gauge>,
    expiry: Family<[Label; 1], Gauge>,
    queue: Mutex<HashSet<ObjectRef<MCPServer>>>,
    watched: Mutex<Vec<Weak<Cache<MCPServer>>>>,
    serving: Arc<Serving>,
}

impl Metrics {
    /// Nothing counted yet. The expiry of certificates is told of what `serving` serves.
    pub fn new(serving: Arc<Serving>) -> Self {
        let mut registry = Registry::with_prefix(PREFIX);
        let metrics = Self {
            passes: Family::default(),
            pass_time: Histogram::new(PASS),
            reviews: Family::default(),
            review_time: Family::new_with_constructor(|| Histogram::new(VERDICT)),
            leader: Gauge::default(),
            queue_depth: Gauge::default(),
            servers: Family::default(),
            expiry: Family::default(),
            queue: Mutex::default(),
            watched: Mutex::default(),
            serving,
            registry: Registry::default(),
        };
        // All series from the start: a rate over one that appears with its first error misses it.
        for (result, class) in [
            ("success", "none"),
            ("error", class(Class::Transient)),
            ("error", class(Class::Configuration)),
            ("error", class(Class::Permanent)),
        ] {
            let _ = metrics
                .passes
                .get_or_create(&[("result", result), ("class", class)]);
        }
        for webhook in [MUTATE, VALIDATE] {
            for operation in [Operation::Create, Operation::Update].map(name_of) {
                for verdict in ["allowed", "denied", "error"] {
                    let labels = [
                        ("webhook", webhook),
                        ("operation", operation),
                        ("verdict", verdict),
                    ];
                    let _ = metrics.reviews.get_or_create(&labels);
                }
            }
        }
        registry.register(
            "reconciles",
            "Passes of reconciling, by result and by class of error",
            metrics.passes.clone(),
        );
        registry.register(
            "reconcile_duration_seconds",
            "Time of a pass",
            metrics.pass_time.clone(),
        );
        registry.register(
            "reconcile_queue_depth",
            "MCPServers whose pass is due and has not begun",
            metrics.queue_depth.clone(),
        );
        registry.register(
            "mcpservers",
            "MCPServers by phase; none while this replica does not lead",
            metrics.servers.clone(),
        );
        registry.register(
            "admission_requests",
            "Admission requests by webhook, operation and verdict",
            metrics.reviews.clone(),
        );
        registry.register(
            "admission_duration_seconds",
            "Time to a verdict",
            metrics.review_time.clone(),
        );
        registry.register(
            "certificate_expiry_timestamp_seconds",
            "When the served certificate and the CA that signs end, in seconds since 1970",
            metrics.expiry.clone(),
        );
        registry.register(
            "leader",
            "1 while this replica reconciles, else 0",
            metrics.leader.clone(),
        );
        let version = vec![("version", env!("CARGO_PKG_VERSION"))];
        registry.register("build", "What is running", Info::new(version));
        Self {
            registry,
            ..metrics
        }
    }

    /// Counts a pass that has ended.
    pub fn passed(&self, error: Option<&Error>, time: Duration) {
        let labels = match error {
            None => [("result", "success"), ("class", "none")],
            Some(error) => [("result", "error"), ("class", class(error.class()))],
        };
        self.passes.get_or_create(&labels).inc();
        self.pass_time.observe(time.as_secs_f64());
    }

    /// Counts a verdict.
    pub fn reviewed(
        &self,
        webhook: &'static str,
        operation: Operation,
        verdict: &Verdict,
        time: Duration,
    ) {
        let labels = [
            ("webhook", webhook),
            ("operation", name_of(operation)),
            ("verdict", outcome(verdict)),
        ];
        self.reviews.get_or_create(&labels).inc();
        let time_of = self.review_time.get_or_create(&[("webhook", webhook)]);
        time_of.observe(time.as_secs_f64());
    }

    /// This replica begins to lead, or ends to.
    pub fn leads(&self, leads: bool) {
        self.leader.set(i64::from(leads));
        lock(&self.queue).clear();
    }

    /// A pass of this server is due.
    pub fn due(&self, server: &ObjectRef<MCPServer>) {
        lock(&self.queue).insert(server.clone());
    }

    /// A pass of this server begins, or there is no such server.
    pub fn begun(&self, server: &ObjectRef<MCPServer>) {
        lock(&self.queue).remove(server);
    }

    /// The servers of this cache are counted while it lives.
    pub fn watches(&self, servers: &Arc<Cache<MCPServer>>) {
        lock(&self.watched).push(Arc::downgrade(servers));
    }

    /// Everything as `OpenMetrics` text.
    pub fn text(&self) -> Result<String, std::fmt::Error> {
        // A watch that ends with the lead may still have put something in.
        let depth = match self.leader.get() {
            0 => 0,
            _ => lock(&self.queue).len(),
        };
        self.queue_depth
            .set(i64::try_from(depth).unwrap_or(i64::MAX));
        self.count_servers();
        for (certificate, expiry) in [
            ("serving", self.serving.not_after()),
            ("ca", self.serving.authority_not_after()),
        ] {
            if let Some(expiry) = expiry {
                let gauge = self.expiry.get_or_create(&[("certificate", certificate)]);
                gauge.set(seconds(expiry));
            }
        }
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }

    fn count_servers(&self) {
        let mut counts: HashMap<&str, i64> = [
            Phase::Pending,
            Phase::Ready,
            Phase::Failed,
            Phase::Terminating,
        ]
        .map(|phase| (phase.as_str(), 0))
        .into();
        lock(&self.watched).retain(|cache| {
            let Some(cache) = cache.upgrade() else {
                return false;
            };
            for server in cache.all() {
                let phase = server.status.as_ref().and_then(|status| status.phase);
                *counts
                    .entry(phase.unwrap_or(Phase::Pending).as_str())
                    .or_default() += 1;
            }
            true
        });
        for (phase, count) in counts {
            self.servers.get_or_create(&[("phase", phase)]).set(count);
        }
    }
}

fn class(class: Class) -> &'static str {
    match class {
        Class::Transient => "transient",
        Class::Configuration => "configuration",
        Class::Permanent => "permanent",
    }
}

fn name_of(operation: Operation) -> &'static str {
    match operation {
        Operation::Create => "CREATE",
        Operation::Update => "UPDATE",
        Operation::Delete => "DELETE",
        Operation::Connect => "CONNECT",
    }
}

fn outcome(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Allow { .. } | Verdict::Mutate { .. } => "allowed",
        Verdict::Deny { code: 500.., .. } => "error",
        Verdict::Invalid { .. } | Verdict::Deny { .. } => "denied",
    }
}

fn seconds(time: SystemTime) -> i64 {
    let since = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(metrics: &Metrics) -> String {
        metrics.text().unwrap()
    }

    fn assert_has(text: &str, line: &str) {
        assert!(
            text.lines().any(|has| has == line),
            "{line:?} is not in\n{text}"
        );
    }

    #[test]
    fn passes_and_verdicts_are_counted() {
        let metrics = Metrics::new(Arc::default());
        let second = Duration::from_secs(1);
        let refused = Error::Refused {
            text: String::new(),
            subject: crate::controller::error::Subject::Other,
        };
        metrics.passed(None, second);
        metrics.passed(Some(&refused), second);
        for (verdict, times) in [
            (
                Verdict::Allow {
                    warnings: Vec::new(),
                },
                2,
            ),
            (
                Verdict::Deny {
                    code: 503,
                    reason: String::new(),
                    message: String::new(),
                },
                1,
            ),
        ] {
            for _ in 0..times {
                metrics.reviewed("validate", Operation::Update, &verdict, second);
            }
        }
        let text = text(&metrics);
        for line in [
            "mcp_operator_reconciles_total{result=\"success\",class=\"none\"} 1",
            "mcp_operator_reconciles_total{result=\"error\",class=\"configuration\"} 1",
            "mcp_operator_reconciles_total{result=\"error\",class=\"permanent\"} 0",
            "mcp_operator_reconcile_duration_seconds_count 2",
            "mcp_operator_admission_requests_total{webhook=\"validate\",operation=\"UPDATE\",verdict=\"allowed\"} 2",
            "mcp_operator_admission_requests_total{webhook=\"validate\",operation=\"UPDATE\",verdict=\"error\"} 1",
            "mcp_operator_admission_requests_total{webhook=\"mutate\",operation=\"CREATE\",verdict=\"error\"} 0",
            "mcp_operator_admission_duration_seconds_count{webhook=\"validate\"} 3",
            "mcp_operator_mcpservers{phase=\"Failed\"} 0",
            "# EOF",
        ] {
            assert_has(&text, line);
        }
        let version = env!("CARGO_PKG_VERSION");
        assert_has(
            &text,
            &format!("mcp_operator_build_info{{version=\"{version}\"}} 1"),
        );
    }

    #[test]
    fn a_server_is_in_the_queue_once_and_leaves_it_when_its_pass_begins() {
        let metrics = Metrics::new(Arc::default());
        let of = |name: &str| ObjectRef::new(name).within("a");
        metrics.leads(true);
        for name in ["one", "one", "two"] {
            metrics.due(&of(name));
        }
        assert_has(&text(&metrics), "mcp_operator_reconcile_queue_depth 2");
        metrics.begun(&of("one"));
        assert_has(&text(&metrics), "mcp_operator_reconcile_queue_depth 1");
        assert_has(&text(&metrics), "mcp_operator_leader 1");
        metrics.leads(false);
        metrics.due(&of("three"));
        assert_has(&text(&metrics), "mcp_operator_reconcile_queue_depth 0");
        assert_has(&text(&metrics), "mcp_operator_leader 0");
    }
}
