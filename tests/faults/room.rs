//! A namespace of a test's own, with a proxy that breaks what it is told to, and an operator behind it.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cluster::faults::{FaultProxy, Request};
use cluster::process::Process;
use cluster::{Cluster, Options, eventually, shared_with};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use kube::api::{Api, DynamicObject, Patch, PatchParams, PostParams};
use kube::{Client, CustomResourceExt};
use mcp_operator::api::{MCPServer, schema};
use serde_json::{Value, json};

use crate::state::{self, State};

/// How long anything may take on a busy machine.
pub const SOON: Duration = Duration::from_mins(3);

/// A namespace and what is in it.
pub struct Room {
    pub cluster: &'static Cluster,
    pub client: Client,
    pub namespace: String,
    pub proxy: FaultProxy,
    started: AtomicU32,
}

impl Room {
    /// A new one in the cluster that all rooms share.
    pub async fn new(name: &str) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let namespace = format!("{name}-{number}");
        let cluster = tokio::task::spawn_blocking(|| {
            shared_with(|| Options {
                crds: vec![schema::crd().expect("a schema")],
                ..Options::default()
            })
        })
        .await??;
        let client = cluster.new_client().await?;
        let object: Namespace = serde_json::from_value(json!({"metadata": {"name": namespace}}))?;
        Api::<Namespace>::all(client.clone())
            .create(&PostParams::default(), &object)
            .await?;
        let accounts = Api::<ServiceAccount>::namespaced(client.clone(), &namespace);
        eventually("the namespace's account", SOON, || async {
            Ok(accounts.get_opt("default").await?)
        })
        .await?;
        // Its rights are no matter here, so it has them all.
        let proxy = FaultProxy::start(cluster, &namespace, &["system:masters"]).await?;
        Ok(Self {
            cluster,
            client,
            namespace,
            proxy,
            started: AtomicU32::new(0),
        })
    }

    /// Starts an operator behind the proxy, for this namespace. It serves no webhooks: what is tried is the controller.
    pub fn operator(&self) -> Result<Process> {
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        let mut command = Command::new(env!("CARGO_BIN_EXE_mcp-operator"));
        command
            .args(["run", "--no-webhooks", "--http-address", "127.0.0.1:0"])
            .args([
                "--namespace",
                &self.namespace,
                "--watch-namespace",
                &self.namespace,
            ])
            .args(["--log-format", "json", "--log", "debug", "--kubeconfig"])
            .arg(self.proxy.kubeconfig());
        self.cluster
            .start_process(&format!("{}-{number}", self.namespace), command)
    }

    pub fn servers(&self) -> Api<MCPServer> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Creates a server of this name and spec.
    pub async fn create(&self, name: &str, spec: Value) -> Result<()> {
        let resource = MCPServer::api_resource();
        let api =
            Api::<DynamicObject>::namespaced_with(self.client.clone(), &self.namespace, &resource);
        let object = DynamicObject::new(name, &resource).data(json!({"spec": spec}));
        api.create(&PostParams::default(), &object).await?;
        Ok(())
    }

    /// Merges this into a server.
    pub async fn patch(&self, name: &str, patch: Value) -> Result<()> {
        let by = PatchParams::default();
        self.servers()
            .patch(name, &by, &Patch::Merge(patch))
            .await?;
        Ok(())
    }

    /// kubectl in this namespace, which has to succeed.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<()> {
        let mut command = self.cluster.kubectl_command();
        let output = command
            .args(["-n", &self.namespace])
            .args(arguments)
            .output()?;
        ensure!(output.status.success(), "kubectl {arguments:?}: {output:?}");
        Ok(())
    }

    pub async fn state(&self) -> Result<State> {
        state::of(&self.client, &self.namespace).await
    }

    /// Waits until every server's status is about the spec that it has, and is not on its way anywhere; the state then.
    pub async fn settled(&self, operator: &Process) -> Result<State> {
        let last = std::sync::Mutex::new(None);
        eventually("all servers are settled", SOON, || async {
            operator.alive()?;
            let state = self.state().await?;
            for (key, object) in &state {
                let is_settled = !key.starts_with("MCPServer ") || is_settled(object);
                ensure!(is_settled, "{key}: {}", object["status"]);
            }
            // Twice the same: what comes beside the passes has come, too.
            let before = last.lock().expect("nobody panics").replace(state.clone());
            Ok((before.as_ref() == Some(&state)).then_some(state))
        })
        .await
    }

    /// What the operator asked for in this namespace that changes something, since the last call.
    pub fn writes(&self) -> Vec<Request> {
        let requests = self.proxy.take_requests();
        requests.into_iter().filter(Request::is_write).collect()
    }

    pub async fn events(&self) -> Result<std::collections::BTreeMap<String, usize>> {
        state::events(&self.client, &self.namespace)
            .await
            .context("reading Events")
    }
}

fn is_settled(server: &Value) -> bool {
    let status = &server["status"];
    status["observedGeneration"] == server["metadata"]["generation"]
        && (status["phase"] == "Ready" || status["phase"] == "Failed")
}
