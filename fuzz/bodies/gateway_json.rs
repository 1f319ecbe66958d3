//! The JSON gateway's reader: any bytes as a body, in any pieces; questions of any shape; any path and headers.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use norn_server::json::{self, Shapes};
use norn_server::json_values::{Json, Values};
use norn_server::{gateway, go_paths};
use prost::Message as _;
use prost_reflect::{DynamicMessage, MessageDescriptor};
use serde::de::IgnoredAny;
use serde_json::error::Category;

use crate::choices::Choices;
use crate::memory;
use pieces::PIECES;

#[path = "../../tests/httpdiff/pieces.rs"]
mod pieces;

/// A long one, with everything in it; a short one; a stream's; and one with lists of names.
const PATHS: &[&str] =
    &["/v3/kv/txn", "/v3/kv/range", "/v3/watch", "/v3/cluster/member/add", "/v3/maintenance/alarm"];

/// Each costs another reading.
const PREFIXES_MAX: usize = 64;

/// The first byte says what is fed.
pub fn body(bytes: &[u8]) {
    let mut choices = Choices::new(bytes);
    match choices.byte() % 4 {
        0 => head(&mut choices),
        1 => {
            let shape = shape(&mut choices);
            let step = 1 + choices.below(16);
            read(&shape, choices.rest(), step);
        }
        _ => {
            let shape = shape(&mut choices);
            let step = 1 + choices.below(16);
            let text = written(&shape, &mut choices);
            read(&shape, text.as_bytes(), step);
        }
    }
}

fn shape(choices: &mut Choices<'_>) -> MessageDescriptor {
    let path = PATHS[choices.below(PATHS.len())];
    let (service, method) = gateway::bound(path).expect("a path that is bound");
    Shapes::of(service, method).expect("what is bound has a shape").question
}

/// Texts that look like a question, more often than chance would have it: names of fields, and values of any kind.
fn written(shape: &MessageDescriptor, choices: &mut Choices<'_>) -> String {
    let mut text = String::new();
    let mut shape = shape.clone();
    while !choices.is_done() {
        match choices.byte() % 4 {
            // A field, with its value often of its kind.
            0 | 1 => {
                let fields: Vec<_> = shape.fields().collect();
                if fields.is_empty() {
                    text.push('}');
                    continue;
                }
                let field = &fields[choices.below(fields.len())];
                let name = if choices.bool() { field.name() } else { field.json_name() };
                if !text.is_empty() && !text.ends_with(['{', '[', ':', ',']) {
                    text.push(',');
                }
                text.push_str(&format!("\"{name}\":"));
                if field.is_list() {
                    text.push('[');
                }
                if let Some(inner) = field.kind().as_message() {
                    text.push('{');
                    shape = inner.clone();
                }
            }
            _ => text.push_str(PIECES[choices.below(PIECES.len())]),
        }
        // (Without the outermost brace, nothing is a question.)
        if !text.starts_with(['{', '[']) {
            text.insert(0, '{');
        }
    }
    text
}

type Outcome = (Vec<Vec<u8>>, Option<String>);

/// Copies are kept, as the reader's own values may share its buffers: what counts is what the reader holds.
fn values(text: &[u8], step: usize) -> Outcome {
    // (A list that has just grown has 48 bytes for each value, and a value may be one byte.)
    memory::bounded(text.len(), 64, 4 << 10, || {
        let mut values = Values::default();
        let mut got = Vec::new();
        for piece in text.chunks(step) {
            values.push(piece);
            loop {
                match values.next_value() {
                    Ok(Some(value)) => got.push(value.as_bytes().to_vec()),
                    Ok(None) => break,
                    Err(text) => return (got, Some(text)),
                }
            }
        }
        loop {
            match values.last_value() {
                Ok(Some(value)) => got.push(value.as_bytes().to_vec()),
                Ok(None) => return (got, None),
                Err(text) => return (got, Some(text)),
            }
        }
    })
}

/// The one value that is there.
fn value(text: &[u8]) -> Json {
    let mut values = Values::default();
    values.push(text);
    values.last_value().ok().flatten().expect("what was a value is one")
}

fn read(shape: &MessageDescriptor, text: &[u8], step: usize) {
    let outcome = values(text, text.len().max(1));
    assert_eq!(outcome, values(text, step), "in pieces of {step}");
    let (got, refusal) = outcome;
    assert!(refusal.as_ref().is_none_or(|text| !text.is_empty()));
    second_reader(text, &got, refusal.as_deref());
    // Whatever is cut off, and so where it is that something is wrong.
    for end in 1..text.len().min(PREFIXES_MAX) {
        let (got, refusal) = values(&text[..end], end);
        second_reader(&text[..end], &got, refusal.as_deref());
    }
    for text in &got {
        let value = value(text);
        // (A message of nothing costs its maps; the text repeats what it refuses.)
        match memory::bounded(text.len(), 200, 16 << 10, || json::decode(shape, &value)) {
            Ok(message) => there_and_back(shape, &message),
            Err(text) => assert!(text.starts_with("proto: "), "{text}"),
        }
    }
}

/// Serde takes the same values, as long as they are arrays and objects (it wants to see where a number ends), and stops where they
/// stop.
fn second_reader(text: &[u8], got: &[Vec<u8>], refusal: Option<&str>) {
    let mut stream = serde_json::Deserializer::from_slice(text).into_iter::<IgnoredAny>();
    for at in 0.. {
        let begins = stream.byte_offset();
        let next = stream.next();
        let first = text[begins..].iter().find(|byte| !byte.is_ascii_whitespace());
        if first.is_some_and(|byte| !matches!(byte, b'{' | b'[')) {
            return;
        }
        match next {
            None => {
                assert_eq!((got.len(), refusal), (at, None));
                return;
            }
            Some(Ok(_)) => {
                let value = text[begins..stream.byte_offset()].trim_ascii();
                assert_eq!(got.get(at).map(Vec::as_slice), Some(value), "value {at}");
            }
            Some(Err(error)) => {
                assert_eq!(got.len(), at, "{error}");
                let refusal = refusal.expect("a refusal has words");
                // (Serde counts the digits of an escape before it looks at them, and a number that ends early is a wrong one.)
                let is_number = error.to_string().starts_with("invalid number");
                let ends_early = is_number || error.classify() == Category::Eof;
                assert!(refusal != "unexpected EOF" || ends_early, "{error}");
                return;
            }
        }
    }
}

/// What is understood survives being written, and both readers read it.
fn there_and_back(shape: &MessageDescriptor, message: &Bytes) {
    let text = json::encode(shape, message.clone()).expect("our own message is one");
    assert_eq!(values(text.as_bytes(), 7), (vec![text.as_bytes().to_vec()], None));
    assert_eq!(json::decode(shape, &value(text.as_bytes())), Ok(message.clone()), "{text}");
    let mut reader = serde_json::Deserializer::from_str(&text);
    let theirs =
        DynamicMessage::deserialize(shape.clone(), &mut reader).expect("what is written is read");
    assert_eq!(theirs.encode_to_vec(), *message, "{text}");
    let escaped = json::escaped_for_html(text.clone());
    assert!(!escaped.contains(['<', '>', '&']));
    let same = serde_json::from_str::<serde_json::Value>(&escaped).expect("it is still JSON");
    assert_eq!(same, serde_json::from_str::<serde_json::Value>(&text).expect("it is JSON"));
}

/// A path is read, refused, or sent elsewhere, once; headers are taken or refused with words.
fn head(choices: &mut Choices<'_>) {
    const STEPS: [&str; 12] =
        ["/", "v3", "v3beta", "kv", "range", ".", "..", "%2e", "%", "%61", "put", "lease"];
    let mut path = String::from("/");
    for _ in 0..choices.below(10) {
        path.push_str(STEPS[choices.below(STEPS.len())]);
    }
    path.extend(choices.bytes(20).iter().map(|byte| char::from(byte & 0x7f)));
    if let Ok(uri) = path.parse::<Uri>() {
        let understood = go_paths::refused(&uri).is_none();
        assert_eq!(understood, go_paths::unescaped(uri.path()).is_some());
        let elsewhere = |uri: &Uri| go_paths::elsewhere(&Method::GET, uri, Some(gateway::FOLDER));
        if let Some(response) = elsewhere(&uri).filter(|_| understood) {
            let to = response.headers().get("location").expect("elsewhere is a place");
            let to: Uri =
                to.to_str().ok().and_then(|to| to.parse().ok()).expect("a place is a path");
            assert!(elsewhere(&to).is_none(), "{uri} leads to {to}, and further");
        } else if understood && gateway::bound(uri.path()).is_some() {
            assert!(gateway::serves(uri.path()), "{uri}");
        }
    }
    let mut headers = HeaderMap::new();
    for _ in 0..choices.below(4) {
        let names = ["grpc-timeout", "authorization", "grpc-metadata-x-bin", "grpc-metadata-a"];
        let name = HeaderName::from_static(names[choices.below(names.len())]);
        if let Ok(value) = HeaderValue::from_bytes(choices.bytes(20)) {
            headers.append(name, value);
        }
    }
    match memory::bounded(200, 10, 8 << 10, || gateway::metadata(&headers)) {
        Ok(metadata) => assert!(metadata.headers.len() <= headers.len()),
        Err(text) => assert!(text.starts_with("invalid "), "{text}"),
    }
}
