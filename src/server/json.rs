//! etcd's messages as JSON and back, by the names of the `.proto` files: protobuf's own mapping, with fields named as they
//! are written there, and without those that have no value.

use std::sync::LazyLock;

use bytes::Bytes;
use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, SerializeOptions};

use crate::json_message;
use crate::json_values::Json;

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    // (Written by our own build, and read by a test.)
    DescriptorPool::decode(norn_proto::DESCRIPTORS).expect("the descriptors are whole")
});

/// How question and answer of a method look.
#[derive(Clone, Debug)]
pub struct Shapes {
    pub question: MessageDescriptor,
    pub answer: MessageDescriptor,
    pub asks_many: bool,
    pub answers_many: bool,
}

impl Shapes {
    pub fn of(service: &str, method: &str) -> Option<Shapes> {
        let service = POOL.get_service_by_name(service)?;
        let method = service.methods().find(|m| m.name() == method)?;
        Some(Shapes {
            question: method.input(),
            answer: method.output(),
            asks_many: method.is_client_streaming(),
            answers_many: method.is_server_streaming(),
        })
    }
}

/// The message that some JSON says.
///
/// # Errors
/// What is wrong with it, in words.
pub fn decode(shape: &MessageDescriptor, json: &Json) -> Result<Bytes, String> {
    Ok(json_message::message(shape, json)?.encode_to_vec().into())
}

/// # Errors
/// For bytes that are no such message.
pub fn encode(shape: &MessageDescriptor, message: Bytes) -> Result<String, String> {
    let message =
        DynamicMessage::decode(shape.clone(), message).map_err(|error| error.to_string())?;
    let mut out = Vec::new();
    let options = SerializeOptions::new().use_proto_field_name(true);
    message
        .serialize_with_options(&mut serde_json::Serializer::new(&mut out), &options)
        .map_err(|error| error.to_string())?;
    String::from_utf8(out).map_err(|error| error.to_string())
}

/// JSON that may stand in a page: what would mean something there stands in strings only, and is escaped. (Go does so with
/// the lines of a stream.)
pub fn escaped_for_html(json: String) -> String {
    if !json.contains(['<', '>', '&', '\u{2028}', '\u{2029}']) {
        return json;
    }
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                out.push_str(&format!("\\u{:04x}", u32::from(c)));
            }
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use norn_proto::etcdserverpb as pb;

    use super::*;
    use crate::json_values::Values;

    fn shapes(method: &str) -> Shapes {
        Shapes::of("etcdserverpb.KV", method).unwrap()
    }

    fn range(json: &str) -> Result<pb::RangeRequest, String> {
        let mut values = Values::default();
        values.push(json.as_bytes());
        let json = values.last_value()?.expect("there is a value");
        let message = decode(&shapes("Range").question, &json)?;
        Ok(pb::RangeRequest::decode(message).unwrap())
    }

    #[test]
    fn numbers_names_and_enums_come_in_either_form() {
        let expected = pb::RangeRequest {
            key: Bytes::from_static(b"foo"),
            limit: 7,
            sort_order: pb::range_request::SortOrder::Descend as i32,
            keys_only: true,
            ..Default::default()
        };
        let forms = [
            r#"{"key":"Zm9v","limit":"7","sort_order":"DESCEND","keys_only":true}"#,
            r#"{"key":"Zm9v","limit":7,"sortOrder":2,"keysOnly":true,"unknown":{"a":[1]}}"#,
            r#"{"k\u0065y":"Zm\n9v","limit":70e-1,"sort_order":"DESCEND","keys_only":true}"#,
            r#" {"key":"Zm9v","limit":"0.7e1 ]","sortOrder":2.0,"keysOnly":true,"revision":null}"#,
        ];
        for form in forms {
            assert_eq!(range(form).as_ref(), Ok(&expected), "{form}");
        }
        let empty = r#"{"sort_order":"SIDEWAYS","limit":-0.0,"[x]":1}"#;
        assert_eq!(range(empty), Ok(pb::RangeRequest::default()));
        for (text, key) in [("-_8=", "\u{fb}\u{ff}"), ("+/8", "\u{fb}\u{ff}"), ("YR==", "a")] {
            let key: Vec<u8> = key.chars().map(|c| u8::try_from(c).unwrap()).collect();
            assert_eq!(range(&format!(r#"{{"key":"{text}"}}"#)).unwrap().key, key, "{text}");
        }
    }

    /// (Each as etcd says it.)
    #[test]
    fn what_is_no_such_message_is_refused_in_protojson_s_words() {
        let cases = [
            (r#"{"key":"***"}"#, r#"(line 1:8): invalid value for bytes field key: "***""#),
            (r#"{"key":"YQ="}"#, r#"(line 1:8): invalid value for bytes field key: "YQ=""#),
            (r#"{"key":"+_8="}"#, r#"(line 1:8): invalid value for bytes field key: "+_8=""#),
            (
                "{\n \"é\":1, \"limit\": \"x\"}",
                r#"(line 2:18): invalid value for int64 field limit: "x""#,
            ),
            (r#"{"limit":1.5}"#, "(line 1:10): invalid value for int64 field limit: 1.5"),
            (
                r#"{"limit":9223372036854775808}"#,
                "(line 1:10): invalid value for int64 field limit: 9223372036854775808",
            ),
            (r#"{"limit":" 1"}"#, r#"(line 1:10): invalid value for int64 field limit: " 1""#),
            (r#"{"limit":1e99}"#, "(line 1:10): invalid value for int64 field limit: 1e99"),
            (r#"{"limit":1,"limit":2}"#, r#"(line 1:12): duplicate field "limit""#),
            (
                r#"{"min_mod_revision":1,"minModRevision":2}"#,
                r#"(line 1:23): duplicate field "minModRevision""#,
            ),
            (r#"{"sort_order":[]}"#, "(line 1:15): invalid value for enum field sortOrder: ["),
            (r#"{"sort_order":1.5}"#, "(line 1:15): invalid value for enum field sortOrder: 1.5"),
            (
                r#"{"keys_only":"true"}"#,
                r#"(line 1:14): invalid value for bool field keysOnly: "true""#,
            ),
            ("[]", "syntax error (line 1:1): unexpected token ["),
            ("null", "syntax error (line 1:1): unexpected token null"),
            ("7", "syntax error (line 1:1): unexpected token 7"),
            (
                r#"{"x":"\ud800\u0041"}"#,
                r#"syntax error (line 1:6): invalid escape code "\\u0041" in string"#,
            ),
            (
                r#"{"x":"\udc00abcdef"}"#,
                r#"syntax error (line 1:6): invalid escape code "abcdef" in string"#,
            ),
            (r#"{"x":"\ud800"}"#, "unexpected EOF"),
        ];
        for (json, text) in cases {
            assert_eq!(range(json), Err(format!("proto: {text}")), "{json}");
        }
    }

    #[test]
    fn answers_have_the_names_of_the_proto_files_and_no_empty_fields() {
        let header = pb::ResponseHeader { cluster_id: u64::MAX, revision: 3, ..Default::default() };
        let kv = norn_proto::mvccpb::KeyValue {
            key: Bytes::from_static(b"foo"),
            mod_revision: 3,
            ..Default::default()
        };
        let reply =
            pb::RangeResponse { header: Some(header), kvs: vec![kv], more: false, count: 1 };
        let json = encode(&shapes("Range").answer, reply.encode_to_vec().into()).unwrap();
        let expected = r#"{"header":{"cluster_id":"18446744073709551615","revision":"3"},"kvs":[{"key":"Zm9v","mod_revision":"3"}],"count":"1"}"#;
        assert_eq!(json, expected);
        let status = Shapes::of("etcdserverpb.Maintenance", "Status").unwrap();
        let reply = pb::StatusResponse { db_size: 5, ..Default::default() };
        let json = encode(&status.answer, reply.encode_to_vec().into()).unwrap();
        assert_eq!(json, r#"{"dbSize":"5"}"#);
    }
}
