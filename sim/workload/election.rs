//! etcd's election recipe (`concurrency.Election`): who campaigns queues up with a value, and leads when nobody is before it; a leader
//! proclaims other values as long as its key is the one it campaigned with, and resigns. Everybody looks who leads.

use bytes::Bytes;
use norn_proto::etcdserverpb as pb;
use pb::range_request::{SortOrder, SortTarget};
use pb::request_op::Request;

use super::queue::{Queue, Step};
use super::{Pen, shown, wire};
use crate::history::{Answer, Ask, Outcome};

pub const PREFIX: &[u8] = b"elect/";
pub const END: &[u8] = b"elect0";

pub struct Election(Queue);

impl Default for Election {
    fn default() -> Election {
        Election(Queue::new(PREFIX, END))
    }
}

/// The key of whoever leads (etcd's `WithFirstCreate`).
fn leader(queue: &Queue) -> pb::RangeRequest {
    pb::RangeRequest {
        limit: 1,
        sort_order: SortOrder::Ascend.into(),
        sort_target: SortTarget::Create.into(),
        ..queue.everybody()
    }
}

/// Of those before oneself, the last (`WithLastCreate` and `WithMaxCreateRev`).
fn before(queue: &Queue, since: i64) -> pb::RangeRequest {
    pb::RangeRequest {
        limit: 1,
        sort_order: SortOrder::Descend.into(),
        sort_target: SortTarget::Create.into(),
        max_create_revision: since - 1,
        ..queue.everybody()
    }
}

impl Election {
    pub(super) fn next(&mut self, pen: &mut Pen<'_>) -> Ask {
        if pen.rng.permille(250) {
            return Ask::Query(leader(&self.0));
        }
        let value = Bytes::from(pen.mark());
        if let Some(ask) = self.0.next(pen, &value) {
            return ask;
        }
        let (key, queue) = (self.0.key(), &mut self.0);
        match queue.step {
            Step::First(since) if pen.rng.permille(300) => {
                queue.step = Step::Idle;
                let gone = pb::DeleteRangeRequest { key, ..Default::default() };
                let gone = Request::RequestDeleteRange(gone);
                Ask::Txn(wire::txn(vec![queue.created(since)], vec![gone], vec![]))
            }
            Step::First(since) => {
                let put = Request::RequestPut(wire::put(&key, &value, queue.lease()));
                Ask::Txn(wire::txn(vec![queue.created(since)], vec![put], vec![]))
            }
            Step::Queued(since) => Ask::Query(before(queue, since)),
            Step::Idle | Step::Granted => Ask::Query(leader(queue)),
        }
    }

    pub fn learn(&mut self, ask: &Ask, outcome: &Outcome) {
        match (ask, self.0.step) {
            // (Nobody is before it, and nobody will be. Whether its own key is still there, the first proclamation tells.)
            (Ask::Query(r), Step::Queued(since)) if r.max_create_revision > 0 => {
                let is_told = matches!(outcome, Outcome::Ok { .. });
                if is_told && shown(outcome).next().is_none() {
                    self.0.step = Step::First(since);
                }
            }
            (Ask::Query(_), _) => {}
            _ => self.0.learn(ask, outcome),
        }
    }
}

/// By an answer, who led at that moment: the creation of its key. (Empty where nobody did, or nothing was said of it.)
pub fn seen(ask: &Ask, outcome: &Outcome) -> Option<i64> {
    match (ask, outcome) {
        (Ask::Query(r), Outcome::Ok { answer: Answer::Listed(listed), .. })
            if r.key == PREFIX && r.limit == 1 && r.max_create_revision == 0 =>
        {
            listed.kvs.first().map(|kv| kv.create_revision)
        }
        (Ask::Txn(r), outcome) if super::succeeded(outcome) => proclaimed(r),
        _ => None,
    }
}

/// The creation of the key that a proclamation names.
fn proclaimed(r: &pb::TxnRequest) -> Option<i64> {
    use pb::compare::TargetUnion;
    let compare = r.compare.first().filter(|compare| compare.key.starts_with(PREFIX))?;
    match compare.target_union {
        Some(TargetUnion::CreateRevision(created)) if created > 0 => Some(created),
        _ => None,
    }
}
