//! A naive model of the store, a plain list of every change ever made, searched from the front; and a store beside it.
//! The fuzzer's body `mvcc_ops` uses it too.

// Each user uses a part.
#![allow(dead_code, unreachable_pub)]

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use bytes::Bytes;
use norn_mvcc::{
    Bounds, Change, CompactProgress, DeleteRequest, Error, Event, KeyRange, KeyValue, Op,
    PutRequest, RangeRequest, Revision, SortOrder, SortTarget, Store, TxnRequest, Values,
    events_between,
};

/// Records by revision, as the log would hold them.
#[derive(Default)]
pub struct Log(pub BTreeMap<Revision, (bool, Bytes)>);

impl Values for Log {
    type Error = String;

    fn read(&self, revision: Revision) -> Result<Bytes, String> {
        match self.0.get(&revision) {
            Some((_, record)) => Ok(record.clone()),
            None => Err(format!("{revision} is not kept")),
        }
    }

    fn scan(
        &self,
        from: Revision,
        to_main: i64,
        visit: &mut dyn FnMut(Revision, bool, &Bytes) -> ControlFlow<()>,
    ) -> Result<(), String> {
        for (revision, (tombstone, record)) in self.0.range(from..=Revision::new(to_main, i64::MAX))
        {
            if visit(*revision, *tombstone, record).is_break() {
                break;
            }
        }
        Ok(())
    }
}

impl Log {
    pub fn add(&mut self, changes: &[Change]) {
        for change in changes {
            self.0.insert(change.revision, (change.tombstone, change.record.clone()));
        }
    }
}

/// A key's new value and lease, or its deletion.
type Put = Option<(Bytes, i64)>;

/// Every change since the beginning; nothing is ever removed.
#[derive(Default)]
pub struct Model {
    changes: Vec<(Revision, Bytes, Put)>,
    current: i64,
    compacted: i64,
}

impl Model {
    fn state(&self, main: i64) -> BTreeMap<Bytes, KeyValue> {
        let mut state: BTreeMap<Bytes, KeyValue> = BTreeMap::new();
        for (revision, key, change) in &self.changes {
            if revision.main > main {
                break;
            }
            match change {
                None => {
                    state.remove(key);
                }
                Some((value, lease)) => {
                    let before = state.get(key);
                    let kv = KeyValue {
                        key: key.clone(),
                        create_revision: before.map_or(revision.main, |kv| kv.create_revision),
                        mod_revision: revision.main,
                        version: before.map_or(1, |kv| kv.version + 1),
                        value: value.clone(),
                        lease: *lease,
                    };
                    state.insert(key.clone(), kv);
                }
            }
        }
        state
    }

    fn range(&self, request: &RangeRequest) -> Result<(Vec<KeyValue>, bool, i64), ()> {
        let main = if request.revision <= 0 { self.current } else { request.revision };
        if main > self.current || main < self.compacted {
            return Err(());
        }
        let state = self.state(main);
        let mut kvs: Vec<KeyValue> =
            state.into_values().filter(|kv| request.range.contains(&kv.key)).collect();
        let count = kvs.len() as i64;
        if request.count_only {
            return Ok((Vec::new(), false, count));
        }
        let limit = if request.limit > 0 { request.limit as usize } else { usize::MAX };
        let within = |b: Bounds, n| (b.min == 0 || n >= b.min) && (b.max == 0 || n <= b.max);
        let filtered = request.mod_revision != Bounds::default()
            || request.create_revision != Bounds::default();
        kvs.retain(|kv| {
            within(request.mod_revision, kv.mod_revision)
                && within(request.create_revision, kv.create_revision)
        });
        if request.sort_order == SortOrder::None && !filtered {
            kvs.truncate(limit.saturating_add(1));
        }
        match request.sort_target {
            SortTarget::Key => {}
            SortTarget::Version => kvs.sort_by_key(|kv| kv.version),
            SortTarget::Create => kvs.sort_by_key(|kv| kv.create_revision),
            SortTarget::Mod => kvs.sort_by_key(|kv| kv.mod_revision),
            SortTarget::Value => kvs.sort_by_key(|kv| kv.value.clone()),
        }
        if request.sort_order == SortOrder::Descend {
            // Equal targets keep the order of their keys.
            let target = |kv: &KeyValue| match request.sort_target {
                SortTarget::Key => kv.key.to_vec(),
                SortTarget::Version => kv.version.to_be_bytes().to_vec(),
                SortTarget::Create => kv.create_revision.to_be_bytes().to_vec(),
                SortTarget::Mod => kv.mod_revision.to_be_bytes().to_vec(),
                SortTarget::Value => kv.value.to_vec(),
            };
            kvs.sort_by_key(|kv| std::cmp::Reverse(target(kv)));
        }
        let more = kvs.len() > limit;
        kvs.truncate(limit);
        if request.keys_only {
            for kv in &mut kvs {
                kv.value = Bytes::new();
                if request.sort_target != SortTarget::Value {
                    kv.lease = 0;
                }
            }
        }
        Ok((kvs, more, count))
    }

    /// What a compaction at `main` leaves, straight from the rule.
    fn kept(&self, main: i64) -> BTreeSet<Revision> {
        let mut newest: BTreeMap<&Bytes, (Revision, bool)> = BTreeMap::new();
        let mut kept = BTreeSet::new();
        for (revision, key, change) in &self.changes {
            // (A tombstone at `main` stays even when the same transaction put the key again.)
            if revision.main > main || (revision.main == main && change.is_none()) {
                kept.insert(*revision);
            }
            if revision.main <= main {
                newest.insert(key, (*revision, change.is_none()));
            }
        }
        kept.extend(newest.into_values().filter(|(_, deleted)| !deleted).map(|(r, _)| r));
        kept
    }

    fn events(&self, range: &KeyRange, from: i64, to: i64) -> Vec<(Revision, Bytes, bool)> {
        self.changes
            .iter()
            .filter(|(r, key, _)| r.main >= from && r.main <= to && range.contains(key))
            .map(|(r, key, change)| (*r, key.clone(), change.is_none()))
            .collect()
    }
}

#[derive(Clone, Debug)]
pub enum Action {
    Txn(Vec<(u8, u8, u8)>),
    Range { a: u8, b: u8, back: u8, limit: u8, order: u8, target: u8, flags: u8, bounds: u8 },
    Compact { back: u8, steps: u8 },
    Events { a: u8, b: u8, back: u8 },
    Hash { back: u8 },
}

fn key(n: u8) -> Bytes {
    Bytes::from(format!("k{n:02}"))
}

fn range(a: u8, b: u8) -> KeyRange {
    match b {
        14 => KeyRange::new(key(a), Bytes::new()),
        15 => KeyRange::new(key(a), Bytes::from_static(&[0])),
        _ => KeyRange::new(key(a), key(b)),
    }
}

pub struct Pair {
    pub store: Store,
    pub log: Log,
    pub model: Model,
}

impl Pair {
    /// An empty store and its model.
    pub fn new() -> Pair {
        let model = Model { current: 1, compacted: -1, ..Model::default() };
        Pair { store: Store::new(), log: Log::default(), model }
    }

    pub fn run(&mut self, action: &Action) {
        match action {
            Action::Txn(ops) => self.txn(ops),
            Action::Range { a, b, back, limit, order, target, flags, bounds } => {
                let bound = |on: bool| Bounds {
                    min: if on { self.model.current - i64::from(*bounds) * 2 } else { 0 },
                    max: if on { self.model.current - 1 } else { 0 },
                };
                let request = RangeRequest {
                    range: range(*a, *b),
                    revision: if *back == 7 {
                        0
                    } else {
                        self.model.current + 1 - i64::from(*back)
                    },
                    limit: i64::from(*limit),
                    sort_order: [SortOrder::None, SortOrder::Ascend, SortOrder::Descend]
                        [*order as usize],
                    sort_target: [
                        SortTarget::Key,
                        SortTarget::Version,
                        SortTarget::Create,
                        SortTarget::Mod,
                        SortTarget::Value,
                    ][*target as usize],
                    keys_only: flags & 1 != 0,
                    count_only: *flags == 6,
                    mod_revision: bound(*bounds == 4),
                    create_revision: bound(*bounds == 5),
                };
                let got = self.store.range(&self.log, &request);
                let want = self.model.range(&request);
                match (got, want) {
                    (Ok(got), Ok((kvs, more, count))) => {
                        let decoded: Vec<KeyValue> =
                            got.kvs.iter().map(|kv| KeyValue::decode(kv).unwrap()).collect();
                        assert_eq!(
                            (decoded, got.more, got.count),
                            (kvs, more, count),
                            "{request:?}"
                        );
                        assert_eq!(got.revision, self.model.current);
                    }
                    (Err(Error::Compacted | Error::Future), Err(())) => {}
                    (got, want) => panic!("{request:?}: got {got:?}, want {want:?}"),
                }
            }
            Action::Compact { back, steps } => {
                let main = self.model.current + 1 - i64::from(*back);
                let want = main > self.model.compacted && main <= self.model.current;
                assert_eq!(self.store.compact(main).is_ok(), want);
                if want {
                    self.model.compacted = main;
                }
                for _ in 0..*steps {
                    self.compact_step();
                }
            }
            Action::Events { a, b, back } => {
                self.settle();
                let from = (self.model.current + 1 - i64::from(*back))
                    .max(self.model.compacted + 1)
                    .max(1);
                let range = range(*a, *b);
                let mut got = Vec::new();
                let mut next = from;
                while next <= self.model.current {
                    let (events, then) =
                        events_between(&self.log, &range, next, self.model.current, 2).unwrap();
                    assert!(then > next);
                    next = then;
                    got.extend(events);
                }
                let seen: Vec<_> =
                    got.iter().map(|e: &Event| (e.revision, e.key.clone(), e.tombstone)).collect();
                assert_eq!(seen, self.model.events(&range, from, self.model.current));
            }
            Action::Hash { back } => {
                let main = self.model.current - i64::from(*back);
                // Members differ in how far their background compaction is; the hash must not.
                let before = self.hash(main);
                self.settle();
                // (A finished compaction answers from memory, with the compacted revision of before.)
                if let (Some(before), Some(after)) = (before, self.hash(main)) {
                    assert_eq!(after, before, "at {main}");
                }
            }
        }
    }

    fn hash(&self, main: i64) -> Option<norn_mvcc::KvHash> {
        if main < 1 || self.store.compaction_hash(main).is_some() {
            return None;
        }
        match self.store.hash::<String>(main) {
            Ok(Err(scan)) => Some(scan.run(self.store.index(), &self.log).unwrap()),
            _ => None,
        }
    }

    fn txn(&mut self, ops: &[(u8, u8, u8)]) {
        let mut request = TxnRequest::default();
        let main = self.model.current + 1;
        let mut sub = 0;
        for (kind, a, b) in ops {
            if *kind < 3 {
                let value = Bytes::from(format!("v{}", b % 3));
                let lease = i64::from(*b);
                request.success.push(Op::Put(PutRequest {
                    key: key(*a),
                    value: value.clone(),
                    lease,
                    ..PutRequest::default()
                }));
                let change = (Revision::new(main, sub), key(*a), Some((value, lease)));
                self.model.changes.push(change);
                sub += 1;
            } else {
                let range = range(*a, a + b);
                let doomed: Vec<Bytes> =
                    self.model.state(main).into_keys().filter(|key| range.contains(key)).collect();
                request.success.push(Op::Delete(DeleteRequest { range, prev_kv: true }));
                for key in doomed {
                    self.model.changes.push((Revision::new(main, sub), key, None));
                    sub += 1;
                }
            }
        }
        let (result, changes) = request.apply(&mut self.store, &self.log, &|_| true, true).unwrap();
        self.log.add(&changes);
        self.model.current += i64::from(sub > 0);
        assert_eq!(result.revision, self.model.current);
        assert_eq!(self.store.current(), self.model.current);
        assert_eq!(changes.len() as i64, sub);
    }

    fn compact_step(&mut self) -> bool {
        let mut dead = Vec::new();
        let progress = self.store.compact_step(&self.log, 3, &mut |r| dead.push(r)).unwrap();
        for revision in dead {
            assert!(self.log.0.remove(&revision).is_some(), "{revision} died twice");
        }
        progress != CompactProgress::Idle
    }

    pub fn settle(&mut self) {
        while self.compact_step() {}
        if self.model.compacted > 0 {
            let kept: BTreeSet<Revision> = self.log.0.keys().copied().collect();
            assert_eq!(kept, self.model.kept(self.model.compacted));
        }
    }

    /// Forgets everything but the log and rebuilds, as a restart does.
    pub fn restart(&mut self) {
        let mut index = norn_mvcc::KeyIndex::new();
        let mut last = 1;
        for (revision, (tombstone, record)) in &self.log.0 {
            let kv = KeyValue::decode(record).unwrap();
            index.restore(&kv.key, *revision, *tombstone, kv.create_revision, kv.version);
            last = revision.main;
        }
        let compacted = self.model.compacted;
        self.store = Store::restore(index, last, -1, compacted);
    }
}
