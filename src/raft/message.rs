//! Everything that is sent: between members, to the storage threads, and to oneself.
//!
//! One struct for all kinds, as on the wire; which fields mean something depends on the kind.

use bytes::Bytes;

use crate::types::{Entry, Index, NodeId, Snapshot, Term};

/// The 24 kinds of message, numbered as in etcd's `raftpb`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum MessageKind {
    /// Local: start an election.
    #[default]
    Hup = 0,
    /// Local: the leader's heartbeat is due.
    Beat = 1,
    /// Propose `entries`. Forwarded to the leader with term 0.
    Prop = 2,
    /// Append `entries` after (`index`, `log_term`); `commit` is the leader's.
    App = 3,
    AppResp = 4,
    Vote = 5,
    VoteResp = 6,
    Snap = 7,
    Heartbeat = 8,
    HeartbeatResp = 9,
    /// Local: the transport could not reach `from`.
    Unreachable = 10,
    /// Local: the snapshot to `from` arrived, or failed (`reject`).
    SnapStatus = 11,
    /// Local: step down unless a quorum was heard of lately.
    CheckQuorum = 12,
    /// Hand leadership to `from`.
    TransferLeader = 13,
    /// Campaign at once: the leader wants this follower in its place.
    TimeoutNow = 14,
    ReadIndex = 15,
    ReadIndexResp = 16,
    PreVote = 17,
    PreVoteResp = 18,
    /// To the append thread: make `entries`, hard state and snapshot durable, then deliver `responses`.
    StorageAppend = 19,
    StorageAppendResp = 20,
    /// To the apply thread: apply `entries`, then deliver `responses`.
    StorageApply = 21,
    StorageApplyResp = 22,
    /// Local: a follower forgets its leader and may vote again.
    ForgetLeader = 23,
}

impl MessageKind {
    /// All kinds in wire order.
    pub const ALL: [MessageKind; 24] = [
        MessageKind::Hup,
        MessageKind::Beat,
        MessageKind::Prop,
        MessageKind::App,
        MessageKind::AppResp,
        MessageKind::Vote,
        MessageKind::VoteResp,
        MessageKind::Snap,
        MessageKind::Heartbeat,
        MessageKind::HeartbeatResp,
        MessageKind::Unreachable,
        MessageKind::SnapStatus,
        MessageKind::CheckQuorum,
        MessageKind::TransferLeader,
        MessageKind::TimeoutNow,
        MessageKind::ReadIndex,
        MessageKind::ReadIndexResp,
        MessageKind::PreVote,
        MessageKind::PreVoteResp,
        MessageKind::StorageAppend,
        MessageKind::StorageAppendResp,
        MessageKind::StorageApply,
        MessageKind::StorageApplyResp,
        MessageKind::ForgetLeader,
    ];

    /// The kind with this wire number, if there is one.
    pub fn from_number(number: u64) -> Option<MessageKind> {
        MessageKind::ALL.get(usize::try_from(number).ok()?).copied()
    }

    /// Name as etcd prints it.
    pub fn name(self) -> &'static str {
        const NAMES: [&str; 24] = [
            "MsgHup",
            "MsgBeat",
            "MsgProp",
            "MsgApp",
            "MsgAppResp",
            "MsgVote",
            "MsgVoteResp",
            "MsgSnap",
            "MsgHeartbeat",
            "MsgHeartbeatResp",
            "MsgUnreachable",
            "MsgSnapStatus",
            "MsgCheckQuorum",
            "MsgTransferLeader",
            "MsgTimeoutNow",
            "MsgReadIndex",
            "MsgReadIndexResp",
            "MsgPreVote",
            "MsgPreVoteResp",
            "MsgStorageAppend",
            "MsgStorageAppendResp",
            "MsgStorageApply",
            "MsgStorageApplyResp",
            "MsgForgetLeader",
        ];
        NAMES[self as usize]
    }

    /// Kinds that never come from another member.
    pub fn is_local(self) -> bool {
        use MessageKind::*;
        matches!(
            self,
            Hup | Beat
                | Unreachable
                | SnapStatus
                | CheckQuorum
                | StorageAppend
                | StorageAppendResp
                | StorageApply
                | StorageApplyResp
        )
    }

    /// Kinds that answer something; from a member we do not know they are refused.
    pub fn is_response(self) -> bool {
        use MessageKind::*;
        matches!(
            self,
            AppResp
                | VoteResp
                | HeartbeatResp
                | Unreachable
                | ReadIndexResp
                | PreVoteResp
                | StorageAppendResp
                | StorageApplyResp
        )
    }
}

/// One message. Cloning shares payloads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    pub kind: MessageKind,
    pub to: NodeId,
    pub from: NodeId,
    /// The sender's term; for (pre-)votes the term asked for or granted. 0: none attached.
    pub term: Term,
    /// Term of the entry at `index`.
    pub log_term: Term,
    /// `App`: entry before `entries`. `AppResp`: last matching, or the refused `index`.
    pub index: Index,
    pub entries: Vec<Entry>,
    pub commit: Index,
    pub snapshot: Option<Box<Snapshot>>,
    /// Only in `StorageAppend`: the vote to make durable, with `term` and `commit`.
    pub vote: NodeId,
    pub reject: bool,
    /// With `reject` in `AppResp`: where the leader should probe next.
    pub reject_hint: Index,
    /// Read counter in heartbeats, kind of campaign in votes. Empty: none.
    pub context: Bytes,
    /// Only in `StorageAppend` and `StorageApply`: deliver these afterwards.
    pub responses: Vec<Message>,
}

impl Message {
    pub fn new(kind: MessageKind, to: NodeId) -> Message {
        Message { kind, to, ..Message::default() }
    }

    /// Whether it never leaves the process: to oneself, or to or from a storage thread.
    pub fn is_local_delivery(&self) -> bool {
        self.from == self.to || self.from.is_local_thread() || self.to.is_local_thread()
    }
}
