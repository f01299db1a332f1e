//! What the demo prints: steps with their times, commands and their output.

use std::fmt::Display;
use std::io::{IsTerminal, Write};
use std::time::Instant;

/// How far everything below a step's title is moved to the right.
const MARGIN: &str = "     ";

/// The steps as they go by.
pub(super) struct Screen {
    steps: usize,
    number: usize,
    title: &'static str,
    start: Instant,
    step_start: Instant,
}

impl Screen {
    pub(super) fn new(steps: usize) -> Self {
        let now = Instant::now();
        Self {
            steps,
            number: 0,
            title: "",
            start: now,
            step_start: now,
        }
    }

    /// The next step begins.
    pub(super) fn step(&mut self, title: &'static str) {
        self.number += 1;
        self.title = title;
        self.step_start = Instant::now();
        say(format!(
            "\n{}",
            bold(&format!("{}/{}  {title}", self.number, self.steps))
        ));
    }

    /// The step has shown what it should.
    pub(super) fn done(&self) {
        note(format!("done in {}", seconds(self.step_start)));
    }

    /// Names the step that is going on, for an error.
    pub(super) fn failed(&self) -> String {
        format!(
            "step {} of {} ({}) failed",
            self.number, self.steps, self.title
        )
    }

    /// What came of it all.
    pub(super) fn summary(&self, lines: &[(&str, String)]) {
        say(format!("\n{}", bold("Summary")));
        for (word, sentence) in lines {
            say(format!("{MARGIN}{word:<9} {sentence}"));
        }
        note(format!(
            "{:<9} {} in all; no process and no file of it is left",
            "time",
            seconds(self.start)
        ));
    }
}

/// A line on standard output. A reader that has gone (as in `cargo demo | head`) is no reason to
/// leave a cluster behind by a panic.
pub(super) fn say(line: impl Display) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Lines of a step.
pub(super) fn note(text: impl Display) {
    for line in text.to_string().lines() {
        say(format!("{MARGIN}{line}").trim_end());
    }
}

/// Of many lines that say the same of many things, a few.
pub(super) fn note_some(text: &str) {
    const SHOWN: usize = 3;
    let lines: Vec<_> = text.lines().collect();
    if lines.len() <= 3 * SHOWN {
        return note(text);
    }
    lines[..SHOWN].iter().for_each(note);
    note(format!("… ({} more lines)", lines.len() - SHOWN));
}

/// A command, as a user would type it.
pub(super) fn command(line: &str) {
    note(bold(&format!("$ {line}")));
}

/// How long ago something was.
pub(super) fn seconds(since: Instant) -> String {
    format!("{:.1} s", since.elapsed().as_secs_f64())
}

fn bold(text: &str) -> String {
    if std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none() {
        format!("\x1b[1m{text}\x1b[0m")
    } else {
        text.to_owned()
    }
}
