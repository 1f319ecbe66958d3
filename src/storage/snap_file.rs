//! SKELETON: signatures, bodies follow.
use bytes::Bytes;

use crate::disk::{Disk, DiskError, DiskOp, DiskRead, FileName};

/// Name of a `.snap` file: `<term>-<index>.snap` in 16 hex digits each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SnapName {
    pub term: u64,
    pub index: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SnapError {
    Disk(DiskError),
    Corrupt { file: FileName, what: &'static str },
}

/// The body of a `.snap` file around an encoded raftpb.Snapshot.
pub fn encode(_snapshot: &[u8]) -> Bytes {
    unimplemented!()
}

/// The encoded raftpb.Snapshot inside.
pub fn decode(_file: &FileName, _body: &Bytes) -> Result<Bytes, SnapError> {
    unimplemented!()
}

/// Emits the write and sync of a snapshot file. Complete them before the WAL gets the snapshot's record.
pub fn save(_dir: &FileName, _name: SnapName, _snapshot: &[u8], _ops: &mut Vec<DiskOp>) {
    unimplemented!()
}

/// The newest readable file that `accept`s (true for names that are also in the WAL). Unreadable ones are renamed
/// to `.broken`; leftovers `db.tmp*` are removed.
pub fn load_newest(
    _disk: &mut impl Disk,
    _dir: &FileName,
    _accept: &mut dyn FnMut(SnapName) -> bool,
) -> Result<Option<(SnapName, Bytes)>, SnapError> {
    unimplemented!()
}

/// Emits removal of all but the newest `max` files of suffix `.snap` and, separately, `.snap.db`. 0: keep all.
pub fn purge(
    _disk: &impl DiskRead,
    _dir: &FileName,
    _max: usize,
    _ops: &mut Vec<DiskOp>,
) -> Result<(), DiskError> {
    unimplemented!()
}
