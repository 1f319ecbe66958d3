//! Text as Go quotes it, where etcd's refusals repeat what a client sent.

/// One byte as encoding/json names it: taken for the character of that number, in single quotes.
pub fn quoted_byte(byte: u8) -> String {
    match byte {
        b'\'' => r"'\''".to_owned(),
        b'"' => r#"'"'"#.to_owned(),
        _ => {
            let mut out = "'".to_owned();
            push_quoted(&mut out, char::from(byte));
            out + "'"
        }
    }
}

/// Bytes as fmt's %q prints them.
pub fn quoted(bytes: &[u8]) -> String {
    let mut out = "\"".to_owned();
    for chunk in bytes.utf8_chunks() {
        chunk.valid().chars().for_each(|c| push_quoted(&mut out, c));
        chunk.invalid().iter().for_each(|byte| out.push_str(&format!("\\x{byte:02x}")));
    }
    out + "\""
}

fn push_quoted(out: &mut String, c: char) {
    match c {
        '"' | '\\' => out.extend(['\\', c]),
        '\x07' => out.push_str("\\a"),
        '\x08' => out.push_str("\\b"),
        '\x0b' => out.push_str("\\v"),
        '\x0c' => out.push_str("\\f"),
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        ..' ' | '\x7f' => out.push_str(&format!("\\x{:02x}", u32::from(c))),
        c if is_printable(c) => out.push(c),
        ..='\u{ffff}' => out.push_str(&format!("\\u{:04x}", u32::from(c))),
        _ => out.push_str(&format!("\\U{:08x}", u32::from(c))),
    }
}

/// Letters, marks, numbers, punctuation, symbols: what Rust does not escape, either. (Behind a letter, because a mark at
/// the beginning of a text is escaped.)
fn is_printable(c: char) -> bool {
    let text: String = ['a', c].iter().collect();
    c == '\'' || !text.escape_debug().any(|out| out == '\\')
}

/// Where a byte stands, as line and column, both from 1. A column is a character.
pub fn position(text: &[u8], at: usize) -> (usize, usize) {
    let before = &text[..at.min(text.len())];
    let begins = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
    let is_first = |byte: &&u8| **byte & 0xc0 != 0x80;
    (line, 1 + before[begins..].iter().filter(is_first).count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes() {
        let cases: &[(&[u8], &str)] = &[
            (b"ab\"c\\'", r#""ab\"c\\'""#),
            (b"\x00\x07\n\x1f\x7f", r#""\x00\a\n\x1f\x7f""#),
            (
                "é\u{301}\u{feff}\u{e000}\u{1f600}\u{10ffff}".as_bytes(),
                "\"é\u{301}\\ufeff\\ue000\u{1f600}\\U0010ffff\"",
            ),
            (b"a\xff\xe2\x82", r#""a\xff\xe2\x82""#),
            ("\u{a0}\u{ad}\u{2028}\u{fffd}".as_bytes(), "\"\\u00a0\\u00ad\\u2028\u{fffd}\""),
        ];
        for (bytes, expected) in cases {
            assert_eq!(quoted(bytes), *expected);
        }
        assert_eq!(quoted_byte(0xe9), "'é'");
        assert_eq!(quoted_byte(0x85), r"'\u0085'");
    }

    #[test]
    fn positions() {
        let text = "a\né{\n".as_bytes();
        let at = |at| position(text, at);
        assert_eq!((at(0), at(1), at(2), at(4), at(6)), ((1, 1), (1, 2), (2, 1), (2, 2), (3, 1)));
    }
}
