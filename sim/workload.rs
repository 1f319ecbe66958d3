//! What clients ask for, as etcd's requests, and what its answers mean.

use bytes::Bytes;
use norn_node::{Error, Method};
use norn_proto::etcdserverpb as pb;
use prost::Message;

use crate::check::watch::Span;
use crate::history::{Answer, Ask, Outcome};
use crate::options::Options;
use crate::rng::{Rng, mix};

/// One client: asks, waits for the answer or the deadline, thinks, asks again.
pub struct Client {
    rng: Rng,
    number: usize,
    asked: u64,
    /// The member it prefers; `None`: any.
    pub sticks_to: Option<usize>,
    /// Last value read or written per key, for compare-and-put.
    seen: Vec<Option<Bytes>>,
    lease: Option<i64>,
    pub revision_seen: i64,
    /// The revision of its last deletion.
    deleted_at: i64,
}

impl Client {
    pub fn new(number: usize, options: &Options, mut rng: Rng) -> Client {
        let node = rng.below(options.nodes as u64) as usize;
        let sticks_to = rng.permille(500).then_some(node);
        let seen = vec![None; options.keys as usize];
        Client {
            rng,
            number,
            asked: 0,
            sticks_to,
            seen,
            lease: None,
            revision_seen: 1,
            deleted_at: 0,
        }
    }

    pub fn think_us(&mut self, options: &Options) -> u64 {
        self.rng.between(options.think_us / 4, options.think_us * 2)
    }

    pub fn choose_node(&mut self, options: &Options) -> usize {
        let any = self.rng.below(options.nodes as u64) as usize;
        self.sticks_to.unwrap_or(any)
    }

    pub fn next(&mut self, options: &Options) -> Ask {
        self.asked += 1;
        let sum: u64 = options.weights.iter().sum();
        let mut at = self.rng.below(sum);
        let mut kind = 0;
        while at >= options.weights[kind] {
            at -= options.weights[kind];
            kind += 1;
        }
        let number = self.rng.below(options.keys) as usize;
        let key = Bytes::from(format!("k{number}"));
        let mut value = format!("c{}-{}", self.number, self.asked).into_bytes();
        let pad = self.rng.below(options.value_bytes) as usize;
        value.resize(value.len() + pad, b'.');
        let value = Bytes::from(value);
        match kind {
            0 => Ask::Put { key, value, lease: 0 },
            1 => Ask::Get { key, serializable: false },
            2 => Ask::Delete { key },
            3 => Ask::Swap { key, expect: self.seen[number].clone(), value },
            4 => {
                let at_old = self.rng.permille(400);
                let back = self.rng.below(20).cast_signed();
                let revision = if at_old { (self.revision_seen - back).max(1) } else { 0 };
                Ask::Range { revision, serializable: false }
            }
            // (Keys that may vanish by themselves have names of their own: registers stay registers.)
            5 => self.next_lease(Bytes::from(format!("l{number}")), value),
            6 => {
                let back = self.rng.below(30).cast_signed();
                // Where a deletion is, compaction has a choice to make.
                if self.deleted_at > 0 && mix(self.asked) % 2 == 0 {
                    return Ask::Compact { revision: self.deleted_at };
                }
                Ask::Compact { revision: (self.revision_seen - back).max(1) }
            }
            _ if self.rng.permille(500) => Ask::Get { key, serializable: true },
            _ => Ask::Range { revision: 0, serializable: true },
        }
    }

    fn next_lease(&mut self, key: Bytes, value: Bytes) -> Ask {
        match (self.lease, self.rng.below(10)) {
            (_, 9) => Ask::Put { key, value, lease: 0 },
            (Some(lease), 0..5) => Ask::Put { key, value, lease },
            (Some(id), 5..8) => Ask::KeepAlive { id },
            (Some(id), 8) => {
                self.lease = None;
                Ask::Revoke { id }
            }
            _ => {
                let id = (self.number as u64 * 1_000_000 + self.asked + 1).cast_signed();
                self.lease = Some(id);
                let ttl = self.rng.between(1, 8).cast_signed();
                Ask::Grant { id, ttl }
            }
        }
    }

    /// What the answer teaches the client.
    pub fn learn(&mut self, ask: &Ask, outcome: &Outcome) {
        let Outcome::Ok { revision, answer } = outcome else {
            if matches!(outcome, Outcome::Refused(_)) {
                self.lease = None;
            }
            return;
        };
        self.revision_seen = self.revision_seen.max(*revision);
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

pub fn put(key: &Bytes, value: &Bytes, lease: i64) -> pb::PutRequest {
    pb::PutRequest { key: key.clone(), value: value.clone(), lease, ..Default::default() }
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
    use pb::compare::{CompareResult, CompareTarget, TargetUnion};
    let (target, union) = match expect {
        Some(value) => (CompareTarget::Value, TargetUnion::Value(value.clone())),
        None => (CompareTarget::Version, TargetUnion::Version(0)),
    };
    let compare = pb::Compare {
        result: CompareResult::Equal.into(),
        target: target.into(),
        key: key.clone(),
        target_union: Some(union),
        ..Default::default()
    };
    let put = pb::request_op::Request::RequestPut(put(key, value, 0));
    let success = vec![pb::RequestOp { request: Some(put) }];
    pb::TxnRequest { compare: vec![compare], success, failure: vec![] }.encode_to_vec()
}

pub fn outcome(ask: &Ask, result: Result<Bytes, Error>) -> Outcome {
    match result {
        Ok(body) => answer(ask, body),
        // Only what the state itself refused is sure not to happen later.
        Err(
            error @ (Error::LeaseNotFound
            | Error::LeaseExists
            | Error::Compacted
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
