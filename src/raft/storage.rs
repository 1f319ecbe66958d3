//! The stable part of the log, kept in memory.
//!
//! `MemStorage` holds what the application has made durable: it is filled by the application, after the
//! disk, and read by the node. It is *not* durable itself; after a restart it is rebuilt from disk.
//!
//! ```text
//!   base (snapshot or compaction point)    entries
//!   index b, term known                    b+1 ... last
//! ```

use std::fmt;

use bytes::Bytes;

use crate::blocks::Blocks;
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
    /// As `ends`, just before the first entry.
    base_end: u64,
    entries: Blocks<Entry>,
    /// For each entry, payload bytes of all that were ever appended, up to its end.
    ends: Blocks<u64>,
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
        let kept = first.distance_from(self.first_index());
        self.entries.truncate(kept);
        self.ends.truncate(kept);
        let mut end = self.ends.last().copied().unwrap_or(self.base_end);
        self.ends.extend(entries.iter().map(|entry| {
            end += entry.data.len() as u64;
            end
        }));
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
        self.ends.clear();
        self.base_end = 0;
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
        let dropped = index.distance_from(self.base_index);
        self.base_end = self.end_of(index);
        self.entries.drop_first(dropped);
        self.ends.drop_first(dropped);
        self.base_index = index;
        self.base_term = term;
        Ok(())
    }

    pub(crate) fn entry(&self, index: Index) -> Option<&Entry> {
        let behind = index.0.checked_sub(self.base_index.0 + 1)?;
        self.entries.get(usize::try_from(behind).ok()?)
    }

    /// Payload bytes of the entries behind `after` up to `to`, as far as they are here.
    pub fn payload_bytes(&self, after: Index, to: Index) -> u64 {
        self.end_of(to).saturating_sub(self.end_of(after))
    }

    /// Of the last entry up to `index`, or what comes before the first.
    fn end_of(&self, index: Index) -> u64 {
        let count = index.min(self.last_index()).0.saturating_sub(self.base_index.0) as usize;
        let last = count.checked_sub(1).and_then(|last| self.ends.get(last));
        last.copied().unwrap_or(self.base_end)
    }

    /// The first index behind which there are at most so many payload bytes up to `to`.
    pub fn index_keeping(&self, to: Index, bytes: u64) -> Index {
        let end = self.base_end + self.payload_bytes(self.base_index, to);
        if self.base_end + bytes >= end {
            return self.base_index;
        }
        let last_dropped = self.ends.partition_point(|kept| *kept + bytes < end);
        Index(self.base_index.0 + last_dropped as u64 + 1).min(to)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64, bytes: usize) -> Entry {
        let data = Bytes::from(vec![7; bytes]);
        Entry { index: Index(index), term: Term(1), data, ..Entry::default() }
    }

    /// Beside sums over the entries themselves, through appends that replace, compactions and a snapshot.
    #[test]
    fn payload_bytes_are_those_of_the_entries() {
        let sizes = [3, 0, 10, 7, 0, 0, 25, 1, 4, 2];
        let all = |from: u64| (from..=10).map(|i| entry(i, sizes[i as usize - 1])).collect();
        let mut storage = MemStorage::new();
        storage.append((1..=6).map(|i| entry(i, 100)).collect());
        storage.append(all(1));
        storage.append((8..=9).map(|i| entry(i, 50)).collect());
        storage.append(all(8));
        for compacted in [0, 1, 4, 7, 10] {
            if compacted > 0 {
                storage.compact(Index(compacted)).unwrap();
            }
            let naive = |after: u64, to: u64| -> u64 {
                let here = storage
                    .entries
                    .range(0..storage.entries.len())
                    .filter(|e| e.index.0 > after && e.index.0 <= to);
                here.map(|e| e.data.len() as u64).sum()
            };
            for to in compacted..=10 {
                for after in 0..=12 {
                    let bytes = storage.payload_bytes(Index(after), Index(to));
                    assert_eq!(bytes, naive(after, to), "{after}..={to} behind {compacted}");
                }
                for bytes in 0..60 {
                    let first = (compacted..=to).find(|after| naive(*after, to) <= bytes);
                    let found = storage.index_keeping(Index(to), bytes);
                    assert_eq!(Some(found.0), first, "{bytes} to {to} behind {compacted}");
                }
            }
        }
        let snapshot = Snapshot { index: Index(20), term: Term(2), ..Snapshot::default() };
        storage.apply_snapshot(snapshot).unwrap();
        storage.append(vec![entry(21, 5)]);
        assert_eq!(storage.payload_bytes(Index(0), Index(30)), 5);
    }
}
