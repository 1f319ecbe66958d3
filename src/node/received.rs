//! Databases that leaders sent: each waits until the log has its snapshot, becomes the state, and is removed.

use std::collections::BTreeMap;

use norn_planted::planted;
use norn_raft::{Message, Snapshot};
use norn_storage::{DiskOp, FileName, snap_file};

use crate::disk_work::{BulkPart, Install};
use crate::{Node, Reader};

/// Databases that wait: one that is about to be read, and one for which raft forgot the first. A disk that stands still while leaders go on
/// sending would fill up with more.
pub(crate) const WAITING_MAX: usize = 2;

#[derive(Debug, Default)]
pub(crate) struct Received {
    /// By the index of the snapshot.
    pub(crate) waiting: BTreeMap<u64, FileName>,
    /// Whose removal is on its way: it would hit another one of that name.
    removing: Vec<FileName>,
}

impl Received {
    pub(crate) fn removed(&mut self, file: &FileName) {
        if let Some(at) = self.removing.iter().position(|other| other == file) {
            self.removing.swap_remove(at);
        }
    }

    /// The next bulk batch, and what it was to remove, will not be.
    pub(crate) fn forget_removals(&mut self, parts: &[BulkPart]) {
        for part in parts {
            if let BulkPart::Removed(file) = part {
                self.removed(file);
            }
        }
    }
}

impl<R: Reader> Node<R> {
    pub(crate) fn snapshot_received(&mut self, message: Message, file: FileName) {
        let Some(snapshot) = &message.snapshot else { return };
        if self.members.is_removed(message.from.0) {
            return;
        }
        let index = snapshot.index.0;
        let received = &mut self.received;
        if received.waiting.contains_key(&index) {
            let _ = self.raft.step(message);
            return;
        }
        let has_room = received.waiting.len() < WAITING_MAX && !received.removing.contains(&file);
        let before = self.raft.committed().0;
        if has_room {
            received.waiting.insert(index, file.clone());
            let _ = self.raft.step(message);
        }
        // What raft did not want is too old, or of a leader of the past. What there was no room for is as good as lost: whoever sent it will
        // ask, and send another.
        if before >= index || self.raft.committed().0 != index {
            self.received.waiting.remove(&index);
            self.remove_file(file);
        }
    }

    pub(crate) fn begin_install(&mut self, snapshot: Snapshot, append: Message) {
        let Some(file) = self.received.waiting.get(&snapshot.index.0).cloned() else {
            return self.fail("raft accepted a snapshot whose database was not received");
        };
        self.work.install = Some(Install { file, snapshot, append });
    }

    /// Removes those that the state has passed.
    pub(crate) fn sweep_received(&mut self) {
        let waiting = &self.received.waiting;
        let newest = waiting.keys().next_back().copied().unwrap_or(0);
        let upto = if planted!(ReceivedSwept) { newest.saturating_sub(1) } else { self.applied };
        let stale: Vec<u64> = waiting.range(..=upto).map(|(index, _)| *index).collect();
        for index in stale {
            if let Some(file) = self.received.waiting.remove(&index) {
                self.remove_file(file);
            }
        }
    }

    /// Removes the oldest snapshot files and databases, but for those that wait.
    pub(crate) fn purge_snapshots(&mut self) {
        let mut ops = Vec::new();
        let waiting = &self.received.waiting;
        let is_wanted = |file: &FileName| waiting.values().any(|wanted| wanted == file);
        let (dir, max) = (&self.config.snap_dir, self.config.snapshots_max);
        // (A directory that cannot be listed now will be purged at the next checkpoint.)
        let _ = snap_file::purge(self.backend.reader(), dir, max, &is_wanted, &mut ops);
        self.work.bulk_parts.push(BulkPart::Other);
        for op in ops {
            match op {
                DiskOp::Remove { file } => self.remove_file(file),
                op => self.work.bulk_ops.push(op),
            }
        }
    }

    fn remove_file(&mut self, file: FileName) {
        self.received.removing.push(file.clone());
        self.work.bulk_ops.push(DiskOp::Remove { file: file.clone() });
        self.work.bulk_parts.push(BulkPart::Removed(file));
    }
}
