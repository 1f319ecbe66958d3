//! What is asked as etcd's requests, and what etcd's answers mean.

use bytes::Bytes;
use norn_node::{Error, Method};
use norn_proto::etcdserverpb as pb;
use pb::compare::{CompareResult, CompareTarget, TargetUnion};
use prost::Message;

use crate::check::watch::Span;
use crate::history::{Answer, Ask, Outcome};

pub fn put(key: &Bytes, value: &Bytes, lease: i64) -> pb::PutRequest {
    pb::PutRequest { key: key.clone(), value: value.clone(), lease, ..Default::default() }
}

/// Holds as long as the key is what it was at this revision; 0: as long as there is none.
pub fn unmodified(key: &Bytes, revision: i64) -> pb::Compare {
    equals(key, TargetUnion::ModRevision(revision))
}

/// Holds as long as this is what it is of a key.
pub fn equals(key: &Bytes, union: TargetUnion) -> pb::Compare {
    let target = match union {
        TargetUnion::Version(_) => CompareTarget::Version,
        TargetUnion::CreateRevision(_) => CompareTarget::Create,
        TargetUnion::ModRevision(_) => CompareTarget::Mod,
        TargetUnion::Value(_) => CompareTarget::Value,
        TargetUnion::Lease(_) => CompareTarget::Lease,
    };
    pb::Compare {
        result: CompareResult::Equal.into(),
        target: target.into(),
        key: key.clone(),
        target_union: Some(union),
        ..Default::default()
    }
}

pub fn txn(
    compare: Vec<pb::Compare>,
    success: Vec<pb::request_op::Request>,
    failure: Vec<pb::request_op::Request>,
) -> pb::TxnRequest {
    let ops = |requests: Vec<_>| {
        requests.into_iter().map(|request| pb::RequestOp { request: Some(request) }).collect()
    };
    pb::TxnRequest { compare, success: ops(success), failure: ops(failure) }
}

/// Creates a watch.
pub fn watch(span: &Span, progress_notify: bool) -> Bytes {
    use pb::watch_create_request::FilterType;
    let all = Bytes::from_static(&[0]);
    let filters =
        [(span.no_put, FilterType::Noput), (span.no_delete, FilterType::Nodelete)].into_iter();
    let request = pb::WatchCreateRequest {
        key: span.key.as_ref().unwrap_or(&all).clone(),
        range_end: if span.key.is_none() { all } else { Bytes::new() },
        start_revision: span.start,
        progress_notify,
        filters: filters.filter(|(on, _)| *on).map(|(_, filter)| filter.into()).collect(),
        prev_kv: true,
        ..Default::default()
    };
    let union = pb::watch_request::RequestUnion::CreateRequest(request);
    pb::WatchRequest { request_union: Some(union) }.encode_to_vec().into()
}

/// Asks how far the watches of a stream are.
pub fn watch_progress() -> Bytes {
    let request = pb::watch_request::RequestUnion::ProgressRequest(Default::default());
    pb::WatchRequest { request_union: Some(request) }.encode_to_vec().into()
}

pub fn encode(ask: &Ask) -> (Method, Bytes) {
    let (method, body) = match ask {
        Ask::Put { key, value, lease } => (Method::Put, put(key, value, *lease).encode_to_vec()),
        Ask::Get { key, serializable } => {
            let serializable = *serializable;
            let r = pb::RangeRequest { key: key.clone(), serializable, ..Default::default() };
            (Method::Range, r.encode_to_vec())
        }
        Ask::Delete { key } => {
            let r = pb::DeleteRangeRequest { key: key.clone(), ..Default::default() };
            (Method::DeleteRange, r.encode_to_vec())
        }
        Ask::Swap { key, expect, value } => (Method::Txn, swap(key, expect, value)),
        Ask::Range { revision, serializable } => {
            let r = pb::RangeRequest {
                key: Bytes::from_static(&[0]),
                range_end: Bytes::from_static(&[0]),
                revision: *revision,
                serializable: *serializable,
                ..Default::default()
            };
            (Method::Range, r.encode_to_vec())
        }
        Ask::Query(r) => (Method::Range, r.encode_to_vec()),
        Ask::Txn(r) => (Method::Txn, r.encode_to_vec()),
        Ask::DeleteRange(r) => (Method::DeleteRange, r.encode_to_vec()),
        Ask::Grant { id, ttl } => {
            (Method::LeaseGrant, pb::LeaseGrantRequest { id: *id, ttl: *ttl }.encode_to_vec())
        }
        Ask::KeepAlive { id } => {
            (Method::LeaseKeepAlive, pb::LeaseKeepAliveRequest { id: *id }.encode_to_vec())
        }
        Ask::Revoke { id } => {
            (Method::LeaseRevoke, pb::LeaseRevokeRequest { id: *id }.encode_to_vec())
        }
        Ask::Compact { revision } => {
            let r = pb::CompactionRequest { revision: *revision, physical: false };
            (Method::Compact, r.encode_to_vec())
        }
    };
    (method, body.into())
}

fn swap(key: &Bytes, expect: &Option<Bytes>, value: &Bytes) -> Vec<u8> {
    let union = match expect {
        Some(value) => TargetUnion::Value(value.clone()),
        None => TargetUnion::Version(0),
    };
    let put = pb::request_op::Request::RequestPut(put(key, value, 0));
    txn(vec![equals(key, union)], vec![put], vec![]).encode_to_vec()
}

pub fn outcome(ask: &Ask, result: Result<Bytes, Error>) -> Outcome {
    match result {
        Ok(body) => answer(ask, body),
        // Only what the state itself refused is sure not to happen later.
        Err(
            error @ (Error::LeaseNotFound
            | Error::LeaseExists
            | Error::Compacted
            | Error::DuplicateKey
            | Error::FutureRevision),
        ) => Outcome::Refused(error.to_string()),
        Err(_) => Outcome::Unknown,
    }
}

fn answer(ask: &Ask, body: Bytes) -> Outcome {
    fn read<M: Message + Default>(body: Bytes) -> M {
        M::decode(body).expect("a node's reply is the message it should be")
    }
    let (header, answer) = match ask {
        Ask::Put { .. } => (read::<pb::PutResponse>(body).header, Answer::Done),
        Ask::Get { .. } | Ask::Range { .. } => {
            let r = read::<pb::RangeResponse>(body);
            (r.header, Answer::Found(r.kvs))
        }
        Ask::Delete { .. } => {
            let r = read::<pb::DeleteRangeResponse>(body);
            (r.header, Answer::Deleted(r.deleted))
        }
        Ask::Swap { .. } => {
            let r = read::<pb::TxnResponse>(body);
            (r.header, Answer::Swapped(r.succeeded))
        }
        Ask::Query(_) => {
            let mut r = read::<pb::RangeResponse>(body);
            (r.header.take(), Answer::Listed(r))
        }
        Ask::Txn(_) => {
            let mut r = read::<pb::TxnResponse>(body);
            let header = r.header.take();
            behead(&mut r);
            (header, Answer::Txn(r))
        }
        Ask::DeleteRange(_) => {
            let mut r = read::<pb::DeleteRangeResponse>(body);
            (r.header.take(), Answer::Gone(r))
        }
        Ask::Grant { .. } => {
            let r = read::<pb::LeaseGrantResponse>(body);
            (r.header, Answer::Ttl(r.ttl))
        }
        Ask::KeepAlive { .. } => {
            let r = read::<pb::LeaseKeepAliveResponse>(body);
            (r.header, Answer::Ttl(r.ttl))
        }
        Ask::Revoke { .. } => (read::<pb::LeaseRevokeResponse>(body).header, Answer::Done),
        Ask::Compact { .. } => (read::<pb::CompactionResponse>(body).header, Answer::Done),
    };
    Outcome::Ok { revision: header.unwrap_or_default().revision, answer }
}

/// The headers inside a transaction are no subject here (`norn-diff` compares them with etcd's).
fn behead(r: &mut pb::TxnResponse) {
    use pb::response_op::Response;
    r.header = None;
    for op in &mut r.responses {
        match &mut op.response {
            Some(Response::ResponseRange(r)) => r.header = None,
            Some(Response::ResponsePut(r)) => r.header = None,
            Some(Response::ResponseDeleteRange(r)) => r.header = None,
            Some(Response::ResponseTxn(r)) => behead(r),
            None => {}
        }
    }
}
