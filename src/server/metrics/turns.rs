//! How long requests took, and applying them.
//!
//! A request's time is from its question to its answer, as in etcd. Applying has no time of its own here: the node, which
//! does it, has no clock, and one turn applies a batch. So a request's share of the turn that applied it is what is
//! shown, and a turn's whole time is what a compaction pauses others for.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::Duration;

use norn_node::{Code, Counters, Error, Method, Node, OPS, Reader};
use prost::encoding::{WireType, decode_key, decode_varint};

use super::disk::DiskMetrics;
use super::histogram::Histogram;
use super::text::Page;
use crate::runtime::time::{self, Instant};

/// The kind of a request as etcd names it, and when it came.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    method: Method,
    kind: Option<&'static str>,
    at: Instant,
}

impl Asked {
    pub fn new(method: Method, body: &[u8]) -> Asked {
        let kind = match method {
            Method::Range => Some("Range"),
            Method::Put => Some("Put"),
            Method::DeleteRange => Some("DeleteRange"),
            Method::Txn if is_read_only(body, 0) => Some("ReadonlyTxn"),
            Method::Txn => Some("Txn"),
            Method::Compact => Some("Compaction"),
            Method::LeaseGrant => Some("LeaseGrant"),
            Method::LeaseRevoke => Some("LeaseRevoke"),
            Method::Alarm => Some("Alarm"),
            Method::AuthStatus => Some("AuthStatus"),
            _ => None,
        };
        Asked { method, kind, at: Instant::now() }
    }
}

/// Nested transactions looked into; etcd's clients can send no more either.
const DEPTH_MAX: usize = 32;

/// Whether both branches of an encoded transaction only read. Only looks at what kinds of operations there are.
fn is_read_only(mut txn: &[u8], depth: usize) -> bool {
    while let Some((branch, op)) = field(&mut txn) {
        if branch == 1 {
            continue;
        }
        let mut op = op;
        match field(&mut op) {
            Some((1, _)) => {}
            Some((4, inner)) if depth < DEPTH_MAX && is_read_only(inner, depth + 1) => {}
            _ => return false,
        }
    }
    true
}

fn field<'a>(bytes: &mut &'a [u8]) -> Option<(u32, &'a [u8])> {
    let (field, wire) = decode_key(bytes).ok()?;
    if wire != WireType::LengthDelimited {
        return None;
    }
    let len = usize::try_from(decode_varint(bytes).ok()?).ok()?;
    let (inner, rest) = bytes.split_at_checked(len)?;
    *bytes = rest;
    Some((field, inner))
}

/// Requests by success and kind.
type ByKind = BTreeMap<(bool, &'static str), Histogram>;

#[derive(Debug)]
pub struct TurnMetrics {
    requests: RefCell<ByKind>,
    applies: RefCell<ByKind>,
    ranges: [Histogram; 2],
    slow_applies: Cell<u64>,
    slow: Duration,
    before: Cell<Counters>,
    promotions: Cell<u64>,
    failed_promotions: RefCell<BTreeMap<String, u64>>,
    hashes: Histogram,
    hashes_of_revision: Histogram,
    compacting_since: Cell<Option<Instant>>,
    compacted_at: Cell<u64>,
    compaction: Histogram,
    compaction_pause: Histogram,
    index_pause: Histogram,
}

impl TurnMetrics {
    /// `slow`: what applying one request may take without a warning.
    pub fn new(slow: Duration) -> TurnMetrics {
        let e20 = || Histogram::exponential(0.0001, 2.0, 20);
        TurnMetrics {
            requests: RefCell::default(),
            applies: RefCell::default(),
            ranges: [e20(), e20()],
            slow_applies: Cell::new(0),
            slow,
            before: Cell::default(),
            promotions: Cell::new(0),
            failed_promotions: RefCell::default(),
            hashes: Histogram::exponential(0.01, 2.0, 15),
            hashes_of_revision: Histogram::exponential(0.01, 2.0, 15),
            compacting_since: Cell::new(None),
            compacted_at: Cell::new(0),
            compaction: Histogram::exponential(100.0, 2.0, 14),
            compaction_pause: Histogram::exponential(1.0, 2.0, 13),
            index_pause: Histogram::exponential(0.5, 2.0, 14),
        }
    }

    /// A call was answered, or its client told that it took too long.
    pub fn answered(&self, asked: Asked, error: Option<&Error>, disk: &DiskMetrics) {
        let took = asked.at.elapsed();
        // (What the front door refuses is no request yet.)
        let is_request = error.is_none_or(|error| error.code() != Code::InvalidArgument);
        if let Some(kind) = asked.kind.filter(|_| is_request) {
            self.requested(kind, error.is_none(), took);
        }
        match asked.method {
            Method::Hash => self.hashes.observe(took),
            Method::HashKv => self.hashes_of_revision.observe(took),
            Method::Defragment => disk.defragment.observe(took),
            Method::MemberPromote => match error {
                None => self.promotions.set(self.promotions.get() + 1),
                Some(Error::NotLeader) => {}
                Some(error) => {
                    // (The reasons are a closed list.)
                    let mut failed = self.failed_promotions.borrow_mut();
                    *failed.entry(error.to_string()).or_default() += 1;
                }
            },
            _ => {}
        }
    }

    /// A request ended, a client's or the node's own.
    pub fn requested(&self, kind: &'static str, is_ok: bool, took: Duration) {
        let mut requests = self.requests.borrow_mut();
        requests.entry((is_ok, kind)).or_insert_with(Histogram::disk).observe(took);
    }

    /// A turn ended that began then.
    pub fn turned<R: Reader>(&self, began: Instant, node: &Node<R>) {
        let counters = node.counters();
        let before = self.before.get();
        let is_idle = counters.proposals_applied == before.proposals_applied
            && counters.range_calls == before.range_calls;
        let is_compacting = node.store().is_compacting();
        if is_idle && !is_compacting && self.compacting_since.get().is_none() {
            return;
        }
        let took = began.elapsed();
        self.before.set(*counters);
        let ranges = [0, 1].map(|ok| counters.range_calls[ok] - before.range_calls[ok]);
        let applied = counters.proposals_applied - before.proposals_applied;
        let parts = applied + ranges[0] + ranges[1];
        let share = took / u32::try_from(parts.max(1)).unwrap_or(u32::MAX);
        for (histogram, count) in self.ranges.iter().zip(ranges) {
            if count > 0 {
                histogram.observe_many(share, count);
            }
        }
        if applied > 0 {
            self.applied(share, counters, &before);
        }
        self.compacted(began, took, is_compacting, counters.compactions - before.compactions);
    }

    fn applied(&self, share: Duration, counters: &Counters, before: &Counters) {
        let mut applies = self.applies.borrow_mut();
        for (op, (now, before)) in counters.applied.iter().zip(&before.applied).enumerate() {
            for ok in [0, 1] {
                let count = now[ok] - before[ok];
                if count == 0 {
                    continue;
                }
                let histogram = applies.entry((ok == 1, OPS[op]));
                histogram
                    .or_insert_with(|| Histogram::exponential(0.0001, 2.0, 20))
                    .observe_many(share, count);
                if share > self.slow {
                    self.slow_applies.set(self.slow_applies.get() + count);
                }
            }
        }
    }

    fn compacted(&self, began: Instant, took: Duration, is_compacting: bool, finished: u64) {
        let since = self.compacting_since.get();
        if since.is_none() && (is_compacting || finished > 0) {
            self.index_pause.observe_ms(took);
        } else if since.is_some() {
            self.compaction_pause.observe_ms(took);
        }
        if finished > 0 {
            self.compaction.observe_ms(since.unwrap_or(began).elapsed());
            self.compacted_at.set(time::unix().as_secs());
        }
        self.compacting_since.set(is_compacting.then_some(match finished {
            0 => since.unwrap_or(began),
            _ => began,
        }));
    }

    pub(super) fn write(&self, page: &mut Page) {
        let mut requests = page.histograms(
            "etcd_server_request_duration_seconds",
            "Response latency distribution in seconds for each type.",
        );
        for ((is_ok, kind), histogram) in self.requests.borrow().iter() {
            requests.histogram(&[("success", word(*is_ok)), ("type", kind)], histogram);
        }
        drop(requests);
        let mut applies = page.histograms(
            "etcd_server_apply_duration_seconds",
            "The latency distributions of v2 apply called by backend.",
        );
        for ((is_ok, op), histogram) in self.applies.borrow().iter() {
            let labels = [("op", *op), ("success", word(*is_ok)), ("version", "v3")];
            applies.histogram(&labels, histogram);
        }
        drop(applies);
        let mut ranges = page.histograms(
            "etcd_server_range_duration_seconds",
            "The latency distributions of txn.Range",
        );
        for (is_ok, histogram) in [false, true].into_iter().zip(&self.ranges) {
            if histogram.read().count > 0 {
                ranges.histogram(&[("success", word(is_ok))], histogram);
            }
        }
        drop(ranges);
        page.counter(
            "etcd_server_slow_apply_total",
            "The total number of slow apply requests (likely overloaded from slow disk).",
            self.slow_applies.get(),
        );
        page.counter(
            "etcd_server_learner_promote_successes",
            "The total number of successful learner promotions while this member is leader.",
            self.promotions.get(),
        );
        let mut failed = page.counters(
            "etcd_server_learner_promote_failures",
            "The total number of failed learner promotions (likely learner not ready) while this \
             member is leader.",
        );
        for (reason, count) in self.failed_promotions.borrow().iter() {
            failed.sample(&[("Reason", reason)], *count as f64);
        }
        drop(failed);
        page.gauge(
            "etcd_debugging_mvcc_db_compaction_last",
            "The unix time of the last db compaction. Resets to 0 on start.",
            self.compacted_at.get() as f64,
        );
        let mut show = |name, help, histogram| page.histogram(name, help, histogram);
        show(
            "etcd_mvcc_hash_duration_seconds",
            "The latency distribution of storage hash operation.",
            &self.hashes,
        );
        show(
            "etcd_mvcc_hash_rev_duration_seconds",
            "The latency distribution of storage hash by revision operation.",
            &self.hashes_of_revision,
        );
        show(
            "etcd_debugging_mvcc_db_compaction_total_duration_milliseconds",
            "Bucketed histogram of db compaction total duration.",
            &self.compaction,
        );
        show(
            "etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds",
            "Bucketed histogram of db compaction pause duration.",
            &self.compaction_pause,
        );
        show(
            "etcd_debugging_mvcc_index_compaction_pause_duration_milliseconds",
            "Bucketed histogram of index compaction pause duration.",
            &self.index_pause,
        );
    }
}

fn word(is_ok: bool) -> &'static str {
    if is_ok { "true" } else { "false" }
}

#[cfg(test)]
mod tests {
    use norn_proto::etcdserverpb::{
        Compare, PutRequest, RangeRequest, RequestOp, TxnRequest, request_op::Request,
    };
    use prost::Message;

    use super::*;

    #[test]
    fn transactions_that_only_read() {
        let op = |request| RequestOp { request: Some(request) };
        let read = op(Request::RequestRange(RangeRequest::default()));
        let put = op(Request::RequestPut(PutRequest::default()));
        let txn = |success: &[&RequestOp], failure: &[&RequestOp]| TxnRequest {
            compare: vec![Compare { key: "k".into(), ..Compare::default() }],
            success: success.iter().map(|op| (*op).clone()).collect(),
            failure: failure.iter().map(|op| (*op).clone()).collect(),
        };
        let nested = |inner| op(Request::RequestTxn(inner));
        let reads = |txn: TxnRequest| is_read_only(&txn.encode_to_vec(), 0);
        assert!(reads(txn(&[], &[])));
        assert!(reads(txn(&[&read, &read], &[&read])));
        assert!(reads(txn(&[&nested(txn(&[&read], &[]))], &[])));
        assert!(!reads(txn(&[&read], &[&put])));
        assert!(!reads(txn(&[&nested(txn(&[&read, &put], &[]))], &[])));
    }
}
