//! A follower's log under everything a leader, a slow disk and a slow application can do, beside a naive twin.
//!
//! The log is driven through the node's public face: appends and snapshots come as messages of leaders that keep raft's
//! rules, storage and apply work is acknowledged late. After every operation all cursors and terms are compared.

use std::collections::VecDeque;

use bytes::Bytes;
use norn_raft::{
    ConfState, Config, Entry, HardState, Index, MemStorage, Message, MessageKind, NodeId, RawNode,
    Snapshot, Term,
};

use crate::choices::Choices;

const SELF: NodeId = NodeId(1);
const LEADER: NodeId = NodeId(2);
const RIVAL: NodeId = NodeId(3);

pub fn body(bytes: &[u8]) {
    let mut choices = Choices::new(bytes);
    let mut follower = Follower::new(choices.byte());
    let mut steps = 0;
    while !choices.is_done() && steps < 300 {
        steps += 1;
        follower.step(&mut choices);
        follower.compare();
    }
    while follower.append_done() || follower.apply_done() {
        follower.compare();
    }
    let twin = &follower.twin;
    let wanted = twin.committed.max(twin.applied);
    assert_eq!(follower.raw.applied().0, wanted, "something committed is never handed out");
}

/// A log in the simplest form: `base` is the last index before it.
#[derive(Clone, Debug, Default, PartialEq)]
struct Line {
    base: u64,
    base_term: u64,
    entries: Vec<Entry>,
}

impl Line {
    fn last(&self) -> u64 {
        self.base + self.entries.len() as u64
    }

    fn term(&self, index: u64) -> Option<u64> {
        if index == self.base {
            return Some(self.base_term);
        }
        let at = index.checked_sub(self.base + 1)?;
        self.entries.get(at as usize).map(|entry| entry.term.0)
    }

    fn entry(&self, index: u64) -> Option<&Entry> {
        self.entries.get(index.checked_sub(self.base + 1)? as usize)
    }

    /// Entries `low..=high`.
    fn range(&self, low: u64, high: u64) -> Vec<Entry> {
        (low..=high).filter_map(|index| self.entry(index).cloned()).collect()
    }

    fn truncate(&mut self, last: u64) {
        self.entries.truncate(last.saturating_sub(self.base) as usize);
    }

    /// Adds entries in place of what is there from the first of them on.
    fn put(&mut self, entries: &[Entry]) {
        let base = self.base;
        for entry in entries.iter().filter(|entry| entry.index.0 > base) {
            self.truncate(entry.index.0 - 1);
            assert_eq!(entry.index.0, self.last() + 1, "a gap in what is to be written");
            self.entries.push(entry.clone());
        }
    }

    fn compact(&mut self, index: u64) {
        let term = self.term(index).expect("an index of the log");
        self.entries.drain(..(index - self.base) as usize);
        (self.base, self.base_term) = (index, term);
    }
}

#[derive(Default)]
struct Twin {
    /// As the follower sees it, written or not.
    log: Line,
    committed: u64,
    /// Handed out, and acknowledged.
    applying: u64,
    applied: u64,
}

struct Follower {
    raw: RawNode,
    twin: Twin,
    disk: Line,
    hard: HardState,
    appends: VecDeque<Message>,
    applies: VecDeque<Message>,
    /// The log of the leader of `term`; its first `final_to` entries are in every later leader's log.
    leader: Line,
    term: u64,
    final_to: u64,
    settings: u8,
    serial: u8,
}

impl Follower {
    fn new(settings: u8) -> Follower {
        let storage = MemStorage::from_snapshot(snapshot(1, 1));
        let line = Line { base: 1, base_term: 1, entries: Vec::new() };
        Follower {
            raw: RawNode::new(config(settings), storage).expect("a valid disk"),
            twin: Twin { log: line.clone(), committed: 1, applying: 1, applied: 1 },
            disk: line.clone(),
            hard: HardState::default(),
            appends: VecDeque::new(),
            applies: VecDeque::new(),
            leader: line,
            term: 1,
            final_to: 1,
            settings,
            serial: 0,
        }
    }

    fn step(&mut self, choices: &mut Choices<'_>) {
        match choices.byte() % 16 {
            0..=3 => self.append(choices),
            4 => self.new_leader(choices),
            5 => {
                // The leader goes on, whether the follower hears of it or not.
                self.extend(1 + choices.below(3));
                self.final_to += choices.below(4) as u64;
                self.final_to = self.final_to.min(self.leader.last());
            }
            6..=8 => self.work(),
            9 | 10 => drop(self.append_done()),
            11 | 12 => drop(self.apply_done()),
            13 => self.snapshot(choices),
            14 => match choices.byte() % 4 {
                0 => self.crash(),
                1 => self.vote(choices),
                _ => self.compact(choices),
            },
            _ => self.heartbeat(choices),
        }
    }

    fn extend(&mut self, count: usize) {
        for _ in 0..count {
            self.serial = self.serial.wrapping_add(1);
            let index = Index(self.leader.last() + 1);
            let data = Bytes::from(vec![self.serial; usize::from(self.serial) % 24]);
            let entry = Entry { term: Term(self.term), index, data, ..Entry::default() };
            self.leader.entries.push(entry);
        }
    }

    /// What every leader has is kept; behind it, the new one has any part of the old one's log or the follower's.
    fn new_leader(&mut self, choices: &mut Choices<'_>) {
        self.term += 1 + choices.below(2) as u64;
        if choices.bool() {
            let own = self.twin.log.range(self.leader.base + 1, self.twin.log.last());
            let agrees = self.twin.log.last() >= self.final_to
                && self.twin.log.base <= self.leader.base
                && self.twin.log.entry(self.final_to) == self.leader.entry(self.final_to);
            if agrees {
                self.leader.entries = own;
            }
        }
        let free = self.leader.last() - self.final_to;
        self.leader.truncate(self.final_to + choices.below(free as usize + 1) as u64);
        self.extend(1);
    }

    fn message(&self, kind: MessageKind, from: NodeId) -> Message {
        Message { kind, from, to: SELF, term: Term(self.term), ..Message::default() }
    }

    /// Any piece of the leader's log, also an old one or one too far ahead.
    fn append(&mut self, choices: &mut Choices<'_>) {
        self.extend(choices.below(3));
        let back = choices.below((self.leader.last() - self.leader.base) as usize + 1) as u64;
        let prev = if choices.bool() {
            self.twin.log.last().clamp(self.leader.base, self.leader.last())
        } else {
            self.leader.last() - back
        };
        let count = choices.below(6) as u64;
        let entries = self.leader.range(prev + 1, (prev + count).min(self.leader.last()));
        let commit = self.final_to - (choices.below(3) as u64).min(self.final_to);
        let log_term = self.leader.term(prev).expect("an index of the leader's log");
        let message = Message {
            index: Index(prev),
            log_term: Term(log_term),
            entries: entries.clone(),
            commit: Index(commit),
            ..self.message(MessageKind::App, LEADER)
        };
        let rejected = self.twin_append(prev, log_term, &entries, commit);
        self.raw.step(message).expect("a leader's message");
        if let Some((hint, hint_term)) = rejected {
            let found =
                self.drain(|message| message.kind == MessageKind::AppResp && message.reject);
            let last = found.last().expect("a refusal is answered");
            assert_eq!((last.index.0, last.reject_hint.0), (prev, hint), "where to probe next");
            assert_eq!(last.log_term.0, hint_term, "the term there");
        }
    }

    /// Returns the hint if the twin refuses.
    fn twin_append(
        &mut self,
        prev: u64,
        prev_term: u64,
        entries: &[Entry],
        commit: u64,
    ) -> Option<(u64, u64)> {
        let twin = &mut self.twin;
        if prev < twin.committed {
            return None;
        }
        if twin.log.term(prev) != Some(prev_term) {
            // The last place at or before it whose term is not greater, an entry at a time.
            let mut at = prev.min(twin.log.last());
            while twin.log.term(at).is_some_and(|term| term > prev_term) {
                at -= 1;
            }
            return Some((at, twin.log.term(at).unwrap_or(0)));
        }
        let differs = |entry: &&Entry| twin.log.term(entry.index.0) != Some(entry.term.0);
        if let Some(first) = entries.iter().find(differs).map(|entry| entry.index.0) {
            assert!(first > twin.committed, "the twin's leaders keep what is committed");
            let from = entries.iter().position(|entry| entry.index.0 == first).expect("just found");
            twin.log.put(&entries[from..]);
        }
        twin.committed = twin.committed.max(commit.min(prev + entries.len() as u64));
        None
    }

    fn heartbeat(&mut self, choices: &mut Choices<'_>) {
        // A leader tells no more than what it knows to match.
        let mut matching = self.leader.base;
        while matching < self.leader.last().min(self.twin.log.last())
            && self.leader.entry(matching + 1) == self.twin.log.entry(matching + 1)
        {
            matching += 1;
        }
        if self.twin.log.base > self.leader.base {
            return;
        }
        let commit = self.final_to.min(matching).saturating_sub(choices.below(2) as u64);
        let message =
            Message { commit: Index(commit), ..self.message(MessageKind::Heartbeat, LEADER) };
        self.twin.committed = self.twin.committed.max(commit);
        self.raw.step(message).expect("a leader's message");
    }

    fn snapshot(&mut self, choices: &mut Choices<'_>) {
        let room = (self.final_to - self.leader.base) as usize;
        let index = self.final_to - choices.below(room.min(200) + 1) as u64;
        let term = self.leader.term(index).expect("an index of the leader's log");
        let snapshot = snapshot(index, term);
        let message = Message {
            snapshot: Some(Box::new(snapshot)),
            ..self.message(MessageKind::Snap, LEADER)
        };
        let twin = &mut self.twin;
        if index > twin.committed {
            twin.committed = index;
            if twin.log.term(index) != Some(term) {
                twin.log = Line { base: index, base_term: term, entries: Vec::new() };
            }
        }
        self.raw.step(message).expect("a leader's message");
    }

    /// A rival asks for a vote: granted only to a log that is as good.
    fn vote(&mut self, choices: &mut Choices<'_>) {
        self.term += 1;
        let log = &self.twin.log;
        let (last, last_term) = (log.last(), log.term(log.last()).expect("known"));
        let index = (last + 2).saturating_sub(choices.below(5) as u64);
        let log_term = (last_term + 1).saturating_sub(choices.below(3) as u64);
        let message = Message {
            index: Index(index),
            log_term: Term(log_term),
            ..self.message(MessageKind::Vote, RIVAL)
        };
        self.raw.step(message).expect("a rival's message");
        let answers = self.drain(|message| message.kind == MessageKind::VoteResp);
        let answer = answers.last().expect("a vote request is answered");
        assert_eq!(
            answer.reject,
            (log_term, index) < (last_term, last),
            "vote for {log_term}/{index}"
        );
        // Whoever leads next has a term of its own.
        self.term += 1;
        self.extend(1);
    }

    /// Takes all work and returns the answers of a kind, those that wait for the disk too.
    fn drain(&mut self, wanted: impl Fn(&Message) -> bool) -> Vec<Message> {
        let queued = self.appends.len();
        let mut found = self.work_sent();
        let waiting = self.appends.iter().skip(queued).flat_map(|work| work.responses.iter());
        found.extend(waiting.cloned());
        found.retain(|message| wanted(message));
        found
    }

    fn work(&mut self) {
        let _ = self.work_sent();
    }

    /// Takes a Ready, queues its storage work, and returns what was sent to others at once.
    fn work_sent(&mut self) -> Vec<Message> {
        let mut sent = Vec::new();
        while self.raw.has_ready() {
            for message in self.raw.ready().messages {
                match message.to {
                    NodeId::LOCAL_APPEND_THREAD => self.appends.push_back(message),
                    NodeId::LOCAL_APPLY_THREAD => self.hand_out(message),
                    _ => sent.push(message),
                }
            }
        }
        // Everything that is in the log is on disk or on its way, in this order.
        let mut line = self.disk.clone();
        for work in &self.appends {
            if let Some(snapshot) = &work.snapshot {
                line = Line {
                    base: snapshot.index.0,
                    base_term: snapshot.term.0,
                    entries: Vec::new(),
                };
            }
            line.put(&work.entries);
        }
        let log = &self.twin.log;
        assert_eq!(line.last(), log.last(), "the disk's last entry");
        for index in log.base.max(line.base) + 1..=log.last() {
            assert_eq!(line.entry(index), log.entry(index), "entry {index} on its way to the disk");
        }
        sent
    }

    /// What is to be applied is committed, durable, and follows what was handed out before.
    fn hand_out(&mut self, work: Message) {
        for entry in &work.entries {
            let index = entry.index.0;
            assert_eq!(index, self.twin.applying + 1, "handed out of order");
            assert!(index <= self.twin.committed, "{index} is not committed");
            assert_eq!(Some(entry), self.twin.log.entry(index), "handed out something else");
            assert_eq!(Some(entry), self.disk.entry(index), "{index} is not on disk");
            self.twin.applying = index;
        }
        self.applies.push_back(work);
    }

    /// The disk does its first piece of work. False if there is none.
    fn append_done(&mut self) -> bool {
        self.work();
        let Some(work) = self.appends.pop_front() else { return false };
        let hard = HardState { term: work.term, vote: work.vote, commit: work.commit };
        let storage = self.raw.storage_mut();
        if !hard.is_empty() {
            storage.set_hard_state(hard);
            self.hard = hard;
        }
        if let Some(snapshot) = &work.snapshot {
            storage.apply_snapshot((**snapshot).clone()).expect("newer than the one before");
            let (base, base_term) = (snapshot.index.0, snapshot.term.0);
            self.disk = Line { base, base_term, entries: Vec::new() };
            self.twin.applied = self.twin.applied.max(base);
            self.twin.applying = self.twin.applying.max(base);
        }
        self.raw.storage_mut().append(work.entries.clone());
        self.disk.put(&work.entries);
        for response in work.responses {
            if response.to == SELF {
                self.raw.step(response).expect("our own acknowledgement");
            } else if response.kind == MessageKind::AppResp && !response.reject {
                self.promised(&response);
            }
        }
        true
    }

    /// An acknowledgement leaves: what it says is on disk, and is the leader's. (One of an older term says what was true
    /// when a newer leader had not been heard of: no vote was given without what it acknowledges.)
    fn promised(&self, response: &Message) {
        let index = response.index.0;
        if response.term != self.raw.term() {
            return;
        }
        assert!(self.disk.last() >= index, "{index} is acknowledged and not on disk");
        if response.term.0 == self.term && response.to == LEADER && index >= self.disk.base {
            for at in self.disk.base.max(self.leader.base) + 1..=index {
                assert_eq!(self.disk.entry(at), self.leader.entry(at), "acknowledged {index}");
            }
        }
    }

    /// The application applies its first piece of work. False if there is none.
    fn apply_done(&mut self) -> bool {
        self.work();
        let Some(work) = self.applies.pop_front() else { return false };
        let last = work.entries.last().expect("something to apply").index.0;
        self.twin.applied = self.twin.applied.max(last);
        for response in work.responses {
            self.raw.step(response).expect("our own acknowledgement");
        }
        true
    }

    fn compact(&mut self, choices: &mut Choices<'_>) {
        // No further than what is applied and on disk.
        let most = self.twin.applied.min(self.disk.last());
        let back = choices.below(4) as u64;
        let Some(index) = most.checked_sub(back).filter(|index| *index > self.disk.base) else {
            return;
        };
        if self.twin.log.term(index) != self.disk.term(index) {
            return;
        }
        let storage = self.raw.storage_mut();
        storage.create_snapshot(Index(index), conf_state(), Bytes::new()).expect("a newer one");
        storage.compact(Index(index)).expect("an index of the log");
        self.disk.compact(index);
        if self.twin.log.base < index {
            self.twin.log.compact(index);
        }
    }

    /// Only the disk survives.
    fn crash(&mut self) {
        let base = snapshot(self.disk.base, self.disk.base_term);
        let storage = MemStorage::recovered(base, self.hard, self.disk.entries.clone());
        self.raw = RawNode::new(config(self.settings), storage).expect("what it had written");
        self.appends.clear();
        self.applies.clear();
        let base = self.disk.base;
        self.twin = Twin {
            log: self.disk.clone(),
            committed: self.hard.commit.0.max(base),
            applying: base,
            applied: base,
        };
    }

    fn compare(&self) {
        let (raw, twin) = (&self.raw, &self.twin);
        assert_eq!(raw.committed().0, twin.committed, "committed");
        assert_eq!(raw.applied().0, twin.applied, "applied");
        assert_eq!(raw.last_index().0, twin.log.last(), "last");
        assert!(twin.applied <= twin.applying && twin.applying <= twin.committed);
        assert!(twin.committed <= twin.log.last(), "committed beyond the end");
        assert!(twin.log.base <= twin.applied.max(twin.committed));
        for index in twin.log.base..=twin.log.last() + 1 {
            let term = raw.term_at(Index(index)).map(|term| term.0);
            assert_eq!(term, twin.log.term(index), "term at {index}");
        }
    }
}

fn conf_state() -> ConfState {
    ConfState { voters: vec![SELF, LEADER, RIVAL], ..ConfState::default() }
}

fn snapshot(index: u64, term: u64) -> Snapshot {
    Snapshot { index: Index(index), term: Term(term), conf_state: conf_state(), data: Bytes::new() }
}

/// Bounds on what is handed out at once: none, some, or an entry at a time.
fn config(settings: u8) -> Config {
    let committed_bytes_max = [1 << 20, 60, 1][usize::from(settings) % 3];
    Config {
        async_storage_writes: true,
        check_quorum: false,
        pre_vote: false,
        committed_bytes_max,
        ..Config::new(SELF, 3)
    }
}
