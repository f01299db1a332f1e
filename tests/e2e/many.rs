//! Many servers at once: how many writes each costs, and that peace costs none.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, bail};
use cluster::{Cluster, eventually};
use futures::{StreamExt, TryStreamExt};
use kube::api::ListParams;
use serde_json::json;

use crate::setup::{self, Space, USER, is_ready};

const SERVERS: usize = 200;
const PEACE: Duration = Duration::from_mins(1);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_servers_converge_and_then_cost_nothing() -> Result<()> {
    let cluster = setup::start().await?;
    let operator = setup::spawn_operator(&cluster, "operator", &[])?;
    setup::install(&cluster, operator.port)?;
    setup::wait_ready(&operator)?;
    let space = Space::within(&cluster, "many").await;
    let writes_before = writes(&cluster).await?.len();

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
    eventually("200 servers are Ready", Duration::from_mins(3), || async {
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

    let logged = log(&operator)?;
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
    let converged = writes(&cluster).await?.len();
    tokio::time::sleep(PEACE).await;
    let all = writes(&cluster).await?;
    let late: Vec<_> = all[converged..].iter().collect();
    assert!(
        late.is_empty(),
        "in {PEACE:?} of peace the operator wrote {late:?}"
    );

    let said = log(&operator)?;
    assert_eq!(
        said.len(),
        logged.len(),
        "passes that change nothing say nothing: {:?}",
        said.last()
    );

    let mut by_kind = BTreeMap::new();
    for write in &all[writes_before..] {
        *by_kind
            .entry(format!("{} {} {}", write.verb, write.resource, write.code))
            .or_insert(0) += 1;
    }
    let without_events = all[writes_before..]
        .iter()
        .filter(|write| write.resource != "events")
        .count();
    println!("{SERVERS} servers were Ready after {took:.1?}; writes of the operator: {by_kind:#?}");
    // Three children each, Pending, Ready.
    assert_eq!(without_events, SERVERS * 5, "{by_kind:#?}");
    cluster.stop().await
}

/// The lines of the operator's log, each a JSON object without a key twice.
fn log(operator: &setup::Operator) -> Result<Vec<serde_json::Value>> {
    let text = std::fs::read_to_string(operator.process.log())?;
    let lines = text.lines().map(|line| {
        let parsed: serde_json::Value = serde_json::from_str(line)?;
        // A key that stands twice is lost in the parsed form.
        anyhow::ensure!(
            parsed.to_string().len() == line.len(),
            "a key stands twice: {line}"
        );
        Ok(parsed)
    });
    lines.collect()
}

async fn writes(cluster: &Cluster) -> Result<Vec<cluster::AuditEntry>> {
    let mut writes = cluster.writes_by(USER).await?;
    // Reviews of its own access are no writes to the cluster.
    writes.retain(|write| write.resource != "selfsubjectaccessreviews");
    Ok(writes)
}
