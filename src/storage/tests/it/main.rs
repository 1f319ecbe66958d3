//! Longer tests of the crate's faces: everything runs on `MemDisk`.

mod bolt;
mod interop;
mod revlog;
mod revlog_workload;
mod support;
mod wal;
