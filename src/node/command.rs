//! What a normal log entry holds: etcd's `InternalRaftRequest`, without ever building the message with its forty
//! fields: one header and one request.

use bytes::{Buf, Bytes};
use norn_planted::planted;
use norn_proto::{etcdserverpb as pb, membershippb};
use prost::Message;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

/// Who asked. The id is how a member finds the caller waiting for this entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommandHeader {
    pub id: u64,
    pub username: String,
    pub auth_revision: u64,
}

/// A replicated request.
#[derive(Clone, Debug, PartialEq)]
#[allow(clippy::large_enum_variant)]
pub enum Command {
    Range(pb::RangeRequest),
    Put(pb::PutRequest),
    DeleteRange(pb::DeleteRangeRequest),
    Txn(pb::TxnRequest),
    Compaction(pb::CompactionRequest),
    LeaseGrant(pb::LeaseGrantRequest),
    LeaseRevoke(pb::LeaseRevokeRequest),
    Alarm(pb::AlarmRequest),
    LeaseCheckpoint(pb::LeaseCheckpointRequest),
    AuthStatus,
    /// An authentication request other than a status query; the field number says which.
    Auth(u32),
    ClusterVersionSet(membershippb::ClusterVersionSetRequest),
    ClusterMemberAttrSet(membershippb::ClusterMemberAttrSetRequest),
    DowngradeInfoSet(membershippb::DowngradeInfoSetRequest),
    /// For etcd's own tests; changes nothing.
    DowngradeVersionTest,
}

/// Bytes that are no request, or none that this version knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommandError {
    Malformed(String),
    Empty,
}

impl std::fmt::Display for CommandError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            CommandError::Malformed(why) => write!(f, "not a raft request: {why}"),
            CommandError::Empty => f.write_str("raft request without content"),
        }
    }
}

impl std::error::Error for CommandError {}

const HEADER: u32 = 100;

/// The names by which etcd counts requests.
pub const OPS: [&str; 16] = [
    "Range",
    "Put",
    "DeleteRange",
    "Txn",
    "Compaction",
    "LeaseGrant",
    "LeaseRevoke",
    "LeaseCheckpoint",
    "Alarm",
    "AuthStatus",
    "Auth",
    "ClusterVersionSet",
    "ClusterMemberAttrSet",
    "DowngradeInfoSet",
    "DowngradeVersionTest",
    "unknown",
];

impl Command {
    /// Its place in [`OPS`].
    pub(crate) fn op(&self) -> usize {
        match self {
            Command::Range(_) => 0,
            Command::Put(_) => 1,
            Command::DeleteRange(_) => 2,
            Command::Txn(_) => 3,
            Command::Compaction(_) => 4,
            Command::LeaseGrant(_) => 5,
            Command::LeaseRevoke(_) => 6,
            Command::LeaseCheckpoint(_) => 7,
            Command::Alarm(_) => 8,
            Command::AuthStatus => 9,
            Command::Auth(_) => 10,
            Command::ClusterVersionSet(_) => 11,
            Command::ClusterMemberAttrSet(_) => 12,
            Command::DowngradeInfoSet(_) => 13,
            Command::DowngradeVersionTest => 14,
        }
    }

    /// Fields come in ascending order, as etcd writes them; so the header stands before or behind the request.
    pub fn encode(&self, header: &CommandHeader) -> Bytes {
        let (field, len) = self.field_and_len();
        let mut out = Vec::with_capacity(len + header.username.len() + 48);
        if field < HEADER {
            self.put_body(field, len, &mut out);
        }
        let mut w = crate::wire::Writer::default();
        w.uint(1, header.id);
        w.bytes(2, header.username.as_bytes());
        w.uint(3, header.auth_revision);
        put_field(HEADER, w.len(), &mut out);
        out.extend_from_slice(&w.finish());
        if field > HEADER {
            self.put_body(field, len, &mut out);
        }
        Bytes::from(out)
    }

    pub fn decode(mut data: Bytes) -> Result<(CommandHeader, Command), CommandError> {
        let mut header = CommandHeader::default();
        let mut command = None;
        let mut old_id = 0;
        let malformed = |error: prost::DecodeError| CommandError::Malformed(error.to_string());
        while data.has_remaining() {
            let (field, wire) = decode_key(&mut data).map_err(malformed)?;
            if (field, wire) == (1, WireType::Varint) {
                old_id = decode_varint(&mut data).map_err(malformed)?;
                continue;
            }
            if wire != WireType::LengthDelimited {
                skip_field(wire, field, &mut data, DecodeContext::default()).map_err(malformed)?;
                continue;
            }
            let len = decode_varint(&mut data).map_err(malformed)?;
            if len > data.remaining() as u64 && !planted!(RequestLengthBelieved) {
                return Err(CommandError::Malformed("length beyond the end".into()));
            }
            let body = data.split_to(len as usize);
            if field == HEADER {
                let got = pb::RequestHeader::decode(body).map_err(malformed)?;
                header = CommandHeader {
                    id: got.id,
                    username: got.username,
                    auth_revision: got.auth_revision,
                };
            } else if let Some(got) = Command::decode_body(field, body).map_err(malformed)? {
                command = Some(got);
            }
        }
        if old_id != 0 {
            header.id = old_id;
        }
        Ok((header, command.ok_or(CommandError::Empty)?))
    }

    fn decode_body(field: u32, body: Bytes) -> Result<Option<Command>, prost::DecodeError> {
        Ok(Some(match field {
            3 => Command::Range(Message::decode(body)?),
            4 => Command::Put(Message::decode(body)?),
            5 => Command::DeleteRange(Message::decode(body)?),
            6 => Command::Txn(Message::decode(body)?),
            7 => Command::Compaction(Message::decode(body)?),
            8 => Command::LeaseGrant(Message::decode(body)?),
            9 => Command::LeaseRevoke(Message::decode(body)?),
            10 => Command::Alarm(Message::decode(body)?),
            11 => Command::LeaseCheckpoint(Message::decode(body)?),
            1013 => Command::AuthStatus,
            1000 | 1011 | 1012 | 1100..=1107 | 1200..=1204 => Command::Auth(field),
            1300 => Command::ClusterVersionSet(Message::decode(body)?),
            1301 => Command::ClusterMemberAttrSet(Message::decode(body)?),
            1302 => Command::DowngradeInfoSet(Message::decode(body)?),
            9900 => Command::DowngradeVersionTest,
            _ => return Ok(None),
        }))
    }

    fn field_and_len(&self) -> (u32, usize) {
        match self {
            Command::Range(m) => (3, m.encoded_len()),
            Command::Put(m) => (4, m.encoded_len()),
            Command::DeleteRange(m) => (5, m.encoded_len()),
            Command::Txn(m) => (6, m.encoded_len()),
            Command::Compaction(m) => (7, m.encoded_len()),
            Command::LeaseGrant(m) => (8, m.encoded_len()),
            Command::LeaseRevoke(m) => (9, m.encoded_len()),
            Command::Alarm(m) => (10, m.encoded_len()),
            Command::LeaseCheckpoint(m) => (11, m.encoded_len()),
            Command::AuthStatus => (1013, 0),
            Command::Auth(field) => (*field, 0),
            Command::ClusterVersionSet(m) => (1300, m.encoded_len()),
            Command::ClusterMemberAttrSet(m) => (1301, m.encoded_len()),
            Command::DowngradeInfoSet(m) => (1302, m.encoded_len()),
            Command::DowngradeVersionTest => (9900, 0),
        }
    }

    fn put_body(&self, field: u32, len: usize, out: &mut Vec<u8>) {
        put_field(field, len, out);
        match self {
            Command::Range(m) => m.encode_raw(out),
            Command::Put(m) => m.encode_raw(out),
            Command::DeleteRange(m) => m.encode_raw(out),
            Command::Txn(m) => m.encode_raw(out),
            Command::Compaction(m) => m.encode_raw(out),
            Command::LeaseGrant(m) => m.encode_raw(out),
            Command::LeaseRevoke(m) => m.encode_raw(out),
            Command::Alarm(m) => m.encode_raw(out),
            Command::LeaseCheckpoint(m) => m.encode_raw(out),
            Command::ClusterVersionSet(m) => m.encode_raw(out),
            Command::ClusterMemberAttrSet(m) => m.encode_raw(out),
            Command::DowngradeInfoSet(m) => m.encode_raw(out),
            Command::AuthStatus | Command::Auth(_) | Command::DowngradeVersionTest => {}
        }
    }
}

fn put_field(field: u32, len: usize, out: &mut Vec<u8>) {
    prost::encoding::encode_key(field, WireType::LengthDelimited, out);
    prost::encoding::encode_varint(len as u64, out);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equals_the_generated_message() {
        let put = pb::PutRequest {
            key: Bytes::from_static(b"k"),
            value: Bytes::from_static(b"v"),
            lease: 5,
            ..Default::default()
        };
        let set = membershippb::ClusterVersionSetRequest { ver: "3.7.0".into() };
        let header = CommandHeader { id: 1 << 50, username: String::new(), auth_revision: 3 };
        let head = Some(pb::RequestHeader { id: 1 << 50, auth_revision: 3, ..Default::default() });
        let cases = [
            (
                Command::Put(put.clone()),
                pb::InternalRaftRequest {
                    header: head.clone(),
                    put: Some(put),
                    ..Default::default()
                },
            ),
            (
                Command::ClusterVersionSet(set.clone()),
                pb::InternalRaftRequest {
                    header: head,
                    cluster_version_set: Some(set),
                    ..Default::default()
                },
            ),
        ];
        for (command, message) in cases {
            let bytes = command.encode(&header);
            assert_eq!(bytes, message.encode_to_vec());
            assert_eq!(Command::decode(bytes), Ok((header.clone(), command)));
        }
    }

    #[test]
    fn refuses_what_is_no_request() {
        assert_eq!(Command::decode(Bytes::new()), Err(CommandError::Empty));
        let cut = Bytes::from_static(&[0x22, 0x7f, 0x0a]);
        assert!(matches!(Command::decode(cut), Err(CommandError::Malformed(_))));
    }
}
