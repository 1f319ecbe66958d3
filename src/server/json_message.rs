//! A JSON value as one of etcd's messages, by protobuf's mapping: fields by either name, numbers also as strings, base64 of
//! either alphabet. What is not known is passed over, and what is wrong is refused with Go's protojson's words and place.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::alphabet::{Alphabet, STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use prost_reflect::{
    Cardinality, DynamicMessage, FieldDescriptor, Kind as Type, MessageDescriptor, Value,
};

use crate::json_tokens::{Kind, Token, Tokens, is_word};
use crate::json_values::Json;

/// Messages in each other. (prost decodes as many; etcd takes 10,000, which nobody but a hostile client has.)
const DEPTH_MAX: usize = 100;
/// Digits of the largest number.
const DIGITS_MAX: usize = 20;

/// # Errors
/// What is wrong with it, in words.
pub fn message(shape: &MessageDescriptor, json: &Json) -> Result<DynamicMessage, String> {
    Reader { tokens: Tokens::of(json), depth: 0 }.message(shape)
}

struct Reader<'a> {
    tokens: Tokens<'a>,
    depth: usize,
}

impl Reader<'_> {
    fn message(&mut self, shape: &MessageDescriptor) -> Result<DynamicMessage, String> {
        if self.depth == DEPTH_MAX {
            return Err("proto: exceeded max recursion depth".to_owned());
        }
        self.depth += 1;
        let token = self.tokens.next_token()?;
        if token.kind != Kind::ObjectOpen {
            return Err(self.unexpected(&token));
        }
        let mut message = DynamicMessage::new(shape.clone());
        let mut seen = Seen::default();
        loop {
            let token = self.tokens.next_token()?;
            match &token.kind {
                Kind::ObjectClose => break,
                Kind::Name(name) => {
                    let named = shape.get_field_by_json_name(name);
                    match named.or_else(|| shape.get_field_by_name(name)) {
                        Some(field) => self.field(&mut message, &field, &token, &mut seen)?,
                        None => self.pass_over()?,
                    }
                }
                _ => return Err(self.unexpected(&token)),
            }
        }
        self.depth -= 1;
        Ok(message)
    }

    fn field(
        &mut self,
        message: &mut DynamicMessage,
        field: &FieldDescriptor,
        name: &Token<'_>,
        seen: &mut Seen,
    ) -> Result<(), String> {
        if !seen.fields.insert(field.number()) {
            return Err(self.tokens.error(name.at, &format!("duplicate field {}", name.raw)));
        }
        if self.tokens.peek() == Some(b'n') {
            self.tokens.next_token()?;
            return Ok(());
        }
        if field.cardinality() == Cardinality::Repeated {
            let list = self.list(field)?;
            message.set_field(field, Value::List(list));
            return Ok(());
        }
        if let Some(oneof) = field.containing_oneof()
            && !seen.oneofs.insert(oneof.full_name().to_owned())
        {
            let (raw, oneof) = (name.raw, oneof.full_name());
            let text = format!("error parsing {raw}, oneof {oneof} is already set");
            return Err(self.tokens.error(name.at, &text));
        }
        if let Some(value) = self.value(field)? {
            message.set_field(field, value);
        }
        Ok(())
    }

    fn list(&mut self, field: &FieldDescriptor) -> Result<Vec<Value>, String> {
        let token = self.tokens.next_token()?;
        if token.kind != Kind::ArrayOpen {
            return Err(self.unexpected(&token));
        }
        let mut list = Vec::new();
        while self.tokens.peek() != Some(b']') {
            list.extend(self.value(field)?);
        }
        self.tokens.next_token()?;
        Ok(list)
    }

    /// One value of a field. `None`: an enum's name that nobody knows.
    fn value(&mut self, field: &FieldDescriptor) -> Result<Option<Value>, String> {
        if let Type::Message(shape) = field.kind() {
            return self.message(&shape).map(|message| Some(Value::Message(message)));
        }
        let token = self.tokens.next_token()?;
        if let (Type::Enum(names), Kind::String(name)) = (field.kind(), &token.kind) {
            return Ok(names
                .get_value_by_name(name)
                .map(|value| Value::EnumNumber(value.number())));
        }
        scalar(&field.kind(), &token).map(Some).ok_or_else(|| {
            let (kind, name, raw) = (kind_name(&field.kind()), field.json_name(), token.raw);
            let text = format!("invalid value for {kind} field {name}: {raw}");
            self.tokens.error(token.at, &text)
        })
    }

    /// A value that is for nobody.
    fn pass_over(&mut self) -> Result<(), String> {
        let mut open = 0;
        loop {
            match self.tokens.next_token()?.kind {
                Kind::ObjectOpen | Kind::ArrayOpen => open += 1,
                Kind::ObjectClose | Kind::ArrayClose => open -= 1,
                _ => {}
            }
            if open == 0 {
                return Ok(());
            }
        }
    }

    fn unexpected(&self, token: &Token<'_>) -> String {
        self.tokens.syntax_error(token.at, &format!("unexpected token {}", token.raw))
    }
}

/// What a message has been told already.
#[derive(Default)]
struct Seen {
    fields: BTreeSet<u32>,
    oneofs: BTreeSet<String>,
}

fn scalar(kind: &Type, token: &Token<'_>) -> Option<Value> {
    Some(match (kind, &token.kind) {
        (Type::Bool, Kind::Bool(is_so)) => Value::Bool(*is_so),
        (Type::Int32 | Type::Sint32 | Type::Sfixed32, _) => Value::I32(integer(token)?),
        (Type::Int64 | Type::Sint64 | Type::Sfixed64, _) => Value::I64(integer(token)?),
        (Type::Uint32 | Type::Fixed32, _) => Value::U32(integer(token)?),
        (Type::Uint64 | Type::Fixed64, _) => Value::U64(integer(token)?),
        (Type::Enum(_), Kind::Number) => Value::EnumNumber(integer(token)?),
        (Type::String, Kind::String(text)) => Value::String(text.clone().into_owned()),
        (Type::Bytes, Kind::String(text)) => Value::Bytes(bytes(text)?.into()),
        // (No message that a client sends has a number with a fraction.)
        _ => return None,
    })
}

fn integer<N: std::str::FromStr>(token: &Token<'_>) -> Option<N> {
    let number = match &token.kind {
        Kind::Number => token.raw,
        // (What follows the number in the string is not looked at.)
        Kind::String(text) if text.trim().len() == text.len() => &text[..number_len(text)?],
        _ => return None,
    };
    normal(number)?.parse().ok()
}

/// Bytes of the number with which a text begins, when it does.
fn number_len(text: &str) -> Option<usize> {
    let digits =
        |at: usize| text.as_bytes()[at..].iter().take_while(|b| b.is_ascii_digit()).count();
    let byte = |at: usize| text.as_bytes().get(at).copied();
    let mut at = usize::from(byte(0) == Some(b'-'));
    at += match byte(at)? {
        b'0' => 1,
        b'1'..=b'9' => digits(at),
        _ => return None,
    };
    if byte(at) == Some(b'.') && digits(at + 1) > 0 {
        at += 1 + digits(at + 1);
    }
    if matches!(byte(at), Some(b'e' | b'E')) && byte(at + 1).is_some() {
        at += 1;
        if matches!(byte(at), Some(b'+' | b'-')) {
            at += 1;
            byte(at)?;
        }
        at += digits(at);
    }
    byte(at).is_none_or(|next| !is_word(next)).then_some(at)
}

/// A number without fraction and exponent, when it has a whole value.
fn normal(number: &str) -> Option<String> {
    let (sign, rest) = match number.strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", number),
    };
    let (digits, exponent) = rest.split_once(['e', 'E']).unwrap_or((rest, ""));
    if matches!(exponent, "+" | "-") {
        return None;
    }
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let whole = whole.strip_prefix('0').unwrap_or(whole);
    let fraction = fraction.trim_end_matches('0');
    if whole.is_empty() && fraction.is_empty() {
        return Some("0".to_owned());
    }
    let exponent: i32 = if exponent.is_empty() { 0 } else { exponent.parse().ok()? };
    let shift = usize::try_from(exponent.unsigned_abs()).ok()?;
    if exponent >= 0 {
        // (Not even built, when it cannot fit.)
        if fraction.len() > shift || whole.len() + shift > DIGITS_MAX {
            return None;
        }
        let zeros = "0".repeat(shift - fraction.len());
        return Some(format!("{sign}{whole}{fraction}{zeros}"));
    }
    let kept = whole.len().checked_sub(shift).filter(|_| fraction.is_empty())?;
    let (kept, lost) = whole.split_at(kept);
    lost.bytes().all(|digit| digit == b'0').then(|| format!("{sign}{kept}"))
}

/// Go's decoder passes over line ends, and does not mind what the last character has too much.
const LENIENT: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true);

/// Base64 of either alphabet, with or without its padding.
fn bytes(text: &str) -> Option<Vec<u8>> {
    let alphabet: &Alphabet = if text.contains(['-', '_']) { &URL_SAFE } else { &STANDARD };
    let padding = match text.len() % 4 {
        0 => DecodePaddingMode::RequireCanonical,
        _ => DecodePaddingMode::RequireNone,
    };
    let engine = GeneralPurpose::new(alphabet, LENIENT.with_decode_padding_mode(padding));
    if text.contains(['\r', '\n']) {
        return engine.decode(text.replace(['\r', '\n'], "")).ok();
    }
    engine.decode(text).ok()
}

fn kind_name(kind: &Type) -> &'static str {
    match kind {
        Type::Double => "double",
        Type::Float => "float",
        Type::Int32 => "int32",
        Type::Int64 => "int64",
        Type::Uint32 => "uint32",
        Type::Uint64 => "uint64",
        Type::Sint32 => "sint32",
        Type::Sint64 => "sint64",
        Type::Fixed32 => "fixed32",
        Type::Fixed64 => "fixed64",
        Type::Sfixed32 => "sfixed32",
        Type::Sfixed64 => "sfixed64",
        Type::Bool => "bool",
        Type::String => "string",
        Type::Bytes => "bytes",
        Type::Message(_) => "message",
        Type::Enum(_) => "enum",
    }
}
