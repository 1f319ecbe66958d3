//! Lists that only grow: read, append one element, write back if nobody else did. Every value ever seen of a list is the
//! beginning of every later one.

use bytes::Bytes;
use norn_proto::etcdserverpb as pb;
use pb::request_op::Request;

use super::{Pen, shown, wire};
use crate::history::{Ask, Outcome};

/// Elements after which clients go on with the next list.
const ELEMENTS_MAX: usize = 80;

#[derive(Default)]
pub struct Append {
    list: u64,
    value: Bytes,
    revision: i64,
}

/// Whether a key is a list's.
pub fn is_list(key: &[u8]) -> bool {
    key.starts_with(b"a")
}

impl Append {
    pub(super) fn next(&self, pen: &mut Pen<'_>) -> Ask {
        let key = self.key();
        let range = pb::RangeRequest { key: key.clone(), ..Default::default() };
        if pen.rng.permille(200) {
            return Ask::Query(range);
        }
        let mut value = self.value.to_vec();
        if !value.is_empty() {
            value.push(b',');
        }
        value.extend_from_slice(pen.mark().as_bytes());
        let compare = vec![wire::unmodified(&key, self.revision)];
        let success = vec![Request::RequestPut(wire::put(&key, &Bytes::from(value), 0))];
        Ask::Txn(wire::txn(compare, success, vec![Request::RequestRange(range)]))
    }

    fn key(&self) -> Bytes {
        Bytes::from(format!("a{}", self.list))
    }

    pub fn learn(&mut self, ask: &Ask, outcome: &Outcome) {
        let key = self.key();
        if let Some(kv) = shown(outcome).find(|kv| kv.key == key) {
            (self.value, self.revision) = (kv.value.clone(), kv.mod_revision);
        } else if super::succeeded(outcome)
            && let (Ask::Txn(txn), Outcome::Ok { revision, .. }) = (ask, outcome)
            && let Some(Request::RequestPut(put)) = &txn.success[0].request
        {
            (self.value, self.revision) = (put.value.clone(), *revision);
        }
        if self.value.iter().filter(|byte| **byte == b',').count() >= ELEMENTS_MAX {
            *self = Append { list: self.list + 1, ..Append::default() };
        }
    }
}
