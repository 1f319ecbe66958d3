//! Longer tests of the crate's faces: everything runs on `MemDisk`.

mod revlog;
mod support;
mod wal;
