//! What members have made durable, and what others build on it: a leader is elected by durable votes and holds all that
//! was committed, what is committed is on the disks of a majority, and a restart remembers what there was.
//!
//! Seen through raft's stable log, which the node fills when a write is durable, and no earlier.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use norn_node::{Node, Reader};
use norn_raft::quorum::Voters;
use norn_raft::{EntryKind, Index, NodeId, RawNode};

use crate::history::{Failure, Verdict};

/// Configurations of a member that a commit may have been counted in: that of its last turns.
const CONFIGURATIONS: usize = 3;

/// One member's disk.
#[derive(Default)]
struct Disk {
    term: u64,
    vote: u64,
    /// Up to here there is a snapshot.
    base: u64,
    last: (u64, u64),
    /// Terms of entries, by index.
    terms: BTreeMap<u64, u64>,
    /// Entries (index, term) that are on their way to the disk, with those that they replaced on that way.
    coming: BTreeSet<(u64, u64)>,
    /// The first entry of the member's log that the disk has another one in place of.
    parted: Option<u64>,
    configurations: VecDeque<Voters>,
    /// It was started and not seen since.
    is_fresh: bool,
    /// (term, commit) when it led last.
    led: Option<(u64, u64)>,
}

/// What is committed anywhere, with its terms, and since when.
struct Committed<'a> {
    terms: &'a BTreeMap<u64, u64>,
    by_term: &'a BTreeMap<u64, u64>,
}

impl Committed<'_> {
    /// The term of the leader that committed it.
    fn since(&self, index: u64) -> Option<u64> {
        self.by_term.iter().find(|(_, upto)| **upto >= index).map(|(term, _)| *term)
    }
}

/// All of them, and the log as far as it is committed anywhere.
#[derive(Default)]
pub struct Disks {
    of: BTreeMap<u64, Disk>,
    /// Term of each committed entry, by index.
    committed: BTreeMap<u64, u64>,
    /// Up to which index it was so when a term was the newest of whoever saw it.
    by_term: BTreeMap<u64, u64>,
}

impl Disks {
    pub fn restarted(&mut self, id: u64) {
        let disk = self.of.entry(id).or_default();
        (disk.is_fresh, disk.led) = (true, None);
    }

    /// After every turn. `is_elected`: it leads, and this term had no leader before.
    pub fn observe<R: Reader>(&mut self, node: &Node<R>, is_elected: bool) -> Verdict {
        let (id, raft) = (node.id(), node.raft());
        let known = Committed { terms: &self.committed, by_term: &self.by_term };
        if self.of.entry(id).or_default().look(id, raft, &known)? && raft.is_leader() {
            one_change(id, raft)?;
        }
        let commit = raft.committed().0;
        if commit < node.applied() || commit > raft.last_index().0 {
            let detail = format!("{id:x}: applied {}, {:?}", node.applied(), raft.status());
            return Err(Failure::new("Applied, committed and last are in this order.", detail));
        }
        if is_elected {
            self.elected(id, raft)?;
        }
        self.commits(id, raft)?;
        let led = raft.is_leader().then_some((raft.term().0, commit));
        self.of.entry(id).or_default().led = led;
        Ok(())
    }

    fn elected(&self, id: u64, raft: &RawNode) -> Verdict {
        let term = raft.term().0;
        // (Whoever went on to a later term may have voted before.)
        let voted = |member: NodeId| {
            let disk = self.of.get(&member.0)?;
            Some(disk.term > term || (disk.term == term && disk.vote == id))
        };
        if !is_majority(&raft.membership().voters, |member| voted(member).unwrap_or(false)) {
            let votes: Vec<_> = self.of.iter().map(|(id, d)| (*id, d.term, d.vote)).collect();
            let detail =
                format!("{id:x} leads term {term}; durable votes (by, term, for): {votes:x?}");
            return Err(Failure::new(
                "A leader is elected by durable votes of a majority.",
                detail,
            ));
        }
        if !voted(NodeId(id)).unwrap_or(false) {
            let detail = format!("{id:x} leads term {term}, on its disk: {}", self.of[&id].term);
            return Err(Failure::new("A leader has its term and vote on its disk.", detail));
        }
        // (One who is elected late, in a term that others have left, need not know what they have done since.)
        let before = self.by_term.range(..term).map(|(_, index)| *index).max();
        if let Some((last, wanted)) = before.and_then(|index| self.committed.get_key_value(&index))
        {
            let has = raft.term_at(Index(*last)).map(|term| term.0);
            let is_there = raft.last_index().0 >= *last && has.is_none_or(|term| term == *wanted);
            if !is_there {
                let detail = format!(
                    "{id:x} leads term {term} and ends at {}; committed: entry {last} of term {wanted}, there: {has:?}",
                    raft.last_index()
                );
                return Err(Failure::new("A leader holds everything that was committed.", detail));
            }
        }
        Ok(())
    }

    fn commits(&mut self, id: u64, raft: &RawNode) -> Verdict {
        let commit = raft.committed().0;
        let Some(term) = raft.term_at(Index(commit)).map(|term| term.0) else { return Ok(()) };
        let newest = self.committed.last_key_value().map_or(0, |(index, _)| *index);
        if let Some(wanted) = self.committed.get(&commit)
            && *wanted != term
        {
            let detail = format!("{id:x}: entry {commit} of term {term}, committed with {wanted}");
            return Err(Failure::new("What is committed stays as it is.", detail));
        }
        if let Some((led, before)) = self.of[&id].led
            && raft.is_leader()
            && (led, true) == (raft.term().0, commit > before)
            && term != led
        {
            let detail = format!("{id:x} in term {led}: entry {commit} of term {term}");
            return Err(Failure::new(
                "Only entries of its own term are committed by counting.",
                detail,
            ));
        }
        if commit <= newest {
            return Ok(());
        }
        self.by_term.insert(raft.term().0, commit);
        for index in newest + 1..=commit {
            if let Some(term) = raft.term_at(Index(index)) {
                self.committed.insert(index, term.0);
            }
        }
        // (The founding members are committed by definition.)
        let has =
            |member: NodeId| self.of.get(&member.0).is_some_and(|disk| disk.has(commit, term));
        let mut configurations = self.of[&id].configurations.iter();
        if term > 1 && !configurations.any(|voters| is_majority(voters, has)) {
            let disks: Vec<_> = self.of.iter().map(|(id, d)| (*id, d.base, d.last)).collect();
            let detail = format!(
                "{id:x} commits entry {commit} of term {term}; durable (member, snapshot, last (term, index)): {disks:x?}"
            );
            return Err(Failure::new("What is committed is on the disks of a majority.", detail));
        }
        Ok(())
    }
}

impl Disk {
    fn has(&self, index: u64, term: u64) -> bool {
        index <= self.base || self.terms.get(&index) == Some(&term)
    }

    /// Takes in what is durable now. Whether the log changed.
    fn look(
        &mut self,
        id: u64,
        raft: &RawNode,
        committed: &Committed<'_>,
    ) -> Result<bool, Failure> {
        let storage = raft.storage();
        let hard = storage.hard_state();
        let (term, vote, last) = (hard.term.0, hard.vote.0, storage.last_index().0);
        let last_term = storage.term(Index(last)).map_or(0, |term| term.0);
        let now = (term, vote, (last_term, last));
        // The first entry that was on its way to the disk in place of another one.
        let replaced_from = self.replaced_from().unwrap_or(u64::MAX);
        // (A crash may leave the first of the entries that were to replace others.)
        let is_replaced = replaced_from <= last && self.coming.contains(&(last, last_term));
        let is_back = term < self.term || (self.is_fresh && now.2 < self.last && !is_replaced);
        if is_back || (term == self.term && vote != self.vote && self.vote != 0) {
            let before = (self.term, self.vote, self.last);
            let promise = match self.is_fresh {
                true => "A restart remembers term, vote and log.",
                false => "A member votes once in a term.",
            };
            let detail =
                format!("{id:x}: (term, vote, last (term, index)) {before:x?}, then {now:x?}");
            return Err(Failure::new(promise, detail));
        }
        self.is_fresh = false;
        (self.term, self.vote, self.base) = (term, vote, storage.first_index().0 - 1);
        let is_changed = (last_term, last) != self.last;
        if is_changed {
            self.last = (last_term, last);
            let mut replaced = self.terms.split_off(&(last + 1));
            for index in (self.base + 1..=last).rev() {
                let term = storage.term(Index(index)).map_or(0, |term| term.0);
                // (Equal here means equal before.)
                match self.terms.insert(index, term) {
                    Some(old) if old == term => break,
                    Some(old) => replaced.insert(index, old),
                    None => None,
                };
            }
            // (What replaces it may have been taken on before others committed it: then this copy was not counted.)
            let is_lost = |(index, term): &(&u64, &u64)| {
                **index > self.base
                    && **index < replaced_from
                    && committed.terms.get(*index) == Some(*term)
            };
            if let Some((index, term)) = replaced.iter().find(is_lost) {
                let detail =
                    format!("{id:x} had entry {index} of term {term}, and now ends at {last}");
                return Err(Failure::new("A member keeps what is committed.", detail));
            }
        }
        self.take_on(id, raft, committed)?;
        let voters = &raft.membership().voters;
        if self.configurations.back() != Some(voters) {
            self.configurations.push_back(voters.clone());
            if self.configurations.len() > CONFIGURATIONS {
                self.configurations.pop_front();
            }
        }
        Ok(is_changed)
    }

    /// (What is coming behind the end replaces nothing.)
    fn replaced_from(&self) -> Option<u64> {
        let mut here = self.coming.range(..=(self.last.1, u64::MAX));
        here.find(|(index, term)| self.is_other(*index, *term)).map(|(index, _)| *index)
    }

    fn is_other(&self, index: u64, term: u64) -> bool {
        self.terms.get(&index).is_some_and(|own| *own != term)
    }

    /// Takes in what is to be made durable. Nothing of that may replace what is on the disk and committed.
    fn take_on(&mut self, id: u64, raft: &RawNode, committed: &Committed<'_>) -> Verdict {
        let (first, end) = (raft.first_unstable().0.max(self.base + 1), raft.last_index().0);
        if first > end {
            self.parted = None;
            // (Where they end otherwise, a snapshot is coming, behind what was queued before it.)
            if self.last.1 == end {
                self.coming.clear();
            }
            return Ok(());
        }
        let log = (first..=end).map(|index| (index, raft.term_at(Index(index)).map_or(0, |t| t.0)));
        // (What is known of one is known of all before it.)
        let mut new_from = end + 1;
        for entry in log.clone().rev() {
            if !self.coming.insert(entry) {
                break;
            }
            new_from = entry.0;
        }
        let mut here = log.take_while(|(index, _)| *index <= self.last.1);
        let parts = here.find(|(index, term)| self.is_other(*index, *term));
        if parts.is_none() && self.replaced_from().is_none() {
            // What has arrived in its place is of no interest any more.
            self.coming = self.coming.split_off(&(self.last.1 + 1, 0));
        }
        let (parted, before) = (parts.map(|(index, _)| index), self.parted);
        self.parted = parted;
        let Some(from) = parted else { return Ok(()) };
        // (A leader of a term before the one in which it was committed may still replace the copy of a member that had heard of neither.)
        let by = raft.term_at(Index(from)).map_or(0, |term| term.0);
        let is_late =
            |index| committed.since(index).is_some_and(|since| by < since && self.term < since);
        let is_lost = |(index, term): &(&u64, &u64)| {
            committed.terms.get(*index) == Some(*term) && !is_late(**index)
        };
        let upto = before.unwrap_or(u64::MAX);
        // (Or else it is the disk that has got on.)
        let is_new = new_from <= from && from < upto;
        if is_new && let Some((index, term)) = self.terms.range(from..upto).find(is_lost) {
            let detail = format!(
                "{id:x} has entry {index} of term {term} on its disk, and replaces all from {from} on"
            );
            return Err(Failure::new("A member keeps what is committed.", detail));
        }
        Ok(())
    }
}

/// A second change of the membership waits until the first is applied, whoever proposed that.
fn one_change(id: u64, raft: &RawNode) -> Verdict {
    let storage = raft.storage();
    let from = raft.committed().0.max(storage.first_index().0 - 1) + 1;
    let end = storage.last_index().next();
    let Ok(open) = storage.entries(Index(from), end, u64::MAX) else { return Ok(()) };
    let changes: Vec<_> = open.iter().filter(|entry| entry.kind != EntryKind::Normal).collect();
    if raft.term().0 > 1 && changes.len() > 1 {
        let detail = format!("{id:x} leads term {}: {changes:?}", raft.term());
        return Err(Failure::new("One change of the membership at a time.", detail));
    }
    Ok(())
}

fn is_majority(voters: &Voters, has: impl Fn(NodeId) -> bool) -> bool {
    [&voters.incoming, &voters.outgoing]
        .into_iter()
        .all(|half| half.is_empty() || 2 * half.iter().filter(|id| has(**id)).count() > half.len())
}
