//! What a node counts for operators. Numbers only: how long something took is for those to say who have a clock.

use norn_mvcc::{DeleteRequest, Op, OpResult, PutRequest, TxnRequest, TxnResult};

use crate::command::OPS;

/// Only ever grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub leader_changes: u64,
    pub proposals_committed: u64,
    pub proposals_applied: u64,
    pub proposals_failed: u64,
    /// Requests applied: by [`OPS`], without and with success.
    pub applied: [[u64; 2]; OPS.len()],
    pub puts: u64,
    /// Bytes of the keys and values put.
    pub put_bytes: u64,
    pub deletes: u64,
    /// Transactions of more than one operation.
    pub txns: u64,
    pub ranges: u64,
    /// Answers to calls of Range: without and with success.
    pub range_calls: [u64; 2],
    pub compactions: u64,
    pub keys_compacted: u64,
    pub leases_granted: u64,
    pub leases_revoked: u64,
    pub leases_renewed: u64,
    pub leases_expired: u64,
    /// Times of leases granted: up to a second, two, four, and so on; the last are those above all bounds.
    pub lease_ttls: [u64; LEASE_TTL_BOUNDS + 1],
    pub lease_ttl_seconds: u64,
    pub read_indexes_slow: u64,
    pub read_indexes_failed: u64,
    /// Heartbeats that left more than an interval late.
    pub heartbeats_late: u64,
}

/// Powers of two, in seconds: up to half a year.
pub const LEASE_TTL_BOUNDS: usize = 24;

impl Counters {
    pub(crate) fn lease_granted(&mut self, ttl: i64) {
        let ttl = ttl.max(0).cast_unsigned();
        let bound = (0..LEASE_TTL_BOUNDS).find(|bound| ttl <= 1 << bound);
        self.leases_granted += 1;
        self.lease_ttls[bound.unwrap_or(LEASE_TTL_BOUNDS)] += 1;
        self.lease_ttl_seconds += ttl;
    }

    /// What one request did to the keys.
    pub(crate) fn add(&mut self, work: &Work) {
        self.ranges += work.ranges;
        self.puts += work.puts;
        self.put_bytes += work.put_bytes;
        self.deletes += work.deletes;
        self.txns += u64::from(work.ranges + work.puts + work.deletes > 1);
    }
}

/// Operations on keys. (Who wants the previous value reads it, which etcd counts as a range.)
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Work {
    ranges: u64,
    puts: u64,
    put_bytes: u64,
    deletes: u64,
}

impl Work {
    pub(crate) fn range() -> Work {
        Work { ranges: 1, ..Work::default() }
    }

    pub(crate) fn put(put: &PutRequest) -> Work {
        let mut work = Work::default();
        work.add_put(put);
        work
    }

    pub(crate) fn delete(delete: &DeleteRequest) -> Work {
        let mut work = Work::default();
        work.add_delete(delete);
        work
    }

    /// Deletions one by one.
    pub(crate) fn deletes(count: usize) -> Work {
        Work { deletes: count as u64, ..Work::default() }
    }

    /// Of the branches that were taken.
    pub(crate) fn txn(txn: &TxnRequest, result: &TxnResult) -> Work {
        let mut work = Work::default();
        work.add_txn(txn, result);
        work
    }

    fn add_put(&mut self, put: &PutRequest) {
        self.puts += 1;
        self.put_bytes += (put.key.len() + put.value.len()) as u64;
        self.ranges += u64::from(put.prev_kv || put.ignore_value || put.ignore_lease);
    }

    fn add_delete(&mut self, delete: &DeleteRequest) {
        self.deletes += 1;
        self.ranges += u64::from(delete.prev_kv);
    }

    fn add_txn(&mut self, txn: &TxnRequest, result: &TxnResult) {
        self.ranges += txn.compare.len() as u64;
        let ops = if result.succeeded { &txn.success } else { &txn.failure };
        for (op, result) in ops.iter().zip(&result.responses) {
            match (op, result) {
                (Op::Range(_), _) => self.ranges += 1,
                (Op::Put(put), _) => self.add_put(put),
                (Op::Delete(delete), _) => self.add_delete(delete),
                (Op::Txn(inner), OpResult::Txn(result)) => self.add_txn(inner, result),
                (Op::Txn(_) | Op::Bad(_), _) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_falls_into_the_first_bound_that_holds_it() {
        let mut counters = Counters::default();
        for ttl in [1, 2, 3, 1 << 23, i64::MAX] {
            counters.lease_granted(ttl);
        }
        let filled: Vec<usize> =
            (0..=LEASE_TTL_BOUNDS).filter(|i| counters.lease_ttls[*i] > 0).collect();
        assert_eq!(filled, [0, 1, 2, 23, 24]);
        assert_eq!(counters.leases_granted, 5);
    }

    #[test]
    fn one_operation_is_no_transaction() {
        let mut counters = Counters::default();
        counters.add(&Work::range());
        counters.add(&Work::put(&PutRequest::default()));
        assert_eq!((counters.ranges, counters.puts, counters.txns), (1, 1, 0));
        let put = PutRequest { prev_kv: true, ..PutRequest::default() };
        counters.add(&Work::put(&put));
        assert_eq!((counters.ranges, counters.puts, counters.txns), (2, 2, 1));
    }
}
