//! What the chart renders, held against the API server, the operator and the generated CRD.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use clap::Parser as _;
use cluster::{Cluster, tools};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, PostParams};
use mcp_operator::cli::Cli;
use serde_json::{Value, json};

use super::{chart, find, helm, objects, of_kind, read, render, shared};
use crate::setup;

/// The kinds of the Prometheus operator that the chart has objects of.
const MONITORING: [&str; 3] = ["servicemonitors", "podmonitors", "prometheusrules"];
/// Nothing verifies by it.
const CERTIFICATE: &str = include_str!("certificate.pem");

/// Values, what then has to be in the output, and what must not.
struct Case {
    about: &'static str,
    values: &'static str,
    present: &'static [&'static str],
    absent: &'static [&'static str],
    /// Whether its pods pass Pod Security "restricted".
    restricted: bool,
}

const CASE: Case = Case {
    about: "as it comes",
    values: "{}",
    present: &[],
    absent: &[],
    restricted: true,
};

const CASES: &[Case] = &[
    Case {
        present: &[
            "replicas: 2",
            "kind: PodDisruptionBudget",
            "kind: NetworkPolicy",
            "subjectaccessreviews",
            "MALLOC_MMAP_THRESHOLD_",
            "--ca-secret",
            "helm.sh/resource-policy: keep",
            "whenUnsatisfiable: ScheduleAnyway",
            "rollingUpdate:\n      maxUnavailable: 0\n      maxSurge: 1\n",
            "name: \"mcp-operator-metrics\"",
        ],
        absent: &[
            "caBundle",
            "inject-ca-from",
            "--certificate-folder",
            "kind: Certificate\n",
            "--trust-creators",
            "Egress",
            "monitoring.coreos.com",
            "grafana",
            "--watch-namespace",
            "priorityClassName",
        ],
        ..CASE
    },
    Case {
        about: "cert-manager with a CA of the chart's",
        values: "{certificates: {mode: cert-manager}}",
        present: &[
            "cert-manager.io/inject-ca-from: rendered/mcp-operator-webhook",
            "--certificate-folder",
            "secretName: \"mcp-operator-webhook-tls\"",
            "isCA: true",
            "rotationPolicy: Never",
            "mcp-operator-webhook.rendered.svc",
        ],
        absent: &["caBundle", "--ca-secret", "--webhook-host", "secrets]"],
        ..CASE
    },
    Case {
        about: "cert-manager with another issuer",
        values: "{certificates: {mode: cert-manager, certManager: {issuerRef: {name: ours, kind: ClusterIssuer}, \
                 duration: 1h, renewBefore: 20m}}}",
        present: &["kind: ClusterIssuer", "name: \"ours\"", "duration: 1h"],
        absent: &["isCA", "kind: Issuer\nmetadata", "selfSigned"],
        ..CASE
    },
    Case {
        about: "an existing Secret, trusted by PEM",
        values: "{certificates: {mode: existing-secret, existingSecret: {name: ours, caBundle: PEM}}}",
        present: &[
            "caBundle: LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0t",
            "secretName: \"ours\"",
        ],
        absent: &["--ca-secret", "inject-ca-from"],
        ..CASE
    },
    Case {
        about: "an existing Secret, trusted by base64",
        values: "{certificates: {mode: existing-secret, existingSecret: {name: ours, caBundle: BASE64}}}",
        present: &["caBundle: LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0t"],
        absent: &[],
        ..CASE
    },
    Case {
        about: "an existing Secret, trusted by somebody else's injection",
        values: "{certificates: {mode: existing-secret, existingSecret: {name: ours}}, webhook: {annotations: \
                 {service.beta.openshift.io/inject-cabundle: 'true'}, serviceAnnotations: \
                 {service.beta.openshift.io/serving-cert-secret-name: ours}}}",
        present: &[
            "service.beta.openshift.io/inject-cabundle: \"true\"",
            "serving-cert-secret-name: ours",
        ],
        absent: &["caBundle"],
        ..CASE
    },
    Case {
        about: "creators that are trusted",
        values: "{trustCreators: true}",
        present: &["--trust-creators"],
        absent: &["subjectaccessreviews"],
        ..CASE
    },
    Case {
        about: "named namespaces",
        values: "{watch: {namespaces: [rendered, rendered-other]}}",
        present: &["--watch-namespace", "namespace: \"rendered-other\""],
        absent: &[],
        ..CASE
    },
    Case {
        about: "everything on",
        values: "{commonLabels: {team: platform}, imagePullSecrets: [{name: pull}], image: {digest: \
                 'sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef'}, \
                 tolerations: [{key: a, operator: Exists}], affinity: {nodeAffinity: \
                 {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: a, \
                 operator: Exists}]}]}}}, priorityClassName: system-cluster-critical, podLabels: {pod: label}, \
                 podAnnotations: {pod: annotation}, deploymentAnnotations: {a: b}, podDisruptionBudget: \
                 {minAvailable: 50%}, log: {format: text, level: debug}, extraArgs: ['--ca-settle', 30s], \
                 extraEnv: [{name: A, value: b}], serviceAccount: {name: other, annotations: {a: b}}, webhook: \
                 {failurePolicy: Ignore, timeoutSeconds: 10, namespaceSelector: {matchLabels: {mcp: 'true'}}, \
                 objectSelector: {matchExpressions: [{key: skip, operator: DoesNotExist}]}}, metrics: {service: \
                 {labels: {a: b}, annotations: {a: b}}, serviceMonitor: {enabled: true, labels: {release: \
                 prometheus}, annotations: {a: b}, relabelings: [{action: labeldrop, regex: pod}], \
                 metricRelabelings: [{action: labeldrop, regex: pod}]}}, prometheusRule: {enabled: true, labels: \
                 {a: b}, annotations: {a: b}, certificateExpiry: {serving: 60, ca: 1000000000}}, dashboard: \
                 {enabled: true, annotations: {folder: mcp}}, networkPolicy: {egress: true, metricsFrom: \
                 [{namespaceSelector: {matchLabels: {name: monitoring}}}], webhookFrom: [{ipBlock: {cidr: \
                 10.0.0.0/8}}]}, tests: {labels: {a.example.com/mcp: 'true'}}}",
        present: &[
            "@sha256:0123456789abcdef",
            "--label\n        - \"a.example.com/mcp=true\"",
            "serviceAccountName: \"other\"",
            "minAvailable: 50%",
            "grafana_dashboard: \"1\"",
            "release: prometheus",
            "team: platform",
            "- time() < 1000000000",
            "failurePolicy: Ignore",
            "priorityClassName: \"system-cluster-critical\"",
        ],
        absent: &["failurePolicy: Fail", "maxUnavailable: 1", "mcp-operator:0"],
        ..CASE
    },
    Case {
        about: "what other charts can, too",
        values: "{revisionHistoryLimit: 3, hostAliases: [{ip: 192.0.2.1, hostnames: [api.example.com]}], volumes: \
                 [{name: scratch, emptyDir: {}}], volumeMounts: [{name: scratch, mountPath: /scratch}], certificates: \
                 {mode: cert-manager}, metrics: {serviceMonitor: {enabled: true, namespace: rendered-other, interval: \
                 1m, scrapeTimeout: 1m, honorLabels: true}}, extraObjects: [{apiVersion: v1, kind: ConfigMap, \
                 metadata: {name: '{{ .Release.Name }}-extra', namespace: rendered}}, \"apiVersion: v1\\nkind: \
                 ConfigMap\\nmetadata:\\n  namespace: rendered\\n  name: {{ include `mcp-operator.fullname` . }}-text\"]}",
        present: &[
            "revisionHistoryLimit: 3",
            "- api.example.com",
            "mountPath: /scratch",
            "mountPath: /etc/mcp-operator/certificates",
            "emptyDir: {}",
            "secretName: \"mcp-operator-webhook-tls\"",
            "kind: ServiceMonitor\nmetadata:\n  name: \"mcp-operator\"\n  namespace: \"rendered-other\"\n",
            "scrapeTimeout: 1m",
            "honorLabels: true",
            "matchNames: [\"rendered\"]",
            "name: 'mcp-operator-extra'",
            "name: mcp-operator-text",
        ],
        absent: &[],
        ..CASE
    },
    Case {
        about: "another namespace than the release's",
        values: "{namespaceOverride: rendered-other, serviceAccount: {create: false}, metrics: {serviceMonitor: \
                 {enabled: true}}, prometheusRule: {enabled: true}, dashboard: {enabled: true}}",
        present: &[
            "mcp-operator-webhook.rendered-other.svc",
            "matchNames: [\"rendered-other\"]",
            "namespace=\"rendered-other\"",
        ],
        absent: &["\"rendered\"", "rendered.svc", "-n rendered "],
        ..CASE
    },
    Case {
        about: "a mirror for all charts of a release, and its Secret",
        values: "{global: {imageRegistry: 'mirror.example.com:5000', imagePullSecrets: [{name: mirror}, {name: ours}]}, \
                 imagePullSecrets: [{name: ours}]}",
        present: &[
            "image: mirror.example.com:5000/mcp-operator/mcp-operator:",
            "imagePullSecrets:\n        - name: ours\n        - name: mirror\n      serviceAccountName",
            "imagePullSecrets:\n    - name: ours\n    - name: mirror\n  serviceAccountName",
        ],
        absent: &["registry.example.com"],
        ..CASE
    },
    Case {
        about: "a mirror for a repository without a registry",
        values: "{global: {imageRegistry: mirror.example.com/}, image: {repository: mcp-operator}}",
        present: &["image: mirror.example.com/mcp-operator:"],
        absent: &[],
        ..CASE
    },
    Case {
        about: "pods as they are wanted",
        values: "{dnsConfig: {options: [{name: ndots, value: '1'}]}, hostUsers: false, initContainers: [{name: first, \
                 image: x, securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}}], \
                 extraContainers: [{name: beside, image: x, securityContext: {allowPrivilegeEscalation: false, \
                 capabilities: {drop: [ALL]}}}], ipFamilyPolicy: PreferDualStack, ipFamilies: [IPv4]}",
        present: &[
            "hostUsers: false",
            "name: ndots",
            "ipFamilyPolicy: PreferDualStack\n  ipFamilies: [\"IPv4\"]",
        ],
        absent: &["runtimeClassName"],
        ..CASE
    },
    Case {
        about: "metrics over TLS, by the operator's own CA",
        values: "{metrics: {secure: true, serviceMonitor: {enabled: true}}}",
        present: &[
            "--metrics-address",
            "- \"mcp-operator-metrics.rendered.svc\"",
            "tokenreviews",
            "nonResourceURLs",
            "scheme: https",
            "name: mcp-operator-webhook-ca\n            key: ca.crt",
            "- port: metrics\n          protocol: TCP",
        ],
        absent: &["port: http\n      path: /metrics"],
        ..CASE
    },
    Case {
        about: "metrics of the pods over TLS, by cert-manager's CA, while creators are trusted",
        values: "{certificates: {mode: cert-manager}, trustCreators: true, metrics: {secure: true, enabled: false, authorization: \
                 {credentials: {name: token, key: token}}, podMonitor: {enabled: true, relabelings: [{action: labeldrop, regex: pod}]}}}",
        present: &[
            "kind: PodMonitor",
            "    - mcp-operator-metrics.rendered.svc",
            "name: mcp-operator-webhook-tls\n            key: ca.crt",
            "replacement: mcp-operator-metrics",
            "credentials:",
            "subjectaccessreviews",
        ],
        absent: &[
            "kind: ServiceMonitor",
            "component: metrics",
            "bearerTokenFile",
        ],
        ..CASE
    },
    Case {
        about: "metrics over TLS, verified as one says",
        values: "{certificates: {mode: existing-secret, existingSecret: {name: ours, caBundle: PEM}}, metrics: {secure: \
                 true, tlsConfig: {serverName: ours.example.com}, serviceMonitor: {enabled: true}}}",
        present: &["tlsConfig:\n        serverName: ours.example.com\n"],
        absent: &["ca.crt"],
        ..CASE
    },
    Case {
        about: "OpenShift, and another domain of the cluster",
        values: "{operator: {openshift: true, clusterDomain: k8s.example.org}}",
        present: &["--openshift", "- \"k8s.example.org\"", "runAsNonRoot: true"],
        absent: &["runAsUser: 65532", "runAsGroup: 65532"],
        ..CASE
    },
    Case {
        about: "no webhooks",
        values: "{webhook: {enabled: false}, prometheusRule: {enabled: true}}",
        present: &["--no-webhooks", "kind: NetworkPolicy"],
        absent: &[
            "WebhookConfiguration",
            "mcp-operator-webhook",
            "--webhook",
            "port: https",
            "secrets",
            "subjectaccessreviews",
            "mcp-operator-test",
            "McpOperatorCertificate",
            "McpOperatorAdmission",
        ],
        ..CASE
    },
    Case {
        about: "everything off",
        values: "{replicas: null, podDisruptionBudget: {enabled: false}, topologySpreadConstraints: [], nodeSelector: \
                 null, resources: null, rbac: {create: false, aggregate: false}, serviceAccount: {create: false}, \
                 crds: {install: false}, metrics: {enabled: false}}",
        present: &["serviceAccountName: \"default\""],
        absent: &[
            "replicas:",
            "PodDisruptionBudget",
            "kind: ClusterRole",
            "CustomResourceDefinition",
            "mcp-operator-metrics",
            "topologySpread",
            "nodeSelector",
        ],
        ..CASE
    },
    Case {
        about: "short lives, and a filter of the log",
        values: "{certificates: {selfSigned: {caLife: 1h30m, life: 30m}}, leaderElection: {leaseDuration: 0.5h}, log: \
                 {level: 'warn,mcp_operator::controller=debug,[reconcile{namespace=a}]=trace'}, extraArgs: \
                 [--webhook-host=localhost]}",
        present: &["mcp_operator::controller=debug,[reconcile"],
        absent: &[],
        ..CASE
    },
    Case {
        about: "spread by other labels than the pods' own",
        values: "{topologySpreadConstraints: [{maxSkew: 1, topologyKey: zone, whenUnsatisfiable: DoNotSchedule, \
                 labelSelector: {matchLabels: {ours: spread}}}, {maxSkew: 2, topologyKey: zone, whenUnsatisfiable: \
                 ScheduleAnyway}]}",
        present: &[
            "matchLabels:\n              ours: spread\n          maxSkew: 1\n",
            "app.kubernetes.io/name: mcp-operator\n          maxSkew: 2\n",
        ],
        absent: &[],
        ..CASE
    },
    Case {
        about: "an autoscaler",
        values: "{autoscaling: {enabled: true, targetMemoryUtilizationPercentage: 70}}",
        present: &["kind: HorizontalPodAutoscaler", "averageUtilization: 70"],
        absent: &["\n  replicas:"],
        ..CASE
    },
    Case {
        about: "the nodes' network, IPv6 only",
        values: "{hostNetwork: true, bindAddress: '::', webhook: {port: 10250}, http: {port: 10251}}",
        present: &[
            "\"[::]:10250\"",
            "dnsPolicy: ClusterFirstWithHostNet",
            "containerPort: 10251",
            // A new pod needs the ports of an old one.
            "rollingUpdate:\n      maxUnavailable: 1\n      maxSurge: 0\n",
        ],
        absent: &["9443"],
        restricted: false,
    },
    Case {
        about: "the nodes' network, with a node to spare",
        values: "{hostNetwork: true, updateStrategy: {rollingUpdate: {maxUnavailable: 0, maxSurge: 25%}}}",
        present: &["rollingUpdate:\n      maxUnavailable: 0\n      maxSurge: 25%\n"],
        absent: &[],
        restricted: false,
    },
    Case {
        about: "one replica, never two",
        values: "{replicas: 1, updateStrategy: {type: Recreate}, fullnameOverride: other, crds: {keep: false}, \
                 podDisruptionBudget: {maxUnavailable: 0}}",
        present: &[
            "type: Recreate",
            "other-webhook.rendered.svc",
            "maxUnavailable: 0",
        ],
        absent: &["type: RollingUpdate", "maxSurge: 1", "resource-policy"],
        ..CASE
    },
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn helm_finds_no_fault() -> Result<()> {
    let chart = chart().display().to_string();
    helm(shared().await, &["lint", "--strict", &chart]).await?;
    Ok(())
}

/// The kinds that the chart may use, and the namespaces that it is rendered for.
async fn prepare(cluster: &Cluster) -> Result<()> {
    let kinds = tools::build(&tools::CERT_MANAGER)
        .await?
        .join(tools::CERT_MANAGER_KINDS);
    let kinds = kinds.display().to_string();
    kubectl(cluster, &["apply", "--server-side", "-f", &kinds], "")?;
    let others = tools::build(&tools::KINDS).await?;
    for kind in MONITORING {
        let file = format!("prometheus-operator/monitoring.coreos.com_{kind}.yaml");
        let file = others.join(file).display().to_string();
        kubectl(cluster, &["apply", "--server-side", "-f", &file], "")?;
    }
    let namespaces = Api::<Namespace>::all(cluster.new_client().await?);
    for name in ["rendered", "rendered-other"] {
        // What would break the rule is refused there.
        let labels = json!({"pod-security.kubernetes.io/enforce": "restricted"});
        let namespace = json!({"metadata": {"name": name, "labels": labels}});
        let namespace = serde_json::from_value(namespace)?;
        namespaces
            .create(&PostParams::default(), &namespace)
            .await?;
    }
    for kind in [
        "certificates.cert-manager.io",
        "podmonitors.monitoring.coreos.com",
        "prometheusrules.monitoring.coreos.com",
    ] {
        let kind = format!("crd/{kind}");
        kubectl(
            cluster,
            &[
                "wait",
                "--for=condition=Established",
                "--timeout=60s",
                &kind,
            ],
            "",
        )?;
    }
    Ok(())
}

fn with_certificate(values: &str) -> String {
    let base64 = json!(ByteString(CERTIFICATE.into())).to_string();
    let values = values.replace("BASE64", &base64);
    values.replace("PEM", &json!(CERTIFICATE).to_string())
}

fn kubectl(cluster: &Cluster, arguments: &[&str], input: &str) -> Result<()> {
    let output = setup::kubectl(cluster, arguments, input)?;
    let words = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "kubectl {arguments:?}: {words}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_api_server_takes_every_object_of_every_combination() -> Result<()> {
    let cluster = shared().await;
    prepare(cluster).await?;
    let pods = Api::<Pod>::namespaced(cluster.new_client().await?, "rendered");
    for case in CASES {
        let about = case.about;
        let values = with_certificate(case.values);
        let text = render(cluster, "rendered", &values).await.context(about)?;
        for present in case.present {
            assert!(text.contains(present), "{about}: no {present:?} in: {text}");
        }
        for absent in case.absent {
            assert!(!text.contains(absent), "{about}: {absent:?} in: {text}");
        }
        let objects = objects(cluster, "rendered", &values).await?;
        // Pods are refused without their account, so these are made for real.
        for account in of_kind(&objects, "ServiceAccount") {
            let account = account.to_string();
            kubectl(cluster, &["apply", "-f", "-"], &account).context(about)?;
        }
        let dry_run = ["apply", "--dry-run=server", "--validate=strict", "-f", "-"];
        kubectl(cluster, &dry_run, &text).context(about)?;

        let name = if values.contains("fullnameOverride") {
            "other"
        } else {
            "mcp-operator"
        };
        let template = &find(&objects, "Deployment", name)["spec"]["template"];
        let mut pod = template.clone();
        pod["metadata"]["name"] = json!("tried");
        let parameters = PostParams {
            dry_run: true,
            ..PostParams::default()
        };
        let created = pods
            .create(&parameters, &serde_json::from_value(pod)?)
            .await;
        match created {
            Ok(_) => assert!(
                case.restricted,
                "{about}: refused by Pod Security was expected"
            ),
            Err(error) => {
                let words = error.to_string();
                let by_pod_security = words.contains("violates PodSecurity");
                assert!(!case.restricted && by_pod_security, "{about}: {words}");
            }
        }
    }
    Ok(())
}

/// The arguments of a command of the operator, as a pod of the chart gives them.
fn arguments(pod: &Value) -> Result<Cli> {
    let arguments = pod["containers"][0]["args"].as_array();
    let arguments = arguments.into_iter().flatten().filter_map(Value::as_str);
    Ok(Cli::try_parse_from(
        std::iter::once("mcp-operator").chain(arguments),
    )?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_operator_takes_the_arguments_of_every_combination() -> Result<()> {
    for case in CASES {
        let values = with_certificate(case.values);
        let objects = objects(shared().await, "rendered", &values).await?;
        for kind in ["Deployment", "Pod"] {
            let Some(found) = of_kind(&objects, kind).next() else {
                // Without webhooks there is nothing for `helm test` to try.
                ensure!(
                    kind == "Pod" && case.about == "no webhooks",
                    "{}: no {kind}",
                    case.about
                );
                continue;
            };
            let template = found.pointer("/spec/template/spec");
            let pod = template.unwrap_or(&found["spec"]);
            arguments(pod).with_context(|| format!("{}: {kind}", case.about))?;
        }
    }
    Ok(())
}

/// Without what the chart alone adds.
fn bare(mut configuration: Value) -> Value {
    configuration["metadata"] = json!({"name": configuration["metadata"]["name"]});
    configuration
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_webhooks_are_those_that_the_operator_prints() -> Result<()> {
    let mut command = setup::binary();
    command.args(["webhooks", "--service", "rendered/mcp-operator-webhook"]);
    let output = command.output()?;
    ensure!(output.status.success());
    let printed: Vec<Value> = serde_saphyr::from_multiple(std::str::from_utf8(&output.stdout)?)?;
    let rendered = objects(shared().await, "rendered", "{}").await?;
    assert_eq!(printed.len(), 2);
    for configuration in printed {
        let kind = configuration["kind"].as_str().context("no kind")?;
        let name = configuration["metadata"]["name"]
            .as_str()
            .context("no name")?;
        let rendered = find(&rendered, kind, name).clone();
        assert_eq!(bare(rendered), bare(configuration));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_crd_is_the_generated_one() -> Result<()> {
    let generated = read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("config/crd/mcpservers.yaml"));
    let copy = read(&chart().join("files/crd.yaml"));
    assert!(
        copy == generated,
        "run: cp config/crd/mcpservers.yaml charts/mcp-operator/files/crd.yaml"
    );
    let rendered = objects(shared().await, "rendered", "{}").await?;
    let rendered = find(
        &rendered,
        "CustomResourceDefinition",
        "mcpservers.mcp.example.com",
    );
    // As the API server reads them: 1 and 1.0 are one number in a schema.
    let rendered: CustomResourceDefinition = serde_json::from_value(rendered.clone())?;
    let generated: CustomResourceDefinition = serde_saphyr::from_str(&generated)?;
    assert!(rendered.spec == generated.spec, "Helm changed it");
    assert_eq!(rendered.metadata.name, generated.metadata.name);
    Ok(())
}

#[test]
fn its_operator_is_this_one() {
    let metadata: Value = serde_saphyr::from_str(&read(&chart().join("Chart.yaml"))).unwrap();
    assert_eq!(metadata["appVersion"], env!("CARGO_PKG_VERSION"));
}

/// Names stay within 63 characters, and belong to one release.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_are_short_enough_and_begin_alike() -> Result<()> {
    let chart = chart().display().to_string();
    let release = "a-release-whose-name-is-as-long-as-helm-allows-53-abc";
    let arguments = [
        "template",
        release,
        &chart,
        "-n",
        "rendered",
        "--set",
        "certificates.mode=cert-manager",
    ];
    let text = helm(shared().await, &arguments).await?;
    let objects: Vec<Value> = serde_saphyr::from_multiple(&text)?;
    let mut seen = 0;
    for object in objects.iter().filter(|object| !object.is_null()) {
        if object["kind"] == "CustomResourceDefinition" {
            continue;
        }
        let name = object["metadata"]["name"].as_str().context("no name")?;
        assert!(name.len() <= 63, "{name} is too long");
        assert!(name.starts_with("a-release-whose-name"), "{name}");
        seen += 1;
    }
    assert!(seen > 15, "{seen}");
    Ok(())
}

/// The webhooks are asked about objects with these labels only, so the test's have them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_test_makes_what_the_webhooks_are_asked_about() -> Result<()> {
    let selector = "webhook: {objectSelector: {matchLabels: {a.example.com/mcp: 'true', b: ''}}}";
    let table = [
        ("{}".to_owned(), vec![]),
        (
            format!("{{{selector}}}"),
            vec!["--label", "a.example.com/mcp=true", "--label", "b="],
        ),
        (
            format!("{{{selector}, tests: {{labels: {{c: d}}}}}}"),
            vec!["--label", "c=d"],
        ),
    ];
    for (values, labels) in table {
        let values = values.replacen(
            '{',
            "{podAnnotations: {mesh: 'off', helm.sh/hook: other}, podLabels: {e: f},",
            1,
        );
        let objects = objects(shared().await, "rendered", &values).await?;
        let pod = find(&objects, "Pod", "mcp-operator-test");
        let arguments = [&["check", "--namespace", "rendered"], &*labels].concat();
        assert_eq!(pod["spec"]["containers"][0]["args"], json!(arguments));
        let metadata = &pod["metadata"];
        assert_eq!(metadata["annotations"]["mesh"], "off");
        assert_eq!(metadata["annotations"]["helm.sh/hook"], "test");
        assert_eq!(metadata["labels"]["e"], "f");
    }
    Ok(())
}

/// A name may be one that YAML takes for a number, or for something else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_stay_text() -> Result<()> {
    let values = "{watch: {namespaces: ['123', '1e3']}, tests: {namespace: '0x1f'}, serviceAccount: {name: '77'}, \
                  priorityClassName: 'true', certificates: {mode: existing-secret, existingSecret: {name: '88', \
                  caBundle: PEM}}, metrics: {serviceMonitor: {enabled: true, namespace: '99'}}}";
    let objects = objects(shared().await, "456", &with_certificate(values)).await?;
    let mut namespaces = BTreeSet::new();
    for object in &objects {
        let metadata = &object["metadata"];
        assert!(metadata["name"].is_string(), "{metadata}");
        if !metadata["namespace"].is_null() {
            namespaces.insert(metadata["namespace"].as_str().context("no text")?);
        }
    }
    assert_eq!(
        namespaces,
        BTreeSet::from(["123", "1e3", "0x1f", "456", "99"])
    );
    let pod = &find(&objects, "Deployment", "mcp-operator")["spec"]["template"]["spec"];
    assert_eq!(pod["serviceAccountName"], "77");
    assert_eq!(pod["priorityClassName"], "true");
    assert_eq!(pod["volumes"][0]["secret"]["secretName"], "88");
    let arguments = pod["containers"][0]["args"].as_array().context("no args")?;
    assert!(arguments.iter().all(Value::is_string), "{arguments:?}");
    Ok(())
}
