//! The stable part of the log, kept in memory.
//!
//! `MemStorage` holds what the application has made durable: it is filled by the application, after the
//! disk, and read by the node. It is *not* durable itself; after a restart it is rebuilt from disk.
//!
//! ```text
//!   base (snapshot or compaction point)    entries
//!   index b, term known                    b+1 ... last
//! ```

use std::collections::VecDeque;
use std::fmt;

use bytes::Bytes;

use crate::codec;
use crate::types::{ConfState, Entry, HardState, Index, Snapshot, Term};

/// The stable log. Indexes `base + 1 ..= last` are contiguous and their terms never fall.
#[derive(Clone, Debug, Default)]
pub struct MemStorage {
    hard_state: HardState,
    /// The newest snapshot this log was restored from or that was created from it.
    snapshot: Snapshot,
    /// Index and term just before the first entry; the term outlives the entry, for log matching.
    base_index: Index,
    base_term: Term,
    entries: VecDeque<Entry>,
    /// What a follower in need gets instead of `snapshot`, if newer.
    offered: Option<Snapshot>,
    snapshot_unavailable: bool,
}

impl MemStorage {
    /// An empty log, for a node that joins or bootstraps.
    pub fn new() -> MemStorage {
        MemStorage::default()
    }

    /// A log that begins after `snapshot`. With index 0 only the membership of the snapshot counts.
    pub fn from_snapshot(snapshot: Snapshot) -> MemStorage {
        MemStorage {
            base_index: snapshot.index,
            base_term: snapshot.term,
            snapshot,
            ..MemStorage::default()
        }
    }

    /// What was recovered from disk. `entries` must follow the snapshot without a gap.
    pub fn recovered(snapshot: Snapshot, hard_state: HardState, entries: Vec<Entry>) -> MemStorage {
        let mut storage = MemStorage::from_snapshot(snapshot);
        storage.hard_state = hard_state;
        storage.append(entries);
        storage
    }

    pub fn hard_state(&self) -> HardState {
        self.hard_state
    }

    pub fn set_hard_state(&mut self, hard_state: HardState) {
        self.hard_state = hard_state;
    }

    /// Membership of the newest snapshot: where a restarted node begins.
    pub fn conf_state(&self) -> &ConfState {
        &self.snapshot.conf_state
    }

    /// The newest snapshot this log was restored from or that was created from it: what a restart needs.
    pub fn own_snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// Index of the oldest entry present, or that would be present next.
    pub fn first_index(&self) -> Index {
        self.base_index.next()
    }

    pub fn last_index(&self) -> Index {
        self.base_index.plus(self.entries.len())
    }

    /// Term of the entry at `index`; also known for `first_index() - 1`.
    pub fn term(&self, index: Index) -> Result<Term, StorageError> {
        if index < self.base_index {
            return Err(StorageError::Compacted);
        }
        if index == self.base_index {
            return Ok(self.base_term);
        }
        match self.entries.get(index.distance_from(self.first_index())) {
            Some(entry) => Ok(entry.term),
            None => Err(StorageError::Unavailable),
        }
    }

    /// Entries `low..high`, cut so that their encoded size stays within `bytes_max`, but at least one.
    pub fn entries(
        &self,
        low: Index,
        high: Index,
        bytes_max: u64,
    ) -> Result<Vec<Entry>, StorageError> {
        let mut out = Vec::new();
        self.entries_into(low, high, bytes_max, &mut out)?;
        Ok(out)
    }

    /// As [`MemStorage::entries`], appended to `out`. Returns the encoded size of what was added.
    pub(crate) fn entries_into(
        &self,
        low: Index,
        high: Index,
        bytes_max: u64,
        out: &mut Vec<Entry>,
    ) -> Result<u64, StorageError> {
        if low <= self.base_index {
            return Err(StorageError::Compacted);
        }
        if high > self.last_index().next() || low > high {
            return Err(StorageError::Unavailable);
        }
        let from = low.distance_from(self.first_index());
        let to = high.distance_from(self.first_index());
        Ok(take_limited(self.entries.range(from..to), bytes_max, out))
    }

    /// Adds durable entries. What they contradict is cut off first; what is compacted is skipped.
    ///
    /// # Panics
    /// If they would leave a gap: the application lost a write.
    pub fn append(&mut self, mut entries: Vec<Entry>) {
        let Some(first) = entries.first() else { return };
        let mut first = first.index;
        if first <= self.base_index {
            let compacted = self.base_index.next().distance_from(first).min(entries.len());
            entries.drain(..compacted);
            if entries.is_empty() {
                return;
            }
            first = self.base_index.next();
        }
        assert!(
            first <= self.last_index().next(),
            "append at {first} leaves a gap after {}",
            self.last_index()
        );
        self.entries.truncate(first.distance_from(self.first_index()));
        self.entries.extend(entries);
    }

    /// Replaces everything by `snapshot`.
    pub fn apply_snapshot(&mut self, snapshot: Snapshot) -> Result<(), StorageError> {
        if self.snapshot.index != Index::ZERO && self.snapshot.index >= snapshot.index {
            return Err(StorageError::SnapshotOutOfDate);
        }
        self.base_index = snapshot.index;
        self.base_term = snapshot.term;
        self.entries.clear();
        self.snapshot = snapshot;
        Ok(())
    }

    /// Notes that the state at `index` has been saved. The log is not cut: see [`MemStorage::compact`].
    pub fn create_snapshot(
        &mut self,
        index: Index,
        conf_state: ConfState,
        data: Bytes,
    ) -> Result<&Snapshot, StorageError> {
        if index <= self.snapshot.index {
            return Err(StorageError::SnapshotOutOfDate);
        }
        let term = self.term(index)?;
        self.snapshot = Snapshot { data, index, term, conf_state };
        Ok(&self.snapshot)
    }

    /// Drops entries before `index` and the payload of `index` itself, whose term stays known.
    pub fn compact(&mut self, index: Index) -> Result<(), StorageError> {
        if index <= self.base_index {
            return Err(StorageError::Compacted);
        }
        let term = self.term(index)?;
        self.entries.drain(..index.distance_from(self.base_index));
        self.base_index = index;
        self.base_term = term;
        Ok(())
    }

    /// The snapshot to send to a follower that is too far behind.
    pub fn snapshot(&self) -> Result<&Snapshot, StorageError> {
        if self.snapshot_unavailable {
            return Err(StorageError::SnapshotTemporarilyUnavailable);
        }
        match &self.offered {
            Some(offered) if offered.index > self.snapshot.index => Ok(offered),
            _ => Ok(&self.snapshot),
        }
    }

    /// Offers a snapshot that is newer than the log's own, made for sending.
    pub fn offer_snapshot(&mut self, snapshot: Snapshot) {
        self.offered = Some(snapshot);
    }

    /// While set, the node does not send snapshots and asks again later.
    pub fn set_snapshot_unavailable(&mut self, unavailable: bool) {
        self.snapshot_unavailable = unavailable;
    }
}

/// Clones entries until the next one would exceed `bytes_max` encoded bytes; the first always fits.
pub(crate) fn take_limited<'a>(
    entries: impl ExactSizeIterator<Item = &'a Entry>,
    bytes_max: u64,
    out: &mut Vec<Entry>,
) -> u64 {
    let mut bytes = 0u64;
    let mut is_first = true;
    if bytes_max == u64::MAX {
        out.reserve(entries.len());
    }
    for entry in entries {
        let next = bytes.saturating_add(codec::entry_len(entry) as u64);
        if !is_first && next > bytes_max {
            break;
        }
        is_first = false;
        bytes = next;
        out.push(entry.clone());
    }
    bytes
}

/// Why the log cannot answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StorageError {
    Compacted,
    Unavailable,
    SnapshotOutOfDate,
    SnapshotTemporarilyUnavailable,
}

impl fmt::Display for StorageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            StorageError::Compacted => "requested index is unavailable due to compaction",
            StorageError::Unavailable => "requested entry at index is unavailable",
            StorageError::SnapshotOutOfDate => {
                "requested index is older than the existing snapshot"
            }
            StorageError::SnapshotTemporarilyUnavailable => "snapshot is temporarily unavailable",
        })
    }
}

impl std::error::Error for StorageError {}
