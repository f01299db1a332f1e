//! What the mutating webhook fills in.

use anyhow::{Context, Result, ensure};

use super::kubectl;
use super::screen::note;
use super::stage::Stage;

/// What the requests of some samples have to be. The first three name none; the webhook chose by
/// transport.
const EXPECTED: [[&str; 4]; 4] = [
    ["stdio", "stdio", "50m", "64Mi"],
    ["http", "http", "100m", "128Mi"],
    ["basic", "streamable-http", "200m", "256Mi"],
    ["advanced", "streamable-http", "100m", "128Mi"],
];

/// Shows the requests as they are stored.
pub(super) async fn show(stage: &Stage) -> Result<()> {
    let columns = "custom-columns=NAME:.metadata.name,TRANSPORT:.spec.transport,\
                   CPU:.spec.resources.requests.cpu,MEMORY:.spec.resources.requests.memory";
    let mut args = vec!["get", "mcps"];
    args.extend(EXPECTED.map(|[name, ..]| name));
    args.extend(["-o", columns]);
    let table = kubectl::shown(&stage.cluster, &args).await?;
    for expected in EXPECTED {
        let [name, ..] = expected;
        let row = table
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>())
            .find(|row| row.first() == Some(&name))
            .with_context(|| format!("the server {name} is not in the table"))?;
        ensure!(
            row == expected,
            "the requests of {name} should be {expected:?}; they are {row:?}"
        );
    }
    note("advanced.yaml names its requests, which stay; the other files name none");
    Ok(())
}
