//! What servers cost whose pods never get ready, once nothing changes any more.

use std::time::{Duration, Instant};

use anyhow::Result;
use cluster::fake_kubelet::ANNOTATION;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::{Report, figure, mebibytes, operators};
use crate::args::Args;
use crate::counter::Counter;
use crate::program::Program;
use crate::requests::kind;
use crate::servers::{self, NAMESPACE, SeenPod};
use crate::sitting::{Subject, sit};
use crate::stand::Stand;
use crate::table::Sample;
use crate::{process, progress};

/// An operator may tell of a pod that has not started after a minute, and that is no steady state.
const BEFORE: Duration = Duration::from_mins(2);
/// What is measured.
const WINDOW: Duration = Duration::from_mins(1);

pub(super) async fn run(args: &Args, programs: &[Program]) -> Result<Report> {
    let number = args.servers();
    let window = if args.short { WINDOW / 3 } else { WINDOW };
    let measure = async |subject: &Subject| never_ready(subject, number, window).await;
    let columns = sit("never-ready", 1, &operators(programs), measure).await?;
    let about = format!(
        "{number} servers whose pods run and never get ready: {} s of steady state, which begin {} s after the last \
         pod runs. One run.",
        window.as_secs(),
        BEFORE.as_secs()
    );
    Ok(Report { about, columns })
}

/// A server whose pods never get ready.
fn object(name: &str) -> Value {
    let mut object = servers::object(name);
    let annotations = json!({ANNOTATION: "not-ready"});
    object["spec"]["podTemplate"] = json!({"metadata": {"annotations": annotations}});
    object
}

async fn never_ready(subject: &Subject, number: usize, window: Duration) -> Result<Sample> {
    Stand::with(subject, async |stand| {
        stand.warm_up().await?;
        let mut pods = Counter::start("pods run", stand.api(), SeenPod::is_running).await?;
        let create = stand.create(0, number, object);
        tokio::try_join!(create, pods.reaches(number))?;
        progress::window(BEFORE, "before the steady state").await;
        let id = stand.operator()?.id();
        let (start, time, before) = (Instant::now(), Timestamp::now(), process::cpu(id)?);
        progress::window(window, "the steady state").await;
        let (took, used) = (start.elapsed(), process::cpu_since(id, before)?);
        let requests = stand.requests.since(time)?;
        let minutes = took.as_secs_f64() / 60.0;
        let count = |write: bool| {
            let here = requests.iter().filter(|one| one.namespace == NAMESPACE);
            figure(here.filter(|one| one.is_write() == write).count()) / minutes
        };
        if let Some(last) = requests.last() {
            progress::note(format!("the last request: {} {}", kind(last), last.name));
        }
        Ok(vec![
            ("writes a minute".to_owned(), count(true)),
            ("reads a minute".to_owned(), count(false)),
            (
                "CPU, % of a core".to_owned(),
                100.0 * used.as_secs_f64() / took.as_secs_f64(),
            ),
            (
                "resident, MiB".to_owned(),
                mebibytes(process::memory(id)?.rss),
            ),
        ])
    })
    .await
}
