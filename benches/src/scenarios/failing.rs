//! A server that fails for ever: what it costs, and whether it slows down others.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use cluster::{Cluster, eventually};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::Api;
use kube::api::PostParams;
use serde_json::{Value, json};

use super::{Report, figure, operators, runs};
use crate::args::Args;
use crate::program::Program;
use crate::servers::{self, NAMESPACE};
use crate::sitting::{Subject, sit};
use crate::stand::Stand;
use crate::table::Sample;
use crate::{install, kubectl, progress};

/// The namespace of the server that fails, and of nothing else.
const FAILING: &str = "failing";
/// How long its requests are counted.
const WINDOW: Duration = Duration::from_mins(1);
const LIMIT: Duration = Duration::from_mins(3);

pub(super) async fn run(args: &Args, programs: &[Program]) -> Result<Report> {
    let number = args.half();
    let measure = async |subject: &Subject| {
        let mut sample = beside(subject, number, false).await?;
        sample.extend(beside(subject, number, true).await?);
        Ok(sample)
    };
    let columns = sit("failing", args.runs(), &operators(programs), measure).await?;
    let about = format!(
        "A server whose Deployment a ValidatingAdmissionPolicy refuses for ever, and {number} good ones: the time \
         until these are Ready with and without it, each on a fresh cluster, and the requests that it causes. {}",
        runs(args.runs())
    );
    Ok(Report { about, columns })
}

async fn beside(subject: &Subject, number: usize, failing: bool) -> Result<Sample> {
    let with = if failing { "with" } else { "without" };
    progress::note(format!("{with} a server that fails"));
    Stand::with(subject, async |stand| {
        stand.warm_up().await?;
        let mut failed_at = Timestamp::now();
        if failing {
            install::namespace(&stand.cluster, FAILING).await?;
            refuse(&stand.cluster).await?;
            failed_at = Timestamp::now();
            stand.create_one(FAILING, servers::object(FAILING)).await?;
            until_refused(stand).await?;
        }
        let mut ready = stand.ready(NAMESPACE).await?;
        let start = Instant::now();
        let create = stand.create(0, number, servers::object);
        tokio::try_join!(create, ready.reaches(number))?;
        let took = start.elapsed().as_secs_f64();
        let mut sample = vec![(format!("until the good ones are Ready {with} it, s"), took)];
        if failing {
            sample.extend(requests(stand, failed_at).await?);
        }
        Ok(sample)
    })
    .await
}

/// Refuses every Deployment in the namespace.
async fn refuse(cluster: &Cluster) -> Result<()> {
    let policy = json!({"apiVersion": "v1", "kind": "List", "items": [
        {
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
            "metadata": {"name": FAILING},
            "spec": {
                "matchConstraints": {
                    "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": FAILING}},
                    "resourceRules": [{"apiGroups": ["apps"], "apiVersions": ["v1"],
                        "resources": ["deployments"], "operations": ["CREATE"]}],
                },
                "validations": [{"expression": "false", "message": "never here", "reason": "Invalid"}],
            },
        },
        {
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": {"name": FAILING},
            "spec": {"policyName": FAILING, "validationActions": ["Deny"]},
        },
    ]});
    kubectl::apply(cluster, &policy.to_string()).await?;
    let deployments: Api<Deployment> = Api::namespaced(cluster.client(), FAILING);
    let dry_run = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    let probe = probe()?;
    eventually("the policy is in force", LIMIT, || async {
        match deployments.create(&dry_run, &probe).await {
            Err(kube::Error::Api(status)) if status.code == 422 => Ok(Some(())),
            other => bail!("{other:?}"),
        }
    })
    .await
}

/// A Deployment that is good in itself.
fn probe() -> Result<Deployment> {
    let labels = json!({"app": "probe"});
    let probe: Value = json!({
        "metadata": {"name": "probe"},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "a", "image": "a:1"}]},
            },
        },
    });
    Ok(serde_json::from_value(probe)?)
}

/// Waits until the operator has been refused once.
async fn until_refused(stand: &mut Stand) -> Result<()> {
    let start = Instant::now();
    while start.elapsed() < LIMIT {
        let mut requests = stand.requests.read()?.iter();
        if requests.any(|one| one.namespace == FAILING && one.code == 422) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    bail!("the operator was not refused within {LIMIT:?}")
}

/// The requests in its namespace in the first minute and in the second.
async fn requests(stand: &mut Stand, failed_at: Timestamp) -> Result<Sample> {
    let window = SignedDuration::try_from(WINDOW)?;
    let end = failed_at + window + window;
    let left = Timestamp::now().duration_until(end);
    let left = Duration::try_from(left).unwrap_or_default();
    progress::window(left, "counting the requests of the server that fails").await;
    let all = stand.requests.since(failed_at)?;
    let count = |from: Timestamp| {
        let within = |time: Timestamp| time >= from && time < from + window;
        let ours = all.iter().filter(|one| one.namespace == FAILING);
        figure(ours.filter(|one| within(one.time)).count())
    };
    Ok(vec![
        (
            "its requests in the first minute".to_owned(),
            count(failed_at),
        ),
        (
            "its requests in the second minute".to_owned(),
            count(failed_at + window),
        ),
    ])
}
