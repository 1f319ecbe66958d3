//! What kube-apiserver asks: create, update and delete of objects, each by one transaction that compares the revision, and lists in
//! pages at one revision.

use std::collections::BTreeMap;

use bytes::Bytes;
use norn_proto::etcdserverpb as pb;
use pb::request_op::Request;

use super::{Pen, shown, wire};
use crate::history::{Answer, Ask, Outcome};

const PODS: u64 = 10;
const PAGE: i64 = 3;
const END: &[u8] = b"p0";

#[derive(Default)]
pub struct Pods {
    /// Revision per object, as last seen.
    seen: BTreeMap<Bytes, i64>,
    /// The list under way: where it goes on, at which revision.
    next_page: Option<(Bytes, i64)>,
}

impl Pods {
    pub(super) fn next(&mut self, pen: &mut Pen<'_>) -> Ask {
        let key = Bytes::from(format!("p/{}", pen.rng.below(PODS)));
        let value = pen.value();
        if self.next_page.is_some() || pen.rng.permille(250) {
            let start = (Bytes::from_static(b"p/"), 0);
            let (key, revision) = self.next_page.take().unwrap_or(start);
            let range_end = Bytes::from_static(END);
            let list =
                pb::RangeRequest { key, range_end, limit: PAGE, revision, ..Default::default() };
            return Ask::Query(list);
        }
        let known = self.seen.get(&key).copied().unwrap_or(0);
        let change = if known > 0 && pen.rng.permille(250) {
            let key = key.clone();
            Request::RequestDeleteRange(pb::DeleteRangeRequest { key, ..Default::default() })
        } else {
            Request::RequestPut(wire::put(&key, &value, 0))
        };
        let compare = vec![wire::unmodified(&key, known)];
        let get = Request::RequestRange(pb::RangeRequest { key, ..Default::default() });
        Ask::Txn(wire::txn(compare, vec![change], vec![get]))
    }

    pub fn learn(&mut self, ask: &Ask, outcome: &Outcome) {
        match (ask, outcome) {
            (Ask::Txn(txn), Outcome::Ok { revision, answer: Answer::Txn(answer) }) => {
                let key = &txn.compare[0].key;
                self.seen.remove(key);
                if answer.succeeded
                    && matches!(txn.success[0].request, Some(Request::RequestPut(_)))
                {
                    self.seen.insert(key.clone(), *revision);
                }
            }
            (Ask::Query(list), Outcome::Ok { revision, answer: Answer::Listed(page) }) => {
                let at = if list.revision > 0 { list.revision } else { *revision };
                self.next_page = page.kvs.last().filter(|_| page.more).map(|kv| {
                    let mut after = kv.key.to_vec();
                    after.push(0);
                    (Bytes::from(after), at)
                });
            }
            _ => self.next_page = None,
        }
        for kv in shown(outcome) {
            self.seen.insert(kv.key.clone(), kv.mod_revision);
        }
    }
}
