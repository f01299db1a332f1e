//! Resource quantities (`100m`, `1.5Gi`, `1e3`) as Kubernetes reads them.
//!
//! Own code, because the one published parser (`kube_quantity`) takes `M` and `--1`, refuses
//! `1Ei`, and panics when it compares values that are far apart.

use std::cmp::Ordering;

/// A quantity, exactly: `digits × 2^binary × 10^decimal`.
#[derive(Clone, Copy, Debug)]
pub struct ParsedQuantity {
    digits: i128,
    binary: u32,
    decimal: i32,
}

/// Most digits read; Kubernetes itself caps values at 2^63 - 1 in nine decimal places.
const MAX_DIGITS: usize = 28;

/// Parses a quantity. Nothing for what the API server would refuse:
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
    let fraction = fraction.trim_end_matches('0');
    let digits = format!("{}{fraction}", whole.trim_start_matches('0'));
    if digits.len() > MAX_DIGITS {
        return None;
    }
    let digits: i128 = if digits.is_empty() {
        0
    } else {
        digits.parse().ok()?
    };
    let (binary, decimal) = suffix_of(suffix)?;
    Some(ParsedQuantity {
        digits: if negative { -digits } else { digits },
        binary,
        decimal: decimal - i32::try_from(fraction.len()).ok()?,
    })
}

fn suffix_of(suffix: &str) -> Option<(u32, i32)> {
    Some(match suffix {
        "Ki" => (10, 0),
        "Mi" => (20, 0),
        "Gi" => (30, 0),
        "Ti" => (40, 0),
        "Pi" => (50, 0),
        "Ei" => (60, 0),
        "n" => (0, -9),
        "u" => (0, -6),
        "m" => (0, -3),
        "" => (0, 0),
        "k" => (0, 3),
        "M" => (0, 6),
        "G" => (0, 9),
        "T" => (0, 12),
        "P" => (0, 15),
        "E" => (0, 18),
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E'])?;
            let digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
            if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
                return None;
            }
            // Larger exponents have no meaning for a resource and would only cost time.
            (0, exponent.parse().ok().filter(|e| (-50..=50).contains(e))?)
        }
    })
}

impl ParsedQuantity {
    /// Whether the value is below zero.
    pub fn is_negative(&self) -> bool {
        self.digits < 0
    }

    /// Whether the value has no fraction: `1k` and `1000m` have none.
    pub fn is_whole(&self) -> bool {
        let places = usize::try_from(-self.decimal).unwrap_or(0);
        let (_, digits) = self.scaled(-self.decimal);
        digits.iter().take(places).all(|digit| *digit == 0)
    }

    /// The value in units of 10^-`places`, as decimal digits with a sign: exact, of any size.
    fn scaled(&self, places: i32) -> (bool, Vec<u8>) {
        let mut digits: Vec<u8> = self
            .digits
            .unsigned_abs()
            .to_string()
            .bytes()
            .rev()
            .map(|b| b - b'0')
            .collect();
        for _ in 0..self.binary {
            let mut carry = 0;
            for digit in &mut digits {
                let doubled = *digit * 2 + carry;
                *digit = doubled % 10;
                carry = doubled / 10;
            }
            if carry > 0 {
                digits.push(carry);
            }
        }
        let zeros = usize::try_from(self.decimal + places).unwrap_or(0);
        let mut all = vec![0; zeros];
        all.extend(digits);
        while all.last() == Some(&0) {
            all.pop();
        }
        (self.digits < 0, all)
    }
}

impl Ord for ParsedQuantity {
    fn cmp(&self, other: &Self) -> Ordering {
        let places = -self.decimal.min(other.decimal).min(0);
        let (a_negative, a) = self.scaled(places);
        let (b_negative, b) = other.scaled(places);
        let size = || {
            a.len()
                .cmp(&b.len())
                .then_with(|| a.iter().rev().cmp(b.iter().rev()))
        };
        match (a_negative && !a.is_empty(), b_negative && !b.is_empty()) {
            (false, false) => size(),
            (true, true) => size().reverse(),
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

impl PartialEq for ParsedQuantity {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for ParsedQuantity {}

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
            "M",
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
            ".",
            "-",
            "1e++3",
            "1e99999999999",
            "٣",
        ] {
            assert!(parse(text).is_none(), "{text:?} should be refused");
        }
    }

    #[test]
    fn whole_numbers_are_told_from_fractions() {
        for text in [
            "0", "0.0", "1", "1k", "1Ki", "2.0", "1000m", "1e3", "20e-1", "0.5Ki", "-1", "0m",
        ] {
            assert!(parse(text).unwrap().is_whole(), "{text:?} should be whole");
        }
        for text in ["0.5", "1m", "1500m", "1e-3", "1n", "0.1Ki", "-1.5"] {
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
            ("1000Ei", "2000Ei", Ordering::Less),
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
