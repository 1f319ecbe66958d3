//! Raft's log on disk, in etcd's format: segments that etcd's own tools read, and that etcd can take over.
//!
//! # Files
//!
//! `<dir>/<sequence>-<index>.wal`, both 16 hex digits; sequences are consecutive, `index` is the first raft index that
//! may be in the file. `<n>.tmp` is the next segment, being prepared, or a purged one that will be; `*.wal.broken` is what a repair set aside.
//!
//! # Frame (8-byte aligned)
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 8 | little endian: bits 0..56 length `n` of the record, bits 56..59 padding `p`, bit 63 set iff `p != 0`; all zero: end |
//! | 8 | n | record |
//! | 8 + n | p | zeros, up to the next multiple of 8 |
//!
//! # Record (protobuf walpb.Record)
//!
//! | # | field | |
//! |---|---|---|
//! | 1 | type | 1 metadata, 2 entry, 3 state, 4 crc, 5 snapshot |
//! | 2 | crc | CRC-32C of all data bytes so far, over all files; of a crc record: carried over from the file before |
//! | 3 | data | absent in crc records |
//!
//! A file begins with crc, metadata and (after a cut) state.
//!
//! # Why what was promised is found again
//!
//! 1. Nothing is promised before a sync of the tail has completed; the replay stops at the first frame that the sync
//!    did not cover. Unsynced sectors are zero, because segments are zeroed through before use, so a torn record has a
//!    sector of zeros (etcd's rule) or ends in zeros and is followed by nothing else (a write cut short).
//! 2. A file other than the last was synced whole before the next one got its name, so anything wrong in it is
//!    corruption, never a torn tail. The next file was synced before the rename that gave it its name.
//! 3. Opening syncs the tail and the directory: what a killed process had left in the page cache and we have read
//!    must not vanish after we have acted upon it.
//! 4. A purged segment may become a spare. It loses its name durably before a byte of it is touched, and is zeroed
//!    whole and synced before a cut may give it a new one; under the name it has in between it is removed by the next
//!    opening. So its old records, whose checksums are good, are never where a replay looks.
//! 5. The tail is zeroed behind the last record before the first append: what a torn write left there must never be
//!    read as a successor of a new record.

mod frame;
mod log;
mod scan;
mod segment;

use std::fmt;

use bytes::Bytes;

use crate::disk::{DiskError, FileName};

pub use log::Wal;
pub use scan::{Record, RecordKind};

#[derive(Clone, Copy, Debug)]
pub struct WalOptions {
    /// A segment is cut once this many bytes are written to it.
    pub segment_bytes: u64,
    /// In how many pieces the next segment is prepared, one after the other as the present one fills.
    pub spare_pieces: u64,
}

impl Default for WalOptions {
    /// Segments of etcd's size, 64 000 000 bytes. Written at once, so many zeros would hold up the log's syncs for a third of a second.
    fn default() -> WalOptions {
        WalOptions { segment_bytes: 64_000_000, spare_pieces: 64 }
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

/// An entry; `data` is the whole encoded raftpb.Entry, written as it is.
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
    /// Left out when unchanged.
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
    /// Whether the snapshot record of the start position was there.
    pub snapshot_found: bool,
    /// The torn tail that was cut off, if any: normal after a power loss. In read-only mode nothing was changed, and
    /// `copy` names no file.
    pub repaired: Option<Repair>,
}

/// A torn tail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repair {
    pub file: FileName,
    /// Where the last whole record ends.
    pub offset: u64,
    /// Copy of the file as it was.
    pub copy: FileName,
    pub reason: &'static str,
}

/// Why a WAL cannot be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WalError {
    Disk(DiskError),
    /// No segment covers the start position.
    NotFound {
        dir: FileName,
        index: u64,
    },
    /// `create` on a directory with segments.
    Exists {
        dir: FileName,
    },
    /// Sequences are not consecutive.
    Gap {
        dir: FileName,
        before: u64,
        after: u64,
    },
    /// The bytes at `offset` are damaged, and it is not a torn tail.
    Corrupt {
        file: FileName,
        offset: u64,
        what: &'static str,
    },
    /// An entry does not follow the one before it.
    EntryGap {
        file: FileName,
        offset: u64,
        expected: u64,
        found: u64,
    },
    /// The record of the start position has another term.
    SnapshotMismatch {
        file: FileName,
        offset: u64,
        expected: u64,
        found: u64,
    },
}

impl fmt::Display for WalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const REMEDY: &str = "restore this member's data directory from a backup, or remove the member and add it anew";
        match self {
            WalError::Disk(error) => error.fmt(f),
            WalError::NotFound { dir, index } => {
                write!(f, "{dir}: no WAL file begins at or before index {index}; {REMEDY}")
            }
            WalError::Exists { dir } => {
                write!(f, "{dir}: there is a WAL already; start with it, or remove the directory")
            }
            WalError::Gap { dir, before, after } => {
                write!(
                    f,
                    "{dir}: WAL files between {before:016x} and {after:016x} are missing; {REMEDY}"
                )
            }
            WalError::Corrupt { file, offset, what } => {
                write!(f, "{file}: corrupt at byte {offset}: {what}; {REMEDY}")
            }
            WalError::EntryGap { file, offset, expected, found } => write!(
                f,
                "{file}: entry {found} at byte {offset} where {expected} or lower was due; {REMEDY}"
            ),
            WalError::SnapshotMismatch { file, offset, expected, found } => write!(
                f,
                "{file}: snapshot record at byte {offset} has term {found}, the snapshot has {expected}; {REMEDY}"
            ),
        }
    }
}

impl std::error::Error for WalError {}

impl From<DiskError> for WalError {
    fn from(error: DiskError) -> WalError {
        WalError::Disk(error)
    }
}
