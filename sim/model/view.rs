//! The state at a revision, and what one request makes of it: ranges, puts, deletes and transactions by etcd's rules.

use std::collections::BTreeMap;

use bytes::Bytes;
use norn_proto::etcdserverpb as pb;
use norn_proto::mvccpb::KeyValue;
use pb::compare::{CompareResult, CompareTarget, TargetUnion};
use pb::request_op::Request;
use pb::response_op::Response;

use super::Model;

/// Why a request changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    LeaseNotFound,
    Compacted,
    Future,
}

pub struct View<'a> {
    model: &'a Model,
    base: i64,
    /// What the request has written so far.
    written: BTreeMap<Bytes, Option<KeyValue>>,
    /// The same, as events, in order.
    pub changes: Vec<KeyValue>,
    /// Whether leases and revisions are looked at, too; what was not refused then is not refused now.
    may_refuse: bool,
}

/// Keys in a request's range, which has no end for one key, and 0 for all that follow.
pub fn contains(key: &[u8], end: &[u8], at: &[u8]) -> bool {
    match end {
        [] => at == key,
        [0] => at >= key,
        _ => at >= key && at < end,
    }
}

impl<'a> View<'a> {
    /// As the next request of the log finds it.
    pub fn now(model: &'a Model) -> View<'a> {
        View { may_refuse: true, ..View::at(model, model.revision) }
    }

    /// As it once was, for a request that was not refused then.
    pub fn at(model: &'a Model, base: i64) -> View<'a> {
        let (written, changes) = (BTreeMap::new(), Vec::new());
        View { model, base, written, changes, may_refuse: false }
    }

    fn get(&self, key: &Bytes) -> Option<KeyValue> {
        match self.written.get(key) {
            Some(written) => written.clone(),
            None => self.model.get_at(key, self.base),
        }
    }

    fn all(&self, key: &[u8], end: &[u8]) -> Vec<KeyValue> {
        let before = self.model.in_range(key, end, self.base);
        let mut found: BTreeMap<Bytes, KeyValue> =
            before.into_iter().map(|kv| (kv.key.clone(), kv)).collect();
        for (name, kv) in self.written.iter().filter(|(name, _)| contains(key, end, name)) {
            match kv {
                Some(kv) => found.insert(name.clone(), kv.clone()),
                None => found.remove(name),
            };
        }
        found.into_values().collect()
    }

    /// A range with limit, a last creation, order by key, creation or modification, keys or count only: what the workload asks for.
    pub fn range(&self, r: &pb::RangeRequest) -> pb::RangeResponse {
        let mut kvs = match r.revision {
            0 => self.all(&r.key, &r.range_end),
            at => self.model.in_range(&r.key, &r.range_end, at),
        };
        let count = kvs.len() as i64;
        if r.count_only {
            return pb::RangeResponse { count, ..Default::default() };
        }
        // (The count is that of the range, whatever is left out of it.)
        kvs.retain(|kv| r.max_create_revision == 0 || kv.create_revision <= r.max_create_revision);
        match pb::range_request::SortTarget::try_from(r.sort_target) {
            Ok(pb::range_request::SortTarget::Mod) => kvs.sort_by_key(|kv| kv.mod_revision),
            Ok(pb::range_request::SortTarget::Create) => kvs.sort_by_key(|kv| kv.create_revision),
            _ => {}
        }
        if r.sort_order == i32::from(pb::range_request::SortOrder::Descend) {
            kvs.reverse();
        }
        let limit = usize::try_from(r.limit).unwrap_or(0);
        let more = limit > 0 && kvs.len() > limit;
        if more {
            kvs.truncate(limit);
        }
        if r.keys_only {
            for kv in &mut kvs {
                (kv.value, kv.lease) = (Bytes::new(), 0);
            }
        }
        pb::RangeResponse { header: None, kvs, more, count }
    }

    pub fn put(&mut self, r: &pb::PutRequest) -> Result<pb::PutResponse, Refusal> {
        self.may_put(r)?;
        let revision = self.base + 1;
        let old = self.get(&r.key);
        let kv = KeyValue {
            key: r.key.clone(),
            create_revision: old.as_ref().map_or(revision, |kv| kv.create_revision),
            mod_revision: revision,
            version: old.as_ref().map_or(1, |kv| kv.version + 1),
            value: r.value.clone(),
            lease: r.lease,
        };
        self.written.insert(r.key.clone(), Some(kv.clone()));
        self.changes.push(kv);
        Ok(pb::PutResponse { header: None, prev_kv: old.filter(|_| r.prev_kv) })
    }

    pub fn delete(&mut self, r: &pb::DeleteRangeRequest) -> pb::DeleteRangeResponse {
        let gone = self.all(&r.key, &r.range_end);
        for kv in &gone {
            self.written.insert(kv.key.clone(), None);
            self.changes.push(KeyValue {
                key: kv.key.clone(),
                mod_revision: self.base + 1,
                ..Default::default()
            });
        }
        let deleted = gone.len() as i64;
        let prev_kvs = if r.prev_kv { gone } else { Vec::new() };
        pb::DeleteRangeResponse { header: None, deleted, prev_kvs }
    }

    /// All of it or nothing. Every compare, nested ones included, sees the state before the transaction.
    pub fn txn(&mut self, r: &pb::TxnRequest) -> Result<pb::TxnResponse, Refusal> {
        let mut held = Vec::new();
        self.decide(r, &mut held);
        self.may_txn(r, &mut held.iter())?;
        Ok(self.run(r, &mut held.into_iter()))
    }

    /// The compares of this and of the nested transactions on the chosen path, in order of execution.
    fn decide(&self, r: &pb::TxnRequest, held: &mut Vec<bool>) {
        let holds = r.compare.iter().all(|c| self.holds(c));
        held.push(holds);
        for op in if holds { &r.success } else { &r.failure } {
            if let Some(Request::RequestTxn(inner)) = &op.request {
                self.decide(inner, held);
            }
        }
    }

    fn may_put(&self, r: &pb::PutRequest) -> Result<(), Refusal> {
        match r.lease == 0 || !self.may_refuse || self.model.leases.contains_key(&r.lease) {
            true => Ok(()),
            false => Err(Refusal::LeaseNotFound),
        }
    }

    fn may_range(&self, r: &pb::RangeRequest) -> Result<(), Refusal> {
        match r.revision {
            at if at > self.base && self.may_refuse => Err(Refusal::Future),
            at if at > 0 && at < self.model.compacted && self.may_refuse => Err(Refusal::Compacted),
            _ => Ok(()),
        }
    }

    fn may_txn<'h>(
        &self,
        r: &pb::TxnRequest,
        held: &mut impl Iterator<Item = &'h bool>,
    ) -> Result<(), Refusal> {
        let holds = *held.next().expect("one for each transaction");
        for op in if holds { &r.success } else { &r.failure } {
            match &op.request {
                Some(Request::RequestRange(r)) => self.may_range(r)?,
                Some(Request::RequestPut(put)) => self.may_put(put)?,
                Some(Request::RequestTxn(inner)) => self.may_txn(inner, held)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn run(
        &mut self,
        r: &pb::TxnRequest,
        held: &mut impl Iterator<Item = bool>,
    ) -> pb::TxnResponse {
        let succeeded = held.next().expect("one for each transaction");
        let mut responses = Vec::new();
        for op in if succeeded { &r.success } else { &r.failure } {
            let response = match op.request.as_ref().expect("the workload leaves none empty") {
                Request::RequestRange(range) => Response::ResponseRange(self.range(range)),
                Request::RequestPut(put) => {
                    Response::ResponsePut(self.put(put).expect("it was looked at before"))
                }
                Request::RequestDeleteRange(d) => Response::ResponseDeleteRange(self.delete(d)),
                Request::RequestTxn(inner) => Response::ResponseTxn(self.run(inner, held)),
            };
            responses.push(pb::ResponseOp { response: Some(response) });
        }
        pb::TxnResponse { header: None, succeeded, responses }
    }

    fn holds(&self, c: &pb::Compare) -> bool {
        if c.range_end.is_empty() {
            return holds(c, self.model.get_at(&c.key, self.base).as_ref());
        }
        let all = self.model.in_range(&c.key, &c.range_end, self.base);
        if all.is_empty() { holds(c, None) } else { all.iter().all(|kv| holds(c, Some(kv))) }
    }
}

fn holds(c: &pb::Compare, kv: Option<&KeyValue>) -> bool {
    let number = |stored: i64, given: i64| stored.cmp(&given);
    let order = match (&c.target_union, CompareTarget::try_from(c.target)) {
        (Some(TargetUnion::Value(given)), Ok(CompareTarget::Value)) => match kv {
            Some(kv) => kv.value.cmp(given),
            None => return false,
        },
        (Some(TargetUnion::Version(n)), Ok(CompareTarget::Version)) => {
            number(kv.map_or(0, |kv| kv.version), *n)
        }
        (Some(TargetUnion::CreateRevision(n)), Ok(CompareTarget::Create)) => {
            number(kv.map_or(0, |kv| kv.create_revision), *n)
        }
        (Some(TargetUnion::ModRevision(n)), Ok(CompareTarget::Mod)) => {
            number(kv.map_or(0, |kv| kv.mod_revision), *n)
        }
        _ => panic!("a compare that the workload does not make: {c:?}"),
    };
    match c.result() {
        CompareResult::Equal => order.is_eq(),
        CompareResult::NotEqual => order.is_ne(),
        CompareResult::Greater => order.is_gt(),
        CompareResult::Less => order.is_lt(),
    }
}
