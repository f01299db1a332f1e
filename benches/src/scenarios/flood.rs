//! Tenants who send the worst objects that the API server takes, as dry runs: what that costs in memory, and others.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures::stream::{self, StreamExt, TryStreamExt};
use kube::api::{DynamicObject, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use super::{Report, figure, mebibytes, operators};
use crate::args::Args;
use crate::figures::Figures;
use crate::program::Program;
use crate::servers::{self, NAMESPACE, kind};
use crate::sitting::{Subject, sit};
use crate::stand::Stand;
use crate::table::Sample;
use crate::{process, progress};

/// Who sends them at once.
const CLIENTS: usize = 100;
/// For how long; and how long it is waited after that.
const WINDOW: Duration = Duration::from_mins(1);
/// How often memory is looked at, and an ordinary server is sent.
const LOOK: Duration = Duration::from_millis(100);

pub(super) async fn run(args: &Args, programs: &[Program]) -> Result<Report> {
    let window = if args.short { WINDOW / 6 } else { WINDOW };
    let measure = async |subject: &Subject| flood(subject, window).await;
    let columns = sit("flood", 1, &operators(programs), measure).await?;
    let about = format!(
        "{CLIENTS} clients send dry runs of the worst objects for {0} s: a spec of 400,000 empty strings, one of 100,000 \
         config keys, one nested 220 levels deep, one of 19,000 values and 1 MiB that is good. Beside them an ordinary \
         server is sent, again and again. Then {0} s of rest.",
        window.as_secs()
    );
    Ok(Report { about, columns })
}

/// The worst objects.
fn worst() -> Vec<Value> {
    let with = |name: &str, change: Value| {
        let mut object = servers::object(name);
        for (field, value) in change.as_object().into_iter().flatten() {
            object["spec"][field] = value.clone();
        }
        object
    };
    let config: Value = (0..100_000)
        .map(|index| (format!("k{index}"), json!("")))
        .collect();
    let deep = (0..220).fold(json!({}), |inner, _| json!({"a": inner}));
    let env: Vec<_> = (0..9_000)
        .map(|index| json!({"name": format!("E{index}"), "value": "x".repeat(90)}))
        .collect();
    vec![
        with("strings", json!({"args": vec![""; 400_000]})),
        with("keys", json!({"config": config})),
        with(
            "deep",
            json!({"podTemplate": {"metadata": {"annotations": deep}}}),
        ),
        with("good", json!({"env": env})),
    ]
}

async fn dry_run(client: Client, object: Value) -> Result<bool> {
    let api: Api<DynamicObject> = Api::namespaced_with(client, NAMESPACE, &kind());
    let params = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    match api.create(&params, &serde_json::from_value(object)?).await {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) => {
            // The schema, the rules and the limit refuse; so does an API server that asks in vain.
            Ok(!matches!(status.code, 500..))
        }
        Err(error) => Err(error.into()),
    }
}

async fn flood(subject: &Subject, window: Duration) -> Result<Sample> {
    Stand::with(subject, async |stand| {
        stand.warm_up().await?;
        let id = stand.operator()?.id();
        let before = process::memory(id)?;
        progress::note(format!("sending for {} s", window.as_secs()));
        let worst = worst();
        let end = Instant::now() + window;
        let stand = &*stand;
        let floods = stream::iter(0..CLIENTS)
            .map(anyhow::Ok)
            .try_for_each_concurrent(CLIENTS, |index| {
                let worst = &worst;
                async move {
                    let mut turn = index;
                    while Instant::now() < end {
                        // Whether it is answered well is not what is measured of these.
                        let object = worst[turn % worst.len()].clone();
                        let _ = dry_run(stand.connections.nth(index), object).await;
                        turn += 1;
                    }
                    Ok(())
                }
            });
        let (mut times, mut failed, mut most) = (Vec::new(), 0, 0);
        let beside = async {
            let client = stand.cluster.new_client().await?;
            while Instant::now() < end {
                let start = Instant::now();
                if !dry_run(client.clone(), servers::object("ordinary")).await? {
                    failed += 1;
                }
                times.push(start.elapsed().as_secs_f64());
                most = most.max(process::memory(id)?.rss);
                tokio::time::sleep(LOOK).await;
            }
            anyhow::Ok(())
        };
        tokio::try_join!(floods, beside)?;
        let number = times.len();
        ensure!(number > 0, "no ordinary server was sent");
        progress::window(window, "rest").await;
        let after = process::memory(id)?;
        Ok(vec![
            ("resident before, MiB".to_owned(), mebibytes(before.rss)),
            (
                "resident meanwhile at most, MiB".to_owned(),
                mebibytes(most),
            ),
            ("peak, MiB".to_owned(), mebibytes(after.peak)),
            (
                "resident after the rest, MiB".to_owned(),
                mebibytes(after.rss),
            ),
            ("ordinary reviews".to_owned(), figure(number)),
            ("of these failed".to_owned(), figure(failed)),
            (
                "time of an ordinary create, p99, s".to_owned(),
                Figures(times).percentile(0.99),
            ),
        ])
    })
    .await
}
