//! The arguments.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use webhook::TlsVersions;

use crate::api::{go_duration, names};

/// Runs Model Context Protocol servers on Kubernetes.
#[derive(Debug, Parser)]
#[command(version, about)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the operator: the controller and the admission webhooks
    Run(Box<RunArgs>),
    /// Print the CustomResourceDefinition (apply it before the operator starts)
    Crd,
    /// Print the webhook configurations (apply them; the operator fills in their caBundle)
    Webhooks(WebhooksArgs),
    /// Check a running operator by dry runs: a valid MCPServer must be accepted, a faulty one refused
    Check(CheckArgs),
    /// Check MCPServers in YAML files, without a cluster
    Validate {
        /// Files of one or more documents; standard input when none is given, or for "-"
        files: Vec<PathBuf>,
    },
}

/// Arguments of `check`.
#[derive(Args, Clone, Debug)]
pub struct CheckArgs {
    /// Kubeconfig of the cluster; by default $KUBECONFIG, ~/.kube/config or the pod's own account
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,

    /// Namespace of the MCPServers that are sent; by default the kubeconfig's or the pod's
    #[arg(long, value_parser = namespace)]
    pub namespace: Option<String>,

    /// Label of the MCPServers that are sent, for webhooks with an objectSelector; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = label)]
    pub label: Vec<(String, String)>,
}

/// Arguments of `run`.
#[derive(Args, Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub struct RunArgs {
    /// Kubeconfig of the cluster; by default $KUBECONFIG, ~/.kube/config or the pod's own account
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,

    /// Namespace of the operator's own objects; by default the kubeconfig's or the pod's
    #[arg(long, env = "POD_NAMESPACE", value_parser = namespace)]
    pub namespace: Option<String>,

    /// Namespace whose MCPServers are reconciled; may be repeated; all namespaces by default
    #[arg(long, value_name = "NAMESPACE", value_parser = namespace)]
    pub watch_namespace: Vec<String>,

    /// DNS domain of the cluster, in which Services are found
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local", value_parser = domain)]
    pub cluster_domain: String,

    /// Set no user in the pods of servers by default, because the cluster gives each namespace's pods theirs and refuses any
    /// other, as OpenShift does
    #[arg(long)]
    pub openshift: bool,

    /// Address of /healthz, /readyz and /metrics (plain HTTP)
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:8080")]
    pub http_address: SocketAddr,

    /// Address of /metrics over TLS, with the webhooks' certificate, in place of --http-address. It is shown to who sends the
    /// token of a user of this cluster that may get the nonResourceURL /metrics
    #[arg(long, value_name = "ADDRESS", conflicts_with = "no_webhooks")]
    pub metrics_address: Option<SocketAddr>,

    /// Serve no webhooks, and look after no certificate. What no schema refuses is then refused by nobody: the status says what
    /// is wrong
    #[arg(long, conflicts_with_all = [
        "webhook_address", "tls_min_version", "webhook_host", "webhook_configuration", "ca_secret", "ca_life",
        "certificate_life", "ca_settle", "certificate_folder", "trust_creators",
    ])]
    pub no_webhooks: bool,

    /// Run as one of several replicas: all of them answer admission, only the one that holds the Lease
    /// reconciles. Without this flag there must be a single replica
    #[arg(long)]
    pub leader_elect: bool,

    /// The Lease, in the operator's namespace
    #[arg(
        long,
        value_name = "NAME",
        default_value = "mcp-operator",
        value_parser = object_name,
        requires = "leader_elect"
    )]
    pub lease: String,

    /// How long the Lease stays with a leader that has died, in whole seconds
    #[arg(long, value_name = "DURATION", default_value = "15s", value_parser = lease_duration, requires = "leader_elect")]
    pub lease_duration: Duration,

    /// Address the webhooks listen on (HTTPS; /healthz and /readyz too)
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:9443")]
    pub webhook_address: SocketAddr,

    /// The lowest version of TLS that the webhooks take; 1.2 is for a proxy in between that does not speak 1.3
    #[arg(long, value_enum, value_name = "VERSION", default_value_t = TlsVersion::Tls13)]
    pub tls_min_version: TlsVersion,

    /// Host name or IP address by which the API server calls the webhooks; may be repeated; by default
    /// localhost, 127.0.0.1 and mcp-operator-webhook.<NAMESPACE>.svc
    #[arg(long, value_name = "HOST", value_parser = host)]
    pub webhook_host: Vec<String>,

    /// Name of both webhook configurations
    #[arg(long, value_name = "NAME", default_value = "mcp-operator", value_parser = object_name)]
    pub webhook_configuration: String,

    /// Secret of the operator's namespace that holds the CA of the webhooks; shared by replicas
    #[arg(long, value_name = "NAME", default_value = "mcp-operator-webhook-ca", value_parser = object_name)]
    pub ca_secret: String,

    /// How long a new CA is valid; it is replaced after two thirds of that
    #[arg(long, value_name = "DURATION", default_value = "8760h", value_parser = duration)]
    pub ca_life: Duration,

    /// How long a new certificate of that CA is valid; each replica has its own, and renews it after two
    /// thirds of that
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = duration)]
    pub certificate_life: Duration,

    /// How long a new CA must be in the caBundles before a certificate of it is served
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration)]
    pub ca_settle: Duration,

    /// Do not ask what the creator of an MCPServer may do: whoever may create one gets what the operator can make of it,
    /// such as pods with any account and any Secret of the namespace
    #[arg(long)]
    pub trust_creators: bool,

    /// Serve tls.crt and tls.key of this folder instead, and write no Secret and no caBundle; changed
    /// files are loaded without a restart
    #[arg(
        long,
        value_name = "FOLDER",
        conflicts_with_all = ["ca_secret", "ca_life", "certificate_life", "ca_settle", "webhook_host"],
    )]
    pub certificate_folder: Option<PathBuf>,

    /// Seconds between becoming not ready and closing the listener, for endpoints to be updated
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    pub drain_seconds: u64,

    /// Format of the log lines
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,

    /// What is logged: error, warn, info, debug, trace, or a filter such as `mcp_operator=debug`
    #[arg(
        long,
        value_name = "FILTER",
        env = "RUST_LOG",
        default_value = "info,kube_runtime=warn,kube_client=warn"
    )]
    pub log: String,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TlsVersion {
    /// TLS 1.2
    #[value(name = "1.2")]
    Tls12,
    /// TLS 1.3
    #[value(name = "1.3")]
    Tls13,
}

impl From<TlsVersion> for TlsVersions {
    fn from(lowest: TlsVersion) -> Self {
        match lowest {
            TlsVersion::Tls12 => Self::Tls12And13,
            TlsVersion::Tls13 => Self::Tls13,
        }
    }
}

/// Format of the log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people
    Text,
    /// One JSON object per line
    Json,
}

/// Arguments of `webhooks`.
#[derive(Args, Clone, Debug)]
#[group(required = true, multiple = false, id = "reach", args = ["url", "service"])]
pub struct WebhooksArgs {
    /// For an operator out of the cluster: https://HOST:PORT of --webhook-address
    #[arg(long, value_name = "URL", value_parser = https)]
    pub url: Option<String>,

    /// For an operator in the cluster: its Service (port 443)
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = namespaced)]
    pub service: Option<(String, String)>,

    /// Name of both configurations
    #[arg(long, default_value = "mcp-operator")]
    pub name: String,
}

fn object_name(text: &str) -> Result<String, String> {
    if names::is_dns1123_subdomain(text) {
        Ok(text.to_owned())
    } else {
        Err(names::DNS_1123.to_owned())
    }
}

fn namespace(text: &str) -> Result<String, String> {
    if names::is_dns1123_subdomain(text) && !text.contains('.') && text.len() <= 63 {
        Ok(text.to_owned())
    } else {
        Err(
            "must be a namespace's name: at most 63 lower case letters, digits and '-', starting and ending \
             with a letter or digit"
                .to_owned(),
        )
    }
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    if !names::is_qualified_name(key) {
        return Err(format!("its key {key:?} {}", names::QUALIFIED_NAME));
    }
    if !names::is_label_value(value) {
        return Err(format!("its value {value:?} {}", names::LABEL_VALUE));
    }
    Ok((key.to_owned(), value.to_owned()))
}

fn host(text: &str) -> Result<String, String> {
    if text.parse::<IpAddr>().is_ok() || names::is_dns1123_subdomain(text) {
        Ok(text.to_owned())
    } else {
        Err("must be a host name or an IP address, without scheme and port".to_owned())
    }
}

fn domain(text: &str) -> Result<String, String> {
    if names::is_dns1123_subdomain(text) {
        Ok(text.to_owned())
    } else {
        Err("must be a DNS domain such as cluster.local, without a dot at its ends".to_owned())
    }
}

fn lease_duration(text: &str) -> Result<Duration, String> {
    let duration = duration(text)?;
    // The Lease holds whole seconds, in 32 bits.
    if duration.subsec_nanos() != 0 || !(2..=86_400).contains(&duration.as_secs()) {
        return Err("expected whole seconds, from 2s to 24h".to_owned());
    }
    Ok(duration)
}

fn https(text: &str) -> Result<String, String> {
    let url = url::Url::parse(text).map_err(|error| error.to_string())?;
    if url.scheme() != "https" || url.host().is_none() {
        return Err("the API server calls webhooks by https://HOST:PORT only".to_owned());
    }
    Ok(text.to_owned())
}

fn namespaced(text: &str) -> Result<(String, String), String> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() => {
            Ok((namespace.to_owned(), name.to_owned()))
        }
        _ => Err("expected NAMESPACE/NAME".to_owned()),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    match go_duration::parse(text).map(u64::try_from) {
        Some(Ok(nanos)) => Ok(Duration::from_nanos(nanos)),
        Some(Err(_)) => Err("it must not be negative".to_owned()),
        None => Err("expected a duration such as 90s, 24h or 1h30m".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<RunArgs, String> {
        let all = ["mcp-operator", "run"].iter().chain(arguments);
        match Cli::try_parse_from(all) {
            Ok(Cli {
                command: Command::Run(args),
            }) => Ok(*args),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn durations_are_read_as_go_reads_them() {
        let args = parse(&["--ca-life", "1h30m", "--certificate-life", "1.5s"]).unwrap();
        assert_eq!(args.ca_life, Duration::from_mins(90));
        assert_eq!(args.certificate_life, Duration::from_millis(1500));
        for wrong in ["1", "one day", "-5s", "1d", ""] {
            let argument = format!("--ca-life={wrong}");
            let error = parse(&[&argument]).unwrap_err();
            assert!(error.contains("--ca-life"), "{wrong:?}: {error}");
        }
    }

    #[test]
    fn tls_1_2_is_taken_only_when_it_is_asked_for() {
        for (arguments, expected) in [
            (&[][..], TlsVersions::Tls13),
            (&["--tls-min-version", "1.3"], TlsVersions::Tls13),
            (&["--tls-min-version", "1.2"], TlsVersions::Tls12And13),
        ] {
            let versions = TlsVersions::from(parse(arguments).unwrap().tls_min_version);
            assert_eq!(versions, expected, "{arguments:?}");
        }
        let error = parse(&["--tls-min-version", "1.1"]).unwrap_err();
        assert!(error.contains("1.2, 1.3"), "{error}");
    }

    #[test]
    fn a_folder_of_certificates_leaves_nothing_to_sign() {
        let args = parse(&["--certificate-folder", "/tls"]).unwrap();
        assert_eq!(args.certificate_folder, Some("/tls".into()));
        for other in [
            "--ca-secret=a",
            "--ca-life=1h",
            "--certificate-life=1h",
            "--ca-settle=1s",
        ] {
            let error = parse(&["--certificate-folder", "/tls", other]).unwrap_err();
            assert!(error.contains("cannot be used with"), "{other}: {error}");
        }
    }

    #[test]
    fn a_name_that_no_object_can_have_is_refused_with_its_flag() {
        for (flag, good, wrong) in [
            ("--namespace", "team-a", ["", "Team", "a.b"]),
            ("--watch-namespace", "team-a", ["", "a,b", "a/b"]),
            ("--webhook-configuration", "a.b", ["", "a_b", "a/b"]),
            ("--ca-secret", "a", ["", "A", "a "]),
            ("--lease", "a", ["", "a:b", "-"]),
            ("--webhook-host", "10.0.0.1", ["", "https://a", "a:9443"]),
            ("--webhook-host", "::1", ["", "[::1]", "*"]),
            ("--cluster-domain", "a.example", ["", ".a", "a."]),
        ] {
            let parse = |value: &str| parse(&["--leader-elect", &format!("{flag}={value}")]);
            assert!(parse(good).is_ok(), "{flag}={good}");
            for value in wrong {
                let error = parse(value).unwrap_err();
                assert!(
                    error.contains(flag) && error.contains("must be"),
                    "{value:?}: {error}"
                );
            }
        }
    }

    #[test]
    fn a_label_is_a_key_and_a_value() {
        let parse = |label: &str| {
            let argument = format!("--label={label}");
            match Cli::try_parse_from(["mcp-operator", "check", "--label=a=b", &argument]) {
                Ok(Cli {
                    command: Command::Check(args),
                }) => Ok(args.label[1].clone()),
                Ok(other) => panic!("{other:?}"),
                Err(error) => Err(error.to_string()),
            }
        };
        for (label, key, value) in [
            ("example.com/a=B.c", "example.com/a", "B.c"),
            ("a=", "a", ""),
        ] {
            assert_eq!(parse(label), Ok((key.to_owned(), value.to_owned())));
        }
        for (label, why) in [
            ("a", "expected KEY=VALUE"),
            ("", "expected KEY=VALUE"),
            ("=b", "its key \"\" must be"),
            ("a b=c", "its key \"a b\" must be"),
            ("a=b=c", "its value \"b=c\" must be"),
        ] {
            let error = parse(label).unwrap_err();
            let named = error.contains(&format!("'{label}' for '--label"));
            assert!(
                (named || label.is_empty()) && error.contains(why),
                "{label:?}: {error}"
            );
        }
    }
}
