//! What a way of writing children costs the API server: the floor's client, in three ways.

use anyhow::Result;

use super::{Report, paused, runs};
use crate::args::Args;
use crate::floor::Way;
use crate::program::Program;
use crate::sitting::{Subject, sit};

pub(super) async fn run(args: &Args, programs: &[Program]) -> Result<Report> {
    let number = args.servers();
    let program = programs.first().cloned();
    let floor = |way: Way| program.clone().map(|program| Subject::Floor(program, way));
    let subjects: Vec<_> = [Way::Post, Way::Apply, Way::GetThenApply]
        .into_iter()
        .filter_map(floor)
        .collect();
    let measure = async |subject: &Subject| paused::paused(subject, number).await;
    let columns = sit("ways", args.runs(), &subjects, measure).await?;
    let about = format!(
        "{number} servers with 3 children each, written by a plain client on 16 connections while \
         kube-controller-manager is stopped: children by POST (the floor), by server-side apply, and by a GET and then \
         server-side apply. {}",
        runs(args.runs())
    );
    Ok(Report { about, columns })
}
