//! What can be measured.

mod churn;
mod converge;
mod creates;
mod failing;
mod flood;
mod hostile;
mod memory;
mod never_ready;
mod paused;
mod requests;
mod reviews;
mod ways;

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::args::{Args, Scenario};
use crate::floor::Way;
use crate::program::Program;
use crate::sitting::{FLOOR, Subject};
use crate::stand::Cpu;
use crate::table::{self, Measured, Sample};
use crate::{machine, progress};

/// The title of the operator that is measured.
const OPERATOR: &str = "operator";
/// The title of the one that it is compared with.
const AGAINST: &str = "against";

/// What a scenario measured.
struct Report {
    /// A sentence on what was done.
    about: String,
    columns: Vec<Measured>,
}

/// Runs the scenarios that were asked for.
pub(crate) async fn run(args: &Args) -> Result<()> {
    let programs = programs(args).await?;
    println!("{}", machine::table(&programs).await?);
    for scenario in args.chosen() {
        let report = match scenario {
            Scenario::Converge => Box::pin(converge::run(args, &programs)).await,
            Scenario::Paused => Box::pin(paused::run(args, &programs)).await,
            Scenario::Ways => Box::pin(ways::run(args, &programs)).await,
            Scenario::Requests => Box::pin(requests::run(args, &programs)).await,
            Scenario::Memory => Box::pin(memory::run(args, &programs)).await,
            Scenario::NeverReady => Box::pin(never_ready::run(args, &programs)).await,
            Scenario::Churn => Box::pin(churn::run(args, &programs)).await,
            Scenario::Failing => Box::pin(failing::run(args, &programs)).await,
            Scenario::Creates => Box::pin(creates::run(args, &programs)).await,
            Scenario::Reviews => Box::pin(reviews::run(args)).await,
            Scenario::Hostile => Box::pin(hostile::run(args, &programs)).await,
            Scenario::Flood => Box::pin(flood::run(args, &programs)).await,
        };
        println!("{}", report?.shown(scenario));
    }
    Ok(())
}

impl Report {
    fn shown(&self, scenario: Scenario) -> String {
        let floor = self.columns.iter().any(|column| column.title == FLOOR);
        let base = if floor { FLOOR } else { AGAINST };
        let table = table::markdown(&self.columns, base);
        format!("## {}\n\n{}\n\n{table}", scenario.name(), self.about)
    }
}

/// The operator, and the one that it is compared with.
async fn programs(args: &Args) -> Result<Vec<Program>> {
    let path = if let Some(path) = &args.operator {
        Program::there(path)?
    } else {
        progress::step("building the operator in release");
        Program::build().await?
    };
    let program = |title: &str, path: &Path| Program {
        title: title.to_owned(),
        path: path.to_owned(),
    };
    let mut programs = vec![program(OPERATOR, &path)];
    if let Some(against) = &args.against {
        let against = Program::there(against)?;
        ensure!(against != path, "{} against itself", path.display());
        programs.push(program(AGAINST, &against));
    }
    Ok(programs)
}

/// The operators.
fn operators(programs: &[Program]) -> Vec<Subject> {
    programs.iter().cloned().map(Subject::Operator).collect()
}

/// The floor and the operators.
fn with_floor(programs: &[Program]) -> Vec<Subject> {
    let floor = programs.first().cloned();
    let floor = floor.map(|program| Subject::Floor(program, Way::Post));
    floor.into_iter().chain(operators(programs)).collect()
}

/// How a figure of several runs is to be read.
fn runs(number: usize) -> String {
    match number {
        1 => "One run.".to_owned(),
        _ => format!("{number} runs: median (min–max)."),
    }
}

/// As a figure.
#[expect(clippy::cast_precision_loss, reason = "no count is that large")]
fn figure(count: usize) -> f64 {
    count as f64
}

/// What was used in this time, a server; and how busy the machine was with other things.
fn cpu_rows(used: Cpu, time: Duration, servers: usize) -> Sample {
    let each = |time: Duration| time.as_secs_f64() * 1000.0 / figure(servers);
    let mut rows = vec![
        (
            "CPU of all parts, ms a server".to_owned(),
            each(used.all_parts),
        ),
        (
            "CPU of kube-apiserver and etcd, ms a server".to_owned(),
            each(used.control_plane),
        ),
    ];
    let operator = used.operator.map(each);
    rows.extend(operator.map(|each| ("CPU of the operator, ms a server".to_owned(), each)));
    rows.push((
        "cores that other programs took".to_owned(),
        used.others.as_secs_f64() / time.as_secs_f64(),
    ));
    rows
}

/// KiB as MiB.
#[expect(clippy::cast_precision_loss, reason = "no memory is that large")]
fn mebibytes(kibibytes: u64) -> f64 {
    kibibytes as f64 / 1024.0
}
