//! A pod that means harm: it keeps connections and uploads open, while the API server asks for verdicts.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures::future::join_all;
use kube::api::{DynamicObject, PostParams};
use kube::{Api, Client};

use super::{Report, figure, mebibytes, operators};
use crate::args::Args;
use crate::figures::Figures;
use crate::program::Program;
use crate::servers::{self, NAMESPACE, kind};
use crate::sitting::{Subject, sit};
use crate::stand::Stand;
use crate::table::Sample;
use crate::wire::Wire;
use crate::{process, progress};

/// HTTP/2 connections that are kept open, each with one request made.
const IDLE: usize = 600;
/// Uploads that do not get on, at a time: from each of these peers.
const UPLOADS: usize = 16;
const PEERS: u8 = 4;
/// What each announces, in bytes, and what it sends of it.
const ANNOUNCED: usize = 8 << 20;
const SENT: usize = 2 << 20;
/// How long the uploads stay.
const PATIENCE: Duration = Duration::from_secs(4);
/// Admissions beside it.
const ADMISSIONS: usize = 10_000;
const FEW_ADMISSIONS: usize = 500;
/// How often memory is looked at.
const LOOK: Duration = Duration::from_millis(50);
/// How long it is waited afterwards.
const REST: Duration = Duration::from_mins(1);

pub(super) async fn run(args: &Args, programs: &[Program]) -> Result<Report> {
    let (admissions, rest) = if args.short {
        (FEW_ADMISSIONS, REST / 6)
    } else {
        (ADMISSIONS, REST)
    };
    let measure = async |subject: &Subject| hostile(subject, admissions, rest).await;
    let columns = sit("hostile", 1, &operators(programs), measure).await?;
    let about = format!(
        "One peer keeps {IDLE} HTTP/2 connections open, each with one request made, and opens new ones for those that are \
         closed; {PEERS} others announce {} MiB {UPLOADS} times each, send {} of them, and wait. Beside them {admissions} \
         dry runs through the API server, one after the other on each of 16 connections. Then {} s of rest.",
        ANNOUNCED >> 20,
        SENT >> 20,
        rest.as_secs()
    );
    Ok(Report { about, columns })
}

async fn hostile(subject: &Subject, admissions: usize, rest: Duration) -> Result<Sample> {
    Stand::with(subject, async |stand| {
        stand.warm_up().await?;
        let (id, port) = (stand.operator()?.id(), stand.operator()?.port());
        let wire = Wire::of_operator(stand.cluster.client(), port).await?;
        let before = process::memory(id)?;
        progress::note("keeping connections open");
        let (opened, failed, most) = (
            AtomicUsize::new(0),
            AtomicUsize::new(0),
            AtomicUsize::new(0),
        );
        let harm = async {
            let idle = join_all((0..IDLE).map(|_| keep_open(wire.from(2), &opened)));
            let uploads = (0..PEERS).flat_map(|peer| (0..UPLOADS).map(move |_| 3 + peer));
            let uploads = join_all(uploads.map(|peer| keep_uploading(wire.from(peer))));
            futures::join!(idle, uploads);
        };
        let watch = async {
            loop {
                if let Ok(memory) = process::memory(id) {
                    let rss = usize::try_from(memory.rss).unwrap_or(usize::MAX);
                    most.fetch_max(rss, Ordering::Relaxed);
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        let times = std::sync::Mutex::new(Vec::new());
        let ask = async {
            // Once it has begun to hurt.
            while opened.load(Ordering::Relaxed) < IDLE {
                tokio::time::sleep(LOOK).await;
            }
            progress::note(format!("asking for {admissions} verdicts beside them"));
            let admit = async |client: Client, index: usize| {
                let start = Instant::now();
                if let Err(error) = dry_run(client, index).await {
                    progress::note(format!("{error}"));
                    failed.fetch_add(1, Ordering::Relaxed);
                }
                times
                    .lock()
                    .unwrap_or_else(std::sync::PoisonError::into_inner)
                    .push(start.elapsed().as_secs_f64());
                Ok(())
            };
            stand.connections.each(admissions, admit).await
        };
        tokio::select! {
            () = harm => {}
            () = watch => {}
            asked = ask => asked?,
        }
        progress::window(rest, "rest").await;
        let after = process::memory(id)?;
        let times = times.into_inner().unwrap_or_default();
        ensure!(times.len() == admissions, "{} were asked for", times.len());
        Ok(vec![
            ("resident before, MiB".to_owned(), mebibytes(before.rss)),
            (
                "resident meanwhile at most, MiB".to_owned(),
                mebibytes(most.into_inner() as u64),
            ),
            (
                "resident after the rest, MiB".to_owned(),
                mebibytes(after.rss),
            ),
            ("connections opened".to_owned(), figure(opened.into_inner())),
            ("admissions".to_owned(), figure(admissions)),
            ("of these failed".to_owned(), figure(failed.into_inner())),
            (
                "time of one, p99, s".to_owned(),
                Figures(times).percentile(0.99),
            ),
        ])
    })
    .await
}

/// Keeps a connection open, and opens another one whenever it is closed.
async fn keep_open(wire: Wire, opened: &AtomicUsize) {
    loop {
        if let Ok(client) = wire.http2().await {
            // Any answer will do.
            let _ = client.post("/nowhere", "{}".into()).await;
            opened.fetch_add(1, Ordering::Relaxed);
            while !client.is_closed() {
                tokio::time::sleep(LOOK).await;
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn keep_uploading(wire: Wire) {
    loop {
        if let Ok(stuck) = wire
            .stuck(mcp_operator::admission::VALIDATE_PATH, ANNOUNCED, SENT)
            .await
        {
            tokio::time::sleep(PATIENCE).await;
            drop(stuck);
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn dry_run(client: Client, index: usize) -> Result<()> {
    let api: Api<DynamicObject> = Api::namespaced_with(client, NAMESPACE, &kind());
    let object = serde_json::from_value(servers::object(&servers::name(index)))?;
    let params = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    api.create(&params, &object).await?;
    Ok(())
}
