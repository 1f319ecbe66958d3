//! SKELETON: signatures, bodies follow.
use std::fmt;

use bytes::Bytes;

use crate::disk::{Disk, DiskError, DiskOp, DiskRead, FileName};

#[derive(Clone, Copy, Debug)]
pub struct WalOptions {
    /// A segment is cut once this many bytes are written. Default 64 000 000.
    pub segment_bytes: u64,
}

impl Default for WalOptions {
    fn default() -> WalOptions {
        WalOptions {
            segment_bytes: 64_000_000,
        }
    }
}

/// Where reading starts: the snapshot that the state machine has. (0, 0) is the beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WalPosition {
    pub index: u64,
    pub term: u64,
}

/// raftpb.HardState.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WalState {
    pub term: u64,
    pub vote: u64,
    pub commit: u64,
}

/// An entry; `data` is the whole encoded raftpb.Entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalEntry {
    pub term: u64,
    pub index: u64,
    pub data: Bytes,
}

/// walpb.Snapshot; `conf_state` is an encoded raftpb.ConfState.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalSnapshot {
    pub index: u64,
    pub term: u64,
    pub conf_state: Bytes,
}

/// One append. Written in the order snapshot, entries, state.
#[derive(Clone, Debug, Default)]
pub struct Save<'a> {
    pub entries: &'a [WalEntry],
    pub state: Option<WalState>,
    pub snapshot: Option<WalSnapshot>,
    /// Must be true for entries, a changed term or vote, and snapshots; a commit-only change needs no sync.
    pub sync: bool,
}

/// What opening found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replay {
    pub metadata: Bytes,
    pub state: Option<WalState>,
    /// Entries after the start position: contiguous, later writes have replaced earlier ones.
    pub entries: Vec<WalEntry>,
    /// Whether the record of the start position was there.
    pub snapshot_found: bool,
    pub repaired: Option<Repair>,
}

/// A torn tail that was cut off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repair {
    pub file: FileName,
    pub offset: u64,
    /// Copy of the file as it was.
    pub copy: FileName,
}

#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WalError {
    Disk(DiskError),
}

impl fmt::Display for WalError {
    fn fmt(&self, _f: &mut fmt::Formatter<'_>) -> fmt::Result {
        unimplemented!()
    }
}

impl std::error::Error for WalError {}

pub struct Wal {}

#[allow(unused_variables, clippy::needless_pass_by_ref_mut)]
impl Wal {
    pub fn exists(disk: &impl DiskRead, dir: &FileName) -> Result<bool, WalError> {
        unimplemented!()
    }
    pub fn create(
        disk: &mut impl Disk,
        dir: FileName,
        metadata: Bytes,
        opts: WalOptions,
    ) -> Result<Wal, WalError> {
        unimplemented!()
    }
    pub fn open(
        disk: &mut impl Disk,
        dir: FileName,
        start: WalPosition,
        opts: WalOptions,
    ) -> Result<(Wal, Replay), WalError> {
        unimplemented!()
    }
    /// Snapshot records with index <= the last commit, oldest first.
    pub fn valid_snapshots(
        disk: &impl DiskRead,
        dir: &FileName,
    ) -> Result<Vec<WalSnapshot>, WalError> {
        unimplemented!()
    }
    /// Like `open`, but changes nothing and accepts a torn tail.
    pub fn read_only(
        disk: &impl DiskRead,
        dir: &FileName,
        start: WalPosition,
    ) -> Result<Replay, WalError> {
        unimplemented!()
    }
    /// Emits one write, and a sync if asked for or if the segment is full. Log queue, in order.
    pub fn append(&mut self, save: &Save<'_>, ops: &mut Vec<DiskOp>) {
        unimplemented!()
    }
    /// Emits the next spare segment (Bulk queue); false when there is one or it is under way.
    pub fn prepare(&mut self, ops: &mut Vec<DiskOp>) -> bool {
        unimplemented!()
    }
    /// The operations of `prepare` completed or failed.
    pub fn prepared(&mut self, ok: bool) {
        unimplemented!()
    }
    /// Entries up to `index` are not needed any more.
    pub fn release_to(&mut self, index: u64) {
        unimplemented!()
    }
    /// Emits removal of released segments beyond the newest `max_wals` (0: keep all). Bulk queue.
    pub fn purge(&mut self, max_wals: usize, ops: &mut Vec<DiskOp>) {
        unimplemented!()
    }
    pub fn metadata(&self) -> &Bytes {
        unimplemented!()
    }
    pub fn last_index(&self) -> u64 {
        unimplemented!()
    }
}
