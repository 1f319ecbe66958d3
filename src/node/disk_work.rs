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
use norn_raft::{ConfState, HardState, Message, Snapshot, codec};
use norn_storage::revlog::{AppendId, CheckpointTicket, CollectProgress, CollectTicket};
use norn_storage::snap_file::{self, SnapName};
use norn_storage::wal::{Save, WalEntry, WalSnapshot, WalState};
use norn_storage::{BatchId, Completion, DiskBatch, DiskError, DiskOp, DiskQueue, FileName};

use crate::{Error, Node, Reader, Time, Token};

/// A full disk is tried again after this long.
const RETRY_MS: u64 = 500;
/// Applied changes wait for company until they are this many bytes, or until the next tick: nobody waits for them (the
/// log has them), and a write of a few kilobytes costs as much as one of many. They stay readable in memory.
const BULK_BYTES_MIN: usize = 256 << 10;
/// Bytes appended to the revision log after which a checkpoint is taken even if the entries were few: they are what a
/// restart reads again, and what the WAL is kept for.
const CHECKPOINT_BYTES: u64 = 64 << 20;
/// How many times as many entries as were asked for a checkpoint may wait for, if it would come soon after the last or would write more
/// than was appended since (it has all leases). A busy server would do little else than sync checkpoints.
const CHECKPOINT_STRETCH: u64 = 10;
/// Bytes the collector reads per step: about ten milliseconds of disk.
const COLLECT_BYTES: u64 = 4 << 20;
/// How long the log is kept after a member was sent a snapshot, so that it can go on from there.
const SNAPSHOT_GRACE_MS: u64 = 30_000;

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
    pub(crate) checkpoint_index: u64,
    /// `RevisionLog::appended_bytes` at the last checkpoint.
    pub(crate) checkpoint_appended: u64,
    checkpoint_at: Time,
    is_checkpointing: bool,
    pub(crate) checkpoint_wanted: bool,
    /// To be recorded in the WAL with the next write: a checkpoint is durable.
    record: Option<WalSnapshot>,
    is_preparing: bool,
    is_collecting: bool,
    pub(crate) memory_index: u64,
    /// Snapshots on their way to members, and until when the log is kept for the last one.
    pub(crate) sending: usize,
    pub(crate) keep_log_until: Time,
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
    pub(crate) fn new(saved: WalState, checkpoint_index: u64, applied: u64) -> DiskWork {
        let unsaved = (applied > saved.commit).then_some(WalState { commit: applied, ..saved });
        DiskWork { saved, unsaved, checkpoint_index, memory_index: applied, ..DiskWork::default() }
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
        if self.work.appends.is_empty() && self.work.record.is_none() && last_change.is_none() {
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
        let recorded = self.work.record.take().filter(|_| snapshot.is_none());
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
                self.work.is_checkpointing = false;
                self.backend.log.checkpointed(ticket, true);
                self.work.record = Some(snapshot);
            }
            BulkPart::Prepared => {
                self.work.is_preparing = false;
                self.wal.prepared(true);
            }
            BulkPart::Collected(ticket) => {
                self.work.is_collecting = false;
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

    /// Checkpoints, spare segments, purging, collecting, and the log in memory.
    pub(crate) fn keep_house(&mut self) {
        if self.work.install.is_some() {
            return;
        }
        self.compact_memory();
        if self.work.bulk.is_some() {
            return;
        }
        // (Here, where what is emitted is submitted in the same turn, and not where it becomes possible: an installation
        // forgets what has not been submitted.)
        let emitted = self.work.bulk_ops.len();
        self.wal.purge(self.config.wals_max, &mut self.work.bulk_ops);
        if self.work.bulk_ops.len() > emitted {
            self.work.bulk_parts.push(BulkPart::Other);
        }
        if !self.work.is_preparing && self.wal.prepare(&mut self.work.bulk_ops) {
            self.work.is_preparing = true;
            self.work.bulk_parts.push(BulkPart::Prepared);
        }
        self.check_point();
        let others_done = !self.exports.is_busy() && !self.images.is_busy();
        if !self.work.is_collecting && others_done && !self.store.is_compacting() {
            match self.backend.log.collect(COLLECT_BYTES, &mut self.work.bulk_ops) {
                Ok(CollectProgress::Step(ticket)) => {
                    self.work.is_collecting = true;
                    self.work.bulk_parts.push(BulkPart::Collected(ticket));
                }
                Ok(CollectProgress::Idle | CollectProgress::Waiting) => {}
                Err(error) => self.fail(&format!("revision log: {error}")),
            }
        }
        self.sweep_received();
    }

    /// Takes a checkpoint if one is due; if an index image is due too, first that.
    fn check_point(&mut self) {
        if self.work.is_checkpointing {
            return;
        }
        if self.images.is_busy() {
            // (A step of the collector that is on its way may be its last, and then there is no checkpoint yet.)
            if self.step_image() && !self.work.is_collecting {
                self.finish_image();
                self.checkpoint();
            }
            return;
        }
        let appended = self.backend.log.appended_bytes() - self.work.checkpoint_appended;
        let is_wanted = self.work.checkpoint_wanted || appended >= CHECKPOINT_BYTES;
        let entries = self.applied - self.work.checkpoint_index;
        let count = self.config.snapshot_count;
        let has_rested =
            self.now.since(self.work.checkpoint_at) >= self.config.checkpoint_interval_ms;
        let is_worth_it = has_rested && appended >= self.backend.log.checkpoint_bytes();
        let is_due = (is_wanted && entries > 0)
            || (is_worth_it && entries >= count)
            || entries >= count.saturating_mul(CHECKPOINT_STRETCH);
        if !is_due || self.applied == 0 {
            return;
        }
        if self.image_is_due() {
            self.begin_image();
        } else {
            self.checkpoint();
        }
    }

    fn checkpoint(&mut self) {
        self.commit_applied();
        let mut ops = Vec::new();
        let Some(ticket) = self.backend.log.checkpoint(&mut ops) else { return };
        let conf_state = self.members.conf_state();
        let (index, term) = (self.applied, self.applied_term);
        let snapshot = self.snapshot_at(conf_state.clone());
        let body = codec::encode_snapshot(&snapshot);
        snap_file::save(&self.config.snap_dir, SnapName { term, index }, &body, &mut ops);
        self.work.bulk_ops.append(&mut ops);
        self.work.is_checkpointing = true;
        self.work.checkpoint_wanted = false;
        self.work.checkpoint_index = index;
        self.work.checkpoint_appended = self.backend.log.appended_bytes();
        self.work.checkpoint_at = self.now;
        let conf_state = codec::encode_conf_state(&conf_state);
        let snapshot = WalSnapshot { index, term, conf_state };
        if planted!(CheckpointRecordedEarly) {
            self.work.record = Some(snapshot.clone());
        }
        self.work.bulk_parts.push(BulkPart::Checkpoint { ticket, snapshot });
    }

    /// The state now, as raft and 3.6 members know it: the members in their old form.
    pub(crate) fn snapshot_at(&self, conf_state: ConfState) -> Snapshot {
        let data = Bytes::from(self.members.v2_store_json(self.cluster_version.as_deref()));
        Snapshot {
            data,
            index: norn_raft::Index(self.applied),
            term: norn_raft::Term(self.applied_term),
            conf_state,
        }
    }

    /// The WAL knows of the checkpoint: what came before is not needed any more.
    fn recorded(&mut self, snapshot: &WalSnapshot) {
        self.wal.release_to(snapshot.index);
        self.purge_snapshots();
    }

    /// Forgets entries that no member in reach will ask for.
    fn compact_memory(&mut self) {
        let is_kept = self.applied <= self.work.memory_index + self.config.memory_entries
            || self.work.sending > 0
            || self.now < self.work.keep_log_until;
        let bytes_max = self.config.limits.log_bytes;
        let is_full = self.log_bytes() > bytes_max && !planted!(LogBytesUnread);
        if is_kept && !is_full {
            return;
        }
        let stable = self.raft.storage().last_index().0;
        if self.applied > stable {
            return;
        }
        self.work.memory_index = self.applied;
        let conf_state = self.members.conf_state();
        let index = norn_raft::Index(self.applied);
        let storage = self.raft.storage_mut();
        // (Both refuse only what was done before.)
        let _ = storage.create_snapshot(index, conf_state, Bytes::new());
        let mut keep_from = 0;
        if !is_kept {
            keep_from = self.applied.saturating_sub(self.config.catch_up_entries);
        }
        if is_full {
            // (To half of what there may be: not with every entry again.)
            keep_from = storage.index_keeping(index, bytes_max as u64 / 2).0.max(keep_from);
        }
        if keep_from > 0 {
            let _ = storage.compact(norn_raft::Index(keep_from));
        }
    }

    pub(crate) fn snapshot_sent(&mut self, to: u64, ok: bool) {
        self.work.sending = self.work.sending.saturating_sub(1);
        if ok {
            self.work.keep_log_until = self.now + SNAPSHOT_GRACE_MS;
        }
        self.raft.report_snapshot(norn_raft::NodeId(to), ok);
    }

    /// Nothing is on its way to the disk.
    pub(crate) fn disk_is_idle(&self) -> bool {
        self.work.log.is_none() && self.work.bulk.is_none()
    }
}
