//! Looking at a node, for status pages and tests.

use norn_mvcc::Store;
use norn_raft::RawNode;
use norn_storage::revlog::Table;

use crate::counters::Counters;
use crate::lease::Lessor;
use crate::members::Members;
use crate::watchers::Watchers;
use crate::{Config, Node, Reader, Time};

/// Nothing here changes anything.
impl<R: Reader> Node<R> {
    pub fn id(&self) -> u64 {
        self.id
    }

    /// It has stopped for good.
    pub fn has_failed(&self) -> bool {
        self.is_failed
    }

    pub fn cluster_id(&self) -> u64 {
        self.cluster_id
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    pub fn now(&self) -> Time {
        self.now
    }

    pub fn raft(&self) -> &RawNode {
        &self.raft
    }

    pub fn store(&self) -> &Store {
        &self.store
    }

    pub fn lessor(&self) -> &Lessor {
        &self.lessor
    }

    pub fn members(&self) -> &Members {
        &self.members
    }

    pub fn watchers(&self) -> &Watchers {
        &self.watchers
    }

    /// Alarms raised less those taken back, since the start: (member, type), count.
    pub fn alarm_counts(&self) -> impl Iterator<Item = ((u64, i32), i64)> + '_ {
        self.alarm_counts.iter().map(|(alarm, count)| (*alarm, *count))
    }

    pub fn alarms(&self) -> impl Iterator<Item = (u64, i32)> + '_ {
        self.alarms.iter().copied()
    }

    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    pub fn applied(&self) -> u64 {
        self.applied
    }

    pub fn applied_term(&self) -> u64 {
        self.applied_term
    }

    pub fn cluster_version(&self) -> Option<&str> {
        self.cluster_version.as_deref()
    }

    pub fn storage_version(&self) -> Option<String> {
        let meta = self.backend.log.table(Table::Meta);
        let version = meta.get(&b"storageVersion"[..])?;
        Some(String::from_utf8_lossy(&version).into_owned())
    }

    /// Bytes on disk and bytes of them in use.
    pub fn db_bytes(&self) -> (u64, u64) {
        (self.backend.log.size_on_disk(), self.backend.log.size_in_use())
    }

    /// Reads of the whole state that are under way, or wait for their turn.
    pub fn exports(&self) -> usize {
        self.exports.len()
    }

    /// A database that a leader sent waits to become the state.
    pub fn is_taking_snapshot(&self) -> bool {
        !self.received.waiting.is_empty()
    }

    pub fn proposals_pending(&self) -> usize {
        self.proposals.len()
    }

    /// Whether a leader is known.
    pub fn has_leader(&self) -> bool {
        !self.raft.leader().is_none()
    }

    pub fn is_leader(&self) -> bool {
        self.raft.is_leader()
    }

    pub fn is_learner(&self) -> bool {
        self.members.member(self.id).is_some_and(|m| m.is_learner)
    }
}
