//! The cluster, its clients and its misfortunes, under one queue of events ordered by (time, number).

mod clients;
mod comparison;
mod garble;
mod members;
mod misfortune;
mod operator;
mod rot;
mod traffic;
mod unreadable;
mod watchers;

use std::collections::BTreeMap;

use bytes::Bytes;
use norn_node::{Input, StreamId};
use norn_raft::Message;
use norn_storage::{DiskError, DiskQueue, FileName};

use self::operator::Membership;
use crate::check::hash::HashCheck;
use crate::check::lease::Times;
use crate::check::raft::RaftCheck;
use crate::check::watch::Span;
use crate::fault;
use crate::fault::{Act, Fault};
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
/// Events of one run: twenty times those of the longest that passed. Something answers itself for ever.
const EVENTS_MAX: u64 = 40_000_000;
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
    Change { node: usize },
    Snapshot { number: u64, body: Bytes },
    Stored { number: u64, result: Result<(), DiskError> },
    Watch { watcher: usize },
    Compare,
    Operator,
    Tidy,
    Room { node: usize },
    Replace { node: usize },
    Retire { node: usize },
}

/// Who waits for a reply.
enum Waiting {
    Op {
        op: usize,
    },
    /// A question of no client.
    Aside {
        op: usize,
    },
    Hash,
    Content,
    Probe,
    Change,
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
    pub full_disks: u64,
    pub flipped_bits: u64,
    pub unread: u64,
    pub strays: u64,
    pub refused: u64,
    pub joins: u64,
    pub leaves: u64,
}

pub struct World {
    pub options: Options,
    pub now: u64,
    number: u64,
    queue: BTreeMap<(u64, u64), Event>,
    rng: Rng,
    pub members: Vec<Member>,
    by_id: BTreeMap<u64, usize>,
    membership: Membership,
    network: Network,
    partitions: u64,
    /// What befalls the next leader: after how long, and for how long.
    at_election: Option<(Act, u64, u64)>,
    clients: Vec<Client>,
    pub ops: Vec<Op>,
    /// Beyond the number of every operation that a client drew, asked or not.
    pub drawn: usize,
    next_token: u64,
    waiting: BTreeMap<u64, (usize, Waiting)>,
    watchers: Vec<Watcher>,
    pub spans: Vec<Span>,
    by_stream: BTreeMap<StreamId, usize>,
    transfers: BTreeMap<u64, Transfer>,
    garbling: Rng,
    pub raft: RaftCheck,
    pub times: Times,
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
            membership: Membership::new(Rng::new(options.seed ^ 0x4d65_6d62_6572)),
            network,
            partitions: 0,
            at_election: None,
            clients,
            ops: Vec::new(),
            drawn: 0,
            next_token: 0,
            waiting: BTreeMap::new(),
            watchers,
            spans: Vec::new(),
            by_stream: BTreeMap::new(),
            transfers: BTreeMap::new(),
            garbling: Rng::new(options.seed ^ 0x6761_7262_6c65),
            raft: RaftCheck::new(),
            times: Times::default(),
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
            if let Fault::Upgrade { node, .. } = fault {
                world.members[node].version = members::OLDER;
            }
            world.after(at, Event::Fault { fault });
        }
        world.after(COMPARE_EVERY_US, Event::Compare);
        if world.options.quota_bytes > 0 || world.options.full_every_us > 0 {
            world.after(COMPARE_EVERY_US, Event::Tidy);
        }
        if world.options.member_every_us > 0 {
            world.after(world.options.member_every_us, Event::Operator);
        }
        world
    }

    /// Who belongs to the cluster, and whether it has a vote.
    pub fn counted(&self) -> impl Iterator<Item = (usize, bool)> {
        let members = self.members.iter().enumerate().filter(|(_, member)| member.is_member);
        members.map(|(node, member)| (node, !self.membership.is_learner(member.id)))
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
            if self.counts.events > EVENTS_MAX {
                let detail = format!("at {} s of simulated time", self.now / 1_000_000);
                return self.fail(Failure::new("A run comes to an end.", detail));
            }
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
            Event::Resume { node } => self.resume(node),
            Event::Change { node } if !self.is_healed => self.change_members(node),
            Event::Change { .. } => {}
            Event::Snapshot { number, body } => self.snapshot_arrives(number, body),
            Event::Stored { number, result } => self.snapshot_stored(number, &result),
            Event::Watch { watcher } => self.open_watch(watcher),
            Event::Replace { node } => self.replace(node),
            Event::Tidy => self.tidy_up(),
            Event::Room { node } => self.members[node].disk.inner.limit_bytes(None),
            Event::Operator => self.operate(),
            Event::Retire { node } => self.retire(node),
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
    Aside(usize),
    Hash,
    Content,
    Probe,
    Change,
}
