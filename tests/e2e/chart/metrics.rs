//! The dashboard and the alerts ask for metrics that there are.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::metrics::NAMES;

use super::{chart, find, objects, read, shared};

/// Every metric of the operator; histograms without what Prometheus adds to their names.
fn metrics() -> BTreeSet<String> {
    NAMES.iter().flat_map(|(name, _)| named(name)).collect()
}

/// The names in a text that begin like a metric of ours.
fn named(text: &str) -> BTreeSet<String> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| word.starts_with("mcp_operator_"))
        .map(|word| {
            let histogram = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|suffix| word.strip_suffix(suffix));
            histogram.unwrap_or(word).to_owned()
        })
        .collect()
}

#[test]
fn the_dashboard_shows_every_metric_and_no_other() {
    let text = read(&chart().join("files/dashboard.json"));
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(named(&text), metrics());
    let panels = dashboard["panels"].as_array().unwrap();
    let mut ids = BTreeSet::new();
    for panel in panels {
        let title = &panel["title"];
        assert!(
            ids.insert(panel["id"].as_u64().unwrap()),
            "{title}: its id is taken"
        );
        assert!(
            !panel["targets"].as_array().unwrap().is_empty(),
            "{title} shows nothing"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn alerts_ask_for_metrics_that_there_are_and_tell_what_to_do() {
    let values = "prometheusRule: {enabled: true, labels: {release: prometheus}, alertLabels: {team: platform}}";
    let objects = objects(shared().await, "metrics", values).await.unwrap();
    let rule = find(&objects, "PrometheusRule", "mcp-operator");
    assert_eq!(rule["metadata"]["labels"]["release"], "prometheus");
    let alerts = rule["spec"]["groups"][0]["rules"].as_array().unwrap();
    let mut seen = BTreeSet::new();
    for alert in alerts {
        let name = &alert["alert"];
        let asked = named(alert["expr"].as_str().unwrap());
        assert!(!asked.is_empty(), "{name} asks for no metric");
        for metric in asked {
            assert!(
                metrics().contains(&metric),
                "{name}: there is no metric {metric}"
            );
        }
        assert_eq!(alert["labels"]["team"], "platform", "{name}");
        let severity = alert["labels"]["severity"].as_str().unwrap();
        assert!(
            ["critical", "warning", "info"].contains(&severity),
            "{name}: {severity}"
        );
        let description = alert["annotations"]["description"].as_str().unwrap();
        assert!(description.len() > 40, "{name}: {description}");
        seen.insert(name.as_str().unwrap().to_owned());
    }
    for wanted in [
        "McpOperatorDown",
        "McpOperatorNoLeader",
        "McpOperatorSeveralLeaders",
        "McpOperatorCertificateExpiresSoon",
        "McpOperatorReconcileErrors",
        "McpOperatorAdmissionErrors",
    ] {
        assert!(seen.contains(wanted), "no alert {wanted}: {seen:?}");
    }
    let own = json!(
        "absent(mcp_operator_build_info{job=\"mcp-operator-metrics\",namespace=\"metrics\"})"
    );
    assert_eq!(
        alerts[0]["expr"], own,
        "other operators' metrics do not count"
    );
}

/// With the operator's default lives, with short ones, and where others renew: due is not yet late.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_is_renewed_in_time_raises_no_alert() {
    let table = [
        ("{}", 14_400, 2_592_000),
        (
            "{selfSigned: {life: 1h, caLife: 36h30m}}",
            600,
            6 * 3600 + 300,
        ),
        (
            "{selfSigned: {life: 8760h, caLife: 87600h}}",
            604_800,
            2_592_000,
        ),
        ("{mode: cert-manager}", 604_800, 2_592_000),
        (
            "{mode: cert-manager, certManager: {duration: 1h, renewBefore: 20m}}",
            600,
            2_592_000,
        ),
        (
            "{mode: existing-secret, existingSecret: {name: a, caBundle: LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0t}}",
            604_800,
            2_592_000,
        ),
    ];
    let expression = async |certificates: &str, expiry: &str| {
        let values = format!(
            "{{certificates: {certificates}, prometheusRule: {{enabled: true, certificateExpiry: {expiry}}}}}"
        );
        let objects = objects(shared().await, "metrics", &values).await.unwrap();
        let rule = find(&objects, "PrometheusRule", "mcp-operator");
        let alerts = rule["spec"]["groups"][0]["rules"].as_array().unwrap();
        let mut alerts = alerts.iter();
        let alert = alerts.find(|alert| alert["alert"] == "McpOperatorCertificateExpiresSoon");
        alert.unwrap()["expr"].as_str().unwrap().to_owned()
    };
    let limits = |expression: &str| -> Vec<u64> {
        let mut limits = expression.split("time() < ").skip(1);
        let mut read = || limits.next()?.split(' ').next()?.parse().ok();
        vec![read().unwrap(), read().unwrap()]
    };
    for (certificates, serving, ca) in table {
        let derived = expression(certificates, "{}").await;
        assert_eq!(limits(&derived), [serving, ca], "{certificates}: {derived}");
        let given = expression(certificates, "{serving: 60, ca: 1000000000}").await;
        assert_eq!(
            limits(&given),
            [60, 1_000_000_000],
            "{certificates}: {given}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn labels_of_alerts_win_over_the_charts() {
    let values = "prometheusRule: {enabled: true, alertLabels: {severity: page}}";
    let objects = objects(shared().await, "metrics", values).await.unwrap();
    let rule = find(&objects, "PrometheusRule", "mcp-operator");
    for alert in rule["spec"]["groups"][0]["rules"].as_array().unwrap() {
        assert_eq!(alert["labels"], json!({"severity": "page"}), "{alert}");
    }
}
