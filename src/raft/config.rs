//! The fixed parameters of one node, with the reason of every limit.

use std::fmt;

use crate::types::{Index, NodeId};

/// How a leader makes sure that it still leads before it answers a read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReadOnly {
    /// Ask a quorum. Needs no clock.
    #[default]
    Safe,
    /// Trust the lease that `check_quorum` gives. Needs bounded clock drift.
    LeaseBased,
}

/// Parameters of a node. Construct with [`Config::new`] and overwrite fields.
#[derive(Clone, Debug)]
pub struct Config {
    /// Not [`NodeId::NONE`] and not a storage thread.
    pub id: NodeId,
    /// Ticks without a leader before a follower campaigns; the actual value is drawn anew from
    /// `election_ticks..2 * election_ticks` at every change of role, so that votes seldom split.
    pub election_ticks: u32,
    /// Ticks between two heartbeats of a leader. Below `election_ticks`.
    pub heartbeat_ticks: u32,
    /// Seed of the election jitter. Give every node its own, or elections tie.
    pub seed: u64,
    /// Last index the application has already applied; 0 means the storage's snapshot index.
    pub applied: Index,
    /// Encoded entry bytes in one `MsgApp`, at least one entry: bounds the cost of a lost message.
    /// 0: one entry per message.
    pub message_bytes_max: u64,
    /// Encoded bytes of committed entries handed out and not yet acknowledged as applied. 0: same as
    /// `message_bytes_max`.
    pub committed_bytes_max: u64,
    /// Payload bytes a leader holds uncommitted before it drops proposals: bounds memory while a quorum
    /// is unreachable. 0: unlimited.
    pub uncommitted_bytes_max: u64,
    /// `MsgApp`s in flight to one follower: bounds the sending buffer of the transport.
    pub inflight_messages_max: usize,
    /// Payload bytes in flight to one follower. 0: unlimited, else at least `message_bytes_max`.
    pub inflight_bytes_max: u64,
    /// Reads that wait for a quorum, and as many that wait for the first commit of a term. Callers batch and retry, so this is
    /// only reached by runaways; what exceeds it is dropped. At least 1.
    pub reads_max: usize,
    /// A leader that does not hear from a quorum for `election_ticks` steps down, and followers that do
    /// hear from a leader refuse to vote.
    pub check_quorum: bool,
    /// Ask before campaigning (thesis section 9.6).
    pub pre_vote: bool,
    pub read_only: ReadOnly,
    /// Storage work is handed out as messages, so that the next Ready need not wait for the disk.
    pub async_storage_writes: bool,
    /// Followers drop proposals instead of forwarding them.
    pub disable_proposal_forwarding: bool,
    /// Accept membership changes even if one is pending. Only for those who check it themselves.
    pub disable_conf_change_validation: bool,
    /// A leader that is removed or demoted becomes a follower as soon as it applies that.
    pub step_down_on_removal: bool,
}

impl Config {
    /// etcd's server settings for the node `id`, with the `seed` of its election jitter.
    pub fn new(id: NodeId, seed: u64) -> Config {
        Config {
            id,
            election_ticks: 10,
            heartbeat_ticks: 1,
            seed,
            applied: Index::ZERO,
            message_bytes_max: 1 << 20,
            committed_bytes_max: 0,
            uncommitted_bytes_max: 0,
            inflight_messages_max: 512,
            inflight_bytes_max: 0,
            reads_max: 65_536,
            check_quorum: true,
            pre_vote: true,
            read_only: ReadOnly::Safe,
            async_storage_writes: false,
            disable_proposal_forwarding: false,
            disable_conf_change_validation: false,
            step_down_on_removal: false,
        }
    }

    /// The first rule that is broken, if any.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.id.is_none() || self.id.is_local_thread() {
            return Err(ConfigError::BadId(self.id));
        }
        if self.heartbeat_ticks == 0 {
            return Err(ConfigError::NoHeartbeat);
        }
        if self.election_ticks <= self.heartbeat_ticks {
            return Err(ConfigError::ElectionTooShort {
                election_ticks: self.election_ticks,
                heartbeat_ticks: self.heartbeat_ticks,
            });
        }
        if self.inflight_messages_max == 0 {
            return Err(ConfigError::NoInflight);
        }
        if self.reads_max == 0 {
            return Err(ConfigError::NoReads);
        }
        if self.inflight_bytes_max != 0 && self.inflight_bytes_max < self.message_bytes_max {
            return Err(ConfigError::InflightBytesTooSmall {
                inflight_bytes_max: self.inflight_bytes_max,
                message_bytes_max: self.message_bytes_max,
            });
        }
        if self.read_only == ReadOnly::LeaseBased && !self.check_quorum {
            return Err(ConfigError::LeaseWithoutCheckQuorum);
        }
        Ok(())
    }

    /// `committed_bytes_max` with its default resolved. Not 0, which nothing could stay below.
    pub(crate) fn committed_bytes_limit(&self) -> u64 {
        match self.committed_bytes_max {
            0 => self.message_bytes_max.max(1),
            limit => limit,
        }
    }

    /// `uncommitted_bytes_max` with "unlimited" resolved.
    pub(crate) fn uncommitted_bytes_limit(&self) -> u64 {
        if self.uncommitted_bytes_max == 0 { u64::MAX } else { self.uncommitted_bytes_max }
    }
}

/// Why a node cannot be built.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfigError {
    BadId(NodeId),
    NoHeartbeat,
    ElectionTooShort {
        election_ticks: u32,
        heartbeat_ticks: u32,
    },
    NoInflight,
    NoReads,
    InflightBytesTooSmall {
        inflight_bytes_max: u64,
        message_bytes_max: u64,
    },
    LeaseWithoutCheckQuorum,
    /// The stored membership contradicts itself.
    BadConfState(&'static str),
    /// The stored commit index lies beyond the stored log: entries have been lost.
    CommitOutOfRange {
        commit: Index,
        last: Index,
    },
    /// The applied index lies outside of the stored log.
    AppliedOutOfRange {
        applied: Index,
        snapshot: Index,
        last: Index,
    },
    /// A group is bootstrapped with an empty storage and at least one peer.
    BadBootstrap(&'static str),
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConfigError::BadId(id) => write!(f, "{id} cannot be the id of a node"),
            ConfigError::NoHeartbeat => write!(f, "heartbeat ticks must be greater than 0"),
            ConfigError::ElectionTooShort { election_ticks, heartbeat_ticks } => write!(
                f,
                "election ticks ({election_ticks}) must exceed heartbeat ticks ({heartbeat_ticks})"
            ),
            ConfigError::NoReads => write!(f, "waiting reads must be greater than 0"),
            ConfigError::NoInflight => write!(f, "in-flight messages must be greater than 0"),
            ConfigError::InflightBytesTooSmall { inflight_bytes_max, message_bytes_max } => write!(
                f,
                "in-flight bytes ({inflight_bytes_max}) must allow one message ({message_bytes_max})"
            ),
            ConfigError::LeaseWithoutCheckQuorum => {
                write!(f, "lease-based reads need check_quorum")
            }
            ConfigError::BadConfState(why) => write!(f, "stored membership is invalid: {why}"),
            ConfigError::CommitOutOfRange { commit, last } => {
                write!(f, "stored commit {commit} is beyond the last entry {last}")
            }
            ConfigError::AppliedOutOfRange { applied, snapshot, last } => {
                write!(f, "applied {applied} is out of range [{snapshot}, {last}]")
            }
            ConfigError::BadBootstrap(why) => write!(f, "cannot bootstrap: {why}"),
        }
    }
}

impl std::error::Error for ConfigError {}
