//! How much a node holds before it refuses, waits or forgets, and how much it holds now.
//!
//! What grows with what others do has a limit here, or one in the configuration; both are listed by [`Node::holdings`], which the
//! simulator compares after every turn.

use norn_raft::{Index, Inflights};

use crate::{Node, Reader};

/// Limits of what is held for others. Not flags: operators have no use for them, simulations have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Proposals kept while no leader is known. Beyond it they are refused as overload: 16 k of them are memory for a few
    /// seconds of a busy server, which is how long an election takes.
    pub held_proposals: usize,
    /// Entries that may be committed and not applied before proposals are refused (etcd's limit).
    pub apply_gap: u64,
    /// Bytes of applied changes that the revision log has not on its disk. Beyond it nothing more is applied: what a disk that is too
    /// slow, or full, costs in memory.
    pub unwritten_bytes: usize,
    /// Payload bytes committed and not applied, from which a member takes no further entries, as if the network had lost them. (It is
    /// the disk that is behind, and not for ever: what is committed is applied.)
    pub unapplied_bytes: u64,
    /// Payload bytes that a leader holds uncommitted before it refuses proposals. etcd has no limit; this one is memory
    /// for several seconds of a busy server whose quorum is unreachable.
    pub uncommitted_bytes: u64,
    /// Messages with entries on their way to one member, as etcd sets it.
    pub inflight_messages: usize,
    /// Payload bytes of them (of one message at the least). etcd has no limit; here it is what a member that
    /// comes back has not acknowledged: 40 MB/s over a round trip of 200 ms.
    pub inflight_bytes: u64,
    /// Payload bytes from which nothing more is sent to a member in this turn: half a millisecond.
    pub turn_bytes: u64,
    /// Rounds of reads that wait for the leader's quorum. Members ask for one at a time and ask again.
    pub reads: usize,
    /// Bytes of applied entries kept in memory for members that are behind. Those that need older ones are sent a snapshot.
    pub log_bytes: usize,
    /// Bytes in use from which an export is synced as it is written. A smaller one stays in the system's memory until it was sent, and the
    /// log has the disk to itself; a larger one the system would begin to write of its own accord, all of it at once.
    pub export_unsynced_bytes: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            held_proposals: 16_384,
            apply_gap: 5_000,
            unwritten_bytes: 256 << 20,
            unapplied_bytes: 256 << 20,
            uncommitted_bytes: 512 << 20,
            inflight_messages: 512,
            inflight_bytes: 8 << 20,
            turn_bytes: 256 << 10,
            reads: 65_536,
            log_bytes: 256 << 20,
            export_unsynced_bytes: 512 << 20,
        }
    }
}

/// Something that a node holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holding {
    pub what: &'static str,
    pub count: usize,
    /// It stops growing there: what is counted in bytes passes it by one request at most, responses by those that a client asked for.
    pub limit: usize,
    pub is_bytes: bool,
}

impl<R: Reader> Node<R> {
    /// What this node holds for others, with the limits.
    pub fn holdings(&self) -> [Holding; 15] {
        let limits = &self.config.limits;
        let count = |what, count, limit| Holding { what, count, limit, is_bytes: false };
        let bytes = |what, count, limit| Holding { what, count, limit, is_bytes: true };
        let (rounds, postponed) = self.raft.waiting_reads();
        let in_flight = || self.raft.progress().map(|(_, progress)| &progress.inflights);
        let (responses, response_bytes) = self.watchers.fullest();
        let watch = self.watchers.limits();
        [
            count("held proposals", self.to_propose.len(), limits.held_proposals),
            count("rounds of reads", rounds, limits.reads),
            count("rounds of reads before the first commit", postponed, limits.reads),
            count(
                "messages on their way to a member",
                in_flight().map(Inflights::count).max().unwrap_or(0),
                limits.inflight_messages,
            ),
            count("responses of a watch stream", responses, watch.responses_in_flight),
            count("received databases", self.received.waiting.len(), crate::received::WAITING_MAX),
            count("exports", self.exports.len(), crate::export::QUEUE_MAX + 1),
            count(
                "hashes of compactions",
                self.store.compaction_hash_count(),
                norn_mvcc::COMPACTION_HASHES_MAX,
            ),
            bytes(
                "uncommitted proposals",
                to_usize(self.raft.uncommitted_bytes()),
                // (Of nothing, one message of proposals is always taken.)
                to_usize(limits.uncommitted_bytes).max(crate::calls::PROPOSAL_BYTES),
            ),
            bytes(
                "entries on their way to a member",
                to_usize(in_flight().map(Inflights::bytes).max().unwrap_or(0)),
                // (The last message may be a whole one.)
                to_usize(self.config.inflight_bytes() + self.config.message_bytes_max),
            ),
            bytes(
                "entries that have not left for a member",
                to_usize(self.mail.bytes()),
                to_usize(self.config.inflight_bytes() + self.config.message_bytes_max),
            ),
            bytes(
                "responses of a watch stream, in bytes",
                response_bytes,
                // (The last may be a whole step of catching up, with what was there before.)
                watch.bytes_in_flight.saturating_add(2 * watch.catch_up_bytes),
            ),
            bytes("applied changes not on disk", self.unwritten_bytes(), limits.unwritten_bytes),
            bytes("applied entries in memory", self.log_bytes(), limits.log_bytes),
            bytes("cached blocks", self.backend.log.cached_bytes(), self.config.cache_bytes),
        ]
    }

    /// Calls that this node has not answered and that leave nothing in the log: all of those that can be forgotten.
    pub fn waiting_calls(&self) -> usize {
        let leases: usize = self.lease_waits.values().map(Vec::len).sum();
        self.reads.len()
            + self.changes.len()
            + self.transfers.len()
            + self.compact_waits.len()
            + leases
    }

    pub(crate) fn unwritten_bytes(&self) -> usize {
        self.backend.unwritten_bytes()
    }

    /// Bytes of the stable entries that are applied; the others must be there.
    pub(crate) fn log_bytes(&self) -> usize {
        to_usize(self.raft.storage().payload_bytes(Index(0), Index(self.applied)))
    }

    fn unapplied_bytes(&self) -> u64 {
        self.raft.storage().payload_bytes(Index(self.applied), self.raft.committed())
    }

    /// More is committed than this member can apply.
    pub(crate) fn is_swamped(&self) -> bool {
        self.unapplied_bytes() >= self.config.limits.unapplied_bytes
    }
}

fn to_usize(count: u64) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}
