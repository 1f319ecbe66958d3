//! Why a call was refused. Nothing has changed when one of these is returned.

use std::fmt;

/// Why a proposal went nowhere. The caller may try again, here or at the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DropReason {
    /// Nobody leads in this term yet.
    NoLeader,
    /// A follower that must not forward.
    ForwardingDisabled,
    /// The leader is handing over.
    Transferring,
    /// The leader is no longer a member.
    NotMember,
    /// More is uncommitted than `uncommitted_bytes_max`.
    UncommittedLimit,
    /// No entries at all.
    Empty,
    /// The payload of a membership change cannot be decoded.
    BadConfChange,
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DropReason::NoLeader => "no leader",
            DropReason::ForwardingDisabled => "forwarding is disabled",
            DropReason::Transferring => "leadership is being transferred",
            DropReason::NotMember => "not a member",
            DropReason::UncommittedLimit => "too much is uncommitted",
            DropReason::Empty => "nothing proposed",
            DropReason::BadConfChange => "malformed membership change",
        })
    }
}

/// A proposal was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProposeError(pub DropReason);

impl fmt::Display for ProposeError {
    /// etcd's text, without the reason.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("raft proposal dropped")
    }
}

impl std::error::Error for ProposeError {}

/// A message was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StepError {
    /// A local kind that does not come from a storage thread.
    Local,
    /// A response from somebody outside of the membership.
    PeerNotFound,
    /// A forwarded proposal was dropped.
    Dropped(DropReason),
}

impl fmt::Display for StepError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StepError::Local => f.write_str("raft: cannot step raft local message"),
            StepError::PeerNotFound => f.write_str("raft: cannot step as peer not found"),
            StepError::Dropped(reason) => ProposeError(*reason).fmt(f),
        }
    }
}

impl std::error::Error for StepError {}

impl From<ProposeError> for StepError {
    fn from(error: ProposeError) -> Self {
        StepError::Dropped(error.0)
    }
}
