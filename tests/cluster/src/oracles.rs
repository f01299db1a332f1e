//! What Go's own libraries make of a text or an object. Tests compare the operator with it.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::tools;

/// A library that is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Oracle {
    /// Argo CD's health checks in Lua. A question is a script and an object, the answer a status and a message.
    Argo,
    /// Flux' health checks in CEL. A question is the expressions and an object, the answer a status.
    Flux,
    /// Image references, as the kubelet and containerd read them. A question is a text.
    Image,
    /// What tools that wait for objects make of one. A question is an object; see [`kstatus`].
    Kstatus,
    /// Resource quantities. A question is two texts.
    Quantity,
    /// Durations. A question is a text, the answer nanoseconds.
    Duration,
}

impl Oracle {
    const fn subcommand(self) -> &'static str {
        match self {
            Self::Argo => "argo",
            Self::Flux => "flux",
            Self::Image => "image",
            Self::Kstatus => "kstatus",
            Self::Quantity => "quantity",
            Self::Duration => "duration",
        }
    }
}

/// What a library says: a value, or why it refuses.
pub type Answer<A> = std::result::Result<A, String>;

/// An answer to each question, in their order. The program is built when it is first asked.
pub async fn ask<Q: Serialize, A: DeserializeOwned + Send + 'static>(
    oracle: Oracle,
    questions: &[Q],
) -> Result<Vec<Answer<A>>> {
    let program = tools::build(&tools::ORACLES).await?.join("oracles");
    let mut lines = Vec::new();
    for question in questions {
        serde_json::to_writer(&mut lines, question).context("writing a question")?;
        lines.push(b'\n');
    }
    let expected = questions.len();
    let asking = move || {
        let child = Command::new(&program)
            .arg(oracle.subcommand())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {}", program.display()))?;
        let answers = talk(child, &lines)?;
        ensure!(
            answers.len() == expected,
            "{} answers to {expected} questions",
            answers.len()
        );
        Ok(answers)
    };
    tokio::task::spawn_blocking(asking)
        .await
        .context("asking an oracle")?
        .with_context(|| format!("asking the oracle about {oracle:?}"))
}

/// Writes and reads at once: neither pipe holds everything. Without its pipes the program ends.
fn talk<A: DeserializeOwned>(mut child: Child, lines: &[u8]) -> Result<Vec<Answer<A>>> {
    let mut input = child.stdin.take().context("no standard input")?;
    let output = child.stdout.take().context("no standard output")?;
    let (written, answers) = std::thread::scope(|scope| {
        let writer = scope.spawn(move || input.write_all(lines));
        let answers = read(output);
        (writer.join(), answers)
    });
    let status = child.wait().context("waiting for its end")?;
    ensure!(status.success(), "it failed ({status})");
    let answers = answers?;
    written
        .map_err(|_| anyhow!("the writer panicked"))?
        .context("writing the questions")?;
    Ok(answers)
}

fn read<A: DeserializeOwned>(output: impl Read) -> Result<Vec<Answer<A>>> {
    let mut answers = Vec::new();
    for line in BufReader::new(output).lines() {
        let line = line.context("reading an answer")?;
        let answer = match line.split_once(' ') {
            Some(("ok", value)) => serde_json::from_str(value).map(Ok),
            Some(("error", message)) => serde_json::from_str(message).map(Err),
            _ => bail!("no answer: {line}"),
        };
        answers.push(answer.with_context(|| format!("an answer in another shape: {line}"))?);
    }
    Ok(answers)
}

/// What a tool that waits for objects makes of one.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Kstatus {
    /// `InProgress`, `Failed`, `Current` or `Terminating`.
    pub status: String,
    /// Why.
    pub message: String,
}

/// What tools that wait for objects (Flux, `helm install --wait`) make of each of these. An object needs a kind.
pub async fn kstatus(objects: &[Value]) -> Result<Vec<Kstatus>> {
    let answers = ask(Oracle::Kstatus, objects).await?;
    let answers = answers.into_iter().zip(objects);
    answers
        .map(|(answer, object)| answer.map_err(|why| anyhow!("{why}: {object}")))
        .collect()
}
