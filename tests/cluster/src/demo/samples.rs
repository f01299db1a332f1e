//! The files in `config/samples/`, and what is written in their first lines.

use anyhow::{Context, Result, ensure};

use crate::cargo::workspace;

/// What a refusal must contain is written behind this.
const EXPECT: &str = "# expect: ";

/// A sample.
pub(super) struct Sample {
    /// Its path from the workspace's folder, as a user would type it.
    pub(super) path: String,
    /// What its refusal must contain.
    pub(super) expected: Vec<String>,
}

/// The samples of a kind, `valid` or `invalid`, by name.
pub(super) fn all(kind: &str) -> Result<Vec<Sample>> {
    let folder = format!("config/samples/{kind}");
    let context = || format!("reading the samples in {folder}");
    let mut samples = Vec::new();
    for entry in std::fs::read_dir(workspace().join(&folder)).with_context(context)? {
        let path = entry.with_context(context)?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            continue;
        };
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("reading the sample {folder}/{name}"))?;
        samples.push(Sample {
            path: format!("{folder}/{name}"),
            expected: expected(&text),
        });
    }
    ensure!(!samples.is_empty(), "there are no samples in {folder}");
    samples.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(samples)
}

/// The first lines that begin with `# expect: `.
fn expected(text: &str) -> Vec<String> {
    text.lines()
        .map_while(|line| line.strip_prefix(EXPECT))
        .map(|text| text.trim().to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_invalid_sample_says_what_it_expects() {
        for sample in all("invalid").unwrap() {
            assert!(!sample.expected.is_empty(), "{}", sample.path);
        }
    }
}
