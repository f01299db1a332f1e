//! The command `cluster`: an embedded Kubernetes to play with, and the demo.

#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use cluster::signals::Signals;
use cluster::{Cluster, Options, demo, tools};

/// A real Kubernetes control plane on this machine, with a fake node
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start a cluster and keep it running until Ctrl-C
    Up(Up),
    /// Only build what a cluster needs, if that has not been done
    Tools {
        /// Build also what only some tests need: helm, cert-manager
        #[arg(long)]
        all: bool,
    },
    /// Show the operator at work
    Demo(demo::Args),
}

#[derive(clap::Args)]
struct Up {
    /// Also write the kubeconfig to this file; it is removed at the end
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Have no node: pods stay pending
    #[arg(long)]
    no_node: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Cli::parse().command).await {
        Ok(()) => ExitCode::SUCCESS,
        // The chain of causes, and never a backtrace: this is for people.
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> Result<()> {
    match command {
        Command::Up(options) => up(options).await,
        Command::Tools { all: false } => build(&[tools::CONTROL_PLANE]).await,
        Command::Tools { all: true } => build(tools::ALL).await,
        Command::Demo(args) => demo::run(args).await,
    }
}

/// Builds sets of tools, and names the programs.
async fn build(sets: &[tools::Set]) -> Result<()> {
    for set in sets {
        let folder = tools::build(set).await?;
        for program in set.programs() {
            println!("{}", folder.join(program).display());
        }
    }
    Ok(())
}

async fn up(options: Up) -> Result<()> {
    // Before anything is started, so that a signal never ends this process halfway.
    let mut signals = Signals::new()?;
    let cluster = tokio::select! {
        cluster = Cluster::start(Options { fake_kubelet: !options.no_node, ..Options::default() }) => cluster?,
        () = signals.any() => return Ok(()),
    };
    let copy = options
        .kubeconfig
        .map(|file| Copy::new(&cluster, file))
        .transpose()?;
    let kubeconfig = copy.as_ref().map_or(cluster.kubeconfig(), |copy| &copy.0);
    let (kubeconfig, kubectl) = (kubeconfig.display(), cluster.kubectl().display());
    println!("kubeconfig: {kubeconfig}");
    println!("kubectl:    {kubectl}");
    println!("logs:       {}", cluster.folder().display());
    println!("Try, in another terminal:");
    println!(
        "  {kubectl} --kubeconfig {kubeconfig} create deployment web --image web --replicas 3"
    );
    println!("  {kubectl} --kubeconfig {kubeconfig} get nodes,deployments,pods");
    println!("Ctrl-C ends it.");
    tokio::select! {
        () = signals.any() => {
            eprintln!("stopping");
            cluster.stop().await
        }
        error = cluster.died() => Err(error),
    }
}

/// A copy of the kubeconfig, where the user wants it; removed at the end.
struct Copy(PathBuf);

impl Copy {
    fn new(cluster: &Cluster, file: PathBuf) -> Result<Self> {
        std::fs::copy(cluster.kubeconfig(), &file)
            .with_context(|| format!("writing the kubeconfig to {}", file.display()))?;
        Ok(Self(file))
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0) {
            eprintln!("removing {}: {error}", self.0.display());
        }
    }
}
