//! A server is deleted while it works: the call ends as if nothing were.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncBufReadExt, BufReader};

use super::servers::SMALL;
use super::stage::{Stage, in_pod};
use super::{LIMIT, json};
use crate::demo::kubectl;
use crate::demo::screen::{command, note};
use crate::demo::shell::typed;
use crate::eventually;

/// What pods of the transport `http` get to end in.
const GRACE: Duration = Duration::from_secs(15);
/// How long the call takes, in seconds and in milliseconds.
const CALL: (&str, u64) = ("3", 3000);

/// Deletes the small server while a call is in flight.
pub(super) async fn show(stage: &Stage) -> Result<String> {
    let url = stage.endpoint(SMALL).await?;
    let hold = in_pod(&["hold", &url, "--seconds", CALL.0]);
    command(&format!("{} &", typed("kubectl", &hold)));
    let mut client = kubectl::kubectl(&stage.cluster, &hold)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("starting kubectl")?;
    let output = client.stdout.take().context("a pipe that was asked for")?;
    let mut lines = BufReader::new(output).lines();
    let next = lines.next_line();
    let begun = tokio::time::timeout(LIMIT, next)
        .await
        .context("waiting for the call to begin")??
        .context("the client ended before the call began")?;
    note(&begun);
    ensure!(begun == "calling", "the client should say that it calls");

    let server = format!("mcps/{SMALL}");
    let deleting = Instant::now();
    let call = async {
        let answer = lines.next_line().await?.context("the call had no result")?;
        let took = deleting.elapsed();
        let status = client.wait().await.context("waiting for the client")?;
        ensure!(status.success(), "the client ended with {status}: {answer}");
        anyhow::Ok((answer, took))
    };
    let delete = async {
        stage.kubectl(&["delete", &server]).await?;
        anyhow::Ok(deleting.elapsed())
    };
    let ((answer, answered), gone) = tokio::try_join!(call, delete)?;
    note(format!("{answer}  (the client's)"));
    let told = json(&answer)?;
    ensure!(
        told["result"]["content"][0]["text"] == format!("slept {} s", CALL.0)
            && told["elapsedMs"].as_u64() >= Some(CALL.1),
        "the call should have ended by itself: {told}"
    );
    ensure!(
        gone < GRACE,
        "the server was gone after {gone:?}; its pods' grace period is {GRACE:?}"
    );
    let (answered, gone) = (answered.as_secs_f64(), gone.as_secs_f64());
    let sentence = format!(
        "the call was answered {answered:.1} s after the deletion, and the server gone after {gone:.1} s, of \
         the {} s that its pods have",
        GRACE.as_secs()
    );
    note(&sentence);

    let selector = format!("app.kubernetes.io/instance={SMALL}");
    let look = [
        "get",
        "deployments,replicasets,pods,services,configmaps",
        "-l",
        &selector,
    ];
    eventually("nothing of it to be left", LIMIT, || async {
        let left = stage.ask(&look).await?;
        ensure!(left.is_empty(), "{left}");
        Ok(Some(()))
    })
    .await?;
    stage.kubectl(&look).await?;
    Ok(sentence)
}
