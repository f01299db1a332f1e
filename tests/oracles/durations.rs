//! `api::go_duration` against Go's own `time.ParseDuration`.

use cluster::oracles::{Oracle, ask};
use mcp_operator::api::go_duration;

use crate::made_up::Random;

const SPOILERS: [&str; 21] = [
    "0", "9", ".", "-", "+", "h", "m", "s", "ms", "us", "ns", "µs", "μs", "d", "S", " ", "_", "e",
    "é", "٣", "\0",
];
const UNITS: [&str; 9] = ["h", "m", "s", "ms", "us", "µs", "μs", "ns", "d"];
/// Both sides of a bound.
const NUMBERS: [&str; 12] = [
    "0",
    "2562047",
    "2562048",
    "9223372036",
    "9223372036854",
    "9223372036854775",
    "9223372036854775807",
    "9223372036854775808",
    "9223372036854775809",
    "18446744073709551615",
    "18446744073709551616",
    "9007199254740993",
];

#[tokio::test]
async fn durations_are_read_as_go_reads_them() {
    let mut random = Random::new(3);
    let mut texts = sums_of_bounds();
    while texts.len() < crate::count() {
        texts.push(made_up(&mut random));
    }
    let answers = ask::<_, i64>(Oracle::Duration, &texts).await.unwrap();
    let taken = answers.iter().filter(|answer| answer.is_ok()).count();
    let differences: Vec<_> = texts
        .iter()
        .zip(&answers)
        .filter(|(text, answer)| go_duration::parse(text) != answer.as_ref().ok().copied())
        .map(|(text, answer)| format!("{text:?}: Go {answer:?}, we {:?}", go_duration::parse(text)))
        .collect();
    crate::no_differences(texts.len(), taken, &differences);
}

/// Every number with every unit, twice.
fn sums_of_bounds() -> Vec<String> {
    let both = |number: &str| UNITS.map(|unit| format!("{number}{unit}"));
    let one: Vec<_> = NUMBERS.into_iter().flat_map(both).collect();
    let sums = |first: &String| {
        one.iter()
            .map(|second| format!("{first}{second}"))
            .collect::<Vec<_>>()
    };
    one.iter().flat_map(sums).collect()
}

fn made_up(random: &mut Random) -> String {
    let mut text = random.pick(&["", "", "", "-", "+"]).to_owned();
    for _ in 0..random.between(1, 3) {
        text.push_str(&match random.below(4) {
            0 => random.pick(&NUMBERS).to_owned(),
            _ => number(random),
        });
        if random.once_in(3) {
            text.push('.');
            text.push_str(&match random.below(8) {
                0 => random.pick(&NUMBERS).to_owned(),
                _ => number(random),
            });
        }
        let least = if random.once_in(8) { 0 } else { 4 };
        text.push_str(UNITS[random.between(least, 8).min(random.between(0, 8))]);
    }
    if random.once_in(6) {
        text = random.spoil(&text, &SPOILERS);
    }
    text
}

fn number(random: &mut Random) -> String {
    let length = match random.below(10) {
        0 => random.below(25),
        _ => random.between(1, 6),
    };
    random.text("0123456789", length)
}
