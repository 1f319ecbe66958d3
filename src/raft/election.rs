//! Elections, votes, leases and handing over (thesis sections 3.4, 3.10, 6.2, 9.6).

use std::fmt;

use bytes::Bytes;
use norn_planted::planted;

use crate::message::{Message, MessageKind};
use crate::quorum::VoteResult;
use crate::raft::Raft;
use crate::sink::{LogLevel, note};
use crate::types::{Index, NodeId, Role, Term};

/// Context of a vote request that the leader itself asked for: leases do not stand in its way.
const CAMPAIGN_TRANSFER: &[u8] = b"CampaignTransfer";

/// Why and how a node campaigns.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Campaign {
    PreElection,
    Election,
    Transfer,
}

impl Raft {
    pub(crate) fn tick_election(&mut self) {
        self.election_elapsed += 1;
        if self.is_promotable() && self.election_elapsed >= self.randomized_election_ticks {
            self.election_elapsed = 0;
            self.on_hup();
        }
    }

    /// Whether this node may lead. With a pending snapshot it does not know what it would be leading.
    fn is_promotable(&self) -> bool {
        self.has_vote() && !self.log.has_unstable_snapshot()
    }

    /// Whether this node is a voter of the membership that it has applied.
    fn has_vote(&self) -> bool {
        self.tracker.progress(self.id).is_some_and(|own| !own.is_learner)
    }

    pub(crate) fn on_hup(&mut self) {
        let kind = if self.config.pre_vote { Campaign::PreElection } else { Campaign::Election };
        self.hup(kind);
    }

    fn hup(&mut self, kind: Campaign) {
        if self.role == Role::Leader {
            note!(self.sink, Debug, "{} ignoring MsgHup because already leader", self.id);
            return;
        }
        if !self.is_promotable() {
            note!(self.sink, Warn, "{} is unpromotable and can not campaign", self.id);
            return;
        }
        // A committed change that is not applied could leave us counting votes in a membership that the
        // others have left behind.
        if self.log.has_unapplied_conf_change() {
            note!(
                self.sink,
                Warn,
                "{} cannot campaign at term {} since there are still pending configuration changes \
                 to apply",
                self.id,
                self.term
            );
            return;
        }
        note!(self.sink, Info, "{} is starting a new election at term {}", self.id, self.term);
        self.campaign(kind);
    }

    fn campaign(&mut self, kind: Campaign) {
        let (request, response, term) = if kind == Campaign::PreElection {
            self.become_pre_candidate();
            (MessageKind::PreVote, MessageKind::PreVoteResp, Term(self.term.0 + 1))
        } else {
            self.become_candidate();
            (MessageKind::Vote, MessageKind::VoteResp, self.term)
        };
        let context = if kind == Campaign::Transfer {
            Bytes::from_static(CAMPAIGN_TRANSFER)
        } else {
            Bytes::new()
        };
        let (index, log_term) = (self.log.last_index(), self.log.last_term());
        for to in self.tracker.membership.voters.ids() {
            if to == self.id {
                // Our own vote counts once it is durable, like everybody's.
                self.send(Message { term, ..Message::new(response, to) });
                if planted!(OwnVoteEarly) {
                    self.tracker.record_vote(self.id, true);
                }
                continue;
            }
            note!(
                self.sink,
                Info,
                "{} [logterm: {log_term}, index: {index}] sent {} request to {to} at term {}",
                self.id,
                request.name(),
                self.term
            );
            let context = context.clone();
            self.send(Message { term, index, log_term, context, ..Message::new(request, to) });
        }
    }

    /// Whether we must not vote, because we have heard from a leader within the election timeout: its lease.
    pub(crate) fn is_lease_in_force(&self, request: &Message) -> bool {
        self.config.check_quorum
            && !self.leader.is_none()
            && self.election_elapsed < self.config.election_ticks
            && request.context != CAMPAIGN_TRANSFER
    }

    pub(crate) fn on_vote_request(&mut self, message: &Message) {
        let is_pre_vote = message.kind == MessageKind::PreVote;
        let response = if is_pre_vote { MessageKind::PreVoteResp } else { MessageKind::VoteResp };
        let can_vote = self.vote == message.from
            || (self.vote.is_none() && self.leader.is_none())
            // A pre-vote binds nobody.
            || (is_pre_vote && message.term > self.term)
            || planted!(VoteTwice);
        // Learners vote too: a candidate that knows of their promotion may need them before they do.
        if can_vote && self.log.is_up_to_date(message.index, message.log_term) {
            self.note_vote(message, format_args!("cast {} for", message.kind.name()), None);
            // The request's term: that of a pre-vote is ahead of ours, and the candidate compares.
            self.send(Message { term: message.term, ..Message::new(response, message.from) });
            if !is_pre_vote {
                self.election_elapsed = 0;
                self.vote = message.from;
            }
        } else {
            self.note_vote(message, format_args!("rejected {} from", message.kind.name()), None);
            let term = self.term;
            let (commit, log_term) = self.last_word();
            let refusal = Message::new(response, message.from);
            self.send(Message { term, commit, log_term, reject: true, ..refusal });
        }
    }

    /// What a member without a vote adds to a refusal: up to where the log is committed, as far as it knows, and the term there.
    ///
    /// Its log may be longer than that of whoever stays, who may not know that its removal (or that it is a learner now) is committed, and
    /// wait for this vote for ever: the leader of two voters, removed by itself. It must refuse, because what it has may have been
    /// committed in the old configuration, and it may not lead itself; but what it knows to be committed, the other may know, too. (etcd
    /// sends nothing here, and reads nothing.)
    fn last_word(&self) -> (Index, Term) {
        if self.has_vote() {
            return (Index::ZERO, Term(0));
        }
        let committed = self.log.committed();
        (committed, self.log.term_or_zero(committed))
    }

    /// One line of the same shape for every decision about a vote.
    pub(crate) fn note_vote(
        &mut self,
        message: &Message,
        decision: fmt::Arguments<'_>,
        lease_ticks_left: Option<u32>,
    ) {
        if !self.sink.accepts(LogLevel::Info) {
            return;
        }
        let mut line = format!(
            "{} [logterm: {}, index: {}, vote: {}] {decision} {} [logterm: {}, index: {}] at term {}",
            self.id,
            self.log.last_term(),
            self.log.last_index(),
            self.vote,
            message.from,
            message.log_term,
            message.index,
            self.term
        );
        if let Some(ticks) = lease_ticks_left {
            line += &format!(": lease is not expired (remaining ticks: {ticks})");
        }
        self.sink.push(LogLevel::Info, line);
    }

    /// Candidates of either sort: a vote has come in.
    pub(crate) fn on_vote_response(&mut self, message: &Message) {
        let name = message.kind.name();
        note!(
            self.sink,
            Info,
            "{} received {name}{} from {} at term {}",
            self.id,
            if message.reject { " rejection" } else { "" },
            message.from,
            self.term
        );
        // The last word of a member without a vote. What is committed anywhere is committed here, too, if it is the same.
        if message.log_term != Term(0) && self.log.matches(message.commit, message.log_term) {
            self.log.commit_to(message.commit);
        }
        self.tracker.record_vote(message.from, !message.reject);
        let (granted, rejected, result) = self.tracker.tally();
        note!(
            self.sink,
            Info,
            "{} has received {granted} {name} votes and {rejected} vote rejections",
            self.id
        );
        match result {
            VoteResult::Won if self.role == Role::PreCandidate => {
                self.campaign(Campaign::Election);
            }
            VoteResult::Won => {
                self.become_leader();
                self.broadcast_append();
            }
            VoteResult::Lost => self.become_follower(self.term, NodeId::NONE),
            VoteResult::Pending => {}
        }
    }

    /// Leader: once per election timeout.
    pub(crate) fn on_check_quorum(&mut self) {
        if !self.tracker.is_quorum_active() {
            note!(
                self.sink,
                Warn,
                "{} stepped down to follower since quorum is not active",
                self.id
            );
            self.become_follower(self.term, NodeId::NONE);
        }
        self.tracker.forget_activity(self.id);
    }

    pub(crate) fn on_forget_leader(&mut self) {
        if self.uses_leases() {
            note!(self.sink, Error, "ignoring MsgForgetLeader due to ReadOnlyLeaseBased");
            return;
        }
        if !self.leader.is_none() {
            note!(
                self.sink,
                Info,
                "{} forgetting leader {} at term {}",
                self.id,
                self.leader,
                self.term
            );
            self.leader = NodeId::NONE;
        }
    }

    // ---- handing over ----

    pub(crate) fn forward_transfer(&mut self, message: Message) {
        if self.leader.is_none() {
            note!(
                self.sink,
                Info,
                "{} no leader at term {}; dropping leader transfer msg",
                self.id,
                self.term
            );
            return;
        }
        // `from` stays: it names the one to hand over to. Terms are those of the forwarder.
        self.send(Message { to: self.leader, term: Term(0), ..message });
    }

    pub(crate) fn on_transfer_leader(&mut self, to: NodeId) {
        let Some(progress) = self.tracker.progress(to) else {
            return;
        };
        let (is_learner, matched) = (progress.is_learner, progress.matched);
        let (id, term) = (self.id, self.term);
        if is_learner {
            note!(self.sink, Debug, "{to} is learner. Ignored transferring leadership");
            return;
        }
        if !self.leader_transferee.is_none() {
            if self.leader_transferee == to {
                note!(
                    self.sink,
                    Info,
                    "{id} [term {term}] transfer leadership to {to} is in progress, ignores request to \
                     same node {to}"
                );
                return;
            }
            let old = self.leader_transferee;
            self.leader_transferee = NodeId::NONE;
            note!(
                self.sink,
                Info,
                "{id} [term {term}] abort previous transferring leadership to {old}"
            );
        }
        if to == id {
            note!(
                self.sink,
                Debug,
                "{to} is already leader. Ignored transferring leadership to self"
            );
            return;
        }
        note!(self.sink, Info, "{id} [term {term}] starts to transfer leadership to {to}");
        // It has one election timeout to take over.
        self.election_elapsed = 0;
        self.leader_transferee = to;
        if matched == self.log.last_index() {
            self.send(Message::new(MessageKind::TimeoutNow, to));
            note!(
                self.sink,
                Info,
                "{id} sends MsgTimeoutNow to {to} immediately as {to} already has up-to-date log"
            );
        } else {
            self.send_append(to);
        }
    }

    /// Leader: the transferee may have caught up.
    pub(crate) fn maybe_finish_transfer(&mut self, from: NodeId, matched: Index) {
        if from == self.leader_transferee && matched == self.log.last_index() {
            note!(
                self.sink,
                Info,
                "{} sent MsgTimeoutNow to {from} after received MsgAppResp",
                self.id
            );
            self.send(Message::new(MessageKind::TimeoutNow, from));
        }
    }

    pub(crate) fn on_timeout_now(&mut self, message: &Message) {
        note!(
            self.sink,
            Info,
            "{} [term {}] received MsgTimeoutNow from {} and starts an election to get leadership.",
            self.id,
            self.term,
            message.from
        );
        // No pre-vote: we know that the leader is alive, and that it wants this.
        self.hup(Campaign::Transfer);
    }
}
