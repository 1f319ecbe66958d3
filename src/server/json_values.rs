//! What a client sends, in any pieces, cut into JSON values. Every byte is looked at once. What is no JSON is refused in
//! the words of Go's encoding/json, which etcd's gateway reads with.

use bytes::{Buf, Bytes, BytesMut};
use norn_planted::planted;

use crate::go_text::quoted_byte;

/// Arrays and objects in each other. (Go's limit. One byte is kept for each.)
const DEPTH_MAX: usize = 10_000;

/// A whole JSON value, and nothing around it. Its strings need not be Unicode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Json(Bytes);

impl Json {
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Bytes to values.
#[derive(Debug, Default)]
pub struct Values {
    /// Begins with the value that is being read: what stands before it is dropped.
    said: BytesMut,
    /// Of `said`, already looked at.
    seen: usize,
    scan: Scan,
}

impl Values {
    pub fn push(&mut self, data: &[u8]) {
        self.said.extend_from_slice(data);
    }

    /// Bytes that are held.
    pub fn held(&self) -> usize {
        self.said.len()
    }

    /// The next value; `None` when it is not complete.
    ///
    /// # Errors
    /// What is wrong with it, in words. Nothing can be read any more.
    pub fn next_value(&mut self) -> Result<Option<Json>, String> {
        if self.seen == 0 {
            let blank = self.said.iter().take_while(|byte| is_space(**byte)).count();
            self.said.advance(blank);
        }
        while let Some(byte) = self.said.get(self.seen) {
            match self.scan.step(*byte)? {
                Step::More => self.seen += 1,
                Step::Ends => return Ok(Some(self.take(self.seen + 1))),
                Step::Ended => return Ok(Some(self.take(self.seen))),
            }
        }
        Ok(None)
    }

    /// The last value, after which nothing comes: a number may have waited for that. `None` when there is none.
    ///
    /// # Errors
    /// It ends too early.
    pub fn last_value(&mut self) -> Result<Option<Json>, String> {
        match self.next_value()? {
            Some(value) => Ok(Some(value)),
            None if self.said.is_empty() => Ok(None),
            None => match self.scan.step(b' ') {
                Ok(Step::Ended) => Ok(Some(self.take(self.said.len()))),
                _ => Err("unexpected EOF".to_owned()),
            },
        }
    }

    fn take(&mut self, len: usize) -> Json {
        self.seen = 0;
        self.scan = Scan::default();
        Json(self.said.split_to(len).freeze())
    }
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    More,
    /// With this byte the value is whole.
    Ends,
    /// It was whole before this byte.
    Ended,
}

/// What an open array or object waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Open {
    Key,
    Value,
    Element,
}

/// What may come next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Expects {
    #[default]
    Value,
    ElementOrEnd,
    Key,
    KeyOrEnd,
    /// A comma, a colon, or the end of what is open.
    AfterValue,
    InString,
    Escaped,
    /// So many more digits of an escape.
    Hex(u8),
    /// The rest of a word.
    Word(&'static str, usize),
    AfterMinus,
    /// Behind a leading zero, or the digits before the dot.
    AfterZero,
    Digits,
    FirstDecimal,
    Decimals,
    AfterE,
    FirstOfExponent,
    Exponent,
}

#[derive(Debug, Default)]
struct Scan {
    expects: Expects,
    open: Vec<Open>,
}

impl Scan {
    fn step(&mut self, byte: u8) -> Result<Step, String> {
        let next = match self.expects {
            Expects::Value | Expects::ElementOrEnd | Expects::Key | Expects::KeyOrEnd
                if is_space(byte) =>
            {
                self.expects
            }
            Expects::ElementOrEnd if byte == b']' => return self.after_value(byte),
            Expects::Value | Expects::ElementOrEnd => return self.begin(byte),
            Expects::KeyOrEnd if byte == b'}' => {
                self.now(Open::Value);
                return self.after_value(byte);
            }
            Expects::Key | Expects::KeyOrEnd if byte == b'"' => Expects::InString,
            Expects::Key | Expects::KeyOrEnd => {
                return wrong(byte, "looking for beginning of object key string");
            }
            Expects::AfterValue => return self.after_value(byte),
            Expects::InString => match byte {
                b'"' => Expects::AfterValue,
                b'\\' => Expects::Escaped,
                ..0x20 => return wrong(byte, "in string literal"),
                _ => Expects::InString,
            },
            Expects::Escaped => match byte {
                b'b' | b'f' | b'n' | b'r' | b't' | b'\\' | b'/' | b'"' => Expects::InString,
                b'u' => Expects::Hex(4),
                _ => return wrong(byte, "in string escape code"),
            },
            Expects::Hex(_) if !byte.is_ascii_hexdigit() && !planted!(JsonEscapeUnread) => {
                return wrong(byte, "in \\u hexadecimal character escape");
            }
            Expects::Hex(1) => Expects::InString,
            Expects::Hex(more) => Expects::Hex(more - 1),
            Expects::Word(word, at) => {
                let letter = word.as_bytes()[at];
                if byte != letter {
                    let place = format!("in literal {word} (expecting '{}')", letter as char);
                    return wrong(byte, &place);
                }
                let is_whole = at + 1 == word.len();
                if is_whole { Expects::AfterValue } else { Expects::Word(word, at + 1) }
            }
            Expects::AfterMinus => match byte {
                b'0' => Expects::AfterZero,
                b'1'..=b'9' => Expects::Digits,
                _ => return wrong(byte, "in numeric literal"),
            },
            Expects::Digits if byte.is_ascii_digit() => Expects::Digits,
            Expects::Digits | Expects::AfterZero => match byte {
                b'.' => Expects::FirstDecimal,
                b'e' | b'E' => Expects::AfterE,
                _ => return self.after_value(byte),
            },
            Expects::FirstDecimal if byte.is_ascii_digit() => Expects::Decimals,
            Expects::FirstDecimal => {
                return wrong(byte, "after decimal point in numeric literal");
            }
            Expects::Decimals => match byte {
                b'0'..=b'9' => Expects::Decimals,
                b'e' | b'E' => Expects::AfterE,
                _ => return self.after_value(byte),
            },
            Expects::AfterE if matches!(byte, b'+' | b'-') => Expects::FirstOfExponent,
            Expects::AfterE | Expects::FirstOfExponent if byte.is_ascii_digit() => {
                Expects::Exponent
            }
            Expects::AfterE | Expects::FirstOfExponent => {
                return wrong(byte, "in exponent of numeric literal");
            }
            Expects::Exponent if byte.is_ascii_digit() => Expects::Exponent,
            Expects::Exponent => return self.after_value(byte),
        };
        self.expects = next;
        Ok(Step::More)
    }

    fn begin(&mut self, byte: u8) -> Result<Step, String> {
        self.expects = match byte {
            b'{' => self.opened(Open::Key, Expects::KeyOrEnd, byte)?,
            b'[' => self.opened(Open::Element, Expects::ElementOrEnd, byte)?,
            b'"' => Expects::InString,
            b'-' => Expects::AfterMinus,
            b'0' => Expects::AfterZero,
            b'1'..=b'9' => Expects::Digits,
            b't' => Expects::Word("true", 1),
            b'f' => Expects::Word("false", 1),
            b'n' => Expects::Word("null", 1),
            _ => return wrong(byte, "looking for beginning of value"),
        };
        Ok(Step::More)
    }

    fn opened(&mut self, open: Open, then: Expects, byte: u8) -> Result<Expects, String> {
        if self.open.len() == DEPTH_MAX {
            return wrong(byte, "exceeded max depth");
        }
        self.open.push(open);
        Ok(then)
    }

    /// The innermost object is elsewhere now.
    fn now(&mut self, open: Open) {
        if let Some(last) = self.open.last_mut() {
            *last = open;
        }
    }

    fn after_value(&mut self, byte: u8) -> Result<Step, String> {
        let Some(open) = self.open.last().copied() else { return Ok(Step::Ended) };
        self.expects = match (open, byte) {
            (_, byte) if is_space(byte) => Expects::AfterValue,
            (Open::Key, b':') => {
                self.now(Open::Value);
                Expects::Value
            }
            (Open::Value, b',') => {
                self.now(Open::Key);
                Expects::Key
            }
            (Open::Element, b',') => Expects::Value,
            (Open::Value, b'}') | (Open::Element, b']') => {
                self.open.pop();
                if self.open.is_empty() {
                    return Ok(Step::Ends);
                }
                Expects::AfterValue
            }
            (Open::Key, _) => return wrong(byte, "after object key"),
            (Open::Value, _) => return wrong(byte, "after object key:value pair"),
            (Open::Element, _) => return wrong(byte, "after array element"),
        };
        Ok(Step::More)
    }
}

fn wrong<T>(byte: u8, place: &str) -> Result<T, String> {
    Err(format!("invalid character {} {place}", quoted_byte(byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All values of a text that is given in pieces of this length.
    fn values(text: &[u8], piece: usize) -> (Vec<Vec<u8>>, Result<(), String>) {
        let mut values = Values::default();
        let mut got = Vec::new();
        for piece in text.chunks(piece) {
            values.push(piece);
            loop {
                match values.next_value() {
                    Ok(Some(value)) => got.push(value.as_bytes().to_vec()),
                    Ok(None) => break,
                    Err(text) => return (got, Err(text)),
                }
            }
        }
        loop {
            match values.last_value() {
                Ok(Some(value)) => got.push(value.as_bytes().to_vec()),
                Ok(None) => return (got, Ok(())),
                Err(text) => return (got, Err(text)),
            }
        }
    }

    #[test]
    fn values_are_the_same_however_they_are_cut() {
        let text = br#" {"a":[1,-0.5e+3,"x\"\u00e9]",{}],"b":null}[ ]7 "s"true {"k" : [ [] ] } 12"#;
        let expected: [&[u8]; 7] = [
            br#"{"a":[1,-0.5e+3,"x\"\u00e9]",{}],"b":null}"#,
            b"[ ]",
            b"7",
            br#""s""#,
            b"true",
            br#"{"k" : [ [] ] }"#,
            b"12",
        ];
        for piece in 1..=text.len() {
            let (got, end) = values(text, piece);
            assert_eq!((got.as_slice(), end), (&expected.map(<[u8]>::to_vec)[..], Ok(())));
        }
    }

    #[test]
    fn what_is_no_json_is_refused_in_go_s_words() {
        let cases: &[(&[u8], &str)] = &[
            (b"x", "invalid character 'x' looking for beginning of value"),
            (b"'", "invalid character '\\'' looking for beginning of value"),
            (b"\xff", "invalid character '\u{ff}' looking for beginning of value"),
            (b"\x80", "invalid character '\\u0080' looking for beginning of value"),
            (b"\x00", "invalid character '\\x00' looking for beginning of value"),
            (b"{x", "invalid character 'x' looking for beginning of object key string"),
            (br#"{"a":1,}"#, "invalid character '}' looking for beginning of object key string"),
            (br#"{"a"1"#, "invalid character '1' after object key"),
            (br#"{"a":1"b""#, "invalid character '\"' after object key:value pair"),
            (b"[1 2", "invalid character '2' after array element"),
            (b"[1,]", "invalid character ']' looking for beginning of value"),
            (b"\"a\n", "invalid character '\\n' in string literal"),
            (br#""\x"#, "invalid character 'x' in string escape code"),
            (br#""\u00g"#, "invalid character 'g' in \\u hexadecimal character escape"),
            (b"-x", "invalid character 'x' in numeric literal"),
            (b"1.x", "invalid character 'x' after decimal point in numeric literal"),
            (b"1e", "unexpected EOF"),
            (b"1ex", "invalid character 'x' in exponent of numeric literal"),
            (b"trux", "invalid character 'x' in literal true (expecting 'e')"),
            (b"[fx", "invalid character 'x' in literal false (expecting 'a')"),
            (b"nuxl", "invalid character 'x' in literal null (expecting 'l')"),
            (b"{", "unexpected EOF"),
            (b"\"", "unexpected EOF"),
            (b"nul", "unexpected EOF"),
        ];
        for (text, expected) in cases {
            assert_eq!(values(text, 1), (Vec::new(), Err((*expected).to_owned())), "{text:?}");
        }
        // What follows a whole value is the next one's business.
        assert_eq!(values(b"{}x", 3).0, [b"{}"]);
        assert_eq!(values(b" \n", 1), (Vec::new(), Ok(())));
    }

    #[test]
    fn depth_is_bounded() {
        let deep = "[".repeat(DEPTH_MAX);
        assert_eq!(values(deep.as_bytes(), 1 << 20).1, Err("unexpected EOF".to_owned()));
        let deeper = "[".repeat(DEPTH_MAX + 1);
        let text = "invalid character '[' exceeded max depth";
        assert_eq!(values(deeper.as_bytes(), 1 << 20).1, Err(text.to_owned()));
    }
}
