//! etcd's lock recipe: whoever is first in the queue holds the lock. Whoever believes to hold it writes to a place that only holders
//! write to, as long as its own key is still there.

use bytes::Bytes;
use norn_proto::etcdserverpb as pb;
use pb::request_op::Request;

use super::queue::{Queue, Step};
use super::{Pen, wire};
use crate::history::{Ask, Outcome};

pub const PREFIX: &[u8] = b"lock/";
pub const END: &[u8] = b"lock0";
/// Where holders write; the value ends with the key by which they hold the lock.
pub const FENCED: &[u8] = b"fenced";

pub struct Lock(Queue);

impl Default for Lock {
    fn default() -> Lock {
        Lock(Queue::new(PREFIX, END))
    }
}

impl Lock {
    pub(super) fn next(&mut self, pen: &mut Pen<'_>) -> Ask {
        if let Some(ask) = self.0.next(pen, &Bytes::new()) {
            return ask;
        }
        let (key, queue) = (self.0.key(), &mut self.0);
        match queue.step {
            Step::First(_) if pen.rng.permille(300) => {
                queue.step = Step::Idle;
                Ask::DeleteRange(pb::DeleteRangeRequest { key, ..Default::default() })
            }
            Step::First(since) => {
                let name = String::from_utf8_lossy(&key);
                let value = Bytes::from(format!("{} by {name}", pen.mark()));
                let put = wire::put(&Bytes::from_static(FENCED), &value, 0);
                let put = Request::RequestPut(put);
                Ask::Txn(wire::txn(vec![queue.created(since)], vec![put], vec![]))
            }
            _ => Ask::Query(queue.everybody()),
        }
    }

    pub fn learn(&mut self, ask: &Ask, outcome: &Outcome) {
        self.0.learn(ask, outcome);
    }
}
