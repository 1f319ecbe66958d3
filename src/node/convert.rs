//! Requests of the wire into the key space's own words, and its results into reply bytes. The gate: what passes has
//! been checked, and inside nothing is checked again.

use bytes::Bytes;
use norn_mvcc as mvcc;
use norn_proto::etcdserverpb as pb;
use pb::request_op::Request as OpRequest;

use crate::Error;
use crate::wire::{Header, Writer};

pub(crate) fn range_request(r: &pb::RangeRequest) -> Result<mvcc::RangeRequest, Error> {
    if r.key.is_empty() {
        return Err(Error::EmptyKey);
    }
    let sort_order = match pb::range_request::SortOrder::try_from(r.sort_order) {
        Ok(pb::range_request::SortOrder::None) => mvcc::SortOrder::None,
        Ok(pb::range_request::SortOrder::Ascend) => mvcc::SortOrder::Ascend,
        Ok(pb::range_request::SortOrder::Descend) => mvcc::SortOrder::Descend,
        Err(_) => return Err(Error::InvalidSortOption),
    };
    let sort_target = match pb::range_request::SortTarget::try_from(r.sort_target) {
        Ok(pb::range_request::SortTarget::Key) => mvcc::SortTarget::Key,
        Ok(pb::range_request::SortTarget::Version) => mvcc::SortTarget::Version,
        Ok(pb::range_request::SortTarget::Create) => mvcc::SortTarget::Create,
        Ok(pb::range_request::SortTarget::Mod) => mvcc::SortTarget::Mod,
        Ok(pb::range_request::SortTarget::Value) => mvcc::SortTarget::Value,
        Err(_) => return Err(Error::InvalidSortOption),
    };
    Ok(mvcc::RangeRequest {
        range: mvcc::KeyRange::new(r.key.clone(), r.range_end.clone()),
        revision: r.revision,
        limit: r.limit,
        sort_order,
        sort_target,
        keys_only: r.keys_only,
        count_only: r.count_only,
        mod_revision: mvcc::Bounds { min: r.min_mod_revision, max: r.max_mod_revision },
        create_revision: mvcc::Bounds { min: r.min_create_revision, max: r.max_create_revision },
    })
}

pub(crate) fn put_request(r: &pb::PutRequest) -> mvcc::PutRequest {
    mvcc::PutRequest {
        key: r.key.clone(),
        value: r.value.clone(),
        lease: r.lease,
        prev_kv: r.prev_kv,
        ignore_value: r.ignore_value,
        ignore_lease: r.ignore_lease,
    }
}

pub(crate) fn delete_request(r: &pb::DeleteRangeRequest) -> mvcc::DeleteRequest {
    mvcc::DeleteRequest {
        range: mvcc::KeyRange::new(r.key.clone(), r.range_end.clone()),
        prev_kv: r.prev_kv,
    }
}

/// Nested transactions deeper than this are refused before anything recurses into them; etcd's operation budget
/// stops at most 128 levels.
pub(crate) const TXN_DEPTH_MAX: usize = 128;

pub(crate) fn txn_request(r: &pb::TxnRequest) -> Result<mvcc::TxnRequest, Error> {
    txn_at_depth(r, 0)
}

fn txn_at_depth(r: &pb::TxnRequest, depth: usize) -> Result<mvcc::TxnRequest, Error> {
    if depth > TXN_DEPTH_MAX {
        return Err(Error::TooManyOps);
    }
    let ops = |ops: &[pb::RequestOp]| -> Result<Vec<mvcc::Op>, Error> {
        ops.iter()
            .map(|op| {
                Ok(match &op.request {
                    None => mvcc::Op::Bad(mvcc::CheckError::KeyNotFound),
                    // (Refused when its turn comes: what is wrong before it wins.)
                    Some(OpRequest::RequestRange(r)) => match range_request(r) {
                        Ok(range) => mvcc::Op::Range(range),
                        Err(Error::InvalidSortOption) => {
                            mvcc::Op::Bad(mvcc::CheckError::InvalidSortOption)
                        }
                        Err(_) => mvcc::Op::Bad(mvcc::CheckError::EmptyKey),
                    },
                    Some(OpRequest::RequestPut(r)) => mvcc::Op::Put(put_request(r)),
                    Some(OpRequest::RequestDeleteRange(r)) => mvcc::Op::Delete(delete_request(r)),
                    Some(OpRequest::RequestTxn(r)) => mvcc::Op::Txn(txn_at_depth(r, depth + 1)?),
                })
            })
            .collect()
    };
    Ok(mvcc::TxnRequest {
        compare: r.compare.iter().map(compare).collect(),
        success: ops(&r.success)?,
        failure: ops(&r.failure)?,
    })
}

fn compare(c: &pb::Compare) -> mvcc::Compare {
    use pb::compare::{CompareResult, CompareTarget, TargetUnion};
    let op = match CompareResult::try_from(c.result) {
        Ok(CompareResult::Equal) => mvcc::CompareOp::Equal,
        Ok(CompareResult::Greater) => mvcc::CompareOp::Greater,
        Ok(CompareResult::Less) => mvcc::CompareOp::Less,
        Ok(CompareResult::NotEqual) => mvcc::CompareOp::NotEqual,
        Err(_) => mvcc::CompareOp::Unknown,
    };
    // The member of the union that belongs to the target is read; another one counts as absent.
    let union = &c.target_union;
    let number = |pick: fn(&TargetUnion) -> Option<i64>| union.as_ref().and_then(pick).unwrap_or(0);
    let target = match CompareTarget::try_from(c.target) {
        Ok(CompareTarget::Version) => mvcc::CompareTarget::Version(number(|u| match u {
            TargetUnion::Version(n) => Some(*n),
            _ => None,
        })),
        Ok(CompareTarget::Create) => mvcc::CompareTarget::Create(number(|u| match u {
            TargetUnion::CreateRevision(n) => Some(*n),
            _ => None,
        })),
        Ok(CompareTarget::Mod) => mvcc::CompareTarget::Mod(number(|u| match u {
            TargetUnion::ModRevision(n) => Some(*n),
            _ => None,
        })),
        Ok(CompareTarget::Lease) => mvcc::CompareTarget::Lease(number(|u| match u {
            TargetUnion::Lease(n) => Some(*n),
            _ => None,
        })),
        Ok(CompareTarget::Value) => mvcc::CompareTarget::Value(match union {
            Some(TargetUnion::Value(value)) => value.clone(),
            _ => Bytes::new(),
        }),
        Err(_) => mvcc::CompareTarget::Unknown,
    };
    mvcc::Compare { range: mvcc::KeyRange::new(c.key.clone(), c.range_end.clone()), op, target }
}

impl From<mvcc::CheckError> for Error {
    fn from(error: mvcc::CheckError) -> Error {
        match error {
            mvcc::CheckError::EmptyKey => Error::EmptyKey,
            mvcc::CheckError::KeyNotFound => Error::KeyNotFound,
            mvcc::CheckError::TooManyOps => Error::TooManyOps,
            mvcc::CheckError::DuplicateKey => Error::DuplicateKey,
            mvcc::CheckError::ValueProvided => Error::ValueProvided,
            mvcc::CheckError::LeaseProvided => Error::LeaseProvided,
            mvcc::CheckError::InvalidSortOption => Error::InvalidSortOption,
        }
    }
}

impl<V: std::fmt::Display> From<mvcc::Error<V>> for Error {
    fn from(error: mvcc::Error<V>) -> Error {
        match error {
            mvcc::Error::Compacted => Error::Compacted,
            mvcc::Error::Future => Error::FutureRevision,
            mvcc::Error::Values(error) => Error::Storage(error.to_string()),
            mvcc::Error::Damaged(error) => Error::Storage(error.to_string()),
        }
    }
}

impl<V: std::fmt::Display> From<mvcc::ApplyError<V>> for Error {
    fn from(error: mvcc::ApplyError<V>) -> Error {
        match error {
            mvcc::ApplyError::KeyNotFound => Error::KeyNotFound,
            mvcc::ApplyError::LeaseNotFound => Error::LeaseNotFound,
            mvcc::ApplyError::Read(error) => error.into(),
        }
    }
}

/// Headers inside a transaction carry nothing but the revision.
fn bare(revision: i64) -> Header {
    Header { revision, ..Header::default() }
}

pub(crate) fn range_reply(header: &Header, result: &mvcc::RangeResult) -> Bytes {
    let bytes: usize = result.kvs.iter().map(|kv| kv.len() + 8).sum();
    let mut w = Writer::with_capacity(bytes + 64);
    put_range(&mut w, header, result);
    w.finish()
}

fn put_range(w: &mut Writer, header: &Header, result: &mvcc::RangeResult) {
    w.header(header);
    for kv in &result.kvs {
        w.message(2, kv);
    }
    w.bool(3, result.more);
    w.int(4, result.count);
}

/// The chunks of a RangeStream but the last: only keys and values, one message deeper.
pub(crate) fn range_chunk(kvs: &[Bytes]) -> Bytes {
    let bytes: usize = kvs.iter().map(|kv| kv.len() + 8).sum();
    let mut inner = Writer::with_capacity(bytes);
    for kv in kvs {
        inner.message(2, kv);
    }
    let inner = inner.finish();
    let mut w = Writer::with_capacity(inner.len() + 8);
    w.message(1, &inner);
    w.finish()
}

pub(crate) fn range_last_chunk(header: &Header, result: &mvcc::RangeResult) -> Bytes {
    let inner = range_reply(header, result);
    let mut w = Writer::with_capacity(inner.len() + 8);
    w.message(1, &inner);
    w.finish()
}

pub(crate) fn put_reply(header: &Header, result: &mvcc::PutResult) -> Bytes {
    let prev = result.prev_kv.as_ref().map_or(0, Bytes::len);
    let mut w = Writer::with_capacity(prev + 64);
    put_put(&mut w, header, result);
    w.finish()
}

fn put_put(w: &mut Writer, header: &Header, result: &mvcc::PutResult) {
    w.header(header);
    if let Some(prev) = &result.prev_kv {
        w.message(2, prev);
    }
}

pub(crate) fn delete_reply(header: &Header, result: &mvcc::DeleteResult) -> Bytes {
    let mut w = Writer::with_capacity(64);
    put_delete(&mut w, header, result);
    w.finish()
}

fn put_delete(w: &mut Writer, header: &Header, result: &mvcc::DeleteResult) {
    w.header(header);
    w.int(2, result.deleted);
    for kv in &result.prev_kvs {
        w.message(3, kv);
    }
}

pub(crate) fn txn_reply(header: &Header, result: &mvcc::TxnResult) -> Bytes {
    let mut w = Writer::with_capacity(64 + 64 * result.responses.len());
    put_txn(&mut w, header, result);
    w.finish()
}

fn put_txn(w: &mut Writer, header: &Header, result: &mvcc::TxnResult) {
    w.header(header);
    w.bool(2, result.succeeded);
    for response in &result.responses {
        w.nested(3, |w| match response {
            mvcc::OpResult::Range(r) => w.nested(1, |w| put_range(w, &bare(r.revision), r)),
            mvcc::OpResult::Put(r) => w.nested(2, |w| put_put(w, &bare(r.revision), r)),
            mvcc::OpResult::Delete(r) => w.nested(3, |w| put_delete(w, &bare(r.revision), r)),
            mvcc::OpResult::Txn(r) => w.nested(4, |w| put_txn(w, &bare(0), r)),
        });
    }
}

/// A reply that is nothing but its header.
pub(crate) fn header_reply(header: &Header) -> Bytes {
    let mut w = Writer::with_capacity(48);
    w.header(header);
    w.finish()
}
