//! `api::quantity` against Kubernetes' own `resource.ParseQuantity`.

use std::cmp::Ordering;

use cluster::oracles::{Answer, Oracle, ask};
use mcp_operator::api::quantity::{self, ParsedQuantity};
use serde::Deserialize;

use crate::made_up::Random;

const SPOILERS: [&str; 24] = [
    "0", "9", ".", "-", "+", "n", "u", "m", "k", "K", "M", "G", "T", "P", "E", "i", "Ki", "e",
    "e3", "E-2", " ", "_", "é", "٣",
];
const SUFFIXES: [&str; 22] = [
    "", "", "", "n", "u", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei",
    "e3", "E3", "e-3", "E+2",
];
/// Both sides of a bound.
const NUMBERS: [&str; 18] = [
    "0",
    "1",
    "8",
    "1000",
    "1024",
    "8192",
    "9007199254740993",
    "9223372036854775806",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551616",
    "999999999999999999",
    "1000000000000000000",
    "0.000000001",
    "0.0000000001",
    "0.9999999999",
    "8388607.999999999999",
    "8388608",
];

#[derive(Debug, Deserialize)]
struct Pair {
    negative: [bool; 2],
    whole: [Option<bool>; 2],
    order: i64,
}

#[tokio::test]
async fn quantities_are_read_and_compared_as_kubernetes_does() {
    let mut random = Random::new(2);
    let mut pairs = Vec::new();
    while pairs.len() < crate::count() {
        let first = made_up(&mut random);
        let second = match random.below(4) {
            // Close to it.
            0 => random.spoil(&first, &SPOILERS),
            _ => made_up(&mut random),
        };
        if !is_refused_on_purpose(&first) && !is_refused_on_purpose(&second) {
            pairs.push([first, second]);
        }
    }
    let answers = ask(Oracle::Quantity, &pairs).await.unwrap();
    let taken = answers.iter().filter(|answer| answer.is_ok()).count();
    let differences: Vec<_> = pairs
        .iter()
        .zip(&answers)
        .filter(|(pair, answer)| !agrees(pair, answer))
        .map(|(pair, answer)| {
            let ours = pair.each_ref().map(|text| quantity::parse(text));
            format!("{pair:?}: Go {answer:?}, we {ours:?}")
        })
        .collect();
    crate::no_differences(pairs.len(), taken, &differences);
}

fn agrees([first, second]: &[String; 2], answer: &Answer<Pair>) -> bool {
    match (quantity::parse(first).zip(quantity::parse(second)), answer) {
        (None, Err(_)) => true,
        (Some((first, second)), Ok(pair)) => {
            let order = match pair.order {
                ..0 => Ordering::Less,
                0 => Ordering::Equal,
                1.. => Ordering::Greater,
            };
            let ours = [&first, &second];
            first.cmp(&second) == order
                && ours.map(ParsedQuantity::is_negative) == pair.negative
                && ours
                    .iter()
                    .zip(pair.whole)
                    .all(|(ours, whole)| whole.is_none_or(|whole| whole == ours.is_whole()))
        }
        _ => false,
    }
}

/// As the header of `api::quantity` says. Go would also take hours to compare some of them.
fn is_refused_on_purpose(text: &str) -> bool {
    let text = text.strip_prefix(['-', '+']).unwrap_or(text);
    let of_number = |c: char| c == '.' || c.is_ascii_digit();
    let suffix = text.trim_start_matches(of_number);
    let number = &text[..text.len() - suffix.len()];
    let exponent = suffix.strip_prefix(['e', 'E']).map(str::parse::<i128>);
    number.trim_matches('.').is_empty()
        || matches!(exponent, Some(Ok(exponent)) if !(-50..=50).contains(&exponent))
}

fn made_up(random: &mut Random) -> String {
    let sign = random.pick(&["", "", "", "-", "+"]);
    let value = match random.below(4) {
        0 => random.pick(&NUMBERS).to_owned(),
        1 => format!("{}.{}", number(random), number(random)),
        _ => number(random),
    };
    let mut text = format!("{sign}{value}{}", random.pick(&SUFFIXES));
    if random.once_in(30) {
        text.push('e');
        text.push_str(&number(random));
    }
    if random.once_in(6) {
        text = random.spoil(&text, &SPOILERS);
    }
    text
}

fn number(random: &mut Random) -> String {
    let length = match random.below(10) {
        0 => random.below(40),
        _ => random.below(8),
    };
    let alphabet = random.pick(&["0123456789", "0001", "09"]);
    random.text(alphabet, length)
}
