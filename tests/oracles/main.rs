//! The operator's readers of texts against Go's own libraries, on texts that are made up.
//!
//! `MCP_OPERATOR_ORACLE` says how many of each sort. They are the same in every run.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    reason = "a test may panic"
)]

mod durations;
mod image_references;
mod kstatus;
mod made_up;
mod quantities;

/// How many texts of each sort are compared, unless the variable says so.
const QUICK: usize = 100_000;

fn count() -> usize {
    match std::env::var("MCP_OPERATOR_ORACLE") {
        Ok(text) => text.parse().expect("MCP_OPERATOR_ORACLE is no number"),
        Err(_) => QUICK,
    }
}

/// Fails if there are differences, and shows the first of them.
fn no_differences(of: usize, taken: usize, differences: &[String]) {
    let shown = differences[..differences.len().min(20)].join("\n");
    assert!(
        differences.is_empty(),
        "{} differences in {of}:\n{shown}",
        differences.len()
    );
    // Otherwise the texts are too wild, or too tame, to say anything.
    assert!(
        taken > of / 5 && taken < of / 5 * 4,
        "Go takes {taken} of {of}"
    );
    println!("{of} compared, of which Go takes {taken}");
}
