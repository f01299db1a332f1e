//! The operator's memory, and what a restart costs.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cluster::eventually;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::jiff::Timestamp;
use kube::Api;

use super::{Report, figure, mebibytes, operators};
use crate::args::Args;
use crate::install::OWN;
use crate::program::Program;
use crate::servers::{self, NAMESPACE};
use crate::sitting::{Subject, sit};
use crate::stand::Stand;
use crate::table::Sample;
use crate::{process, progress};

/// Servers of a small cluster.
const FEW: usize = 35;
/// The Lease of the operator that reconciles.
const LEASE: &str = "mcp-operator";
/// CPU time in a second, below which a process does nothing.
const IDLE: Duration = Duration::from_millis(20);
/// How often it is looked.
const PAUSE: Duration = Duration::from_millis(100);
/// How long a restart may take.
const LIMIT: Duration = Duration::from_mins(10);

pub(super) async fn run(args: &Args, programs: &[Program]) -> Result<Report> {
    let number = args.servers();
    let measure = async |subject: &Subject| memory(subject, number).await;
    let columns = sit("memory", 1, &operators(programs), measure).await?;
    let about = format!(
        "Memory of the operator, in MiB: resident, with a share of what others map (PSS), and the most that was ever \
         resident; then a restart by SIGTERM onto {number} settled servers, timed from the new process's start. \
         One run."
    );
    Ok(Report { about, columns })
}

async fn memory(subject: &Subject, number: usize) -> Result<Sample> {
    let Subject::Operator(program) = subject else {
        anyhow::bail!("the floor has no operator");
    };
    Stand::with(subject, async |stand| {
        let mut sample = Sample::new();
        settle(stand).await?;
        sample.extend(rows("empty", stand)?);
        let mut ready = stand.ready(NAMESPACE).await?;
        let few = FEW.min(number);
        for (from, to) in [(0, few), (few, number)] {
            let create = stand.create(from, to - from, servers::object);
            tokio::try_join!(create, ready.reaches(to))?;
            settle(stand).await?;
            sample.extend(rows(&format!("{to} servers"), stand)?);
        }

        progress::note("restarting the operator");
        let (start, time) = (Instant::now(), Timestamp::now());
        stand.restart(program).await?;
        let ended = start.elapsed();
        until_it_leads(stand).await?;
        let id = stand.operator()?.id();
        let ((), idle) = tokio::try_join!(stand.requests.until_quiet(), until_idle(id))?;
        sample.extend(restart_rows(stand, time + ended, idle)?);
        Ok(sample)
    })
    .await
}

/// Waits until the operator makes no request and uses no CPU.
async fn settle(stand: &mut Stand) -> Result<()> {
    let id = stand.operator()?.id();
    tokio::try_join!(stand.requests.until_quiet(), until_idle(id))?;
    Ok(())
}

/// Waits for a second in which this process uses no CPU worth the name; gives its begin.
async fn until_idle(id: u32) -> Result<Timestamp> {
    let start = Instant::now();
    let (mut begin, mut since, mut before) = (Timestamp::now(), start, process::cpu(id)?);
    while since.elapsed() < Duration::from_secs(1) {
        ensure!(
            start.elapsed() < LIMIT,
            "the operator has not been idle for {LIMIT:?}"
        );
        tokio::time::sleep(PAUSE).await;
        if process::cpu_since(id, before)? >= IDLE {
            (begin, since, before) = (Timestamp::now(), Instant::now(), process::cpu(id)?);
        }
    }
    Ok(begin)
}

/// Waits until the Lease has a holder: the operator that ended has let it go.
async fn until_it_leads(stand: &Stand) -> Result<()> {
    stand.operator()?.until_ready().await?;
    let leases: Api<Lease> = Api::namespaced(stand.cluster.client(), OWN);
    eventually("the operator leads", LIMIT, || async {
        let spec = leases.get(LEASE).await?.spec;
        let holder = spec.and_then(|spec| spec.holder_identity);
        Ok(holder.filter(|holder| !holder.is_empty()).map(|_| ()))
    })
    .await
}

fn rows(when: &str, stand: &Stand) -> Result<Sample> {
    let memory = process::memory(stand.operator()?.id())?;
    Ok(vec![
        (format!("{when}: resident"), mebibytes(memory.rss)),
        (format!("{when}: PSS"), mebibytes(memory.pss)),
        (format!("{when}: peak"), mebibytes(memory.peak)),
    ])
}

/// About the operator that was started at this time.
fn restart_rows(stand: &mut Stand, started: Timestamp, idle: Timestamp) -> Result<Sample> {
    let when = "after the restart";
    let mut sample = rows(when, stand)?;
    let used = process::cpu(stand.operator()?.id())?;
    let requests = stand.requests.since(started)?;
    let last = requests.last().context("the operator asked for nothing")?;
    let writes = requests
        .iter()
        .filter(|request| request.namespace == NAMESPACE && request.is_write());
    let since_start = |time: Timestamp| time.duration_since(started).as_secs_f64();
    sample.extend([
        (
            format!("{when}: until the last request, s"),
            since_start(last.time),
        ),
        (format!("{when}: until it is idle, s"), since_start(idle)),
        (format!("{when}: CPU until then, s"), used.as_secs_f64()),
        (format!("{when}: requests"), figure(requests.len())),
        (format!("{when}: writes"), figure(writes.count())),
    ]);
    Ok(sample)
}
