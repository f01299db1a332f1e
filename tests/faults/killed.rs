//! The operator is killed right before and right after each of its writes. The next one brings it to the same end.

use std::sync::{Arc, OnceLock};

use anyhow::{Context, Result, ensure};
use cluster::eventually;
use cluster::faults::{Fault, Request, Rule};
use cluster::process::Process;
use futures::stream::{self, StreamExt, TryStreamExt};
use mcp_operator::api::v1alpha1::Phase;

use crate::room::{Room, SOON};
use crate::scenarios::{self, Scenario};
use crate::state::{State, difference, without_counts};

/// Runs at one time.
const AT_ONCE: usize = 4;

/// Where the operator is killed.
#[derive(Clone, Copy, Debug)]
enum Side {
    Before,
    After,
}

/// How a scenario ends when nobody is in its way.
struct Undisturbed {
    state: State,
    events: std::collections::BTreeMap<String, usize>,
    writes: Vec<Request>,
}

async fn undisturbed(scenario: &Scenario) -> Result<Undisturbed> {
    let room = Room::new("quiet").await?;
    let operator = room.operator()?;
    (scenario.before)(&room).await?;
    begin(&room, &operator).await?;
    room.writes();
    (scenario.act)(&room).await?;
    let state = eventually("it has come to its end", SOON, || async {
        let state = without_counts(room.settled(&operator).await?);
        ensure!((scenario.ends)(&state), "{state:?}");
        Ok(Some(state))
    })
    .await?;
    let (events, writes) = (room.events().await?, room.writes());
    operator.signal("KILL")?;
    Ok(Undisturbed {
        state,
        events,
        writes,
    })
}

/// Waits until what was there before is settled. A server in a stranger's way never is Ready.
async fn begin(room: &Room, operator: &Process) -> Result<()> {
    eventually("what is there before has a status", SOON, || async {
        operator.alive()?;
        let servers = room.servers().list(&Default::default()).await?;
        for server in &servers {
            let status = server.status.clone().unwrap_or_default();
            ensure!(
                status.observed_generation == server.metadata.generation,
                "{status:?}"
            );
            let phase = status.phase.map(Phase::as_str);
            let conflict = status
                .conditions
                .iter()
                .any(|condition| condition.reason == "NameConflict");
            ensure!(phase == Some("Ready") || conflict, "{status:?}");
        }
        Ok(Some(()))
    })
    .await
}

/// The same, killed at this write. Whether it came to that.
async fn disturbed(
    scenario: &Scenario,
    expected: &Undisturbed,
    nth: usize,
    side: Side,
) -> Result<bool> {
    let room = Room::new("killed").await?;
    let first = room.operator()?;
    (scenario.before)(&room).await?;
    begin(&room, &first).await?;
    // What comes beside the passes of the beginning would be counted.
    eventually("nothing is written any more", SOON, || async {
        Ok(room.writes().is_empty().then_some(()))
    })
    .await?;
    let victim = Arc::new(OnceLock::new());
    victim.set(first.clone()).ok();
    let kill = Arc::new(move || {
        if let Some(process) = victim.get() {
            // It may have ended by itself, which is found out below.
            let _ = process.signal("KILL");
        }
    });
    let fault = match side {
        Side::Before => Fault::Before(kill),
        Side::After => Fault::After(kill),
    };
    room.proxy
        .add(Rule::all(fault).writes().within(&room.namespace).nth(nth));
    (scenario.act)(&room).await?;
    let same = async |operator: &Process| {
        operator.alive()?;
        let state = without_counts(room.state().await?);
        ensure!(
            state == expected.state,
            "{}",
            difference(&expected.state, &state)
        );
        anyhow::Ok(())
    };
    // The state may be as it is to be before the kill: after the last write, it is.
    let was_killed = eventually("it is killed, or all is done", SOON, || async {
        if first.end().is_some() {
            return Ok(Some(true));
        }
        same(&first).await?;
        let written = room.proxy.done();
        Ok((written == 0).then_some(false))
    })
    .await?;
    room.proxy.clear();
    let second = if was_killed { room.operator()? } else { first };
    eventually("it ends as if nothing had happened", SOON, || async {
        same(&second).await.map(Some)
    })
    .await?;
    let events = room.events().await?;
    for (what, count) in &events {
        let most = expected.events.get(what).copied().unwrap_or_default() + 1;
        ensure!(*count <= most, "{what} was told {count} times");
    }
    // Nothing of it is in anybody's way in later runs.
    second.signal("KILL")?;
    Ok(was_killed)
}

/// Which of the runs are made.
async fn killed_at_every_write(every: usize) -> Result<()> {
    let mut told = Vec::new();
    for scenario in scenarios::ALL {
        let expected = undisturbed(scenario)
            .await
            .with_context(|| format!("{}, undisturbed", scenario.name))?;
        let n = expected.writes.len();
        let runs: Vec<_> = (1..=n)
            .flat_map(|nth| [(nth, Side::Before), (nth, Side::After)])
            .step_by(every)
            .collect();
        let expected = &expected;
        let results: Vec<bool> = stream::iter(runs)
            .map(|(nth, side)| async move {
                disturbed(scenario, expected, nth, side)
                    .await
                    .with_context(|| {
                        let write = &expected.writes[nth - 1];
                        format!(
                            "{}, killed {side:?} write {nth} of {n} ({write})",
                            scenario.name
                        )
                    })
            })
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await?;
        let killed = results.iter().filter(|killed| **killed).count();
        let writes: Vec<_> = expected.writes.iter().map(ToString::to_string).collect();
        let line = format!(
            "{}: {n} writes ({}); killed in {killed} of {} runs, all ended the same",
            scenario.name,
            writes.join(", "),
            results.len()
        );
        println!("{line}");
        ensure!(
            killed > 0 || n == 0,
            "{}: it was never killed",
            scenario.name
        );
        told.push(line);
    }
    println!("{}", told.join("\n"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_some_writes_it_ends_the_same() -> Result<()> {
    killed_at_every_write(9).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "minutes: the long form"]
async fn killed_at_every_write_it_ends_the_same() -> Result<()> {
    killed_at_every_write(1).await
}
