//! The nouns of the log: ids, terms, indexes, entries, snapshots and membership changes.
//!
//! Everything here is plain data that travels or is stored; behaviour lives elsewhere. Field meanings
//! follow etcd's `raftpb`, so that [`crate::codec`] can write them byte for byte.

use std::fmt;

use bytes::Bytes;

/// A member of the group, or one of the two local storage threads. Prints as hex without padding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u64);

impl NodeId {
    /// Nobody: no leader, no vote, a message without an addressee.
    pub const NONE: NodeId = NodeId(0);
    /// Target of `MsgStorageAppend` and sender of its own acknowledgement.
    pub const LOCAL_APPEND_THREAD: NodeId = NodeId(u64::MAX);
    /// Target of `MsgStorageApply` and sender of its own acknowledgement.
    pub const LOCAL_APPLY_THREAD: NodeId = NodeId(u64::MAX - 1);

    pub fn is_none(self) -> bool {
        self == NodeId::NONE
    }

    /// Whether this is one of the storage threads of the same process, not a member.
    pub fn is_local_thread(self) -> bool {
        self == NodeId::LOCAL_APPEND_THREAD || self == NodeId::LOCAL_APPLY_THREAD
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

/// Election term. 0 stands for "before any election" and, in a message, for "no term attached".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Term(pub u64);

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Position in the log. The first entry has index 1; 0 stands for "before the log".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Index(pub u64);

impl Index {
    pub const ZERO: Index = Index(0);

    #[must_use]
    pub fn next(self) -> Index {
        Index(self.0 + 1)
    }

    /// The index before this one; 0 stays 0.
    #[must_use]
    pub fn prev(self) -> Index {
        Index(self.0.saturating_sub(1))
    }

    /// `self - earlier` as a count. `earlier` must not be greater.
    pub fn distance_from(self, earlier: Index) -> usize {
        debug_assert!(earlier <= self, "{earlier} > {self}");
        (self.0 - earlier.0) as usize
    }

    #[must_use]
    pub fn plus(self, count: usize) -> Index {
        Index(self.0 + count as u64)
    }
}

impl fmt::Display for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// What the payload of an [`Entry`] is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum EntryKind {
    #[default]
    Normal,
    /// Payload is an encoded [`ConfChange`].
    ConfChange,
    /// Payload is an encoded [`ConfChangeV2`]; no bytes at all stand for "leave the joint config".
    ConfChangeV2,
}

/// One log entry. Cloning costs a reference count, never a copy of the payload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    pub kind: EntryKind,
    pub term: Term,
    pub index: Index,
    pub data: Bytes,
}

impl Entry {
    /// A normal entry that has not been given a place in the log yet.
    pub fn proposal(data: Bytes) -> Entry {
        Entry { data, ..Entry::default() }
    }
}

/// What must survive a crash besides the log itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    pub term: Term,
    pub vote: NodeId,
    /// May trail the true commit index after a crash: commit-only changes are not synced.
    pub commit: Index,
}

impl HardState {
    pub fn is_empty(&self) -> bool {
        *self == HardState::default()
    }
}

/// What is worth telling the application at once, but need not survive a crash.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SoftState {
    /// The leader of the current term, or [`NodeId::NONE`] while unknown.
    pub leader: NodeId,
    pub role: Role,
}

/// The part a node plays in its current term.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    #[default]
    Follower,
    /// Asks whether an election could be won, without touching its term (thesis section 9.6).
    PreCandidate,
    Candidate,
    Leader,
}

impl Role {
    /// Name as etcd prints it.
    pub fn name(self) -> &'static str {
        match self {
            Role::Follower => "StateFollower",
            Role::PreCandidate => "StatePreCandidate",
            Role::Candidate => "StateCandidate",
            Role::Leader => "StateLeader",
        }
    }
}

/// Membership at some index. Lists are sorted when produced by this crate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfState {
    pub voters: Vec<NodeId>,
    pub learners: Vec<NodeId>,
    /// The outgoing half of a joint configuration; empty when not joint.
    pub voters_outgoing: Vec<NodeId>,
    /// Voters of the outgoing half that become learners once the joint configuration is left.
    pub learners_next: Vec<NodeId>,
    /// The leader leaves the joint configuration by itself once it has applied it.
    pub auto_leave: bool,
}

impl ConfState {
    /// Same membership, whatever the order of the lists.
    pub fn is_equivalent(&self, other: &ConfState) -> bool {
        fn sorted(ids: &[NodeId]) -> Vec<NodeId> {
            let mut ids = ids.to_vec();
            ids.sort_unstable();
            ids
        }
        self.auto_leave == other.auto_leave
            && sorted(&self.voters) == sorted(&other.voters)
            && sorted(&self.learners) == sorted(&other.learners)
            && sorted(&self.voters_outgoing) == sorted(&other.voters_outgoing)
            && sorted(&self.learners_next) == sorted(&other.learners_next)
    }
}

/// The state machine up to and including `index`, opaque to this crate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    pub data: Bytes,
    pub index: Index,
    pub term: Term,
    pub conf_state: ConfState,
}

impl Snapshot {
    /// An empty snapshot stands for "none": old peers attach one to messages of other kinds.
    pub fn is_empty(&self) -> bool {
        self.index == Index::ZERO
    }
}

/// One kind of membership change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConfChangeKind {
    /// Add a voter, or promote a learner.
    #[default]
    AddNode,
    RemoveNode,
    /// Nothing for raft: carries a context to the application.
    UpdateNode,
    /// Add a learner, or demote a voter.
    AddLearnerNode,
}

impl ConfChangeKind {
    /// Name as protobuf prints it.
    pub fn name(self) -> &'static str {
        match self {
            ConfChangeKind::AddNode => "ConfChangeAddNode",
            ConfChangeKind::RemoveNode => "ConfChangeRemoveNode",
            ConfChangeKind::UpdateNode => "ConfChangeUpdateNode",
            ConfChangeKind::AddLearnerNode => "ConfChangeAddLearnerNode",
        }
    }
}

/// How a change of several members passes through the joint configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConfChangeTransition {
    /// Simple if at most one change, else joint with automatic leave.
    #[default]
    Auto,
    /// Always joint, with automatic leave.
    JointImplicit,
    /// Always joint; the application proposes the leave.
    JointExplicit,
}

impl ConfChangeTransition {
    /// Name as protobuf prints it.
    pub fn name(self) -> &'static str {
        match self {
            ConfChangeTransition::Auto => "ConfChangeTransitionAuto",
            ConfChangeTransition::JointImplicit => "ConfChangeTransitionJointImplicit",
            ConfChangeTransition::JointExplicit => "ConfChangeTransitionJointExplicit",
        }
    }
}

/// The original, single-member change (the only one etcd's server proposes).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfChange {
    /// Chosen by the application to recognise its own change; raft ignores it.
    pub id: u64,
    pub kind: ConfChangeKind,
    pub node_id: NodeId,
    pub context: Bytes,
}

impl ConfChange {
    /// The same change in the general form.
    pub fn to_v2(&self) -> ConfChangeV2 {
        ConfChangeV2 {
            transition: ConfChangeTransition::Auto,
            changes: vec![ConfChangeSingle { kind: self.kind, node_id: self.node_id }],
            context: self.context.clone(),
        }
    }
}

/// One step of a [`ConfChangeV2`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConfChangeSingle {
    pub kind: ConfChangeKind,
    pub node_id: NodeId,
}

/// A change of any number of members. No changes at all: leave the joint configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfChangeV2 {
    pub transition: ConfChangeTransition,
    pub changes: Vec<ConfChangeSingle>,
    pub context: Bytes,
}

impl ConfChangeV2 {
    /// Whether applying this leaves a joint configuration. The context does not matter.
    pub fn leaves_joint(&self) -> bool {
        self.transition == ConfChangeTransition::Auto && self.changes.is_empty()
    }

    /// `Some(auto_leave)` if applying this must pass through a joint configuration.
    pub fn enters_joint(&self) -> Option<bool> {
        match self.transition {
            ConfChangeTransition::Auto => (self.changes.len() > 1).then_some(true),
            ConfChangeTransition::JointImplicit => Some(true),
            ConfChangeTransition::JointExplicit => Some(false),
        }
    }
}

/// A change in either form, on its way into the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AnyConfChange {
    V1(ConfChange),
    V2(ConfChangeV2),
}

impl From<ConfChange> for AnyConfChange {
    fn from(change: ConfChange) -> Self {
        AnyConfChange::V1(change)
    }
}

impl From<ConfChangeV2> for AnyConfChange {
    fn from(change: ConfChangeV2) -> Self {
        AnyConfChange::V2(change)
    }
}

/// A first member of a new group, for [`crate::RawNode::bootstrap`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    pub id: NodeId,
    /// Becomes the context of the entry that adds the member.
    pub context: Bytes,
}

/// A linearizable read that may be served once the state machine has applied `index`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadState {
    pub index: Index,
    /// What the caller passed to [`crate::RawNode::read_index`].
    pub context: Bytes,
}
