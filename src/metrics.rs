//! The metrics of `/metrics`. Each label has few values, whatever users do.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use certs::Serving;
use prometheus::core::{Collector, MetricVec, MetricVecBuilder};
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};
use webhook::{Operation, Verdict};

use crate::api::v1alpha1::Phase;

/// The prefix of every name.
const PREFIX: &str = "mcp_operator";
/// The content type of [`Metrics::text`]: the text format that every version of Prometheus reads.
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// The webhooks, as labels name them.
pub const MUTATE: &str = "mutate";
/// See [`MUTATE`].
pub const VALIDATE: &str = "validate";

/// The operation of a request that was not or could not be decoded.
const UNKNOWN: &str = "unknown";

/// Upper bounds in seconds for the time of a pass, which makes several requests.
const PASS: [f64; 10] = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0];
/// Upper bounds in seconds for the time to a verdict: fine around 1 s, at which an alert fires, and up to the 5 s
/// that the API server waits.
const VERDICT: [f64; 12] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
];

/// The series of one metric, which has `LABELS` labels. The number of label values is checked by the compiler, so
/// looking up a series cannot fail.
struct Series<Vec, const LABELS: usize>(Vec);

type Counters<const LABELS: usize> = Series<IntCounterVec, LABELS>;
type Gauges<const LABELS: usize> = Series<IntGaugeVec, LABELS>;
type Histograms<const LABELS: usize> = Series<HistogramVec, LABELS>;

/// Who knows the MCPServers.
pub trait Servers: Send + Sync {
    /// Adds their number per phase to `phases`.
    fn count(&self, phases: &mut HashMap<&'static str, i64>);
    /// How many wait for a pass that is due.
    fn due(&self) -> usize;
}

/// The classes of errors that a pass ends with, as labels.
pub const CLASSES: [&str; 4] = ["transient", "configuration", "permanent", "policy"];
/// The kinds that are watched, as labels.
pub const KINDS: [&str; 6] = [
    "mcpservers",
    "configmaps",
    "deployments",
    "services",
    "poddisruptionbudgets",
    "pods",
];

/// The labels of what is told of a watch. The namespace is one of those that the operator is told to watch; it is empty,
/// which is no label to Prometheus, where all are watched. `namespace` itself is the label of who is asked.
const WATCHED: [&str; 2] = ["kind", "watched_namespace"];

/// All metrics, shared by everything that updates them.
pub struct Metrics {
    registry: Registry,
    passes: Counters<2>,
    pass_time: Histogram,
    reviews: Counters<3>,
    review_time: Histograms<1>,
    leader: IntGauge,
    queue_depth: IntGauge,
    servers: Gauges<1>,
    expiry: Gauges<1>,
    certificate_errors: IntCounter,
    unreadable: Counters<1>,
    watch_errors: Counters<2>,
    last_list: Gauges<2>,
    last_event: Gauges<2>,
    counted: Mutex<Vec<Weak<dyn Servers>>>,
    serving: Arc<Serving>,
}

impl Metrics {
    /// Registers every metric. The certificate expiry is that of what `serving` serves. Fails when a name is invalid
    /// or taken.
    pub fn new(serving: Arc<Serving>) -> Result<Self, prometheus::Error> {
        let registry = Registry::new_custom(Some(PREFIX.to_owned()), None)?;
        let build = Opts::new("build_info", "What is running")
            .const_label("version", env!("CARGO_PKG_VERSION"));
        register(&registry, IntGauge::with_opts(build)?)?.set(1);
        let gauge = |name, help| register(&registry, IntGauge::new(name, help)?);
        let metrics = Self {
            passes: counters(
                &registry,
                "reconciles_total",
                "Passes of reconciling, by result and by class of error",
                ["result", "class"],
            )?,
            pass_time: register(
                &registry,
                Histogram::with_opts(
                    HistogramOpts::new("reconcile_duration_seconds", "Time of a pass")
                        .buckets(PASS.into()),
                )?,
            )?,
            reviews: counters(
                &registry,
                "admission_requests_total",
                "Admission requests by webhook, operation and verdict",
                ["webhook", "operation", "verdict"],
            )?,
            review_time: Series(register(
                &registry,
                HistogramVec::new(
                    HistogramOpts::new("admission_duration_seconds", "Time to a verdict")
                        .buckets(VERDICT.into()),
                    &["webhook"],
                )?,
            )?),
            leader: gauge("leader", "1 while this replica reconciles, else 0")?,
            queue_depth: gauge(
                "reconcile_queue_depth",
                "MCPServers whose pass is due and has not begun",
            )?,
            servers: gauges(
                &registry,
                "mcpservers",
                "MCPServers by phase; none while this replica does not lead",
                ["phase"],
            )?,
            expiry: gauges(
                &registry,
                "certificate_expiry_timestamp_seconds",
                "When the served certificate and the CA that signs end, in seconds since 1970",
                ["certificate"],
            )?,
            certificate_errors: register(
                &registry,
                IntCounter::new(
                    "certificate_errors_total",
                    "Times that the certificates and caBundles could not be looked after",
                )?,
            )?,
            unreadable: counters(
                &registry,
                "unreadable_objects_total",
                "Times that an object was found which cannot be read, by kind",
                ["kind"],
            )?,
            watch_errors: counters(
                &registry,
                "watch_errors_total",
                "Lists and watches that failed, by kind",
                WATCHED,
            )?,
            last_list: gauges(
                &registry,
                "watch_last_list_timestamp_seconds",
                "When all objects of a kind were last listed, in seconds since 1970",
                WATCHED,
            )?,
            last_event: gauges(
                &registry,
                "watch_last_event_timestamp_seconds",
                "When the watch of a kind last showed something, in seconds since 1970",
                WATCHED,
            )?,
            counted: Mutex::default(),
            serving,
            registry,
        };
        metrics.begin();
        Ok(metrics)
    }

    /// Creates all series at the start. A series that appeared only with its first error would hide that error from
    /// `rate()`.
    fn begin(&self) {
        let _ = self.passes.of(["success", "none"]);
        for class in CLASSES {
            let _ = self.passes.of(["error", class]);
        }
        for kind in KINDS {
            let _ = self.unreadable.of([kind]);
        }
        for webhook in [MUTATE, VALIDATE] {
            let _ = self.review_time.of([webhook]);
            for operation in [Operation::Create, Operation::Update].map(name_of) {
                for verdict in ["allowed", "denied", "error"] {
                    let _ = self.reviews.of([webhook, operation, verdict]);
                }
            }
            let _ = self.reviews.of([webhook, UNKNOWN, "error"]);
        }
    }

    /// Counts a pass that has ended, successfully or with an error of this class (one of [`CLASSES`]).
    pub fn passed(&self, error: Option<&'static str>, time: Duration) {
        let labels = match error {
            None => ["success", "none"],
            Some(class) => ["error", class],
        };
        self.passes.of(labels).inc();
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
        let labels = [webhook, name_of(operation), outcome(verdict)];
        self.reviews.of(labels).inc();
        let time_of = self.review_time.of([webhook]);
        time_of.observe(time.as_secs_f64());
    }

    /// Counts a request that was answered with an error in place of a verdict; `operation` if it is known.
    pub fn unheard(&self, webhook: &'static str, operation: Option<Operation>) {
        let operation = operation.map_or(UNKNOWN, name_of);
        self.reviews.of([webhook, operation, "error"]).inc();
    }

    /// Says whether this replica leads.
    pub fn leads(&self, leads: bool) {
        self.leader.set(i64::from(leads));
    }

    /// Counts an object of this kind (one of [`KINDS`]) that cannot be read.
    pub fn unreadable(&self, kind: &str) {
        self.unreadable.of([kind]).inc();
    }

    /// A kind is going to be watched in this namespace, or in all of them.
    pub fn watch_begins(&self, kind: &str, namespace: Option<&str>) {
        let _ = self.watch_errors.of([kind, namespace.unwrap_or_default()]);
    }

    /// Counts a failed list or watch of this kind there.
    pub fn watch_failed(&self, kind: &str, namespace: Option<&str>) {
        let labels = [kind, namespace.unwrap_or_default()];
        self.watch_errors.of(labels).inc();
    }

    /// Notes that the watch of this kind there delivered something; `is_listed` when that completed a list.
    pub fn watched(&self, kind: &str, namespace: Option<&str>, is_listed: bool) {
        let (labels, now) = (
            [kind, namespace.unwrap_or_default()],
            seconds(SystemTime::now()),
        );
        self.last_event.of(labels).set(now);
        if is_listed {
            self.last_list.of(labels).set(now);
        }
    }

    /// Counts these servers for as long as they are alive.
    pub fn count(&self, servers: &Arc<dyn Servers>) {
        lock(&self.counted).push(Arc::downgrade(servers));
    }

    /// All metrics, as text of [`CONTENT_TYPE`].
    pub fn text(&self) -> Result<String, prometheus::Error> {
        self.count_servers();
        for (certificate, expiry) in [
            ("serving", self.serving.not_after()),
            ("ca", self.serving.authority_not_after()),
        ] {
            if let Some(expiry) = expiry {
                self.expiry.of([certificate]).set(seconds(expiry));
            }
        }
        let failures = self.serving.failures();
        self.certificate_errors
            .inc_by(failures.saturating_sub(self.certificate_errors.get()));
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }

    fn count_servers(&self) {
        let mut counts: HashMap<&'static str, i64> = [
            Phase::Pending,
            Phase::Ready,
            Phase::Failed,
            Phase::Terminating,
        ]
        .map(|phase| (phase.as_str(), 0))
        .into();
        let mut due = 0;
        lock(&self.counted).retain(|servers| {
            let servers = servers.upgrade();
            let counted = servers.inspect(|servers| {
                servers.count(&mut counts);
                due += servers.due();
            });
            counted.is_some()
        });
        self.queue_depth.set(i64::try_from(due).unwrap_or(i64::MAX));
        for (phase, count) in counts {
            self.servers.of([phase]).set(count);
        }
    }
}

impl<B: MetricVecBuilder, const LABELS: usize> Series<MetricVec<B>, LABELS> {
    fn of(&self, values: [&str; LABELS]) -> B::M {
        self.0.with_label_values(&values)
    }
}

fn counters<const LABELS: usize>(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: [&str; LABELS],
) -> Result<Counters<LABELS>, prometheus::Error> {
    let counters = IntCounterVec::new(Opts::new(name, help), &labels)?;
    register(registry, counters).map(Series)
}

fn gauges<const LABELS: usize>(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: [&str; LABELS],
) -> Result<Gauges<LABELS>, prometheus::Error> {
    let gauges = IntGaugeVec::new(Opts::new(name, help), &labels)?;
    register(registry, gauges).map(Series)
}

fn register<M: Collector + Clone + 'static>(
    registry: &Registry,
    metric: M,
) -> Result<M, prometheus::Error> {
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
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
        Verdict::Invalid { .. } | Verdict::Forbidden { .. } | Verdict::Deny { .. } => "denied",
    }
}

/// Ignores poisoning: the list is consistent at every moment.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
        let metrics = Metrics::new(Arc::default()).unwrap();
        let second = Duration::from_secs(1);
        metrics.passed(None, second);
        metrics.passed(Some("configuration"), second);
        metrics.unreadable("mcpservers");
        metrics.watched("pods", Some("n"), true);
        metrics.watch_begins("services", None);
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
        metrics.unheard("mutate", None);
        metrics.unheard("validate", Some(Operation::Update));
        let text = text(&metrics);
        for line in [
            "mcp_operator_reconciles_total{class=\"none\",result=\"success\"} 1",
            "mcp_operator_reconciles_total{class=\"configuration\",result=\"error\"} 1",
            "mcp_operator_reconciles_total{class=\"permanent\",result=\"error\"} 0",
            "mcp_operator_unreadable_objects_total{kind=\"mcpservers\"} 1",
            "mcp_operator_watch_errors_total{kind=\"services\",watched_namespace=\"\"} 0",
            "mcp_operator_reconcile_duration_seconds_count 2",
            "mcp_operator_admission_requests_total{operation=\"UPDATE\",verdict=\"allowed\",webhook=\"validate\"} 2",
            "mcp_operator_admission_requests_total{operation=\"UPDATE\",verdict=\"error\",webhook=\"validate\"} 2",
            "mcp_operator_admission_requests_total{operation=\"unknown\",verdict=\"error\",webhook=\"mutate\"} 1",
            "mcp_operator_admission_requests_total{operation=\"unknown\",verdict=\"error\",webhook=\"validate\"} 0",
            "mcp_operator_admission_requests_total{operation=\"CREATE\",verdict=\"error\",webhook=\"mutate\"} 0",
            "mcp_operator_admission_duration_seconds_count{webhook=\"validate\"} 3",
            "mcp_operator_mcpservers{phase=\"Failed\"} 0",
            "# TYPE mcp_operator_reconciles_total counter",
            "# TYPE mcp_operator_admission_requests_total counter",
            "# TYPE mcp_operator_admission_duration_seconds histogram",
            "# TYPE mcp_operator_build_info gauge",
        ] {
            assert_has(&text, line);
        }
        let version = env!("CARGO_PKG_VERSION");
        assert_has(
            &text,
            &format!("mcp_operator_build_info{{version=\"{version}\"}} 1"),
        );
        assert!(!text.contains("# EOF"), "this is OpenMetrics: {text}");
        // By its end a name tells what it is, to Prometheus' linters and to people.
        let types: Vec<_> = text
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
            .collect();
        assert_eq!(types.len(), 13, "{types:?}");
        for (name, is) in types {
            assert_eq!(name.ends_with("_total"), is == "counter", "{name}: {is}");
        }
    }

    /// Ten servers that are Ready, three of which have a pass due.
    struct Ten;

    impl Servers for Ten {
        fn count(&self, phases: &mut HashMap<&'static str, i64>) {
            *phases.entry("Ready").or_default() += 10;
        }

        fn due(&self) -> usize {
            3
        }
    }

    #[test]
    fn servers_are_counted_while_somebody_knows_them() {
        let metrics = Metrics::new(Arc::default()).unwrap();
        metrics.leads(true);
        let (one, other): (Arc<dyn Servers>, Arc<dyn Servers>) = (Arc::new(Ten), Arc::new(Ten));
        metrics.count(&one);
        metrics.count(&other);
        let found = text(&metrics);
        assert_has(&found, "mcp_operator_leader 1");
        assert_has(&found, "mcp_operator_reconcile_queue_depth 6");
        assert_has(&found, "mcp_operator_mcpservers{phase=\"Ready\"} 20");
        drop((one, other));
        metrics.leads(false);
        let found = text(&metrics);
        assert_has(&found, "mcp_operator_leader 0");
        assert_has(&found, "mcp_operator_reconcile_queue_depth 0");
        assert_has(&found, "mcp_operator_mcpservers{phase=\"Ready\"} 0");
    }
}
