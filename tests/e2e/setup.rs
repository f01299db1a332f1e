//! A cluster with the operator in it, and what tests do there again and again.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use cluster::process::Process;
use cluster::{AuditEntry, Cluster, Options, eventually, shared_with};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, CustomResourceExt, ResourceExt};
use mcp_operator::api::{MCPServer, schema};
use serde_json::{Value, json};

use crate::rbac;

/// The operator's user, by which the audit log is filtered: the account that the chart makes, with its rights.
pub const USER: &str = "system:serviceaccount:mcp-operator-system:mcp-operator";
/// The operator's own namespace.
pub const OWN: &str = "mcp-operator-system";
/// How long a test waits for what ought to come soon. Generous: two cores run everything at once.
pub const SOON: Duration = Duration::from_mins(3);

/// Options of a cluster that knows the kind from the start.
pub fn options() -> Options {
    Options {
        crds: vec![schema::crd().expect("a schema")],
        ..Options::default()
    }
}

/// A kind of namespaced objects.
pub trait Object:
    kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
    + Clone
    + std::fmt::Debug
    + serde::Serialize
    + serde::de::DeserializeOwned
{
}

impl<K> Object for K where
    K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + serde::Serialize
        + serde::de::DeserializeOwned
{
}

/// The binary under test.
pub fn binary() -> Command {
    Command::new(env!("CARGO_BIN_EXE_mcp-operator"))
}

/// An operator in a cluster.
pub struct Operator {
    pub process: Process,
    /// Of the webhooks.
    pub port: u16,
    /// Of health and metrics.
    pub http: u16,
}

/// Starts an operator and does not wait. The port is free when asked for; nobody else is told of it.
pub fn spawn_operator(cluster: &Cluster, name: &str, arguments: &[&str]) -> Result<Operator> {
    let port = free_port()?;
    spawn_operator_at(cluster, name, port, arguments)
}

/// A port that is free now and was given to nobody in this process before.
pub fn free_port() -> Result<u16> {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    loop {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        if GIVEN.lock().expect("no test panics here").insert(port) {
            return Ok(port);
        }
    }
}

pub fn spawn_operator_at(
    cluster: &Cluster,
    name: &str,
    port: u16,
    arguments: &[&str],
) -> Result<Operator> {
    let kubeconfig = cluster.kubeconfig_for(USER, &[])?;
    spawn_operator_as(cluster, name, port, &kubeconfig, arguments)
}

/// One of several: as a user of its name, so that the audit log tells them apart.
pub fn spawn_replica(cluster: &Cluster, name: &str, arguments: &[&str]) -> Result<Operator> {
    let kubeconfig = cluster.kubeconfig_for(name, &["system:masters"])?;
    spawn_operator_as(cluster, name, free_port()?, &kubeconfig, arguments)
}

/// As the user of this kubeconfig.
pub fn spawn_operator_as(
    cluster: &Cluster,
    name: &str,
    port: u16,
    kubeconfig: &Path,
    arguments: &[&str],
) -> Result<Operator> {
    spawn_program(cluster, name, port, kubeconfig, binary(), arguments)
}

/// As this command, which may have an environment.
pub fn spawn_program(
    cluster: &Cluster,
    name: &str,
    port: u16,
    kubeconfig: &Path,
    mut command: Command,
    arguments: &[&str],
) -> Result<Operator> {
    command.args([
        "run",
        "--namespace",
        OWN,
        "--drain-seconds",
        "0",
        "--log-format",
        "json",
        "--kubeconfig",
    ]);
    let http = free_port()?;
    command
        .arg(kubeconfig)
        .arg("--webhook-address")
        .arg(format!("127.0.0.1:{port}"))
        .arg("--http-address")
        .arg(format!("127.0.0.1:{http}"))
        .args(arguments);
    Ok(Operator {
        process: cluster.start_process(name, command)?,
        port,
        http,
    })
}

/// The lines of the operator's log, each a JSON object without a key twice.
pub fn logged(operator: &Operator) -> Result<Vec<serde_json::Value>> {
    let text = std::fs::read_to_string(operator.process.log())?;
    let lines = text.lines().map(|line| {
        let parsed: serde_json::Value = serde_json::from_str(line)?;
        // A key that stands twice is lost in the parsed form.
        ensure!(
            parsed.to_string().len() == line.len(),
            "a key stands twice: {line}"
        );
        Ok(parsed)
    });
    lines.collect()
}

/// Waits until `/readyz` says ok. Blocking: used where no runtime is at hand too.
pub fn wait_ready(operator: &Operator) -> Result<()> {
    let start = std::time::Instant::now();
    let mut last = String::new();
    while start.elapsed() < SOON {
        operator.process.alive()?;
        match crate::wire::get_blocking(operator.port, "/readyz") {
            Ok((200, _)) => return Ok(()),
            Ok((code, text)) => last = format!("{code} {text}"),
            Err(error) => last = format!("{error:#}"),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    bail!("the operator did not become ready within {SOON:?}; /readyz last gave {last}")
}

/// A cluster in which the operator's user has the rights that the chart gives.
pub async fn start() -> Result<Cluster> {
    let cluster = Cluster::start(options()).await?;
    grant(&cluster, &rbac::rules(&[]).await?)?;
    Ok(cluster)
}

/// The same with the operator, ready to answer.
pub async fn start_with(name: &str, arguments: &[&str]) -> Result<(Cluster, Operator)> {
    let cluster = start().await?;
    let operator = spawn_operator(&cluster, name, arguments)?;
    install(&cluster, operator.port)?;
    wait_ready(&operator)?;
    Ok((cluster, operator))
}

/// Nothing that was asked for lacked a right.
pub fn assert_none_forbidden(requests: &[AuditEntry]) {
    let forbidden: Vec<_> = requests
        .iter()
        .filter(|request| request.code == 403)
        .collect();
    assert!(forbidden.is_empty(), "{forbidden:?}");
}

/// Ends a cluster. Fails if the operator, as [`USER`], ever lacked a right in it.
pub async fn stop(cluster: Cluster) -> Result<()> {
    assert_none_forbidden(&cluster.requests_by(USER).await?);
    cluster.stop().await
}

/// Makes the operator's namespace and gives it these rights.
pub fn grant(cluster: &Cluster, rules: &str) -> Result<()> {
    let _ = kubectl(cluster, &["create", "namespace", OWN], "")?;
    put_in_force(cluster, USER, &serde_saphyr::from_multiple::<Value>(rules)?)
}

/// Applies roles and what binds them to this user. Waits until the API server has seen each, and that it is the
/// user's: who asks sooner is refused. Blocking.
pub fn put_in_force(cluster: &Cluster, user: &str, objects: &[Value]) -> Result<()> {
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
    let applied = kubectl(cluster, &["apply", "-f", "-"], &list.to_string())?;
    ensure!(applied.status.success(), "{applied:?}");
    let start = std::time::Instant::now();
    for object in objects {
        let rule = &object["rules"][0];
        // Neither what binds, nor a role for others, which is not bound here.
        if !rule["resources"].is_array() {
            continue;
        }
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
            "spec": {"user": user, "resourceAttributes": {
                "namespace": object["metadata"]["namespace"], "group": rule["apiGroups"][0],
                "resource": rule["resources"][0], "name": rule["resourceNames"][0],
                "verb": rule["verbs"][0],
            }},
        });
        let ask = [
            "create",
            "-f",
            "-",
            "-o",
            "jsonpath={.status.allowed} {.status.reason}",
        ];
        loop {
            let output = kubectl(cluster, &ask, &review.to_string())?;
            if output.stdout.starts_with(b"true") {
                break;
            }
            ensure!(
                start.elapsed() < SOON,
                "not in force after {SOON:?}: {review}: {output:?}"
            );
        }
    }
    Ok(())
}

/// Makes the operator's namespace and registers the webhooks at this port.
pub fn install(cluster: &Cluster, port: u16) -> Result<()> {
    let url = format!("https://127.0.0.1:{port}");
    let manifests = text(binary().args(["webhooks", "--url", &url]).output()?)?;
    let _ = kubectl(cluster, &["create", "namespace", OWN], "")?;
    let applied = kubectl(cluster, &["apply", "-f", "-"], &manifests)?;
    ensure!(
        applied.status.success(),
        "{}",
        String::from_utf8_lossy(&applied.stderr)
    );
    Ok(())
}

fn text(output: Output) -> Result<String> {
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?)
}

/// Runs kubectl with this standard input.
pub fn kubectl(cluster: &Cluster, arguments: &[&str], input: &str) -> Result<Output> {
    use std::io::Write;
    let mut command = cluster.kubectl_command();
    command
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn()?;
    child
        .stdin
        .take()
        .context("no standard input")?
        .write_all(input.as_bytes())?;
    Ok(child.wait_with_output()?)
}

/// What all tests share that need no operator of their own.
pub struct Shared {
    pub cluster: &'static Cluster,
    pub operator: Operator,
}

pub fn shared() -> &'static Shared {
    static SHARED: OnceLock<Shared> = OnceLock::new();
    SHARED.get_or_init(|| {
        let start = || -> Result<Shared> {
            let cluster = shared_with(options)?;
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            grant(cluster, &runtime.block_on(rbac::rules(&[]))?)?;
            let operator = spawn_operator(cluster, "operator", &[])?;
            install(cluster, operator.port)?;
            wait_ready(&operator)?;
            Ok(Shared { cluster, operator })
        };
        // Another thread: a test's runtime must not be blocked for the cluster's.
        std::thread::scope(|scope| scope.spawn(start).join())
            .expect("setting up")
            .expect("setting up")
    })
}

/// A namespace of a test's own.
pub struct Space {
    pub client: Client,
    pub namespace: String,
    kubeconfig: PathBuf,
}

impl Space {
    /// A namespace in the shared cluster.
    pub async fn new(name: &str) -> Self {
        let shared = tokio::task::spawn_blocking(shared)
            .await
            .expect("setting up");
        Self::within(shared.cluster, name).await
    }

    pub async fn within(cluster: &Cluster, name: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let namespace = format!("{name}-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let client = cluster.new_client().await.expect("a client");
        let object: Namespace =
            serde_json::from_value(json!({"metadata": {"name": namespace}})).unwrap();
        Api::<Namespace>::all(client.clone())
            .create(&PostParams::default(), &object)
            .await
            .expect("a namespace");
        let space = Self {
            client,
            namespace,
            kubeconfig: cluster.kubeconfig().to_owned(),
        };
        // Pods need it, and the controllers take a moment.
        let accounts: Api<k8s_openapi::api::core::v1::ServiceAccount> = space.api();
        eventually("the namespace's ServiceAccount", SOON, || async {
            Ok(accounts.get_opt("default").await?)
        })
        .await
        .unwrap();
        space
    }

    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub fn servers(&self) -> Api<MCPServer> {
        self.api()
    }

    fn raw(&self) -> Api<DynamicObject> {
        Api::namespaced_with(
            self.client.clone(),
            &self.namespace,
            &MCPServer::api_resource(),
        )
    }

    /// Creates a server from just these fields.
    pub async fn create(&self, name: &str, spec: Value) -> kube::Result<MCPServer> {
        self.create_object(json!({"metadata": {"name": name}, "spec": spec}))
            .await
    }

    pub async fn create_object(&self, object: Value) -> kube::Result<MCPServer> {
        self.create_with(object, &PostParams::default()).await
    }

    pub async fn create_with(
        &self,
        mut object: Value,
        parameters: &PostParams,
    ) -> kube::Result<MCPServer> {
        object["apiVersion"] = json!("mcp.example.com/v1alpha1");
        object["kind"] = json!("MCPServer");
        let object: DynamicObject = serde_json::from_value(object).unwrap();
        let created = self.raw().create(parameters, &object).await?;
        Ok(serde_json::from_value(serde_json::to_value(created).unwrap()).unwrap())
    }

    /// Merges this into a server.
    pub async fn patch(&self, name: &str, patch: Value) -> kube::Result<MCPServer> {
        self.servers()
            .patch(name, &PatchParams::default(), &Patch::Merge(patch))
            .await
    }

    /// `kubectl apply` of a server of just these fields: exit status, standard output, standard error.
    pub async fn kubectl_apply(&self, name: &str, spec: Value) -> (bool, String, String) {
        let object = json!({
            "apiVersion": "mcp.example.com/v1alpha1", "kind": "MCPServer", "metadata": {"name": name}, "spec": spec,
        });
        self.kubectl(&["apply", "-f", "-"], &object.to_string())
            .await
    }

    pub async fn kubectl(&self, arguments: &[&str], input: &str) -> (bool, String, String) {
        let mut all = vec!["-n", &self.namespace];
        all.extend(arguments);
        let all: Vec<_> = all.into_iter().map(str::to_owned).collect();
        let (input, kubeconfig) = (input.to_owned(), self.kubeconfig.clone());
        let output = tokio::task::spawn_blocking(move || {
            use std::io::Write;
            let mut command = shared().cluster.kubectl_command();
            command.arg("--kubeconfig").arg(kubeconfig).args(&all);
            command
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped());
            let mut child = command.spawn()?;
            child
                .stdin
                .take()
                .context("no standard input")?
                .write_all(input.as_bytes())?;
            anyhow::Ok(child.wait_with_output()?)
        });
        let output = output.await.unwrap().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (
            output.status.success(),
            text(&output.stdout),
            text(&output.stderr),
        )
    }

    /// Waits until the server is as wanted; the last status tells why not.
    pub async fn until(
        &self,
        name: &str,
        what: &str,
        is: impl Fn(&MCPServer) -> bool,
    ) -> MCPServer {
        let servers = self.servers();
        let expected = format!("{name}: {what}");
        eventually(&expected, SOON, || async {
            let server = servers.get(name).await?;
            if is(&server) {
                return Ok(Some(server));
            }
            bail!("status {}", serde_json::to_string(&server.status)?)
        })
        .await
        .unwrap_or_else(|error| panic!("{error:#}"))
    }

    pub async fn until_ready(&self, name: &str) -> MCPServer {
        self.until(name, "is Ready as it is", is_ready).await
    }

    /// Waits until the condition has this reason.
    pub async fn until_reason(&self, name: &str, type_: &str, reason: &str) -> MCPServer {
        self.until(
            name,
            &format!("{type_} has the reason {reason}"),
            |server| condition(server, type_).is_some_and(|condition| condition.reason == reason),
        )
        .await
    }

    /// Waits until an object is as wanted.
    pub async fn until_object<K>(&self, name: &str, what: &str, is: impl Fn(&K) -> bool) -> K
    where
        K: Object,
    {
        let api = self.api::<K>();
        eventually(
            &format!("{} {name}: {what}", K::kind(&())),
            SOON,
            || async {
                match api.get_opt(name).await? {
                    Some(object) if is(&object) => Ok(Some(object)),
                    Some(object) => bail!("{}", serde_json::to_string(&object)?),
                    None => bail!("it does not exist"),
                }
            },
        )
        .await
        .unwrap_or_else(|error| panic!("{error:#}"))
    }

    /// Waits until an object is gone.
    pub async fn until_gone<K>(&self, name: &str)
    where
        K: Object,
    {
        let api = self.api::<K>();
        eventually(
            &format!("{} {name} is gone", K::kind(&())),
            SOON,
            || async {
                match api.get_opt(name).await? {
                    None => Ok(Some(())),
                    Some(object) => bail!("{}", serde_json::to_string(&object)?),
                }
            },
        )
        .await
        .unwrap_or_else(|error| panic!("{error:#}"));
    }

    pub async fn pods_of(&self, name: &str) -> Vec<Pod> {
        let selector = mcp_operator::api::labels::selector_string(name);
        self.api::<Pod>()
            .list(&ListParams::default().labels(&selector))
            .await
            .unwrap()
            .items
    }
}

/// Waits until the validating webhook answers: it is the only one that refuses this.
pub async fn eventually_admitted(space: &Space) -> Result<()> {
    eventually("the webhooks judge a request", SOON, || async {
        let spec = json!({"image": "x:1", "config": {"SESSION_TIMEOUT": "soon"}});
        match space.create("probe", spec).await {
            Err(kube::Error::Api(status)) if status.code == 422 => Ok(Some(())),
            other => bail!("{other:?}"),
        }
    })
    .await
}

/// Ready, and about the newest generation.
pub fn is_ready(server: &MCPServer) -> bool {
    let observed = server
        .status
        .as_ref()
        .and_then(|status| status.observed_generation);
    observed == server.metadata.generation
        && condition(server, "Ready").is_some_and(|condition| condition.status == "True")
}

pub fn condition<'a>(server: &'a MCPServer, type_: &str) -> Option<&'a Condition> {
    server
        .status
        .as_ref()?
        .conditions
        .iter()
        .find(|condition| condition.type_ == type_)
}

pub fn message(server: &MCPServer, type_: &str) -> String {
    condition(server, type_)
        .map(|condition| condition.message.clone())
        .unwrap_or_default()
}

/// The API server's refusal.
pub fn refusal<T: std::fmt::Debug>(answer: kube::Result<T>) -> kube::core::Status {
    match answer {
        Err(kube::Error::Api(status)) => *status,
        other => panic!("expected a refusal, got {other:?}"),
    }
}

pub fn name_of(server: &MCPServer) -> String {
    server.name_any()
}
