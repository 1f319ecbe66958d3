//! What the node wants written, and what follows when it is.
//!
//! Two lines of work, each with at most one batch on its way; whatever comes up meanwhile is the next batch:
//!
//! ```text
//!   log    raft's entries and votes, synced       a client waits    then: acknowledge to raft and to the leader
//!   bulk   revision log, checkpoints, segments    nobody waits      then: release memory, purge, go on
//! ```
//!
//! A commit index alone is not worth a write: it goes along with the next entries, or with a tick. Small changes of the
//! revision log wait for more of them in the same way. The exception is a change of the membership: once its caller was
//! told, machines are switched off, and a member that forgot the commit index in a power failure would wait for their votes
//! for ever. So its commit index is synced before anybody is told.

use std::collections::VecDeque;

use bytes::Bytes;
use norn_planted::planted;
use norn_raft::{HardState, Message, Snapshot, codec};
use norn_storage::revlog::{AppendId, CheckpointTicket, CollectTicket};
use norn_storage::snap_file::{self, SnapName};
use norn_storage::wal::{Save, WalEntry, WalSnapshot, WalState};
use norn_storage::{BatchId, Completion, DiskBatch, DiskError, DiskOp, DiskQueue, FileName};

use crate::{Error, Node, Reader, Time, Token};

/// A full disk is tried again after this long.
const RETRY_MS: u64 = 500;
/// Applied changes wait for company until they are this many bytes, or until the next tick: nobody waits for them (the
/// log has them), and a write of a few kilobytes costs as much as one of many. They stay readable in memory.
const BULK_BYTES_MIN: usize = 256 << 10;

#[derive(Debug, Default)]
pub(crate) struct DiskWork {
    next_batch: u64,
    /// raft's orders to its append thread that are not on their way.
    pub(crate) appends: VecDeque<Message>,
    /// What raft wants applied and was not, because too much of what was is not on disk.
    pub(crate) applies: VecDeque<Message>,
    log: Option<LogWrite>,
    bulk: Option<BulkWrite>,
    /// The next bulk batch, and what to do when it is done.
    pub(crate) bulk_ops: Vec<DiskOp>,
    pub(crate) bulk_parts: Vec<BulkPart>,
    /// Of applied changes, in the next bulk batch.
    bulk_bytes: usize,
    /// A tick has passed since the last bulk batch.
    bulk_is_due: bool,
    /// What the WAL holds of raft's hard state, synced or not.
    pub(crate) saved: WalState,
    /// The newest commit index that was synced in this life, which a restart must know.
    synced_commit: u64,
    /// A commit index that the WAL has not got.
    unsaved: Option<WalState>,
    /// Membership changes whose commit index is not synced, and who waits for it, oldest first.
    changes: VecDeque<ChangeWait>,
    /// Something was applied that the revision log has not got.
    pub(crate) has_applied: bool,
    /// Watchers are behind and have room.
    pub(crate) catch_up_more: bool,
    /// A snapshot that is durable and must replace the state before anything else happens.
    pub(crate) install: Option<Install>,
}

#[derive(Debug)]
struct ChangeWait {
    index: u64,
    reply: Option<(Token, Result<Bytes, Error>)>,
}

#[derive(Debug)]
struct LogWrite {
    batch: DiskBatch,
    is_synced: bool,
    appends: Vec<Message>,
    recorded: Option<WalSnapshot>,
    state: Option<WalState>,
    retry_at: Option<Time>,
}

#[derive(Debug)]
struct BulkWrite {
    batch: DiskBatch,
    parts: Vec<BulkPart>,
    retry_at: Option<Time>,
}

/// Part of a bulk batch, by what its completion means.
#[derive(Debug)]
pub(crate) enum BulkPart {
    Appended(AppendId),
    Checkpoint { ticket: CheckpointTicket, snapshot: WalSnapshot },
    Prepared,
    Collected(CollectTicket),
    Removed(FileName),
    ExportStep,
    ImageStep,
    Other,
}

/// A received snapshot, ready to become the state.
#[derive(Debug)]
pub(crate) struct Install {
    pub(crate) file: FileName,
    pub(crate) snapshot: Snapshot,
    /// raft's order, to be acknowledged afterwards.
    pub(crate) append: Message,
}

impl DiskWork {
    /// What the revision log has applied is committed, even if the WAL lost that (a commit index alone is not synced).
    /// It must get to know before it records a snapshot: one beyond its commit index would not be believed.
    pub(crate) fn new(saved: WalState, applied: u64) -> DiskWork {
        let unsaved = (applied > saved.commit).then_some(WalState { commit: applied, ..saved });
        DiskWork { saved, unsaved, ..DiskWork::default() }
    }

    /// Drops the next bulk batch.
    pub(crate) fn forget_bulk(&mut self) {
        self.bulk_ops.clear();
        self.bulk_parts.clear();
        self.bulk_bytes = 0;
    }
}

/// What is left of a batch of the log whose operation at `ran` met a full disk.
///
/// A write that did not fit ends somewhere within a sector. Were it continued as it is, a power loss could leave that sector as it was then,
/// zeros at its end, between others as they are now: a record that does not look torn. So the file is cut back first, durably, to
/// where this batch began to write it.
fn rewind(ops: &mut Vec<DiskOp>, ran: usize) {
    let Some(DiskOp::Write { file, .. }) = ops.get(ran) else {
        ops.drain(..ran);
        return;
    };
    let file = file.clone();
    let of_file = |op: &DiskOp| matches!(op, DiskOp::Write { file: name, .. } if *name == file);
    let from = ops[..ran].iter().rposition(|op| !of_file(op)).map_or(0, |before| before + 1);
    let DiskOp::Write { offset: len, .. } = ops[from] else { unreachable!("all of these write") };
    ops.splice(..from, [DiskOp::SetLen { file: file.clone(), len }, DiskOp::Sync { file }]);
}

impl<R: Reader> Node<R> {
    /// Starts the next log write, if there is one. True when something was delivered without a write, so that raft
    /// may have more to do.
    pub(crate) fn write_log(&mut self) -> bool {
        if self.work.log.is_some() || self.work.install.is_some() {
            return false;
        }
        let last_change = self.work.changes.back().map(|change| change.index);
        if self.work.appends.is_empty() && self.house.record.is_none() && last_change.is_none() {
            return false;
        }
        let mut appends = Vec::new();
        let mut entries: Vec<WalEntry> = Vec::new();
        let mut state = None;
        let mut ops = Vec::new();
        let mut snapshot = None;
        while let Some(append) = self.work.appends.front() {
            let is_snapshot = append.snapshot.as_ref().is_some_and(|s| !s.is_empty());
            if is_snapshot && !appends.is_empty() {
                break;
            }
            let append = self.work.appends.pop_front().expect("looked at above");
            for entry in &append.entries {
                // A new leader may have replaced what was queued and not written yet.
                let after = |e: &WalEntry| e.index < entry.index.0;
                entries.truncate(entries.partition_point(after));
                entries.push(WalEntry {
                    term: entry.term.0,
                    index: entry.index.0,
                    data: codec::encode_entry(entry),
                });
            }
            if append.term.0 != 0 {
                state = Some(WalState {
                    term: append.term.0,
                    vote: append.vote.0,
                    commit: append.commit.0,
                });
            }
            if let Some(received) = append.snapshot.as_ref().filter(|s| !s.is_empty()) {
                snapshot = Some(WalSnapshot {
                    index: received.index.0,
                    term: received.term.0,
                    conf_state: codec::encode_conf_state(&received.conf_state),
                });
                let name = SnapName { term: received.term.0, index: received.index.0 };
                let body = codec::encode_snapshot(received);
                snap_file::save(&self.config.snap_dir, name, &body, &mut ops);
            }
            appends.push(append);
            if is_snapshot {
                break;
            }
        }
        let saved = self.work.saved;
        let voted = state.is_some_and(|s| (s.term, s.vote) != (saved.term, saved.vote));
        // A received snapshot outdates a checkpoint that waits for its record: written behind it, that would send the
        // next start back to before the gap.
        let recorded = self.house.record.take().filter(|_| snapshot.is_none());
        let record = snapshot.clone().or_else(|| recorded.clone());
        if entries.is_empty() && !voted && record.is_none() && last_change.is_none() {
            self.work.unsaved = state.or(self.work.unsaved);
            for append in appends {
                self.appended(append);
            }
            return true;
        }
        // (What waited is older: written later, it would take the commit index back, and with it the snapshots that
        // the next start believes.)
        let mut state = state.or(self.work.unsaved);
        self.work.unsaved = None;
        if let Some(index) = last_change {
            let known = state.unwrap_or(saved);
            state = Some(WalState { commit: known.commit.max(index), ..known });
        }
        let sync = !planted!(SyncIgnored);
        let save = Save { entries: &entries, state, snapshot: record, sync };
        self.wal.append(&save, &mut ops);
        let batch = self.batch(DiskQueue::Log, ops);
        self.out.disk.push(batch.clone());
        let is_synced = true;
        self.work.log =
            Some(LogWrite { batch, is_synced, appends, recorded, state, retry_at: None });
        false
    }

    /// Writes what has been waiting for company: applied changes, and a commit index.
    pub(crate) fn write_rest(&mut self) {
        self.retry_writes();
        self.work.bulk_is_due = true;
        if self.work.log.is_some() || !self.work.appends.is_empty() {
            return;
        }
        let Some(state) = self.work.unsaved.take() else { return };
        if state == self.work.saved {
            return;
        }
        let mut ops = Vec::new();
        let save = Save { entries: &[], state: Some(state), snapshot: None, sync: false };
        self.wal.append(&save, &mut ops);
        let batch = self.batch(DiskQueue::Log, ops);
        self.out.disk.push(batch.clone());
        self.work.log = Some(LogWrite {
            batch,
            is_synced: false,
            appends: Vec::new(),
            recorded: None,
            state: Some(state),
            retry_at: None,
        });
    }

    fn batch(&mut self, queue: DiskQueue, ops: Vec<DiskOp>) -> DiskBatch {
        self.work.next_batch += 1;
        DiskBatch { id: BatchId(self.work.next_batch), queue, ops }
    }

    pub(crate) fn disk_done(&mut self, completion: Completion) {
        if self.work.log.as_ref().is_some_and(|write| write.batch.id == completion.id) {
            self.log_done(completion.ran, completion.result);
        } else if self.work.bulk.as_ref().is_some_and(|write| write.batch.id == completion.id) {
            self.bulk_done(completion.ran, completion.result);
        } else {
            panic!("completion of {:?}, which is not on its way", completion.id);
        }
    }

    fn log_done(&mut self, ran: usize, result: Result<(), DiskError>) {
        let Some(mut write) = self.work.log.take() else { return };
        match result {
            Ok(()) => {}
            Err(DiskError::NoSpace { file }) => {
                self.warn(
                    "no space for the write-ahead log; waiting for room",
                    vec![("file", file.to_string())],
                );
                self.raise_no_space();
                rewind(&mut write.batch.ops, ran);
                write.retry_at = Some(self.now + RETRY_MS);
                self.work.log = Some(write);
                return;
            }
            // What a failed sync left on the disk is unknown: going on could lose what was acknowledged.
            Err(error) => return self.fail(&format!("write-ahead log: {error}")),
        }
        if let Some(state) = write.state {
            self.work.saved = state;
            if write.is_synced {
                self.work.synced_commit = state.commit;
                self.changes_are_durable(state.commit);
            }
        }
        if let Some(recorded) = write.recorded {
            self.recorded(&recorded);
        }
        for append in write.appends {
            match append.snapshot.clone().filter(|snapshot| !snapshot.is_empty()) {
                Some(snapshot) => self.begin_install(*snapshot, append),
                None => self.appended(append),
            }
        }
    }

    /// The membership changed at the index that was applied last: `reply` is sent once a restart would know it, too.
    pub(crate) fn await_change(&mut self, reply: Option<(Token, Result<Bytes, Error>)>) {
        self.work.changes.push_back(ChangeWait { index: self.applied, reply });
    }

    fn changes_are_durable(&mut self, commit: u64) {
        while self.work.changes.front().is_some_and(|change| change.index <= commit) {
            let change = self.work.changes.pop_front().expect("looked at above");
            if let Some((token, result)) = change.reply {
                self.reply(token, result);
            }
        }
    }

    /// A restart would know every membership change that this node has applied.
    pub fn is_membership_durable(&self) -> bool {
        self.work.changes.is_empty()
    }

    /// The commit index that this life has made durable; 0: none yet.
    pub fn durable_commit(&self) -> u64 {
        self.work.synced_commit
    }

    /// raft's order is durable (or needed no durability).
    pub(crate) fn appended(&mut self, append: Message) {
        let storage = self.raft.storage_mut();
        if !append.entries.is_empty() {
            storage.append(append.entries);
        }
        if append.term.0 != 0 {
            storage.set_hard_state(HardState {
                term: append.term,
                vote: append.vote,
                commit: append.commit,
            });
        }
        for response in append.responses {
            if response.to.0 == self.id {
                self.step_self(response);
            } else {
                self.out.messages.push(response);
            }
        }
    }

    fn bulk_done(&mut self, ran: usize, result: Result<(), DiskError>) {
        let Some(mut write) = self.work.bulk.take() else { return };
        match result {
            Ok(()) => {
                for part in write.parts {
                    self.part_done(part);
                }
            }
            Err(DiskError::NoSpace { file }) => {
                self.warn(
                    "no space for the revision log; waiting for room",
                    vec![("file", file.to_string())],
                );
                self.raise_no_space();
                write.batch.ops.drain(..ran);
                write.retry_at = Some(self.now + RETRY_MS);
                self.work.bulk = Some(write);
            }
            Err(error) => self.fail(&format!("revision log: {error}")),
        }
    }

    fn part_done(&mut self, part: BulkPart) {
        match part {
            BulkPart::Appended(id) => self.backend.log.written(id),
            BulkPart::Checkpoint { ticket, snapshot } => {
                self.house.is_checkpointing = false;
                self.backend.log.checkpointed(ticket, true);
                self.house.record = Some(snapshot);
            }
            BulkPart::Prepared => {
                self.house.is_preparing = false;
                self.wal.prepared(true);
            }
            BulkPart::Collected(ticket) => {
                self.house.is_collecting = false;
                self.backend.log.collected(ticket, true);
            }
            BulkPart::Removed(file) => self.received.removed(&file),
            BulkPart::ExportStep => self.export_written(),
            BulkPart::ImageStep => self.images.written(),
            BulkPart::Other => {}
        }
    }

    fn retry_writes(&mut self) {
        let now = self.now;
        let due = |at: &mut Option<Time>| at.take_if(|at| *at <= now).is_some();
        let mut again = Vec::new();
        if let Some(write) = &mut self.work.log
            && due(&mut write.retry_at)
        {
            self.work.next_batch += 1;
            write.batch.id = BatchId(self.work.next_batch);
            again.push(write.batch.clone());
        }
        if let Some(write) = &mut self.work.bulk
            && due(&mut write.retry_at)
        {
            self.work.next_batch += 1;
            write.batch.id = BatchId(self.work.next_batch);
            again.push(write.batch.clone());
        }
        self.out.disk.extend(again);
    }

    /// Gives everything applied so far to the revision log, as one batch.
    pub(crate) fn commit_applied(&mut self) {
        if !std::mem::take(&mut self.work.has_applied) || self.is_failed {
            return;
        }
        let ops = &mut self.work.bulk_ops;
        let before = ops.len();
        let id = self.backend.commit(self.applied, self.applied_term, ops);
        let bytes = ops[before..].iter().map(DiskOp::data_len).sum::<usize>();
        self.work.bulk_bytes += bytes;
        self.work.bulk_parts.push(BulkPart::Appended(id));
    }

    /// Whether the next bulk batch has something in it that should not wait, or enough of what may.
    fn bulk_is_due(&self) -> bool {
        let may_wait = |part: &BulkPart| matches!(part, BulkPart::Appended(_));
        let most = self.config.limits.unwritten_bytes / 2;
        self.work.bulk_is_due
            || self.work.bulk_bytes >= BULK_BYTES_MIN.min(most)
            || !self.work.bulk_parts.iter().all(may_wait)
    }

    pub(crate) fn flush_bulk(&mut self) {
        if self.work.bulk.is_some() || self.is_failed || self.work.install.is_some() {
            return;
        }
        if self.work.bulk_ops.is_empty() {
            // Parts without operations are done already.
            for part in std::mem::take(&mut self.work.bulk_parts) {
                self.part_done(part);
            }
            return;
        }
        if !self.bulk_is_due() {
            return;
        }
        let ops = std::mem::take(&mut self.work.bulk_ops);
        let parts = std::mem::take(&mut self.work.bulk_parts);
        self.work.bulk_bytes = 0;
        self.work.bulk_is_due = false;
        let batch = self.batch(DiskQueue::Bulk, ops);
        self.out.disk.push(batch.clone());
        self.work.bulk = Some(BulkWrite { batch, parts, retry_at: None });
    }

    /// A batch that nobody waits for is on its way.
    pub(crate) fn bulk_is_busy(&self) -> bool {
        self.work.bulk.is_some()
    }

    /// Nothing is on its way to the disk.
    pub(crate) fn disk_is_idle(&self) -> bool {
        self.work.log.is_none() && self.work.bulk.is_none()
    }
}
