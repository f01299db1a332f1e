//! A fresh cluster with what is to be measured in it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cluster::process::Process;
use cluster::{Cluster, Options, eventually};
use k8s_openapi::NamespaceResourceScope;
use kube::{Api, Client, Resource};
use serde_json::Value;

use crate::connections::Connections;
use crate::counter::Counter;
use crate::floor::Way;
use crate::install::{self, OWN};
use crate::operator::{self, Operator};
use crate::program::Program;
use crate::requests::Requests;
use crate::servers::{self, NAMESPACE, SeenPod, SeenServer};
use crate::sitting::Subject;
use crate::{floor, process, progress};

/// The namespace of what is created to warm up.
const WARM_UP: &str = "warm-up";
const MANAGER: &str = "kube-controller-manager";
/// The parts whose CPU is that of the control plane.
const CONTROL_PLANE: [&str; 2] = ["kube-apiserver", "etcd"];
/// How long a signal may take to stop a process.
const LIMIT: Duration = Duration::from_secs(30);
/// How often it is looked whether all live.
const LOOK: Duration = Duration::from_millis(200);

/// A cluster, connections to it, and perhaps an operator.
pub(crate) struct Stand {
    pub(crate) cluster: Cluster,
    pub(crate) connections: Connections,
    pub(crate) requests: Requests,
    /// None on the floor.
    operator: Option<Operator>,
    /// How the floor writes children.
    way: Way,
    alive: Alive,
}

/// Processes that are to live.
#[derive(Clone, Default)]
struct Alive(Arc<Mutex<Vec<Process>>>);

/// CPU time that has been used.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cpu {
    /// By kube-apiserver and etcd.
    pub(crate) control_plane: Duration,
    /// None on the floor.
    pub(crate) operator: Option<Duration>,
    /// By these, kube-controller-manager, the fake kubelet and the client that creates.
    pub(crate) all_parts: Duration,
    /// By whatever else runs on this machine.
    pub(crate) others: Duration,
}

impl Stand {
    /// Does something on a fresh cluster with the subject in it, as long as all processes live; then ends it.
    pub(crate) async fn with<T>(
        subject: &Subject,
        work: impl AsyncFnOnce(&mut Self) -> Result<T>,
    ) -> Result<T> {
        let mut stand = Self::start(subject).await?;
        let alive = stand.alive.clone();
        let done = tokio::select! {
            biased;
            error = alive.ended() => Err(error),
            done = work(&mut stand) => done,
        }?;
        stand.stop().await?;
        Ok(done)
    }

    async fn start(subject: &Subject) -> Result<Self> {
        progress::note("starting a cluster");
        let (Subject::Floor(program, _) | Subject::Operator(program)) = subject;
        let way = match subject {
            Subject::Floor(_, way) => *way,
            Subject::Operator(_) => Way::Post,
        };
        let cluster = Cluster::start(Options {
            crds: vec![program.crd().await?],
            ..Options::default()
        });
        let cluster = cluster.await?;
        let alive = Alive::default();
        for part in CONTROL_PLANE.into_iter().chain([MANAGER]) {
            alive.add(cluster.part(part)?);
        }
        for namespace in [OWN, NAMESPACE, WARM_UP] {
            install::namespace(&cluster, namespace).await?;
        }
        let operator = match subject {
            Subject::Floor(..) => None,
            Subject::Operator(program) => Some(install_operator(&cluster, program).await?),
        };
        if let Some(operator) = &operator {
            alive.add(operator.process());
        }
        Ok(Self {
            connections: Connections::open(&cluster).await?,
            requests: Requests::follow(&cluster)?,
            cluster,
            operator,
            way,
            alive,
        })
    }

    /// Has one server made from begin to end, so that what is measured is no first time.
    pub(crate) async fn warm_up(&mut self) -> Result<()> {
        progress::note("warming up");
        self.create_one(WARM_UP, servers::object("warm-up")).await?;
        let mut ready = self.ready(WARM_UP).await?;
        ready.reaches_silently(1).await?;
        self.requests.until_quiet().await
    }

    /// The operator.
    pub(crate) fn operator(&self) -> Result<&Operator> {
        self.operator.as_ref().context("the floor has no operator")
    }

    /// Whether this is the floor.
    pub(crate) fn is_floor(&self) -> bool {
        self.operator.is_none()
    }

    /// Objects of the servers that are measured.
    pub(crate) fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.cluster.client(), NAMESPACE)
    }

    /// Counts what is ready in a namespace: servers, as the operator says; on the floor pods.
    pub(crate) async fn ready(&self, namespace: &str) -> Result<Counter> {
        let client = self.cluster.client();
        if self.is_floor() {
            let pods: Api<SeenPod> = Api::namespaced(client, namespace);
            Counter::start("pods are Ready", pods, SeenPod::is_ready).await
        } else {
            let servers: Api<SeenServer> = Api::namespaced(client, namespace);
            Counter::start("servers are Ready", servers, SeenServer::is_ready).await
        }
    }

    /// Creates servers of this shape on all connections, from the index `from` on; on the floor with their children.
    pub(crate) async fn create(
        &self,
        from: usize,
        number: usize,
        shape: impl Fn(&str) -> Value,
    ) -> Result<()> {
        let create = async |client: Client, index: usize| {
            let object = shape(&servers::name(from + index));
            self.create_with(client, NAMESPACE, object).await
        };
        self.connections.each(number, create).await
    }

    /// Creates one; on the floor with its children.
    pub(crate) async fn create_one(&self, namespace: &str, object: Value) -> Result<()> {
        let client = self.connections.nth(0);
        self.create_with(client, namespace, object).await
    }

    async fn create_with(&self, client: Client, namespace: &str, object: Value) -> Result<()> {
        if self.is_floor() {
            floor::create(client, namespace, object, self.way).await
        } else {
            servers::create(client, namespace, object).await
        }
    }

    /// Stops kube-controller-manager, without an end: nothing becomes of Deployments from here on.
    pub(crate) async fn pause_controllers(&self) -> Result<()> {
        let manager = self.cluster.part(MANAGER)?;
        manager.signal("STOP")?;
        eventually("kube-controller-manager is stopped", LIMIT, || async {
            Ok(process::is_stopped(manager.id())?.then_some(()))
        })
        .await
    }

    /// What has been used until now.
    pub(crate) fn cpu(&self) -> Result<Cpu> {
        let mut control_plane = Duration::ZERO;
        for part in CONTROL_PLANE {
            control_plane += process::cpu(self.cluster.part(part)?.id())?;
        }
        let operator = self.operator.as_ref().map(|one| process::cpu(one.id()));
        let operator = operator.transpose()?;
        let all_parts = control_plane
            + operator.unwrap_or_default()
            + process::cpu(self.cluster.part(MANAGER)?.id())?
            + process::cpu(std::process::id())?;
        Ok(Cpu {
            control_plane,
            operator,
            all_parts,
            others: process::cpu_of_all()?.saturating_sub(all_parts),
        })
    }

    /// Ends the operator as a rollout does, and starts this program in its place.
    pub(crate) async fn restart(&mut self, program: &Program) -> Result<()> {
        let operator = self.operator.take().context("the floor has no operator")?;
        let port = operator.port();
        self.alive.remove(operator.process());
        operator.end().await?;
        let operator = Operator::start(&self.cluster, program, "restarted", port)?;
        self.alive.add(operator.process());
        self.operator = Some(operator);
        Ok(())
    }

    /// Ends everything. Fails if the operator ever lacked a right: then something else was measured.
    async fn stop(mut self) -> Result<()> {
        let requests = self.requests.read()?;
        let refused = requests.iter().find(|request| request.code == 403);
        ensure!(
            refused.is_none(),
            "the operator lacked a right: {refused:?}"
        );
        progress::note("stopping the cluster");
        self.cluster.stop().await
    }
}

impl Alive {
    fn add(&self, process: &Process) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(process.clone());
    }

    fn remove(&self, process: &Process) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|one| one.id() != process.id());
    }

    /// Returns when one has ended, with what it said.
    async fn ended(&self) -> anyhow::Error {
        loop {
            let all = self
                .0
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone();
            if let Err(error) = all.iter().try_for_each(Process::alive) {
                return error;
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

async fn install_operator(cluster: &Cluster, program: &Program) -> Result<Operator> {
    progress::note("starting the operator");
    install::rights(cluster).await?;
    let port = operator::free_port()?;
    let operator = Operator::start(cluster, program, "operator", port)?;
    install::webhooks(cluster, program, port).await?;
    operator.until_ready().await?;
    Ok(operator)
}

impl Cpu {
    /// What has been used since.
    pub(crate) fn since(self, before: Self) -> Self {
        let both = self.operator.zip(before.operator);
        Self {
            control_plane: self.control_plane.saturating_sub(before.control_plane),
            operator: both.map(|(now, before)| now.saturating_sub(before)),
            all_parts: self.all_parts.saturating_sub(before.all_parts),
            others: self.others.saturating_sub(before.others),
        }
    }
}
