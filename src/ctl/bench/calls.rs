//! Calls as bytes.

use norn_proto::etcdserverpb as pb;
use norn_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use norn_proto::etcdserverpb::request_op::Request;
use prost::Message as _;

use crate::options::Kind;
use crate::shared::Shared;

pub const PUT: &str = "/etcdserverpb.KV/Put";
pub const RANGE: &str = "/etcdserverpb.KV/Range";
const RANGE_STREAM: &str = "/etcdserverpb.KV/RangeStream";
pub const TXN: &str = "/etcdserverpb.KV/Txn";
pub const COMPACT: &str = "/etcdserverpb.KV/Compact";
pub const GRANT: &str = "/etcdserverpb.Lease/LeaseGrant";
pub const KEEP_ALIVE: &str = "/etcdserverpb.Lease/LeaseKeepAlive";
pub const WATCH: &str = "/etcdserverpb.Watch/Watch";
pub const MEMBER_ADD: &str = "/etcdserverpb.Cluster/MemberAdd";
pub const DEFRAGMENT: &str = "/etcdserverpb.Maintenance/Defragment";
pub const SNAPSHOT: &str = "/etcdserverpb.Maintenance/Snapshot";

/// `k` and the number, padded with zeros: order of keys is order of numbers.
pub fn key(index: u64, bytes: usize) -> Vec<u8> {
    format!("k{index:0width$}", width = bytes.saturating_sub(1)).into_bytes()
}

/// A bytes field of a protobuf message.
fn field(out: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    out.push(number << 3 | 2);
    prost::encoding::encode_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

pub fn put(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    out.clear();
    field(out, 1, key);
    field(out, 2, value);
}

pub fn encode(out: &mut Vec<u8>, message: &impl prost::Message) {
    out.clear();
    message.encode(out).expect("a Vec grows");
}

pub fn op_put(key: &[u8], value: &[u8]) -> pb::RequestOp {
    let put = pb::PutRequest {
        key: key.to_vec().into(),
        value: value.to_vec().into(),
        ..Default::default()
    };
    pb::RequestOp { request: Some(Request::RequestPut(put)) }
}

pub fn op_get(key: &[u8]) -> pb::RequestOp {
    let range = pb::RangeRequest { key: key.to_vec().into(), ..Default::default() };
    pb::RequestOp { request: Some(Request::RequestRange(range)) }
}

pub fn compare_mod(key: &[u8], result: CompareResult, revision: i64) -> pb::Compare {
    pb::Compare {
        result: result as i32,
        target: CompareTarget::Mod as i32,
        key: key.to_vec().into(),
        target_union: Some(TargetUnion::ModRevision(revision)),
        ..Default::default()
    }
}

/// The next call of a workload: its path, and its message in `out`.
pub fn next(shared: &Shared, out: &mut Vec<u8>) -> &'static str {
    let o = &shared.options;
    let key = shared.key(shared.random() % o.keys.max(1));
    let kind = match o.kind {
        Kind::Mixed if shared.random().is_multiple_of(4) => Kind::Put,
        Kind::Mixed => Kind::Range,
        kind => kind,
    };
    match kind {
        Kind::Put => {
            put(out, &key, &shared.value);
            PUT
        }
        Kind::Overwrite => {
            put(out, &shared.key(0), &shared.value);
            PUT
        }
        Kind::Txn => {
            let request = pb::TxnRequest {
                // (Which holds always.)
                compare: vec![compare_mod(&key, CompareResult::Greater, -1)],
                success: vec![op_put(&key, &shared.value)],
                failure: Vec::new(),
            };
            encode(out, &request);
            TXN
        }
        Kind::List | Kind::Stream => {
            let start = shared.random() % o.keys.saturating_sub(o.limit as u64).max(1);
            let request = pb::RangeRequest {
                key: shared.key(start).into(),
                range_end: vec![0].into(),
                limit: o.limit,
                serializable: o.serializable,
                count_only: o.count_only,
                keys_only: o.keys_only,
                ..Default::default()
            };
            encode(out, &request);
            if kind == Kind::Stream { RANGE_STREAM } else { RANGE }
        }
        Kind::Grant => {
            encode(out, &pb::LeaseGrantRequest { ttl: o.ttl, id: 0 });
            GRANT
        }
        Kind::Range | Kind::Mixed | Kind::Kube | Kind::KeepAlive | Kind::Watch => {
            out.clear();
            field(out, 1, &key);
            if o.serializable {
                out.extend_from_slice(&[7 << 3, 1]);
            }
            RANGE
        }
    }
}

pub fn watch(create: pb::WatchCreateRequest) -> Vec<u8> {
    let request_union = Some(pb::watch_request::RequestUnion::CreateRequest(create));
    pb::WatchRequest { request_union }.encode_to_vec()
}
