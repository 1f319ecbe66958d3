//! Linearizable reads without log entries (thesis section 6.4).
//!
//! A read is safe at the commit index the leader has when the request arrives, provided that it still leads
//! then. `Safe` asks a quorum: reads are numbered, each heartbeat carries the number of the newest one, and
//! an echo of number n vouches for all reads up to n. Numbers, unlike request contexts, cannot be confused
//! when two requests use the same context or an echo is late.

use std::collections::VecDeque;

use bytes::Bytes;
use norn_planted::planted;

use crate::config::ReadOnly;
use crate::message::{Message, MessageKind};
use crate::quorum::Voters;
use crate::raft::Raft;
use crate::sink::note;
use crate::types::{Entry, Index, NodeId, ReadState};

/// Reads that wait. Belongs to one leadership: discarded with it.
#[derive(Clone, Debug, Default)]
pub(crate) struct ReadQueue {
    /// How many reads have been released. Read number n (from 1) is at `queue[n - 1 - confirmed]`.
    confirmed: u64,
    queue: VecDeque<PendingRead>,
    /// The highest number each member has echoed.
    acks: Vec<(NodeId, u64)>,
    /// Requests that came before anything of this term was committed.
    postponed: Vec<Message>,
}

#[derive(Clone, Debug)]
struct PendingRead {
    from: NodeId,
    entries: Vec<Entry>,
    index: Index,
}

impl ReadQueue {
    /// Number of the newest read, if any read waits.
    fn newest(&self) -> Option<u64> {
        (!self.queue.is_empty()).then(|| self.confirmed + self.queue.len() as u64)
    }

    /// What heartbeats carry now.
    pub(crate) fn heartbeat_context(&self) -> Bytes {
        match self.newest() {
            Some(number) => Bytes::copy_from_slice(&number.to_le_bytes()),
            None => Bytes::new(),
        }
    }

    /// Reads that wait for a quorum, and for the first commit.
    pub(crate) fn waiting(&self) -> (usize, usize) {
        (self.queue.len(), self.postponed.len())
    }

    fn ack(&mut self, id: NodeId, number: u64) {
        // An echo cannot be ahead of us, unless it is corrupt.
        let number = number.min(self.confirmed + self.queue.len() as u64);
        match self.acks.iter_mut().find(|(member, _)| *member == id) {
            Some((_, highest)) => *highest = number.max(*highest),
            None => self.acks.push((id, number)),
        }
    }

    /// Takes out the reads that a quorum now vouches for.
    fn release(&mut self, voters: &Voters) -> Vec<PendingRead> {
        let acked = |id| self.acks.iter().find(|(member, _)| *member == id).map(|(_, n)| Index(*n));
        let quorum = voters.committed(acked).0;
        let ready = quorum.saturating_sub(self.confirmed).min(self.queue.len() as u64);
        self.confirmed += ready;
        if planted!(ReadNumberReused) && ready as usize == self.queue.len() {
            (self.confirmed, self.acks) = (0, Vec::new());
        }
        self.queue.drain(..ready as usize).collect()
    }
}

impl Raft {
    /// Leader: a read request of its own or from a follower.
    pub(crate) fn on_read_index(&mut self, message: Message) {
        // Before its first commit a new leader may not know yet what is committed. etcd lets a single voter
        // answer at once; but the commit index on disk may trail what was acknowledged before a crash.
        if !self.has_committed_in_term() && !planted!(ReadBeforeCommit) {
            if self.reads.postponed.len() < self.config.reads_max {
                self.reads.postponed.push(message);
            }
            return;
        }
        let committed = self.log.committed();
        let Message { from, entries, .. } = message;
        let is_alone = self.tracker.membership.is_sole_voter(self.id);
        // A transferee campaigns without regard to leases: while one is named, ours proves nothing.
        let trusts_clock = self.config.read_only == ReadOnly::LeaseBased || planted!(ReadByLease);
        let has_lease = trusts_clock && self.leader_transferee.is_none();
        if is_alone || has_lease {
            self.answer_read(from, entries, committed);
            return;
        }
        if self.reads.queue.len() >= self.config.reads_max {
            return;
        }
        self.reads.queue.push_back(PendingRead { from, entries, index: committed });
        let number = self.reads.confirmed + self.reads.queue.len() as u64;
        self.reads.ack(self.id, number);
        self.broadcast_heartbeat();
    }

    /// Leader: `from` echoed a heartbeat.
    pub(crate) fn on_read_ack(&mut self, from: NodeId, context: &Bytes) {
        // Contexts of any other length are not ours.
        let Ok(number) = <[u8; 8]>::try_from(context.as_ref()) else {
            return;
        };
        if self.reads.queue.is_empty() {
            return;
        }
        self.reads.ack(from, u64::from_le_bytes(number));
        self.release_reads();
    }

    /// Answers what a quorum vouches for. Also after the quorum itself has changed.
    pub(crate) fn release_reads(&mut self) {
        if self.reads.queue.is_empty() {
            return;
        }
        for read in self.reads.release(&self.tracker.membership.voters) {
            self.answer_read(read.from, read.entries, read.index);
        }
    }

    /// Leader: handles the requests that came too early, once something of its term is committed.
    pub(crate) fn release_postponed_reads(&mut self) {
        if self.reads.postponed.is_empty() || !self.has_committed_in_term() {
            return;
        }
        for message in std::mem::take(&mut self.reads.postponed) {
            self.on_read_index(message);
        }
    }

    fn answer_read(&mut self, from: NodeId, entries: Vec<Entry>, index: Index) {
        if from.is_none() || from == self.id {
            let context = entries.into_iter().next().unwrap_or_default().data;
            self.read_states.push(ReadState { index, context });
        } else {
            let kind = MessageKind::ReadIndexResp;
            self.send(Message { kind, to: from, index, entries, ..Message::default() });
        }
    }

    /// Follower: passes a request on.
    pub(crate) fn forward_read(&mut self, message: Message) {
        if self.leader.is_none() {
            note!(
                self.sink,
                Info,
                "{} no leader at term {}; dropping index reading msg",
                self.id,
                self.term
            );
            return;
        }
        self.send(Message { to: self.leader, ..message });
    }

    /// Follower: the leader's answer.
    pub(crate) fn on_read_index_resp(&mut self, message: Message) {
        let Ok([entry]) = <[Entry; 1]>::try_from(message.entries) else {
            note!(
                self.sink,
                Error,
                "{} invalid format of MsgReadIndexResp from {}",
                self.id,
                message.from
            );
            return;
        };
        self.read_states.push(ReadState { index: message.index, context: entry.data });
    }
}
