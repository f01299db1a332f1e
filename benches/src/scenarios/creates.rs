//! The time of a create, with and without the webhooks.

use std::time::{Duration, Instant};

use anyhow::Result;
use cluster::eventually;
use kube::api::{DynamicObject, PostParams};
use kube::{Api, ResourceExt};

use super::{Report, operators, runs};
use crate::args::Args;
use crate::figures::Figures;
use crate::program::Program;
use crate::servers::{self, NAMESPACE};
use crate::sitting::{Subject, sit};
use crate::stand::Stand;
use crate::table::Sample;
use crate::{install, progress};

const LIMIT: Duration = Duration::from_mins(3);
/// Creates one after the other, before the other way has its turn; so often each.
const IN_A_ROW: usize = 100;

pub(super) async fn run(args: &Args, programs: &[Program]) -> Result<Report> {
    let rounds = (args.half() / IN_A_ROW).max(1);
    let measure = async |subject: &Subject| creates(subject, rounds).await;
    let columns = sit("creates", args.runs(), &operators(programs), measure).await?;
    let about = format!(
        "Servers of 0 replicas are created one after the other, {IN_A_ROW} with the webhooks and {IN_A_ROW} without, {rounds} \
         times, while kube-controller-manager is stopped. {}",
        runs(args.runs())
    );
    Ok(Report { about, columns })
}

/// Waits until the API server asks the webhooks, or asks them no more: it learns a moment later.
async fn until_asked(stand: &Stand, expected: bool) -> Result<()> {
    let api: Api<DynamicObject> =
        Api::namespaced_with(stand.cluster.client(), NAMESPACE, &servers::kind());
    let object: DynamicObject = serde_json::from_value(servers::object("asked"))?;
    let params = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    eventually("the API server knows of the webhooks", LIMIT, || async {
        let created = api.create(&params, &object).await?;
        let is_asked = !created.finalizers().is_empty();
        Ok((is_asked == expected).then_some(()))
    })
    .await
}

async fn creates(subject: &Subject, rounds: usize) -> Result<Sample> {
    let Subject::Operator(program) = subject else {
        anyhow::bail!("the floor has no webhooks");
    };
    Stand::with(subject, async |stand| {
        stand.warm_up().await?;
        stand.pause_controllers().await?;
        let (mut with, mut without, mut index) = (Vec::new(), Vec::new(), 0);
        for round in 0..rounds {
            progress::note(format!("round {} of {rounds}", round + 1));
            for webhooks in [round % 2 == 0, round % 2 != 0] {
                if webhooks {
                    install::webhooks(&stand.cluster, program, stand.operator()?.port()).await?;
                    stand.operator()?.until_ready().await?;
                } else {
                    install::no_webhooks(&stand.cluster).await?;
                }
                until_asked(stand, webhooks).await?;
                let times = if webhooks { &mut with } else { &mut without };
                for _ in 0..IN_A_ROW {
                    let mut object = servers::object(&servers::name(index));
                    object["spec"]["replicas"] = 0.into();
                    index += 1;
                    let start = Instant::now();
                    servers::create(stand.connections.nth(0), NAMESPACE, object).await?;
                    times.push(start.elapsed().as_secs_f64() * 1000.0);
                }
                // What was created is to be done with before the other way has its turn.
                stand.requests.until_quiet().await?;
            }
        }
        let (with, without) = (Figures(with), Figures(without));
        let row = |text: &str, of: &Figures, share: f64| (text.to_owned(), of.percentile(share));
        let (p99, base) = (with.percentile(0.99), without.percentile(0.99));
        Ok(vec![
            row("with webhooks, p50, ms", &with, 0.5),
            row("with webhooks, p99, ms", &with, 0.99),
            row("without, p50, ms", &without, 0.5),
            row("without, p99, ms", &without, 0.99),
            ("p99 with over p99 without".to_owned(), p99 / base),
        ])
    })
    .await
}
