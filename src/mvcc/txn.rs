//! Transactions: comparisons, then one of two lists of operations, in one revision.
//!
//! [`check_txn`] is the front door: everything that can be refused by looking at the request alone. [`TxnRequest::apply`]
//! and [`TxnRequest::read`] decide against the state. All comparisons of the tree, nested ones included, see the state
//! before the transaction; operations see what earlier operations did.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use bytes::Bytes;
use norn_planted::planted;

use crate::history::KeyAt;
use crate::{
    Change, Error, KeyRange, KeyValue, RangeRequest, RangeResult, Store, Values, WriteTxn,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompareOp {
    Equal,
    Greater,
    Less,
    NotEqual,
    /// A number outside the enum: the comparison holds, as in etcd.
    Unknown,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CompareTarget {
    Version(i64),
    Create(i64),
    Mod(i64),
    Value(Bytes),
    Lease(i64),
    /// A number outside the enum compares as equal.
    Unknown,
}

#[derive(Clone, Debug)]
pub struct Compare {
    pub range: KeyRange,
    pub op: CompareOp,
    pub target: CompareTarget,
}

#[derive(Clone, Debug, Default)]
pub struct PutRequest {
    pub key: Bytes,
    pub value: Bytes,
    /// 0 for none.
    pub lease: i64,
    pub prev_kv: bool,
    /// Keep the stored value; the key must exist.
    pub ignore_value: bool,
    /// Keep the stored lease; the key must exist.
    pub ignore_lease: bool,
}

#[derive(Clone, Debug)]
pub struct DeleteRequest {
    pub range: KeyRange,
    pub prev_kv: bool,
}

#[derive(Clone, Debug)]
pub enum Op {
    Range(RangeRequest),
    Put(PutRequest),
    Delete(DeleteRequest),
    Txn(TxnRequest),
    /// Refused at the front door for this reason, in its turn: nothing in it, or no such sort.
    Bad(CheckError),
}

#[derive(Clone, Debug, Default)]
pub struct TxnRequest {
    pub compare: Vec<Compare>,
    pub success: Vec<Op>,
    pub failure: Vec<Op>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PutResult {
    pub revision: i64,
    /// Encoded `KeyValue`.
    pub prev_kv: Option<Bytes>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeleteResult {
    pub revision: i64,
    pub deleted: i64,
    pub prev_kvs: Vec<Bytes>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpResult {
    Range(RangeResult),
    Put(PutResult),
    Delete(DeleteResult),
    Txn(TxnResult),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TxnResult {
    pub succeeded: bool,
    /// The transaction's own revision if it changed something, else the current one.
    pub revision: i64,
    pub responses: Vec<OpResult>,
}

/// What the front door refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckError {
    EmptyKey,
    /// An operation without content.
    KeyNotFound,
    TooManyOps,
    DuplicateKey,
    ValueProvided,
    LeaseProvided,
    InvalidSortOption,
}

/// What the state refuses; nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ApplyError<V> {
    /// `ignore_value` or `ignore_lease` of a key that does not exist.
    KeyNotFound,
    LeaseNotFound,
    Read(Error<V>),
}

impl<V> From<Error<V>> for ApplyError<V> {
    fn from(error: Error<V>) -> ApplyError<V> {
        ApplyError::Read(error)
    }
}

impl PutRequest {
    pub fn check(&self) -> Result<(), CheckError> {
        if self.key.is_empty() {
            return Err(CheckError::EmptyKey);
        }
        if self.ignore_value && !self.value.is_empty() {
            return Err(CheckError::ValueProvided);
        }
        if self.ignore_lease && self.lease != 0 {
            return Err(CheckError::LeaseProvided);
        }
        Ok(())
    }

    /// Whether the state allows this put.
    pub fn check_state<V>(
        &self,
        store: &Store,
        lease_exists: &dyn Fn(i64) -> bool,
    ) -> Result<(), ApplyError<V>> {
        if self.lease != 0 && !lease_exists(self.lease) && !planted!(PutWithoutLease) {
            return Err(ApplyError::LeaseNotFound);
        }
        if (self.ignore_value || self.ignore_lease) && store.index().live(&self.key).is_none() {
            return Err(ApplyError::KeyNotFound);
        }
        Ok(())
    }

    /// The state must allow it.
    pub fn apply<V: Values>(
        &self,
        txn: &mut WriteTxn<'_>,
        values: &V,
    ) -> Result<PutResult, Error<V::Error>> {
        let (mut value, mut lease) = (self.value.clone(), self.lease);
        let mut prev_kv = None;
        if self.prev_kv || self.ignore_value || self.ignore_lease {
            prev_kv = txn.live(values, &self.key).map_err(Error::Values)?;
        }
        if let (Some(prev), true) = (&prev_kv, self.ignore_value || self.ignore_lease) {
            let prev = KeyValue::decode(prev).map_err(Error::Damaged)?;
            if self.ignore_value {
                value = prev.value;
            }
            if self.ignore_lease {
                lease = prev.lease;
            }
        }
        txn.put(self.key.clone(), value, lease);
        Ok(PutResult { revision: txn.revision(), prev_kv: prev_kv.filter(|_| self.prev_kv) })
    }
}

impl DeleteRequest {
    pub fn apply<V: Values>(
        &self,
        txn: &mut WriteTxn<'_>,
        values: &V,
    ) -> Result<DeleteResult, Error<V::Error>> {
        let mut prev_kvs = Vec::new();
        if self.prev_kv {
            prev_kvs = txn.range(values, &RangeRequest::all_of(self.range.clone()))?.kvs;
        }
        let deleted = txn.delete_range(&self.range) as i64;
        Ok(DeleteResult { revision: txn.revision(), deleted, prev_kvs })
    }
}

impl TxnRequest {
    /// Only range operations, on both sides, and no nested transaction: served without the log.
    pub fn is_read_only(&self) -> bool {
        self.success.iter().chain(&self.failure).all(|op| matches!(op, Op::Range(_)))
    }

    /// Some put in it, nested ones included.
    pub fn has_put(&self) -> bool {
        self.success.iter().chain(&self.failure).any(|op| match op {
            Op::Put(_) => true,
            Op::Txn(txn) => txn.has_put(),
            _ => false,
        })
    }

    /// Runs a transaction that changes nothing.
    pub fn read<V: Values>(
        &self,
        store: &Store,
        values: &V,
    ) -> Result<TxnResult, ApplyError<V::Error>> {
        assert!(self.is_read_only(), "a transaction with writes goes through the log");
        let succeeded = holds(store, values, &self.compare)?;
        let path = Path { succeeded, nested: Vec::new() };
        self.check_state(&path, store, &|_| true)?;
        let mut responses = Vec::new();
        for op in self.ops(&path) {
            if let Op::Range(range) = op {
                responses.push(OpResult::Range(store.range(values, range)?));
            }
        }
        Ok(TxnResult { succeeded, revision: store.current(), responses })
    }

    /// Runs the transaction. `with_ranges` false leaves range operations out (their place is kept by an empty
    /// result): a member that has no caller to answer need not read.
    pub fn apply<V: Values>(
        &self,
        store: &mut Store,
        values: &V,
        lease_exists: &dyn Fn(i64) -> bool,
        with_ranges: bool,
    ) -> Result<(TxnResult, Vec<Change>), ApplyError<V::Error>> {
        let path = Path::choose(self, store, values)?;
        let checks = with_ranges || !planted!(TxnRangeSkipped);
        if checks && !planted!(TxnHalfApplied) {
            self.check_state(&path, store, lease_exists)?;
        }
        let mut txn = store.write();
        let run = self.run(&path, &mut txn, values, with_ranges);
        let responses = if planted!(TxnHalfApplied) { run.unwrap_or_default() } else { run? };
        let revision = txn.revision();
        let result = TxnResult { succeeded: path.succeeded, revision, responses };
        Ok((result, txn.finish()))
    }

    fn ops(&self, path: &Path) -> &[Op] {
        if path.succeeded { &self.success } else { &self.failure }
    }

    fn check_state<E>(
        &self,
        path: &Path,
        store: &Store,
        lease_exists: &dyn Fn(i64) -> bool,
    ) -> Result<(), ApplyError<E>> {
        let mut nested = path.nested.iter();
        for op in self.ops(path) {
            match op {
                Op::Range(range) if range.revision > store.current() => {
                    return Err(Error::Future.into());
                }
                Op::Range(range) if range.revision != 0 && range.revision < store.compacted() => {
                    return Err(Error::Compacted.into());
                }
                Op::Put(put) => put.check_state(store, lease_exists)?,
                Op::Txn(txn) => {
                    let path = nested.next().expect("a path for each nested txn");
                    txn.check_state(path, store, lease_exists)?;
                }
                Op::Range(_) | Op::Delete(_) | Op::Bad(_) => {}
            }
        }
        Ok(())
    }

    fn run<V: Values>(
        &self,
        path: &Path,
        txn: &mut WriteTxn<'_>,
        values: &V,
        with_ranges: bool,
    ) -> Result<Vec<OpResult>, Error<V::Error>> {
        let mut nested = path.nested.iter();
        let mut results = Vec::with_capacity(self.ops(path).len());
        for op in self.ops(path) {
            results.push(match op {
                Op::Range(_) if !with_ranges => {
                    let revision = txn.revision();
                    OpResult::Range(RangeResult { revision, ..RangeResult::default() })
                }
                Op::Range(range) => OpResult::Range(txn.range(values, range)?),
                Op::Put(put) => OpResult::Put(put.apply(txn, values)?),
                Op::Delete(delete) => OpResult::Delete(delete.apply(txn, values)?),
                Op::Txn(inner) => {
                    let path = nested.next().expect("a path for each nested txn");
                    let responses = inner.run(path, txn, values, with_ranges)?;
                    // etcd leaves the revision of a nested response at 0.
                    OpResult::Txn(TxnResult { succeeded: path.succeeded, revision: 0, responses })
                }
                Op::Bad(_) => continue,
            });
        }
        Ok(results)
    }
}

/// Which branch each transaction of the tree takes; nested ones in the order of the chosen branch.
struct Path {
    succeeded: bool,
    nested: Vec<Path>,
}

impl Path {
    fn choose<V: Values>(
        txn: &TxnRequest,
        store: &Store,
        values: &V,
    ) -> Result<Path, ApplyError<V::Error>> {
        let succeeded = holds(store, values, &txn.compare)?;
        let mut nested = Vec::new();
        for op in if succeeded { &txn.success } else { &txn.failure } {
            if let Op::Txn(inner) = op {
                nested.push(Path::choose(inner, store, values)?);
            }
        }
        Ok(Path { succeeded, nested })
    }
}

fn holds<V: Values>(
    store: &Store,
    values: &V,
    compares: &[Compare],
) -> Result<bool, ApplyError<V::Error>> {
    for compare in compares {
        if !holds_one(store, values, compare)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn holds_one<V: Values>(
    store: &Store,
    values: &V,
    compare: &Compare,
) -> Result<bool, ApplyError<V::Error>> {
    let mut versions = Vec::new();
    match &compare.range {
        KeyRange::Key(key) => versions.extend(store.index().live(key)),
        range => store.index().visit_versions(range, i64::MAX, |at| {
            versions.push(at);
            ControlFlow::Continue(())
        }),
    }
    if versions.is_empty() {
        if matches!(compare.target, CompareTarget::Value(_)) {
            return Ok(false);
        }
        return Ok(compare_with(compare, None, &KeyValue::default()));
    }
    for at in versions {
        let mut stored = KeyValue::default();
        if matches!(compare.target, CompareTarget::Value(_) | CompareTarget::Lease(_)) {
            let bytes = values.read(at.modified).map_err(Error::Values)?;
            stored = KeyValue::decode(&bytes).map_err(Error::Damaged)?;
        }
        if !compare_with(compare, Some(at), &stored) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// `stored` holds value and lease; a key that does not exist counts as all zeros.
fn compare_with(compare: &Compare, at: Option<KeyAt>, stored: &KeyValue) -> bool {
    let number = |of: fn(KeyAt) -> i64| at.map_or(0, of);
    let order = match &compare.target {
        CompareTarget::Version(want) => number(|at| at.version).cmp(want),
        CompareTarget::Create(want) => number(|at| at.created).cmp(want),
        CompareTarget::Mod(want) => number(|at| at.modified.main).cmp(want),
        CompareTarget::Value(want) => stored.value.cmp(want),
        CompareTarget::Lease(want) => stored.lease.cmp(want),
        CompareTarget::Unknown => std::cmp::Ordering::Equal,
    };
    match compare.op {
        CompareOp::Equal => order.is_eq(),
        CompareOp::Greater => order.is_gt(),
        CompareOp::Less => order.is_lt(),
        CompareOp::NotEqual => order.is_ne(),
        CompareOp::Unknown => true,
    }
}

/// The front door: sizes, empty keys, contradictory puts and overlapping changes. `ops_max` is the budget for the
/// widest list of each level; nested transactions get what is left.
pub fn check_txn(txn: &TxnRequest, ops_max: usize) -> Result<(), CheckError> {
    check_ops(txn, ops_max)?;
    check_overlap(&txn.success)?;
    check_overlap(&txn.failure)?;
    Ok(())
}

fn check_ops(txn: &TxnRequest, ops_max: usize) -> Result<(), CheckError> {
    let widest = txn.compare.len().max(txn.success.len()).max(txn.failure.len());
    if widest > ops_max {
        return Err(CheckError::TooManyOps);
    }
    if txn.compare.iter().any(|compare| compare.range.start().is_empty()) {
        return Err(CheckError::EmptyKey);
    }
    for op in txn.success.iter().chain(&txn.failure) {
        match op {
            Op::Range(range) if range.range.start().is_empty() => return Err(CheckError::EmptyKey),
            Op::Delete(delete) if delete.range.start().is_empty() => {
                return Err(CheckError::EmptyKey);
            }
            Op::Range(_) | Op::Delete(_) => {}
            Op::Put(put) => put.check()?,
            Op::Txn(inner) => check_ops(inner, ops_max - widest)?,
            Op::Bad(reason) => return Err(*reason),
        }
    }
    Ok(())
}

/// Keys put and ranges deleted by a list of operations, nested ones included.
#[derive(Default)]
struct Touched {
    puts: BTreeSet<Bytes>,
    deletes: Vec<KeyRange>,
}

impl Touched {
    fn deletes(&self, key: &[u8]) -> bool {
        self.deletes.iter().any(|range| match range {
            // etcd's interval for "this key and all after it" is inside out and meets nothing.
            KeyRange::From(_) => false,
            range => range.contains(key),
        })
    }
}

fn check_overlap(ops: &[Op]) -> Result<Touched, CheckError> {
    let mut all = Touched::default();
    for op in ops {
        if let Op::Delete(delete) = op {
            all.deletes.push(delete.range.clone());
        }
    }
    for op in ops {
        let Op::Txn(inner) = op else { continue };
        let success = check_overlap(&inner.success)?;
        let failure = check_overlap(&inner.failure)?;
        // Both branches may put the same key, because only one of them runs.
        let either: BTreeSet<Bytes> = success.puts.union(&failure.puts).cloned().collect();
        for key in either {
            if all.deletes(&key) || !all.puts.insert(key) {
                return Err(CheckError::DuplicateKey);
            }
        }
        all.deletes.extend(success.deletes);
        all.deletes.extend(failure.deletes);
    }
    for op in ops {
        let Op::Put(put) = op else { continue };
        if all.deletes(&put.key) || !all.puts.insert(put.key.clone()) {
            return Err(CheckError::DuplicateKey);
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &'static str) -> Op {
        Op::Put(PutRequest { key: Bytes::from_static(key.as_bytes()), ..PutRequest::default() })
    }

    fn delete(key: &'static str, end: &'static str) -> Op {
        let range =
            KeyRange::new(Bytes::from_static(key.as_bytes()), Bytes::from_static(end.as_bytes()));
        Op::Delete(DeleteRequest { range, prev_kv: false })
    }

    fn txn(success: Vec<Op>, failure: Vec<Op>) -> Op {
        Op::Txn(TxnRequest { compare: Vec::new(), success, failure })
    }

    #[test]
    fn overlaps() {
        let cases: [(&str, Vec<Op>, bool); 11] = [
            ("two puts", vec![put("a"), put("b")], true),
            ("same put twice", vec![put("a"), put("a")], false),
            ("put then delete", vec![put("a"), delete("a", "")], false),
            ("delete then put", vec![delete("a", "c"), put("b")], false),
            ("delete beside put", vec![delete("a", "b"), put("b")], true),
            ("deletes overlap", vec![delete("a", "c"), delete("b", "d")], true),
            ("from-key delete escapes", vec![delete("a", "\0"), put("b")], true),
            ("exclusive branches", vec![txn(vec![put("a")], vec![put("a")])], true),
            ("nested and outer put", vec![txn(vec![put("a")], vec![]), put("a")], false),
            (
                "delete in an earlier sibling",
                vec![txn(vec![delete("a", "")], vec![]), txn(vec![put("a")], vec![])],
                false,
            ),
            (
                "delete in a later sibling",
                vec![txn(vec![put("a")], vec![]), txn(vec![delete("a", "")], vec![])],
                true,
            ),
        ];
        for (what, success, ok) in cases {
            let request = TxnRequest { success, ..TxnRequest::default() };
            let want = if ok { Ok(()) } else { Err(CheckError::DuplicateKey) };
            assert_eq!(check_txn(&request, 128), want, "{what}");
        }
    }

    #[test]
    fn nesting_uses_up_the_budget() {
        let inner = txn(vec![put("a"), put("b")], vec![]);
        let request = TxnRequest { success: vec![inner, put("c")], ..TxnRequest::default() };
        assert_eq!(check_txn(&request, 4), Ok(()));
        assert_eq!(check_txn(&request, 3), Err(CheckError::TooManyOps));
    }

    #[test]
    fn missing_key_and_empty_operation() {
        let request = TxnRequest { success: vec![put("")], ..TxnRequest::default() };
        assert_eq!(check_txn(&request, 128), Err(CheckError::EmptyKey));
        let request =
            TxnRequest { failure: vec![Op::Bad(CheckError::KeyNotFound)], ..TxnRequest::default() };
        assert_eq!(check_txn(&request, 128), Err(CheckError::KeyNotFound));
    }
}
