//! Tenants who send the worst objects that the API server takes, as dry runs: what that costs in memory, and others.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures::future::join_all;
use http::Request;
use hyper::body::Bytes;
use kube::Client;
use serde_json::{Value, json};

use super::{Report, figure, mebibytes, operators};
use crate::args::Args;
use crate::figures::Figures;
use crate::program::Program;
use crate::servers::{self, NAMESPACE};
use crate::sitting::{Subject, sit};
use crate::stand::Stand;
use crate::table::Sample;
use crate::wire::Wire;
use crate::{process, progress, reviews};

/// Who sends them at once.
const CLIENTS: usize = 100;
/// For how long; and how long it is waited after that.
const WINDOW: Duration = Duration::from_mins(1);
/// How often memory is looked at, and an ordinary review is sent.
const LOOK: Duration = Duration::from_millis(100);

pub(super) async fn run(args: &Args, programs: &[Program]) -> Result<Report> {
    let window = if args.short { WINDOW / 6 } else { WINDOW };
    let measure = async |subject: &Subject| flood(subject, window).await;
    let columns = sit("flood", 1, &operators(programs), measure).await?;
    let about = format!(
        "{CLIENTS} clients send dry runs of the worst objects for {0} s: a spec of 400,000 empty strings, one of 100,000 \
         config keys, one nested 220 levels deep, one of 18,000 values and 0.9 MiB that is good. Beside them an ordinary \
         review is sent to the webhook itself, again and again: what the API server takes is not in its time. Then {0} s of \
         rest.",
        window.as_secs()
    );
    Ok(Report { about, columns })
}

/// The worst objects, as text: making them is to take nothing from what is measured.
fn worst() -> Vec<Bytes> {
    let with = |name: &str, change: Value| {
        let mut object = servers::object(name);
        for (field, value) in change.as_object().into_iter().flatten() {
            object["spec"][field] = value.clone();
        }
        Bytes::from(object.to_string())
    };
    let config: Value = (0..100_000)
        .map(|index| (format!("k{index}"), json!("")))
        .collect();
    let deep = (0..220).fold(json!({}), |inner, _| json!({"a": inner}));
    let env: Vec<_> = (0..6_000)
        .map(|index| json!({"name": format!("E{index}"), "value": "x".repeat(120)}))
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

/// Whether it is answered well is not what is measured.
async fn send(client: Client, object: Bytes) {
    let path =
        format!("/apis/mcp.example.com/v1alpha1/namespaces/{NAMESPACE}/mcpservers?dryRun=All");
    let request = Request::post(path)
        .header("content-type", "application/json")
        .body(object.to_vec());
    if let Ok(request) = request {
        let _ = client.request_text(request).await;
    }
}

async fn flood(subject: &Subject, window: Duration) -> Result<Sample> {
    Stand::with(subject, async |stand| {
        stand.warm_up().await?;
        let (id, port) = (stand.operator()?.id(), stand.operator()?.port());
        let wire = Wire::of_operator(stand.cluster.client(), port).await?;
        let ordinary = wire.from(9).http2().await?;
        let before = process::memory(id)?;
        progress::note(format!("sending for {} s", window.as_secs()));
        let (worst, end) = (worst(), Instant::now() + window);
        let stand = &*stand;
        let floods = join_all((0..CLIENTS).map(|index| {
            let worst = &worst;
            async move {
                let mut turn = index;
                while Instant::now() < end {
                    let object = worst[turn % worst.len()].clone();
                    // The API server may take longer for those that it has.
                    let sent = send(stand.connections.nth(index), object);
                    let sent = tokio::time::timeout_at(end.into(), sent).await;
                    turn += usize::from(sent.is_ok());
                }
                turn - index
            }
        }));
        let (mut times, mut failed, mut most) = (Vec::new(), 0, 0);
        let beside = async {
            let review = reviews::ordinary();
            while Instant::now() < end {
                let start = Instant::now();
                let path = mcp_operator::admission::VALIDATE_PATH;
                let answer = ordinary.post(path, review.clone()).await;
                if !answer.is_ok_and(|(_, body)| reviews::is_allowed(&body)) {
                    failed += 1;
                }
                times.push(start.elapsed().as_secs_f64());
                most = most.max(process::memory(id)?.rss);
                tokio::time::sleep(LOOK).await;
            }
            anyhow::Ok(())
        };
        let (sent, beside) = futures::join!(floods, beside);
        beside?;
        let number = times.len();
        ensure!(number > 0, "no ordinary review was sent");
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
            (
                "worst objects answered".to_owned(),
                figure(sent.iter().sum()),
            ),
            ("ordinary reviews".to_owned(), figure(number)),
            ("of these failed".to_owned(), figure(failed)),
            (
                "time of an ordinary review, p99, s".to_owned(),
                Figures(times.clone()).percentile(0.99),
            ),
            (
                "time of an ordinary review, longest, s".to_owned(),
                Figures(times).percentile(1.0),
            ),
        ])
    })
    .await
}
