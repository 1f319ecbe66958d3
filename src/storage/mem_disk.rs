//! SKELETON: signatures, bodies follow.
use bytes::Bytes;

use crate::disk::*;

/// A disk in memory that fails on request. A cheap-clone handle.
#[derive(Clone, Default)]
pub struct MemDisk {}

#[allow(unused_variables, clippy::needless_pass_by_ref_mut)]
impl MemDisk {
    pub fn new() -> MemDisk {
        unimplemented!()
    }
    /// Power loss: what was synced stays, of the rest a seeded share. This handle belongs to the next
    /// incarnation; all other clones are dead (their calls fail with `Latched`).
    pub fn crash(&mut self, seed: u64) {
        unimplemented!()
    }
    /// The process dies: what was written stays, of submitted batches a seeded part runs.
    pub fn kill(&mut self, seed: u64) {
        unimplemented!()
    }
    pub fn flip_bit(&self, file: &FileName, offset: u64, bit: u8) -> bool {
        unimplemented!()
    }
    /// Total bytes of all files; growth beyond fails with NoSpace.
    pub fn limit_bytes(&self, capacity: Option<u64>) {
        unimplemented!()
    }
    pub fn fail_sync(&self, nth_from_now: Option<u64>) {
        unimplemented!()
    }
    pub fn fail_op(&self, nth_from_now: Option<u64>) {
        unimplemented!()
    }
    /// true: submitted batches run only by `step`/`complete_next`.
    pub fn defer(&self, on: bool) {
        unimplemented!()
    }
    /// Runs one operation of the front batch of a queue; false when the queue is empty.
    pub fn step(&self, queue: DiskQueue) -> bool {
        unimplemented!()
    }
    /// Runs the front batch of a queue to its end.
    pub fn complete_next(&self, queue: DiskQueue) -> Option<BatchId> {
        unimplemented!()
    }
    pub fn syncs(&self) -> u64 {
        unimplemented!()
    }
    pub fn ops(&self) -> u64 {
        unimplemented!()
    }
}

#[allow(unused_variables)]
impl DiskRead for MemDisk {
    fn list(&self, dir: &FileName) -> Result<Vec<String>, DiskError> {
        unimplemented!()
    }
    fn len(&self, file: &FileName) -> Result<Option<u64>, DiskError> {
        unimplemented!()
    }
    fn read_at(&self, file: &FileName, offset: u64, len: usize) -> Result<Bytes, DiskError> {
        unimplemented!()
    }
}

#[allow(unused_variables)]
impl Disk for MemDisk {
    fn execute(&mut self, op: &DiskOp) -> Result<(), DiskError> {
        unimplemented!()
    }
    fn submit(&mut self, batch: DiskBatch) {
        unimplemented!()
    }
    fn poll(&mut self) -> Option<Completion> {
        unimplemented!()
    }
}
