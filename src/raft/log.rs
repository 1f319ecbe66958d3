//! The whole log of a node, stable and unstable, and how far each part of it has got.
//!
//! ```text
//!   first ......... applied <= applying <= committed <= last
//!   `-- storage --'-- unstable (offset ..= last) --'
//! ```
//!
//! `applying` is what the application was handed, `applied` what it has acknowledged. `committed` may lie
//! beyond what is durable *here*: the quorum that holds it may be elsewhere.

use crate::sink::{LogSink, note};
use crate::storage::{self, MemStorage, StorageError};
use crate::types::{Entry, EntryKind, Index, Snapshot, Term};
use crate::unstable::Unstable;
use norn_planted::planted;

/// Entries with their cursors.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    pub(crate) storage: MemStorage,
    unstable: Unstable,
    committed: Index,
    applying: Index,
    applied: Index,
    /// Encoded bytes handed out and not acknowledged, and their bound.
    applying_bytes: u64,
    applying_bytes_max: u64,
    /// Nothing more is handed out until something is acknowledged.
    applying_paused: bool,
}

impl Log {
    pub(crate) fn new(storage: MemStorage, applying_bytes_max: u64) -> Log {
        let base = storage.first_index().prev();
        Log {
            unstable: Unstable::new(storage.last_index().next()),
            storage,
            committed: base,
            applying: base,
            applied: base,
            applying_bytes: 0,
            applying_bytes_max,
            applying_paused: false,
        }
    }

    pub(crate) fn committed(&self) -> Index {
        self.committed
    }

    pub(crate) fn applied(&self) -> Index {
        self.applied
    }

    pub(crate) fn first_index(&self) -> Index {
        self.unstable.first_index().unwrap_or_else(|| self.storage.first_index())
    }

    pub(crate) fn last_index(&self) -> Index {
        self.unstable.last_index().unwrap_or_else(|| self.storage.last_index())
    }

    pub(crate) fn last_term(&self) -> Term {
        self.term(self.last_index()).expect("the term of the last entry is always known")
    }

    /// Term at `index`; also known just before the first entry.
    pub(crate) fn entry(&self, index: Index) -> Option<&Entry> {
        self.unstable.entry(index).or_else(|| self.storage.entry(index))
    }

    pub(crate) fn term(&self, index: Index) -> Result<Term, StorageError> {
        if let Some(term) = self.unstable.term(index) {
            return Ok(term);
        }
        if index.next() < self.first_index() {
            return Err(StorageError::Compacted);
        }
        if index > self.last_index() {
            return Err(StorageError::Unavailable);
        }
        self.storage.term(index)
    }

    /// For log lines: 0 where the term is not known.
    pub(crate) fn term_or_zero(&self, index: Index) -> Term {
        self.term(index).unwrap_or_default()
    }

    pub(crate) fn matches(&self, index: Index, term: Term) -> bool {
        self.term(index) == Ok(term)
    }

    /// The rule of thesis section 3.6.1: whoever has the later last term, or the longer log.
    pub(crate) fn is_up_to_date(&self, last_index: Index, last_term: Term) -> bool {
        (last_term, last_index) >= (self.last_term(), self.last_index())
    }

    /// The highest position at or below `index` whose term is at most `term`, with its term: where a log
    /// that has `term` at `index` could match ours. One step per probe instead of one per entry.
    ///
    /// 0 as term where ours is not known (any more).
    pub(crate) fn find_conflict_by_term(&self, index: Index, term: Term) -> (Index, Term) {
        match self.term(index) {
            Err(_) => return (index, Term(0)),
            Ok(own) if own <= term => return (index, own),
            Ok(_) => {}
        }
        // Terms never fall along the log, so halve: above `high` all are greater, `low` is not.
        let mut low = self.first_index().prev();
        let mut high = index;
        match self.term(low) {
            Ok(own) if own <= term => {}
            // Everything we know is too new: the answer lies in what was compacted.
            _ => return (low.prev(), Term(0)),
        }
        while low.next() < high {
            let middle = Index(low.0 + (high.0 - low.0) / 2);
            if self.term_or_zero(middle) <= term {
                low = middle;
            } else {
                high = middle;
            }
        }
        (low, self.term_or_zero(low))
    }

    /// Follower: takes the entries after (`prev`, `prev_term`) and the leader's commit index. Returns the
    /// last index that now matches the leader's log, or `None` if the predecessor does not match.
    pub(crate) fn maybe_append(
        &mut self,
        sink: &mut LogSink,
        prev: Index,
        prev_term: Term,
        mut entries: Vec<Entry>,
        leader_commit: Index,
    ) -> Option<Index> {
        if !self.matches(prev, prev_term) {
            return None;
        }
        let last_new = prev.plus(entries.len());
        let last = self.last_index();
        let news = if prev == last || planted!(AppendTruncates) {
            // The common case: nothing to compare.
            0
        } else {
            entries
                .iter()
                .position(|entry| !self.matches(entry.index, entry.term))
                .unwrap_or(entries.len())
        };
        if let Some(conflict) = entries.get(news) {
            if conflict.index <= last {
                note!(
                    sink,
                    Info,
                    "found conflict at index {} [existing term: {}, conflicting term: {}]",
                    conflict.index,
                    self.term_or_zero(conflict.index),
                    conflict.term
                );
            }
            assert!(
                conflict.index > self.committed,
                "entry {} conflicts with a committed entry (committed {})",
                conflict.index,
                self.committed
            );
            entries.drain(..news);
            self.append(sink, entries);
        }
        let compared = if planted!(CommitUnverified) { self.last_index() } else { last_new };
        self.commit_to(leader_commit.min(compared));
        Some(last_new)
    }

    /// Adds entries after cutting off what they replace. Returns the last index.
    pub(crate) fn append(&mut self, sink: &mut LogSink, entries: Vec<Entry>) -> Index {
        if let Some(first) = entries.first() {
            assert!(
                first.index > self.committed,
                "append at {} would replace a committed entry (committed {})",
                first.index,
                self.committed
            );
            self.unstable.truncate_and_append(sink, entries);
        }
        self.last_index()
    }

    /// Raises the commit index; never lowers it.
    ///
    /// # Panics
    /// Beyond the end of the log: we have lost entries that we had acknowledged.
    pub(crate) fn commit_to(&mut self, index: Index) {
        if index > self.committed {
            assert!(
                index <= self.last_index(),
                "commit {index} is beyond the last index {}: was the log corrupted, truncated or lost?",
                self.last_index()
            );
            self.committed = index;
        }
    }

    /// Leader: commits up to `index` if that entry is of its own `term` (thesis section 3.6.2).
    pub(crate) fn maybe_commit(&mut self, index: Index, term: Term) -> bool {
        let is_own = self.matches(index, term) || planted!(OldTermCounted);
        if index <= self.committed || !is_own {
            return false;
        }
        self.commit_to(index);
        true
    }

    /// Entries from `low` to the end, within `bytes_max` but at least one.
    pub(crate) fn entries_from(
        &self,
        low: Index,
        bytes_max: u64,
    ) -> Result<Vec<Entry>, StorageError> {
        if low > self.last_index() {
            return Ok(Vec::new());
        }
        self.slice(low, self.last_index().next(), bytes_max)
    }

    /// Entries `low..high`, within `bytes_max` but at least one.
    fn slice(&self, low: Index, high: Index, bytes_max: u64) -> Result<Vec<Entry>, StorageError> {
        assert!(low <= high, "slice {low}..{high}");
        if low < self.first_index() {
            return Err(StorageError::Compacted);
        }
        assert!(high <= self.last_index().next(), "slice {low}..{high} beyond the end");
        let offset = self.unstable.offset();
        let mut out = Vec::new();
        let mut bytes = 0;
        if low < offset {
            let stable_end = high.min(offset);
            bytes = self.storage.entries_into(low, stable_end, bytes_max, &mut out)?;
            // If storage stopped early, more entries would leave a gap.
            if out.len() < stable_end.distance_from(low) || bytes >= bytes_max {
                return Ok(out);
            }
        }
        if high > offset {
            let stable_count = out.len();
            let rest = self.unstable.range(low.max(offset), high);
            let added = storage::take_limited(rest, bytes_max - bytes, &mut out);
            if stable_count > 0 && added > bytes_max - bytes {
                // "At least one" holds for the whole, not for each part.
                out.truncate(stable_count);
            }
        }
        Ok(out)
    }

    /// Whether there is a membership change in `applied..committed` (exclusive, inclusive).
    pub(crate) fn has_unapplied_conf_change(&self) -> bool {
        // In pieces, so that a node that is far behind does not hold its whole log twice.
        const PIECE_BYTES: u64 = 1 << 20;
        let mut low = self.applied.next();
        while low <= self.committed {
            let Ok(piece) = self.slice(low, self.committed.next(), PIECE_BYTES) else {
                // Compacted, though not applied: a snapshot is pending. Campaigning must wait.
                return true;
            };
            if piece.iter().any(|entry| entry.kind != EntryKind::Normal) {
                return true;
            }
            low = low.plus(piece.len());
        }
        false
    }

    pub(crate) fn next_unstable_entries(&self) -> Vec<Entry> {
        self.unstable.next_entries()
    }

    pub(crate) fn first_unstable(&self) -> Index {
        self.unstable.offset()
    }

    pub(crate) fn has_next_unstable_entries(&self) -> bool {
        self.unstable.has_next_entries()
    }

    /// Handed out or not.
    pub(crate) fn has_unstable_entries(&self) -> bool {
        self.unstable.len() > 0
    }

    pub(crate) fn next_unstable_snapshot(&self) -> Option<&Snapshot> {
        self.unstable.next_snapshot()
    }

    pub(crate) fn has_next_unstable_snapshot(&self) -> bool {
        self.unstable.next_snapshot().is_some()
    }

    /// Handed out or not.
    pub(crate) fn has_unstable_snapshot(&self) -> bool {
        self.unstable.snapshot().is_some()
    }

    /// Committed entries the application has not been handed yet.
    pub(crate) fn next_committed(&self, applies_unstable: bool) -> Vec<Entry> {
        if !self.has_next_committed(applies_unstable) {
            return Vec::new();
        }
        let high = self.max_appliable(applies_unstable).next();
        let bytes_max = self.applying_bytes_max.saturating_sub(self.applying_bytes);
        self.slice(self.applying.next(), high, bytes_max)
            .expect("entries are not compacted before they are applied")
    }

    pub(crate) fn has_next_committed(&self, applies_unstable: bool) -> bool {
        // A snapshot goes first, and it may cover what we would hand out.
        !self.applying_paused
            && !self.has_unstable_snapshot()
            && self.applying < self.max_appliable(applies_unstable)
    }

    fn max_appliable(&self, applies_unstable: bool) -> Index {
        if applies_unstable {
            self.committed
        } else {
            self.committed.min(self.unstable.offset().prev())
        }
    }

    pub(crate) fn accept_unstable(&mut self) {
        self.unstable.accept_in_progress();
    }

    /// Entries up to `last` have been handed to the application.
    pub(crate) fn accept_applying(&mut self, last: Index, bytes: u64, applies_unstable: bool) {
        assert!(last <= self.committed, "applying {last} beyond committed {}", self.committed);
        self.applying = last;
        self.applying_bytes += bytes;
        if planted!(CommitPaged) && last < self.max_appliable(applies_unstable) {
            self.committed = last;
        }
        // A batch that was cut short has reached the bound, even if a small entry would still fit.
        self.applying_paused = self.applying_bytes >= self.applying_bytes_max
            || last < self.max_appliable(applies_unstable);
    }

    /// The application has applied everything up to `index`.
    pub(crate) fn applied_to(&mut self, index: Index, bytes: u64) {
        assert!(
            self.applied <= index && index <= self.committed,
            "applied {index} is out of range [{}, {}]",
            self.applied,
            self.committed
        );
        self.applied = index;
        self.applying = self.applying.max(index);
        self.applying_bytes = self.applying_bytes.saturating_sub(bytes);
        self.applying_paused = self.applying_bytes >= self.applying_bytes_max;
    }

    pub(crate) fn stable_to(&mut self, sink: &mut LogSink, index: Index, term: Term) {
        self.unstable.stable_to(sink, index, term);
    }

    pub(crate) fn stable_snapshot_to(&mut self, index: Index) {
        self.unstable.stable_snapshot_to(index);
    }

    /// The snapshot to send: one that is being received here is newer than the storage's.
    pub(crate) fn snapshot(&self) -> Result<&Snapshot, StorageError> {
        match self.unstable.snapshot() {
            Some(snapshot) => Ok(snapshot),
            None => self.storage.snapshot(),
        }
    }

    /// Replaces the whole log by a snapshot, which counts as committed.
    pub(crate) fn restore(&mut self, sink: &mut LogSink, snapshot: Snapshot) {
        note!(
            sink,
            Info,
            "log [committed={}, applied={}, applying={}, unstable.offset={}, \
             unstable.offsetInProgress={}, len(unstable.Entries)={}] starts to restore snapshot \
             [index: {}, term: {}]",
            self.committed,
            self.applied,
            self.applying,
            self.unstable.offset(),
            self.unstable.offset_in_progress(),
            self.unstable.len(),
            snapshot.index,
            snapshot.term
        );
        self.committed = snapshot.index;
        self.unstable.restore(snapshot);
    }
}
