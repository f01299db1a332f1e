//! A typing error in the values is refused, with the value's path and what was expected.

use super::{render, run_helm, shared, values_file};

/// Values, and the words that the refusal must hold.
const TABLE: &[(&str, &[&str])] = &[
    ("replica: 3", &["replica", "not allowed"]),
    ("image: {tags: v1}", &["/image", "tags", "not allowed"]),
    ("replicas: two", &["/replicas", "integer"]),
    ("replicas: -1", &["/replicas", "0"]),
    (
        "certificates: {mode: selfsigned}",
        &[
            "/certificates/mode",
            "self-signed",
            "cert-manager",
            "existing-secret",
        ],
    ),
    (
        "certificates: {certManager: {issuer: x}}",
        &["/certificates/certManager", "issuer", "not allowed"],
    ),
    (
        "certificates: {mode: cert-manager, certManager: {issuerRef: {kind: ClusterIssuer}}}",
        &["/certificates/certManager/issuerRef", "name"],
    ),
    (
        "certificates: {selfSigned: {life: 1 day}}",
        &["/certificates/selfSigned/life", "1 day"],
    ),
    (
        "certificates: {mode: existing-secret}",
        &["certificates.existingSecret.name", "required"],
    ),
    (
        "certificates: {mode: existing-secret, existingSecret: {name: tls}}",
        &["certificates.existingSecret.caBundle", "required"],
    ),
    (
        "certificates: {mode: existing-secret, existingSecret: {name: tls, caBundle: rubbish}}",
        &["certificates.existingSecret.caBundle", "PEM", "base64"],
    ),
    (
        "webhook: {failurePolicy: fail}",
        &["/webhook/failurePolicy", "Fail", "Ignore"],
    ),
    (
        "webhook: {timeoutSeconds: 60}",
        &["/webhook/timeoutSeconds", "30"],
    ),
    ("webhook: {port: 0}", &["/webhook/port", "1"]),
    (
        "webhook: {namespaceSelector: {matchLabel: {a: b}}}",
        &["/webhook/namespaceSelector", "matchLabel", "not allowed"],
    ),
    ("http: {port: 9443}", &["http.port", "webhook.port"]),
    (
        "metrics: {secure: true, port: 8080}",
        &["metrics.port: 8080", "http.port"],
    ),
    (
        "{metrics: {secure: true}, webhook: {enabled: false}}",
        &["metrics.secure", "webhook.enabled"],
    ),
    (
        "{metrics: {secure: true, podMonitor: {enabled: true}}, certificates: {mode: existing-secret, existingSecret: \
         {name: a, caBundle: '-----BEGIN CERTIFICATE-----'}}}",
        &["metrics.tlsConfig", "existing-secret"],
    ),
    (
        "metrics: {secure: true, podMonitor: {enabled: true}}",
        &["metrics.authorization", "PodMonitor"],
    ),
    (
        "metrics: {serviceMonitor: {enabled: true}, podMonitor: {enabled: true}}",
        &[
            "metrics.podMonitor.enabled",
            "metrics.serviceMonitor.enabled",
        ],
    ),
    (
        "metrics: {podMonitor: {enabled: true, interval: 10s, scrapeTimeout: 1m}}",
        &[
            "metrics.podMonitor.scrapeTimeout",
            "metrics.podMonitor.interval",
        ],
    ),
    (
        "{replicas: 1, podDisruptionBudget: {minAvailable: 1}}",
        &[
            "podDisruptionBudget.minAvailable: 1",
            "1 replicas",
            "drained",
        ],
    ),
    (
        "{podDisruptionBudget: {minAvailable: 100%}}",
        &["podDisruptionBudget.minAvailable: 100%", "2 replicas"],
    ),
    (
        "{autoscaling: {enabled: true, minReplicas: 3}, podDisruptionBudget: {minAvailable: 3}}",
        &["podDisruptionBudget.minAvailable: 3", "3 replicas"],
    ),
    (
        "ipFamilyPolicy: Both",
        &["/ipFamilyPolicy", "PreferDualStack"],
    ),
    ("ipFamilies: [IPv4, IPv4]", &["/ipFamilies"]),
    (
        "operator: {clusterDomain: .local}",
        &["/operator/clusterDomain", ".local"],
    ),
    (
        "global: {imagePullSecrets: [mirror]}",
        &["/global/imagePullSecrets/0", "object"],
    ),
    (
        "watch: {namespaces: team-a}",
        &["/watch/namespaces", "array"],
    ),
    (
        "watch: {namespaces: [a, a]}",
        &["/watch/namespaces", "equal"],
    ),
    (
        "watch: {namespaces: [Team_A]}",
        &["/watch/namespaces/0", "Team_A"],
    ),
    ("log: {format: xml}", &["/log/format", "json", "text"]),
    (
        "log: {level: verbos}",
        &["/log/level", "verbos", "'debug'", "'off'"],
    ),
    (
        "log: {level: 'info,mcp_operator'}",
        &["/log/level", "info,mcp_operator"],
    ),
    ("log: {level: '=info'}", &["/log/level", "=info"]),
    (
        "leaderElection: {leaseDuration: 500ms}",
        &["leaderElection.leaseDuration", "500ms", "2s to 24h"],
    ),
    (
        "leaderElection: {leaseDuration: 1m0.5s}",
        &["leaderElection.leaseDuration", "1m0.5s", "whole seconds"],
    ),
    (
        "leaderElection: {leaseDuration: 23h60m1s}",
        &["leaderElection.leaseDuration", "23h60m1s", "2s to 24h"],
    ),
    (
        "certificates: {selfSigned: {life: 24h, caLife: 71h59m59s999ms}}",
        &[
            "certificates.selfSigned.caLife",
            "71h59m59s999ms",
            "certificates.selfSigned.life, 24h",
            "longer",
        ],
    ),
    (
        "certificates: {selfSigned: {caLife: 87601h}}",
        &["certificates.selfSigned.caLife", "87601h", "87600h"],
    ),
    (
        "certificates: {selfSigned: {life: 2s}}",
        &["certificates.selfSigned.life", "2s", "3s"],
    ),
    (
        "certificates: {selfSigned: {life: 119s}}",
        &["certificates.selfSigned.life", "119s", "60s", "--ca-settle"],
    ),
    (
        "certificates: {mode: cert-manager, certManager: {duration: 720h}}",
        &[
            "certificates.certManager.renewBefore",
            "certificates.certManager.duration, 720h",
        ],
    ),
    (
        "extraArgs: [--ca-settle, 13h]",
        &["certificates.selfSigned.life", "24h", "settle, 13h"],
    ),
    (
        "extraArgs: [--ca-settle=12h0m1s]",
        &["certificates.selfSigned.life", "settle, 12h0m1s"],
    ),
    (
        "{extraArgs: [--ca-settle=10s], certificates: {mode: cert-manager}}",
        &[
            "extraArgs",
            "--ca-settle",
            "certificates.mode is cert-manager",
        ],
    ),
    (
        "extraArgs: [--certificate-folder=/x]",
        &["extraArgs", "--certificate-folder", "self-signed"],
    ),
    (
        "leaderElection: {leaseDuration: 2.0004s}",
        &["leaderElection.leaseDuration", "2.0004s", "whole seconds"],
    ),
    (
        "updateStrategy: {rollingUpdate: {maxSurge: 0, maxUnavailable: 00%}}",
        &["updateStrategy.rollingUpdate", "maxUnavailable", "maxSurge"],
    ),
    (
        "extraArgs: [--ca-secret=other]",
        &["extraArgs", "--ca-secret", "fullnameOverride"],
    ),
    (
        "autoscaling: {enabled: true, minReplicas: 6}",
        &["autoscaling.minReplicas", "6", "autoscaling.maxReplicas, 5"],
    ),
    (
        "autoscaling: {enabled: true, targetCPUUtilizationPercentage: null}",
        &["autoscaling", "targetCPUUtilizationPercentage"],
    ),
    ("commonLabels: {team: 7}", &["/commonLabels/team", "string"]),
    (
        "resources: {request: {cpu: 1}}",
        &["/resources", "request", "not allowed"],
    ),
    ("extraEnv: [{value: a}]", &["/extraEnv/0", "name"]),
    (
        "terminationGracePeriodSeconds: 25",
        &["terminationGracePeriodSeconds", "25", "drainSeconds"],
    ),
    (
        "podDisruptionBudget: {minAvailable: 1, maxUnavailable: 1}",
        &["podDisruptionBudget", "exclude each other"],
    ),
    (
        "metrics: {enabled: false, serviceMonitor: {enabled: true}}",
        &["metrics.serviceMonitor.enabled", "metrics.enabled"],
    ),
    (
        "metrics: {serviceMonitor: {enabled: true, interval: 1m, scrapeTimeout: 61s}}",
        &[
            "metrics.serviceMonitor.scrapeTimeout",
            "61s",
            "metrics.serviceMonitor.interval, 1m",
        ],
    ),
    (
        "volumeMounts: [{mountPath: /a}]",
        &["/volumeMounts/0", "name"],
    ),
    (
        "extraObjects: [7]",
        &["/extraObjects/0", "string or object"],
    ),
    (
        "crds: {enabled: true}",
        &["/crds", "enabled", "not allowed"],
    ),
    ("bindAddress: localhost", &["/bindAddress"]),
    (
        "updateStrategy: {type: Rolling}",
        &["/updateStrategy/type", "RollingUpdate", "Recreate"],
    ),
    (
        "updateStrategy: {rollingUpdate: {maxSurge: 0%}}",
        &["updateStrategy.rollingUpdate", "maxUnavailable", "maxSurge"],
    ),
    (
        "networkPolicy: {apiServerPorts: []}",
        &["/networkPolicy/apiServerPorts"],
    ),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_value_is_refused_with_its_path() {
    let cluster = shared().await;
    for (values, words) in TABLE {
        let error = render(cluster, "refused", values).await.err();
        let error = error.unwrap_or_else(|| panic!("{values} was taken"));
        let message = format!("{error:#}");
        for word in *words {
            assert!(
                message.contains(word),
                "{values}: no {word:?} in: {message}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kubernetes_that_is_too_old_is_refused() {
    let chart = super::chart().display().to_string();
    let arguments = ["template", "a", &chart, "--kube-version", "1.29.9"];
    let output = run_helm(shared().await, &arguments).await.unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(words.contains(">=1.30.0"), "{words}");
    let arguments = ["template", "a", &chart, "--kube-version", "1.30.2-vendor.1"];
    let output = run_helm(shared().await, &arguments).await.unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words}");
}

/// As a dependency of another chart, Helm adds values of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_can_be_a_part_of_another_chart() {
    let parent = tempfile::tempdir().unwrap();
    let chart = super::chart();
    let metadata = format!(
        "{{apiVersion: v2, name: parent, version: 1.0.0, dependencies: [{{name: mcp-operator, version: '*', \
         repository: 'file://{}', condition: mcp-operator.enabled}}]}}",
        chart.display()
    );
    std::fs::write(parent.path().join("Chart.yaml"), metadata).unwrap();
    let folder = parent.path().display().to_string();
    let values =
        values_file("{global: {a: b}, mcp-operator: {enabled: true, replicas: 3}}").unwrap();
    let values = values.path().display().to_string();
    let cluster = shared().await;
    super::helm(cluster, &["dependency", "update", &folder])
        .await
        .unwrap();
    let rendered = super::helm(cluster, &["template", "all", &folder, "-f", &values])
        .await
        .unwrap();
    assert!(
        rendered.contains("name: \"all-mcp-operator-webhook\""),
        "{rendered}"
    );
    assert!(rendered.contains("replicas: 3"), "{rendered}");
}

/// Helm takes dots in the name of a release, and digits at its begin; a Service takes neither.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_may_have_dots_in_its_name_and_no_digit_first() {
    let cluster = shared().await;
    let chart = super::chart().display().to_string();
    let rendered = super::helm(cluster, &["template", "team.a", &chart]).await;
    let rendered = rendered.unwrap();
    assert!(rendered.contains("name: \"team-a-mcp-operator-webhook\""));
    assert!(!rendered.contains("team.a-"), "{rendered}");
    let output = run_helm(cluster, &["template", "1a", &chart])
        .await
        .unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(
        words.contains("1a") && words.contains("fullnameOverride"),
        "{words}"
    );
    let named = ["template", "1a", &chart, "--set", "fullnameOverride=a"];
    super::helm(cluster, &named).await.unwrap();
}
