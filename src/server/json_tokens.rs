//! The parts of a JSON value, one after the other, with the texts that Go's protojson has for strings it does not take.
//! The value is whole (see `json_values`): commas and colons stand where they must.

use std::borrow::Cow;

use crate::go_text::{position, quoted};
use crate::json_values::Json;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind<'a> {
    Null,
    Bool(bool),
    Number,
    String(Cow<'a, str>),
    /// Of a field.
    Name(Cow<'a, str>),
    ObjectOpen,
    ObjectClose,
    ArrayOpen,
    ArrayClose,
}

#[derive(Clone, Debug)]
pub struct Token<'a> {
    pub kind: Kind<'a>,
    /// As it was written.
    pub raw: &'a str,
    /// Its first byte.
    pub at: usize,
}

pub struct Tokens<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Tokens<'a> {
    pub fn of(json: &'a Json) -> Tokens<'a> {
        Tokens { text: json.as_bytes(), at: 0 }
    }

    /// The byte with which the next one begins.
    pub fn peek(&mut self) -> Option<u8> {
        let between = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\r' | b'\n' | b',');
        self.at += self.text[self.at..].iter().take_while(|byte| between(byte)).count();
        self.text.get(self.at).copied()
    }

    /// # Errors
    /// A string is no Unicode.
    pub fn next_token(&mut self) -> Result<Token<'a>, String> {
        let first = self.peek().ok_or_else(ends_early)?;
        let at = self.at;
        let (kind, len) = match first {
            b'{' => (Kind::ObjectOpen, 1),
            b'}' => (Kind::ObjectClose, 1),
            b'[' => (Kind::ArrayOpen, 1),
            b']' => (Kind::ArrayClose, 1),
            b'n' => (Kind::Null, 4),
            b't' => (Kind::Bool(true), 4),
            b'f' => (Kind::Bool(false), 5),
            b'"' => return self.string(),
            _ => {
                let within = |byte: &u8| is_word(*byte);
                (
                    Kind::Number,
                    self.text[at..].iter().take_while(|byte| within(byte)).count().max(1),
                )
            }
        };
        self.at = (at + len).min(self.text.len());
        let raw = str::from_utf8(&self.text[at..self.at]).map_err(|_| ends_early())?;
        Ok(Token { kind, raw, at })
    }

    /// What is wrong at a place.
    pub fn syntax_error(&self, at: usize, text: &str) -> String {
        let (line, column) = position(self.text, at);
        format!("proto: syntax error (line {line}:{column}): {text}")
    }

    pub fn error(&self, at: usize, text: &str) -> String {
        let (line, column) = position(self.text, at);
        format!("proto: (line {line}:{column}): {text}")
    }

    fn string(&mut self) -> Result<Token<'a>, String> {
        let (text, begins) = (self.text, self.at);
        let mut at = begins + 1;
        let mut whole = Cow::Borrowed("");
        loop {
            let rest = text.get(at..).unwrap_or_default();
            let len = rest.iter().position(|byte| matches!(byte, b'"' | b'\\'));
            let len = len.ok_or_else(ends_early)?;
            let plain = str::from_utf8(&rest[..len])
                .map_err(|_| self.syntax_error(begins, "invalid UTF-8 in string"))?;
            // (A string without escapes is not copied.)
            if whole.is_empty() {
                whole = Cow::Borrowed(plain);
            } else {
                whole += plain;
            }
            at += len;
            if text[at] == b'"' {
                break;
            }
            let (c, len) = self.escaped(begins, at)?;
            whole.to_mut().push(c);
            at += len;
        }
        self.at = at + 1;
        let raw = str::from_utf8(&text[begins..self.at]).map_err(|_| ends_early())?;
        let kind = if self.is_colon_next() { Kind::Name(whole) } else { Kind::String(whole) };
        Ok(Token { kind, raw, at: begins })
    }

    /// The character that an escape stands for, and its length.
    fn escaped(&self, string: usize, at: usize) -> Result<(char, usize), String> {
        let wrong = |escape: &[u8]| {
            let text = format!("invalid escape code {} in string", quoted(escape));
            self.syntax_error(string, &text)
        };
        let rest = &self.text[at..];
        let plain = match rest.get(1).ok_or_else(ends_early)? {
            b'b' => '\x08',
            b'f' => '\x0c',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let escape = rest.get(..6).ok_or_else(ends_early)?;
                let first = hex(escape).ok_or_else(|| wrong(escape))?;
                if let Some(c) = char::from_u32(first) {
                    return Ok((c, 6));
                }
                // Half of a pair: the other half must follow.
                let escape = rest.get(6..12).ok_or_else(ends_early)?;
                let second = hex(escape).filter(|half| (0xdc00..0xe000).contains(half));
                let pair = second
                    .filter(|_| first < 0xdc00)
                    .map(|second| 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00));
                let c = pair.and_then(char::from_u32).ok_or_else(|| wrong(escape))?;
                return Ok((c, 12));
            }
            other => char::from(*other),
        };
        Ok((plain, 2))
    }

    fn is_colon_next(&mut self) -> bool {
        let space = |byte: &&u8| matches!(byte, b' ' | b'\t' | b'\r' | b'\n');
        let after = self.at + self.text[self.at..].iter().take_while(space).count();
        let is_so = self.text.get(after) == Some(&b':');
        if is_so {
            self.at = after + 1;
        }
        is_so
    }
}

fn ends_early() -> String {
    "proto: unexpected EOF".to_owned()
}

/// `\u` and four digits.
fn hex(escape: &[u8]) -> Option<u32> {
    let digits = escape.strip_prefix(b"\\u")?;
    digits.iter().try_fold(0, |sum, digit| Some(sum * 16 + char::from(*digit).to_digit(16)?))
}

/// What a number, or a word, may go on with.
pub fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'+' | b'.' | b'_')
}
