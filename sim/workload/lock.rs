//! etcd's lock recipe (an election is the same with a value): a key of one's own under a lease; the oldest key holds the lock. Whoever
//! believes to hold it writes to a place that only holders write to, as long as its own key is still there.

use bytes::Bytes;
use norn_proto::etcdserverpb as pb;
use pb::compare::TargetUnion;
use pb::request_op::Request;

use super::{Pen, shown, wire};
use crate::history::{Answer, Ask, Outcome};

pub const PREFIX: &[u8] = b"lock/";
pub const END: &[u8] = b"lock0";
/// Where holders write; the value ends with the key by which they hold the lock.
pub const FENCED: &[u8] = b"fenced";

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Step {
    #[default]
    Idle,
    Granted,
    /// In the queue since this revision.
    Queued(i64),
    Holding(i64),
}

#[derive(Default)]
pub struct Lock {
    lease: i64,
    step: Step,
}

fn queue() -> pb::RangeRequest {
    let (key, range_end) = (Bytes::from_static(PREFIX), Bytes::from_static(END));
    pb::RangeRequest { key, range_end, ..Default::default() }
}

impl Lock {
    fn key(&self) -> Bytes {
        Bytes::from(format!("lock/{:x}", self.lease))
    }

    fn created(&self, revision: i64) -> pb::Compare {
        wire::equals(&self.key(), TargetUnion::CreateRevision(revision))
    }

    pub(super) fn next(&mut self, pen: &mut Pen<'_>) -> Ask {
        let key = self.key();
        match self.step {
            Step::Idle => {
                self.lease = pen.lease_id();
                Ask::Grant { id: self.lease, ttl: pen.rng.between(1, 4).cast_signed() }
            }
            Step::Granted => {
                let put = Request::RequestPut(wire::put(&key, &Bytes::new(), self.lease));
                let get = Request::RequestRange(pb::RangeRequest { key, ..Default::default() });
                let all = Request::RequestRange(queue());
                Ask::Txn(wire::txn(vec![self.created(0)], vec![put, all.clone()], vec![get, all]))
            }
            Step::Queued(_) | Step::Holding(_) if pen.rng.permille(200) => {
                Ask::KeepAlive { id: self.lease }
            }
            Step::Queued(_) => Ask::Query(queue()),
            Step::Holding(_) if pen.rng.permille(300) => {
                self.step = Step::Idle;
                Ask::DeleteRange(pb::DeleteRangeRequest { key, ..Default::default() })
            }
            Step::Holding(since) => {
                let value = Bytes::from(format!("{} by {}", pen.mark(), self.text()));
                let put = wire::put(&Bytes::from_static(FENCED), &value, 0);
                let put = Request::RequestPut(put);
                Ask::Txn(wire::txn(vec![self.created(since)], vec![put], vec![]))
            }
        }
    }

    fn text(&self) -> String {
        format!("lock/{:x}", self.lease)
    }

    pub fn learn(&mut self, ask: &Ask, outcome: &Outcome) {
        let next = match (self.step, ask, outcome) {
            (Step::Idle, Ask::Grant { .. }, Outcome::Ok { .. }) => Step::Granted,
            (Step::Granted | Step::Queued(_), Ask::Txn(_) | Ask::Query(_), Outcome::Ok { .. }) => {
                self.place(outcome)
            }
            (Step::Holding(_), Ask::Txn(_), Outcome::Ok { .. }) if !super::succeeded(outcome) => {
                Step::Idle
            }
            (_, Ask::KeepAlive { .. }, Outcome::Ok { answer: Answer::Ttl(0), .. })
            | (_, _, Outcome::Refused(_)) => Step::Idle,
            (step, ..) => step,
        };
        self.step = next;
    }

    /// Where in the queue the own key is, which may have gone with its lease.
    fn place(&self, outcome: &Outcome) -> Step {
        let mine = self.key();
        let put_at = match (self.step, outcome) {
            (Step::Granted, Outcome::Ok { revision, .. }) if super::succeeded(outcome) => {
                Some(*revision)
            }
            _ => None,
        };
        let found = shown(outcome).find(|kv| kv.key == mine).map(|kv| kv.create_revision);
        let Some(since) = found.or(put_at) else { return Step::Idle };
        let oldest = shown(outcome).map(|kv| kv.create_revision).min();
        if oldest == Some(since) { Step::Holding(since) } else { Step::Queued(since) }
    }
}
