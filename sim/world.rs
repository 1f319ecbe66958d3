//! The cluster, its clients and its misfortunes, under one queue of events ordered by (time, number).

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use norn_node::{Config, Error, Host, Input, Method, Node, NodeEvent, Start, StreamId, Token};
use norn_proto::etcdserverpb as pb;
use norn_raft::Message;
use norn_storage::{DiskQueue, DiskRead, FileName};
use prost::Message as _;

use crate::check::hash::HashCheck;
use crate::check::raft::RaftCheck;
use crate::check::watch::Span;
use crate::disk::SimDisk;
use crate::fault::{self, Fault};
use crate::history::{Ask, Failure, Op, Outcome};
use crate::member::{Clock, CrashPoint, Member, Seen};
use crate::network::Network;
use crate::options::{Bug, Options};
use crate::panics;
use crate::rng::Rng;
use crate::trace::Trace;
use crate::workload::{self, Client};

const QUEUES: [DiskQueue; 2] = [DiskQueue::Log, DiskQueue::Bulk];
/// Between two comparisons of all members.
const COMPARE_EVERY_US: u64 = 700_000;
const SLOW_THINK_US: u64 = 400_000;

enum Event {
    Start { node: usize },
    Wake { node: usize, incarnation: u64, at: u64 },
    Deliver { to: usize, message: Message },
    Input { node: usize, incarnation: u64, input: Input },
    DiskDone { node: usize, incarnation: u64, queue: usize },
    Client { client: usize },
    Deadline { token: u64 },
    Fault { fault: Fault },
    Mend { count: u64 },
    Resume { node: usize },
    Snapshot { number: u64, body: Bytes },
    Stored { number: u64, ok: bool },
    Watch { watcher: usize },
    Compare,
}

/// Who waits for a reply.
enum Waiting {
    Op { op: usize },
    Hash,
    Content,
    Probe,
}

struct Transfer {
    from: (usize, u64),
    to: usize,
    message: Message,
    file: FileName,
}

struct Watcher {
    stream: StreamId,
    /// Node and incarnation of the open stream.
    on: Option<(usize, u64)>,
    span: Option<usize>,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub events: u64,
    pub crashes: u64,
    pub boot_crashes: u64,
    pub failed_syncs: u64,
    pub partitions: u64,
    pub snapshots: u64,
    pub messages: u64,
}

pub struct World {
    pub options: Options,
    pub now: u64,
    number: u64,
    queue: BTreeMap<(u64, u64), Event>,
    rng: Rng,
    pub members: Vec<Member>,
    by_id: BTreeMap<u64, usize>,
    network: Network,
    partitions: u64,
    clients: Vec<Client>,
    pub ops: Vec<Op>,
    next_token: u64,
    waiting: BTreeMap<u64, (usize, Waiting)>,
    watchers: Vec<Watcher>,
    pub spans: Vec<Span>,
    by_stream: BTreeMap<StreamId, usize>,
    transfers: BTreeMap<u64, Transfer>,
    pub raft: RaftCheck,
    pub hashes: HashCheck,
    pub served: Vec<bool>,
    pub is_healed: bool,
    pub counts: Counts,
    /// The revision when the cluster had converged.
    pub quiet_revision: i64,
    pub trace: Trace,
    pub failure: Option<Failure>,
}

impl World {
    pub fn new(options: Options, keeps_trace: bool) -> World {
        let mut rng = Rng::new(options.seed ^ 0x0057_6f72_6c64);
        let network = Network::new(&options, rng.fork(1));
        let mut fault_rng = rng.fork(2);
        let clients = (0..options.clients).map(|i| Client::new(i, &options, rng.fork(3))).collect();
        let members = found(&options, &mut rng);
        let by_id = members.iter().enumerate().map(|(i, m)| (m.id, i)).collect();
        let watchers = (0..options.watchers)
            .map(|_| Watcher { stream: StreamId(0), on: None, span: None })
            .collect();
        let mut world = World {
            now: 0,
            number: 0,
            queue: BTreeMap::new(),
            rng,
            members,
            by_id,
            network,
            partitions: 0,
            clients,
            ops: Vec::new(),
            next_token: 0,
            waiting: BTreeMap::new(),
            watchers,
            spans: Vec::new(),
            by_stream: BTreeMap::new(),
            transfers: BTreeMap::new(),
            raft: RaftCheck::new(),
            hashes: HashCheck::default(),
            served: vec![false; options.nodes],
            is_healed: false,
            counts: Counts::default(),
            quiet_revision: 0,
            trace: Trace::new(keeps_trace),
            failure: None,
            options,
        };
        for node in 0..world.options.nodes {
            let after = world.rng.below(50_000);
            world.after(after, Event::Start { node });
        }
        for client in 0..world.options.clients {
            let after = world.rng.below(2_000_000);
            world.after(after, Event::Client { client });
        }
        for watcher in 0..world.options.watchers {
            let after = world.rng.below(5_000_000);
            world.after(after, Event::Watch { watcher });
        }
        for (at, fault) in fault::draw(&world.options, &mut fault_rng) {
            world.after(at, Event::Fault { fault });
        }
        world.after(COMPARE_EVERY_US, Event::Compare);
        world
    }

    fn after(&mut self, us: u64, event: Event) {
        self.number += 1;
        self.queue.insert((self.now + us, self.number), event);
    }

    /// Lets everything happen up to a moment, or to the first broken promise.
    pub fn run_until(&mut self, until: u64) {
        while self.failure.is_none() {
            match self.queue.first_key_value() {
                Some(((at, _), _)) if *at <= until => {}
                _ => break,
            }
            let ((at, _), event) = self.queue.pop_first().expect("it was there");
            self.now = at;
            self.counts.events += 1;
            self.happen(event);
        }
        self.now = self.now.max(until);
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Start { node } => self.start(node),
            Event::Wake { node, incarnation, at } => {
                let member = &mut self.members[node];
                if member.incarnation == incarnation && member.wake_at == at {
                    member.wake_at = u64::MAX;
                    self.turn(node, Input::Wake);
                }
            }
            Event::Deliver { to, message } => self.turn(to, Input::Peer(message)),
            Event::Input { node, incarnation, input } => {
                if self.members[node].incarnation == incarnation {
                    self.turn(node, input);
                }
            }
            Event::DiskDone { node, incarnation, queue } => {
                self.disk_done(node, incarnation, queue);
            }
            Event::Client { client } => self.client_asks(client),
            Event::Deadline { token } => self.deadline(token),
            Event::Fault { fault } if !self.is_healed => self.strike(fault),
            Event::Fault { .. } => {}
            Event::Mend { count } if count == self.partitions => self.mend(),
            Event::Mend { .. } => {}
            Event::Resume { node } => {
                let member = &mut self.members[node];
                if member.paused_until <= self.now {
                    let inputs = std::mem::take(&mut member.inbox);
                    self.turns(node, inputs);
                }
            }
            Event::Snapshot { number, body } => self.snapshot_arrives(number, body),
            Event::Stored { number, ok } => self.snapshot_stored(number, ok),
            Event::Watch { watcher } => self.open_watch(watcher),
            Event::Compare => {
                self.compare();
                self.after(COMPARE_EVERY_US, Event::Compare);
            }
        }
    }

    // ---- members

    fn start(&mut self, node: usize) {
        let member = &mut self.members[node];
        if member.host.is_some() {
            return;
        }
        let boot_syncs = std::mem::take(&mut member.boot_syncs);
        if boot_syncs > 0 && !self.is_healed {
            member.disk.inner.freeze_at_sync(boot_syncs);
            member.may_fail = true;
        }
        member.disk.inner.defer(false);
        let mut disk = member.disk.clone();
        let (config, clock) = (member.config.clone(), member.clock);
        let (reader, now) = (disk.clone(), clock.at(self.now));
        let opened = catch_unwind(AssertUnwindSafe(|| {
            panics::watched(|| Node::open(&mut disk, reader, config, now))
        }));
        match opened {
            Err(_) => return self.panicked(node, "while it opened"),
            Ok(Err(error)) if member.disk.inner.is_frozen() => {
                self.counts.boot_crashes += 1;
                self.trace.note(self.now, "boot cut short", node as u64, 0, || error.to_string());
                return self.crash(node, true, 100_000);
            }
            Ok(Err(error)) => {
                let disk = &member.disk;
                let files = ["member/wal", "member/snap", "member/rev"]
                    .map(|dir| (dir, disk.list(&FileName::new(dir)).unwrap_or_default()));
                return self.fail(Failure::new(
                    "A member opens after every crash.",
                    format!("n{}: {error}\non its disk: {files:?}", node + 1),
                ));
            }
            Ok(Ok(opened)) => {
                member.disk.inner.defer(true);
                member.incarnation += 1;
                member.disk_armed = [false; 2];
                member.inbox.clear();
                member.paused_until = 0;
                member.wake_at = u64::MAX;
                member.host = Some(Host::new(opened, disk));
            }
        }
        self.raft.restarted(self.members[node].id);
        self.trace.note(
            self.now,
            "start",
            node as u64,
            self.members[node].incarnation,
            String::new,
        );
        let mut inputs = vec![Input::Wake];
        for other in (0..self.members.len()).filter(|other| *other != node) {
            let id = self.members[other].id;
            inputs.push(Input::PeerVersion { id, version: Some((3, 7)) });
            if self.members[other].host.is_some() && !self.network.is_cut(node, other) {
                inputs.push(Input::PeerActive { id, active: true });
                self.tell_later(
                    other,
                    Input::PeerActive { id: self.members[node].id, active: true },
                );
            }
        }
        self.turns(node, inputs);
    }

    fn tell_later(&mut self, node: usize, input: Input) {
        let delay = self.network.delay();
        let incarnation = self.members[node].incarnation;
        self.after(delay, Event::Input { node, incarnation, input });
    }

    pub fn crash(&mut self, node: usize, power: bool, down_us: u64) {
        let seed = self.rng.next();
        let member = &mut self.members[node];
        member.host = None;
        member.incarnation += 1;
        member.crash_in = None;
        member.may_fail = false;
        if self.options.bug == Some(Bug::DiskForgotten) {
            member.disk = SimDisk::new(false);
        } else if power {
            member.disk.inner.crash(seed);
        } else {
            member.disk.inner.kill(seed);
        }
        member.disk.forget_foreign();
        self.counts.crashes += 1;
        self.trace.note(self.now, "crash", node as u64, u64::from(power), String::new);
        let lost: Vec<u64> = self
            .waiting
            .iter()
            .filter(|(_, (on, _))| *on == node)
            .map(|(token, _)| *token)
            .collect();
        for token in lost {
            if let Some((_, Waiting::Op { op })) = self.waiting.remove(&token) {
                self.answered(op, Outcome::Unknown);
            }
        }
        for watcher in 0..self.watchers.len() {
            if self.watchers[watcher].on.is_some_and(|(on, _)| on == node) {
                self.watchers[watcher].on = None;
                let delay = self.rng.heavy(200_000);
                self.after(delay, Event::Watch { watcher });
            }
        }
        let cut: Vec<u64> =
            self.transfers.iter().filter(|(_, t)| t.to == node).map(|(n, _)| *n).collect();
        for number in cut {
            self.transfer_ends(number, false);
        }
        let id = self.members[node].id;
        for other in (0..self.members.len()).filter(|other| *other != node) {
            self.tell_later(other, Input::PeerActive { id, active: false });
        }
        self.after(down_us, Event::Start { node });
    }

    fn turn(&mut self, node: usize, input: Input) {
        self.turns(node, vec![input]);
    }

    fn turns(&mut self, node: usize, inputs: Vec<Input>) {
        let member = &mut self.members[node];
        let Some(host) = &mut member.host else { return };
        if member.paused_until > self.now {
            member.inbox.extend(inputs);
            return;
        }
        let now = member.clock.at(self.now);
        let queued = |disk: &SimDisk| QUEUES.iter().map(|q| disk.inner.waiting(*q)).sum::<usize>();
        let before = queued(&member.disk);
        let mut seen = Seen::default();
        let result = catch_unwind(AssertUnwindSafe(|| {
            panics::watched(|| host.turn(now, inputs, &mut seen))
        }));
        let Ok(deadline) = result else {
            return self.panicked(node, "in a turn");
        };
        if let Err(failure) = self.raft.observe(host.node()) {
            self.fail(failure);
            return;
        }
        let stored = member.disk.stored();
        let submitted = queued(&member.disk).saturating_sub(before) as u64;
        let incarnation = member.incarnation;
        let wake_at = member.clock.when(deadline).max(self.now + 60);
        if wake_at < member.wake_at || member.wake_at <= self.now {
            member.wake_at = wake_at;
            self.after(wake_at - self.now, Event::Wake { node, incarnation, at: wake_at });
        }
        for (number, ok) in stored {
            self.after(0, Event::Stored { number, ok });
        }
        let crash = self.crash_point(node, submitted);
        if crash.is_none_or(|point| point.sends) {
            self.obey(node, seen);
        }
        if self.members[node].incarnation != incarnation || self.failure.is_some() {
            return;
        }
        if let Some(point) = crash {
            return self.crash(node, point.power, point.down_us);
        }
        self.arm_disk(node);
    }

    fn crash_point(&mut self, node: usize, submitted: u64) -> Option<CrashPoint> {
        let point = self.members[node].crash_in.as_mut()?;
        if point.batches > submitted {
            point.batches -= submitted;
            return None;
        }
        self.members[node].crash_in.take()
    }

    fn arm_disk(&mut self, node: usize) {
        for (at, queue) in QUEUES.iter().enumerate() {
            let member = &self.members[node];
            if member.disk_armed[at] || member.disk.inner.waiting(*queue) == 0 {
                continue;
            }
            let mut delay = self.rng.between(self.options.disk_us / 4, self.options.disk_us * 2);
            if self.rng.permille(self.options.slow_disk_permille) && !self.is_healed {
                delay += self.rng.heavy(300_000);
            }
            self.members[node].disk_armed[at] = true;
            let incarnation = self.members[node].incarnation;
            self.after(delay, Event::DiskDone { node, incarnation, queue: at });
        }
    }

    fn disk_done(&mut self, node: usize, incarnation: u64, queue: usize) {
        let member = &mut self.members[node];
        if member.incarnation != incarnation {
            return;
        }
        member.disk_armed[queue] = false;
        member.disk.inner.complete_next(QUEUES[queue]);
        self.turn(node, Input::Wake);
        if self.members[node].incarnation == incarnation {
            self.arm_disk(node);
        }
    }

    /// What a node puts out, in order.
    fn obey(&mut self, node: usize, seen: Seen) {
        for message in seen.sent {
            self.send(node, message);
        }
        for (token, result) in seen.replies {
            self.reply(node, token, result);
        }
        for (stream, response) in seen.watch {
            self.watched(node, stream, response);
        }
        for event in seen.events {
            self.event(node, event);
        }
    }

    fn event(&mut self, node: usize, event: NodeEvent) {
        match event {
            NodeEvent::Raft(line) => {
                self.trace.note(self.now, "raft", node as u64, 0, || format!("{line:?}"));
            }
            NodeEvent::Log { text, fields, .. } => {
                self.trace.note(self.now, "log", node as u64, 0, || format!("{text} {fields:?}"));
            }
            NodeEvent::LeaderChanged { leader } => {
                self.trace.note(self.now, "leader", node as u64, leader.0, String::new);
            }
            NodeEvent::MembersChanged | NodeEvent::Serving => {}
            NodeEvent::SendSnapshot { message, file } => self.send_snapshot(node, message, file),
            NodeEvent::Removed => {
                let detail = format!("n{}", node + 1);
                self.fail(Failure::new("Nobody is removed unasked.", detail));
            }
            NodeEvent::Failed { reason } => {
                self.trace.note(self.now, "failed", node as u64, 0, || reason.clone());
                if self.members[node].may_fail {
                    self.counts.failed_syncs += 1;
                    self.crash(node, true, 100_000);
                } else {
                    let detail = format!("n{}: {reason}", node + 1);
                    self.fail(Failure::new("A node does not fail on a working disk.", detail));
                }
            }
        }
    }

    fn panicked(&mut self, node: usize, when: &str) {
        // What is left of the host must not run again.
        std::mem::forget(self.members[node].host.take());
        let detail = format!("n{} {when}: {}", node + 1, panics::take());
        self.fail(Failure::new("A node never panics.", detail));
    }

    pub fn fail(&mut self, failure: Failure) {
        self.failure.get_or_insert(failure);
    }

    // ---- network

    fn send(&mut self, from: usize, message: Message) {
        let Some(&to) = self.by_id.get(&message.to.0) else { return };
        self.counts.messages += 1;
        self.trace.note(
            self.now,
            "send",
            (from * 8 + to) as u64,
            message.index.0 ^ (message.term.0 << 32) ^ ((message.entries.len() as u64) << 56),
            || format!("{:?} term {} index {}", message.kind, message.term.0, message.index.0),
        );
        if self.network.is_cut(from, to) || self.members[to].host.is_none() {
            if self.rng.permille(200) {
                let id = self.members[to].id;
                self.tell_later(from, Input::Unreachable { id });
            }
            return;
        }
        for delay in self.network.delays(&message) {
            self.after(delay, Event::Deliver { to, message: message.clone() });
        }
    }

    fn mend(&mut self) {
        self.network.mend();
        for a in 0..self.members.len() {
            for b in (0..self.members.len()).filter(|b| *b != a) {
                if self.members[b].host.is_some() {
                    let id = self.members[b].id;
                    self.tell_later(a, Input::PeerActive { id, active: true });
                }
            }
        }
    }

    fn send_snapshot(&mut self, from: usize, message: Message, file: FileName) {
        let Some(&to) = self.by_id.get(&message.to.0) else { return };
        self.next_token += 1;
        let number = self.next_token;
        let delay = self.network.delay() * 2;
        let whole = match self.members[from].disk.read_at(&file, 0, usize::MAX) {
            Ok(body) => body,
            Err(error) => {
                let detail = format!("n{}: {file}: {error}", from + 1);
                return self.fail(Failure::new("A snapshot that is to be sent is there.", detail));
            }
        };
        let incarnation = self.members[from].incarnation;
        let ok = !self.network.is_cut(from, to) && !self.network.delays(&message).is_empty();
        let transfer = Transfer { from: (from, incarnation), to, message, file };
        self.transfers.insert(number, transfer);
        let body = if ok { whole } else { Bytes::new() };
        self.after(delay, Event::Snapshot { number, body });
    }

    fn snapshot_arrives(&mut self, number: u64, body: Bytes) {
        let Some(transfer) = self.transfers.get(&number) else { return };
        let to = transfer.to;
        let index = transfer.message.snapshot.as_ref().map_or(0, |s| s.index.0);
        if body.is_empty() || self.members[to].host.is_none() {
            return self.transfer_ends(number, false);
        }
        self.trace.note(self.now, "snapshot", to as u64, index, String::new);
        let file = FileName::new(format!("member/snap/{index:016x}.snap.db"));
        self.members[to].disk.store(number, &file, body);
        self.arm_disk(to);
    }

    fn snapshot_stored(&mut self, number: u64, ok: bool) {
        if let (true, Some(transfer)) = (ok, self.transfers.get(&number)) {
            self.counts.snapshots += 1;
            let (to, message) = (transfer.to, transfer.message.clone());
            let index = message.snapshot.as_ref().map_or(0, |s| s.index.0);
            let file = FileName::new(format!("member/snap/{index:016x}.snap.db"));
            self.turn(to, Input::SnapshotReceived { message, file });
        }
        let to = self.transfers.get(&number).map(|transfer| transfer.to);
        self.transfer_ends(number, ok);
        if let (false, Some(to)) = (ok, to) {
            // The failed sync met our batch: the disk is latched, and the node may not write for long to see it.
            self.counts.failed_syncs += 1;
            self.crash(to, true, 100_000);
        }
    }

    fn transfer_ends(&mut self, number: u64, ok: bool) {
        let Some(transfer) = self.transfers.remove(&number) else { return };
        let (node, incarnation) = transfer.from;
        let to = self.members[transfer.to].id;
        let file = transfer.file;
        self.after(0, Event::Input { node, incarnation, input: Input::ExportDone { file } });
        self.after(0, Event::Input { node, incarnation, input: Input::SnapshotSent { to, ok } });
    }

    // ---- faults

    fn strike(&mut self, fault: Fault) {
        self.trace.note(self.now, "fault", 0, 0, || format!("{fault:?}"));
        match fault {
            Fault::Crash { node, power, in_batches, sends, down_us, boot_syncs } => {
                if self.members[node].host.is_none() {
                    return;
                }
                self.members[node].boot_syncs = boot_syncs;
                if in_batches == 0 {
                    self.crash(node, power, down_us);
                } else {
                    let point = CrashPoint { batches: in_batches, power, sends, down_us };
                    self.members[node].crash_in = Some(point);
                }
            }
            Fault::Blackout { power, down_us } => {
                for node in 0..self.members.len() {
                    if self.members[node].host.is_some() {
                        self.crash(node, power, down_us + node as u64 * 1_000);
                    }
                }
            }
            Fault::Partition { draw, for_us } => {
                let leader = self
                    .members
                    .iter()
                    .position(|m| m.host.as_ref().is_some_and(|h| h.node().is_leader()));
                let mut rng = Rng::new(draw);
                let links = Network::draw_partition(&mut rng, self.members.len(), leader);
                for (a, b) in &links {
                    let id = self.members[*b].id;
                    self.tell_later(*a, Input::PeerActive { id, active: false });
                }
                self.network.cut(links);
                self.counts.partitions += 1;
                self.partitions += 1;
                self.after(for_us, Event::Mend { count: self.partitions });
            }
            Fault::Pause { node, for_us } => {
                self.members[node].paused_until = self.now + for_us;
                self.after(for_us, Event::Resume { node });
            }
            Fault::FailSync { node, nth } => {
                if self.members[node].host.is_some() {
                    self.members[node].disk.inner.fail_sync(nth);
                    self.members[node].may_fail = true;
                }
            }
            Fault::Transfer { node } => self.turn(node, Input::TransferLeadership),
        }
    }

    /// The end of all faults: from here on the cluster has to recover.
    pub fn heal(&mut self) {
        self.is_healed = true;
        self.partitions += 1;
        self.network.heal();
        self.mend();
        for node in 0..self.members.len() {
            self.members[node].crash_in = None;
            self.members[node].paused_until = 0;
            self.members[node].disk_armed = [false; 2];
            self.arm_disk(node);
            self.after(0, Event::Resume { node });
            self.after(1, Event::Start { node });
        }
    }

    // ---- clients

    pub fn call(&mut self, node: usize, waiting: CallFor, method: Method, body: Bytes) -> u64 {
        self.next_token += 1;
        let token = self.next_token;
        let waiting = match waiting {
            CallFor::Op(op) => Waiting::Op { op },
            CallFor::Hash => Waiting::Hash,
            CallFor::Content => Waiting::Content,
            CallFor::Probe => Waiting::Probe,
        };
        self.waiting.insert(token, (node, waiting));
        self.turn(node, Input::Call { token: Token(token), method, body });
        token
    }

    fn client_asks(&mut self, client: usize) {
        if self.is_healed {
            return;
        }
        let node = self.clients[client].choose_node(&self.options);
        if self.members[node].host.is_none() {
            let think = self.clients[client].think_us(&self.options);
            self.after(think, Event::Client { client });
            return;
        }
        let ask = self.clients[client].next(&self.options);
        let (method, mut body) = workload::encode(&ask);
        if let (Some(Bug::StaleRead), Ask::Get { key, .. }) = (self.options.bug, &ask) {
            body = workload::encode(&Ask::Get { key: key.clone(), serializable: true }).1;
        }
        let op = self.ops.len();
        self.trace.note(self.now, "ask", client as u64, node as u64, || format!("{ask:?}"));
        self.ops.push(Op {
            client,
            node,
            incarnation: self.members[node].incarnation,
            ask,
            called: (self.now, self.number),
            returned: None,
            outcome: Outcome::Unknown,
        });
        // (The order of events tells what was before what: the call takes a number.)
        self.number += 1;
        let token = self.next_token + 1;
        let deadline = self.rng.between(self.options.deadline_us / 2, self.options.deadline_us);
        self.after(deadline, Event::Deadline { token });
        self.call(node, CallFor::Op(op), method, body);
    }

    fn deadline(&mut self, token: u64) {
        let Some((node, Waiting::Op { op })) = self.waiting.remove(&token) else { return };
        let mut outcome = Outcome::Unknown;
        if self.options.bug == Some(Bug::LostWriteAcked) && self.ops[op].ask.is_write() {
            let revision = self.clients[self.ops[op].client].revision_seen + 1;
            outcome = Outcome::Ok { revision, answer: crate::history::Answer::Done };
        }
        self.answered(op, outcome);
        self.turn(node, Input::Forget { token: Token(token) });
    }

    fn reply(&mut self, node: usize, token: Token, result: Result<Bytes, Error>) {
        let Some((_, waiting)) = self.waiting.remove(&token.0) else { return };
        match waiting {
            Waiting::Op { op } => {
                let outcome = workload::outcome(&self.ops[op].ask, result);
                self.answered(op, outcome);
            }
            Waiting::Hash => self.hashed(node, result),
            Waiting::Content => self.shown(node, result),
            Waiting::Probe => self.served[node] |= result.is_ok(),
        }
    }

    fn answered(&mut self, op: usize, outcome: Outcome) {
        let client = self.ops[op].client;
        let revision = if let Outcome::Ok { revision, .. } = outcome { revision } else { 0 };
        self.trace.note(self.now, "answer", client as u64, revision.cast_unsigned(), || {
            format!("{outcome:?}")
        });
        self.clients[client].learn(&self.ops[op].ask, &outcome);
        self.number += 1;
        self.ops[op].outcome = outcome;
        self.ops[op].returned = Some((self.now, self.number));
        let mut think = self.clients[client].think_us(&self.options);
        if self.ops.len() > self.options.ops_max {
            think += SLOW_THINK_US;
        }
        self.after(think, Event::Client { client });
    }

    // ---- comparisons

    /// All members, asked for hash and content of their own state.
    pub fn compare(&mut self) {
        let revisions = self.members.iter().filter_map(|m| m.host.as_ref());
        let lowest = revisions.map(|host| host.node().store().current()).min().unwrap_or(0);
        for node in 0..self.members.len() {
            if self.members[node].host.is_none() || self.members[node].paused_until > self.now {
                continue;
            }
            for revision in [0, lowest] {
                let body = pb::HashKvRequest { revision }.encode_to_vec().into();
                self.call(node, CallFor::Hash, Method::HashKv, body);
            }
            let (method, body) = workload::encode(&Ask::Range { revision: 0, serializable: true });
            self.call(node, CallFor::Content, method, body);
        }
    }

    fn hashed(&mut self, node: usize, result: Result<Bytes, Error>) {
        let Ok(Ok(r)) = result.map(pb::HashKvResponse::decode) else { return };
        // As in etcd, the hash that a compaction at this very revision left counts a tombstone that a scan leaves out.
        let host = self.members[node].host.as_ref();
        let kept = host.and_then(|host| host.node().store().compaction_hash(r.hash_revision));
        let from = (r.hash_revision, r.compact_revision, kept.is_some());
        let verdict = self.hashes.hash(node, from, r.hash);
        if let Err(failure) = verdict {
            self.fail(failure);
        }
    }

    fn shown(&mut self, node: usize, result: Result<Bytes, Error>) {
        let Ok(Ok(r)) = result.map(pb::RangeResponse::decode) else { return };
        let revision = r.header.map_or(0, |h| h.revision);
        if self.raft.lost_at.is_none()
            && let Err(failure) = HashCheck::content(node, revision, &r.kvs, &self.raft.model)
        {
            self.fail(failure);
        }
    }

    // ---- watches

    fn open_watch(&mut self, watcher: usize) {
        if self.watchers[watcher].on.is_some() {
            return;
        }
        let node = self.rng.below(self.members.len() as u64) as usize;
        if self.members[node].host.is_none() {
            let delay = self.rng.heavy(100_000);
            return self.after(delay, Event::Watch { watcher });
        }
        let (key, start) = match self.watchers[watcher].span {
            Some(span) => (self.spans[span].key.clone(), self.spans[span].next()),
            None => {
                let number = self.rng.below(self.options.keys);
                let key = self.rng.permille(500).then(|| Bytes::from(format!("k{number}")));
                (key, *self.rng.pick(&[0, 1, 1, 5]))
            }
        };
        self.next_token += 1;
        let stream = StreamId(self.next_token);
        self.by_stream.insert(stream, watcher);
        let span = self.spans.len();
        let body = workload::watch(key.as_ref(), start, self.rng.permille(500));
        self.spans.push(Span { node, key, start, responses: Vec::new() });
        let incarnation = self.members[node].incarnation;
        self.watchers[watcher] =
            Watcher { stream, on: Some((node, incarnation)), span: Some(span) };
        let inputs = vec![Input::WatchOpen { stream }, Input::WatchRequest { stream, body }];
        self.turns(node, inputs);
    }

    fn watched(&mut self, node: usize, stream: StreamId, response: Bytes) {
        let response = pb::WatchResponse::decode(response).expect("a watch response");
        let Some(&watcher) = self.by_stream.get(&stream) else { return };
        let w = &self.watchers[watcher];
        let (Some((_, incarnation)), Some(span), true) = (w.on, w.span, w.stream == stream) else {
            return;
        };
        let mut drain = 100;
        if self.rng.permille(self.options.slow_watcher_permille) && !self.is_healed {
            drain = self.rng.heavy(400_000);
        }
        let input = Input::WatchDrained { stream, count: 1 };
        self.after(drain, Event::Input { node, incarnation, input });
        if !response.events.is_empty() && self.rng.permille(100) {
            let input = Input::WatchRequest { stream, body: workload::watch_progress() };
            self.after(drain, Event::Input { node, incarnation, input });
        }
        if self.options.bug == Some(Bug::WatchResponseLost) && self.rng.permille(20) {
            return;
        }
        let is_over = response.canceled;
        self.spans[span].responses.push(response);
        if is_over {
            self.watchers[watcher].on = None;
            self.after(10_000, Event::Watch { watcher });
        }
    }

    /// Spans whose watcher is still there.
    pub fn open_spans(&self) -> Vec<usize> {
        self.watchers.iter().filter(|w| w.on.is_some()).filter_map(|w| w.span).collect()
    }
}

#[derive(Clone, Copy, Debug)]
pub enum CallFor {
    Op(usize),
    Hash,
    Content,
    Probe,
}

/// The founding members, none of them running yet.
fn found(options: &Options, rng: &mut Rng) -> Vec<Member> {
    let url = |i: usize| vec![format!("http://n{}:2380", i + 1)];
    let founders: Vec<norn_node::Member> = (0..options.nodes)
        .map(|i| norn_node::Member::new(&format!("n{}", i + 1), url(i), "sim", None))
        .collect();
    let member = |founder: &norn_node::Member| {
        let mut config = Config::new(&founder.name, &founder.peer_urls[0]);
        config.start = Start::New { members: founders.clone(), token: "sim".into() };
        config.seed = rng.next();
        config.unix_ms_at_zero = 1_700_000_000_000;
        config.tick_ms = options.tick_ms;
        config.election_ticks = options.election_ticks;
        config.pre_vote = options.pre_vote;
        config.snapshot_count = options.snapshot_count;
        config.catch_up_entries = options.catch_up_entries;
        config.wal_segment_bytes = options.wal_segment_bytes;
        config.revlog_segment_bytes = options.revlog_segment_bytes;
        config.image_debt_bytes = options.image_debt_bytes;
        config.image_step_bytes = options.image_step_bytes;
        config.cache_bytes = options.cache_bytes;
        config.lease_checkpoint = options.lease_checkpoint;
        config.watch_progress_interval_ms = options.watch_progress_ms;
        let ppm =
            rng.below(2 * options.drift_ppm + 1).cast_signed() - options.drift_ppm.cast_signed();
        Member {
            id: founder.id,
            config,
            disk: SimDisk::new(options.bug == Some(Bug::SyncIgnored)),
            clock: Clock { offset_ms: 1 + rng.below(3_600_000), ppm },
            host: None,
            incarnation: 0,
            wake_at: u64::MAX,
            disk_armed: [false; 2],
            inbox: Vec::new(),
            paused_until: 0,
            crash_in: None,
            boot_syncs: 0,
            may_fail: false,
        }
    };
    founders.iter().map(member).collect()
}
