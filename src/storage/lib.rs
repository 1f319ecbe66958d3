//! Bytes on disk behind the Disk port: WAL, snapshot files, revision log, bbolt files.

pub mod disk;

pub use disk::{BatchId, Completion, Disk, DiskBatch, DiskError, DiskOp, DiskQueue, DiskRead, FileName};
