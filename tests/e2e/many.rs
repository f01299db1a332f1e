//! Many servers at once: how many writes each costs, and that peace costs none.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use cluster::{Cluster, eventually};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::jiff::Timestamp;
use kube::api::ListParams;
use serde_json::json;

use crate::setup::{self, SOON, Space, USER, is_ready};

const SERVERS: usize = 200;
const PEACE: Duration = Duration::from_mins(1);
/// A pod that has not started by then is told of in the status.
const STUCK: Duration = Duration::from_mins(1);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_servers_converge_and_then_cost_nothing() -> Result<()> {
    let (cluster, operator) = setup::start_with("operator", &[]).await?;
    let space = Space::within(&cluster, "many").await;
    let before = writes(&cluster).await?.len();

    let start = std::time::Instant::now();
    futures::stream::iter(0..SERVERS)
        .map(|index| {
            let space = &space;
            async move {
                space
                    .create(
                        &format!("s{index}"),
                        json!({"image": "x:1", "config": {"K": "v"}}),
                    )
                    .await
            }
        })
        .buffer_unordered(16)
        .try_collect::<Vec<_>>()
        .await?;
    let servers = space.servers();
    eventually("200 servers are Ready", Duration::from_mins(10), || async {
        let ready = servers
            .list(&ListParams::default())
            .await?
            .iter()
            .filter(|server| is_ready(server))
            .count();
        if ready == SERVERS {
            Ok(Some(()))
        } else {
            bail!("{ready} are")
        }
    })
    .await?;
    let took = start.elapsed();
    let converged = Timestamp::now();
    // A write is told after it was made; the last one may be under way to the log.
    let logged = eventually("the log tells of all that became Ready", SOON, || async {
        let logged = setup::logged(&operator)?;
        let ready = |line: &&serde_json::Value| line["phase"] == "Ready";
        let ready = logged.iter().filter(ready).count();
        ensure!(ready >= SERVERS, "{ready} of {SERVERS}");
        Ok(Some(logged))
    })
    .await?;
    for line in logged
        .iter()
        .filter(|line| line["target"] == "mcp_operator::controller::apply")
    {
        let span = &line["span"];
        assert!(
            span["namespace"].is_string() && span["mcpserver"].is_string(),
            "no object is named: {line}"
        );
    }

    // Not a pause for something to happen: the minute in which nothing may.
    tokio::time::sleep(PEACE).await;
    let all = writes(&cluster).await?;
    let late: Vec<_> = all.iter().filter(|write| write.time > converged).collect();
    assert!(
        late.is_empty(),
        "in {PEACE:?} of peace the operator wrote {late:?}"
    );

    let said = setup::logged(&operator)?;
    assert_eq!(
        said.len(),
        logged.len(),
        "passes that change nothing say nothing: {:?}",
        said.last()
    );

    let mut by_kind = BTreeMap::new();
    for write in &all[before..] {
        *by_kind
            .entry(format!("{} {} {}", write.verb, write.resource, write.code))
            .or_insert(0) += 1;
    }
    println!("{SERVERS} servers were Ready after {took:.1?}; writes of the operator: {by_kind:#?}");
    let count = |of: &dyn Fn(&str) -> bool| {
        let made = all[before..].iter();
        made.filter(|write| of(&write.resource)).count()
    };
    let statuses = count(&|resource| resource == "mcpservers/status");
    let children = count(&|resource| !matches!(resource, "mcpservers/status" | "events"));
    assert_eq!(
        count(&|resource| resource == "events"),
        SERVERS,
        "{by_kind:#?}"
    );
    assert_eq!(children, SERVERS * 3, "{by_kind:#?}");
    // Pending and Ready; and one between on a machine so busy that a pod takes longer than others wait for it.
    let most = if took < STUCK { 2 } else { 3 };
    assert!(
        (SERVERS * 2..=SERVERS * most).contains(&statuses),
        "{by_kind:#?}"
    );
    setup::stop(cluster).await
}

async fn writes(cluster: &Cluster) -> Result<Vec<cluster::AuditEntry>> {
    let mut writes = cluster.writes_by(USER).await?;
    // Reviews of its own access are no writes to the cluster.
    writes.retain(|write| write.resource != "selfsubjectaccessreviews");
    Ok(writes)
}
