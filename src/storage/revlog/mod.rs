//! SKELETON: signatures are final unless noted, bodies follow.
use std::collections::BTreeMap;
use std::fmt;
use std::ops::ControlFlow;

use bytes::Bytes;

use crate::disk::{Disk, DiskError, DiskOp, DiskRead, FileName};

/// etcd's buckets other than `key`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Table {
    Meta = 0,
    Lease = 1,
    Alarm = 2,
    Cluster = 3,
    Members = 4,
    MembersRemoved = 5,
    Auth = 6,
    AuthUsers = 7,
    AuthRoles = 8,
}

/// One revision: `value` is the encoded mvccpb.KeyValue, opaque here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevisionRecord {
    pub main: i64,
    pub sub: i64,
    pub tombstone: bool,
    pub value: Bytes,
}

/// One change of a table; `value: None` removes the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableRecord {
    pub table: Table,
    pub key: Bytes,
    pub value: Option<Bytes>,
}

/// What is atomic: the changes of one or more raft entries and the index they bring the state to.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    pub applied_index: u64,
    pub term: u64,
    /// Ascending, and above every revision appended before.
    pub revisions: &'a [RevisionRecord],
    /// Applied in order.
    pub tables: &'a [TableRecord],
}

#[derive(Clone, Copy, Debug)]
pub struct RevLogOptions {
    /// A segment is sealed when it has reached this length. Default 64 MiB.
    pub segment_bytes: u64,
    /// Bound of the block cache. Default 64 MiB.
    pub cache_bytes: usize,
}

impl Default for RevLogOptions {
    fn default() -> RevLogOptions {
        RevLogOptions {
            segment_bytes: 64 << 20,
            cache_bytes: 64 << 20,
        }
    }
}

/// What `open` found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// Index and term of the last batch that survived; 0 in an empty log. WAL replay goes on after it.
    pub applied_index: u64,
    pub term: u64,
    /// Main part of the last revision ever appended; 0 when there was none.
    pub last_main: i64,
    /// Applied index of the durable checkpoint.
    pub checkpoint_index: u64,
    /// Newest usable index image: (main, bytes as given to `save_index`). Usable = covered by the log, and no
    /// deaths were checkpointed after it was saved. Without one, rebuild the index by `scan((0, 0), i64::MAX)`.
    pub index_image: Option<(i64, Bytes)>,
    /// The unfinished end that was cut off, if any: normal after a power loss.
    pub cut: Option<Cut>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    pub file: FileName,
    pub offset: u64,
    pub bytes: u64,
}

/// Names an append; ascending. Give the newest one whose operations completed to [`RevisionLog::written`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AppendId(pub u64);

/// A checkpoint under way.
#[must_use]
#[derive(Debug, PartialEq, Eq)]
pub struct CheckpointTicket(u64);

/// A step of the collector under way.
#[must_use]
#[derive(Debug, PartialEq, Eq)]
pub struct CollectTicket(u64);

#[derive(Debug, PartialEq, Eq)]
pub enum CollectProgress {
    /// Nothing worth collecting (deaths count only once a checkpoint after them is durable).
    Idle,
    /// The operations must complete, then call [`RevisionLog::collected`], then `collect` again.
    Step(CollectTicket),
    /// The step before has not been acknowledged.
    Waiting,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RevLogError {
    Disk(DiskError),
    Corrupt {
        file: FileName,
        offset: u64,
        what: &'static str,
    },
    Missing {
        file: FileName,
    },
}

impl fmt::Display for RevLogError {
    fn fmt(&self, _f: &mut fmt::Formatter<'_>) -> fmt::Result {
        unimplemented!()
    }
}

impl std::error::Error for RevLogError {}

pub struct RevisionLog<R> {
    _reader: R,
}

#[allow(unused_variables, clippy::needless_pass_by_ref_mut)]
impl<R: DiskRead> RevisionLog<R> {
    /// Opens or creates the log in `dir`. `reader` is a second handle of the same disk, kept for reads.
    pub fn open(
        disk: &mut impl Disk,
        reader: R,
        dir: FileName,
        opts: RevLogOptions,
    ) -> Result<(RevisionLog<R>, Recovered), RevLogError> {
        unimplemented!()
    }

    /// Emits the write of one batch (no sync: the raft WAL gives durability until the next checkpoint).
    /// Readable at once. All ops of this log go to one queue, in the order they were emitted.
    pub fn append(&mut self, batch: &Batch<'_>, ops: &mut Vec<DiskOp>) -> AppendId {
        unimplemented!()
    }

    /// The operations of all appends up to and including this one have completed: their memory is released.
    pub fn written(&mut self, up_to: AppendId) {
        unimplemented!()
    }

    pub fn table(&self, table: Table) -> &BTreeMap<Bytes, Bytes> {
        unimplemented!()
    }

    pub fn applied_index(&self) -> u64 {
        unimplemented!()
    }

    pub fn term(&self) -> u64 {
        unimplemented!()
    }

    pub fn last_main(&self) -> i64 {
        unimplemented!()
    }

    /// `Ok(None)`: never written, or dead. The flag is `tombstone`. Checksummed before it is returned.
    pub fn read(&self, main: i64, sub: i64) -> Result<Option<(Bytes, bool)>, RevLogError> {
        unimplemented!()
    }

    /// Visits live revisions with `from <= (main, sub)` and `main <= to_main`, in order, past the cache.
    #[allow(clippy::type_complexity)]
    pub fn scan(
        &self,
        from: (i64, i64),
        to_main: i64,
        visit: &mut dyn FnMut(i64, i64, bool, &Bytes) -> ControlFlow<()>,
    ) -> Result<(), RevLogError> {
        unimplemented!()
    }

    /// A compaction made this revision unreachable. `false` if it was not there. Not durable by itself: after a
    /// crash before the next checkpoint it lives again, and replaying the compaction marks it again. Mark in
    /// ascending order, or do not checkpoint in the middle of a compaction.
    pub fn mark_dead(&mut self, main: i64, sub: i64) -> bool {
        unimplemented!()
    }

    /// One bounded step (reads about `budget_bytes`) of the background collector.
    pub fn collect(
        &mut self,
        budget_bytes: u64,
        ops: &mut Vec<DiskOp>,
    ) -> Result<CollectProgress, RevLogError> {
        unimplemented!()
    }

    /// The step's operations completed, or (`ok == false`) failed for want of space: the step is given up.
    pub fn collected(&mut self, ticket: CollectTicket, ok: bool) {
        unimplemented!()
    }

    /// Emits a durable checkpoint. `None` while one is under way.
    pub fn checkpoint(&mut self, ops: &mut Vec<DiskOp>) -> Option<CheckpointTicket> {
        unimplemented!()
    }

    /// The checkpoint's operations completed (or not). Returns [`RevisionLog::durable_index`].
    pub fn checkpointed(&mut self, ticket: CheckpointTicket, ok: bool) -> u64 {
        unimplemented!()
    }

    /// Everything up to this applied index survives any crash: the WAL may be purged up to it.
    pub fn durable_index(&self) -> u64 {
        unimplemented!()
    }

    /// Emits an index image of the state at revision `main` (which must be `last_main`, with all its deaths
    /// marked). It counts at the next open only together with a checkpoint taken when no further deaths had been
    /// marked: after a compaction, save the index, then checkpoint.
    pub fn save_index(&mut self, main: i64, image: Vec<Bytes>, ops: &mut Vec<DiskOp>) {
        unimplemented!()
    }

    pub fn size_on_disk(&self) -> u64 {
        unimplemented!()
    }

    /// Bytes of live revisions and tables.
    pub fn size_in_use(&self) -> u64 {
        unimplemented!()
    }
}
