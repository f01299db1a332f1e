//! The cluster with the operator running beside it.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::LIMIT;
use super::screen::{command, note, say};
use super::shell::typed;
use crate::process::{Process, tail};
use crate::{Cluster, eventually};

/// Namespace of the operator's own objects.
pub(super) const NAMESPACE: &str = "mcp-operator-system";
/// The operator's user.
const USER: &str = "mcp-operator";

pub(super) struct Stage {
    pub(super) cluster: Cluster,
    /// The operator's program.
    pub(super) program: PathBuf,
    /// Where its webhooks are.
    pub(super) webhooks: SocketAddr,
    kubeconfig: PathBuf,
    operator: std::sync::OnceLock<Process>,
}

impl Stage {
    /// The operator is not running yet; see [`Self::run_operator`].
    pub(super) fn start(cluster: Cluster, program: PathBuf) -> Result<Self> {
        let kubeconfig = cluster.kubeconfig_for(USER, &["system:masters"])?;
        Ok(Self {
            cluster,
            program,
            webhooks: free_address()?,
            kubeconfig,
            operator: std::sync::OnceLock::new(),
        })
    }

    /// The operator's program with arguments, for people to see as `mcp-operator …`.
    pub(super) fn operator(&self, args: &[&str]) -> (&'static str, Command) {
        let mut command = Command::new(&self.program);
        command.args(args);
        ("mcp-operator", command)
    }

    /// Starts the operator as a user does out of the cluster.
    pub(super) fn run_operator(&self) -> Result<()> {
        let kubeconfig = self.kubeconfig.display().to_string();
        let address = self.webhooks.to_string();
        let args = [
            "run",
            "--kubeconfig",
            &kubeconfig,
            "--namespace",
            NAMESPACE,
            "--webhook-address",
            &address,
            "--http-address",
            "127.0.0.1:0",
            // Nobody has to be told of the end: there is one API server, and it ends next.
            "--drain-seconds",
            "0",
        ];
        let (name, mut program) = self.operator(&args);
        command(&format!("{} &", typed(name, &args)));
        for (variable, _) in std::env::vars_os() {
            // A proxy is for addresses elsewhere, and this is no pod.
            let variable = variable.to_string_lossy().to_ascii_uppercase();
            if variable.ends_with("_PROXY") || variable.starts_with("POD_") {
                program
                    .env_remove(&variable)
                    .env_remove(variable.to_lowercase());
            }
        }
        let process = self.cluster.start_process(name, program)?;
        note(format!("log: {}", process.log().display()));
        // Started once only.
        let _ = self.operator.set(process);
        Ok(())
    }

    /// Returns when the operator or a part of the cluster has ended, with what it said.
    pub(super) async fn died(&self) -> anyhow::Error {
        let operator = async {
            loop {
                if let Some(Err(error)) = self.operator.get().map(Process::alive) {
                    return error;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::select! {
            error = operator => error,
            error = self.cluster.died() => error,
        }
    }

    /// Shows the end of the operator's log, on standard error.
    pub(super) fn show_log(&self) {
        if let Some(operator) = self.operator.get() {
            let state = match operator.end() {
                None => String::new(),
                Some(status) => format!(" (it is not running any more: {status})"),
            };
            let log = tail(operator.log());
            eprintln!("\nThe operator's log ends so{state}:\n{log}\n");
        }
    }

    /// For who wants to go on by hand.
    pub(super) fn say_how_to_reach(&self) {
        let kubectl = typed(
            &self.cluster.kubectl().display().to_string(),
            &[
                "--kubeconfig",
                &self.cluster.kubeconfig().display().to_string(),
            ],
        );
        say("\nIt all goes on running until Ctrl-C.");
        let log = self.operator.get().map_or(Path::new(""), Process::log);
        for (word, what) in [
            ("kubectl", self.cluster.kubectl()),
            ("kubeconfig", self.cluster.kubeconfig()),
            ("operator's log", log),
            ("other logs", self.cluster.folder()),
        ] {
            note(format!("{word:<14} {}", what.display()));
        }
        say("Try, in another terminal:");
        note(format!("{kubectl} apply -f config/samples/valid/"));
        note(format!("{kubectl} get mcps"));
    }

    /// Ends everything, and looks whether it is gone.
    pub(super) async fn stop(self) -> Result<()> {
        let operator = self
            .operator
            .get()
            .context("the operator was never started")?;
        command(&format!("kill -TERM {} # the operator", operator.id()));
        operator.signal("TERM")?;
        let success = eventually("the operator's end after SIGTERM", LIMIT, || async {
            Ok(operator.success())
        })
        .await?;
        ensure!(
            success,
            "the operator did not end well ({}); its log ends so:\n{}",
            operator.end().unwrap_or_default(),
            tail(operator.log())
        );
        note("the operator has ended, with exit code 0");
        let folder = self.cluster.folder().to_owned();
        self.cluster.stop().await?;
        ensure!(
            !folder.exists(),
            "the cluster's folder {} is still there; remove it",
            folder.display()
        );
        note("the cluster has ended, and its folder is removed");
        Ok(())
    }
}

/// A loopback address with a port that is free now.
fn free_address() -> Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .context("looking for a free port")
}
