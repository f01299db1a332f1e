//! The arguments.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

/// Servers of most scenarios.
const SERVERS: usize = 1000;
/// The same of the short form.
const FEW_SERVERS: usize = 100;
/// Runs of a scenario that has a floor.
const RUNS: usize = 5;

/// Measures the operator in an embedded Kubernetes and prints tables in Markdown.
///
/// A floor and each operator take turns, each on a fresh cluster. Progress goes to standard error.
#[derive(Clone, Debug, Parser)]
#[command(name = "cargo bench --package benches --", version)]
pub struct Args {
    /// What to measure; everything when nothing is named
    #[arg(value_enum, value_name = "SCENARIO")]
    pub(crate) scenarios: Vec<Scenario>,

    /// Fewer servers, one run and shorter windows: shows that a scenario works, not how fast
    #[arg(long)]
    pub(crate) short: bool,

    /// How many MCPServers [default: 1000, 500 of churn and failing, 100 of --short]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    servers: Option<u32>,

    /// How often converge, paused, ways and failing are run [default: 5, 1 of --short]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    runs: Option<u32>,

    /// Measure this operator's program instead of building one; a relative path is from the workspace's folder
    #[arg(long, value_name = "PATH")]
    pub(crate) operator: Option<PathBuf>,

    /// Measure a second operator's program too, in turn with the first
    #[arg(long, value_name = "PATH")]
    pub(crate) against: Option<PathBuf>,

    /// Changes a second in churn
    #[arg(long, value_name = "NUMBER", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) rate: u32,

    /// Leave kube-controller-manager running in churn, so that each change rolls out pods: on a small machine that is
    /// what takes the time
    #[arg(long)]
    pub(crate) rollouts: bool,

    /// What cargo bench says to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// Time from the first create until all servers are Ready
    Converge,
    /// Time until all servers have their children and a status, while kube-controller-manager is stopped
    Paused,
    /// What creating children costs, by the way in which a plain client writes them
    Ways,
    /// Requests of the operator for each server
    Requests,
    /// Memory of the operator: empty, with few and with many servers, after a restart
    Memory,
    /// Writes and CPU beside servers whose pods never get ready
    NeverReady,
    /// Time from a change of a spec until the Deployment has it, under many changes
    Churn,
    /// Requests of a server that fails for ever, and whether it slows down others
    Failing,
    /// Time of a create, with and without the webhooks
    Creates,
    /// Reviews a second, beside a handler that answers a constant
    Reviews,
    /// Admissions beside a peer that keeps connections and uploads open
    Hostile,
    /// Memory, and an ordinary review, beside many dry runs of the worst objects
    Flood,
}

impl Scenario {
    /// The name as users write it.
    pub(crate) fn name(self) -> String {
        let value = self.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

impl Args {
    /// Whether cargo was asked for benchmarks.
    pub fn by_cargo_bench(&self) -> bool {
        self.bench
    }

    /// How many servers, where it is so many when nothing is said.
    fn servers_or(&self, default: usize) -> usize {
        match (self.servers, self.short) {
            (Some(number), _) => usize::try_from(number).unwrap_or(usize::MAX),
            (None, true) => FEW_SERVERS,
            (None, false) => default,
        }
    }

    /// How many servers a scenario has.
    pub(crate) fn servers(&self) -> usize {
        self.servers_or(SERVERS)
    }

    /// How many servers a scenario of half the size has.
    pub(crate) fn half(&self) -> usize {
        self.servers_or(SERVERS / 2)
    }

    /// How often a scenario with a floor is run.
    pub(crate) fn runs(&self) -> usize {
        match (self.runs, self.short) {
            (Some(number), _) => usize::try_from(number).unwrap_or(usize::MAX),
            (None, true) => 1,
            (None, false) => RUNS,
        }
    }

    /// What to measure, in the order of the enumeration.
    pub(crate) fn chosen(&self) -> Vec<Scenario> {
        let all = Scenario::value_variants().iter().copied();
        all.filter(|one| self.scenarios.is_empty() || self.scenarios.contains(one))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Args {
        Args::try_parse_from(["scenarios"].iter().chain(arguments)).unwrap()
    }

    #[test]
    fn nothing_runs_unless_cargo_bench_asks() {
        assert!(!parse(&[]).by_cargo_bench());
        assert!(parse(&["--bench"]).by_cargo_bench());
    }

    #[test]
    fn scenarios_are_run_in_one_order() {
        let names = |args: &Args| -> Vec<String> {
            let chosen = args.chosen().into_iter();
            chosen.map(Scenario::name).collect()
        };
        let all = parse(&[]);
        assert_eq!(all.chosen().len(), Scenario::value_variants().len());
        let two = parse(&["never-ready", "converge", "--short"]);
        assert_eq!(names(&two), ["converge", "never-ready"]);
        assert_eq!((two.servers(), two.runs()), (FEW_SERVERS, 1));
        assert_eq!(parse(&["--servers", "5000"]).half(), 5000);
    }
}
