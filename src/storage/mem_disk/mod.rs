//! A disk in memory that fails on request.
//!
//! What it does by itself is what a good disk does: batches run at once, in order. On request it
//!
//! - loses power ([`MemDisk::crash`]): synced bytes and names stay; every unsynced change is kept, dropped or torn,
//!   by seed. Tears fall between 512-byte sectors; the last unsynced write of a file may end at any byte;
//! - loses the process ([`MemDisk::kill`]): everything that ran stays, of submitted batches a seeded part runs;
//! - stops at the k-th sync ([`MemDisk::freeze_at_sync`]) and shows every torn variant of the last write;
//! - holds batches back ([`MemDisk::defer`]), fills up, fails an operation, a sync or a read, flips bits, writes in the wrong place.
//!
//! The handle is cheap to clone and shared. A crash starts a new incarnation, to which only the handle that crashed
//! the disk belongs: calls through clones made before fail, so a dead node cannot write on.
//!
//! A batch that fails takes the batches queued behind it in its queue with it: after `NoSpace` the submitter submits
//! them again, in order (see the crate's page). Any other failure latches the disk.

mod damage;
mod pages;
mod rng;
mod tree;

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::disk::{
    BatchId, Completion, Disk, DiskBatch, DiskError, DiskOp, DiskQueue, DiskRead, FileName,
};
use damage::Damage;
pub use damage::Stray;
use rng::Rng;
use tree::{Keep, KeepNames, Tree};

#[derive(Clone)]
pub struct MemDisk {
    shared: Arc<Mutex<State>>,
    incarnation: u64,
}

struct State {
    tree: Tree,
    queues: [VecDeque<Waiting>; 2],
    done: VecDeque<Completion>,
    incarnation: u64,
    deferred: bool,
    capacity: Option<u64>,
    latched: bool,
    ops: u64,
    syncs: u64,
    /// Absolute counts at which to act; see the methods that set them.
    fail_op_at: Option<u64>,
    fail_sync_at: Option<u64>,
    freeze_at: Option<u64>,
    frozen: bool,
    damage: Damage,
}

struct Waiting {
    batch: DiskBatch,
    /// Operations that have run.
    ran: usize,
}

impl Default for MemDisk {
    fn default() -> MemDisk {
        MemDisk::new()
    }
}

impl fmt::Debug for MemDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state();
        write!(f, "MemDisk({} ops, {} syncs, {} bytes)", state.ops, state.syncs, state.tree.used)
    }
}

impl MemDisk {
    pub fn new() -> MemDisk {
        MemDisk::with_tree(Tree::new())
    }

    fn with_tree(tree: Tree) -> MemDisk {
        let state = State {
            tree,
            queues: [VecDeque::new(), VecDeque::new()],
            done: VecDeque::new(),
            incarnation: 0,
            deferred: false,
            capacity: None,
            latched: false,
            ops: 0,
            syncs: 0,
            fail_op_at: None,
            fail_sync_at: None,
            freeze_at: None,
            frozen: false,
            damage: Damage::default(),
        };
        MemDisk { shared: Arc::new(Mutex::new(state)), incarnation: 0 }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere cannot leave the state half changed in a way that matters to a test.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Power loss: what was synced stays, of the rest a seeded share. Batches not yet run may have run in part.
    /// This handle goes over to the next incarnation; all other clones are dead.
    pub fn crash(&mut self, seed: u64) {
        let mut rng = Rng::new(seed);
        let mut state = self.state();
        state.run_some(&mut rng);
        state.tree.crash(&mut rng);
        let incarnation = state.next_incarnation();
        drop(state);
        self.incarnation = incarnation;
    }

    /// The process dies, the machine does not: what was written stays, of submitted batches a seeded part runs.
    /// This handle goes over to the next incarnation; all other clones are dead.
    pub fn kill(&mut self, seed: u64) {
        let mut state = self.state();
        state.run_some(&mut Rng::new(seed));
        let incarnation = state.next_incarnation();
        drop(state);
        self.incarnation = incarnation;
    }

    /// A second disk with the same state, live and durable, and none of the faults.
    pub fn snapshot_image(&self) -> MemDisk {
        MemDisk::with_tree(self.state().tree.clone())
    }

    /// Stops everything just before the k-th sync from now (files and directories; 1 is the next one).
    pub fn freeze_at_sync(&self, k: u64) {
        let mut state = self.state();
        state.freeze_at = Some(state.syncs + k);
    }

    /// Whether the sync of [`MemDisk::freeze_at_sync`] was reached.
    pub fn is_frozen(&self) -> bool {
        self.state().frozen
    }

    /// What a power loss now may leave: nothing or everything of what is unsynced, and the last write torn at every
    /// byte that is near an edge (all of them, for a short write), alone and with everything else; each with all
    /// unsynced names, none, and only the newest.
    pub fn crash_images(&self) -> Vec<MemDisk> {
        let tree = &self.state().tree;
        let mut keeps = vec![Keep::None, Keep::All];
        if let Some(len) = tree.last_write_len() {
            let tears = (0..len).filter(|at| {
                len <= 64 || *at < 10 || len - *at < 10 || at % 512 < 2 || at % 97 == 0
            });
            keeps.extend(tears.flat_map(|n| [Keep::LastTorn(n), Keep::OnlyLast(n)]));
            keeps.push(Keep::OnlyLast(len));
        }
        let names = [KeepNames::All, KeepNames::None, KeepNames::OnlyLast];
        let both = keeps.iter().flat_map(|keep| names.map(|names| (*keep, names)));
        both.map(|(keep, names)| MemDisk::with_tree(tree.crash_exactly(keep, names))).collect()
    }

    /// Bound of the summed length of all files; growth beyond it fails with `NoSpace` after what fits.
    pub fn limit_bytes(&self, capacity: Option<u64>) {
        self.state().capacity = capacity;
    }

    /// Whether there is such a bound.
    pub fn is_limited(&self) -> bool {
        self.state().capacity.is_some()
    }

    /// Summed length of all files.
    pub fn used_bytes(&self) -> u64 {
        self.state().tree.used
    }

    /// Lets the n-th sync from now fail (1 is the next one): what it was to cover is lost, the disk latches.
    pub fn fail_sync(&self, nth: u64) {
        let mut state = self.state();
        state.fail_sync_at = Some(state.syncs + nth);
    }

    /// Lets the n-th operation from now fail (1 is the next one); the disk latches.
    pub fn fail_op(&self, nth: u64) {
        let mut state = self.state();
        state.fail_op_at = Some(state.ops + nth);
    }

    /// `true`: submitted batches wait for [`MemDisk::step`] or [`MemDisk::complete_next`].
    /// `false` (as at the beginning): they run when submitted; what waits now runs first.
    pub fn defer(&self, on: bool) {
        let mut state = self.state();
        state.deferred = on;
        for queue in [DiskQueue::Log, DiskQueue::Bulk] {
            while !on && state.step(queue) {}
        }
    }

    /// Runs one operation of the first batch of a queue; false when the queue is empty.
    pub fn step(&self, queue: DiskQueue) -> bool {
        self.state().step(queue)
    }

    /// Runs the first batch of a queue to its end; its completion can then be polled.
    pub fn complete_next(&self, queue: DiskQueue) -> Option<BatchId> {
        let mut state = self.state();
        let id = state.queues[queue as usize].front()?.batch.id;
        while state.queues[queue as usize].front().is_some_and(|first| first.batch.id == id) {
            state.step(queue);
        }
        Some(id)
    }

    /// Batches of a queue that have not completed.
    pub fn waiting(&self, queue: DiskQueue) -> usize {
        self.state().queues[queue as usize].len()
    }

    /// Operations run since the disk was made, syncs included.
    pub fn ops(&self) -> u64 {
        self.state().ops
    }

    /// Syncs of files and directories since the disk was made.
    pub fn syncs(&self) -> u64 {
        self.state().syncs
    }

    fn alive(&self) -> Result<MutexGuard<'_, State>, DiskError> {
        let state = self.state();
        if state.incarnation == self.incarnation { Ok(state) } else { Err(DiskError::Latched) }
    }
}

impl State {
    fn next_incarnation(&mut self) -> u64 {
        self.incarnation += 1;
        self.queues = [VecDeque::new(), VecDeque::new()];
        self.done.clear();
        self.latched = false;
        self.fail_op_at = None;
        self.fail_sync_at = None;
        self.freeze_at = None;
        self.frozen = false;
        self.damage.forget();
        self.incarnation
    }

    /// Runs a seeded number of waiting operations, the two queues interleaved.
    fn run_some(&mut self, rng: &mut Rng) {
        let waiting =
            self.queues.iter().flatten().map(|w| w.batch.ops.len() - w.ran).sum::<usize>();
        for _ in 0..rng.below(waiting as u64 + 1) {
            let queue = if rng.chance(1, 2) { DiskQueue::Log } else { DiskQueue::Bulk };
            self.step(queue);
        }
    }

    fn step(&mut self, queue: DiskQueue) -> bool {
        let Some(first) = self.queues[queue as usize].front_mut() else {
            return false;
        };
        let op = first.batch.ops.get(first.ran).cloned();
        first.ran += 1;
        let last = first.ran >= first.batch.ops.len();
        let result = op.map_or(Ok(()), |op| self.run(&op));
        match result {
            Ok(()) if !last => {}
            Ok(()) => {
                let first = self.queues[queue as usize].pop_front().expect("it was there");
                let (id, ran) = (first.batch.id, first.batch.ops.len());
                self.done.push_back(Completion { id, ran, result: Ok(()) });
            }
            Err(error) => {
                // What stands behind was built upon this batch.
                for waiting in std::mem::take(&mut self.queues[queue as usize]) {
                    let (id, result) = (waiting.batch.id, Err(error.clone()));
                    let ran = waiting.ran.saturating_sub(1);
                    self.done.push_back(Completion { id, ran, result });
                }
            }
        }
        true
    }

    fn run(&mut self, op: &DiskOp) -> Result<(), DiskError> {
        if self.latched {
            return Err(DiskError::Latched);
        }
        self.ops += 1;
        let synced = match op {
            DiskOp::Sync { file } => Some(file),
            DiskOp::SyncDir { dir } => Some(dir),
            _ => None,
        };
        if let Some(file) = synced {
            self.syncs += 1;
            if self.freeze_at == Some(self.syncs) {
                self.frozen = true;
                self.latched = true;
                return Err(DiskError::Latched);
            }
            if self.fail_sync_at == Some(self.syncs) {
                self.tree.lose_pending(file);
                self.latched = true;
                return Err(io(file, "sync"));
            }
        }
        if self.fail_op_at == Some(self.ops) {
            self.latched = true;
            return Err(io(target(op), "operation on"));
        }
        let room = self.capacity.map_or(u64::MAX, |most| most.saturating_sub(self.tree.used));
        let result = match self.damage.misdirect(op, &self.tree) {
            // (The disk has room for what it should not have written.)
            Some(stray) => self.tree.run(&stray, u64::MAX),
            None => self.tree.run(op, room),
        };
        if !matches!(result, Ok(()) | Err(DiskError::NoSpace { .. })) {
            self.latched = true;
        }
        result
    }
}

impl DiskRead for MemDisk {
    fn list(&self, dir: &FileName) -> Result<Vec<String>, DiskError> {
        Ok(self.alive()?.tree.list(dir))
    }

    fn len(&self, file: &FileName) -> Result<Option<u64>, DiskError> {
        Ok(self.alive()?.tree.bytes(file).map(|bytes| bytes.len()))
    }

    fn read_at(&self, file: &FileName, offset: u64, len: usize) -> Result<Bytes, DiskError> {
        let mut state = self.alive()?;
        state.damage.read(file)?;
        let Some(bytes) = state.tree.bytes(file) else {
            return Err(DiskError::NotFound { file: file.clone() });
        };
        Ok(bytes.read(offset, len))
    }
}

impl Disk for MemDisk {
    fn execute(&mut self, op: &DiskOp) -> Result<(), DiskError> {
        let mut state = self.alive()?;
        assert!(
            state.queues.iter().all(VecDeque::is_empty),
            "execute beside submitted batches: {op:?}"
        );
        let latched = state.latched;
        let result = state.run(op);
        // Opening copes with absent files and with names in the way; only a running node must stop.
        if matches!(result, Err(DiskError::NotFound { .. })) {
            state.latched = latched;
        }
        result
    }

    fn submit(&mut self, batch: DiskBatch) {
        let queue = batch.queue;
        let Ok(mut state) = self.alive() else { return };
        state.queues[queue as usize].push_back(Waiting { batch, ran: 0 });
        while !state.deferred && state.step(queue) {}
    }

    fn poll(&mut self) -> Option<Completion> {
        self.alive().ok()?.done.pop_front()
    }
}

fn target(op: &DiskOp) -> &FileName {
    match op {
        DiskOp::MakeDir { dir } | DiskOp::SyncDir { dir } => dir,
        DiskOp::Rename { from, .. } => from,
        DiskOp::Create { file }
        | DiskOp::Write { file, .. }
        | DiskOp::Zero { file, .. }
        | DiskOp::SetLen { file, .. }
        | DiskOp::Reserve { file, .. }
        | DiskOp::Sync { file }
        | DiskOp::Remove { file }
        | DiskOp::Close { file } => file,
    }
}

fn io(file: &FileName, action: &'static str) -> DiskError {
    DiskError::Io { file: file.clone(), action, reason: "injected".to_string() }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn name(path: &str) -> FileName {
        FileName::new(path)
    }

    fn write(file: &str, offset: u64, data: &'static [u8]) -> DiskOp {
        DiskOp::Write { file: name(file), offset, data: Bytes::from_static(data) }
    }

    fn run(disk: &mut MemDisk, ops: &[DiskOp]) {
        for op in ops {
            disk.execute(op).unwrap();
        }
    }

    #[test]
    fn synced_bytes_and_names_survive_every_crash() {
        for seed in 0..200 {
            let mut disk = MemDisk::new();
            run(
                &mut disk,
                &[
                    DiskOp::MakeDir { dir: name("a/b.tmp") },
                    DiskOp::Create { file: name("a/b.tmp/f") },
                    write("a/b.tmp/f", 0, b"durable"),
                    DiskOp::Sync { file: name("a/b.tmp/f") },
                    DiskOp::SyncDir { dir: name("a/b.tmp") },
                    DiskOp::Rename { from: name("a/b.tmp"), to: name("a/b") },
                    DiskOp::SyncDir { dir: name("a") },
                    DiskOp::SyncDir { dir: name("") },
                    write("a/b/f", 7, b" and not"),
                    DiskOp::Create { file: name("a/b/g") },
                ],
            );
            let mut dead = disk.clone();
            disk.crash(seed);
            let bytes = disk.read_at(&name("a/b/f"), 0, 100).unwrap();
            assert!(bytes.starts_with(b"durable") && bytes.len() <= 15, "{bytes:?}");
            assert!(disk.list(&name("a")).unwrap() == ["b"]);
            assert_eq!(dead.execute(&write("a/b/f", 0, b"x")), Err(DiskError::Latched));
            assert_eq!(dead.read_at(&name("a/b/f"), 0, 1), Err(DiskError::Latched));
        }
    }

    #[test]
    fn an_unsynced_rename_is_whole_or_absent() {
        let mut seen = [false; 2];
        for seed in 0..100 {
            let mut disk = MemDisk::new();
            let (old, new) = (name("old"), name("new"));
            run(
                &mut disk,
                &[DiskOp::Create { file: old.clone() }, DiskOp::SyncDir { dir: name("") }],
            );
            run(&mut disk, &[DiskOp::Rename { from: old, to: new }]);
            disk.crash(seed);
            let names = disk.list(&name("")).unwrap();
            assert!(names == ["old"] || names == ["new"], "{names:?}");
            seen[usize::from(names == ["new"])] = true;
        }
        assert_eq!(seen, [true; 2]);
    }

    /// They are in the same page of the cache when it is written back.
    #[test]
    fn a_sector_keeps_no_write_without_those_before_it() {
        let mut seen = BTreeSet::new();
        for seed in 0..500 {
            let mut disk = MemDisk::new();
            run(
                &mut disk,
                &[
                    DiskOp::Create { file: name("f") },
                    write("f", 0, &[0; 1024]),
                    DiskOp::Sync { file: name("f") },
                    DiskOp::SyncDir { dir: name("") },
                    write("f", 0, &[1; 700]),
                    write("f", 700, &[2; 4]),
                ],
            );
            disk.crash(seed);
            let bytes = disk.read_at(&name("f"), 0, 1024).unwrap();
            let kept = [bytes[0], bytes[512], bytes[700]];
            assert!(kept[2] == 0 || kept[1] == 1, "seed {seed}: {kept:?}");
            seen.insert(kept);
        }
        let all = [[0, 0, 0], [0, 1, 0], [0, 1, 2], [1, 0, 0], [1, 1, 0], [1, 1, 2]];
        assert_eq!(seen, BTreeSet::from(all));
    }

    #[test]
    fn a_full_disk_takes_what_fits_and_recovers() {
        let mut disk = MemDisk::new();
        disk.limit_bytes(Some(4));
        let ops = vec![DiskOp::Create { file: name("f") }, write("f", 0, b"123456")];
        let batch = |id, ops: &[DiskOp]| DiskBatch {
            id: BatchId(id),
            queue: DiskQueue::Bulk,
            ops: ops.to_vec(),
        };
        disk.submit(batch(1, &ops));
        let full = Err(DiskError::NoSpace { file: name("f") });
        assert_eq!(disk.poll(), Some(Completion { id: BatchId(1), ran: 1, result: full }));
        assert_eq!(disk.used_bytes(), 4);
        disk.limit_bytes(None);
        disk.submit(batch(2, &ops));
        assert_eq!(disk.poll(), Some(Completion { id: BatchId(2), ran: 2, result: Ok(()) }));
        assert_eq!(&disk.read_at(&name("f"), 0, 9).unwrap()[..], b"123456");
    }

    #[test]
    fn a_failed_sync_loses_what_it_covered_and_latches() {
        let mut disk = MemDisk::new();
        run(&mut disk, &[DiskOp::Create { file: name("f") }, DiskOp::SyncDir { dir: name("") }]);
        run(&mut disk, &[write("f", 0, b"lost")]);
        disk.fail_sync(1);
        assert!(disk.execute(&DiskOp::Sync { file: name("f") }).is_err());
        assert_eq!(disk.execute(&DiskOp::Sync { file: name("f") }), Err(DiskError::Latched));
        disk.crash(1);
        assert_eq!(disk.len(&name("f")), Ok(Some(0)));
    }

    #[test]
    fn deferred_batches_run_by_hand_and_queues_are_independent() {
        let mut disk = MemDisk::new();
        disk.defer(true);
        for (id, queue) in [(1, DiskQueue::Log), (2, DiskQueue::Bulk), (3, DiskQueue::Log)] {
            let ops = vec![DiskOp::Create { file: name(&format!("f{id}")) }];
            disk.submit(DiskBatch { id: BatchId(id), queue, ops });
        }
        assert_eq!(disk.poll(), None);
        assert_eq!(disk.complete_next(DiskQueue::Bulk), Some(BatchId(2)));
        assert_eq!(disk.complete_next(DiskQueue::Log), Some(BatchId(1)));
        assert_eq!(disk.list(&name("")).unwrap(), ["f1", "f2"]);
        assert_eq!(disk.poll().map(|done| done.id), Some(BatchId(2)));
        disk.defer(false);
        assert_eq!(disk.poll().map(|done| done.id), Some(BatchId(1)));
        assert_eq!(disk.poll().map(|done| done.id), Some(BatchId(3)));
    }
}
