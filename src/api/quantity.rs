//! Resource quantities (`100m`, `1.5Gi`, `1e3`) as Kubernetes reads them; `tests/oracles` compares the two.
//!
//! This is our own code because the one published parser (`kube_quantity`) accepts `--1`, refuses `1Ei`, and panics
//! when it compares values that are far apart.
//!
//! Two kinds of text are refused here although Kubernetes accepts them: text without a digit (`-`, `.`, `M`), which it
//! reads as 0, and an exponent beyond 50, which no resource needs.

use std::cmp::Ordering;
use std::iter::repeat_n;

/// A quantity in billionths, the smallest unit that Kubernetes keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParsedQuantity {
    negative: bool,
    /// Decimal digits, the last one first, without zeros at the far end: none for 0.
    nanos: Vec<u8>,
}

/// The number of decimal places: a billionth is the smallest unit.
const PLACES: i64 = 9;
/// The largest exponent read, and the smallest below zero.
const MOST_EXPONENT: i64 = 50;
/// The largest whole number with a binary suffix: 2^63 - 1. Kubernetes makes this of any larger one.
const MOST_BINARY: &str = "9223372036854775807";

/// What a number is multiplied by.
#[derive(Clone, Copy)]
enum Suffix {
    /// A power of two.
    Binary(u32),
    /// A power of ten.
    Decimal(i64),
}

/// Parses a quantity. Returns `None` for text that the API server would refuse. The syntax is
/// `<sign><digits>[.<digits>]<suffix>`, the suffix one of n, u, m, k, M, G, T, P, E, Ki, Mi, Gi, Ti,
/// Pi, Ei, or an exponent (`e3`, `E-2`).
pub fn parse(text: &str) -> Option<ParsedQuantity> {
    let (negative, rest) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let end = rest
        .find(|c: char| c != '.' && !c.is_ascii_digit())
        .unwrap_or(rest.len());
    let (number, suffix) = rest.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    let suffix = suffix_of(suffix)?;
    let mut nanos: Vec<u8> = digits(whole, fraction).collect();
    let shift = PLACES - i64::try_from(fraction.len()).ok()?;
    match suffix {
        Suffix::Binary(power) => {
            double(&mut nanos, power);
            scale(&mut nanos, shift);
            let most: Vec<u8> = digits(MOST_BINARY, "000000000").collect();
            if compare(&nanos, &most).is_gt() {
                nanos = most;
            }
        }
        Suffix::Decimal(power) => scale(&mut nanos, shift + power),
    }
    Some(ParsedQuantity {
        negative: negative && !nanos.is_empty(),
        nanos,
    })
}

fn suffix_of(suffix: &str) -> Option<Suffix> {
    Some(match suffix {
        "Ki" => Suffix::Binary(10),
        "Mi" => Suffix::Binary(20),
        "Gi" => Suffix::Binary(30),
        "Ti" => Suffix::Binary(40),
        "Pi" => Suffix::Binary(50),
        "Ei" => Suffix::Binary(60),
        "n" => Suffix::Decimal(-9),
        "u" => Suffix::Decimal(-6),
        "m" => Suffix::Decimal(-3),
        "" => Suffix::Decimal(0),
        "k" => Suffix::Decimal(3),
        "M" => Suffix::Decimal(6),
        "G" => Suffix::Decimal(9),
        "T" => Suffix::Decimal(12),
        "P" => Suffix::Decimal(15),
        "E" => Suffix::Decimal(18),
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E'])?;
            let digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
            if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
                return None;
            }
            let read = |exponent: &i64| (-MOST_EXPONENT..=MOST_EXPONENT).contains(exponent);
            Suffix::Decimal(exponent.parse().ok().filter(read)?)
        }
    })
}

fn digits(whole: &str, fraction: &str) -> impl Iterator<Item = u8> {
    whole
        .bytes()
        .chain(fraction.bytes())
        .rev()
        .map(|byte| byte - b'0')
}

/// Multiplies by 2^`power`, which is 60 at most, so that digit and carry stay below 2^64.
fn double(digits: &mut Vec<u8>, power: u32) {
    let last = |sum: u64| u8::try_from(sum % 10).unwrap_or_default();
    let mut carry = 0;
    for digit in digits.iter_mut() {
        let sum = (u64::from(*digit) << power) + carry;
        *digit = last(sum);
        carry = sum / 10;
    }
    while carry > 0 {
        digits.push(last(carry));
        carry /= 10;
    }
}

/// Multiplies by 10^`shift`. A remainder below the last place is rounded up, as in Kubernetes.
fn scale(digits: &mut Vec<u8>, shift: i64) {
    let places = usize::try_from(shift.unsigned_abs()).unwrap_or(usize::MAX);
    if shift >= 0 {
        digits.splice(..0, repeat_n(0, places));
    } else {
        let behind = places.min(digits.len());
        if digits.drain(..behind).any(|digit| digit != 0) {
            add_one(digits);
        }
    }
    while digits.last() == Some(&0) {
        digits.pop();
    }
}

fn add_one(digits: &mut Vec<u8>) {
    for digit in digits.iter_mut() {
        if *digit < 9 {
            *digit += 1;
            return;
        }
        *digit = 0;
    }
    digits.push(1);
}

/// Compares two numbers; both without zeros at the far end.
fn compare(a: &[u8], b: &[u8]) -> Ordering {
    a.len()
        .cmp(&b.len())
        .then_with(|| a.iter().rev().cmp(b.iter().rev()))
}

impl ParsedQuantity {
    /// Whether the value is below zero.
    pub fn is_negative(&self) -> bool {
        self.negative
    }

    /// Whether the value has no fraction: `1k` and `1000m` have none. Kubernetes looks at thousandths, rounded up.
    pub fn is_whole(&self) -> bool {
        let mut thousandths = self.nanos.clone();
        scale(&mut thousandths, -6);
        thousandths.iter().take(3).all(|digit| *digit == 0)
    }
}

impl Ord for ParsedQuantity {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self.negative, other.negative) {
            (false, false) => compare(&self.nanos, &other.nanos),
            (true, true) => compare(&other.nanos, &self.nanos),
            (true, false) => Ordering::Less,
            (false, true) => Ordering::Greater,
        }
    }
}

impl PartialOrd for ParsedQuantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Whether both texts are quantities of the same value (`1024Mi` and `1Gi`).
pub fn same(a: &str, b: &str) -> bool {
    a == b || matches!((parse(a), parse(b)), (Some(a), Some(b)) if a == b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_kubernetes_takes_is_taken() {
        for text in [
            "0",
            "1",
            "100m",
            "1.5Gi",
            ".5",
            "5.",
            "1e3",
            "1E3",
            "1E",
            "1Ei",
            "1e-3",
            "-1",
            "+1",
            "1k",
            "0.1",
            "9223372036854775807",
            "9223372036854775808",
            "100E",
            "1000Ei",
            "1n",
            "3.000u",
            "1e+3",
        ] {
            assert!(parse(text).is_some(), "{text:?} should be a quantity");
        }
    }

    #[test]
    fn what_kubernetes_refuses_is_refused() {
        for text in [
            "",
            "inf",
            "nan",
            "+inf",
            "--1",
            "+-1",
            "banana",
            "1 Gi",
            " 1",
            "1Gi ",
            "1KB",
            "1K",
            "0x1",
            "1e",
            "1.2.3",
            "1mm",
            "infinity",
            "1e++3",
            "1e99999999999999999999",
            "Ei",
            "٣",
        ] {
            assert!(parse(text).is_none(), "{text:?} should be refused");
        }
    }

    #[test]
    fn what_nobody_means_is_refused_although_kubernetes_takes_it() {
        for text in ["-", "+", ".", "M", "-k", "e3", ".Ki", "1e51", "1e-51"] {
            assert!(parse(text).is_none(), "{text:?} should be refused");
        }
    }

    #[test]
    fn numbers_of_any_length_are_taken() {
        for text in [
            "100000000000000000000000000000".to_owned(),
            "9".repeat(1_000_000),
            format!("0.{}", "9".repeat(1_000_000)),
            format!("{}Ei", "9".repeat(1_000_000)),
            format!("1e{}3", "0".repeat(1_000_000)),
        ] {
            assert!(parse(&text).is_some(), "{}", text.len());
        }
    }

    #[test]
    fn whole_numbers_are_told_from_fractions() {
        for text in [
            "0", "0.0", "1", "1k", "1Ki", "2.0", "1000m", "1e3", "20e-1", "0.5Ki", "-1", "0m",
            "0.9991",
        ] {
            assert!(parse(text).unwrap().is_whole(), "{text:?} should be whole");
        }
        for text in ["0.5", "1m", "1500m", "1e-3", "1n", "0.1Ki", "-1.5", "0.999"] {
            assert!(
                !parse(text).unwrap().is_whole(),
                "{text:?} should have a fraction"
            );
        }
    }

    #[test]
    fn values_compare_as_numbers() {
        let compare = |a, b| parse(a).zip(parse(b)).map(|(a, b)| a.cmp(&b));
        for (a, b, expected) in [
            ("1", "1000m", Ordering::Equal),
            ("1Gi", "1024Mi", Ordering::Equal),
            ("1Gi", "1G", Ordering::Greater),
            ("0.1", "100m", Ordering::Equal),
            ("1Ti", "1099511627776", Ordering::Equal),
            ("1n", "1000000000000P", Ordering::Less),
            // A binary suffix reaches to 2^63 - 1, without one there is no end.
            ("7Ei", "8Ei", Ordering::Less),
            ("8Ei", "9223372036854775807", Ordering::Equal),
            ("1000Ei", "2000Ei", Ordering::Equal),
            ("-1000Ei", "-2000Ei", Ordering::Equal),
            ("1000E", "2000E", Ordering::Less),
            ("1000Ei", "1000E", Ordering::Less),
            // A billionth is the least, and what is beyond it counts as one.
            ("0.1n", "1n", Ordering::Equal),
            ("1.1n", "2n", Ordering::Equal),
            ("-0.1n", "-1n", Ordering::Equal),
            ("1e-50", "1n", Ordering::Equal),
            ("999999999.9999999999", "1G", Ordering::Equal),
            ("0.0000000001Ki", "103n", Ordering::Equal),
            ("1.0n", "1n", Ordering::Equal),
            (
                "99999999999999999999999999999999999999998",
                "99999999999999999999999999999999999999999",
                Ordering::Less,
            ),
            ("-1", "1", Ordering::Less),
            ("-2", "-1", Ordering::Less),
            ("-0", "0", Ordering::Equal),
            ("0", "1n", Ordering::Less),
            ("1e50", "1e-50", Ordering::Greater),
            ("9007199254740993", "9007199254740992", Ordering::Greater),
        ] {
            assert_eq!(compare(a, b), Some(expected), "{a} against {b}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(a in "[-+]?[0-9.]{0,30}(m|k|Ki|Ei|e[0-9]{1,3})?", b in ".*") {
            if let (Some(a), Some(b)) = (parse(&a), parse(&b)) {
                let _ = a.cmp(&b);
            }
        }

        #[test]
        fn order_is_that_of_whole_numbers(a: i64, b: i64) {
            let parsed = parse(&a.to_string()).zip(parse(&b.to_string()));
            prop_assert_eq!(parsed.map(|(x, y)| x.cmp(&y)), Some(a.cmp(&b)));
        }
    }
}
