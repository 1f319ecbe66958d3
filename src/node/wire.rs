//! Writing protobuf without building messages first: replies are encoded straight into their buffer, with stored
//! `KeyValue` bytes copied in as they are.

use bytes::Bytes;

/// What every reply begins with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    pub cluster_id: u64,
    pub member_id: u64,
    pub revision: i64,
    pub raft_term: u64,
}

/// An encoded message under construction.
#[derive(Debug, Default)]
pub struct Writer {
    out: Vec<u8>,
}

impl Writer {
    pub fn with_capacity(bytes: usize) -> Writer {
        Writer { out: Vec::with_capacity(bytes) }
    }

    pub fn finish(self) -> Bytes {
        Bytes::from(self.out)
    }

    pub fn is_empty(&self) -> bool {
        self.out.is_empty()
    }

    pub fn len(&self) -> usize {
        self.out.len()
    }

    /// Zero is left out, as proto3 wants.
    pub fn uint(&mut self, field: u32, value: u64) {
        if value != 0 {
            self.tag(field, 0);
            self.varint(value);
        }
    }

    pub fn int(&mut self, field: u32, value: i64) {
        self.uint(field, value.cast_unsigned());
    }

    pub fn bool(&mut self, field: u32, value: bool) {
        self.uint(field, u64::from(value));
    }

    /// Empty is left out.
    pub fn bytes(&mut self, field: u32, value: &[u8]) {
        if !value.is_empty() {
            self.message(field, value);
        }
    }

    /// An already encoded message; written also when empty (a message that is there, with nothing set).
    pub fn message(&mut self, field: u32, encoded: &[u8]) {
        self.tag(field, 2);
        self.varint(encoded.len() as u64);
        self.out.extend_from_slice(encoded);
    }

    /// A nested message, built in place. Its length is written afterwards; messages below 128 bytes move nothing.
    pub fn nested(&mut self, field: u32, build: impl FnOnce(&mut Writer)) {
        self.tag(field, 2);
        let at = self.out.len();
        self.out.push(0);
        build(self);
        let len = self.out.len() - at - 1;
        if len < 0x80 {
            self.out[at] = len as u8;
            return;
        }
        let mut prefix = Vec::with_capacity(10);
        put_varint(&mut prefix, len as u64);
        self.out.splice(at..=at, prefix);
    }

    pub fn header(&mut self, header: &Header) {
        self.nested(1, |w| {
            w.uint(1, header.cluster_id);
            w.uint(2, header.member_id);
            w.int(3, header.revision);
            w.uint(4, header.raft_term);
        });
    }

    fn tag(&mut self, field: u32, kind: u8) {
        self.varint(u64::from(field) << 3 | u64::from(kind));
    }

    fn varint(&mut self, value: u64) {
        put_varint(&mut self.out, value);
    }
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use norn_proto::etcdserverpb as pb;
    use prost::Message;

    use super::*;

    #[test]
    fn equals_prost() {
        for n in [0, 1, 200, 40_000] {
            let header = pb::ResponseHeader {
                cluster_id: u64::MAX,
                member_id: 7,
                revision: -3,
                raft_term: n as u64,
            };
            let kv = norn_proto::mvccpb::KeyValue {
                key: vec![b'k'; 3].into(),
                value: vec![b'v'; n].into(),
                ..Default::default()
            };
            let want = pb::RangeResponse {
                header: Some(header),
                kvs: vec![kv.clone(), kv.clone()],
                more: true,
                count: n as i64,
            };
            let mut w = Writer::default();
            w.header(&Header {
                cluster_id: u64::MAX,
                member_id: 7,
                revision: -3,
                raft_term: n as u64,
            });
            w.message(2, &kv.encode_to_vec());
            w.message(2, &kv.encode_to_vec());
            w.bool(3, true);
            w.int(4, n as i64);
            assert_eq!(w.finish(), want.encode_to_vec());
        }
    }
}
