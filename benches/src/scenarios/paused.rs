//! The operator's own part: with kube-controller-manager stopped, nothing becomes of the children.

use std::time::Instant;

use anyhow::Result;

use super::{Report, cpu_rows, runs, with_floor};
use crate::args::Args;
use crate::counter::Counter;
use crate::program::Program;
use crate::servers::{self, SeenConfigMap, SeenDeployment, SeenServer, SeenService, is_of_ours};
use crate::sitting::{Subject, sit};
use crate::stand::Stand;
use crate::table::Sample;

pub(super) async fn run(args: &Args, programs: &[Program]) -> Result<Report> {
    let number = args.servers();
    let measure = async |subject: &Subject| paused(subject, number).await;
    let columns = sit("paused", args.runs(), &with_floor(programs), measure).await?;
    let about = format!(
        "{number} servers, created on 16 connections while kube-controller-manager is stopped: until each has its \
         3 children and the phase Pending; on the floor until all objects are there. {}",
        runs(args.runs())
    );
    Ok(Report { about, columns })
}

pub(super) async fn paused(subject: &Subject, number: usize) -> Result<Sample> {
    Stand::with(subject, async |stand| {
        stand.warm_up().await?;
        stand.pause_controllers().await?;
        let floor = stand.is_floor();
        let settled = move |server: &SeenServer| floor || server.is_in("Pending");
        let mut servers = Counter::start("servers are settled", stand.api(), settled).await?;
        let config_maps = Counter::start("ConfigMaps", stand.api(), is_of_ours::<SeenConfigMap>);
        let mut config_maps = config_maps.await?;
        let deployments = Counter::start("Deployments", stand.api(), is_of_ours::<SeenDeployment>);
        let mut deployments = deployments.await?;
        let services = Counter::start("Services", stand.api(), is_of_ours::<SeenService>);
        let mut services = services.await?;

        let start = Instant::now();
        let before = stand.cpu()?;
        let create = async {
            stand.create(0, number, servers::object).await?;
            Ok(start.elapsed())
        };
        let (created, ..) = tokio::try_join!(
            create,
            servers.reaches(number),
            config_maps.reaches_silently(number),
            deployments.reaches_silently(number),
            services.reaches_silently(number),
        )?;
        let took = start.elapsed();
        stand.requests.until_quiet().await?;
        let (used, watched) = (stand.cpu()?.since(before), start.elapsed());
        let mut sample = vec![
            ("time, s".to_owned(), took.as_secs_f64()),
            ("until all are created, s".to_owned(), created.as_secs_f64()),
        ];
        sample.extend(cpu_rows(used, watched, number));
        Ok(sample)
    })
    .await
}
