//! Bringing the followers' logs into line with the leader's, and committing (thesis sections 3.5, 3.6).

use crate::codec;
use crate::error::{DropReason, ProposeError};
use crate::message::{Message, MessageKind};
use crate::progress::ProgressState;
use crate::raft::Raft;
use crate::ready::payload_bytes;
use crate::sink::note;
use crate::storage::StorageError;
use crate::types::{AnyConfChange, ConfChangeV2, Entry, EntryKind, Index, NodeId, Role, Term};
use norn_planted::planted;

impl Raft {
    pub(crate) fn tick_leader(&mut self) {
        self.heartbeat_elapsed += 1;
        self.election_elapsed += 1;
        if self.election_elapsed >= self.config.election_ticks {
            self.election_elapsed = 0;
            if self.config.check_quorum {
                self.on_check_quorum();
            }
            // The transferee had its time. Proposals must flow again.
            if self.role == Role::Leader {
                self.leader_transferee = NodeId::NONE;
            }
        }
        if self.role == Role::Leader && self.heartbeat_elapsed >= self.config.heartbeat_ticks {
            self.heartbeat_elapsed = 0;
            self.broadcast_heartbeat();
        }
    }

    // ---- proposals ----

    pub(crate) fn forward_proposal(&mut self, message: Message) -> Result<(), ProposeError> {
        if self.leader.is_none() {
            self.note_no_leader();
            return Err(ProposeError(DropReason::NoLeader));
        }
        if self.config.disable_proposal_forwarding {
            note!(
                self.sink,
                Info,
                "{} not forwarding to leader {} at term {}; dropping proposal",
                self.id,
                self.leader,
                self.term
            );
            return Err(ProposeError(DropReason::ForwardingDisabled));
        }
        self.send(Message { to: self.leader, ..message });
        Ok(())
    }

    pub(crate) fn on_proposal(&mut self, message: Message) -> Result<(), ProposeError> {
        let mut entries = message.entries;
        if entries.is_empty() {
            return Err(ProposeError(DropReason::Empty));
        }
        if self.tracker.progress(self.id).is_none() {
            // Removed, and only leading on until somebody else takes over.
            return Err(ProposeError(DropReason::NotMember));
        }
        if !self.leader_transferee.is_none() {
            note!(
                self.sink,
                Debug,
                "{} [term {}] transfer leadership to {} is in progress; dropping proposal",
                self.id,
                self.term,
                self.leader_transferee
            );
            return Err(ProposeError(DropReason::Transferring));
        }
        let before = self.pending_conf_index;
        for (i, entry) in entries.iter_mut().enumerate() {
            if entry.kind != EntryKind::Normal {
                let index = self.log.last_index().plus(i + 1);
                self.admit_conf_change(entry, index)?;
            }
        }
        if !self.append_proposals(entries) {
            self.pending_conf_index = before;
            return Err(ProposeError(DropReason::UncommittedLimit));
        }
        self.broadcast_append();
        Ok(())
    }

    /// Lets a membership change into the log at `index`, or puts an empty entry in its place.
    fn admit_conf_change(&mut self, entry: &mut Entry, index: Index) -> Result<(), ProposeError> {
        let Some(change) = decode_conf_change(entry) else {
            // It would stop every member at the moment of applying it.
            return Err(ProposeError(DropReason::BadConfChange));
        };
        let is_joint = self.tracker.membership.voters.is_joint();
        let wants_leave = match &change {
            AnyConfChange::V1(_) => false,
            AnyConfChange::V2(change) => change.changes.is_empty(),
        };
        let applied = self.log.applied();
        let refusal = if self.pending_conf_index > applied && !planted!(TwoChangesPending) {
            Some(format!(
                "possible unapplied conf change at index {} (applied to {applied})",
                self.pending_conf_index
            ))
        } else if is_joint && !wants_leave {
            Some("must transition out of joint config first".to_owned())
        } else if !is_joint && wants_leave {
            Some("not in joint state; refusing empty conf change".to_owned())
        } else {
            None
        };
        match refusal {
            Some(refusal) if !self.config.disable_conf_change_validation => {
                note!(
                    self.sink,
                    Info,
                    "{} ignoring conf change {} at config {}: {refusal}",
                    self.id,
                    describe_change(&change),
                    self.tracker.membership
                );
                *entry = Entry::default();
            }
            _ => self.pending_conf_index = index,
        }
        Ok(())
    }

    /// Gives entries their place at the end of the leader's log. False if too much is uncommitted already.
    pub(crate) fn append_proposals(&mut self, mut entries: Vec<Entry>) -> bool {
        let bytes = payload_bytes(&entries);
        let total = self.uncommitted_bytes.saturating_add(bytes);
        // The first proposal is let in whatever its size, or it could never be; and so is what has no
        // payload, since leaving a joint configuration and a new term's first entry must not fail.
        if self.uncommitted_bytes > 0 && bytes > 0 && total > self.config.uncommitted_bytes_limit()
        {
            note!(
                self.sink,
                Warn,
                "{} appending new entries to log would exceed uncommitted entry size limit; dropping \
                 proposal",
                self.id
            );
            return false;
        }
        self.uncommitted_bytes = total;
        let mut index = self.log.last_index();
        for entry in &mut entries {
            index = index.next();
            entry.index = index;
            entry.term = self.term;
        }
        self.log.append(&mut self.sink, entries);
        // Our own acknowledgement waits for our own disk.
        self.send(Message { index, ..Message::new(MessageKind::AppResp, self.id) });
        let is_alone = self.tracker.membership.is_sole_voter(self.id);
        if planted!(OwnAppendEarly) || (planted!(SoleVoterHasty) && is_alone) {
            self.on_append_accepted(self.id, index);
        }
        true
    }

    // ---- sending ----

    pub(crate) fn broadcast_append(&mut self) {
        for position in 0..self.tracker.len() {
            let to = self.tracker.id_at(position);
            if to != self.id {
                self.send_append(to);
            }
        }
    }

    pub(crate) fn broadcast_heartbeat(&mut self) {
        let context = self.reads.heartbeat_context();
        for position in 0..self.tracker.len() {
            let to = self.tracker.id_at(position);
            if to == self.id {
                continue;
            }
            let committed = self.log.committed();
            let Some(progress) = self.tracker.progress_mut(to) else {
                continue;
            };
            // Not beyond what is known to match: the follower would commit something else.
            let verified = if planted!(CommitUnverified) { committed } else { progress.matched };
            let commit = verified.min(committed);
            progress.sent_commit = commit;
            let context = context.clone();
            self.send(Message { commit, context, ..Message::new(MessageKind::Heartbeat, to) });
        }
    }

    /// Sends what `to` lacks, or at least our commit index, unless flow control forbids.
    pub(crate) fn send_append(&mut self, to: NodeId) {
        self.maybe_send_append(to, true);
    }

    /// As [`Raft::send_append`]; without entries only if `even_empty`. Whether anything was sent.
    pub(crate) fn maybe_send_append(&mut self, to: NodeId, even_empty: bool) -> bool {
        let Some(progress) = self.tracker.progress_mut(to) else {
            return false;
        };
        if progress.is_paused() {
            return false;
        }
        let prev = progress.next.prev();
        let Ok(log_term) = self.log.term(prev) else {
            return self.maybe_send_snapshot(to);
        };
        // A full window takes no more entries, but the commit index may still go out: if all of the window
        // was lost, the answer to an empty append is what gets us going again.
        let entries = if progress.state == ProgressState::Replicate && progress.inflights.is_full()
        {
            Vec::new()
        } else {
            match self.log.entries_from(progress.next, self.config.message_bytes_max) {
                Ok(entries) => entries,
                Err(_) => return self.maybe_send_snapshot(to),
            }
        };
        if entries.is_empty() && !even_empty {
            return false;
        }
        let commit = self.log.committed();
        progress.on_sent(entries.len(), payload_bytes(&entries));
        progress.sent_commit = commit;
        self.send(Message {
            index: prev,
            log_term,
            entries,
            commit,
            ..Message::new(MessageKind::App, to)
        });
        true
    }

    fn maybe_send_snapshot(&mut self, to: NodeId) -> bool {
        let Some(progress) = self.tracker.progress_mut(to) else {
            return false;
        };
        if !progress.recent_active {
            note!(
                self.sink,
                Debug,
                "ignore sending snapshot to {to} since it is not recently active"
            );
            return false;
        }
        let snapshot = match self.log.snapshot() {
            Ok(snapshot) if !snapshot.is_empty() => snapshot.clone(),
            Err(StorageError::SnapshotTemporarilyUnavailable) => {
                note!(
                    self.sink,
                    Debug,
                    "{} failed to send snapshot to {to} because snapshot is temporarily unavailable",
                    self.id
                );
                return false;
            }
            // The log is cut although there is no snapshot: the application must make one first.
            Ok(_) | Err(_) => return false,
        };
        let (index, term) = (snapshot.index, snapshot.term);
        note!(
            self.sink,
            Debug,
            "{} [firstindex: {}, commit: {}] sent snapshot[index: {index}, term: {term}] to {to} \
             [{progress}]",
            self.id,
            self.log.first_index(),
            self.log.committed()
        );
        progress.become_snapshot(index);
        note!(
            self.sink,
            Debug,
            "{} paused sending replication messages to {to} [{progress}]",
            self.id
        );
        self.send(Message {
            snapshot: Some(Box::new(snapshot)),
            ..Message::new(MessageKind::Snap, to)
        });
        true
    }

    // ---- answers ----

    pub(crate) fn on_append_response(&mut self, message: &Message) {
        let Some(progress) = self.tracker.progress_mut(message.from) else {
            return;
        };
        // An acknowledgement beyond our own log cannot be about our log.
        if message.index > self.log.last_index() {
            return;
        }
        progress.recent_active = true;
        if message.reject {
            self.on_append_rejected(message);
        } else {
            self.on_append_accepted(message.from, message.index);
        }
    }

    fn on_append_rejected(&mut self, message: &Message) {
        let from = message.from;
        note!(
            self.sink,
            Debug,
            "{} received MsgAppResp(rejected, hint: (index {}, term {})) from {from} for index {}",
            self.id,
            message.reject_hint,
            message.log_term,
            message.index
        );
        // The follower's log at the hint has this term; ours may have a later one there, and then cannot
        // match before its own entries of that term.
        let probe = if message.log_term > Term(0) {
            self.log.find_conflict_by_term(message.reject_hint, message.log_term).0
        } else {
            message.reject_hint
        };
        let Some(progress) = self.tracker.progress_mut(from) else {
            return;
        };
        if !progress.on_rejected(message.index, probe) {
            return;
        }
        note!(self.sink, Debug, "{} decreased progress of {from} to [{progress}]", self.id);
        if progress.state == ProgressState::Replicate {
            progress.become_probe();
        }
        self.send_append(from);
    }

    fn on_append_accepted(&mut self, from: NodeId, index: Index) {
        let first_index = self.log.first_index();
        let Some(progress) = self.tracker.progress_mut(from) else {
            return;
        };
        let is_news = progress.on_acked(index);
        // A probe that confirms what we knew still tells that the way is open.
        let ends_probe = progress.matched == index && progress.state == ProgressState::Probe;
        if !is_news && !ends_probe {
            return;
        }
        match progress.state {
            ProgressState::Probe => progress.become_replicate(),
            // Whatever snapshot it got, and from whom: its log now connects to ours.
            ProgressState::Snapshot if progress.matched.next() >= first_index => {
                note!(
                    self.sink,
                    Debug,
                    "{} recovered from needing snapshot, resumed sending replication messages to \
                     {from} [{progress}]",
                    self.id
                );
                progress.become_probe();
                progress.become_replicate();
            }
            ProgressState::Snapshot => {}
            ProgressState::Replicate => progress.inflights.free_to(index),
        }
        let matched = progress.matched;
        let can_bump_commit = progress.can_bump_commit(self.log.committed());
        if self.maybe_commit() {
            self.release_postponed_reads();
            self.broadcast_append();
        } else if from != self.id && can_bump_commit {
            self.send_append(from);
        }
        if from == self.id {
            return;
        }
        // The acknowledgement made room: fill it.
        while self.maybe_send_append(from, false) {}
        self.maybe_finish_transfer(from, matched);
    }

    pub(crate) fn maybe_commit(&mut self) -> bool {
        self.log.maybe_commit(self.tracker.committed(), self.term)
    }

    pub(crate) fn on_heartbeat_response(&mut self, message: &Message) {
        let last = self.log.last_index();
        let Some(progress) = self.tracker.progress_mut(message.from) else {
            return;
        };
        progress.recent_active = true;
        progress.flow_paused = false;
        // It lives, but may have lost what we sent. An empty append costs little and finds out.
        if progress.matched < last || progress.state == ProgressState::Probe {
            self.send_append(message.from);
        }
        self.on_read_ack(message.from, &message.context);
    }

    pub(crate) fn on_snapshot_status(&mut self, message: &Message) {
        let Some(progress) = self.tracker.progress_mut(message.from) else {
            return;
        };
        if progress.state != ProgressState::Snapshot {
            return;
        }
        let outcome = if message.reject { "failed" } else { "succeeded" };
        if message.reject {
            // It did not arrive: probe from where the follower was.
            progress.pending_snapshot = Index::ZERO;
        }
        progress.become_probe();
        note!(
            self.sink,
            Debug,
            "{} snapshot {outcome}, resumed sending replication messages to {} [{progress}]",
            self.id,
            message.from
        );
        // Sent or lost, give it a heartbeat's time before the next try.
        progress.flow_paused = true;
    }

    pub(crate) fn on_unreachable(&mut self, from: NodeId) {
        let Some(progress) = self.tracker.progress_mut(from) else {
            return;
        };
        // What we sent ahead is probably lost.
        if progress.state == ProgressState::Replicate {
            progress.become_probe();
        }
        note!(
            self.sink,
            Debug,
            "{} failed to send message to {from} because it is unreachable [{progress}]",
            self.id
        );
    }

    // ---- the follower's side ----

    pub(crate) fn on_append(&mut self, message: Message) {
        let Message { from, index, log_term, entries, commit, .. } = message;
        let committed = self.log.committed();
        if index < committed {
            // Older than what we know to be final: tell where we are instead of comparing.
            self.send(Message { index: committed, ..Message::new(MessageKind::AppResp, from) });
            return;
        }
        if !are_contiguous(index, &entries) {
            return;
        }
        if let Some(last) = self.log.maybe_append(&mut self.sink, index, log_term, entries, commit)
        {
            self.send(Message { index: last, ..Message::new(MessageKind::AppResp, from) });
            return;
        }
        note!(
            self.sink,
            Debug,
            "{} [logterm: {}, index: {index}] rejected MsgApp [logterm: {log_term}, index: {index}] \
             from {from}",
            self.id,
            self.log.term_or_zero(index)
        );
        // Skip a whole term at a time, towards the last place where the logs could agree.
        let hint = index.min(self.log.last_index());
        let (hint, hint_term) = self.log.find_conflict_by_term(hint, log_term);
        self.send(Message {
            index,
            reject: true,
            reject_hint: hint,
            log_term: hint_term,
            ..Message::new(MessageKind::AppResp, from)
        });
    }

    pub(crate) fn on_heartbeat(&mut self, message: Message) {
        let known = if planted!(CommitUnverified) { self.log.last_index() } else { message.commit };
        self.log.commit_to(message.commit.min(known));
        let context = message.context;
        self.send(Message { context, ..Message::new(MessageKind::HeartbeatResp, message.from) });
    }
}

/// Whether the entries follow `prev` one by one. Anything else is a broken peer, and would break our log.
fn are_contiguous(prev: Index, entries: &[Entry]) -> bool {
    // First and last suffice against mistakes; a peer that lies in between lies about terms as well.
    match (entries.first(), entries.last()) {
        (Some(first), Some(last)) => {
            first.index == prev.next() && last.index == prev.plus(entries.len())
        }
        _ => true,
    }
}

fn decode_conf_change(entry: &Entry) -> Option<AnyConfChange> {
    match entry.kind {
        EntryKind::ConfChange => {
            codec::decode_conf_change(entry.data.clone()).ok().map(AnyConfChange::V1)
        }
        EntryKind::ConfChangeV2 => {
            codec::decode_conf_change_v2(entry.data.clone()).ok().map(AnyConfChange::V2)
        }
        EntryKind::Normal => None,
    }
}

/// As protobuf's text form prints it.
fn describe_change(change: &AnyConfChange) -> String {
    let (mut out, change) = match change {
        // The old form has no transition to print.
        AnyConfChange::V1(change) => (String::new(), change.to_v2()),
        AnyConfChange::V2(change) => {
            (format!("transition:{} ", change.transition.name()), change.clone())
        }
    };
    let ConfChangeV2 { changes, context, .. } = change;
    for change in changes {
        out += &format!("changes:{{type:{} node_id:{}}} ", change.kind.name(), change.node_id.0);
    }
    if !context.is_empty() {
        out += &format!("context:\"{}\" ", context.escape_ascii());
    }
    out.truncate(out.trim_end().len());
    out
}
