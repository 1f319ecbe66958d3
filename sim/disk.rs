//! A member's disk: MemDisk, batches of the world's own beside the node's, and a sync that may lie.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use norn_storage::{
    BatchId, Completion, Disk, DiskBatch, DiskError, DiskOp, DiskQueue, DiskRead, FileName, MemDisk,
};

/// Ids from here on are the world's.
const FOREIGN: u64 = 1 << 60;

#[derive(Clone)]
pub struct SimDisk {
    pub inner: MemDisk,
    pub ignores_sync: bool,
    /// Completions of the world's batches, and how many of those are under way.
    foreign: Arc<Mutex<(Vec<Completion>, usize)>>,
}

impl SimDisk {
    pub fn new(ignores_sync: bool) -> SimDisk {
        SimDisk { inner: MemDisk::new(), ignores_sync, foreign: Arc::default() }
    }

    /// Writes a received database the way the server does: aside, synced, renamed, directory synced.
    pub fn store(&mut self, number: u64, file: &FileName, data: Bytes) {
        let aside = FileName::new(format!("member/snap/receive-{number}.tmp"));
        let ops = vec![
            DiskOp::Create { file: aside.clone() },
            DiskOp::Write { file: aside.clone(), offset: 0, data },
            DiskOp::Sync { file: aside.clone() },
            DiskOp::Rename { from: aside, to: file.clone() },
            DiskOp::SyncDir { dir: FileName::new("member/snap") },
        ];
        self.foreign.lock().expect("no holder panics").1 += 1;
        self.submit(DiskBatch { id: BatchId(FOREIGN + number), queue: DiskQueue::Bulk, ops });
    }

    /// The world's completions since the last call.
    pub fn stored(&self) -> Vec<(u64, Result<(), DiskError>)> {
        let done = std::mem::take(&mut self.foreign.lock().expect("no holder panics").0);
        done.into_iter().map(|c| (c.id.0 - FOREIGN, c.result)).collect()
    }

    pub fn forget_foreign(&mut self) {
        self.foreign = Arc::default();
    }

    fn honest(&self, op: &DiskOp) -> bool {
        !self.ignores_sync || !matches!(op, DiskOp::Sync { .. } | DiskOp::SyncDir { .. })
    }
}

impl DiskRead for SimDisk {
    fn list(&self, dir: &FileName) -> Result<Vec<String>, DiskError> {
        self.inner.list(dir)
    }

    fn len(&self, file: &FileName) -> Result<Option<u64>, DiskError> {
        self.inner.len(file)
    }

    fn read_at(&self, file: &FileName, offset: u64, len: usize) -> Result<Bytes, DiskError> {
        self.inner.read_at(file, offset, len)
    }
}

impl Disk for SimDisk {
    fn execute(&mut self, op: &DiskOp) -> Result<(), DiskError> {
        // The node runs operations at once only when none of its batches is under way; ours go first.
        while self.foreign.lock().expect("no holder panics").1 > 0
            && self.inner.complete_next(DiskQueue::Bulk).is_some()
        {
            if let Some(done) = self.poll() {
                panic!("execute beside a batch of the node: {:?}", done.id);
            }
        }
        if self.honest(op) { self.inner.execute(op) } else { Ok(()) }
    }

    fn submit(&mut self, mut batch: DiskBatch) {
        batch.ops.retain(|op| self.honest(op));
        self.inner.submit(batch);
    }

    fn poll(&mut self) -> Option<Completion> {
        loop {
            let done = self.inner.poll()?;
            if done.id.0 < FOREIGN {
                return Some(done);
            }
            let mut foreign = self.foreign.lock().expect("no holder panics");
            foreign.0.push(done);
            foreign.1 -= 1;
        }
    }
}

/// Files that are complete and have checksums: without what is being received, the end of the WAL, and databases that leaders sent, whose
/// format (etcd's) has none for what lies still.
pub fn still(disk: &impl DiskRead) -> Vec<FileName> {
    let mut files = Vec::new();
    for dir in ["member/wal", "member/snap", "member/rev"] {
        let mut names = disk.list(&FileName::new(dir)).unwrap_or_default();
        names.retain(|name| !name.contains("tmp") && !name.ends_with(".db"));
        if dir == "member/wal" {
            names.pop();
        }
        files.extend(names.iter().map(|name| FileName::new(format!("{dir}/{name}"))));
    }
    files
}
