//! Text as Go's standard library writes and reads it: durations, numbers and their error texts, quoted and JSON strings,
//! and the "humanized" sizes of the tables.

use std::time::Duration;

/// `1.5s`, `300ms`, `2m3s`, `1h0m0s`: `time.Duration.String`.
pub fn duration(d: Duration) -> String {
    let nanos = d.as_nanos();
    let decimal = |value: u128, unit: u128, name: &str| {
        let (whole, mut rest) = (value / unit, value % unit);
        let mut width = unit.ilog10() as usize;
        if rest == 0 {
            return format!("{whole}{name}");
        }
        while rest.is_multiple_of(10) {
            rest /= 10;
            width -= 1;
        }
        format!("{whole}.{rest:0width$}{name}")
    };
    match nanos {
        0 => "0s".into(),
        n if n < 1_000 => format!("{n}ns"),
        n if n < 1_000_000 => decimal(n, 1_000, "µs"),
        n if n < 1_000_000_000 => decimal(n, 1_000_000, "ms"),
        n => {
            let minutes = n / 60_000_000_000;
            let seconds = decimal(n % 60_000_000_000, 1_000_000_000, "s");
            match (minutes / 60, minutes % 60) {
                (0, 0) => seconds,
                (0, m) => format!("{m}m{seconds}"),
                (h, m) => format!("{h}h{m}m{seconds}"),
            }
        }
    }
}

/// `time.ParseDuration` for values that are not negative.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let invalid = || format!("time: invalid duration {}", quote(text.as_bytes()));
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total = 0f64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let number: f64 = rest[..digits].parse().map_err(|_| invalid())?;
        rest = &rest[digits..];
        let end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let unit = match &rest[..end] {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            "" => return Err(format!("time: missing unit in duration {}", quote(text.as_bytes()))),
            unit => {
                return Err(format!(
                    "time: unknown unit {} in duration {}",
                    quote(unit.as_bytes()),
                    quote(text.as_bytes())
                ));
            }
        };
        rest = &rest[end..];
        total += number * unit;
    }
    Duration::try_from_secs_f64(total).map_err(|_| invalid())
}

fn number_error(function: &str, text: &str, kind: &std::num::IntErrorKind) -> String {
    use std::num::IntErrorKind::{NegOverflow, PosOverflow};
    let why = match kind {
        PosOverflow | NegOverflow => "value out of range",
        _ => "invalid syntax",
    };
    format!("strconv.{function}: parsing {}: {why}", quote(text.as_bytes()))
}

pub fn parse_i64(text: &str, radix: u32) -> Result<i64, String> {
    i64::from_str_radix(text, radix).map_err(|e| number_error("ParseInt", text, e.kind()))
}

pub fn parse_u64(text: &str, radix: u32) -> Result<u64, String> {
    if text.starts_with('+') {
        return Err(number_error("ParseUint", text, &std::num::IntErrorKind::InvalidDigit));
    }
    u64::from_str_radix(text, radix).map_err(|e| number_error("ParseUint", text, e.kind()))
}

/// `true` and its other spellings, as `strconv.ParseBool` takes them.
pub fn parse_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        _ => Err(format!("strconv.ParseBool: parsing {}: invalid syntax", quote(text.as_bytes()))),
    }
}

/// `strconv.Quote`: what `%q` prints.
pub fn quote(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() + 2);
    out.push('"');
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\x07' => out.push_str("\\a"),
                '\x08' => out.push_str("\\b"),
                '\x0c' => out.push_str("\\f"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\x0b' => out.push_str("\\v"),
                c if (c as u32) < 0x20 || c as u32 == 0x7f => {
                    out.push_str(&format!("\\x{:02x}", c as u32));
                }
                c if c.is_control() || (c.is_whitespace() && c != ' ') || c == '\u{feff}' => {
                    out.push_str(&format!("\\u{:04x}", c as u32));
                }
                c => out.push(c),
            }
        }
        for b in chunk.invalid() {
            out.push_str(&format!("\\x{b:02x}"));
        }
    }
    out.push('"');
    out
}

/// The opposite of [`quote`], for the words of transactions. `None`: not a well-formed quoted string.
pub fn unquote(text: &str) -> Option<Vec<u8>> {
    let inner = text.strip_prefix('"')?.strip_suffix('"')?;
    let mut out = Vec::with_capacity(inner.len());
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' | '\n' => return None,
            '\\' => {
                let digits = |chars: &mut std::str::Chars<'_>, count: usize, radix: u32| {
                    (0..count)
                        .try_fold(0u32, |sum, _| Some(sum * radix + chars.next()?.to_digit(radix)?))
                };
                let mut push_char =
                    |c: char| out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                match chars.next()? {
                    'a' => out.push(7),
                    'b' => out.push(8),
                    'f' => out.push(12),
                    'n' => out.push(b'\n'),
                    'r' => out.push(b'\r'),
                    't' => out.push(b'\t'),
                    'v' => out.push(11),
                    '\\' => out.push(b'\\'),
                    '"' => out.push(b'"'),
                    'x' => out.push(digits(&mut chars, 2, 16)? as u8),
                    'u' => push_char(char::from_u32(digits(&mut chars, 4, 16)?)?),
                    'U' => push_char(char::from_u32(digits(&mut chars, 8, 16)?)?),
                    d @ '0'..='3' => {
                        let high = d.to_digit(8)?;
                        out.push((high * 64 + digits(&mut chars, 2, 8)?) as u8);
                    }
                    _ => return None,
                }
            }
            c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    Some(out)
}

/// A JSON string as `encoding/json` writes it: `<`, `>` and `&` are escaped too.
pub fn json_string(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x08' => out.push_str("\\b"),
            '\x0c' => out.push_str("\\f"),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                out.push_str(&format!("\\u{:04x}", c as u32));
            }
            c if (c as u32) < 0x20 => out.push_str(&format!("\\u{:04x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// `20 kB`, `2.1 GB`: powers of 1000, one decimal below 10.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 10 {
        return format!("{bytes} B");
    }
    let mut exponent = bytes.ilog10() / 3;
    if exponent as usize >= UNITS.len() {
        exponent = UNITS.len() as u32 - 1;
    }
    let value = (bytes as f64 / 1000f64.powi(exponent as i32) * 10.0 + 0.5).floor() / 10.0;
    let unit = UNITS[exponent as usize];
    if value < 10.0 { format!("{value:.1} {unit}") } else { format!("{value:.0} {unit}") }
}

/// `2026-11-21T08:45:29.244330Z`, the stamp of a log line.
pub fn timestamp(since_epoch: Duration) -> String {
    let seconds = since_epoch.as_secs();
    let (days, second) = ((seconds / 86_400) as i64, seconds % 86_400);
    // Civil date from days, in the calendar that starts its year in March.
    let z = days + 719_468;
    let (era, day_of_era) = (z.div_euclid(146_097), z.rem_euclid(146_097));
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:06}Z",
        second / 3600,
        second / 60 % 60,
        second % 60,
        since_epoch.subsec_micros()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_both_ways() {
        for (text, nanos) in [
            ("3.477135ms", 3_477_135),
            ("1.5s", 1_500_000_000),
            ("2m3s", 123_000_000_000),
            ("1h0m0s", 3_600_000_000_000),
            ("12µs", 12_000),
            ("7ns", 7),
        ] {
            assert_eq!(duration(Duration::from_nanos(nanos)), text);
            assert_eq!(parse_duration(text), Ok(Duration::from_nanos(nanos)));
        }
        assert_eq!(parse_duration("3"), Err("time: missing unit in duration \"3\"".into()));
        assert_eq!(parse_duration("x"), Err("time: invalid duration \"x\"".into()));
    }

    #[test]
    fn quoting() {
        assert_eq!(quote(b"a\"b\\\n\x01\xff\xc3\xa4"), "\"a\\\"b\\\\\\n\\x01\\xff\u{e4}\"");
        assert_eq!(
            unquote("\"a\\\"b\\\\\\n\\x01\\xff\"").as_deref(),
            Some(&b"a\"b\\\n\x01\xff"[..])
        );
        assert_eq!(unquote("\"a"), None);
        assert_eq!(json_string("<a&\"b>"), "\"\\u003ca\\u0026\\\"b\\u003e\"");
    }

    #[test]
    fn sizes() {
        for (bytes, text) in [
            (0, "0 B"),
            (20_480, "20 kB"),
            (2_147_483_648, "2.1 GB"),
            (999, "999 B"),
            (1000, "1.0 kB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn numbers() {
        assert_eq!(
            parse_i64("zz", 16),
            Err("strconv.ParseInt: parsing \"zz\": invalid syntax".into())
        );
        assert_eq!(
            parse_u64("fffffffffffffffff", 16),
            Err("strconv.ParseUint: parsing \"fffffffffffffffff\": value out of range".into())
        );
    }

    #[test]
    fn stamps() {
        assert_eq!(
            timestamp(Duration::from_micros(1_795_250_729_244_330)),
            "2026-11-21T08:45:29.244330Z"
        );
        assert_eq!(timestamp(Duration::ZERO), "1970-01-01T00:00:00.000000Z");
    }
}
