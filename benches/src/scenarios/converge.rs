//! From the first create until all servers are Ready; and all pods, on the floor.

use std::time::Instant;

use anyhow::Result;
use cluster::AuditEntry;
use k8s_openapi::jiff::Timestamp;

use super::{Report, cpu_rows, runs, with_floor};
use crate::args::Args;
use crate::program::Program;
use crate::servers::{self, NAMESPACE};
use crate::sitting::{Subject, sit};
use crate::stand::Stand;
use crate::table::Sample;

pub(super) async fn run(args: &Args, programs: &[Program]) -> Result<Report> {
    let number = args.servers();
    let measure = async |subject: &Subject| Ok(converge(subject, number).await?.sample);
    let columns = sit("converge", args.runs(), &with_floor(programs), measure).await?;
    let about = format!(
        "{number} servers with 3 children each, created on 16 connections: until all are Ready; \
         on the floor until all pods are. {}",
        runs(args.runs())
    );
    Ok(Report { about, columns })
}

/// What came of it.
pub(super) struct Converged {
    pub(super) sample: Sample,
    /// The operator's from the first create on, until it was quiet.
    pub(super) requests: Vec<AuditEntry>,
}

/// Has so many servers made on a fresh cluster.
pub(super) async fn converge(subject: &Subject, number: usize) -> Result<Converged> {
    Stand::with(subject, async |stand| {
        stand.warm_up().await?;
        let mut ready = stand.ready(NAMESPACE).await?;
        let (start, time) = (Instant::now(), Timestamp::now());
        let before = stand.cpu()?;
        let create = async {
            stand.create(0, number, servers::object).await?;
            Ok(start.elapsed())
        };
        let (created, ()) = tokio::try_join!(create, ready.reaches(number))?;
        let took = start.elapsed();
        stand.requests.until_quiet().await?;
        let (used, watched) = (stand.cpu()?.since(before), start.elapsed());
        let mut sample = vec![
            ("time, s".to_owned(), took.as_secs_f64()),
            ("until all are created, s".to_owned(), created.as_secs_f64()),
        ];
        sample.extend(cpu_rows(used, watched, number));
        Ok(Converged {
            sample,
            requests: stand.requests.since(time)?,
        })
    })
    .await
}
