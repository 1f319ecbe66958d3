//! Bytes on disk behind the Disk port: WAL, snapshot files, revision log, bbolt files.
//!
//! Nothing here waits, and nothing here knows a clock, a thread or a real file. Opening and scanning go through
//! [`Disk::execute`] and [`DiskRead`]; everything that runs only *produces* [`DiskOp`]s,
//! which the host submits, and is told when they have completed.
//!
//! | module | what it keeps | format |
//! |---|---|---|
//! | [`disk`] | the port | |
//! | [`mem_disk`] | a disk that crashes, tears, flips, fills and delays | |
//! | [`wal`] | raft's log | etcd's, byte for byte |
//! | [`snap_file`] | `<term>-<index>.snap` | etcd's, byte for byte |
//! | [`revlog`] | revisions and small tables, instead of a bbolt backend | our own |
//! | [`bbolt`] | import and export of etcd's `db` file | bbolt's, version 2 |
//!
//! # Resubmission
//!
//! [`DiskError::NoSpace`] is the one failure after which going on is possible. Every list of operations this crate
//! emits may then be submitted again, unchanged and in the same order, together with everything that was queued
//! behind it: operations that took place the first time are harmless the second time. Any other failure is final.

pub mod bbolt;
pub mod disk;
pub mod mem_disk;
pub mod revlog;
pub mod snap_file;
pub mod wal;
mod wire;

pub use disk::{
    BatchId, Completion, Disk, DiskBatch, DiskError, DiskOp, DiskQueue, DiskRead, FileName,
};
pub use mem_disk::{MemDisk, Stray};
