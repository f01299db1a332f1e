//! Several replicas: one reconciles, and only one, whatever happens to it; all answer admission.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use cluster::{Cluster, eventually};
use futures::future::try_join_all;
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use kube::api::DeleteParams;
use mcp_operator::api::MCPServer;
use serde_json::json;

use crate::setup::{self, OWN, Operator, SOON, Space, refusal};
use crate::wire::get_plain;

/// Short, so that a handover is seen soon; long beside what a busy machine holds up.
const LEASE: Duration = Duration::from_secs(5);
/// How often leaders are paused.
const PAUSES: usize = 3;
/// For those who must not lose it, however busy the machine is.
const LONG_LEASE: Duration = Duration::from_secs(30);

/// Replicas with users of their own, so that the audit log tells who wrote.
struct Replicas {
    cluster: Cluster,
    space: Space,
    all: Vec<(String, Operator)>,
}

impl Replicas {
    async fn start(name: &str, count: usize, lease: Duration) -> Result<Self> {
        let cluster = Cluster::start(setup::options()).await?;
        let mut all = Vec::new();
        let lease = format!("{}s", lease.as_secs());
        let election = ["--leader-elect", "--lease-duration", &lease];
        for index in 0..count {
            let user = format!("replica-{index}");
            all.push((
                user.clone(),
                setup::spawn_replica(&cluster, &user, &election)?,
            ));
        }
        setup::install(&cluster, all[0].1.port)?;
        for (_, operator) in &all {
            setup::wait_ready(operator)?;
        }
        let space = Space::within(&cluster, name).await;
        Ok(Self {
            cluster,
            space,
            all,
        })
    }

    /// Waits until one of them says that it leads, and one only.
    async fn leader(&self, among: &[usize]) -> usize {
        let found = eventually("one replica leads", SOON, || async {
            let mut leaders = Vec::new();
            for index in among {
                if metric(&self.all[*index].1, "mcp_operator_leader")? > 0.0 {
                    leaders.push(*index);
                }
            }
            match leaders[..] {
                [one] => Ok(Some(one)),
                _ => bail!("these lead: {leaders:?}"),
            }
        });
        found.await.unwrap_or_else(|error| panic!("{error:#}"))
    }

    async fn leader_is(&self, index: usize, expected: f64) {
        eventually(
            &format!("mcp_operator_leader of {index} is {expected}"),
            SOON,
            || async {
                match metric(&self.all[index].1, "mcp_operator_leader")? {
                    value if (value - expected).abs() < f64::EPSILON => Ok(Some(())),
                    value => bail!("it is {value}"),
                }
            },
        )
        .await
        .unwrap_or_else(|error| panic!("{error:#}"));
    }

    /// What a replica wrote, Leases and certificates apart.
    async fn writes(&self, index: usize) -> Result<usize> {
        let writes = self.cluster.writes_by(&self.all[index].0).await?;
        let own = |resource: &str| {
            resource == "leases"
                || resource == "secrets"
                || resource.ends_with("webhookconfigurations")
        };
        Ok(writes.iter().filter(|write| !own(&write.resource)).count())
    }

    /// Lets this replica answer admission, until the API server knows of it.
    async fn ask(&self, index: usize) -> Result<()> {
        setup::install(&self.cluster, self.all[index].1.port)?;
        setup::wait_ready(&self.all[index].1)?;
        setup::eventually_admitted(&self.space).await
    }

    fn leases(&self) -> Api<Lease> {
        Api::namespaced(self.space.client.clone(), OWN)
    }

    /// How often the lead changed hands.
    async fn transitions(&self) -> Result<i32> {
        let spec = self.leases().get("mcp-operator").await?.spec;
        spec.and_then(|spec| spec.lease_transitions)
            .context("no transitions")
    }

    /// Pauses a leader while it makes many servers, until the other one leads; fails if it then writes anything.
    /// False when the lead moved otherwise meanwhile, as it may on a busy machine: then nothing can be said.
    async fn pause_amid_work(&self, old: usize, round: usize) -> Result<bool> {
        let transitions = self.transitions().await?;
        let names: Vec<_> = (0..20)
            .map(|index| format!("midst-{round}-{index}"))
            .collect();
        let spec = json!({"image": "x:1", "config": {"A": "b"}});
        let made = names
            .iter()
            .map(|name| self.space.create(name, spec.clone()));
        try_join_all(made).await?;
        let (user, operator) = &self.all[old];
        operator.process.signal("STOP")?;
        self.leader(&[1 - old]).await;
        for name in &names {
            self.space.until_ready(name).await;
        }
        let before = self.cluster.writes_by(user).await?;
        operator.process.signal("CONT")?;
        // Awake: it answers, and says that it does not lead.
        self.leader_is(old, 0.0).await;
        // Work that it would do, if it thought that it leads: it is done, by the other one.
        let servers = self.space.servers();
        for name in &names {
            servers.delete(name, &DeleteParams::default()).await?;
        }
        for name in &names {
            self.space.until_gone::<MCPServer>(name).await;
        }
        let mut after = self.cluster.writes_by(user).await?;
        if self.transitions().await? != transitions + 1 {
            return Ok(false);
        }
        // What is refused is not written: one that came in part before the pause, or that asked for the Lease.
        after.retain(|write| write.code < 400 && !before.contains(write));
        ensure!(after.is_empty(), "written after the pause: {after:?}");
        Ok(true)
    }

    async fn create(&self, name: &str) -> Result<()> {
        self.space.create(name, json!({"image": "x:1"})).await?;
        self.space.until_ready(name).await;
        Ok(())
    }
}

/// A sample without labels.
fn metric(operator: &Operator, name: &str) -> Result<f64> {
    let (code, text) = get_plain(operator.http, "/metrics")?;
    ensure!(code == 200, "/metrics gave {code} {text}");
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    Ok(line
        .with_context(|| format!("no {name} in {text}"))?
        .parse()?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_three_reconciles_and_hands_over_at_once_when_it_goes() -> Result<()> {
    let replicas = Replicas::start("handover", 3, LONG_LEASE).await?;
    let first = replicas.leader(&[0, 1, 2]).await;
    replicas.create("before").await?;
    let others: Vec<_> = (0..3).filter(|index| *index != first).collect();
    for index in &others {
        assert_eq!(replicas.writes(*index).await?, 0, "a follower wrote");
        replicas.ask(*index).await?;
        let bad = replicas.space.create("bad", json!({"image": "X"})).await;
        assert_eq!(refusal(bad).code, 422, "a follower answers admission");
    }
    let start = Instant::now();
    replicas.all[first].1.process.signal("TERM")?;
    let second = replicas.leader(&others).await;
    let took = start.elapsed();
    println!("handover from a leader that was told to go: {took:?}");
    ensure!(took < LONG_LEASE, "the Lease was not given back: {took:?}");
    let lease = replicas.leases().get("mcp-operator").await?;
    let spec = lease.spec.context("no spec")?;
    let pod = spec.holder_identity.context("no holder")?;
    assert!(pod.starts_with("mcp-operator-"), "{pod}");
    assert_eq!(spec.lease_transitions, Some(1));
    replicas.ask(second).await?;
    replicas.create("after").await?;
    replicas.cluster.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_leader_is_followed_when_its_lease_is_over() -> Result<()> {
    let replicas = Replicas::start("killed", 2, LEASE).await?;
    let first = replicas.leader(&[0, 1]).await;
    let start = Instant::now();
    replicas.all[first].1.process.signal("KILL")?;
    let second = replicas.leader(&[1 - first]).await;
    let took = start.elapsed();
    println!("handover from a killed leader, lease of {LEASE:?}: {took:?}");
    // The lease and a look at it after its end; the rest is for a busy machine.
    ensure!(took < 3 * LEASE, "the handover took {took:?}");
    replicas.ask(second).await?;
    replicas.create("after").await?;
    replicas.cluster.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_leader_that_wakes_up_too_late_writes_nothing() -> Result<()> {
    let replicas = Replicas::start("paused", 2, LEASE).await?;
    // Each is paused in its turn: where in its work the pause meets it is chance.
    let mut judged = 0;
    for round in 0..3 * PAUSES {
        let old = replicas.leader(&[0, 1]).await;
        // The one that goes on answers admission.
        replicas.ask(1 - old).await?;
        judged += usize::from(replicas.pause_amid_work(old, round).await?);
        if judged == PAUSES {
            return replicas.cluster.stop().await;
        }
    }
    bail!("after only {judged} of so many pauses the other one was left to lead")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_lease_is_made_again_and_a_stolen_one_ends_the_lead() -> Result<()> {
    let replicas = Replicas::start("lease", 1, LEASE).await?;
    replicas.leader(&[0]).await;
    let leases = replicas.leases();
    leases
        .delete("mcp-operator", &DeleteParams::default())
        .await?;
    eventually("the lease is there again", SOON, || async {
        Ok(leases.get_opt("mcp-operator").await?)
    })
    .await?;
    replicas.leader(&[0]).await;
    replicas.create("made-again").await?;

    let patch = json!({"spec": {"holderIdentity": "somebody-else", "leaseDurationSeconds": 3600}});
    let merge = kube::api::Patch::Merge(patch);
    leases
        .patch("mcp-operator", &Default::default(), &merge)
        .await?;
    replicas.leader_is(0, 0.0).await;
    let patch = json!({"spec": {"holderIdentity": null}});
    leases
        .patch(
            "mcp-operator",
            &Default::default(),
            &kube::api::Patch::Merge(patch),
        )
        .await?;
    replicas.leader_is(0, 1.0).await;
    replicas.create("given-back").await?;
    replicas.cluster.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_lease_stays_its_holders() -> Result<()> {
    let replicas = Replicas::start("deleted-lease", 2, LONG_LEASE).await?;
    let leader = replicas.leader(&[0, 1]).await;
    let leases = replicas.leases();
    let holder = |lease: Lease| lease.spec.and_then(|spec| spec.holder_identity);
    let before = holder(leases.get("mcp-operator").await?);
    for _ in 0..3 {
        leases
            .delete("mcp-operator", &DeleteParams::default())
            .await?;
        let again = eventually("the lease is there again", SOON, || async {
            Ok(leases.get_opt("mcp-operator").await?)
        })
        .await?;
        // Anybody else's would be one of two that write, until the holder next looks.
        assert_eq!(holder(again), before);
        replicas.leader_is(leader, 1.0).await;
    }
    replicas.cluster.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_api_server_does_not_answer_leads_no_more() -> Result<()> {
    let replicas = Replicas::start("silent", 1, LEASE).await?;
    replicas.leader(&[0]).await;
    replicas.create("before").await?;
    // It takes connections and requests, and answers none.
    let api_server = replicas.cluster.part("kube-apiserver")?;
    api_server.signal("STOP")?;
    replicas.leader_is(0, 0.0).await;
    api_server.signal("CONT")?;
    replicas.leader_is(0, 1.0).await;
    replicas.create("after").await?;
    replicas.cluster.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_can_see_nothing_lets_another_one_lead() -> Result<()> {
    let cluster = Cluster::start(setup::options()).await?;
    let seconds = format!("{}s", LEASE.as_secs());
    let election = ["--leader-elect", "--lease-duration", &seconds];
    // It may take the Lease, and list nothing.
    let user = "blind";
    let made = setup::kubectl(&cluster, &["create", "namespace", OWN], "")?;
    ensure!(made.status.success(), "{made:?}");
    let metadata = json!({"name": user, "namespace": OWN});
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": metadata, "rules": [
        {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["*"]},
        {"apiGroups": [""], "resources": ["secrets"], "verbs": ["*"]},
    ]});
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": metadata,
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": user},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}]});
    setup::put_in_force(&cluster, user, &[role, binding])?;
    let kubeconfig = cluster.kubeconfig_for(user, &[])?;
    let mut program = setup::binary();
    program.env("MCP_OPERATOR_BLIND_AFTER", "3");
    let port = setup::free_port()?;
    let blind = setup::spawn_program(&cluster, user, port, &kubeconfig, program, &election)?;
    let said = |operator: &Operator, text: &str| -> Result<Option<()>> {
        let log = std::fs::read_to_string(operator.process.log())?;
        ensure!(log.contains(text), "{log}");
        Ok(Some(()))
    };
    eventually("the blind one leads", SOON, || async {
        said(&blind, "\"leading\"")
    })
    .await?;
    let sees = setup::spawn_replica(&cluster, "sees", &election)?;
    eventually("the blind one gives up", SOON, || async {
        said(&blind, "mcpservers could not be watched for 3 s")?;
        said(&blind, "giving up the lead")
    })
    .await?;
    setup::install(&cluster, sees.port)?;
    setup::wait_ready(&sees)?;
    let space = Space::within(&cluster, "seen").await;
    setup::eventually_admitted(&space).await?;
    space.create("a", json!({"image": "x:1"})).await?;
    space.until_ready("a").await;
    blind.process.alive()?;
    cluster.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_that_does_not_exist_is_named() -> Result<()> {
    let cluster = Cluster::start(setup::options()).await?;
    let arguments = [
        "--leader-elect",
        "--namespace",
        "nowhere",
        "--certificate-folder",
        "/nowhere",
    ];
    let kubeconfig = cluster.kubeconfig_for("lost", &["system:masters"])?;
    let mut command = setup::binary();
    command
        .arg("run")
        .args(arguments)
        .arg("--kubeconfig")
        .arg(kubeconfig);
    for flag in ["--webhook-address", "--http-address"] {
        command
            .arg(flag)
            .arg(format!("127.0.0.1:{}", setup::free_port()?));
    }
    let lost = cluster.start_process("lost", command)?;
    eventually("the log names the namespace", SOON, || async {
        let log = std::fs::read_to_string(lost.log())?;
        ensure!(log.contains("namespaces \"nowhere\" not found"), "{log}");
        Ok(Some(()))
    })
    .await?;
    cluster.stop().await
}
