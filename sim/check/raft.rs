//! One leader per term; equal entries at equal indexes; term, commit and applied never fall while a node runs; and the
//! same revision after the same index.

use std::collections::BTreeMap;

use norn_node::{Node, Reader};
use norn_raft::{Entry, Index};

use crate::check::bounds;
use crate::check::disks::Disks;
use crate::history::{Failure, Verdict};
use crate::model::Model;

#[derive(Default)]
pub struct RaftCheck {
    leaders: BTreeMap<u64, u64>,
    /// Entries that were applied somewhere.
    log: BTreeMap<u64, Entry>,
    /// Per member: term, commit, applied of this incarnation.
    last: BTreeMap<u64, (u64, u64, u64)>,
    /// Per member: entries of its log that it has not applied. (It may drop one in the turn that applies it.)
    coming: BTreeMap<u64, BTreeMap<u64, Entry>>,
    /// Per member: the commit index that it had made durable.
    durable: BTreeMap<u64, u64>,
    disks: Disks,
    pub model: Model,
    /// The first applied entry that no member could show: from there on there is no model.
    pub lost_at: Option<u64>,
    revisions: BTreeMap<u64, (i64, u64)>,
    /// Where a member lives.
    hosts: BTreeMap<u64, usize>,
}

impl RaftCheck {
    pub fn new() -> RaftCheck {
        RaftCheck { model: Model::new(), ..RaftCheck::default() }
    }

    pub fn restarted(&mut self, id: u64) {
        self.last.remove(&id);
        self.disks.restarted(id);
    }

    /// The same, by where it lives.
    pub fn host_restarted(&mut self, host: usize) {
        self.last.retain(|id, _| self.hosts.get(id) != Some(&host));
        for (id, _) in self.hosts.iter().filter(|(_, lives)| **lives == host) {
            self.disks.restarted(*id);
        }
    }

    pub fn leader_count(&self) -> usize {
        self.leaders.len()
    }

    pub fn lives_on(&mut self, id: u64, host: usize) {
        self.hosts.insert(id, host);
    }

    pub fn host_of(&self, id: u64) -> Option<usize> {
        self.hosts.get(&id).copied()
    }

    /// Where the leader of a term lives, if one was seen.
    pub fn leader_of(&self, term: u64) -> Option<usize> {
        self.hosts.get(self.leaders.get(&term)?).copied()
    }

    /// After every turn.
    pub fn observe<R: Reader>(&mut self, node: &Node<R>) -> Verdict {
        let (id, raft) = (node.id(), node.raft());
        let term = raft.term().0;
        let is_elected = raft.is_leader() && !self.leaders.contains_key(&term);
        if raft.is_leader() {
            let first = *self.leaders.entry(term).or_insert(id);
            if first != id {
                let detail = format!("term {term}: {first:x} and {id:x}");
                return Err(Failure::new("A term has at most one leader.", detail));
            }
        }
        let now = (term, raft.committed().0, node.applied());
        let before = self.last.insert(id, now).unwrap_or_default();
        if now.0 < before.0 || now.1 < before.1 || now.2 < before.2 {
            let detail = format!("{id:x}: (term, commit, applied) {before:?} then {now:?}");
            return Err(Failure::new("Term, commit and applied never fall.", detail));
        }
        let durable = self.durable.entry(id).or_default();
        if now.1 < *durable {
            let detail = format!("{id:x}: had made commit {durable} durable, and is at {}", now.1);
            return Err(Failure::new("A restart remembers the commit index.", detail));
        }
        *durable = node.durable_commit().max(*durable);
        self.disks.observe(node, is_elected)?;
        bounds::observe(node)?;
        for index in before.2 + 1..=now.2 {
            self.compare_entry(node, index)?;
        }
        self.look_ahead(node);
        if now.2 > before.2 {
            self.take_in();
            // (Who failed may have half applied what it failed upon, and keeps it to itself.)
            if !node.has_failed() {
                self.compare_revision(node)?;
            }
        }
        Ok(())
    }

    fn compare_entry<R: Reader>(&mut self, node: &Node<R>, index: u64) -> Verdict {
        let storage = node.raft().storage();
        let stored = storage.entries(Index(index), Index(index + 1), u64::MAX).ok();
        let stored = stored.and_then(|found| found.into_iter().next());
        let came = || {
            // (What it had there was replaced if a snapshot came instead, of another history.)
            let base = Index(storage.first_index().0 - 1);
            let coming = self.coming.get(&node.id())?;
            let is_kept = storage.term(base).ok()? == coming.get(&base.0)?.term;
            coming.get(&index).filter(|_| is_kept).cloned()
        };
        let Some(entry) = stored.or_else(came) else { return Ok(()) };
        match self.log.get(&index) {
            None => {
                self.log.insert(index, entry);
                Ok(())
            }
            Some(first) if *first == entry => Ok(()),
            Some(first) => {
                let detail = format!("index {index}: {first:?}; on {:x}: {entry:?}", node.id());
                Err(Failure::new("An applied entry is the same on every member.", detail))
            }
        }
    }

    fn look_ahead<R: Reader>(&mut self, node: &Node<R>) {
        let (raft, coming) = (node.raft(), self.coming.entry(node.id()).or_default());
        // (What stood behind a log's end is of the past, even if the log grows again.)
        coming.split_off(&(raft.last_index().0 + 1));
        for index in (node.applied() + 1..=raft.last_index().0).rev() {
            let Some(entry) = raft.entry(Index(index)) else { break };
            // (What is known of one is known of all before it.)
            if coming.get(&index).is_some_and(|known| known.term == entry.term) {
                break;
            }
            coming.insert(index, entry.clone());
        }
        while coming.first_key_value().is_some_and(|(index, _)| *index <= node.applied()) {
            coming.pop_first();
        }
    }

    fn take_in(&mut self) {
        while let Some(entry) = self.log.get(&(self.model.applied + 1)) {
            self.model.take(self.model.applied + 1, entry);
        }
        let newest = self.log.keys().next_back().copied().unwrap_or(0);
        if newest > self.model.applied && self.lost_at.is_none() {
            self.lost_at = Some(self.model.applied + 1);
        }
    }

    fn compare_revision<R: Reader>(&mut self, node: &Node<R>) -> Verdict {
        let (index, revision, id) = (node.applied(), node.store().current(), node.id());
        let (first, by) = *self.revisions.entry(index).or_insert((revision, id));
        if first != revision {
            let detail = format!("index {index}: {first} on {by:x}, {revision} on {id:x}");
            return Err(Failure::new("The same log gives the same revision.", detail));
        }
        if let Some((wanted, _)) = self.model.at_index.get(&index)
            && *wanted != revision
        {
            let detail = format!("index {index}: {revision} on {id:x}, {wanted} in the model");
            return Err(Failure::new("A member's revision is that of the log.", detail));
        }
        Ok(())
    }
}
