//! The state of a node, the gate every message passes, and the changes of role.
//!
//! What a role does lies in `election.rs`, `replicate.rs`, `read.rs` and `member.rs`. Follows the Raft
//! thesis (Ongaro 2014), sections 3, 4, 6.4 and 9.6, with etcd's behaviour where the thesis leaves a choice.

use crate::confchange;
use crate::config::{Config, ConfigError, ReadOnly};
use crate::error::{DropReason, ProposeError};
use crate::log::Log;
use crate::message::{Message, MessageKind};
use crate::progress::{Progress, Tracker};
use crate::read::ReadQueue;
use crate::ready::AppliedBatch;
use crate::rng::Rng;
use crate::sink::{LogLevel, LogSink, note};
use crate::storage::MemStorage;
use crate::types::{Entry, EntryKind, HardState, Index, NodeId, ReadState, Role, SoftState, Term};
use norn_planted::planted;

/// The protocol, without the bookkeeping of Readys.
pub(crate) struct Raft {
    pub(crate) config: Config,
    pub(crate) id: NodeId,
    pub(crate) term: Term,
    pub(crate) vote: NodeId,
    pub(crate) role: Role,
    pub(crate) leader: NodeId,
    pub(crate) is_learner: bool,
    pub(crate) log: Log,
    pub(crate) tracker: Tracker,

    /// May leave at once.
    pub(crate) msgs: Vec<Message>,
    /// Promises: must not leave before everything that is unstable now has become durable.
    pub(crate) msgs_after_append: Vec<Message>,
    pub(crate) read_states: Vec<ReadState>,
    pub(crate) reads: ReadQueue,

    /// Whom the leader hands over to, while it does.
    pub(crate) leader_transferee: NodeId,
    /// No membership change is proposed before everything up to here is applied. Conservative: a new
    /// leader starts with its last index, for it does not look what is in its log.
    pub(crate) pending_conf_index: Index,
    /// Payload bytes of the leader's uncommitted proposals.
    pub(crate) uncommitted_bytes: u64,

    /// Ticks since the leader was heard of, or since a leader last checked its quorum.
    pub(crate) election_elapsed: u32,
    pub(crate) heartbeat_elapsed: u32,
    pub(crate) randomized_election_ticks: u32,
    rng: Rng,
    pub(crate) sink: LogSink,
}

impl Raft {
    pub(crate) fn new(
        config: Config,
        storage: MemStorage,
        level: LogLevel,
    ) -> Result<Raft, ConfigError> {
        config.validate()?;
        let mut sink = LogSink::default();
        sink.set_threshold(level);
        let hard_state = storage.hard_state();
        let conf_state = storage.conf_state().clone();
        let mut raft = Raft {
            id: config.id,
            term: Term(0),
            vote: NodeId::NONE,
            role: Role::Follower,
            leader: NodeId::NONE,
            is_learner: false,
            log: Log::new(storage, config.committed_bytes_limit()),
            tracker: Tracker::from_config(&config),
            msgs: Vec::new(),
            msgs_after_append: Vec::new(),
            read_states: Vec::new(),
            reads: ReadQueue::default(),
            leader_transferee: NodeId::NONE,
            pending_conf_index: Index::ZERO,
            uncommitted_bytes: 0,
            election_elapsed: 0,
            heartbeat_elapsed: 0,
            randomized_election_ticks: 0,
            // Nodes that share a seed must still differ.
            rng: Rng::new(config.seed ^ config.id.0.wrapping_mul(0x2545_f491_4f6c_dd1d)),
            sink,
            config,
        };
        let last = raft.log.last_index();
        let changed = confchange::restore(raft.tracker.clone(), last, &conf_state)
            .map_err(|error| ConfigError::BadConfState(error.text()))?;
        raft.switch_membership(changed);
        let is_same = raft.tracker.membership.to_conf_state().is_equivalent(&conf_state);
        if !is_same && !planted!(LearnerRestoredAsVoter) {
            return Err(ConfigError::BadConfState("it cannot be rebuilt"));
        }
        raft.load(hard_state)?;
        raft.become_follower(raft.term, NodeId::NONE);
        raft.note_start();
        Ok(raft)
    }

    /// Takes over what was on disk.
    ///
    /// The stored commit index may trail the snapshot or what the application has applied: it is not synced
    /// by itself, and the application saves its own state at its own pace. What was applied was committed.
    fn load(&mut self, hard_state: HardState) -> Result<(), ConfigError> {
        let (snapshot, last) = (self.log.committed(), self.log.last_index());
        if hard_state.commit > last {
            return Err(ConfigError::CommitOutOfRange { commit: hard_state.commit, last });
        }
        self.term = hard_state.term;
        self.vote = hard_state.vote;
        self.log.commit_to(hard_state.commit);
        let applied = self.config.applied;
        if applied > Index::ZERO {
            if applied < snapshot || applied > last {
                return Err(ConfigError::AppliedOutOfRange { applied, snapshot, last });
            }
            self.log.commit_to(applied);
            self.log.applied_to(applied, 0);
        }
        Ok(())
    }

    fn note_start(&mut self) {
        if !self.sink.accepts(LogLevel::Info) {
            return;
        }
        let peers: Vec<String> =
            self.tracker.membership.voters.ids().iter().map(NodeId::to_string).collect();
        note!(
            self.sink,
            Info,
            "newRaft {} [peers: [{}], term: {}, commit: {}, applied: {}, lastindex: {}, lastterm: {}]",
            self.id,
            peers.join(","),
            self.term,
            self.log.committed(),
            self.log.applied(),
            self.log.last_index(),
            self.log.last_term()
        );
    }

    pub(crate) fn soft_state(&self) -> SoftState {
        SoftState { leader: self.leader, role: self.role }
    }

    pub(crate) fn hard_state(&self) -> HardState {
        HardState { term: self.term, vote: self.vote, commit: self.log.committed() }
    }

    pub(crate) fn has_committed_in_term(&self) -> bool {
        self.log.matches(self.log.committed(), self.term)
    }

    // ---- the gate ----

    /// Handles a message of our own making, which cannot be refused.
    pub(crate) fn step_local(&mut self, message: Message) {
        let result = self.step(message);
        debug_assert!(result.is_ok(), "a local message was refused: {result:?}");
    }

    /// Handles any message.
    pub(crate) fn step(&mut self, message: Message) -> Result<(), ProposeError> {
        if message.term == Term(0) {
            if must_carry_term(message.kind) {
                // A peer's keep-alive or nonsense. Trusting it would skip the comparison of terms.
                return Ok(());
            }
        } else if message.term != self.term && !self.pass_term_gate(&message) {
            return Ok(());
        }
        match message.kind {
            MessageKind::Hup => self.on_hup(),
            MessageKind::Vote | MessageKind::PreVote => self.on_vote_request(&message),
            MessageKind::StorageAppendResp => self.on_storage_append_resp(message),
            MessageKind::StorageApplyResp => {
                if let Some(applied) = AppliedBatch::of(&message.entries) {
                    self.on_applied(applied);
                }
            }
            _ => match self.role {
                Role::Leader => return self.step_leader(message),
                Role::Follower => return self.step_follower(message),
                Role::Candidate | Role::PreCandidate => return self.step_candidate(message),
            },
        }
        Ok(())
    }

    /// Compares terms. Whether the message is to be handled at all.
    fn pass_term_gate(&mut self, message: &Message) -> bool {
        use MessageKind::{AppResp, VoteResp};
        if message.term > self.term {
            self.pass_higher_term(message)
        } else if planted!(StaleReplies) && matches!(message.kind, AppResp | VoteResp) {
            true
        } else {
            self.refuse_lower_term(message);
            false
        }
    }

    fn pass_higher_term(&mut self, message: &Message) -> bool {
        use MessageKind::*;
        let kind = message.kind;
        if matches!(kind, Vote | PreVote) && self.is_lease_in_force(message) {
            self.note_vote(
                message,
                format_args!("ignored {} from", kind.name()),
                Some(self.config.election_ticks - self.election_elapsed),
            );
            return false;
        }
        // A pre-vote is about a term that does not exist yet; so is a grant of one. A refusal carries the
        // voter's own term, and that one is real.
        if kind == PreVote || (kind == PreVoteResp && !message.reject) {
            return true;
        }
        note!(
            self.sink,
            Info,
            "{} [term: {}] received a {} message with higher term from {} [term: {}]",
            self.id,
            self.term,
            kind.name(),
            message.from,
            message.term
        );
        let leader =
            if matches!(kind, App | Heartbeat | Snap) { message.from } else { NodeId::NONE };
        self.become_follower(message.term, leader);
        true
    }

    fn refuse_lower_term(&mut self, message: &Message) {
        use MessageKind::*;
        // A voter of our membership hears of our term when we ask it for its vote. Another one may lead, or need our vote, where we lag behind
        // the membership: it hears of our term only here, or never, and neither of us gets anywhere. (Thesis section 3.3. etcd does not
        // tell it.)
        let is_asked =
            self.tracker.progress(message.from).is_some_and(|progress| !progress.is_learner);
        match message.kind {
            Heartbeat | App | PreVote if planted!(LowerTermSilent) => {}
            Heartbeat | App if self.config.check_quorum || self.config.pre_vote || !is_asked => {
                // Our term is ahead, maybe of a whole group that refuses our votes. Without this answer
                // neither its leader nor we would ever get out of this.
                self.send(Message::new(AppResp, message.from));
            }
            // Without an answer, a group that turns on pre-votes one by one could lock itself up.
            PreVote | Vote if message.kind == PreVote || !is_asked => {
                self.note_vote(
                    message,
                    format_args!("rejected {} from", message.kind.name()),
                    None,
                );
                let answer = if message.kind == PreVote { PreVoteResp } else { VoteResp };
                self.send(Message {
                    term: self.term,
                    reject: true,
                    ..Message::new(answer, message.from)
                });
            }
            StorageAppendResp => {
                if message.index != Index::ZERO {
                    note!(
                        self.sink,
                        Info,
                        "{} [term: {}] ignored entry appends from a MsgStorageAppendResp message \
                         with lower term [term: {}]",
                        self.id,
                        self.term,
                        message.term
                    );
                    if planted!(LogStableWithoutTerm) {
                        self.log.stable_to(&mut self.sink, message.index, message.log_term);
                    }
                }
                // A snapshot is committed state: it cannot have been replaced meanwhile.
                if let Some(snapshot) = &message.snapshot {
                    self.on_snapshot_stored(snapshot.index);
                }
            }
            _ => note!(
                self.sink,
                Info,
                "{} [term: {}] ignored a {} message with lower term from {} [term: {}]",
                self.id,
                self.term,
                message.kind.name(),
                message.from,
                message.term
            ),
        }
    }

    /// Storage reports what it has made durable under the current term.
    fn on_storage_append_resp(&mut self, message: Message) {
        if message.index != Index::ZERO {
            self.log.stable_to(&mut self.sink, message.index, message.log_term);
        }
        if let Some(snapshot) = message.snapshot {
            self.on_snapshot_stored(snapshot.index);
        }
    }

    fn on_snapshot_stored(&mut self, index: Index) {
        self.log.stable_snapshot_to(index);
        self.applied_to(index, 0);
    }

    /// The application reports what it has applied.
    pub(crate) fn on_applied(&mut self, applied: AppliedBatch) {
        self.applied_to(applied.last, applied.encoded_bytes);
        self.uncommitted_bytes = self.uncommitted_bytes.saturating_sub(applied.payload_bytes);
    }

    fn applied_to(&mut self, index: Index, bytes: u64) {
        let index = index.max(self.log.applied());
        self.log.applied_to(index, bytes);
        if self.role != Role::Leader
            || !self.tracker.membership.auto_leave
            || index < self.pending_conf_index
        {
            return;
        }
        // An empty payload is never refused for its size. If it is dropped for another reason, such as a
        // transfer, the next batch tries again.
        let entry = Entry { kind: EntryKind::ConfChangeV2, ..Entry::default() };
        let kind = MessageKind::Prop;
        let result = self.step(Message { kind, entries: vec![entry], ..Message::default() });
        let membership = &self.tracker.membership;
        match result {
            Ok(()) => note!(
                self.sink,
                Info,
                "initiating automatic transition out of joint configuration {membership}"
            ),
            Err(error) => note!(
                self.sink,
                Debug,
                "not initiating automatic transition out of joint configuration {membership}: {error}"
            ),
        }
    }

    // ---- roles ----

    pub(crate) fn tick(&mut self) {
        match self.role {
            Role::Leader => self.tick_leader(),
            _ => self.tick_election(),
        }
    }

    pub(crate) fn become_follower(&mut self, term: Term, leader: NodeId) {
        self.reset(term);
        self.role = Role::Follower;
        self.leader = leader;
        note!(self.sink, Info, "{} became follower at term {}", self.id, self.term);
    }

    /// Changes nothing that others could see: no term, no vote.
    pub(crate) fn become_pre_candidate(&mut self) {
        assert!(self.role != Role::Leader, "a leader does not campaign");
        self.tracker.reset_votes();
        self.role = Role::PreCandidate;
        self.leader = NodeId::NONE;
        note!(self.sink, Info, "{} became pre-candidate at term {}", self.id, self.term);
    }

    pub(crate) fn become_candidate(&mut self) {
        assert!(self.role != Role::Leader, "a leader does not campaign");
        self.reset(Term(self.term.0 + 1));
        self.role = Role::Candidate;
        self.vote = self.id;
        note!(self.sink, Info, "{} became candidate at term {}", self.id, self.term);
    }

    pub(crate) fn become_leader(&mut self) {
        assert!(self.role != Role::Follower, "only a candidate is elected");
        self.reset(self.term);
        self.role = Role::Leader;
        self.leader = self.id;
        if let Some(own) = self.tracker.progress_mut(self.id) {
            own.become_replicate();
            own.recent_active = true;
        }
        if !planted!(ChangeBeforeCommit) {
            self.pending_conf_index = self.log.last_index();
        }
        // An entry of the new term, so that those of older terms can be committed (section 3.6.2).
        let accepted = self.append_proposals(vec![Entry::default()]);
        debug_assert!(accepted, "an empty entry is never refused");
        note!(self.sink, Info, "{} became leader at term {}", self.id, self.term);
    }

    fn reset(&mut self, term: Term) {
        if self.term != term {
            self.term = term;
            self.vote = NodeId::NONE;
        }
        self.leader = NodeId::NONE;
        self.election_elapsed = 0;
        self.heartbeat_elapsed = 0;
        let election_ticks = self.config.election_ticks;
        self.randomized_election_ticks = election_ticks + self.rng.below(election_ticks);
        self.leader_transferee = NodeId::NONE;
        self.tracker.reset_votes();
        let (id, last) = (self.id, self.log.last_index());
        let inflights = self.tracker.new_inflights();
        for (member, progress) in self.tracker.iter_mut() {
            *progress = Progress::new(last.next(), inflights.clone(), progress.is_learner);
            if member == id {
                progress.matched = last;
            }
        }
        self.pending_conf_index = Index::ZERO;
        self.uncommitted_bytes = 0;
        self.reads = ReadQueue::default();
    }

    // ---- what each role does with a message ----

    fn step_follower(&mut self, message: Message) -> Result<(), ProposeError> {
        use MessageKind::*;
        match message.kind {
            Prop => return self.forward_proposal(message),
            App => {
                self.follow(message.from);
                self.on_append(message);
            }
            Heartbeat => {
                self.follow(message.from);
                self.on_heartbeat(message);
            }
            Snap => {
                self.follow(message.from);
                self.on_snapshot(message);
            }
            TransferLeader => self.forward_transfer(message),
            ForgetLeader => self.on_forget_leader(),
            TimeoutNow => self.on_timeout_now(&message),
            ReadIndex => self.forward_read(message),
            ReadIndexResp => self.on_read_index_resp(message),
            _ => {}
        }
        Ok(())
    }

    fn follow(&mut self, leader: NodeId) {
        self.election_elapsed = 0;
        self.leader = leader;
    }

    fn step_candidate(&mut self, message: Message) -> Result<(), ProposeError> {
        use MessageKind::*;
        match message.kind {
            Prop => {
                self.note_no_leader();
                return Err(ProposeError(DropReason::NoLeader));
            }
            // Somebody else has won this term. Pre-candidates are still in the term of their old leader.
            App | Heartbeat | Snap => {
                self.become_follower(message.term, message.from);
                return self.step_follower(message);
            }
            VoteResp if self.role == Role::Candidate => self.on_vote_response(&message),
            PreVoteResp if self.role == Role::PreCandidate => self.on_vote_response(&message),
            TimeoutNow => note!(
                self.sink,
                Debug,
                "{} [term {} state {}] ignored MsgTimeoutNow from {}",
                self.id,
                self.term,
                self.role.name(),
                message.from
            ),
            _ => {}
        }
        Ok(())
    }

    fn step_leader(&mut self, message: Message) -> Result<(), ProposeError> {
        use MessageKind::*;
        match message.kind {
            Beat => self.broadcast_heartbeat(),
            CheckQuorum => self.on_check_quorum(),
            Prop => return self.on_proposal(message),
            ReadIndex => self.on_read_index(message),
            ForgetLeader => {}
            _ if self.tracker.progress(message.from).is_none() => {
                note!(self.sink, Debug, "{} no progress available for {}", self.id, message.from);
            }
            AppResp => self.on_append_response(&message),
            HeartbeatResp => self.on_heartbeat_response(&message),
            SnapStatus => self.on_snapshot_status(&message),
            Unreachable => self.on_unreachable(message.from),
            TransferLeader => self.on_transfer_leader(message.from),
            _ => {}
        }
        Ok(())
    }

    // ---- sending ----

    /// Queues a message, stamped with our id and term.
    pub(crate) fn send(&mut self, mut message: Message) {
        use MessageKind::*;
        if message.from.is_none() {
            message.from = self.id;
        }
        let is_promise = matches!(message.kind, AppResp | VoteResp | PreVoteResp);
        match message.kind {
            // Votes name the term they are about.
            Vote | PreVote | VoteResp | PreVoteResp => {}
            // Requests on behalf of others have no term of their own.
            Prop | ReadIndex => debug_assert!(message.term == Term(0)),
            _ => {
                debug_assert!(message.term == Term(0), "{message:?}");
                message.term = self.term;
            }
        }
        if is_promise {
            // The promise covers entries, a vote or a term that may not be durable yet.
            self.msgs_after_append.push(message);
        } else {
            assert!(message.to != self.id, "a {} to itself", message.kind.name());
            self.msgs.push(message);
        }
    }

    pub(crate) fn note_no_leader(&mut self) {
        note!(self.sink, Info, "{} no leader at term {}; dropping proposal", self.id, self.term);
    }

    pub(crate) fn uses_leases(&self) -> bool {
        self.config.read_only == ReadOnly::LeaseBased
    }
}

/// Kinds whose meaning depends on the sender's term.
fn must_carry_term(kind: MessageKind) -> bool {
    use MessageKind::*;
    matches!(
        kind,
        App | AppResp | Vote | VoteResp | Snap | Heartbeat | HeartbeatResp | TimeoutNow | PreVote
    )
}
