//! A place in a queue, as etcd's locks and elections have it: a key of one's own under a lease, named after that; whoever's key is the
//! oldest is first.

use bytes::Bytes;
use norn_proto::etcdserverpb as pb;
use pb::compare::TargetUnion;
use pb::request_op::Request;

use super::{Pen, shown, wire};
use crate::history::{Answer, Ask, Outcome};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Step {
    #[default]
    Idle,
    Granted,
    /// In the queue since this revision.
    Queued(i64),
    First(i64),
}

pub(super) struct Queue {
    prefix: &'static [u8],
    end: &'static [u8],
    lease: i64,
    pub(super) step: Step,
}

impl Queue {
    pub(super) fn new(prefix: &'static [u8], end: &'static [u8]) -> Queue {
        Queue { prefix, end, lease: 0, step: Step::Idle }
    }

    pub(super) fn lease(&self) -> i64 {
        self.lease
    }

    pub(super) fn key(&self) -> Bytes {
        Bytes::from([self.prefix, format!("{:x}", self.lease).as_bytes()].concat())
    }

    /// Holds as long as the own key is the one that was put at this revision; 0: as long as there is none.
    pub(super) fn created(&self, revision: i64) -> pb::Compare {
        wire::equals(&self.key(), TargetUnion::CreateRevision(revision))
    }

    pub(super) fn everybody(&self) -> pb::RangeRequest {
        let (key, range_end) = (Bytes::from_static(self.prefix), Bytes::from_static(self.end));
        pb::RangeRequest { key, range_end, ..Default::default() }
    }

    /// What everybody does who wants to be first, and to stay in the queue; `None`: there is time for something else.
    pub(super) fn next(&mut self, pen: &mut Pen<'_>, value: &Bytes) -> Option<Ask> {
        match self.step {
            Step::Idle => {
                self.lease = pen.lease_id();
                Some(Ask::Grant { id: self.lease, ttl: pen.rng.between(1, 4).cast_signed() })
            }
            Step::Granted => {
                let key = self.key();
                let put = Request::RequestPut(wire::put(&key, value, self.lease));
                let get = Request::RequestRange(pb::RangeRequest { key, ..Default::default() });
                let all = Request::RequestRange(self.everybody());
                let compare = vec![self.created(0)];
                Some(Ask::Txn(wire::txn(compare, vec![put, all.clone()], vec![get, all])))
            }
            Step::Queued(_) | Step::First(_) => {
                pen.rng.permille(200).then_some(Ask::KeepAlive { id: self.lease })
            }
        }
    }

    pub(super) fn learn(&mut self, ask: &Ask, outcome: &Outcome) {
        let next = match (self.step, ask, outcome) {
            (Step::Idle, Ask::Grant { .. }, Outcome::Ok { .. }) => Step::Granted,
            (Step::Granted | Step::Queued(_), Ask::Txn(_) | Ask::Query(_), Outcome::Ok { .. }) => {
                self.place(outcome)
            }
            (Step::First(_), Ask::Txn(_), Outcome::Ok { .. }) if !super::succeeded(outcome) => {
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
        if oldest == Some(since) { Step::First(since) } else { Step::Queued(since) }
    }
}
