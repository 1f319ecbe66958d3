//! The cluster, its clients and its misfortunes, under one queue of events ordered by (time, number).

mod clients;
mod comparison;
mod members;
mod misfortune;
mod traffic;
mod watchers;

use std::collections::BTreeMap;

use bytes::Bytes;
use norn_node::{Input, StreamId};
use norn_raft::Message;
use norn_storage::{DiskQueue, FileName};

use crate::check::hash::HashCheck;
use crate::check::raft::RaftCheck;
use crate::check::watch::Span;
use crate::fault;
use crate::fault::Fault;
use crate::history::{Failure, Op};
use crate::less::Less;
use crate::member::Member;
use crate::network::Network;
use crate::options::Options;
use crate::record::What;
use crate::rng::Rng;
use crate::trace::Trace;
use crate::workload::Client;

const QUEUES: [DiskQueue; 2] = [DiskQueue::Log, DiskQueue::Bulk];
/// Between two comparisons of all members.
const COMPARE_EVERY_US: u64 = 700_000;
const SLOW_THINK_US: u64 = 400_000;

enum Event {
    Start { node: usize },
    Wake { node: usize, incarnation: u64, at: u64 },
    Deliver { to: usize, id: u64, message: Message },
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
    id: u64,
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
    /// Drawn, whether or not they struck.
    pub faults: usize,
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
    /// Operations that clients drew, asked or not.
    pub drawn: usize,
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
    pub fn new(options: Options, keeps_records: bool) -> World {
        let mut rng = Rng::new(options.seed ^ 0x0057_6f72_6c64);
        let network = Network::new(&options, rng.fork(1));
        let mut fault_rng = rng.fork(2);
        let whole = options.drawn();
        let clients = (0..options.clients).map(|i| Client::new(i, &options, rng.fork(3))).collect();
        let members = members::found(&options, &mut rng);
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
            drawn: 0,
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
            trace: Trace::new(keeps_records),
            failure: None,
            options,
        };
        for node in 0..world.options.nodes {
            let after = world.rng.below(50_000);
            world.after(after, Event::Start { node });
        }
        for client in 0..world.options.clients {
            let after = world.rng.below(2_000_000);
            if world.options.less.keeps_client(client) {
                world.after(after, Event::Client { client });
            }
        }
        for watcher in 0..world.options.watchers {
            let after = world.rng.below(5_000_000);
            if world.options.less.keeps_watcher(watcher) {
                world.after(after, Event::Watch { watcher });
            }
        }
        let faults = fault::draw(&whole, &mut fault_rng);
        world.counts.faults = faults.len();
        for (at, fault) in Less::kept(&world.options, faults, Fault::node) {
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
            Event::Deliver { to, id, message } => {
                let what = match self.members[to].host {
                    Some(_) => What::Arrive { id, to },
                    None => What::Drop { id, is_cut: false },
                };
                self.trace.note(self.now, what);
                self.turn(to, Input::Peer(message));
            }
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
}

#[derive(Clone, Copy, Debug)]
pub enum CallFor {
    Op(usize),
    Hash,
    Content,
    Probe,
}
