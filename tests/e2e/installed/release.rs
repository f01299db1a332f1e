//! The operator as Helm installs it: its pods' containers are processes, everything else is real.

use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use cluster::{AuditEntry, Cluster, Options, eventually};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, Client};
use mcp_operator::api::MCPServer;
use serde_json::{Value, json};

use super::container;
use super::kubelet::{Ended, Kubelet, Replica};
use crate::chart::{RELEASE, chart, helm, values_file};
use crate::load::Load;
use crate::setup::{self, OWN, SOON};

/// The account of the operator's pods.
pub const ACCOUNT: &str = "system:serviceaccount:mcp-operator-system:mcp-operator";
/// The name by which the API server calls the webhooks.
pub const HOST: &str = "mcp-operator-webhook.mcp-operator-system.svc";
/// What `kubectl apply` says of the bad MCPServer, and nothing else.
const REFUSAL: &str = "The MCPServer \"bad\" is invalid: spec.replicas: Invalid value: 3: \
    stdio transport does not support multiple replicas (requested: 3); set it to 1, or use the transport http or streamable-http";
/// The webhooks' port of a pod, as in the values.
const WEBHOOK_PORT: u16 = 9443;

/// A cluster of a test's own in which the operator can be installed.
pub struct Installed {
    pub cluster: Arc<Cluster>,
    pub client: Client,
    kubelet: Kubelet,
}

impl Installed {
    /// A cluster in which nothing is installed yet.
    pub async fn start() -> Result<Self> {
        let cluster = Arc::new(Cluster::start(Options::default()).await?);
        let client = cluster.client();
        let kubelet = Kubelet::start(&cluster, client.clone(), OWN);
        Ok(Self {
            cluster,
            client,
            kubelet,
        })
    }

    /// `helm install` with these values, until every replica is ready.
    pub async fn install(&self, values: &Value) -> Result<String> {
        self.put("install", values, &["--create-namespace"]).await
    }

    /// `helm upgrade` with these values alone, until every replica is another one, and ready.
    pub async fn upgrade(&self, values: &Value) -> Result<String> {
        self.put("upgrade", values, &[]).await
    }

    async fn put(&self, verb: &str, values: &Value, more: &[&str]) -> Result<String> {
        let file = values_file(&for_tests(values.clone()).to_string())?;
        let (chart, file) = (
            chart().display().to_string(),
            file.path().display().to_string(),
        );
        let mut arguments = vec![verb, RELEASE, &chart, "-n", OWN, "-f", &file];
        arguments.extend(["--wait", "--timeout", "8m"]);
        arguments.extend(more);
        let said = helm(&self.cluster, &arguments).await;
        said.with_context(|| format!("the operator's logs: {:#?}", self.logs()))
    }

    /// `helm test`; what it says, with the test's log.
    pub async fn test(&self) -> Result<String> {
        let arguments = ["test", RELEASE, "-n", OWN, "--timeout", "8m"];
        let said = helm(&self.cluster, &arguments).await;
        let ended = self.ended();
        let test = ended.iter().rfind(|ended| ended.pod.ends_with("-test"));
        let log = match test {
            Some(test) => container::log(&test.process)?,
            None => "its pod was not run".to_owned(),
        };
        Ok(said.context(log.clone())? + &log)
    }

    /// `helm uninstall`, until all of the release and its pods are gone.
    pub async fn uninstall(&self) -> Result<()> {
        let arguments = ["uninstall", RELEASE, "-n", OWN, "--wait", "--timeout", "8m"];
        helm(&self.cluster, &arguments).await?;
        let pods = Api::<Pod>::namespaced(self.client.clone(), OWN);
        eventually("the operator's pods end", SOON, || async {
            let left = self.replicas();
            ensure!(left.is_empty(), "{left:?}");
            let left = pods.list_metadata(&ListParams::default()).await?.items;
            ensure!(left.is_empty(), "{left:?}");
            Ok(Some(()))
        })
        .await
    }

    /// The containers that run now, by the names of their pods.
    pub fn replicas(&self) -> Vec<Replica> {
        self.kubelet.known().running.values().cloned().collect()
    }

    /// Those that have ended, in the order in which they did.
    pub fn ended(&self) -> Vec<Ended> {
        self.kubelet.known().ended.clone()
    }

    /// Each container's log by its name, of those that have ended, too.
    pub fn logs(&self) -> Vec<(String, String)> {
        let ended = self.ended().into_iter();
        let ended = ended.map(|ended| (ended.pod, ended.process));
        let running = self.replicas().into_iter();
        let running = running.map(|replica| (replica.pod, replica.running.process));
        ended
            .chain(running)
            .map(|(pod, process)| {
                let log = container::log(&process);
                (pod, log.unwrap_or_else(|error| format!("{error:#}")))
            })
            .collect()
    }

    /// Has one replica's container end and start again, in the same pod. Waits until it runs.
    pub async fn restart(&self, pod: &str) -> Result<()> {
        let find = || {
            let replicas = self.replicas();
            replicas.into_iter().find(|replica| replica.pod == pod)
        };
        let old = find().with_context(|| format!("{pod} does not run"))?;
        old.running.process.signal("TERM")?;
        eventually("the container runs again", SOON, || async {
            Ok(find().filter(|new| new.restarts > old.restarts).map(drop))
        })
        .await
    }

    /// The ports of the replicas' webhooks on loopback.
    pub fn webhook_ports(&self) -> Result<Vec<u16>> {
        let replicas = self.replicas();
        let ports = replicas.iter();
        ports
            .map(|replica| replica.running.at(WEBHOOK_PORT))
            .collect()
    }

    /// Users that ask about MCPServers of namespace `default`, where `updated` has to be.
    pub async fn load(&self, users: u32) -> Result<Load> {
        Load::start(&self.cluster, "default", users).await
    }

    /// The same, with a look at the certificate of each replica that runs now.
    pub async fn watched_load(&self, users: u32) -> Result<Load> {
        let mut load = self.load(users).await?;
        let ports = self.webhook_ports()?;
        load.watch_certificates(&self.client, RELEASE, HOST, &ports)
            .await?;
        Ok(load)
    }

    /// Fails unless the same processes run as then.
    pub fn are_the_same(&self, then: &[Replica]) -> Result<()> {
        let ids = |replicas: &[Replica]| -> Vec<_> {
            let id = |replica: &Replica| (replica.pod.clone(), replica.running.process.id());
            replicas.iter().map(id).collect()
        };
        let now = self.replicas();
        ensure!(
            ids(&now) == ids(then),
            "other processes than before: {now:?}, not {then:?}"
        );
        now.iter()
            .try_for_each(|replica| replica.running.process.alive())
    }

    /// Waits until one of the running replicas holds the Lease; which one.
    pub async fn leader(&self) -> Result<String> {
        let leases = Api::<Lease>::namespaced(self.client.clone(), OWN);
        eventually("a replica leads", SOON, || async {
            let lease = leases.get(RELEASE).await?;
            let holder = lease.spec.and_then(|spec| spec.holder_identity);
            let holder = holder.unwrap_or_default();
            let replicas = self.replicas();
            let mut pods = replicas.into_iter().map(|replica| replica.pod);
            match pods.find(|pod| holder.starts_with(pod.as_str())) {
                Some(pod) => Ok(Some(pod)),
                None => bail!("the holder is {holder:?}"),
            }
        })
        .await
    }

    /// Runs kubectl as admin; whether it went well, and all that it said.
    pub async fn kubectl(&self, arguments: &[&str], input: &str) -> Result<(bool, String)> {
        let arguments: Vec<_> = arguments.iter().map(|&a| a.to_owned()).collect();
        let (cluster, input) = (self.cluster.clone(), input.to_owned());
        let output = tokio::task::spawn_blocking(move || {
            let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
            setup::kubectl(&cluster, &arguments, &input)
        });
        let output = output.await??;
        let mut said = String::from_utf8(output.stdout)?;
        said.push_str(&String::from_utf8_lossy(&output.stderr));
        Ok((output.status.success(), said))
    }

    /// All that the operator asked the API server for. Fails if anything was forbidden to it.
    pub async fn requests(&self) -> Result<Vec<AuditEntry>> {
        let requests = self.cluster.requests_by(ACCOUNT).await?;
        let refused: Vec<_> = requests.iter().filter(|r| r.code == 403).collect();
        ensure!(refused.is_empty(), "the chart does not grant {refused:#?}");
        Ok(requests)
    }

    /// Fails if the operator ever wrote a Secret or a webhook configuration, or tried to, or read a Secret.
    pub async fn writes_no_certificate(&self) -> Result<()> {
        let requests = self.requests().await?;
        ensure!(!requests.is_empty(), "the audit log has nothing of it");
        let about = |entry: &AuditEntry| match &*entry.resource {
            "secrets" => true,
            resource => resource.contains("webhookconfigurations") && entry.is_write(),
        };
        let wrong: Vec<_> = requests.iter().filter(|entry| about(entry)).collect();
        ensure!(wrong.is_empty(), "{wrong:#?}");
        Ok(())
    }

    /// Ends everything. Fails if a container ended that nobody had told to, or the kubelet had a problem.
    pub async fn stop(self) -> Result<()> {
        let Self {
            cluster,
            client,
            kubelet,
        } = self;
        {
            let known = kubelet.known();
            ensure!(known.problems.is_empty(), "{:#?}", known.problems);
        }
        kubelet.stop().await?;
        drop(client);
        let cluster = Arc::into_inner(cluster).context("the cluster is still used")?;
        cluster.stop().await
    }
}

/// Pods become ready when their processes are, and nothing takes longer than a test needs.
fn for_tests(mut values: Value) -> Value {
    values["podAnnotations"][cluster::fake_kubelet::ANNOTATION] = json!("not-ready");
    for (key, value) in [
        ("minReadySeconds", json!(1)),
        ("drainSeconds", json!(5)),
        ("leaderElection", json!({"leaseDuration": "5s"})),
    ] {
        if values[key].is_null() {
            values[key] = value;
        }
    }
    values
}

impl Installed {
    /// What a user sees first, without any patience: a bad MCPServer is refused by the first `kubectl apply`,
    /// a good one (`updated` in namespace `default`) accepted, and then it becomes ready.
    pub async fn refuses_and_accepts(&self) -> Result<()> {
        let server = |name: &str, spec: Value| {
            json!({
                "apiVersion": "mcp.example.com/v1alpha1", "kind": "MCPServer",
                "metadata": {"name": name, "namespace": "default"}, "spec": spec,
            })
            .to_string()
        };
        let apply = ["apply", "-f", "-"];
        let spec = json!({"image": "example.com/a:1", "transport": "stdio", "replicas": 3});
        let (done, said) = self.kubectl(&apply, &server("bad", spec)).await?;
        ensure!(!done && said.trim_end() == REFUSAL, "{said}");
        let spec = json!({"image": "example.com/a:1"});
        let (done, said) = self.kubectl(&apply, &server("updated", spec)).await?;
        ensure!(done, "{said}");
        self.is_ready("updated").await
    }

    /// Waits until an MCPServer of namespace `default` is ready.
    pub async fn is_ready(&self, name: &str) -> Result<()> {
        let servers = Api::<MCPServer>::namespaced(self.client.clone(), "default");
        eventually(&format!("{name} is ready"), SOON, || async {
            let server = servers.get(name).await?;
            if setup::is_ready(&server) {
                return Ok(Some(()));
            }
            bail!("status {}", serde_json::to_string(&server.status)?)
        })
        .await
    }
}
