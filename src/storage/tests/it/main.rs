//! Longer tests of the crate's faces: everything runs on `MemDisk`.

mod bolt;
mod interop;
mod revlog;
mod revlog_workload;
mod support;
mod wal;
mod wal_crashes;
mod wal_damage;
mod wal_segments;
mod wal_workload;
