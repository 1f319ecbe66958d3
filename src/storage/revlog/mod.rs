//! The revision log: what Norn keeps instead of a bbolt backend.
//!
//! Revisions are appended in order, in batches that also carry the changes of the small tables and the applied index
//! they bring the state to. Nothing is synced per request: raft's WAL gives durability, and everything after the last
//! durable checkpoint can be replayed from it.
//!
//! # Files
//!
//! | name | what it is | written |
//! |---|---|---|
//! | `<first>-<last>-<generation>.seg` | segment: the records of segments first..=last | appended to (generation 0); aside + rename (others) |
//! | `<first>-<last>-<generation>.<version>.live` | which records of a segment live, and where | in pieces, synced before anything names it |
//! | `checkpoint` | where the log was durable, the tables, the list of segments | aside + rename |
//! | `index-<main>.idx` | the caller's index image at a revision | aside + rename |
//! | `*.tmp` | unfinished; removed when the log is opened | |
//!
//! Numbers in names are hexadecimal. Numbers in files are little endian.
//!
//! ## Segment
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 8 | magic `NORNREV1` |
//! | 8 | 8 | first segment number |
//! | 16 | 8 | last segment number |
//! | 24 | 4 | generation: 0 as appended (batches follow), else collected (revision records follow) |
//! | 28 | 4 | chain value before the first batch |
//! | 32 | 4 | CRC-32C of bytes 0..32 |
//! | 36 | 4 | zero |
//!
//! ## Batch
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 4 | body length n |
//! | 4 | 4 | chain: CRC-32C of bytes 0..4 and 8..32+n, continued from the chain of the batch before |
//! | 8 | 8 | applied index |
//! | 16 | 8 | term |
//! | 24 | 4 | number of revision records |
//! | 28 | 4 | number of table records |
//! | 32 | n | revision records, then table records |
//!
//! ## Revision record
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 4 | CRC-32C of bytes 4..24+n |
//! | 4 | 4 | bits 0..30 value length n, bit 31 tombstone |
//! | 8 | 8 | main |
//! | 16 | 8 | sub |
//! | 24 | n | value |
//!
//! ## Table record
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 1 | table |
//! | 1 | 1 | 1: put, 0: removed |
//! | 2 | 2 | zero |
//! | 4 | 4 | key length k |
//! | 8 | 4 | value length v |
//! | 12 | k + v | key, value |
//!
//! ## Sealed file (`.live`, `checkpoint`, `.idx`)
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 8 | magic `NORNLIV1`, `NORNCKP1` or `NORNIDX1` |
//! | 8 | 8 | body length n |
//! | 16 | 4 | CRC-32C of the body |
//! | 20 | 4 | CRC-32C of bytes 0..20 |
//! | 24 | n | body |
//!
//! Body of `.live`: u64 first, u64 last, u32 generation, u32 version, u64 covered (the bytes of the segment it speaks
//! of), u32 chain there, u32 count; then per live record, in order, u32 main (high half), u32 main (low half), u32 sub,
//! u32 offset, u32 length with tombstone in bit 31.
//!
//! Body of `checkpoint`: u64 applied index, u64 term, i64 last main, i64 last sub, u64 deaths, u64 segment and
//! u64 offset of the position, u32 chain there, u32 segments, u32 table records, u32 zero; per segment u64 first,
//! u64 last, u32 generation, u32 version of its `.live` (all ones: none), u64 live records, i64 main and i64 sub of the
//! last revision before it; then the table records.
//!
//! Body of `.idx`: i64 main, u64 deaths, then the caller's bytes.
//!
//! # Why a recovered log is right
//!
//! 1. The checkpoint gets its name after everything it lists has been synced, names included. So whatever is wrong
//!    before its position is damage, reported with file and offset; it is not cut off.
//! 2. Behind the position counts the longest chain of whole batches. The chain value goes through every byte of every
//!    batch before, over segments too: a batch behind a hole, or one left over from before an earlier cut, does not
//!    continue it. So a prefix of what was appended is found, in whole batches, and the applied index says which.
//! 3. Deaths take effect on disk only as a set: all that had been marked when a checkpoint was taken, or none since
//!    the one before. Otherwise an index rebuilt by scanning would see a key without the revisions that explain it.
//!    Hence a `.live` file counts only in the version its checkpoint names, the collector touches only segments
//!    whose deaths are all in the durable checkpoint, and gives up when there is a new one.
//! 4. A collected segment has the same live records as the ones it replaces, so it does not matter whether a crash
//!    leaves the old ones, the new one or both: the highest generation wins. It gets its name after it and its
//!    `.live` file (version 0) were synced.
//! 5. An index image is believed only if the log reaches its revision and the checkpoint knows exactly the deaths
//!    that it knew.
//!
//! The log is deterministic: the same calls emit the same operations.

mod cache;
mod checkpoint;
mod collect;
mod log;
mod record;
mod recover;
mod rows;
mod sealed;
mod segment;

use std::fmt;

use bytes::Bytes;

use crate::disk::{DiskError, FileName};

pub use checkpoint::IndexWriter;
pub use log::RevisionLog;
pub use record::VALUE_BYTES_MAX;
pub use rows::Rows;

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

impl Table {
    pub const ALL: [Table; 9] = [
        Table::Meta,
        Table::Lease,
        Table::Alarm,
        Table::Cluster,
        Table::Members,
        Table::MembersRemoved,
        Table::Auth,
        Table::AuthUsers,
        Table::AuthRoles,
    ];

    /// Name of the bucket in etcd's backend.
    pub fn bucket(self) -> &'static str {
        match self {
            Table::Meta => "meta",
            Table::Lease => "lease",
            Table::Alarm => "alarm",
            Table::Cluster => "cluster",
            Table::Members => "members",
            Table::MembersRemoved => "members_removed",
            Table::Auth => "auth",
            Table::AuthUsers => "authUsers",
            Table::AuthRoles => "authRoles",
        }
    }

    fn parse(number: u8) -> Option<Table> {
        Table::ALL.get(usize::from(number)).copied()
    }
}

/// One revision; `value` is the encoded mvccpb.KeyValue, opaque here. `main` >= 0, `sub` in `0..2^32`.
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

/// What is atomic: the changes of one or more raft entries, and the index they bring the state to.
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
    /// A segment takes no more batches once it has this length. At most 1 GiB.
    pub segment_bytes: u64,
    /// Bound of the block cache.
    pub cache_bytes: usize,
}

impl Default for RevLogOptions {
    /// 64 MiB each: a sealed segment is rewritten in well under a second, and 64 of them are a full default quota.
    fn default() -> RevLogOptions {
        RevLogOptions { segment_bytes: 64 << 20, cache_bytes: 64 << 20 }
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
    /// Newest usable index image: (main, bytes as given to its [`IndexWriter`]). Bring it up to date by scanning from
    /// (main + 1, 0). Without one, rebuild the index by scanning from (0, 0).
    pub index_image: Option<(i64, Bytes)>,
    /// An image that could not be read. It costs a longer scan and nothing else.
    pub index_damage: Option<RevLogError>,
    /// The unfinished end that was cut off, if any: normal after a power loss.
    pub cut: Option<Cut>,
}

/// What was cut off an unfinished log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    pub file: FileName,
    pub offset: u64,
    /// Bytes of this file that were dropped; later files were dropped whole.
    pub bytes: u64,
}

/// Names an append; ascending. Give the newest one whose operations have completed to [`RevisionLog::written`].
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

/// Why the log cannot be opened or read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RevLogError {
    Disk(DiskError),
    /// The bytes there are not those that were written.
    Corrupt {
        file: FileName,
        offset: u64,
        what: &'static str,
    },
    /// A file that the checkpoint lists is not there.
    Missing {
        file: FileName,
    },
}

impl fmt::Display for RevLogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const REMEDY: &str = "restore this member from a peer's snapshot or from a backup";
        match self {
            RevLogError::Disk(error) => error.fmt(f),
            RevLogError::Corrupt { file, offset, what } => {
                write!(f, "{file}: corrupt at byte {offset}: {what}; {REMEDY}")
            }
            RevLogError::Missing { file } => write!(f, "{file}: missing; {REMEDY}"),
        }
    }
}

impl std::error::Error for RevLogError {}

impl From<DiskError> for RevLogError {
    fn from(error: DiskError) -> RevLogError {
        RevLogError::Disk(error)
    }
}
