//! Single keys, each of them a register of unique values; leases with keys; compaction; ranges of everything.

use bytes::Bytes;

use super::{Pen, weighted};
use crate::history::{Answer, Ask, Outcome};
use crate::options::Options;
use crate::rng::mix;

pub struct Register {
    /// Last value read or written per key, for compare-and-put.
    seen: Vec<Option<Bytes>>,
    lease: Option<i64>,
    /// The revision of its last deletion.
    deleted_at: i64,
}

impl Register {
    pub fn new(options: &Options) -> Register {
        Register { seen: vec![None; options.keys as usize], lease: None, deleted_at: 0 }
    }

    pub(super) fn next(&mut self, pen: &mut Pen<'_>) -> Ask {
        let kind = weighted(pen.rng, &pen.options.weights);
        let number = pen.rng.below(pen.options.keys) as usize;
        let key = Bytes::from(format!("k{number}"));
        let value = pen.value();
        match kind {
            0 => Ask::Put { key, value, lease: 0 },
            1 => Ask::Get { key, serializable: false },
            2 => Ask::Delete { key },
            3 => Ask::Swap { key, expect: self.seen[number].clone(), value },
            4 => {
                let at_old = pen.rng.permille(400);
                let back = pen.rng.below(20).cast_signed();
                let revision = if at_old { (pen.revision_seen - back).max(1) } else { 0 };
                Ask::Range { revision, serializable: false }
            }
            // (Keys that may vanish by themselves have names of their own: registers stay registers.)
            5 => self.next_lease(Bytes::from(format!("l{number}")), value, pen),
            6 => {
                let back = pen.rng.below(30).cast_signed();
                // Where a deletion is, compaction has a choice to make.
                if self.deleted_at > 0 && mix(pen.asked).is_multiple_of(2) {
                    return Ask::Compact { revision: self.deleted_at };
                }
                Ask::Compact { revision: (pen.revision_seen - back).max(1) }
            }
            _ if pen.rng.permille(500) => Ask::Get { key, serializable: true },
            _ => Ask::Range { revision: 0, serializable: true },
        }
    }

    fn next_lease(&mut self, key: Bytes, value: Bytes, pen: &mut Pen<'_>) -> Ask {
        match (self.lease, pen.rng.below(10)) {
            (_, 9) => Ask::Put { key, value, lease: 0 },
            (Some(lease), 0..5) => Ask::Put { key, value, lease },
            (Some(id), 5..8) => Ask::KeepAlive { id },
            (Some(id), 8) => {
                self.lease = None;
                Ask::Revoke { id }
            }
            _ => {
                let id = pen.lease_id();
                self.lease = Some(id);
                Ask::Grant { id, ttl: pen.rng.between(1, 8).cast_signed() }
            }
        }
    }

    pub fn learn(&mut self, ask: &Ask, outcome: &Outcome) {
        let Outcome::Ok { answer, revision } = outcome else {
            if matches!(outcome, Outcome::Refused(_)) {
                self.lease = None;
            }
            return;
        };
        if matches!((ask, answer), (Ask::Delete { .. }, Answer::Deleted(1))) {
            self.deleted_at = *revision;
        }
        let number = |key: &Bytes| -> usize {
            std::str::from_utf8(&key[1..]).expect("ours").parse().expect("ours")
        };
        match (ask, answer) {
            (Ask::Put { key, .. }, _) if key[0] == b'l' => {}
            (Ask::Put { key, value, .. }, _) => self.seen[number(key)] = Some(value.clone()),
            (Ask::Swap { key, value, .. }, Answer::Swapped(true)) => {
                self.seen[number(key)] = Some(value.clone());
            }
            (Ask::Get { key, .. } | Ask::Swap { key, .. }, Answer::Found(kvs)) => {
                self.seen[number(key)] = kvs.first().map(|kv| kv.value.clone());
            }
            (Ask::Delete { key } | Ask::Swap { key, .. }, _) => self.seen[number(key)] = None,
            _ => {}
        }
    }
}
