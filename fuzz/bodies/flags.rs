//! Command line and environment: any words, and Go's own rules for the values.

use norn_server::config::ServerConfig;
use norn_server::flags::{self, FLAGS, Kind, Refusal};
use norn_server::go_values;

use crate::choices::Choices;

/// The first byte says whether the rest is one value, or arguments and environment.
pub fn body(bytes: &[u8]) {
    let mut choices = Choices::new(bytes);
    match choices.byte() % 4 {
        0 => {
            let text = String::from_utf8_lossy(choices.rest()).into_owned();
            value(&text);
        }
        1 => value(&number(&mut choices)),
        _ => words(&mut choices),
    }
}

/// Texts that look like numbers and durations, more often than chance would have it.
fn number(choices: &mut Choices<'_>) -> String {
    const PIECES: [&str; 24] = [
        "0",
        "1",
        "7",
        "8",
        "9",
        "-",
        "+",
        "_",
        "0x",
        "0o",
        "0b",
        ".",
        "s",
        "ms",
        "us",
        "ns",
        "m",
        "h",
        "µs",
        "e",
        "f",
        "18446744073709551615",
        "9223372036854775808",
        "2562047",
    ];
    let count = choices.below(8);
    (0..count).map(|_| PIECES[choices.below(PIECES.len())]).collect()
}

/// A value for each kind of flag is taken exactly when Go takes it, as the number that Go reads.
fn value(text: &str) {
    let parse = |name: &str| flags::parse(&[format!("--{name}={text}")], []);
    let uint = parse("snapshot-count").ok().map(|values| values.uint("snapshot-count"));
    assert_eq!(uint, go_uint(text), "an unsigned number: {text:?}");
    let int = parse("quota-backend-bytes").ok().map(|values| values.int("quota-backend-bytes"));
    assert_eq!(int, go_int(text), "a number: {text:?}");
    assert_eq!(go_values::parse_duration_ns(text), go_duration(text), "a duration: {text:?}");
    let refused = parse("raft-read-timeout").is_err();
    assert_eq!(refused, go_duration(text).is_none());
}

/// strconv.ParseUint(text, 0, 64).
fn go_uint(text: &str) -> Option<u64> {
    let lower = text.to_ascii_lowercase();
    let (base, digits) = match lower.as_bytes() {
        [b'0', b'x', ..] => (16, &lower[2..]),
        [b'0', b'o', ..] => (8, &lower[2..]),
        [b'0', b'b', ..] => (2, &lower[2..]),
        [b'0', _, ..] => (8, &lower[1..]),
        _ => (10, &lower[..]),
    };
    // An underscore stands between digits, or between a base's prefix and a digit.
    let mut before = if base == 10 { '_' } else { '0' };
    let mut value = 0u64;
    let mut count = 0;
    for digit in digits.chars() {
        if digit == '_' {
            if before == '_' {
                return None;
            }
        } else {
            let digit = u64::from(digit.to_digit(base)?);
            value = value.checked_mul(u64::from(base))?.checked_add(digit)?;
            count += 1;
        }
        before = digit;
    }
    // `0_` has its digit, and an underscore behind it.
    (count > 0 && before != '_').then_some(value)
}

/// strconv.ParseInt(text, 0, 64).
fn go_int(text: &str) -> Option<i64> {
    match text.strip_prefix('-') {
        Some(rest) => i64::try_from(-i128::from(go_uint(rest)?)).ok(),
        None => i64::try_from(go_uint(text.strip_prefix('+').unwrap_or(text))?).ok(),
    }
}

/// time.ParseDuration, in nanoseconds, without floating point but where Go has it.
fn go_duration(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let most = 1u64 << 63;
    let mut total = 0u64;
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let mut whole = 0u64;
        for digit in rest[..digits].bytes() {
            whole = whole.checked_mul(10)?.checked_add(u64::from(digit - b'0'))?;
        }
        if whole > most {
            return None;
        }
        rest = &rest[digits..];
        let (mut fraction, mut scale, mut behind) = (0u64, 1f64, 0);
        if let Some(after) = rest.strip_prefix('.') {
            behind = after.len() - after.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            let mut full = false;
            for digit in after[..behind].bytes() {
                // Digits beyond what a number holds are dropped.
                let next = u128::from(fraction) * 10 + u128::from(digit - b'0');
                full |= next > u128::from(most);
                if !full {
                    fraction = next as u64;
                    scale *= 10.0;
                }
            }
            rest = &after[behind..];
        }
        if digits + behind == 0 {
            return None;
        }
        let end = rest.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(rest.len());
        let unit: u64 = match &rest[..end] {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        rest = &rest[end..];
        let mut piece = whole.checked_mul(unit).filter(|piece| *piece <= most)?;
        if fraction > 0 {
            piece += (fraction as f64 * (unit as f64 / scale)) as u64;
        }
        total = piece.checked_add(total).filter(|total| *total <= most)?;
    }
    match (negative, i64::try_from(total)) {
        (true, Ok(total)) => Some(-total),
        (true, Err(_)) => Some(i64::MIN),
        (false, total) => total.ok(),
    }
}

/// Arguments and variables: refused with words, or values that the configuration takes or refuses with words. The order
/// of variables does not matter.
fn words(choices: &mut Choices<'_>) {
    let (mut args, mut env) = (Vec::new(), Vec::new());
    for _ in 0..choices.below(8) {
        let flag = &FLAGS[choices.below(FLAGS.len())];
        let value = match choices.byte() % 6 {
            0 => number(choices),
            1 => String::from_utf8_lossy(choices.bytes(30)).into_owned(),
            2 => "http://127.0.0.1:2380".to_owned(),
            3 => flag.default.to_owned(),
            4 => ["true", "false", "1", "T", ""][choices.below(5)].to_owned(),
            _ => format!("a=http://h:{},b=https://[::1]:{}", choices.word(), choices.byte()),
        };
        match choices.byte() % 5 {
            0 => args.push(format!("-{}={value}", flag.name)),
            1 => args.extend([format!("--{}", flag.name), value]),
            2 => args.push(String::from_utf8_lossy(choices.bytes(12)).into_owned()),
            _ => {
                let name = flag.name.to_uppercase().replace('-', "_");
                env.push((format!("ETCD_{name}"), value));
            }
        }
    }
    // (A process has each variable once.)
    let env: std::collections::BTreeMap<_, _> = env.into_iter().collect();
    let parsed = flags::parse(&args, env.clone());
    let env: Vec<_> = env.into_iter().rev().collect();
    match parsed {
        Ok(values) => {
            assert!(flags::parse(&args, env).is_ok(), "the order of variables matters");
            for flag in FLAGS {
                let text = values.text(flag.name);
                if flag.kind == Kind::Duration {
                    assert!(go_duration(text).is_some(), "--{}={text}", flag.name);
                }
            }
            if let Err(text) = ServerConfig::new(&values) {
                assert!(!text.is_empty());
            }
        }
        Err(Refusal::Usage(text) | Refusal::Verify(text) | Refusal::Conflict(text)) => {
            assert!(!text.is_empty());
        }
        Err(Refusal::Help) => {}
    }
}
