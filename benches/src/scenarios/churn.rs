//! Many changes: how long each takes to reach its Deployment.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::StreamExt;
use k8s_openapi::api::apps::v1::Deployment;
use kube::api::{DynamicObject, ObjectMeta, Patch, PatchParams};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Resource};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};

use super::{Report, figure, mebibytes, operators};
use crate::args::Args;
use crate::figures::Figures;
use crate::process;
use crate::program::Program;
use crate::progress::{self, Progress};
use crate::servers::{self, NAMESPACE};
use crate::sitting::{Subject, sit};
use crate::stand::Stand;
use crate::table::Sample;

/// How long changes are made.
const LENGTH: Duration = Duration::from_mins(5);
/// The same of the short form.
const SHORT: Duration = Duration::from_secs(20);
/// The environment variable that is changed.
const VARIABLE: &str = "CHANGE";
/// Changes that may wait for an answer at once; with more, no new ones are made.
const IN_FLIGHT: usize = 500;
/// How long the last changes may take.
const LIMIT: Duration = Duration::from_mins(10);
const PAUSE: Duration = Duration::from_millis(50);

pub(super) async fn run(args: &Args, programs: &[Program]) -> Result<Report> {
    let (number, rate) = (args.half(), args.rate);
    let length = if args.short { SHORT } else { LENGTH };
    let measure = async |subject: &Subject| {
        Stand::with(subject, async |stand| {
            settle(stand, number).await?;
            if !args.rollouts {
                stand.pause_controllers().await?;
            }
            change(stand, number, rate, length).await
        })
        .await
    };
    let columns = sit("churn", 1, &operators(programs), measure).await?;
    let about = format!(
        "{rate} changes a second of an environment variable, over {} s, on {number} servers in turn, {}. The time is \
         from the answer to the change until the Deployment has it. One run.",
        length.as_secs(),
        if args.rollouts {
            "each of which rolls out pods"
        } else {
            "while kube-controller-manager is stopped"
        }
    );
    Ok(Report { about, columns })
}

/// Has the servers made, and lets them come to rest.
async fn settle(stand: &mut Stand, number: usize) -> Result<()> {
    stand.warm_up().await?;
    let mut ready = stand.ready(NAMESPACE).await?;
    let create = stand.create(0, number, servers::object);
    tokio::try_join!(create, ready.reaches(number))?;
    stand.requests.until_quiet().await
}

/// Makes the changes, and measures.
async fn change(stand: &Stand, number: usize, rate: u32, length: Duration) -> Result<Sample> {
    let id = stand.operator()?.id();
    let changes = Arc::new(Changes::default());
    let _watch = watch(stand.api(), changes.clone());
    let said = changes.clone();
    let _progress = Progress::new(move || said.far());

    let begin = process::memory(id)?;
    let mut middle = None;
    let (start, before) = (Instant::now(), process::cpu(id)?);
    let room = Arc::new(Semaphore::new(IN_FLIGHT));
    let mut work = JoinSet::new();
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / rate);
    let mut made = 0;
    while start.elapsed() < length {
        ticks.tick().await;
        let permit = room.clone().acquire_owned().await?;
        let client = stand.connections.nth(made);
        let api = Api::namespaced_with(client, NAMESPACE, &servers::kind());
        let (server, change, changes) = (made % number, made + 1, changes.clone());
        work.spawn(async move {
            let changed = change_one(&api, server, change, &changes).await;
            drop(permit);
            changed
        });
        made += 1;
        if middle.is_none() && start.elapsed() > length / 2 {
            middle = Some(process::memory(id)?);
        }
        while let Some(done) = work.try_join_next() {
            done.context("a change")??;
        }
    }
    let took = start.elapsed();
    while let Some(done) = work.join_next().await {
        done.context("a change")??;
    }
    changes.until_all_are_seen().await?;
    let used = process::cpu_since(id, before)?;
    let end = process::memory(id)?;
    let (answers, latencies) = changes.figures();
    let middle = middle.unwrap_or(begin);
    let row = |name: &str, figure: f64| (name.to_owned(), figure);
    Ok(vec![
        row("changes a second", figure(made) / took.as_secs_f64()),
        row("answer to the change, p50, ms", answers.percentile(0.5)),
        row("answer to the change, p99, ms", answers.percentile(0.99)),
        row(
            "until the Deployment has it, p50, ms",
            latencies.percentile(0.5),
        ),
        row(
            "until the Deployment has it, p99, ms",
            latencies.percentile(0.99),
        ),
        row(
            "until the Deployment has it, most, ms",
            latencies.percentile(1.0),
        ),
        row(
            "CPU of the operator, ms a change",
            used.as_secs_f64() * 1000.0 / figure(made),
        ),
        row("resident at the begin, MiB", mebibytes(begin.rss)),
        row("resident in the middle, MiB", mebibytes(middle.rss)),
        row("resident at the end, MiB", mebibytes(end.rss)),
        row("peak, MiB", mebibytes(end.peak)),
    ])
}

async fn change_one(
    api: &Api<DynamicObject>,
    server: usize,
    change: usize,
    changes: &Changes,
) -> Result<()> {
    let name = servers::name(server);
    let env = json!([{"name": VARIABLE, "value": change.to_string()}]);
    let patch = Patch::Merge(json!({"spec": {"env": env}}));
    let asked = Instant::now();
    api.patch(&name, &PatchParams::default(), &patch)
        .await
        .with_context(|| format!("changing the MCPServer {name}"))?;
    changes.answered(name, change, asked.elapsed());
    Ok(())
}

/// Watches Deployments until dropped.
fn watch(api: Api<ChangedDeployment>, changes: Arc<Changes>) -> Aborted {
    let mut objects = watcher(api, watcher::Config::default())
        .default_backoff()
        .applied_objects()
        .boxed();
    Aborted(tokio::spawn(async move {
        while let Some(object) = objects.next().await {
            match object {
                Ok(object) => {
                    if let (Some(change), Some(name)) = (object.change(), object.metadata.name) {
                        changes.seen(name, change);
                    }
                }
                Err(error) => eprintln!("watching Deployments (tries again): {error}"),
            }
        }
    }))
}

struct Aborted(JoinHandle<()>);

impl Drop for Aborted {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The changes, by their server. Each has a greater number than the one before.
#[derive(Default)]
struct Changes(Mutex<State>);

#[derive(Default)]
struct State {
    /// Answered, and not seen in the Deployment.
    waiting: HashMap<String, Vec<(usize, Instant)>>,
    /// The last that was seen in the Deployment.
    seen: HashMap<String, usize>,
    /// Milliseconds.
    answers: Vec<f64>,
    latencies: Vec<f64>,
}

impl Changes {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The API server has taken a change.
    fn answered(&self, server: String, change: usize, took: Duration) {
        let mut state = self.lock();
        state.answers.push(millis(took));
        // The watch may be faster than the answer.
        if state.seen.get(&server).is_some_and(|seen| *seen >= change) {
            state.latencies.push(0.0);
        } else {
            let waiting = state.waiting.entry(server).or_default();
            waiting.push((change, Instant::now()));
        }
    }

    /// The Deployment has a change, and with it those before.
    fn seen(&self, server: String, change: usize) {
        let now = Instant::now();
        let mut state = self.lock();
        let State {
            waiting,
            seen,
            latencies,
            ..
        } = &mut *state;
        if let Some(waiting) = waiting.get_mut(&server) {
            waiting.retain(|(one, answered)| {
                let done = *one <= change;
                if done {
                    latencies.push(millis(now - *answered));
                }
                !done
            });
        }
        seen.insert(server, change);
    }

    fn waiting(&self) -> usize {
        self.lock().waiting.values().map(Vec::len).sum()
    }

    fn far(&self) -> String {
        let waiting = self.waiting();
        format!(
            "{} changes, {waiting} of them not in the Deployment",
            self.lock().answers.len()
        )
    }

    async fn until_all_are_seen(&self) -> Result<()> {
        let start = Instant::now();
        while self.waiting() > 0 {
            ensure!(
                start.elapsed() < LIMIT,
                "{} changes are not in the Deployment after {LIMIT:?}",
                self.waiting()
            );
            tokio::time::sleep(PAUSE).await;
        }
        progress::note("the Deployments have all changes");
        Ok(())
    }

    /// Milliseconds until the answer, and from there until the Deployment had it.
    fn figures(&self) -> (Figures, Figures) {
        let state = self.lock();
        (
            Figures(state.answers.clone()),
            Figures(state.latencies.clone()),
        )
    }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// A Deployment, as far as it is looked at.
#[derive(Clone, Debug, Deserialize, Resource)]
#[resource(inherit = "Deployment")]
struct ChangedDeployment {
    metadata: ObjectMeta,
    spec: Spec,
}

#[derive(Clone, Debug, Deserialize)]
struct Spec {
    template: Template,
}

#[derive(Clone, Debug, Deserialize)]
struct Template {
    spec: PodSpec,
}

#[derive(Clone, Debug, Deserialize)]
struct PodSpec {
    containers: Vec<Container>,
}

#[derive(Clone, Debug, Deserialize)]
struct Container {
    #[serde(default)]
    env: Vec<Variable>,
}

#[derive(Clone, Debug, Deserialize)]
struct Variable {
    name: String,
    value: Option<String>,
}

impl ChangedDeployment {
    /// The last change that it has.
    fn change(&self) -> Option<usize> {
        let mut variables = self
            .spec
            .template
            .spec
            .containers
            .iter()
            .flat_map(|one| &one.env);
        let variable = variables.find(|variable| variable.name == VARIABLE)?;
        variable.value.as_ref()?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_change_settles_those_before() {
        let changes = Changes::default();
        let answered = |change| changes.answered("a".to_owned(), change, Duration::ZERO);
        answered(1);
        answered(4);
        answered(7);
        assert_eq!(changes.waiting(), 3);
        changes.seen("a".to_owned(), 4);
        assert_eq!(changes.waiting(), 1);
        changes.seen("a".to_owned(), 9);
        // Seen before it was answered.
        answered(9);
        assert_eq!(changes.waiting(), 0);
        let (answers, latencies) = changes.figures();
        assert_eq!((answers.0.len(), latencies.0.len()), (4, 4));
    }
}
