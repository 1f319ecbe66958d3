//! The node: all of a server's state, changed by inputs, one at a time, and by nothing else.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use norn_mvcc::Store;
use norn_planted::planted;
use norn_raft::{Message, MessageKind, NodeId, RawNode, Ready as RaftReady, Role};
use norn_storage::wal::Wal;

use crate::backend::Backend;
use crate::compactor::Compactor;
use crate::config::Config;
use crate::counters::Counters;
use crate::disk_work::DiskWork;
use crate::export::Exports;
use crate::house::House;
use crate::image::Images;
use crate::input::{Input, NodeEvent, Ready, Severity, Token};
use crate::lease::Lessor;
use crate::mail::Mail;
use crate::members::Members;
use crate::pace::{self, Pace};
use crate::reads::Reads;
use crate::received::Received;
use crate::request_ids::RequestIds;
use crate::watchers::Watchers;
use crate::wire::Header;
use crate::{Error, Reader, Time};

/// A whole server as one state machine. See the crate's page for the calling order.
pub struct Node<R> {
    pub(crate) config: Config,
    pub(crate) id: u64,
    pub(crate) cluster_id: u64,
    pub(crate) now: Time,
    pub(crate) next_tick: Time,
    pub(crate) last_tick: Time,
    /// This leader stood still for a while, and may have been replaced: only the answer to a round with an id beyond this
    /// one shows that it still leads.
    pub(crate) doubt: Option<u64>,

    pub(crate) raft: RawNode,
    pub(crate) wal: Wal,
    pub(crate) work: DiskWork,
    pub(crate) house: House,
    pub(crate) compaction: Pace,
    /// When somebody asked for something last.
    pub(crate) asked_at: Time,
    pub(crate) received: Received,

    pub(crate) backend: Backend<R>,
    pub(crate) store: Store,
    pub(crate) lessor: Lessor,
    pub(crate) members: Members,
    /// Raised alarms: (member, type).
    pub(crate) alarms: BTreeSet<(u64, i32)>,
    /// For operators, as etcd counts: how often each was raised since the start, also again, less how often it was taken back.
    pub(crate) alarm_counts: BTreeMap<(u64, i32), i64>,
    pub(crate) applied: u64,
    pub(crate) applied_term: u64,
    /// `X.Y.0`, once decided.
    pub(crate) cluster_version: Option<String>,

    pub(crate) ids: RequestIds,
    /// Proposals on their way, by request id.
    pub(crate) proposals: BTreeMap<u64, Proposal>,
    /// (deadline, request id), in order, because all wait equally long.
    pub(crate) proposal_deadlines: VecDeque<(Time, u64)>,
    /// To be handed to raft at the end of the turn: one batch.
    pub(crate) to_propose: Vec<(u64, Bytes)>,
    /// Membership changes on their way, by request id.
    pub(crate) changes: BTreeMap<u64, Token>,
    pub(crate) reads: Reads,
    /// Calls that wait for a leadership transfer: token, wanted leader, deadline.
    pub(crate) transfers: Vec<(Token, u64, Time)>,
    /// Renewals of leases that ran out: answered when the revocation is applied.
    pub(crate) lease_waits: BTreeMap<i64, Vec<Token>>,
    /// Physical compactions: (revision, token, reply).
    pub(crate) compact_waits: Vec<(i64, Token, Result<Bytes, Error>)>,
    pub(crate) peers: BTreeMap<u64, PeerInfo>,

    pub(crate) watchers: Watchers,
    pub(crate) compactor: Compactor,
    pub(crate) mail: Mail,
    pub(crate) exports: Exports,
    pub(crate) images: Images,
    pub(crate) publish: Publish,
    pub(crate) next_lease_scan: Time,
    pub(crate) next_version_check: Time,
    pub(crate) next_downgrade_check: Time,
    pub(crate) last_leader: NodeId,
    pub(crate) leader_elected_at: Option<Time>,
    pub(crate) is_failed: bool,
    /// The first election was already brought forward.
    pub(crate) ticks_advanced: bool,
    /// The proposal of this member's NOSPACE alarm, which may get lost.
    pub(crate) alarm_proposed: Option<u64>,
    pub(crate) out: Ready,
    pub(crate) is_out: bool,
    pub(crate) counters: Counters,
}

#[derive(Clone, Debug)]
pub(crate) struct Proposal {
    /// `None`: the node's own.
    pub(crate) token: Option<Token>,
    pub(crate) started: Time,
    /// A compaction that is answered only when the removal is complete.
    pub(crate) is_physical: bool,
}

/// What is known of another member.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PeerInfo {
    pub(crate) active_since: Option<Time>,
    pub(crate) version: Option<(u64, u64)>,
}

/// How far this member is with telling the cluster its name and client URLs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Publish {
    Wanted,
    Proposed { id: u64, again_at: Time },
    Done,
}

/// A leader that was not awake for so long asks the others before it believes itself (as etcd).
const STALL_TICKS: u64 = 3;

/// Proof that a [`Ready`] was taken; given back when it has been obeyed.
#[must_use]
#[derive(Debug)]
pub struct Ticket(());

impl<R: Reader> Node<R> {
    /// Takes one input. Time must not go back.
    pub fn step(&mut self, now: Time, input: Input) {
        assert!(!self.is_out, "an input while a Ready is out: advance first");
        if self.is_failed {
            return;
        }
        self.now = self.now.max(now);
        if pace::asks(&input) {
            self.asked_at = self.now;
        }
        match input {
            Input::Wake => self.mail.turn_begins(),
            Input::Call { token, method, body } => self.call(token, method, body),
            Input::Forget { token } => self.forget(token),
            Input::Peer(message) => self.peer_message(message),
            Input::Unreachable { id } => {
                self.mail.forget(id);
                self.raft.report_unreachable(NodeId(id));
            }
            Input::PeerActive { id, active } => {
                let now = self.now;
                let peer = self.peers.entry(id).or_default();
                peer.active_since = active.then(|| peer.active_since.unwrap_or(now));
                if active {
                    self.advance_ticks(2);
                }
            }
            Input::PeerVersion { id, version } => {
                self.peers.entry(id).or_default().version = version;
            }
            Input::SnapshotSent { to, ok } => self.snapshot_sent(to, ok),
            Input::SnapshotReceived { message, file } => self.snapshot_received(message, file),
            Input::ExportDone { file } => self.export_done(&file),
            Input::Disk(completion) => self.disk_done(completion),
            Input::WatchOpen { stream } => {
                let jitter = (self.config.seed ^ stream.0.wrapping_mul(0x9e37_79b9)) % 1000;
                self.watchers.open(stream, self.now, jitter);
            }
            Input::WatchRequest { stream, body } => self.watch_request(stream, &body),
            Input::WatchClose { stream } => self.watchers.close(stream),
            Input::WatchDrained { stream, count } => self.watchers.drained(stream, count),
            Input::TransferLeadership => self.hand_over(),
        }
    }

    /// Does everything that the inputs since the last call make possible, and lists what the world must do about it.
    /// `None`: nothing; wait for input until [`Node::deadline`].
    pub fn ready(&mut self) -> Option<(Ready, Ticket)> {
        assert!(!self.is_out, "a second Ready while one is out: advance first");
        if !self.is_failed {
            self.turn();
        }
        self.out.watch.extend(self.watchers.take_out());
        if self.out.is_empty() {
            return None;
        }
        self.is_out = true;
        let mut ready = std::mem::take(&mut self.out);
        ready.deadline = self.deadline();
        Some((ready, Ticket(())))
    }

    /// The Ready of this ticket has been obeyed.
    pub fn advance(&mut self, ticket: Ticket) {
        let Ticket(()) = ticket;
        assert!(self.is_out, "advance without a Ready");
        self.is_out = false;
    }

    /// When the node wants to be stepped again.
    pub fn deadline(&self) -> Time {
        if self.has_background_work() {
            return self.now;
        }
        let due = [
            self.compaction_due(),
            self.export_due(),
            self.image_due(),
            self.saving_due(),
            self.collector_due(),
            self.mail_due(),
        ];
        due.into_iter().flatten().fold(self.next_tick, Time::min)
    }

    fn turn(&mut self) {
        self.tick();
        self.campaign_alone();
        self.publish();
        self.propose_all();
        self.apply_held();
        loop {
            self.ask_read_index();
            let mut is_quiet = true;
            while self.raft.has_ready() {
                is_quiet = false;
                let ready = self.raft.ready();
                self.obey_raft(ready);
            }
            is_quiet &= !self.write_log();
            if is_quiet || self.is_failed {
                break;
            }
        }
        // (What failed was perhaps half applied, and nobody may be shown that; nor does anything go on once a read has failed.)
        if !self.is_failed {
            self.release_reads();
        }
        if self.is_failed {
            return;
        }
        self.post_what_is_due();
        self.background();
        self.commit_applied();
        self.flush_bulk();
    }

    fn obey_raft(&mut self, mut ready: RaftReady) {
        for line in self.raft.drain_log() {
            // (Acknowledgements repeat each other when writes are merged; that is not worth a line each.)
            if !line.text.starts_with("entry at index") {
                self.out.events.push(NodeEvent::Raft(line));
            }
        }
        if let Some(soft) = ready.soft_state {
            self.leader_changed(soft.leader, soft.role);
        }
        for state in ready.read_states {
            let id = state.context.first_chunk().map_or(0, |id| u64::from_be_bytes(*id));
            self.doubt = self.doubt.filter(|doubt| *doubt > id);
            self.reads.confirmed(&state.context, state.index.0);
        }
        // Who asks for votes has voted, for itself, in a new term: asked before that is durable, the others could make it
        // leader of a term that it forgets in a crash, and leads again, with other entries.
        let held = !planted!(OwnVoteEarly) && !planted!(VoteAskedEarly);
        let is_vote = |message: &mut Message| message.kind == MessageKind::Vote && held;
        let mut votes: Vec<Message> = ready.messages.extract_if(.., is_vote).collect();
        votes.retain(|message| !self.members.is_removed(message.to.0));
        for mut message in ready.messages {
            match message.kind {
                MessageKind::StorageAppend => {
                    message.responses.append(&mut votes);
                    self.mail.grows(&message);
                    self.work.appends.push_back(message);
                }
                MessageKind::StorageApply => {
                    self.work.applies.push_back(message);
                    self.apply_held();
                }
                MessageKind::Snap => self.start_snapshot(message),
                _ if self.members.is_removed(message.to.0) => {}
                _ => self.post(message),
            }
        }
        debug_assert!(votes.is_empty(), "a candidate's term is new, and so to be written");
    }

    /// A message from one of raft's own storage threads.
    pub(crate) fn step_self(&mut self, message: Message) {
        if let Err(error) = self.raft.step(message) {
            self.warn("own message refused by raft", vec![("error", error.to_string())]);
        }
    }

    fn peer_message(&mut self, message: Message) {
        if self.members.is_removed(message.from.0) {
            return;
        }
        let brings = matches!(message.kind, MessageKind::App | MessageKind::Prop)
            && !message.entries.is_empty();
        if brings && self.is_swamped() {
            // As if it were lost: whoever sent it stops, and asks again.
            return;
        }
        // (Refusals mean a message from outside the membership, or a proposal without a leader: both are dropped.)
        let _ = self.raft.step(message);
    }

    fn leader_changed(&mut self, leader: NodeId, role: Role) {
        self.drop_mail(role);
        if role != Role::Leader && self.lessor.is_primary() && !planted!(RevokeByExLeader) {
            self.lessor.demote();
            let waits = std::mem::take(&mut self.lease_waits);
            for token in waits.into_values().flatten() {
                self.reply(token, Err(Error::NotPrimaryLessor));
            }
        }
        if leader == self.last_leader {
            return;
        }
        if !leader.is_none() {
            self.counters.leader_changes += 1;
        }
        self.last_leader = leader;
        if role == Role::Leader {
            self.leader_elected_at = Some(self.now);
        }
        self.out.events.push(NodeEvent::LeaderChanged { leader });
        if !leader.is_none() {
            let failed = self.reads.leader_changed();
            for token in failed {
                self.reply(token, Err(Error::LeaderChanged));
            }
        }
        let arrived: Vec<(Token, u64, Time)> = std::mem::take(&mut self.transfers);
        for (token, wanted, deadline) in arrived {
            if leader.0 == wanted {
                // MoveLeader's answer has no header.
                self.reply(token, Ok(Bytes::new()));
            } else {
                self.transfers.push((token, wanted, deadline));
            }
        }
    }

    fn tick(&mut self) {
        if self.now < self.next_tick {
            return;
        }
        if self.stood_still() {
            self.doubt = Some(self.ids.next());
        }
        let is_late = self.now.since(self.last_tick) > 2 * self.config.tick_ms;
        if is_late && self.raft.is_leader() && self.members.iter().count() > 1 {
            self.counters.heartbeats_late += 1;
        }
        self.raft.tick();
        self.last_tick = self.now;
        // After a stall one tick is enough: the time lost says nothing about the leader's health.
        self.next_tick = (self.next_tick + self.config.tick_ms).max(self.now + 1);
        if self.next_tick.since(self.now) > self.config.tick_ms {
            self.next_tick = self.now + self.config.tick_ms;
        }
        self.expire_proposals();
        self.expire_reads();
        self.expire_leases();
        self.check_versions();
        self.check_downgrade();
        self.auto_compact();
        let header = self.header();
        self.watchers.tick(self.now, &header);
        let now = self.now;
        let late: Vec<Token> =
            self.transfers.iter().filter(|(_, _, at)| *at <= now).map(|(t, _, _)| *t).collect();
        self.transfers.retain(|(_, _, at)| *at > now);
        for token in late {
            self.reply(token, Err(Error::TransferTimeout));
        }
        self.write_rest();
    }

    pub(crate) fn stood_still(&self) -> bool {
        self.now.since(self.last_tick) > STALL_TICKS * self.config.tick_ms
    }

    /// The only voter has nobody to wait for.
    fn campaign_alone(&mut self) {
        let is_idle = self.raft.role() == Role::Follower && !self.has_leader();
        if is_idle && self.raft.committed().0 == self.applied {
            let mut voters = self.members.voters();
            let is_alone =
                voters.next().is_some_and(|m| m.id == self.id) && voters.next().is_none();
            if is_alone {
                self.raft.campaign();
            }
        }
    }

    fn has_background_work(&self) -> bool {
        !self.is_failed
            && (self.watchers_behind() || self.images.can_verify() || self.forgets_more())
    }

    fn watchers_behind(&self) -> bool {
        self.work.catch_up_more
    }

    /// Bounded pieces of whatever nobody waits for, until one fails.
    fn background(&mut self) {
        self.commit_applied();
        let pieces = [
            Self::catch_up_some,
            Self::compact_some,
            Self::verify_some,
            Self::export_some,
            Self::keep_house,
        ];
        for piece in pieces {
            if !self.is_failed {
                piece(self);
            }
        }
    }

    fn catch_up_some(&mut self) {
        if self.watchers.catching_up_count() == 0 {
            self.work.catch_up_more = false;
            return;
        }
        let header = self.header();
        match self.watchers.catch_up(&header, &self.store, &self.backend) {
            Ok(more) => self.work.catch_up_more = more,
            Err(error) => self.fail(&error.to_string()),
        }
    }

    /// What every reply begins with.
    pub fn header(&self) -> Header {
        Header {
            cluster_id: self.cluster_id,
            member_id: self.id,
            revision: self.store.current(),
            raft_term: self.applied_term,
        }
    }

    pub(crate) fn header_at(&self, revision: i64) -> Header {
        Header { revision, ..self.header() }
    }

    pub(crate) fn reply(&mut self, token: Token, result: Result<Bytes, Error>) {
        self.out.replies.push((token, result));
    }

    pub(crate) fn info(&mut self, text: &'static str, fields: Vec<(&'static str, String)>) {
        self.out.events.push(NodeEvent::Log { level: Severity::Info, text, fields });
    }

    pub(crate) fn warn(&mut self, text: &'static str, fields: Vec<(&'static str, String)>) {
        self.out.events.push(NodeEvent::Log { level: Severity::Warn, text, fields });
    }

    /// Stops the node for good. What was acknowledged is safe; nothing more will be.
    pub(crate) fn fail(&mut self, reason: &str) {
        if !self.is_failed {
            self.is_failed = true;
            self.out.events.push(NodeEvent::Failed { reason: reason.to_owned() });
        }
    }
}
