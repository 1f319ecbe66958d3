//! Short forms of the requests; everything else by struct update.

use bytes::Bytes;

use crate::pb::compare::{CompareResult, CompareTarget, TargetUnion};
use crate::pb::request_op::Request;
use crate::pb::{
    Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
    WatchCreateRequest,
};

pub fn bytes(from: impl AsRef<[u8]>) -> Bytes {
    Bytes::copy_from_slice(from.as_ref())
}

/// The `range_end` that makes `key` a prefix.
pub fn prefix_end(key: impl AsRef<[u8]>) -> Bytes {
    let mut end = key.as_ref().to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end.into();
        }
    }
    Bytes::from_static(b"\0")
}

pub fn put(key: &str, value: &str) -> PutRequest {
    PutRequest { key: bytes(key), value: bytes(value), ..Default::default() }
}

pub fn get(key: &str) -> RangeRequest {
    RangeRequest { key: bytes(key), ..Default::default() }
}

pub fn span(key: &str, end: &str) -> RangeRequest {
    RangeRequest { key: bytes(key), range_end: bytes(end), ..Default::default() }
}

pub fn prefix(key: &str) -> RangeRequest {
    RangeRequest { key: bytes(key), range_end: prefix_end(key), ..Default::default() }
}

pub fn all() -> RangeRequest {
    span("\0", "\0")
}

pub fn del(key: &str) -> DeleteRangeRequest {
    DeleteRangeRequest { key: bytes(key), ..Default::default() }
}

pub fn del_prefix(key: &str) -> DeleteRangeRequest {
    DeleteRangeRequest { key: bytes(key), range_end: prefix_end(key), ..Default::default() }
}

pub fn watch(key: &str) -> WatchCreateRequest {
    WatchCreateRequest { key: bytes(key), ..Default::default() }
}

pub fn watch_prefix(key: &str) -> WatchCreateRequest {
    WatchCreateRequest { key: bytes(key), range_end: prefix_end(key), ..Default::default() }
}

pub fn op_put(request: PutRequest) -> RequestOp {
    RequestOp { request: Some(Request::RequestPut(request)) }
}

pub fn op_get(request: RangeRequest) -> RequestOp {
    RequestOp { request: Some(Request::RequestRange(request)) }
}

pub fn op_del(request: DeleteRangeRequest) -> RequestOp {
    RequestOp { request: Some(Request::RequestDeleteRange(request)) }
}

pub fn op_txn(request: TxnRequest) -> RequestOp {
    RequestOp { request: Some(Request::RequestTxn(request)) }
}

pub fn compare(key: &str, result: CompareResult, with: TargetUnion) -> Compare {
    let target = match with {
        TargetUnion::Version(_) => CompareTarget::Version,
        TargetUnion::CreateRevision(_) => CompareTarget::Create,
        TargetUnion::ModRevision(_) => CompareTarget::Mod,
        TargetUnion::Value(_) => CompareTarget::Value,
        TargetUnion::Lease(_) => CompareTarget::Lease,
    };
    Compare {
        result: result.into(),
        target: target.into(),
        key: bytes(key),
        range_end: Bytes::new(),
        target_union: Some(with),
    }
}

pub fn txn(compare: Vec<Compare>, success: Vec<RequestOp>, failure: Vec<RequestOp>) -> TxnRequest {
    TxnRequest { compare, success, failure }
}
