//! Everything that can arrive at a node, and everything it can ask for: two closed lists.

use bytes::Bytes;
use norn_raft::{LogLine, Message, NodeId};
use norn_storage::{Completion, DiskBatch, FileName};

use crate::watchers::StreamId;
use crate::{Error, Time};

/// Names a call until its reply; chosen by the server, never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

/// Unary methods that a node answers by itself: request message in, response message out, both encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Method {
    Range,
    Put,
    DeleteRange,
    Txn,
    Compact,
    LeaseGrant,
    LeaseRevoke,
    /// One request of the keepalive stream.
    LeaseKeepAlive,
    LeaseTimeToLive,
    LeaseLeases,
    MemberAdd,
    MemberRemove,
    MemberUpdate,
    MemberList,
    MemberPromote,
    Alarm,
    Status,
    Defragment,
    Hash,
    HashKv,
    MoveLeader,
    AuthStatus,
    Downgrade,
    /// Nothing but a confirmed read index: for health checks.
    Barrier,
    /// Writes the state as a bbolt file; the reply is its name. For Maintenance.Snapshot.
    Export,
}

#[derive(Clone, Debug)]
pub enum Input {
    /// A turn begins. (Time passed, perhaps nothing else.)
    Wake,
    Call {
        token: Token,
        method: Method,
        body: Bytes,
    },
    /// The caller is gone: no reply is wanted.
    Forget {
        token: Token,
    },
    Peer(Message),
    /// Messages to this member were lost.
    Unreachable {
        id: u64,
    },
    /// Whether there is a live connection to this member.
    PeerActive {
        id: u64,
        active: bool,
    },
    /// The version a member reports, as (major, minor); `None`: it could not be asked.
    PeerVersion {
        id: u64,
        version: Option<(u64, u64)>,
    },
    /// A snapshot handed out for sending arrived, or did not.
    SnapshotSent {
        to: u64,
        ok: bool,
    },
    /// A snapshot message from a leader, whose database was stored as `file` and synced.
    SnapshotReceived {
        message: Message,
        file: FileName,
    },
    /// Exported file is not needed any more.
    ExportDone {
        file: FileName,
    },
    Disk(Completion),
    WatchOpen {
        stream: StreamId,
    },
    WatchRequest {
        stream: StreamId,
        body: Bytes,
    },
    WatchClose {
        stream: StreamId,
    },
    /// The connection took this many responses of the stream.
    WatchDrained {
        stream: StreamId,
        count: usize,
    },
    /// Hand leadership over before leaving.
    TransferLeadership,
}

/// What must be done, in this order; then [`crate::Node::advance`]. Everything that has to wait for the disk is held
/// back inside the node until the completion of the batch arrives, so whatever is listed here may leave.
#[derive(Debug, Default)]
pub struct Ready {
    /// Submit first: the sooner a sync starts, the sooner it ends.
    pub disk: Vec<DiskBatch>,
    pub messages: Vec<Message>,
    pub replies: Vec<(Token, Result<Bytes, Error>)>,
    /// Encoded `WatchResponse`s, in order per stream.
    pub watch: Vec<(StreamId, Bytes)>,
    pub events: Vec<NodeEvent>,
    /// Step again (with [`Input::Wake`] if there is nothing else) no later than this.
    pub deadline: Time,
}

impl Ready {
    pub(crate) fn is_empty(&self) -> bool {
        self.disk.is_empty()
            && self.messages.is_empty()
            && self.replies.is_empty()
            && self.watch.is_empty()
            && self.events.is_empty()
    }
}

/// What the adapters around the node, or the operator, should know.
#[derive(Clone, Debug, PartialEq)]
pub enum NodeEvent {
    /// A line of raft's own log.
    Raft(LogLine),
    /// Something an operator should read: severity, text, fields.
    Log {
        level: Severity,
        text: &'static str,
        fields: Vec<(&'static str, String)>,
    },
    /// A request of the node's own was applied.
    Proposed {
        op: &'static str,
        took_ms: u64,
        is_ok: bool,
    },
    LeaderChanged {
        leader: NodeId,
    },
    /// Members, or their URLs, are not what they were.
    MembersChanged,
    /// The node knows its cluster and can serve clients.
    Serving,
    /// A database file is ready to go to a member with this message.
    SendSnapshot {
        message: Message,
        file: FileName,
    },
    /// This member was removed from the cluster.
    Removed,
    /// The node cannot go on; nothing more will come.
    Failed {
        reason: String,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    Info,
    Warn,
    Error,
}
