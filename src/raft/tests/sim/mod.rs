//! A group of nodes in one thread, with a network and disks that a test controls, and the promises of raft
//! checked at every step.

// Each test binary uses a part.
#![allow(dead_code, unreachable_pub)]

use std::collections::BTreeMap;

use bytes::Bytes;
use norn_raft::{
    ConfChangeKind, ConfChangeV2, ConfState, Config, Entry, EntryKind, HardState, Index,
    MemStorage, Message, MessageKind, NodeId, RawNode, Ready, Role, Snapshot, Term, codec,
};

pub struct Host {
    pub raw: RawNode,
    pub append_work: Vec<Message>,
    pub apply_work: Vec<Message>,
    /// Digest of everything applied so far.
    pub digest: u64,
    pub applied: Index,
    /// The snapshot that was received last.
    installed: Index,
    pub conf_state: ConfState,
    /// Payloads applied since the last start.
    pub payloads: Vec<Bytes>,
    /// Answered reads: context and index.
    pub reads: Vec<(Bytes, Index)>,
    restarts: u64,
}

pub struct Sim {
    pub hosts: Vec<Host>,
    /// Under way between hosts.
    pub network: Vec<Message>,
    settings: Config,
    /// What any host applied at an index, and the digest after it: state machine safety.
    applied: BTreeMap<Index, (Term, Bytes, u64)>,
    /// Who led a term: election safety.
    leaders: BTreeMap<Term, NodeId>,
    /// The highest index committed anywhere when a read was asked for.
    read_floors: BTreeMap<Bytes, Index>,
}

pub fn id(n: u64) -> NodeId {
    NodeId(n)
}

/// Settings with an election timeout of ten ticks and everything optional turned off.
pub fn plain() -> Config {
    Config { check_quorum: false, pre_vote: false, ..Config::new(NodeId(1), 7) }
}

fn first_snapshot(voters: &[u64]) -> Snapshot {
    let voters = voters.iter().map(|&n| NodeId(n)).collect();
    let conf_state = ConfState { voters, ..ConfState::default() };
    Snapshot {
        index: Index(1),
        term: Term(1),
        data: Bytes::from(0u64.to_le_bytes().to_vec()),
        conf_state,
    }
}

impl Sim {
    /// Hosts 1..=`count`; those in `voters` know each other, the others wait to be added.
    pub fn new(count: u64, voters: &[u64], settings: Config) -> Sim {
        let mut sim = Sim {
            hosts: Vec::new(),
            network: Vec::new(),
            settings,
            applied: BTreeMap::new(),
            leaders: BTreeMap::new(),
            read_floors: BTreeMap::new(),
        };
        for n in 1..=count {
            let storage = if voters.contains(&n) {
                // As if all had been there at term 1.
                let hard = HardState { term: Term(1), commit: Index(1), ..HardState::default() };
                MemStorage::recovered(first_snapshot(voters), hard, Vec::new())
            } else {
                MemStorage::new()
            };
            let host = sim.start(n, storage, 0);
            sim.hosts.push(host);
        }
        sim
    }

    /// Hosts 1..=`count`, all of them voters.
    pub fn of(count: u64, settings: Config) -> Sim {
        let all: Vec<u64> = (1..=count).collect();
        Sim::new(count, &all, settings)
    }

    /// A host with the given disk.
    fn start(&self, n: u64, storage: MemStorage, restarts: u64) -> Host {
        let snapshot = storage.own_snapshot().clone();
        let seed = self.settings.seed + n * 1000 + restarts;
        let config = Config { id: NodeId(n), seed, ..self.settings.clone() };
        let raw = RawNode::new(config, storage).expect("a valid disk");
        let mut host = Host {
            raw,
            append_work: Vec::new(),
            apply_work: Vec::new(),
            digest: 0,
            applied: Index::ZERO,
            installed: Index::ZERO,
            conf_state: ConfState::default(),
            payloads: Vec::new(),
            reads: Vec::new(),
            restarts,
        };
        host.install(&snapshot);
        host
    }

    pub fn host(&mut self, n: u64) -> &mut Host {
        &mut self.hosts[n as usize - 1]
    }

    pub fn raw(&mut self, n: u64) -> &mut RawNode {
        &mut self.host(n).raw
    }

    /// Loses everything that is not on disk, and starts again.
    pub fn crash(&mut self, n: u64) {
        let host = self.host(n);
        let restarts = host.restarts + 1;
        let storage = host.raw.storage();
        let entries = storage
            .entries(storage.first_index(), storage.last_index().next(), u64::MAX)
            .expect("all of the log");
        let snapshot = storage.own_snapshot().clone();
        let storage = MemStorage::recovered(snapshot, storage.hard_state(), entries);
        let reborn = self.start(n, storage, restarts);
        *self.host(n) = reborn;
        self.check();
    }

    /// Takes a Ready and does what it says; in async mode, queues the storage work.
    pub fn work(&mut self, n: u64) {
        if !self.raw(n).has_ready() {
            return;
        }
        let is_async = self.raw(n).config().async_storage_writes;
        let ready: Ready = self.raw(n).ready();
        for read in ready.read_states {
            let floor = self.read_floors.get(&read.context).copied().unwrap_or_default();
            assert!(read.index >= floor, "stale read at {n}: {} below {floor}", read.index);
            self.host(n).reads.push((read.context, read.index));
        }
        if !is_async {
            self.host(n).persist(ready.hard_state, ready.snapshot, ready.entries);
            self.apply(n, ready.committed_entries);
        }
        // As the crate's documentation asks: a candidate's term is durable before anybody hears of it.
        let (mut votes, messages): (Vec<_>, Vec<_>) =
            ready.messages.into_iter().partition(|m| is_async && m.kind == MessageKind::Vote);
        for mut message in messages {
            match message.to {
                NodeId::LOCAL_APPEND_THREAD => {
                    message.responses.append(&mut votes);
                    self.host(n).append_work.push(message);
                }
                NodeId::LOCAL_APPLY_THREAD => self.host(n).apply_work.push(message),
                _ => self.network.push(message),
            }
        }
        assert!(votes.is_empty(), "a candidate's term is new, and so to be written");
        if !is_async {
            self.raw(n).advance();
        }
        self.check();
    }

    /// One piece of work of the append thread.
    pub fn append_thread(&mut self, n: u64) {
        let host = self.host(n);
        if host.append_work.is_empty() {
            return;
        }
        let message = host.append_work.remove(0);
        let hard = HardState { term: message.term, vote: message.vote, commit: message.commit };
        let hard = (!hard.is_empty()).then_some(hard);
        host.persist(hard, message.snapshot.map(|s| *s), message.entries);
        self.respond(n, message.responses);
    }

    /// One piece of work of the apply thread.
    pub fn apply_thread(&mut self, n: u64) {
        if self.host(n).apply_work.is_empty() {
            return;
        }
        let message = self.host(n).apply_work.remove(0);
        self.apply(n, message.entries);
        self.respond(n, message.responses);
    }

    fn respond(&mut self, n: u64, responses: Vec<Message>) {
        for response in responses {
            if response.to == NodeId(n) {
                let _ = self.raw(n).step(response);
            } else {
                self.network.push(response);
            }
        }
        self.check();
    }

    fn apply(&mut self, n: u64, entries: Vec<Entry>) {
        for entry in entries {
            let host = self.host(n);
            // It was on its way to the apply thread when the append thread installed a snapshot that holds it.
            if entry.index <= host.installed {
                continue;
            }
            assert_eq!(entry.index, host.applied.next(), "host {n} applies out of order");
            host.apply(&entry);
            host.offer_snapshot();
            let now = (entry.term, entry.data.clone(), host.digest);
            let was = self.applied.entry(entry.index).or_insert_with(|| now.clone());
            assert_eq!(*was, now, "host {n} applies something else at {}", entry.index);
        }
    }

    /// Hands over the message at `position`, if there is one.
    pub fn deliver(&mut self, position: usize) {
        let message = self.network.remove(position);
        let to = message.to.0;
        if to <= self.hosts.len() as u64 {
            // Through bytes, as on a wire.
            let bytes = codec::encode_message(&message);
            let message = codec::decode_message(bytes).expect("our own encoding");
            let _ = self.raw(to).step(message);
        }
        self.check();
    }

    /// Delivers everything between `members` until nothing is left to do; the rest is lost.
    pub fn settle(&mut self, members: &[u64]) {
        for _ in 0..10_000 {
            for &n in members {
                while self.raw(n).has_ready()
                    || !self.host(n).append_work.is_empty()
                    || !self.host(n).apply_work.is_empty()
                {
                    self.work(n);
                    self.append_thread(n);
                    self.apply_thread(n);
                }
            }
            let inside = |m: &Message| members.contains(&m.from.0) && members.contains(&m.to.0);
            self.network.retain(inside);
            if self.network.is_empty() {
                return;
            }
            self.deliver(0);
        }
        panic!("the group does not settle");
    }

    pub fn everyone(&self) -> Vec<u64> {
        (1..=self.hosts.len() as u64).collect()
    }

    /// `n` campaigns among `members` until nothing is left to do. Whether it leads.
    pub fn elect(&mut self, n: u64, members: &[u64]) -> bool {
        self.raw(n).campaign();
        self.settle(members);
        self.raw(n).is_leader()
    }

    pub fn propose(&mut self, n: u64, text: &str) -> bool {
        self.raw(n).propose(Bytes::copy_from_slice(text.as_bytes())).is_ok()
    }

    pub fn read(&mut self, n: u64, context: &str) {
        let context = Bytes::copy_from_slice(context.as_bytes());
        let floor = self.hosts.iter().map(|host| host.raw.committed()).max().unwrap_or_default();
        self.read_floors.entry(context.clone()).or_insert(floor);
        self.raw(n).read_index(context);
    }

    pub fn tick(&mut self, n: u64, count: u32) {
        for _ in 0..count {
            self.raw(n).tick();
        }
    }

    /// Terms of the entries that host `n` has, stable or not.
    pub fn terms(&mut self, n: u64) -> Vec<u64> {
        let raw = self.raw(n);
        let first = raw.storage().first_index();
        (first.0..=raw.last_index().0).map(|i| raw.term_at(Index(i)).unwrap().0).collect()
    }

    pub fn payloads(&mut self, n: u64) -> Vec<String> {
        let nonempty = self.host(n).payloads.iter().filter(|payload| !payload.is_empty());
        nonempty.map(|payload| String::from_utf8_lossy(payload).into_owned()).collect()
    }

    /// The promises.
    pub fn check(&mut self) {
        let newest_term = self.hosts.iter().map(|host| host.raw.term()).max().unwrap_or_default();
        for host in &self.hosts {
            let raw = &host.raw;
            assert!(raw.applied() <= raw.committed() && raw.committed() <= raw.last_index());
            if raw.role() != Role::Leader {
                continue;
            }
            // Election safety: at most one leader per term.
            let leader = *self.leaders.entry(raw.term()).or_insert(raw.id());
            assert_eq!(leader, raw.id(), "two leaders in term {}", raw.term());
            if raw.term() < newest_term {
                continue;
            }
            // Leader completeness: what was applied anywhere is in the log of the newest leader.
            for (index, (term, _, _)) in self.applied.iter().rev().take(20) {
                if *index >= raw.storage().first_index() {
                    assert_eq!(
                        raw.term_at(*index),
                        Some(*term),
                        "leader {} lacks {index}",
                        raw.id()
                    );
                }
            }
        }
    }

    /// With all hosts up and nothing lost any more, something new gets committed.
    pub fn make_progress(&mut self) {
        let all = self.everyone();
        for round in 0..400 {
            for &n in &all {
                // A removed leader that is not stopped leads on for ever (thesis section 4.2.2); servers stop it.
                let raw = self.raw(n);
                if raw.is_leader() && !raw.membership().voters.contains(NodeId(n)) {
                    self.crash(n);
                }
                self.tick(n, 1);
            }
            // Snapshots that were lost are reported, as the transport's contract says.
            for a in &all {
                for b in &all {
                    if self.network.is_empty() {
                        self.raw(*a).report_snapshot(NodeId(*b), false);
                    }
                }
            }
            self.settle(&all);
            // (One that was removed and never told may lead on in an older term, where nothing checks its quorum.)
            let leaders = self.hosts.iter().filter(|host| host.raw.is_leader());
            let newest = leaders.max_by_key(|host| host.raw.term());
            let Some(leader) = newest.map(|host| host.raw.id().0) else { continue };
            // Somebody has to leave a joint configuration that asked for that.
            if !self.raw(leader).conf_state().voters_outgoing.is_empty() {
                let _ = self.raw(leader).propose_conf_change(ConfChangeV2::default());
                self.settle(&all);
                continue;
            }
            let text = format!("progress {round}");
            if self.propose(leader, &text) {
                self.settle(&all);
                if self.payloads(leader).contains(&text) {
                    return;
                }
            }
        }
        let hosts = self.hosts.iter().map(|host| {
            let (raw, voters) = (&host.raw, host.raw.conf_state());
            format!("\n{} {:?} {:?} {:?}", raw.id(), raw.status(), raw.last_index(), voters)
        });
        panic!("no progress although nothing fails any more:{}", hosts.collect::<String>());
    }

    /// Log matching: where two logs have the same term, they are the same from there down.
    pub fn check_log_matching(&self) {
        let log = |host: &Host| -> BTreeMap<Index, Entry> {
            let storage = host.raw.storage();
            let entries = storage
                .entries(storage.first_index(), storage.last_index().next(), u64::MAX)
                .unwrap_or_default();
            entries.into_iter().map(|entry| (entry.index, entry)).collect()
        };
        let logs: Vec<_> = self.hosts.iter().map(log).collect();
        for a in &logs {
            for b in &logs {
                let mut must_match = false;
                for (index, entry) in a.iter().rev() {
                    let Some(other) = b.get(index) else { continue };
                    must_match |= entry.term == other.term;
                    assert!(!must_match || entry == other, "logs differ at {index}");
                }
            }
        }
    }
}

impl Host {
    fn persist(
        &mut self,
        hard_state: Option<HardState>,
        snapshot: Option<Snapshot>,
        entries: Vec<Entry>,
    ) {
        let storage = self.raw.storage_mut();
        if let Some(hard_state) = hard_state {
            storage.set_hard_state(hard_state);
        }
        if let Some(snapshot) = snapshot {
            // A snapshot may be overtaken by a newer one while it is on its way to the disk.
            if storage.apply_snapshot(snapshot.clone()).is_ok() {
                self.install(&snapshot);
            }
        }
        self.raw.storage_mut().append(entries);
    }

    fn install(&mut self, snapshot: &Snapshot) {
        if snapshot.is_empty() {
            return;
        }
        (self.applied, self.installed) = (snapshot.index, snapshot.index);
        self.conf_state = snapshot.conf_state.clone();
        let digest = snapshot.data.as_ref().try_into().expect("a digest");
        self.digest = u64::from_le_bytes(digest);
    }

    fn apply(&mut self, entry: &Entry) {
        self.applied = entry.index;
        for byte in entry.data.iter().chain(&entry.term.0.to_le_bytes()) {
            self.digest = (self.digest ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        }
        let change = match entry.kind {
            EntryKind::Normal => {
                self.payloads.push(entry.data.clone());
                return;
            }
            EntryKind::ConfChange => {
                codec::decode_conf_change(entry.data.clone()).expect("our own encoding").to_v2()
            }
            EntryKind::ConfChangeV2 => {
                codec::decode_conf_change_v2(entry.data.clone()).expect("our own encoding")
            }
        };
        // The application's rule: a voter stays.
        let empties = change.changes.iter().any(|single| {
            single.kind != ConfChangeKind::AddNode
                && self.conf_state.voters.len() <= 1
                && self.conf_state.voters.contains(&single.node_id)
        });
        if !empties {
            self.conf_state =
                self.raw.apply_conf_change(&change).expect("a change that raft has proposed");
        }
    }

    /// What a member that is added now must be given: an older snapshot would not know of it.
    fn offer_snapshot(&mut self) {
        let Some(term) = self.raw.term_at(self.applied) else {
            return;
        };
        let data = Bytes::from(self.digest.to_le_bytes().to_vec());
        let conf_state = self.conf_state.clone();
        let snapshot = Snapshot { data, index: self.applied, term, conf_state };
        self.raw.storage_mut().offer_snapshot(snapshot);
    }

    /// Saves the state machine and forgets the log before it.
    pub fn compact(&mut self) {
        let (index, digest) = (self.applied, self.digest);
        let data = Bytes::from(digest.to_le_bytes().to_vec());
        let conf_state = self.conf_state.clone();
        // Not what is applied but not stored, nor what is compacted already.
        if self.raw.storage_mut().create_snapshot(index, conf_state, data).is_ok() {
            let _ = self.raw.storage_mut().compact(index);
        }
    }
}
