//! etcd's messages as JSON and back, by the names of the `.proto` files: protobuf's own mapping, with fields named as they
//! are written there, and without those that have no value.

use std::sync::LazyLock;

use bytes::Bytes;
use prost::Message as _;
use prost_reflect::{
    DescriptorPool, DeserializeOptions, DynamicMessage, MessageDescriptor, SerializeOptions,
};
use serde::de::IgnoredAny;
use serde_json::error::Category;

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

/// The message that some JSON says, and how many bytes of it that was: more may follow. No JSON at all is the empty
/// message. `None`: it is not complete.
///
/// # Errors
/// What is wrong with it, in words.
pub fn decode(shape: &MessageDescriptor, json: &[u8]) -> Result<Option<(Bytes, usize)>, String> {
    if json.iter().all(u8::is_ascii_whitespace) {
        return Ok(Some((Bytes::new(), json.len())));
    }
    let mut values = serde_json::Deserializer::from_slice(json).into_iter::<IgnoredAny>();
    match values.next() {
        Some(Err(error)) if error.classify() == Category::Eof => return Ok(None),
        Some(Err(error)) => return Err(error.to_string()),
        _ => {}
    }
    let len = values.byte_offset();
    let mut reader = serde_json::Deserializer::from_slice(&json[..len]);
    let options = DeserializeOptions::new().deny_unknown_fields(false);
    let message = DynamicMessage::deserialize_with_options(shape.clone(), &mut reader, &options)
        .map_err(|error| format!("proto: {error}"))?;
    Ok(Some((message.encode_to_vec().into(), len)))
}

/// # Errors
/// For bytes that are no such message.
pub fn encode(shape: &MessageDescriptor, message: Bytes) -> Result<Vec<u8>, String> {
    let message =
        DynamicMessage::decode(shape.clone(), message).map_err(|error| error.to_string())?;
    let mut out = Vec::new();
    let options = SerializeOptions::new().use_proto_field_name(true);
    message
        .serialize_with_options(&mut serde_json::Serializer::new(&mut out), &options)
        .map_err(|error| error.to_string())?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use norn_proto::etcdserverpb as pb;

    use super::*;

    fn shapes(method: &str) -> Shapes {
        Shapes::of("etcdserverpb.KV", method).unwrap()
    }

    fn range(json: &str) -> Result<pb::RangeRequest, String> {
        let (message, len) = decode(&shapes("Range").question, json.as_bytes())?.unwrap();
        assert_eq!(len, json.len());
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
        ];
        for form in forms {
            assert_eq!(range(form).as_ref(), Ok(&expected), "{form}");
        }
        assert_eq!(range(""), Ok(pb::RangeRequest::default()));
        assert_eq!(range(" \n"), Ok(pb::RangeRequest::default()));
        for wrong in [r#"{"key":"***"}"#, r#"{"limit":"x"}"#, r#"{"key":1}"#, "[]", "7", "{]"] {
            assert!(range(wrong).is_err(), "{wrong}");
        }
        assert_eq!(decode(&shapes("Range").question, br#"{"key":"#), Ok(None));
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
        assert_eq!(String::from_utf8(json).unwrap(), expected);
        let status = Shapes::of("etcdserverpb.Maintenance", "Status").unwrap();
        let reply = pb::StatusResponse { db_size: 5, ..Default::default() };
        let json = encode(&status.answer, reply.encode_to_vec().into()).unwrap();
        assert_eq!(String::from_utf8(json).unwrap(), r#"{"dbSize":"5"}"#);
    }

    #[test]
    fn values_that_follow_each_other_are_told_apart() {
        let shape = shapes("Range").question;
        let json = br#"{"limit":1} {"limit":2}{"li"#;
        let (_, first) = decode(&shape, json).unwrap().unwrap();
        let (second, len) = decode(&shape, &json[first..]).unwrap().unwrap();
        assert_eq!(pb::RangeRequest::decode(second).unwrap().limit, 2);
        assert_eq!(decode(&shape, &json[first + len..]), Ok(None));
    }
}
