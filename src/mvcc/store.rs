//! The store: the key index, the current and compacted revision, and the transactions that change them.

use std::collections::VecDeque;
use std::ops::ControlFlow;

use bytes::Bytes;

use crate::hash::{HashScan, KvHash};
use crate::history::{KeyAt, Tombstones};
use crate::range::View;
use crate::{Error, KeyIndex, KeyRange, KeyValue, RangeRequest, RangeResult, Revision};

/// Where values are kept, by revision.
pub trait Values {
    type Error;

    /// The encoded `KeyValue` of a kept revision.
    fn read(&self, revision: Revision) -> Result<Bytes, Self::Error>;

    /// Appends the encoded `KeyValue`s of kept revisions, in the order of `revisions`. Where reading one means waiting, for
    /// memory even, all of them can be waited for at once.
    fn read_all(&self, revisions: &[Revision], out: &mut Vec<Bytes>) -> Result<(), Self::Error> {
        for revision in revisions {
            out.push(self.read(*revision)?);
        }
        Ok(())
    }

    /// Visits the kept revisions from `from` on with `main <= to_main`, in order, until told to stop. The flag says
    /// whether the record is a tombstone.
    fn scan(
        &self,
        from: Revision,
        to_main: i64,
        visit: &mut dyn FnMut(Revision, bool, &Bytes) -> ControlFlow<()>,
    ) -> Result<(), Self::Error>;
}

/// Hashes of compactions remembered, as many as etcd does.
pub const COMPACTION_HASHES_MAX: usize = 10;

/// See the crate's page. All methods that need values are given the port.
#[derive(Clone, Debug)]
pub struct Store {
    index: KeyIndex,
    current: i64,
    /// -1 until the first compaction.
    compacted: i64,
    /// Accepted compactions whose removal goes on in the background, oldest first.
    compactions: VecDeque<Compaction>,
    hashes: VecDeque<KvHash>,
}

/// One accepted compaction on its way: first the hash over what is about to go, then the index.
#[derive(Clone, Debug)]
struct Compaction {
    main: i64,
    hash: Option<HashScan>,
    next_key: Option<Vec<u8>>,
}

/// What a step of background compaction did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompactProgress {
    /// Nothing to do.
    Idle,
    /// Call again.
    More,
    /// The compaction at this revision is complete: nothing below it is kept any more.
    Finished(i64),
}

/// One change of a transaction, to be logged and told to watchers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub revision: Revision,
    pub tombstone: bool,
    pub key: Bytes,
    /// The encoded `KeyValue`; of a tombstone with only the key.
    pub record: Bytes,
    /// The lease of a put, 0 for none.
    pub lease: i64,
    /// A put that began the key's life.
    pub is_create: bool,
}

impl Default for Store {
    fn default() -> Store {
        Store::new()
    }
}

impl Store {
    pub fn new() -> Store {
        Store {
            index: KeyIndex::new(),
            current: 1,
            compacted: -1,
            compactions: VecDeque::new(),
            hashes: VecDeque::new(),
        }
    }

    /// A store around an index that was rebuilt from the log. `finished` and `scheduled` are the last finished and
    /// the last accepted compaction (-1 for none); one that was interrupted goes on.
    pub fn restore(index: KeyIndex, last: i64, finished: i64, scheduled: i64) -> Store {
        let current = last.max(finished).max(scheduled).max(1);
        let mut store = Store { index, current, compacted: finished, ..Store::new() };
        // The log may still hold what a finished compaction forgot but the collector had not yet removed.
        let again = scheduled.max(finished);
        if again >= 0 {
            store.compacted = again;
            store.compactions.push_back(Compaction { main: again, hash: None, next_key: None });
        }
        store
    }

    pub fn current(&self) -> i64 {
        self.current
    }

    /// -1 until the first compaction.
    pub fn compacted(&self) -> i64 {
        self.compacted
    }

    pub fn index(&self) -> &KeyIndex {
        &self.index
    }

    pub fn range<V: Values>(
        &self,
        values: &V,
        request: &RangeRequest,
    ) -> Result<RangeResult, Error<V::Error>> {
        self.view(|revisions: &[Revision], out: &mut Vec<Bytes>| values.read_all(revisions, out))
            .range(request)
    }

    /// The encoded `KeyValue` of `key` at main revision `main`, if it existed and that is still known.
    pub fn value_at<V: Values>(
        &self,
        values: &V,
        key: &[u8],
        main: i64,
    ) -> Result<Option<Bytes>, V::Error> {
        if main < self.compacted {
            return Ok(None);
        }
        self.index.at(key, main).map(|at| values.read(at.modified)).transpose()
    }

    /// Begins a transaction; its changes are in the index at once and in the result of [`WriteTxn::finish`].
    pub fn write(&mut self) -> WriteTxn<'_> {
        WriteTxn { store: self, changes: Vec::new() }
    }

    /// Accepts a compaction: reads below `main` fail from now on; removal happens in [`Store::compact_step`].
    pub fn compact(&mut self, main: i64) -> Result<(), Error<std::convert::Infallible>> {
        if main <= self.compacted {
            return Err(Error::Compacted);
        }
        if main > self.current {
            return Err(Error::Future);
        }
        let hash = HashScan::new(main, self.compacted, Tombstones::Kept);
        self.compactions.push_back(Compaction { main, hash: Some(hash), next_key: None });
        self.compacted = main;
        Ok(())
    }

    pub fn is_compacting(&self) -> bool {
        !self.compactions.is_empty()
    }

    /// Does a bounded piece of the oldest accepted compaction: reads or forgets about `records_max` revisions or
    /// keys. Each revision that died goes to `dead`.
    pub fn compact_step<V: Values>(
        &mut self,
        values: &V,
        records_max: usize,
        dead: &mut dyn FnMut(Revision),
    ) -> Result<CompactProgress, Error<V::Error>> {
        let Some(compaction) = self.compactions.front_mut() else {
            return Ok(CompactProgress::Idle);
        };
        if let Some(scan) = &mut compaction.hash {
            if let Some(hash) = scan.step(&self.index, values, records_max)? {
                compaction.hash = None;
                self.hashes.push_back(hash);
                if self.hashes.len() > COMPACTION_HASHES_MAX {
                    self.hashes.pop_front();
                }
            }
            return Ok(CompactProgress::More);
        }
        let main = compaction.main;
        let from = compaction.next_key.take();
        let next = self.index.compact(main, from.as_deref(), records_max, dead);
        if next.is_some() {
            compaction.next_key = next;
            return Ok(CompactProgress::More);
        }
        self.compactions.pop_front();
        Ok(CompactProgress::Finished(main))
    }

    pub fn compaction_hash_count(&self) -> usize {
        self.hashes.len()
    }

    /// The hash that a finished compaction left, if this revision had one.
    pub fn compaction_hash(&self, main: i64) -> Option<KvHash> {
        self.hashes.iter().rev().find(|hash| hash.hash_revision == main).copied()
    }

    /// Prepares HashKV at `revision` (0: the current one): either a remembered hash or a scan to run.
    pub fn hash<E>(&self, revision: i64) -> Result<Result<KvHash, HashScan>, Error<E>> {
        // (As in etcd, 0 asks for the present only while nobody compacted at 0: then it means the hash that was left there.)
        if let Some(hash) = self.compaction_hash(revision) {
            return Ok(Ok(hash));
        }
        if revision > 0 && revision < self.compacted {
            return Err(Error::Compacted);
        }
        if revision > self.current {
            return Err(Error::Future);
        }
        let main = if revision == 0 { self.current } else { revision };
        Ok(Err(HashScan::new(main, self.compacted, Tombstones::Left)))
    }

    pub(crate) fn view<F>(&self, fetch: F) -> View<'_, F> {
        View { index: &self.index, current: self.current, compacted: self.compacted, fetch }
    }
}

/// A transaction under way: one main revision, a sub revision per change.
#[derive(Debug)]
pub struct WriteTxn<'a> {
    store: &'a mut Store,
    changes: Vec<Change>,
}

impl WriteTxn<'_> {
    /// The revision of this transaction's changes.
    pub fn next_main(&self) -> i64 {
        self.store.current + 1
    }

    /// What a header says now: the transaction's own revision once it changed something.
    pub fn revision(&self) -> i64 {
        self.store.current + i64::from(!self.changes.is_empty())
    }

    pub fn store(&self) -> &Store {
        self.store
    }

    /// Puts a key; returns the version it replaced.
    pub fn put(&mut self, key: Bytes, value: Bytes, lease: i64) -> KeyAt {
        let revision = self.next_revision();
        let at = self.store.index.put(&key, revision);
        let record = KeyValue {
            key: key.clone(),
            create_revision: at.created,
            mod_revision: revision.main,
            version: at.version,
            value,
            lease,
        };
        self.changes.push(Change {
            revision,
            tombstone: false,
            key,
            record: record.encode(),
            lease,
            is_create: at.version == 1,
        });
        at
    }

    /// Deletes the live keys of a range, in key order; returns how many.
    pub fn delete_range(&mut self, range: &KeyRange) -> usize {
        let mut keys = Vec::new();
        match range {
            KeyRange::Key(key) => {
                if self.store.index.live(key).is_some() {
                    keys.push(key.clone());
                }
            }
            _ => self.store.index.visit(range, i64::MAX, |key, _| {
                keys.push(Bytes::copy_from_slice(key));
                ControlFlow::Continue(())
            }),
        }
        let count = keys.len();
        for key in keys {
            self.delete_live(key);
        }
        count
    }

    /// Reads in the state that the transaction has made so far.
    pub fn range<V: Values>(
        &self,
        values: &V,
        request: &RangeRequest,
    ) -> Result<RangeResult, Error<V::Error>> {
        let main = self.next_main();
        if request.revision == main {
            return Err(Error::Future);
        }
        let fetch = |revisions: &[Revision], out: &mut Vec<Bytes>| {
            if self.changes.is_empty() {
                return values.read_all(revisions, out);
            }
            for revision in revisions {
                out.push(self.fetch(values, *revision)?);
            }
            Ok(())
        };
        let view = View {
            index: &self.store.index,
            current: self.revision(),
            compacted: self.store.compacted,
            fetch,
        };
        view.range(request)
    }

    /// The live `KeyValue` of `key` in the state so far.
    pub fn live<V: Values>(&self, values: &V, key: &[u8]) -> Result<Option<Bytes>, V::Error> {
        let Some(at) = self.store.index.live(key) else {
            return Ok(None);
        };
        self.fetch(values, at.modified).map(Some)
    }

    /// Ends the transaction: its changes, in order. No change leaves the revision as it was.
    pub fn finish(self) -> Vec<Change> {
        if !self.changes.is_empty() {
            self.store.current += 1;
        }
        self.changes
    }

    fn fetch<V: Values>(&self, values: &V, revision: Revision) -> Result<Bytes, V::Error> {
        if revision.main == self.next_main() {
            return Ok(self.changes[revision.sub as usize].record.clone());
        }
        values.read(revision)
    }

    fn next_revision(&self) -> Revision {
        Revision::new(self.next_main(), self.changes.len() as i64)
    }

    fn delete_live(&mut self, key: Bytes) {
        let revision = self.next_revision();
        self.store.index.delete(&key, revision);
        let record = KeyValue { key: key.clone(), ..KeyValue::default() }.encode();
        self.changes.push(Change {
            revision,
            tombstone: true,
            key,
            record,
            lease: 0,
            is_create: false,
        });
    }
}
