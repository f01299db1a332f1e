//! One sitting: what is compared takes turns.

use anyhow::{Context, Result};

use crate::floor::Way;
use crate::program::Program;
use crate::progress;
use crate::table::{Measured, Sample};

/// Title of the floor's column.
pub(crate) const FLOOR: &str = "floor";

/// What a column is about.
#[derive(Clone, Debug)]
pub(crate) enum Subject {
    /// A plain client that writes children in this way, in a cluster that knows the kind of this program.
    Floor(Program, Way),
    /// An operator.
    Operator(Program),
}

impl Subject {
    /// The column's title.
    pub(crate) fn title(&self) -> &str {
        match self {
            Self::Floor(_, Way::Post) => FLOOR,
            Self::Floor(_, Way::Apply) => "apply",
            Self::Floor(_, Way::GetThenApply) => "GET, then apply",
            Self::Operator(program) => &program.title,
        }
    }
}

/// Measures each subject once a run, in turn; every other run in the opposite order, so that none is always the
/// first on a machine that gets slower or faster.
pub(crate) async fn sit(
    scenario: &str,
    runs: usize,
    subjects: &[Subject],
    measure: impl AsyncFn(&Subject) -> Result<Sample>,
) -> Result<Vec<Measured>> {
    let empty = |subject: &Subject| Measured {
        title: subject.title().to_owned(),
        samples: Vec::new(),
    };
    let mut columns: Vec<Measured> = subjects.iter().map(empty).collect();
    for run in 0..runs {
        let mut turns: Vec<usize> = (0..subjects.len()).collect();
        if run % 2 == 1 {
            turns.reverse();
        }
        for turn in turns {
            let subject = &subjects[turn];
            let what = format!("{scenario}, run {} of {runs}: {}", run + 1, subject.title());
            progress::step(format!("\n{what}"));
            let sample = Box::pin(measure(subject)).await.context(what)?;
            for (row, figure) in &sample {
                progress::note(format!("{row}: {figure:.3}"));
            }
            columns[turn].samples.push(sample);
        }
    }
    Ok(columns)
}
