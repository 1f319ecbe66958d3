//! What is done so that a restart reads little, and disk and memory do not fill up: checkpoints, with index images before them, spare
//! segments, purging, collecting, forgetting entries.
//!
//! ```text
//!   [image, in pieces ->] checkpoint -> recorded in the WAL -> older segments and snapshots go
//! ```

use bytes::Bytes;
use norn_planted::planted;
use norn_raft::{ConfState, Index, NodeId, Snapshot, Term, codec};
use norn_storage::revlog::CollectProgress;
use norn_storage::snap_file::{self, SnapName};
use norn_storage::wal::WalSnapshot;

use crate::disk_work::BulkPart;
use crate::pace::Pace;
use crate::{Node, Reader, Time};

/// Bytes appended to the revision log after which a checkpoint is taken even if the entries were few: they are what a
/// restart reads again, and what the WAL is kept for.
const CHECKPOINT_BYTES: u64 = 64 << 20;
/// How many times as many entries as were asked for a checkpoint may wait for, if it would come soon after the last or would write more
/// than was appended since (it has all leases). A busy server would do little else than sync checkpoints.
const CHECKPOINT_STRETCH: u64 = 10;
/// Bytes the collector reads per step, on the node's thread: about a millisecond of a fast disk.
const COLLECT_BYTES: u64 = 512 << 10;
/// Entries that are forgotten per turn: a quarter of a millisecond. (More if more were applied.)
const FORGET_ENTRIES: u64 = 8_192;
/// How long the log is kept after a member was sent a snapshot, so that it can go on from there.
const SNAPSHOT_GRACE_MS: u64 = 30_000;

#[derive(Debug, Default)]
pub(crate) struct House {
    pub(crate) checkpoint_index: u64,
    /// `RevisionLog::appended_bytes` at the last checkpoint.
    pub(crate) checkpoint_appended: u64,
    checkpoint_at: Time,
    pub(crate) is_checkpointing: bool,
    /// A checkpoint is due: what it has to say about deaths is said, a piece per turn.
    pub(crate) is_saving: bool,
    saver: Pace,
    /// To be recorded in the WAL with the next write: a checkpoint is durable.
    pub(crate) record: Option<WalSnapshot>,
    pub(crate) is_preparing: bool,
    pub(crate) is_collecting: bool,
    /// The collector's last step was not its last.
    collects_more: bool,
    collector: Pace,
    pub(crate) memory_index: u64,
    /// Entries up to here are to be forgotten, some of them in each turn.
    forget_to: u64,
    /// What was applied when that was looked at last.
    forgot_at: u64,
    /// Snapshots on their way to members, and until when the log is kept for the last one.
    pub(crate) sending: usize,
    keep_log_until: Time,
}

impl House {
    pub(crate) fn new(checkpoint_index: u64, applied: u64) -> House {
        House { checkpoint_index, memory_index: applied, forgot_at: applied, ..House::default() }
    }
}

impl<R: Reader> Node<R> {
    /// Checkpoints, spare segments, purging, collecting, and the log in memory.
    pub(crate) fn keep_house(&mut self) {
        if self.work.install.is_some() {
            return;
        }
        self.compact_memory();
        if !self.may_keep_house() {
            return;
        }
        // (Here, where what is emitted is submitted in the same turn, and not where it becomes possible: an installation
        // forgets what has not been submitted.)
        let emitted = self.work.bulk_ops.len();
        self.wal.purge(self.config.wals_max, &mut self.work.bulk_ops);
        if self.work.bulk_ops.len() > emitted {
            self.work.bulk_parts.push(BulkPart::Other);
        }
        if !self.house.is_preparing && self.wal.prepare(&mut self.work.bulk_ops) {
            self.house.is_preparing = true;
            self.work.bulk_parts.push(BulkPart::Prepared);
        }
        self.check_point();
        self.collect_some();
        self.sweep_received();
    }

    /// Nothing of it is on its way, and the state is not being replaced.
    pub(crate) fn may_keep_house(&self) -> bool {
        !self.bulk_is_busy() && self.work.install.is_none() && !self.is_failed
    }

    /// When the collector may go on, if it is in the midst of something.
    pub(crate) fn collector_due(&self) -> Option<Time> {
        let goes_on = self.house.collects_more && self.can_collect() && self.may_keep_house();
        goes_on.then(|| self.due(self.house.collector, self.config.work_pause_ms))
    }

    fn can_collect(&self) -> bool {
        let others_done =
            !self.exports.is_busy() && !self.images.is_busy() && !self.house.is_saving;
        !self.house.is_collecting && others_done && !self.store.is_compacting()
    }

    fn collect_some(&mut self) {
        let due = self.due(self.house.collector, self.config.work_pause_ms);
        if !self.can_collect() || due > self.now {
            return;
        }
        match self.backend.log.collect(COLLECT_BYTES, &mut self.work.bulk_ops) {
            Ok(CollectProgress::Step(ticket)) => {
                self.house.collector.stepped(self.now);
                self.house.is_collecting = true;
                self.work.bulk_parts.push(BulkPart::Collected(ticket));
            }
            Ok(CollectProgress::Idle | CollectProgress::Waiting) => {}
            Err(error) => self.fail(&format!("revision log: {error}")),
        }
        self.house.collects_more = self.house.is_collecting;
    }

    /// Takes a checkpoint if one is due: what it says about deaths comes first, in pieces, then an index image if that is due too.
    fn check_point(&mut self) {
        if self.house.is_checkpointing {
            return;
        }
        if self.images.is_busy() {
            // (A step of the collector that is on its way may be its last, and then there is no checkpoint yet.)
            if self.step_image() && !self.house.is_collecting {
                // (A segment has perhaps become full while the image was written: what there is to say of it is as much as of any other.)
                self.house.is_saving = self.save_some();
                if !self.house.is_saving {
                    self.finish_image();
                    self.checkpoint();
                }
            }
            return;
        }
        if !self.house.is_saving && !self.checkpoint_is_due() {
            return;
        }
        self.house.is_saving = self.save_some();
        if self.house.is_saving {
            return;
        }
        if self.image_is_due() {
            self.begin_image();
        } else {
            self.checkpoint();
        }
    }

    fn checkpoint_is_due(&self) -> bool {
        let appended = self.backend.log.appended_bytes() - self.house.checkpoint_appended;
        let entries = self.applied - self.house.checkpoint_index;
        let count = self.config.snapshot_count;
        let has_rested =
            self.now.since(self.house.checkpoint_at) >= self.config.checkpoint_interval_ms;
        let is_worth_it = has_rested && appended >= self.backend.log.checkpoint_bytes();
        let is_due = (appended >= CHECKPOINT_BYTES && entries > 0)
            || (is_worth_it && entries >= count)
            || (self.is_its_turn(count.saturating_mul(CHECKPOINT_STRETCH)) && entries >= count);
        is_due && self.applied > 0
    }

    /// When the next piece about deaths may be said, if there is one.
    pub(crate) fn saving_due(&self) -> Option<Time> {
        (self.house.is_saving && self.may_keep_house())
            .then(|| self.due(self.house.saver, self.config.work_pause_ms))
    }

    /// Says the next piece, if it is time. True: there is more to say.
    fn save_some(&mut self) -> bool {
        if !self.backend.log.has_unsaved() {
            return false;
        }
        if self.due(self.house.saver, self.config.work_pause_ms) > self.now {
            return true;
        }
        self.house.saver.stepped(self.now);
        let step_bytes = self.config.image_step_bytes;
        let more = self.backend.log.save_some(step_bytes, &mut self.work.bulk_ops);
        self.work.bulk_parts.push(BulkPart::Other);
        more
    }

    /// Among the voters of a busy cluster each has its own moment for what all of them do once in so many entries, spread evenly: the
    /// others are a quorum that it does not keep waiting.
    fn is_its_turn(&self, period: u64) -> bool {
        let voters = &self.raft.conf_state().voters;
        let rank = voters.iter().position(|id| id.0 == self.id).unwrap_or(0);
        let phase = period / voters.len().max(1) as u64 * rank as u64;
        let turn = |index: u64| index.saturating_add(phase) / period.max(1);
        turn(self.applied) > turn(self.house.checkpoint_index)
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
        self.house.is_checkpointing = true;
        self.house.checkpoint_index = index;
        self.house.checkpoint_appended = self.backend.log.appended_bytes();
        self.house.checkpoint_at = self.now;
        let conf_state = codec::encode_conf_state(&conf_state);
        let snapshot = WalSnapshot { index, term, conf_state };
        if planted!(CheckpointRecordedEarly) {
            self.house.record = Some(snapshot.clone());
        }
        self.work.bulk_parts.push(BulkPart::Checkpoint { ticket, snapshot });
    }

    /// The state now, as raft and 3.6 members know it: the members in their old form.
    pub(crate) fn snapshot_at(&self, conf_state: ConfState) -> Snapshot {
        let data = Bytes::from(self.members.v2_store_json(self.cluster_version.as_deref()));
        Snapshot { data, index: Index(self.applied), term: Term(self.applied_term), conf_state }
    }

    /// The WAL knows of the checkpoint: what came before is not needed any more.
    pub(crate) fn recorded(&mut self, snapshot: &WalSnapshot) {
        self.wal.release_to(snapshot.index);
        self.purge_snapshots();
    }

    /// Forgets entries that no member in reach will ask for.
    fn compact_memory(&mut self) {
        self.choose_what_to_forget();
        // (Twice of what comes, or what is kept would grow.)
        let came =
            self.applied.saturating_sub(std::mem::replace(&mut self.house.forgot_at, self.applied));
        let count = FORGET_ENTRIES.max(2 * came);
        let storage = self.raft.storage_mut();
        let base = storage.first_index().0 - 1;
        if self.house.forget_to > base {
            // (It refuses only what was done before.)
            let _ = storage.compact(Index(self.house.forget_to.min(base + count)));
        }
    }

    /// There are entries to be forgotten yet.
    pub(crate) fn forgets_more(&self) -> bool {
        let is_there = self.house.forget_to >= self.raft.storage().first_index().0;
        is_there && self.work.install.is_none()
    }

    fn choose_what_to_forget(&mut self) {
        let is_kept = self.applied <= self.house.memory_index + self.config.memory_entries
            || self.house.sending > 0
            || self.now < self.house.keep_log_until;
        let bytes_max = self.config.limits.log_bytes;
        let is_full = self.log_bytes() > bytes_max && !planted!(LogBytesUnread);
        if is_kept && !is_full {
            return;
        }
        let stable = self.raft.storage().last_index().0;
        if self.applied > stable {
            return;
        }
        self.house.memory_index = self.applied;
        let conf_state = self.members.conf_state();
        let index = Index(self.applied);
        let storage = self.raft.storage_mut();
        // (It refuses only what was done before.)
        let _ = storage.create_snapshot(index, conf_state, Bytes::new());
        let mut keep_from = 0;
        if !is_kept {
            keep_from = self.applied.saturating_sub(self.config.catch_up_entries);
        }
        if is_full {
            // (To half of what there may be: not with every entry again.)
            keep_from = storage.index_keeping(index, bytes_max as u64 / 2).0.max(keep_from);
        }
        self.house.forget_to = keep_from.max(self.house.forget_to);
    }

    pub(crate) fn snapshot_sent(&mut self, to: u64, ok: bool) {
        self.house.sending = self.house.sending.saturating_sub(1);
        if ok {
            self.house.keep_log_until = self.now + SNAPSHOT_GRACE_MS;
        }
        self.raft.report_snapshot(NodeId(to), ok);
    }
}
