//! What a leader knows about each member, and who the members are.

use std::fmt;

use crate::config::Config;
use crate::inflights::Inflights;
use crate::quorum::{VoteResult, Voters};
use crate::types::{ConfState, Index, NodeId};
use norn_planted::planted;

/// How a leader feeds a follower.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProgressState {
    /// Does not know where the logs part: one append at a time.
    #[default]
    Probe,
    /// Knows, and streams ahead of the acknowledgements.
    Replicate,
    /// Waits for a snapshot to arrive.
    Snapshot,
}

impl ProgressState {
    /// Name as etcd prints it.
    pub fn name(self) -> &'static str {
        match self {
            ProgressState::Probe => "StateProbe",
            ProgressState::Replicate => "StateReplicate",
            ProgressState::Snapshot => "StateSnapshot",
        }
    }
}

/// A leader's view of one member. `matched < next` always.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Highest index known to be durable there and equal to ours. Never falls within a term.
    pub matched: Index,
    /// First index of the next append.
    pub next: Index,
    /// Highest commit index we told it. What was told may have been lost.
    pub sent_commit: Index,
    pub state: ProgressState,
    /// In state Snapshot: index of the snapshot under way.
    pub pending_snapshot: Index,
    /// Heard of since the last quorum check.
    pub recent_active: bool,
    /// No append until a heartbeat response or an acknowledgement arrives.
    pub flow_paused: bool,
    pub inflights: Inflights,
    pub is_learner: bool,
}

impl Progress {
    pub(crate) fn new(next: Index, inflights: Inflights, is_learner: bool) -> Progress {
        Progress {
            matched: Index::ZERO,
            next,
            sent_commit: Index::ZERO,
            state: ProgressState::Probe,
            pending_snapshot: Index::ZERO,
            recent_active: false,
            flow_paused: false,
            inflights,
            is_learner,
        }
    }

    pub fn is_paused(&self) -> bool {
        self.flow_paused || self.state == ProgressState::Snapshot
    }

    fn reset_state(&mut self, state: ProgressState) {
        self.state = state;
        self.flow_paused = false;
        self.pending_snapshot = Index::ZERO;
        self.inflights.reset();
    }

    pub(crate) fn become_probe(&mut self) {
        // A snapshot that was sent may well have arrived: probe behind it, not below it.
        let behind_snapshot = self.pending_snapshot.next();
        let was_snapshot = self.state == ProgressState::Snapshot;
        self.reset_state(ProgressState::Probe);
        self.next = self.matched.next();
        if was_snapshot {
            self.next = self.next.max(behind_snapshot);
        }
        self.sent_commit = self.sent_commit.min(self.next.prev());
    }

    pub(crate) fn become_replicate(&mut self) {
        self.reset_state(ProgressState::Replicate);
        self.next = self.matched.next();
    }

    pub(crate) fn become_snapshot(&mut self, index: Index) {
        self.reset_state(ProgressState::Snapshot);
        self.pending_snapshot = index;
        self.next = index.next();
        self.sent_commit = index;
    }

    /// Notes that an append of `count` entries with `bytes` of payload is on its way.
    pub(crate) fn on_sent(&mut self, count: usize, bytes: u64) {
        match self.state {
            ProgressState::Replicate => {
                if count > 0 {
                    self.next = self.next.plus(count);
                    self.inflights.add(self.next.prev(), bytes);
                }
                self.flow_paused = self.inflights.is_full();
            }
            ProgressState::Probe => self.flow_paused |= count > 0,
            ProgressState::Snapshot => panic!("an append is sent while a snapshot is under way"),
        }
    }

    /// Whether telling `commit` would tell something new, to a follower that has entries to commit.
    pub(crate) fn can_bump_commit(&self, commit: Index) -> bool {
        commit > self.sent_commit && self.sent_commit < self.next.prev()
    }

    /// An acknowledgement up to `index`. Whether it was news.
    pub(crate) fn on_acked(&mut self, index: Index) -> bool {
        if index <= self.matched {
            return false;
        }
        self.matched = index;
        self.next = self.next.max(index.next());
        self.flow_paused = false;
        true
    }

    /// A refusal of the append after `rejected`, with the place to `probe` instead. Whether it was news:
    /// refusals arrive late, twice and out of order.
    pub(crate) fn on_rejected(&mut self, rejected: Index, probe: Index) -> bool {
        if self.state == ProgressState::Replicate {
            if rejected <= self.matched {
                return false;
            }
            self.next = self.matched.next();
            self.sent_commit = self.sent_commit.min(self.next.prev());
            return true;
        }
        // Only one probe is under way; anything else answers an older one.
        if self.next.prev() != rejected {
            return false;
        }
        self.next = rejected.min(probe.next()).max(self.matched.next());
        self.sent_commit = self.sent_commit.min(self.next.prev());
        self.flow_paused = false;
        true
    }
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} match={} next={}", self.state.name(), self.matched, self.next)?;
        if self.is_learner {
            f.write_str(" learner")?;
        }
        if self.is_paused() {
            f.write_str(" paused")?;
        }
        if self.pending_snapshot > Index::ZERO {
            write!(f, " pendingSnap={}", self.pending_snapshot)?;
        }
        if !self.recent_active {
            f.write_str(" inactive")?;
        }
        if self.inflights.count() > 0 {
            write!(f, " inflight={}", self.inflights.count())?;
            if self.inflights.is_full() {
                f.write_str("[full]")?;
            }
        }
        Ok(())
    }
}

/// Who takes part, and how. All lists are sorted.
///
/// Learners are in neither half of the voters; `learners_next` are voters of the outgoing half only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    pub voters: Voters,
    pub learners: Vec<NodeId>,
    pub learners_next: Vec<NodeId>,
    pub auto_leave: bool,
}

impl Membership {
    pub fn to_conf_state(&self) -> ConfState {
        ConfState {
            voters: self.voters.incoming.clone(),
            learners: self.learners.clone(),
            voters_outgoing: self.voters.outgoing.clone(),
            learners_next: self.learners_next.clone(),
            auto_leave: self.auto_leave,
        }
    }

    /// Whether `id` alone decides everything.
    pub(crate) fn is_sole_voter(&self, id: NodeId) -> bool {
        !self.voters.is_joint() && self.voters.incoming == [id]
    }
}

impl fmt::Display for Membership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn ids(f: &mut fmt::Formatter<'_>, ids: &[NodeId]) -> fmt::Result {
            f.write_str("(")?;
            for (i, id) in ids.iter().enumerate() {
                write!(f, "{}{id}", if i > 0 { " " } else { "" })?;
            }
            f.write_str(")")
        }
        f.write_str("voters=")?;
        ids(f, &self.voters.incoming)?;
        if self.voters.is_joint() {
            f.write_str("&&")?;
            ids(f, &self.voters.outgoing)?;
        }
        if !self.learners.is_empty() {
            f.write_str(" learners=")?;
            ids(f, &self.learners)?;
        }
        if !self.learners_next.is_empty() {
            f.write_str(" learners_next=")?;
            ids(f, &self.learners_next)?;
        }
        if self.auto_leave {
            f.write_str(" autoleave")?;
        }
        Ok(())
    }
}

/// The members with their progress, and the ballot under way.
#[derive(Clone, Debug)]
pub struct Tracker {
    pub membership: Membership,
    /// One for every member, by ascending id: groups are small, so a sorted list beats a tree.
    pub(crate) progress: Vec<(NodeId, Progress)>,
    votes: Vec<(NodeId, bool)>,
    inflight_messages_max: usize,
    inflight_bytes_max: u64,
}

impl Tracker {
    /// Nobody yet. The limits are those of [`Config`].
    pub fn new(inflight_messages_max: usize, inflight_bytes_max: u64) -> Tracker {
        Tracker {
            membership: Membership::default(),
            progress: Vec::new(),
            votes: Vec::new(),
            inflight_messages_max,
            inflight_bytes_max,
        }
    }

    pub(crate) fn from_config(config: &Config) -> Tracker {
        Tracker::new(config.inflight_messages_max, config.inflight_bytes_max)
    }

    /// Takes over what a membership change has led to.
    pub fn replace(&mut self, membership: Membership, progress: Vec<(NodeId, Progress)>) {
        self.membership = membership;
        self.progress = progress;
    }

    pub(crate) fn new_inflights(&self) -> Inflights {
        Inflights::new(self.inflight_messages_max, self.inflight_bytes_max)
    }

    pub(crate) fn len(&self) -> usize {
        self.progress.len()
    }

    /// For loops that change the node meanwhile: the members by position.
    pub(crate) fn id_at(&self, position: usize) -> NodeId {
        self.progress[position].0
    }

    pub fn iter(&self) -> impl Iterator<Item = (NodeId, &Progress)> {
        self.progress.iter().map(|(id, progress)| (*id, progress))
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (NodeId, &mut Progress)> {
        self.progress.iter_mut().map(|(id, progress)| (*id, progress))
    }

    pub fn progress(&self, id: NodeId) -> Option<&Progress> {
        let at = self.progress.binary_search_by_key(&id, |(id, _)| *id).ok()?;
        Some(&self.progress[at].1)
    }

    pub(crate) fn progress_mut(&mut self, id: NodeId) -> Option<&mut Progress> {
        let at = self.progress.binary_search_by_key(&id, |(id, _)| *id).ok()?;
        Some(&mut self.progress[at].1)
    }

    /// The highest index that is durable on a quorum.
    pub(crate) fn committed(&self) -> Index {
        if planted!(LearnerCounts) {
            return self.with_learners().committed(|id| self.progress(id).map(|p| p.matched));
        }
        self.membership.voters.committed(|id| self.progress(id).map(|progress| progress.matched))
    }

    /// The voters, and the learners as if they were some.
    fn with_learners(&self) -> Voters {
        let mut voters = self.membership.voters.clone();
        voters.incoming.extend(&self.membership.learners);
        voters
    }

    /// Whether a quorum was heard of since the last call of [`Tracker::forget_activity`].
    pub(crate) fn is_quorum_active(&self) -> bool {
        let active = |id| Some(self.progress(id).is_some_and(|progress| progress.recent_active));
        self.membership.voters.vote(active) == VoteResult::Won
    }

    pub(crate) fn forget_activity(&mut self, own_id: NodeId) {
        for (id, progress) in self.iter_mut() {
            progress.recent_active = id == own_id;
        }
    }

    pub(crate) fn reset_votes(&mut self) {
        self.votes.clear();
    }

    /// Notes a vote. Only the first one of each member counts.
    pub(crate) fn record_vote(&mut self, id: NodeId, granted: bool) {
        if !self.votes.iter().any(|(voter, _)| *voter == id) || planted!(VotesCountedTwice) {
            self.votes.push((id, granted));
        }
    }

    /// Granted and rejected votes so far, and what they amount to.
    pub(crate) fn tally(&self) -> (usize, usize, VoteResult) {
        let vote = |id| self.votes.iter().find(|(voter, _)| *voter == id).map(|(_, yes)| *yes);
        let of_voters = |(id, progress): &(NodeId, Progress)| {
            if progress.is_learner { None } else { vote(*id) }
        };
        let granted = self.progress.iter().filter(|p| of_voters(p) == Some(true)).count();
        let rejected = self.progress.iter().filter(|p| of_voters(p) == Some(false)).count();
        let counted = self.votes.iter().filter(|(_, granted)| *granted).count();
        if planted!(VotesCountedTwice) && 2 * counted > self.membership.voters.incoming.len() {
            return (counted, rejected, VoteResult::Won);
        }
        (granted, rejected, self.membership.voters.vote(vote))
    }
}
