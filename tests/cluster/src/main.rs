//! The command `cluster`: an embedded Kubernetes to play with, and the demo.

#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use cluster::signals::Signals;
use cluster::{
    Cluster, NodeKind, Options, demo, manifest, node, operator_image, server_everything, tools,
};

/// A real Kubernetes control plane on this machine, with a fake node or a real one
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
    Tools(Tools),
    /// Build the image of server-everything, a third-party MCP server, if that has not been done,
    /// and print its tarball
    Image,
    /// Print the packages of Debian and Ubuntu that a real node needs, and nothing else
    NodePackages {
        /// Also the one that builds the operator's image for `demo --node`
        #[arg(long)]
        demo: bool,
    },
    /// Print dist/install.yaml: what the chart installs with its own values
    InstallManifest,
    /// Print the chart's README: README.md.gotmpl, and the values with their comments
    ChartReadme,
    /// Show the operator at work
    Demo(demo::Args),
}

#[derive(clap::Args)]
struct Tools {
    /// Also what a real node needs
    #[arg(long)]
    node: bool,
    /// Everything: also helm, cert-manager and what tests compare the operator with
    #[arg(long)]
    all: bool,
}

#[derive(clap::Args)]
struct Up {
    /// Also write the kubeconfig to this file; it is removed at the end
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Have no node: pods stay pending
    #[arg(long)]
    no_node: bool,
    /// Have a real node that runs containers; needs root on Linux, and says what else
    #[arg(long, conflicts_with = "no_node")]
    node: bool,
    /// Put an image onto the real node: an OCI or Docker tarball
    #[arg(long, value_name = "FILE", requires = "node")]
    image: Vec<PathBuf>,
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
        Command::Tools(options) => build(options).await,
        Command::Image => {
            println!("{}", server_everything::image().await?.display());
            Ok(())
        }
        Command::NodePackages { demo } => {
            let mut packages = node::PACKAGES.to_vec();
            if demo {
                packages.push(operator_image::BUILDER.1);
            }
            println!("{}", packages.join(" "));
            Ok(())
        }
        Command::InstallManifest => {
            print!("{}", manifest::render().await?);
            Ok(())
        }
        Command::ChartReadme => {
            print!("{}", manifest::chart_readme().await?);
            Ok(())
        }
        Command::Demo(args) => demo::run(args).await,
    }
}

/// Builds sets of tools, and names the programs.
async fn build(options: Tools) -> Result<()> {
    let mut sets = vec![tools::CONTROL_PLANE];
    if options.node || options.all {
        sets.extend(tools::REAL_NODE);
    }
    if options.all {
        sets.extend(tools::ADDONS);
        sets.extend([tools::ORACLES, tools::KINDS, tools::LINTS]);
    }
    for set in sets {
        let folder = tools::build(&set).await?;
        for program in set.programs() {
            println!("{}", folder.join(program).display());
        }
    }
    Ok(())
}

async fn up(options: Up) -> Result<()> {
    // Before anything is started, so that a signal never ends this process halfway.
    let mut signals = Signals::new()?;
    let node = match (options.node, options.no_node) {
        (true, _) => NodeKind::Real,
        (_, true) => NodeKind::None,
        _ => NodeKind::Fake,
    };
    let start = async {
        let cluster = Cluster::start(Options {
            node,
            ..Options::default()
        });
        let cluster = cluster.await?;
        for image in &options.image {
            cluster.load_image(image).await?;
        }
        anyhow::Ok(cluster)
    };
    let cluster = tokio::select! {
        cluster = start => cluster?,
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
    if node == NodeKind::Real {
        println!("node:       {}", cluster.node_address()?);
    }
    println!("Try, in another terminal:");
    // A real node pulls nothing, and has this image by itself.
    let image = if node == NodeKind::Real {
        node::PAUSE_IMAGE
    } else {
        "web"
    };
    println!(
        "  {kubectl} --kubeconfig {kubeconfig} create deployment web --image {image} --replicas 3"
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
