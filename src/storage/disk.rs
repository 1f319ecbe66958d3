//! The Disk port: everything the core asks of a disk, as data.
//!
//! Changes to files are [`DiskOp`]s. They are collected into a [`DiskBatch`], submitted, and their completion comes
//! back later as an input of the node; nothing in the core waits for a disk. Reads are small and synchronous.
//! Two implementations exist: real files (in the server) and `MemDisk` (here), which crashes, tears, flips,
//! fills and delays by seed.
//!
//! Order: batches of one [`DiskQueue`] run one after the other, the operations of a batch in their order. The two
//! queues do not wait for each other, so a long sync of the revision log does not hold up the WAL.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

/// A path relative to the root of the disk (the data directory), with `/` as separator and no `.` or `..` parts.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileName(Arc<str>);

impl FileName {
    pub fn new(path: impl AsRef<str>) -> FileName {
        FileName(Arc::from(path.as_ref()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part after the last `/`.
    pub fn base(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }

    /// By its name a file that the next start removes: nothing in it need ever reach the disk.
    pub fn is_temporary(&self) -> bool {
        self.base().starts_with("tmp-")
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

/// One change to the disk. Nothing is durable before a later [`DiskOp::Sync`] of the file (data and length) and, for
/// names, a [`DiskOp::SyncDir`] of the directory have succeeded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiskOp {
    /// Makes a directory and its parents; an existing one is fine.
    MakeDir { dir: FileName },
    /// Makes an empty file, or cuts an existing one to nothing.
    Create { file: FileName },
    /// Writes at an offset of an existing file; the file grows when needed, a gap reads as zeros.
    Write { file: FileName, offset: u64, data: Bytes },
    /// Writes `len` zero bytes: space that is really there, so that a later write and sync need no allocation.
    Zero { file: FileName, offset: u64, len: u64 },
    /// Cuts or extends (with zeros) the file.
    SetLen { file: FileName, len: u64 },
    /// Makes the file at least `len` bytes long, with zeros, and keeps that much space for it: quick, because nothing
    /// is written, and a write into it finds the disk never full. (What it costs then is still more than in space
    /// that was written: the system has to note which part of the zeros is gone.)
    Reserve { file: FileName, len: u64 },
    /// Makes the file's bytes and length durable (fdatasync).
    Sync { file: FileName },
    /// Renames; replaces an existing target atomically. An absent source is fine if the target exists: it was renamed
    /// before, by the same operation of a batch that was submitted again.
    Rename { from: FileName, to: FileName },
    /// Removes a file; an absent one is fine.
    Remove { file: FileName },
    /// Makes names created, renamed or removed in the directory durable.
    SyncDir { dir: FileName },
    /// No more writes will come: the implementation may drop its handle.
    Close { file: FileName },
}

impl DiskOp {
    /// Bytes that a write carries.
    pub fn data_len(&self) -> usize {
        match self {
            DiskOp::Write { data, .. } => data.len(),
            _ => 0,
        }
    }
}

/// Which of the two independent lines a batch waits in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DiskQueue {
    /// WAL appends: a client waits for each of them.
    Log,
    /// Revision log, snapshots, preallocation, purge: nobody waits, or not for long.
    Bulk,
}

/// Identifies a submitted batch; chosen by the submitter, unique for the life of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BatchId(pub u64);

/// Operations submitted together and completed together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskBatch {
    pub id: BatchId,
    pub queue: DiskQueue,
    pub ops: Vec<DiskOp>,
}

/// The end of a batch. On `Err` the first `ran` of its operations have taken place, the next one perhaps in part, and the
/// batches that were queued behind it in its queue fail with it: they were built upon it. After `NoSpace` the operations that did
/// not run may be submitted again, in order, and only those: a rename happens once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completion {
    pub id: BatchId,
    /// Operations that have taken place.
    pub ran: usize,
    pub result: Result<(), DiskError>,
}

/// What went wrong, with the file it happened to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiskError {
    /// The disk or quota is full. The one error after which going on is possible.
    NoSpace { file: FileName },
    /// The file or directory is not there.
    NotFound { file: FileName },
    /// Another process holds the data directory.
    Locked { file: FileName },
    /// Anything else the system reported.
    Io { file: FileName, action: &'static str, reason: String },
    /// An earlier sync or write failed; nothing is attempted any more (what a failed sync left is unknown).
    Latched,
}

impl fmt::Display for DiskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DiskError::NoSpace { file } => write!(f, "{file}: no space left on device"),
            DiskError::NotFound { file } => write!(f, "{file}: no such file or directory"),
            DiskError::Locked { file } => write!(f, "{file}: locked by another process"),
            DiskError::Io { file, action, reason } => write!(f, "{action} {file}: {reason}"),
            DiskError::Latched => f.write_str("disk stopped after an earlier failure"),
        }
    }
}

impl std::error::Error for DiskError {}

/// Reading: synchronous, shared, and allowed at any time beside submitted writes. A read sees every operation of a
/// completed batch; of a batch under way it may see any part.
pub trait DiskRead {
    /// Names (not paths) of the entries of a directory, in byte order; an absent directory has none.
    fn list(&self, dir: &FileName) -> Result<Vec<String>, DiskError>;
    /// Length in bytes, `None` when the file is absent.
    fn len(&self, file: &FileName) -> Result<Option<u64>, DiskError>;
    /// Up to `len` bytes from `offset`; fewer only at the end of the file.
    fn read_at(&self, file: &FileName, offset: u64, len: usize) -> Result<Bytes, DiskError>;
}

/// Writing. [`Disk::execute`] is for opening and closing, when there is nothing else to do meanwhile;
/// a running node only submits.
pub trait Disk: DiskRead {
    /// Runs one operation now. Must not be mixed with submitted batches that have not completed.
    fn execute(&mut self, op: &DiskOp) -> Result<(), DiskError>;
    /// Queues a batch; never blocks.
    fn submit(&mut self, batch: DiskBatch);
    /// The next completion, if there is one.
    fn poll(&mut self) -> Option<Completion>;
}
