//! Putting memberships into force, and taking over snapshots, which bring one along (thesis sections 4, 5).

use crate::confchange::{self, ChangeError, Changed, Changer};
use crate::message::{Message, MessageKind};
use crate::progress::Tracker;
use crate::raft::Raft;
use crate::sink::note;
use crate::types::{ConfChangeV2, ConfState, NodeId, Role, Snapshot, Term};
use norn_planted::planted;

impl Raft {
    pub(crate) fn apply_conf_change(
        &mut self,
        change: &ConfChangeV2,
    ) -> Result<ConfState, ChangeError> {
        let changer = Changer { tracker: &self.tracker, last_index: self.log.last_index() };
        let changed = if change.leaves_joint() {
            changer.leave_joint()
        } else if let Some(auto_leave) = change.enters_joint() {
            changer.enter_joint(auto_leave, &change.changes)
        } else {
            changer.simple(&change.changes)
        }?;
        Ok(self.switch_membership(changed))
    }

    pub(crate) fn switch_membership(&mut self, (membership, progress): Changed) -> ConfState {
        self.tracker.replace(membership, progress);
        note!(self.sink, Info, "{} switched to configuration {}", self.id, self.tracker.membership);
        let state = self.tracker.membership.to_conf_state();
        let own = self.tracker.progress(self.id);
        let is_member = own.is_some();
        self.is_learner = own.is_some_and(|own| own.is_learner);
        if self.role != Role::Leader {
            return state;
        }
        if !is_member || self.is_learner {
            // Without stepping down it leads on, so that the others learn of the commit, but counts itself
            // no more (section 4.2.2).
            if self.config.step_down_on_removal {
                self.become_follower(self.term, NodeId::NONE);
            }
            return state;
        }
        if state.voters.is_empty() {
            return state;
        }
        // A smaller quorum may already have what the larger one lacked.
        if self.maybe_commit() {
            self.release_postponed_reads();
            self.broadcast_append();
        } else {
            // New members need a first probe.
            for position in 0..self.tracker.len() {
                let id = self.tracker.id_at(position);
                if id != self.id {
                    self.maybe_send_append(id, false);
                }
            }
        }
        self.release_reads();
        if !self.leader_transferee.is_none()
            && !self.tracker.membership.voters.contains(self.leader_transferee)
        {
            self.leader_transferee = NodeId::NONE;
        }
        state
    }

    pub(crate) fn on_snapshot(&mut self, message: Message) {
        // Other kinds of message carry empty ones, but a `MsgSnap` without a snapshot is nonsense.
        let Some(snapshot) = message.snapshot.filter(|snapshot| !snapshot.is_empty()) else {
            return;
        };
        let (index, term) = (snapshot.index, snapshot.term);
        let restored = self.restore(*snapshot);
        note!(
            self.sink,
            Info,
            "{} [commit: {}] {} snapshot [index: {index}, term: {term}]",
            self.id,
            self.log.committed(),
            if restored { "restored" } else { "ignored" }
        );
        let index = if restored { self.log.last_index() } else { self.log.committed() };
        self.send(Message { index, ..Message::new(MessageKind::AppResp, message.from) });
    }

    /// Whether the snapshot replaces the log. If not, it told nothing new, or is not for us.
    fn restore(&mut self, snapshot: Snapshot) -> bool {
        let (index, term) = (snapshot.index, snapshot.term);
        if index <= self.log.committed() && !planted!(SnapshotOverwrites) {
            return false;
        }
        if self.role != Role::Follower {
            // Cannot happen: the term gate makes a follower of everyone who hears a leader.
            note!(
                self.sink,
                Warn,
                "{} attempted to restore snapshot as leader; should never happen",
                self.id
            );
            self.become_follower(Term(self.term.0 + 1), NodeId::NONE);
            return false;
        }
        let conf_state = &snapshot.conf_state;
        // An outgoing voter is a member too: the joint configuration needs its vote.
        let is_member = [&conf_state.voters, &conf_state.learners, &conf_state.voters_outgoing]
            .into_iter()
            .any(|ids| ids.contains(&self.id));
        if !is_member {
            note!(
                self.sink,
                Warn,
                "{} attempted to restore snapshot but it is not in the ConfState {conf_state:?}; \
                 should never happen",
                self.id
            );
            return false;
        }
        if self.log.matches(index, term) && !planted!(SnapshotOverwrites) {
            note!(
                self.sink,
                Info,
                "{} [commit: {}, lastindex: {}, lastterm: {}] fast-forwarded commit to snapshot \
                 [index: {index}, term: {term}]",
                self.id,
                self.log.committed(),
                self.log.last_index(),
                self.log.last_term()
            );
            self.log.commit_to(index);
            return false;
        }
        let tracker = Tracker::from_config(&self.config);
        let changed = match confchange::restore(tracker, index, conf_state) {
            Ok(changed) if changed.0.to_conf_state().is_equivalent(conf_state) => changed,
            // Take nothing from a peer that contradicts itself.
            _ => {
                note!(
                    self.sink,
                    Error,
                    "{} refused snapshot [index: {index}, term: {term}] with invalid {conf_state:?}",
                    self.id
                );
                return false;
            }
        };
        self.log.restore(&mut self.sink, snapshot);
        self.switch_membership(changed);
        note!(
            self.sink,
            Info,
            "{} [commit: {}, lastindex: {}, lastterm: {}] restored snapshot [index: {index}, term: {term}]",
            self.id,
            self.log.committed(),
            self.log.last_index(),
            self.log.last_term()
        );
        true
    }
}
