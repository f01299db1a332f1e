//! Faults between the operator and the API server, while servers are made and changed: afterwards all is as if there
//! had been none, without a hand.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cluster::eventually;
use cluster::faults::{Fault, Rule};
use futures::stream::{self, StreamExt, TryStreamExt};
use serde_json::json;

use crate::room::{Room, SOON};
use crate::state::{difference, without_history};

/// Servers in each.
const SERVERS: usize = 8;

/// Makes servers, and changes each of them.
async fn make(room: &Room) -> Result<()> {
    for number in 0..SERVERS {
        let spec =
            json!({"image": "example.com/a:1", "config": {"A": "b"}, "health": {"type": "TCP"}});
        room.create(&format!("s{number}"), spec).await?;
    }
    Ok(())
}

async fn change(room: &Room) -> Result<()> {
    for number in 0..SERVERS {
        let patch = json!({"spec": {"image": "example.com/a:2", "replicas": 2, "config": null}});
        room.patch(&format!("s{number}"), patch).await?;
    }
    room.servers().delete("s0", &Default::default()).await?;
    Ok(())
}

/// These are broken while servers are made and changed, for this time at least; then nothing is any more.
async fn survives(case: &Case, time: Duration) -> Result<()> {
    let name = case.name;
    let quiet = Room::new("quiet").await?;
    let operator = quiet.operator()?;
    make(&quiet).await?;
    quiet.settled(&operator).await?;
    change(&quiet).await?;
    let expected = without_history(quiet.settled(&operator).await?);
    operator.signal("KILL")?;

    let room = Room::new("broken").await?;
    let operator = room.operator()?;
    room.create(
        "first",
        json!({"image": "example.com/a:1", "health": {"type": "TCP"}}),
    )
    .await?;
    room.settled(&operator).await?;
    room.servers().delete("first", &Default::default()).await?;
    let start = tokio::time::Instant::now();
    for rule in (case.rules)() {
        room.proxy.add(rule);
    }
    // The watches that there are begin anew, with the fault.
    room.proxy.sever();
    make(&room).await?;
    // Half of the time each: the faults are there while both are done.
    tokio::time::sleep_until(start + time / 2).await;
    change(&room).await?;
    tokio::time::sleep_until(start + time).await;
    let broken = room.proxy.clear();
    ensure!(broken > 0, "nothing was broken");
    let healed = tokio::time::Instant::now();
    eventually("all is as if there had been no fault", SOON, || async {
        operator.alive()?;
        let state = without_history(room.state().await?);
        ensure!(state == expected, "{}", difference(&expected, &state));
        Ok(Some(()))
    })
    .await
    .with_context(|| format!("{name}: {broken} requests were broken"))?;
    println!(
        "{name}: {broken} requests broken; as it should be {:.1?} after that",
        healed.elapsed()
    );
    operator.signal("KILL")
}

/// A fault, and the rules that bring it about.
struct Case {
    name: &'static str,
    rules: fn() -> Vec<Rule>,
    /// Whether the short form has it.
    is_short: bool,
}

const CASES: &[Case] = &[
    Case {
        name: "every second request fails with 500",
        rules: || vec![Rule::all(Fault::Answer(500)).one_of(2)],
        is_short: true,
    },
    Case {
        name: "the network is gone",
        rules: || {
            let watches = Rule::all(Fault::CutAfter(Duration::from_millis(1))).verbs(&["watch"]);
            vec![Rule::all(Fault::Cut), watches]
        },
        is_short: true,
    },
    Case {
        name: "every third answer to a write is lost",
        rules: || vec![Rule::all(Fault::LoseAnswer).writes().one_of(3)],
        is_short: true,
    },
    Case {
        name: "every write gets a 429",
        rules: || vec![Rule::all(Fault::TooMany(1)).writes()],
        is_short: false,
    },
    Case {
        name: "writes conflict and are unavailable in turn",
        rules: || {
            let conflicts = Rule::all(Fault::Answer(409)).verbs(&["patch", "update"]);
            vec![
                Rule::all(Fault::Answer(503)).writes().one_of(3),
                conflicts.one_of(2),
            ]
        },
        is_short: false,
    },
    Case {
        name: "watches are cut every 200 ms, and every third expires",
        rules: || {
            let cut = Fault::CutAfter(Duration::from_millis(200));
            vec![
                Rule::all(cut).verbs(&["watch"]),
                Rule::all(Fault::Expire).verbs(&["watch"]).one_of(3),
            ]
        },
        is_short: false,
    },
    Case {
        name: "lists are of long ago",
        rules: || {
            vec![
                Rule::all(Fault::Replay).verbs(&["list"]),
                Rule::all(Fault::Expire).verbs(&["watch"]).one_of(2),
            ]
        },
        is_short: false,
    },
    Case {
        name: "the store of Events hangs",
        rules: || vec![Rule::all(Fault::Hang).of("events")],
        is_short: false,
    },
    Case {
        name: "every request takes a second longer",
        rules: || vec![Rule::all(Fault::Delay(Duration::from_secs(1)))],
        is_short: false,
    },
];

/// Faults at one time.
const AT_ONCE: usize = 3;

async fn all_survive(cases: impl Iterator<Item = &'static Case>, time: Duration) -> Result<()> {
    stream::iter(cases)
        .map(|case| survives(case, time))
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn some_faults_are_survived() -> Result<()> {
    let short = CASES.iter().filter(|case| case.is_short);
    all_survive(short, Duration::from_secs(8)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the long form: 20 rounds of all faults, or MCP_OPERATOR_FAULT_ROUNDS"]
async fn all_faults_are_survived_again_and_again() -> Result<()> {
    let rounds = std::env::var("MCP_OPERATOR_FAULT_ROUNDS");
    let rounds: usize = rounds.map_or(Ok(20), |rounds| rounds.parse())?;
    for round in 1..=rounds {
        println!("round {round} of {rounds}");
        all_survive(CASES.iter(), Duration::from_secs(20)).await?;
    }
    Ok(())
}
