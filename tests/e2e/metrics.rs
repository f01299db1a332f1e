//! Health and metrics over plain HTTP, as a kubelet and Prometheus read them.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use cluster::{Cluster, eventually};
use mcp_operator::admission::MUTATE_PATH;
use serde_json::json;

use crate::rbac;
use crate::setup::{self, SOON, Space};
use crate::wire::{get_plain, post_to};

/// Every name there is, with its labels; the dashboard and the alerts of the chart use these.
pub const NAMES: &[(&str, &[&str])] = &[
    (
        "mcp_operator_admission_duration_seconds_bucket",
        &["webhook", "le"],
    ),
    (
        "mcp_operator_admission_duration_seconds_count",
        &["webhook"],
    ),
    ("mcp_operator_admission_duration_seconds_sum", &["webhook"]),
    (
        "mcp_operator_admission_requests_total",
        &["operation", "verdict", "webhook"],
    ),
    ("mcp_operator_build_info", &["version"]),
    ("mcp_operator_certificate_errors_total", &[]),
    (
        "mcp_operator_certificate_expiry_timestamp_seconds",
        &["certificate"],
    ),
    ("mcp_operator_leader", &[]),
    ("mcp_operator_mcpservers", &["phase"]),
    ("mcp_operator_reconcile_duration_seconds_bucket", &["le"]),
    ("mcp_operator_reconcile_duration_seconds_count", &[]),
    ("mcp_operator_reconcile_duration_seconds_sum", &[]),
    ("mcp_operator_reconcile_queue_depth", &[]),
    ("mcp_operator_reconciles_total", &["class", "result"]),
    ("mcp_operator_unreadable_objects_total", &["kind"]),
    (
        "mcp_operator_watch_errors_total",
        &["kind", "watched_namespace"],
    ),
    (
        "mcp_operator_watch_last_event_timestamp_seconds",
        &["kind", "watched_namespace"],
    ),
    (
        "mcp_operator_watch_last_list_timestamp_seconds",
        &["kind", "watched_namespace"],
    ),
];

/// The samples of a text: name and labels, value.
fn samples(text: &str) -> Result<BTreeMap<String, f64>> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let (series, value) = line.rsplit_once(' ').context("a line without a value")?;
            Ok((series.to_owned(), value.parse()?))
        })
        .collect()
}

pub fn scrape(port: u16) -> Result<BTreeMap<String, f64>> {
    let (code, text) = get_plain(port, "/metrics")?;
    anyhow::ensure!(code == 200, "{code} {text}");
    samples(&text)
}

/// Name and labels' names of a series.
fn shape(series: &str) -> (String, Vec<String>) {
    let Some((name, labels)) = series.split_once('{') else {
        return (series.to_owned(), Vec::new());
    };
    let labels = labels.trim_end_matches('}').split(',');
    let labels = labels.filter_map(|label| label.split_once('='));
    (
        name.to_owned(),
        labels.map(|(name, _)| name.to_owned()).collect(),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_happens_is_counted() -> Result<()> {
    let (cluster, operator) = setup::start_with("operator", &[]).await?;
    for path in ["/healthz", "/readyz"] {
        assert_eq!(
            get_plain(operator.http, path)?,
            (200, "ok".to_owned()),
            "{path}"
        );
    }
    let space = Space::within(&cluster, "metrics").await;
    space.create("good", json!({"image": "x:1"})).await?;
    setup::refusal(space.create("bad", json!({"image": "X"})).await);
    space.until_ready("good").await;
    let (code, _) = post_to(operator.port, MUTATE_PATH, "application/json", b"{")?;
    assert_eq!(code, 400);

    let value = |samples: &BTreeMap<String, f64>, series: &str| {
        samples.get(series).copied().unwrap_or_default()
    };
    let found = eventually("the counters tell", SOON, || async {
        let found = scrape(operator.http)?;
        let one = |series| value(&found, series) >= 1.0;
        let told = one("mcp_operator_reconciles_total{class=\"none\",result=\"success\"}")
            && one("mcp_operator_mcpservers{phase=\"Ready\"}")
            && one("mcp_operator_admission_requests_total{operation=\"CREATE\",verdict=\"allowed\",webhook=\"mutate\"}")
            && one("mcp_operator_admission_requests_total{operation=\"CREATE\",verdict=\"denied\",webhook=\"validate\"}")
            && one("mcp_operator_admission_requests_total{operation=\"unknown\",verdict=\"error\",webhook=\"mutate\"}")
            && one("mcp_operator_leader")
            && value(&found, "mcp_operator_reconcile_queue_depth") == 0.0;
        if told {
            return Ok(Some(found));
        }
        bail!("{found:#?}")
    })
    .await?;
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)?
        .as_secs_f64();
    let day = 86_400.0;
    let expiry = |of: &str| {
        value(
            &found,
            &format!("mcp_operator_certificate_expiry_timestamp_seconds{{certificate=\"{of}\"}}"),
        )
    };
    let (serving, ca) = (expiry("serving") - now, expiry("ca") - now);
    assert!(
        serving > 0.5 * day && serving < 1.1 * day,
        "the certificate ends in {serving} s"
    );
    assert!(
        ca > 300.0 * day && ca < 366.0 * day,
        "the CA ends in {ca} s"
    );

    let mut shapes: Vec<_> = found.keys().map(|series| shape(series)).collect();
    shapes.sort();
    shapes.dedup();
    let expected: Vec<(String, Vec<String>)> = NAMES
        .iter()
        .map(|(name, labels)| {
            (
                (*name).to_owned(),
                labels.iter().map(|label| (*label).to_owned()).collect(),
            )
        })
        .collect();
    assert_eq!(shapes, expected, "names and labels");

    // The number of series does not grow with that of servers.
    let before = found.len();
    for index in 0..5 {
        let name = format!("more-{index}");
        space
            .create(&name, json!({"image": "x:1", "transport": "http"}))
            .await?;
        space.until_ready(&name).await;
    }
    assert_eq!(scrape(operator.http)?.len(), before);
    setup::stop(cluster).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_namespaces_that_were_named_are_watched() -> Result<()> {
    let cluster = Cluster::start(setup::options()).await?;
    let spaces = [
        Space::within(&cluster, "one").await,
        Space::within(&cluster, "two").await,
        Space::within(&cluster, "other").await,
    ];
    let [one, two, other] = &spaces;
    let namespaces = format!("watch.namespaces={{{},{}}}", one.namespace, two.namespace);
    setup::grant(&cluster, &rbac::rules(&[&namespaces]).await?)?;
    let arguments = [
        "--watch-namespace",
        &one.namespace,
        "--watch-namespace",
        &two.namespace,
    ];
    let operator = setup::spawn_operator(&cluster, "operator", &arguments)?;
    setup::install(&cluster, operator.port)?;
    setup::wait_ready(&operator)?;
    for space in &spaces {
        space
            .create("a", json!({"image": "x:1", "config": {"A": "b"}}))
            .await?;
    }
    for space in [one, two] {
        space.until_ready("a").await;
        space.servers().delete("a", &Default::default()).await?;
        space.until_gone::<mcp_operator::api::MCPServer>("a").await;
    }
    let untouched = other.servers().get("a").await?;
    let status = untouched.status.unwrap_or_default();
    let found = (status.phase, status.observed_generation);
    assert_eq!(found, (None, Some(-1)), "a namespace that was not named");
    let requests = cluster.requests_by(setup::USER).await?;
    let elsewhere: Vec<_> = requests
        .iter()
        .filter(|request| request.group != "admissionregistration.k8s.io")
        // What only a whole cluster has: the Pod Security level of each.
        .filter(|request| !["/version", "namespaces"].contains(&request.resource.as_str()))
        .filter(|request| {
            ![&one.namespace, &two.namespace, setup::OWN].contains(&request.namespace.as_str())
        })
        .collect();
    assert!(elsewhere.is_empty(), "{elsewhere:?}");
    setup::stop(cluster).await
}
