//! Numbers and durations as Go reads them from text: etcd's flags accept and refuse by these rules.

use norn_planted::planted;

/// strconv.ParseUint(text, 0, 64): a prefix tells the base (a plain 0: eight), underscores may stand between digits.
pub fn parse_uint(text: &str) -> Option<u64> {
    let prefix = text.get(..2).map(str::to_ascii_lowercase);
    let (base, digits) = match prefix.as_deref() {
        Some("0x") => (16, &text[2..]),
        Some("0o") => (8, &text[2..]),
        Some("0b") => (2, &text[2..]),
        Some(_) if text.starts_with('0') => (8, &text[1..]),
        _ => (10, text),
    };
    // An underscore needs a digit, or the prefix, on its left, and a digit on its right.
    let misplaced = |text: &str| text.ends_with('_') || text.contains("__");
    if misplaced(digits) || (base == 10 && digits.starts_with('_')) {
        return None;
    }
    let digits = digits.replace('_', "");
    // (Rust would take a sign.)
    if !digits.bytes().all(|digit| digit.is_ascii_alphanumeric()) {
        return None;
    }
    u64::from_str_radix(&digits, base).ok()
}

/// strconv.ParseInt(text, 0, 64).
pub fn parse_int(text: &str) -> Option<i64> {
    match text.strip_prefix('-') {
        Some(rest) => parse_uint(rest).and_then(|n| 0i64.checked_sub_unsigned(n)),
        None => {
            let digits = text.strip_prefix('+').unwrap_or(text);
            parse_uint(digits).and_then(|n| i64::try_from(n).ok())
        }
    }
}

/// time.ParseDuration: `1h30m`, `300ms`, `1.5s`; a unit is mandatory, but for a bare 0. `None` also for what does not
/// fit into 64 bits of nanoseconds: such a flag is refused, not cut down.
pub fn parse_duration_ns(text: &str) -> Option<i64> {
    let (is_negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total = 0u64;
    while !rest.is_empty() {
        let (whole, after) = split_digits(rest);
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => split_digits(after),
            None => ("", after),
        };
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let unit = unit_ns(&after[..end])?;
        rest = &after[end..];
        let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        let piece = whole.checked_mul(unit).filter(|piece| *piece <= DURATION_MAX)?;
        total = total.checked_add(piece + fraction_ns(fraction, unit))?;
        if total > DURATION_MAX {
            return None;
        }
    }
    if is_negative { 0i64.checked_sub_unsigned(total) } else { i64::try_from(total).ok() }
}

/// One more than the longest: that many are allowed below zero.
const DURATION_MAX: u64 = 1 << 63;

fn split_digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

fn unit_ns(unit: &str) -> Option<u64> {
    Some(match unit {
        "ns" => 1,
        // Both signs for micro.
        "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        "" if planted!(DurationWithoutUnit) => 1_000_000_000,
        _ => return None,
    })
}

/// `0.fraction` units, with as many digits as fit and with Go's rounding.
fn fraction_ns(fraction: &str, unit: u64) -> u64 {
    let (mut value, mut scale) = (0u64, 1.0);
    for digit in fraction.bytes() {
        let more = value.checked_mul(10).and_then(|v| v.checked_add(u64::from(digit - b'0')));
        let Some(more) = more.filter(|more| *more <= DURATION_MAX) else { break };
        (value, scale) = (more, scale * 10.0);
    }
    (value as f64 * (unit as f64 / scale)) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        for (text, value) in [
            ("0x10", Some(16)),
            ("0X1f", Some(31)),
            ("010", Some(8)),
            ("0_7", Some(7)),
            ("1_000", Some(1000)),
            ("0b_11", Some(3)),
            ("18446744073709551615", Some(u64::MAX)),
            ("18446744073709551616", None),
            ("08", None),
            ("+5", None),
            ("0x+5", None),
            ("1__0", None),
            ("_1", None),
            ("1_", None),
            ("0x", None),
            ("", None),
        ] {
            assert_eq!(parse_uint(text), value, "{text}");
        }
        assert_eq!(parse_int("-9223372036854775808"), Some(i64::MIN));
        assert_eq!(parse_int("+7"), Some(7));
        assert_eq!(parse_int("--7"), None);
    }

    #[test]
    fn durations() {
        for (text, value) in [
            ("1h30m", Some(5_400_000_000_000)),
            ("1.5s", Some(1_500_000_000)),
            (".5ms", Some(500_000)),
            ("-1s", Some(-1_000_000_000)),
            ("2562047h47m16.854775807s", Some(i64::MAX)),
            ("2562048h", None),
            ("99999999999h", None),
            ("5", None),
            (".s", None),
            ("0", Some(0)),
        ] {
            assert_eq!(parse_duration_ns(text), value, "{text}");
        }
    }
}
