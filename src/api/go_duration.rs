//! Durations as Go's `time.ParseDuration` reads them: MCP servers written in Go read the same text. `tests/oracles`
//! compares the two.
//!
//! This is our own code because no published parser passed Go's own test table when this was written:
//! `kube::core::Duration` accepts `--5s`, `go-parse-duration` panics on `12µs` and refuses the largest
//! duration, `go-duration` refuses `0`.

/// Go adds up in 64 bits without a sign, so that the smallest `i64` can be read.
const LIMIT: u64 = 1 << 63;

/// Parses a signed sequence of decimal numbers with units (`1h30m`, `-1.5s`, `300ms`).
///
/// Returns nanoseconds, or `None` where Go returns an error: a number without a unit (other than a bare `0`), an
/// unknown unit, no digits, or a value that does not fit 64 bits.
pub fn parse(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let whole = digits(rest);
        rest = &rest[whole.len()..];
        let mut fraction = "";
        if let Some(after) = rest.strip_prefix('.') {
            fraction = digits(after);
            rest = &after[fraction.len()..];
        }
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let end = rest
            .find(|c: char| c == '.' || c.is_ascii_digit())
            .unwrap_or(rest.len());
        let unit = unit(&rest[..end])?;
        rest = &rest[end..];
        let whole: u64 = if whole.is_empty() {
            0
        } else {
            whole.parse().ok()?
        };
        let nanos = whole.checked_mul(unit).filter(|n| *n <= LIMIT)?;
        let nanos = nanos
            .checked_add(fraction_of(fraction, unit))
            .filter(|n| *n <= LIMIT)?;
        // Twice the limit is 0 here, as in Go.
        total = Some(total.wrapping_add(nanos)).filter(|n| *n <= LIMIT)?;
    }
    if negative {
        0i64.checked_sub_unsigned(total)
    } else {
        i64::try_from(total).ok()
    }
}

fn digits(text: &str) -> &str {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    &text[..end]
}

/// Nanoseconds of one unit. `µ` exists twice in Unicode: U+00B5 and U+03BC.
fn unit(name: &str) -> Option<u64> {
    Some(match name {
        "ns" => 1,
        "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    })
}

/// `0.<digits>` units in whole nanoseconds, by Go's own arithmetic: digits beyond 63 bits are
/// dropped, the product is one of floats and is cut, not rounded.
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss
)]
fn fraction_of(digits: &str, unit: u64) -> u64 {
    let mut value: u64 = 0;
    let mut scale: f64 = 1.0;
    for digit in digits.bytes().map(|b| u64::from(b - b'0')) {
        let Some(next) = value.checked_mul(10).and_then(|v| v.checked_add(digit)) else {
            break;
        };
        if next > 1 << 63 {
            break;
        }
        value = next;
        scale *= 10.0;
    }
    (value as f64 * (unit as f64 / scale)) as u64
}

#[cfg(test)]
mod tests {
    use super::parse;
    use proptest::prelude::*;

    /// Go's `parseDurationTests` (`src/time/time_test.go`, go1.26), in nanoseconds.
    const TAKEN: &[(&str, i64)] = &[
        ("0", 0),
        ("5s", 5_000_000_000),
        ("30s", 30_000_000_000),
        ("1478s", 1_478_000_000_000),
        ("-5s", -5_000_000_000),
        ("+5s", 5_000_000_000),
        ("-0", 0),
        ("+0", 0),
        ("5.0s", 5_000_000_000),
        ("5.6s", 5_600_000_000),
        ("5.s", 5_000_000_000),
        (".5s", 500_000_000),
        ("1.0s", 1_000_000_000),
        ("1.00s", 1_000_000_000),
        ("1.004s", 1_004_000_000),
        ("1.0040s", 1_004_000_000),
        ("100.00100s", 100_001_000_000),
        ("10ns", 10),
        ("11us", 11_000),
        ("12µs", 12_000),
        ("12μs", 12_000),
        ("13ms", 13_000_000),
        ("14s", 14_000_000_000),
        ("15m", 900_000_000_000),
        ("16h", 57_600_000_000_000),
        ("3h30m", 12_600_000_000_000),
        ("10.5s4m", 250_500_000_000),
        ("-2m3.4s", -123_400_000_000),
        ("1h2m3s4ms5us6ns", 3_723_004_005_006),
        ("39h9m14.425s", 140_954_425_000_000),
        ("52763797000ns", 52_763_797_000),
        ("0.3333333333333333333h", 1_200_000_000_000),
        ("9007199254740993ns", 9_007_199_254_740_993),
        ("9223372036854775807ns", 9_223_372_036_854_775_807),
        ("9223372036854775.807us", 9_223_372_036_854_775_807),
        ("9223372036s854ms775us807ns", 9_223_372_036_854_775_807),
        ("-9223372036854775808ns", i64::MIN),
        ("-9223372036854775.808us", i64::MIN),
        ("-9223372036s854ms775us808ns", i64::MIN),
        ("-9223372036854775808ns", i64::MIN),
        ("-2562047h47m16.854775808s", i64::MIN),
        ("0.100000000000000000000h", 360_000_000_000),
        ("0.830103483285477580700h", 2_988_372_539_827),
        // Not of that table: Go's sum starts again at 0.
        (
            "9223372036854775808ns9223372036854775808ns5s",
            5_000_000_000,
        ),
    ];

    /// Go's `parseDurationErrorTests`, less those that are no UTF-8, and more of the same sort.
    const REFUSED: &[&str] = &[
        "",
        "3",
        "-",
        "s",
        ".",
        "-.",
        ".s",
        "+.s",
        "1d",
        "�",
        "� hello � world",
        "9223372036854775810ns",
        "9223372036854775808ns",
        "-9223372036854775809ns",
        "9223372036854776us",
        "3000000h",
        "9223372036854775.808us",
        "9223372036854ms775us808ns",
        "inf",
        "nan",
        "1e3s",
        "++5s",
        "--5s",
        "-+5s",
        "+-5s",
        "3s-5s",
        "5s+5s",
        "1 s",
        " 1s",
        "1s ",
        "1s0",
        "banana",
        "99999999999999999999h",
        "1h 30m",
        "0x1s",
        "1_0s",
        "5S",
        "1H",
        "∞s",
        "１s",
        "1.2.3s",
    ];

    #[test]
    fn what_go_takes_is_taken_with_the_same_value() {
        for (text, nanos) in TAKEN {
            assert_eq!(parse(text), Some(*nanos), "{text:?}");
        }
    }

    #[test]
    fn what_go_refuses_is_refused() {
        for text in REFUSED {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(text in ".*") {
            let _ = parse(&text);
        }

        #[test]
        fn nothing_like_a_duration_panics(text in "[-+]?([0-9.]{0,25}(ns|us|µs|ms|s|m|h|d)){0,4}") {
            let _ = parse(&text);
        }

        #[test]
        fn whole_units_add_up(h in 0i64..1000, m in 0i64..1000, s in 0i64..1000) {
            let expected = ((h * 60 + m) * 60 + s) * 1_000_000_000;
            prop_assert_eq!(parse(&format!("{h}h{m}m{s}s")), Some(expected));
            prop_assert_eq!(parse(&format!("-{h}h{m}m{s}s")), Some(-expected));
        }
    }
}
