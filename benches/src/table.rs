//! A table in Markdown: a row a figure, a column an operator, and ratios.

use std::fmt::Write as _;

use crate::figures::Figures;

/// What one run measured, by the names of the rows.
pub(crate) type Sample = Vec<(String, f64)>;

/// What all runs of one column measured.
#[derive(Clone, Debug)]
pub(crate) struct Measured {
    /// The column's title.
    pub(crate) title: String,
    /// One sample a run.
    pub(crate) samples: Vec<Sample>,
}

impl Measured {
    fn figures(&self, row: &str) -> Figures {
        let of_row = |sample: &Sample| sample.iter().find(|(name, _)| name == row).map(|(_, f)| *f);
        Figures(self.samples.iter().filter_map(of_row).collect())
    }
}

/// The table. Every other column is divided by `base`, if there is a column of that title.
pub(crate) fn markdown(columns: &[Measured], base: &str) -> String {
    let base = columns.iter().find(|column| column.title == base);
    let divided: Vec<&Measured> = base.map_or_else(Vec::new, |base| {
        let others = columns.iter().filter(|column| column.title != base.title);
        others.collect()
    });
    let mut titles = vec![String::new()];
    titles.extend(columns.iter().map(|column| column.title.clone()));
    if let Some(base) = base {
        let title = |column: &&Measured| format!("{} / {}", column.title, base.title);
        titles.extend(divided.iter().map(title));
    }
    let mut text = line(&titles);
    let mut rule = vec!["---:".to_owned(); titles.len()];
    "---".clone_into(&mut rule[0]);
    text += &line(&rule);
    for row in rows(columns) {
        let mut cells = vec![row.clone()];
        cells.extend(
            columns
                .iter()
                .map(|column| column.figures(&row).to_string()),
        );
        if let Some(base) = base {
            let under = base.figures(&row);
            for column in &divided {
                let ratio = column.figures(&row).over(&under).unwrap_or_default();
                cells.push(ratio.to_string());
            }
        }
        text += &line(&cells);
    }
    text
}

fn line(cells: &[String]) -> String {
    let mut line = String::from("|");
    for cell in cells {
        // Writing to a String does not fail.
        let _ = write!(line, " {cell} |");
    }
    line + "\n"
}

/// The rows' names, each once, in the order in which they come.
fn rows(columns: &[Measured]) -> Vec<String> {
    let mut rows: Vec<String> = Vec::new();
    let samples = columns.iter().flat_map(|column| &column.samples);
    for (name, _) in samples.flatten() {
        if !rows.contains(name) {
            rows.push(name.clone());
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_with_and_without_ratios() {
        let column = |title: &str, samples: Vec<Sample>| Measured {
            title: title.to_owned(),
            samples,
        };
        let row = |name: &str, figure: f64| (name.to_owned(), figure);
        let columns = [
            column("floor", vec![vec![row("time, s", 2.0)]]),
            column(
                "operator",
                vec![vec![row("time, s", 5.0), row("memory, MiB", 9.0)]],
            ),
        ];
        assert_eq!(
            markdown(&columns, "floor"),
            "|  | floor | operator | operator / floor |\n\
             | --- | ---: | ---: | ---: |\n\
             | time, s | 2 | 5 | 2.50 |\n\
             | memory, MiB | – | 9 | – |\n"
        );
        assert_eq!(
            markdown(&columns[1..], "floor"),
            "|  | operator |\n| --- | ---: |\n| time, s | 5 |\n| memory, MiB | 9 |\n"
        );
    }
}
