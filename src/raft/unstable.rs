//! The end of the log that is not known to be durable yet.
//!
//! ```text
//!   stable log ...| offset ......... in progress ......... end
//!                 | handed to storage | not handed out yet
//! ```

use norn_planted::planted;

use crate::blocks::Blocks;
use crate::sink::{LogSink, note};
use crate::types::{Entry, Index, Snapshot, Term};

/// Entries and possibly a snapshot on their way to the disk.
///
/// `offset <= offset_in_progress <= offset + entries.len()`; `entries[i]` has index `offset + i`.
#[derive(Clone, Debug)]
pub(crate) struct Unstable {
    snapshot: Option<Snapshot>,
    snapshot_in_progress: bool,
    entries: Blocks<Entry>,
    offset: Index,
    offset_in_progress: Index,
}

impl Unstable {
    pub(crate) fn new(offset: Index) -> Unstable {
        Unstable {
            snapshot: None,
            snapshot_in_progress: false,
            entries: Blocks::default(),
            offset,
            offset_in_progress: offset,
        }
    }

    pub(crate) fn offset(&self) -> Index {
        self.offset
    }

    pub(crate) fn offset_in_progress(&self) -> Index {
        self.offset_in_progress
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    fn end(&self) -> Index {
        self.offset.plus(self.entries.len())
    }

    pub(crate) fn snapshot(&self) -> Option<&Snapshot> {
        self.snapshot.as_ref()
    }

    /// The first index of the log, if the snapshot decides it.
    pub(crate) fn first_index(&self) -> Option<Index> {
        self.snapshot.as_ref().map(|snapshot| snapshot.index.next())
    }

    /// The last index of the log, if it is here.
    pub(crate) fn last_index(&self) -> Option<Index> {
        if self.entries.is_empty() {
            return self.snapshot.as_ref().map(|snapshot| snapshot.index);
        }
        Some(self.end().prev())
    }

    /// The term at `index`, if it is here.
    pub(crate) fn term(&self, index: Index) -> Option<Term> {
        if index < self.offset {
            return self.snapshot.as_ref().filter(|s| s.index == index).map(|s| s.term);
        }
        self.entries.get(index.distance_from(self.offset)).map(|entry| entry.term)
    }

    pub(crate) fn entry(&self, index: Index) -> Option<&Entry> {
        if index < self.offset {
            return None;
        }
        self.entries.get(index.distance_from(self.offset))
    }

    /// Entries `low..high`, all of which must be here.
    pub(crate) fn range(&self, low: Index, high: Index) -> impl ExactSizeIterator<Item = &Entry> {
        self.entries.range(low.distance_from(self.offset)..high.distance_from(self.offset))
    }

    pub(crate) fn next_entries(&self) -> Vec<Entry> {
        self.range(self.offset_in_progress, self.end()).cloned().collect()
    }

    pub(crate) fn has_next_entries(&self) -> bool {
        self.offset_in_progress < self.end()
    }

    pub(crate) fn next_snapshot(&self) -> Option<&Snapshot> {
        self.snapshot.as_ref().filter(|_| !self.snapshot_in_progress)
    }

    /// Everything that is here has been handed to storage.
    pub(crate) fn accept_in_progress(&mut self) {
        self.offset_in_progress = self.end();
        self.snapshot_in_progress = self.snapshot.is_some();
    }

    /// Storage holds everything up to the entry (`index`, `term`). Ignored unless that very entry is here:
    /// a newer leader may have replaced it while it was being written.
    pub(crate) fn stable_to(&mut self, sink: &mut LogSink, index: Index, term: Term) {
        let Some(own_term) = self.term(index) else {
            note!(sink, Info, "entry at index {index} missing from unstable log; ignoring");
            return;
        };
        if index < self.offset {
            note!(sink, Info, "entry at index {index} matched unstable snapshot; ignoring");
            return;
        }
        if own_term != term && !planted!(LogStableWithoutTerm) {
            note!(
                sink,
                Info,
                "entry at (index,term)=({index},{term}) mismatched with entry at ({index},{own_term}) \
                 in unstable log; ignoring"
            );
            return;
        }
        self.entries.drop_first(index.next().distance_from(self.offset));
        self.offset = index.next();
        self.offset_in_progress = self.offset_in_progress.max(self.offset);
    }

    /// Storage holds the snapshot at `index`.
    pub(crate) fn stable_snapshot_to(&mut self, index: Index) {
        if self.snapshot.as_ref().is_some_and(|snapshot| snapshot.index == index) {
            self.snapshot = None;
            self.snapshot_in_progress = false;
        }
    }

    /// Replaces everything by a snapshot.
    pub(crate) fn restore(&mut self, snapshot: Snapshot) {
        self.offset = snapshot.index.next();
        self.offset_in_progress = self.offset;
        self.entries.clear();
        self.snapshot = Some(snapshot);
        self.snapshot_in_progress = false;
    }

    /// Adds entries, in place of whatever is at or behind the first of them.
    pub(crate) fn truncate_and_append(&mut self, sink: &mut LogSink, entries: Vec<Entry>) {
        let Some(first) = entries.first() else { return };
        let from = first.index;
        if from < self.end() || from < self.offset {
            if from <= self.offset {
                note!(sink, Info, "replace the unstable entries from index {from}");
                self.entries.clear();
                self.offset = from;
                self.offset_in_progress = from;
            } else {
                note!(sink, Info, "truncate the unstable entries before index {from}");
                self.entries.truncate(from.distance_from(self.offset));
                // What was handed out and is now cut off must be handed out again, as replaced.
                self.offset_in_progress = self.offset_in_progress.min(from);
            }
        }
        assert!(from == self.end(), "append at {from} to a log that ends before {}", self.end());
        self.entries.extend(entries);
    }
}
