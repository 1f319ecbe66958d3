//! Requests of every shape over a few keys: transactions of several operations, nested ones, ranges of keys with limits and
//! orders, deletes of ranges.

use bytes::Bytes;
use norn_proto::etcdserverpb as pb;
use pb::compare::{CompareResult, CompareTarget, TargetUnion};
use pb::range_request::{SortOrder, SortTarget};
use pb::request_op::Request;

use super::Pen;
use crate::history::Ask;
use crate::rng::Rng;

const KEYS: u64 = 8;
const OPS_MAX: u64 = 4;
const DEPTH_MAX: u32 = 2;

pub(super) fn next(pen: &mut Pen<'_>) -> Ask {
    match pen.rng.below(10) {
        0 | 1 => {
            let revision = old_revision(pen, 300);
            let mut range = range(pen.rng, revision);
            range.serializable = pen.rng.permille(300);
            Ask::Query(range)
        }
        2 => Ask::DeleteRange(delete(pen.rng)),
        _ => {
            let mut values = 0;
            Ask::Txn(txn(pen, 0, &mut values))
        }
    }
}

fn key(rng: &mut Rng) -> Bytes {
    Bytes::from(format!("t{}", rng.below(KEYS)))
}

/// One key, some, or all of them.
fn span(rng: &mut Rng) -> (Bytes, Bytes) {
    match rng.below(4) {
        0 => (Bytes::from_static(b"t"), Bytes::from_static(b"u")),
        1 => (key(rng), key(rng)),
        _ => (key(rng), Bytes::new()),
    }
}

fn old_revision(pen: &mut Pen<'_>, permille: u64) -> i64 {
    let back = pen.rng.below(20).cast_signed();
    if pen.rng.permille(permille) { (pen.revision_seen - back).max(1) } else { 0 }
}

fn range(rng: &mut Rng, revision: i64) -> pb::RangeRequest {
    let (key, range_end) = span(rng);
    let order =
        *rng.pick(&[SortOrder::None, SortOrder::None, SortOrder::Ascend, SortOrder::Descend]);
    // (Order by nothing but with a target means something else, and is compared with etcd elsewhere.)
    let target = match order {
        SortOrder::None => SortTarget::Key,
        _ => *rng.pick(&[SortTarget::Key, SortTarget::Mod]),
    };
    // Keys of one transaction share a revision: only by key is their order certain.
    let target = if order == SortOrder::Descend { SortTarget::Key } else { target };
    pb::RangeRequest {
        key,
        range_end,
        limit: *rng.pick(&[0, 0, 1, 3]),
        revision,
        sort_order: order.into(),
        sort_target: target.into(),
        keys_only: rng.permille(100),
        count_only: rng.permille(100),
        ..Default::default()
    }
}

fn delete(rng: &mut Rng) -> pb::DeleteRangeRequest {
    let (key, range_end) = span(rng);
    pb::DeleteRangeRequest { key, range_end, prev_kv: rng.permille(500) }
}

fn compare(rng: &mut Rng, revision_seen: i64) -> pb::Compare {
    let (key, range_end) = span(rng);
    let near = (revision_seen - rng.below(20).cast_signed()).max(0);
    let (target, union) = match rng.below(4) {
        0 => (CompareTarget::Value, TargetUnion::Value(Bytes::from_static(b"c3"))),
        1 => (CompareTarget::Version, TargetUnion::Version(rng.below(3).cast_signed())),
        2 => (CompareTarget::Create, TargetUnion::CreateRevision(near)),
        _ => (CompareTarget::Mod, TargetUnion::ModRevision(near)),
    };
    let results = [
        CompareResult::Equal,
        CompareResult::NotEqual,
        CompareResult::Greater,
        CompareResult::Less,
    ];
    pb::Compare {
        result: (*rng.pick(&results)).into(),
        target: target.into(),
        key,
        range_end,
        target_union: Some(union),
    }
}

fn txn(pen: &mut Pen<'_>, depth: u32, values: &mut usize) -> pb::TxnRequest {
    let compares = pen.rng.below(3);
    let compare = (0..compares).map(|_| compare(pen.rng, pen.revision_seen)).collect();
    let success = branch(pen, depth, values);
    let failure = branch(pen, depth, values);
    pb::TxnRequest { compare, success, failure }
}

/// (Some of them put a key twice: they are refused whole.)
fn branch(pen: &mut Pen<'_>, depth: u32, values: &mut usize) -> Vec<pb::RequestOp> {
    let count = pen.rng.below(OPS_MAX + 1);
    (0..count).map(|_| pb::RequestOp { request: Some(op(pen, depth, values)) }).collect()
}

fn op(pen: &mut Pen<'_>, depth: u32, values: &mut usize) -> Request {
    match pen.rng.below(8) {
        0..4 => {
            *values += 1;
            let value = pen.nth_value(*values);
            let prev_kv = pen.rng.permille(300);
            let put = pb::PutRequest { key: key(pen.rng), value, prev_kv, ..Default::default() };
            Request::RequestPut(put)
        }
        4 => Request::RequestDeleteRange(delete(pen.rng)),
        5 if depth < DEPTH_MAX => Request::RequestTxn(txn(pen, depth + 1, values)),
        _ => {
            let revision = old_revision(pen, 100);
            Request::RequestRange(range(pen.rng, revision))
        }
    }
}
