//! The public face of a node: feed it ticks, messages and proposals, take Readys.

use bytes::Bytes;
use norn_planted::planted;

use crate::codec;
use crate::confchange::ChangeError;
use crate::config::{Config, ConfigError};
use crate::error::{DropReason, ProposeError, StepError};
use crate::message::{Message, MessageKind};
use crate::progress::{Membership, Progress};
use crate::raft::Raft;
use crate::ready::{self, AppliedBatch, Outstanding, Ready};
use crate::sink::{LogLevel, LogLine};
use crate::storage::MemStorage;
use crate::types::{
    AnyConfChange, ConfChange, ConfChangeKind, ConfChangeV2, ConfState, Entry, EntryKind,
    HardState, Index, NodeId, Peer, Role, SoftState, Term,
};

/// One member of a raft group. Pure: it changes only through calls, and reports only through
/// [`RawNode::ready`].
pub struct RawNode {
    raft: Raft,
    /// What the application was told last.
    told_soft: SoftState,
    told_hard: HardState,
    /// Sync mode: the Ready that has been taken and not advanced.
    outstanding: Option<Outstanding>,
}

/// A summary for operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    pub id: NodeId,
    pub role: Role,
    pub leader: NodeId,
    pub hard_state: HardState,
    pub applied: Index,
    pub last_index: Index,
    pub leader_transferee: NodeId,
    pub pending_conf_index: Index,
    pub is_learner: bool,
}

impl RawNode {
    /// A node that continues where `storage` ends: a follower without a leader.
    ///
    /// With an empty storage it either waits for a leader to contact it (joining an existing group) or is
    /// told its first members by [`RawNode::bootstrap`].
    pub fn new(config: Config, storage: MemStorage) -> Result<RawNode, ConfigError> {
        RawNode::with_log_level(config, storage, LogLevel::Off)
    }

    /// As [`RawNode::new`], collecting log lines from the very first one.
    pub fn with_log_level(
        config: Config,
        storage: MemStorage,
        level: LogLevel,
    ) -> Result<RawNode, ConfigError> {
        let raft = Raft::new(config, storage, level)?;
        let (told_soft, told_hard) = (raft.soft_state(), raft.hard_state());
        Ok(RawNode { raft, told_soft, told_hard, outstanding: None })
    }

    /// Founds a group: every first member must be given the same peers in the same order.
    ///
    /// The entries that add them are considered committed at once. The application applies them like any
    /// others, which is harmless, since adding a voter twice changes nothing.
    pub fn bootstrap(&mut self, peers: Vec<Peer>) -> Result<(), ConfigError> {
        if peers.is_empty() {
            return Err(ConfigError::BadBootstrap("no peers"));
        }
        if self.raft.log.last_index() != Index::ZERO || self.raft.term != Term(0) {
            return Err(ConfigError::BadBootstrap("the log is not empty"));
        }
        // The first Ready must carry a HardState, even if it equals the one there is now.
        self.told_hard = HardState::default();
        self.raft.become_follower(Term(1), NodeId::NONE);
        let mut entries = Vec::with_capacity(peers.len());
        for (i, peer) in peers.iter().enumerate() {
            let change = ConfChange {
                id: 0,
                kind: ConfChangeKind::AddNode,
                node_id: peer.id,
                context: peer.context.clone(),
            };
            entries.push(Entry {
                kind: EntryKind::ConfChange,
                term: Term(1),
                index: Index(i as u64 + 1),
                data: codec::encode_conf_change(&change),
            });
        }
        let last = Index(entries.len() as u64);
        self.raft.log.append(&mut self.raft.sink, entries);
        self.raft.log.commit_to(last);
        for peer in peers {
            let change = ConfChange { node_id: peer.id, ..ConfChange::default() };
            self.raft.apply_conf_change(&change.to_v2()).expect("one more voter at a time");
        }
        Ok(())
    }

    /// Lets one tick of logical time pass.
    pub fn tick(&mut self) {
        self.raft.tick();
    }

    /// Starts an election now, if this node may lead.
    pub fn campaign(&mut self) {
        self.raft.step_local(Message::new(MessageKind::Hup, NodeId::NONE));
    }

    /// Proposes one entry. `Ok` means that it is on its way, not that it will be committed.
    pub fn propose(&mut self, data: Bytes) -> Result<(), ProposeError> {
        self.propose_entries(vec![Entry::proposal(data)])
    }

    /// Proposes several entries at once: all are appended next to each other, or all are dropped.
    pub fn propose_batch(&mut self, batch: Vec<Bytes>) -> Result<(), ProposeError> {
        self.propose_entries(batch.into_iter().map(Entry::proposal).collect())
    }

    /// Proposes a membership change. One that is not allowed now is *not* an error: an empty entry takes
    /// its place in the log.
    pub fn propose_conf_change(
        &mut self,
        change: impl Into<AnyConfChange>,
    ) -> Result<(), ProposeError> {
        let (kind, data) = match change.into() {
            AnyConfChange::V1(change) => {
                (EntryKind::ConfChange, codec::encode_conf_change(&change))
            }
            AnyConfChange::V2(change) => {
                (EntryKind::ConfChangeV2, codec::encode_conf_change_v2(&change))
            }
        };
        self.propose_entries(vec![Entry { kind, data, ..Entry::default() }])
    }

    fn propose_entries(&mut self, entries: Vec<Entry>) -> Result<(), ProposeError> {
        if entries.is_empty() {
            return Err(ProposeError(DropReason::Empty));
        }
        let from = self.raft.id;
        self.raft.step(Message { kind: MessageKind::Prop, from, entries, ..Message::default() })
    }

    /// To be called when a committed membership change is applied. Returns the membership it leads to,
    /// which belongs into the application's next snapshot. Not calling it rejects the change.
    ///
    /// # Errors
    /// If the change contradicts the current membership, which stays as it is. It was committed, so the application must stop: members
    /// that go on would not agree who they are.
    pub fn apply_conf_change(&mut self, change: &ConfChangeV2) -> Result<ConfState, ChangeError> {
        self.raft.apply_conf_change(change)
    }

    /// Handles a message from another member or from a storage thread.
    pub fn step(&mut self, message: Message) -> Result<(), StepError> {
        if message.kind.is_local() && !message.from.is_local_thread() {
            return Err(StepError::Local);
        }
        if message.kind.is_response()
            && !message.from.is_local_thread()
            && self.raft.tracker.progress(message.from).is_none()
        {
            return Err(StepError::PeerNotFound);
        }
        self.raft.step(message).map_err(StepError::from)
    }

    /// Whether [`RawNode::ready`] would return anything.
    pub fn has_ready(&self) -> bool {
        let raft = &self.raft;
        if !raft.msgs.is_empty() || !raft.msgs_after_append.is_empty() {
            return true;
        }
        let hard = raft.hard_state();
        raft.soft_state() != self.told_soft
            || (!hard.is_empty() && hard != self.told_hard)
            || raft.log.has_next_unstable_snapshot()
            || raft.log.has_next_unstable_entries()
            || raft.log.has_next_committed(self.applies_unstable())
            || !raft.read_states.is_empty()
    }

    /// Takes the work there is to do. See [`Ready`] for the order it must be done in.
    ///
    /// # Panics
    /// In sync mode, if the previous Ready has not been advanced.
    pub fn ready(&mut self) -> Ready {
        assert!(
            self.outstanding.is_none(),
            "node {}: a second Ready while one is out; call advance first",
            self.raft.id
        );
        let applies_unstable = self.applies_unstable();
        let (soft, hard) = (self.raft.soft_state(), self.raft.hard_state());
        let log = &self.raft.log;
        let entries = log.next_unstable_entries();
        let mut ready = Ready {
            soft_state: (soft != self.told_soft).then_some(soft),
            hard_state: (!hard.is_empty() && hard != self.told_hard).then_some(hard),
            must_sync: !entries.is_empty()
                || hard.term != self.told_hard.term
                || hard.vote != self.told_hard.vote,
            entries,
            snapshot: log.next_unstable_snapshot().cloned(),
            committed_entries: log.next_committed(applies_unstable),
            read_states: std::mem::take(&mut self.raft.read_states),
            messages: std::mem::take(&mut self.raft.msgs),
        };
        let append_response = self.storage_append_response(&ready);
        let applied = AppliedBatch::of(&ready.committed_entries);
        let after_append = std::mem::take(&mut self.raft.msgs_after_append);
        if self.raft.config.async_storage_writes {
            self.add_storage_messages(&mut ready, after_append, append_response);
        } else {
            let mut outstanding =
                Outstanding { append_response, applied, ..Outstanding::default() };
            for message in after_append {
                if message.to == self.raft.id {
                    outstanding.self_messages.push(message);
                } else {
                    ready.messages.push(message);
                }
            }
            self.outstanding = Some(outstanding);
        }
        self.told_soft = soft;
        if ready.hard_state.is_some() {
            self.told_hard = hard;
        }
        self.raft.log.accept_unstable();
        if let Some(applied) = applied {
            self.raft.log.accept_applying(applied.last, applied.encoded_bytes, applies_unstable);
        }
        ready
    }

    /// Sync mode: everything in the last Ready has been done.
    ///
    /// # Panics
    /// In async mode, or if no Ready is out.
    pub fn advance(&mut self) {
        assert!(
            !self.raft.config.async_storage_writes,
            "advance has no meaning with asynchronous storage writes"
        );
        let outstanding =
            self.outstanding.take().expect("advance follows a ready that has not been advanced");
        // Own acknowledgements first: they refer to entries that the next line calls stable.
        for message in outstanding.self_messages {
            self.raft.step_local(message);
        }
        if let Some(message) = outstanding.append_response {
            self.raft.step_local(message);
        }
        if let Some(applied) = outstanding.applied {
            self.raft.on_applied(applied);
        }
    }

    /// Asks for an index that makes a read linearizable. The answer is a `ReadState` with the same context
    /// in a later Ready, or never: callers ask again. Contexts need not be unique, but should be.
    pub fn read_index(&mut self, context: Bytes) {
        self.raft.step_local(Message {
            kind: MessageKind::ReadIndex,
            entries: vec![Entry::proposal(context)],
            ..Message::default()
        });
    }

    /// Asks the leader to hand over to `to`. Given up after one election timeout.
    pub fn transfer_leader(&mut self, to: NodeId) {
        self.raft.step_local(Message {
            kind: MessageKind::TransferLeader,
            from: to,
            ..Message::default()
        });
    }

    /// A follower forgets its leader, so that it may vote before its lease ends.
    pub fn forget_leader(&mut self) {
        self.raft.step_local(Message::new(MessageKind::ForgetLeader, NodeId::NONE));
    }

    /// The transport lost messages to `peer`.
    pub fn report_unreachable(&mut self, peer: NodeId) {
        self.raft.step_local(Message {
            kind: MessageKind::Unreachable,
            from: peer,
            ..Message::default()
        });
    }

    /// The transport delivered a snapshot to `peer`, or failed to. Must be called after every `MsgSnap`,
    /// else the peer gets nothing more until it answers by itself.
    pub fn report_snapshot(&mut self, peer: NodeId, ok: bool) {
        self.raft.step_local(Message {
            kind: MessageKind::SnapStatus,
            from: peer,
            reject: !ok,
            ..Message::default()
        });
    }

    /// The stable log.
    pub fn storage(&self) -> &MemStorage {
        &self.raft.log.storage
    }

    /// The stable log, for the application to add what has become durable.
    pub fn storage_mut(&mut self) -> &mut MemStorage {
        &mut self.raft.log.storage
    }

    pub fn status(&self) -> Status {
        let raft = &self.raft;
        Status {
            id: raft.id,
            role: raft.role,
            leader: raft.leader,
            hard_state: raft.hard_state(),
            applied: raft.log.applied(),
            last_index: raft.log.last_index(),
            leader_transferee: raft.leader_transferee,
            pending_conf_index: raft.pending_conf_index,
            is_learner: raft.is_learner,
        }
    }

    /// What the leader knows about each member, itself included, by ascending id. On others it is stale.
    pub fn progress(&self) -> impl Iterator<Item = (NodeId, &Progress)> {
        self.raft.tracker.iter()
    }

    /// The membership in force, as of the last applied change.
    pub fn membership(&self) -> &Membership {
        &self.raft.tracker.membership
    }

    /// The membership in force, in the form that is stored.
    pub fn conf_state(&self) -> ConfState {
        self.raft.tracker.membership.to_conf_state()
    }

    pub fn config(&self) -> &Config {
        &self.raft.config
    }

    pub fn id(&self) -> NodeId {
        self.raft.id
    }

    pub fn term(&self) -> Term {
        self.raft.term
    }

    /// The leader of this term, or [`NodeId::NONE`].
    pub fn leader(&self) -> NodeId {
        self.raft.leader
    }

    pub fn role(&self) -> Role {
        self.raft.role
    }

    pub fn is_leader(&self) -> bool {
        self.raft.role == Role::Leader
    }

    pub fn is_learner(&self) -> bool {
        self.raft.is_learner
    }

    /// Highest index known to be on a quorum.
    pub fn committed(&self) -> Index {
        self.raft.log.committed()
    }

    /// Highest index the application has acknowledged as applied.
    pub fn applied(&self) -> Index {
        self.raft.log.applied()
    }

    /// Last index of the log, durable or not.
    pub fn last_index(&self) -> Index {
        self.raft.log.last_index()
    }

    /// The first entry that is not known to be durable: one past the last, if all are.
    pub fn first_unstable(&self) -> Index {
        self.raft.log.first_unstable()
    }

    /// The entry at `index`, durable or not, if it is in the log.
    pub fn entry(&self, index: Index) -> Option<&Entry> {
        self.raft.log.entry(index)
    }

    /// Payload bytes that this leader has proposed and not committed.
    pub fn uncommitted_bytes(&self) -> u64 {
        self.raft.uncommitted_bytes
    }

    /// Reads that wait here for a quorum, and for the first commit of a term.
    pub fn waiting_reads(&self) -> (usize, usize) {
        self.raft.reads.waiting()
    }

    /// Term of the entry at `index`, if it is in the log or just before it.
    pub fn term_at(&self, index: Index) -> Option<Term> {
        self.raft.log.term(index).ok()
    }

    /// Leader: at or below this index there may be a membership change that is not applied yet.
    pub fn pending_conf_index(&self) -> Index {
        self.raft.pending_conf_index
    }

    /// Whether an entry of the leader's own term has been committed: only then are its reads current.
    pub fn has_committed_in_term(&self) -> bool {
        self.raft.has_committed_in_term()
    }

    pub fn set_log_level(&mut self, level: LogLevel) {
        self.raft.sink.set_threshold(level);
    }

    /// Lines collected since the last call.
    pub fn drain_log(&mut self) -> Vec<LogLine> {
        self.raft.sink.drain()
    }

    /// For tests: replaces the drawn election timeout until the next change of role.
    pub fn set_randomized_election_timeout(&mut self, ticks: u32) {
        self.raft.randomized_election_ticks = ticks;
    }

    /// In sync mode an entry may be applied in the same Ready that persists it, since the application
    /// does both in order. In async mode the two threads are independent.
    fn applies_unstable(&self) -> bool {
        let is_alone = self.raft.tracker.membership.is_sole_voter(self.raft.id);
        !self.raft.config.async_storage_writes || (planted!(SoleVoterHasty) && is_alone)
    }

    /// What the append thread reports when everything that is unstable now has become durable.
    fn storage_append_response(&self, ready: &Ready) -> Option<Message> {
        let raft = &self.raft;
        let has_unstable = raft.log.has_unstable_entries();
        if !has_unstable && ready.snapshot.is_none() {
            return None;
        }
        let mut response = Message {
            kind: MessageKind::StorageAppendResp,
            to: raft.id,
            from: NodeId::LOCAL_APPEND_THREAD,
            // If the term moves on before this returns, a new leader may have replaced the entries, and
            // put others of the same index and an even older term in their place: the term tells.
            term: raft.term,
            ..Message::default()
        };
        if has_unstable {
            // Not the last entry of this Ready: an earlier write that was acknowledged under an older
            // term is covered by this one.
            response.index = raft.log.last_index();
            response.log_term = raft.log.last_term();
        }
        response.snapshot = ready.snapshot.clone().map(Box::new);
        Some(response)
    }

    fn add_storage_messages(
        &self,
        ready: &mut Ready,
        after_append: Vec<Message>,
        append_response: Option<Message>,
    ) {
        let id = self.raft.id;
        if !ready.entries.is_empty()
            || ready.hard_state.is_some()
            || ready.snapshot.is_some()
            || !after_append.is_empty()
        {
            let hard = ready.hard_state.unwrap_or_default();
            let mut responses = after_append;
            responses.extend(append_response);
            ready.messages.push(Message {
                kind: MessageKind::StorageAppend,
                to: NodeId::LOCAL_APPEND_THREAD,
                from: id,
                term: hard.term,
                vote: hard.vote,
                commit: hard.commit,
                entries: ready.entries.clone(),
                snapshot: ready.snapshot.clone().map(Box::new),
                responses,
                ..Message::default()
            });
        }
        if !ready.committed_entries.is_empty() {
            ready.messages.push(ready::storage_apply(id, &ready.committed_entries));
        }
    }
}
