//! Longer tests of the crate's faces: everything runs on `MemDisk`.

mod support;
mod wal;
