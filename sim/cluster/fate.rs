//! Luck, drawn from the seed: a source of its own for each matter, so that one does not shift the other.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use norn_node::{Config, Input, Node};
use norn_raft::Message;
use norn_server::runtime::disk::Reader;
use norn_server::runtime::simulated::{Fate, Host};

use super::operator;
use super::state::{Event, State};
use crate::history::Failure;
use crate::member::CrashPoint;
use crate::options::rest_between_checkpoints;
use crate::record::{Place, What};
use crate::rng::Rng;

pub struct Norns {
    state: Rc<State>,
    link: Rng,
    disk: Rng,
    seeds: Rng,
    slow: Rng,
    /// Messages so far, and those that have not arrived yet: streams number nothing, so what looks the same is the same.
    sent: u64,
    on_way: BTreeMap<Mark, VecDeque<u64>>,
}

/// More that look the same are not on their way at a time.
const MARKS_MAX: usize = 4;

/// From, to, kind, term, index, number of entries, context.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Mark(Host, Host, u8, u64, u64, usize, Bytes);

impl Mark {
    fn of(from: Host, to: Host, message: &Message) -> Mark {
        let (kind, term, entries) = (message.kind as u8, message.term.0, message.entries.len());
        Mark(from, to, kind, term, index(message), entries, message.context.clone())
    }
}

fn index(message: &Message) -> u64 {
    message.snapshot.as_ref().map_or(message.index.0, |snapshot| snapshot.index.0)
}

/// Until somebody has seen that a disk has stopped.
const STOPPED_DOWN_US: u64 = 100_000;

impl Norns {
    pub fn new(state: Rc<State>, rng: &mut Rng) -> Norns {
        let (link, disk, seeds) = (rng.fork(10), rng.fork(11), rng.fork(12));
        let slow = Rng::new(state.options.seed ^ 0x536c_6f77);
        Norns { state, link, disk, seeds, slow, sent: 0, on_way: BTreeMap::new() }
    }
}

impl Norns {
    /// What a slow link takes longer.
    fn slowness(&mut self, from: Host, to: Host) -> u64 {
        let slow = self.state.slow_links.borrow().get(&(from, to)).copied();
        match slow {
            Some((by_us, until)) if State::now_us() < until && !self.state.is_healed.get() => {
                self.slow.between(by_us / 2, by_us)
            }
            _ => 0,
        }
    }
}

impl Fate for Norns {
    fn link_delay(&mut self, from: Host, to: Host) -> Duration {
        let options = &self.state.options;
        let is_tail = !self.state.is_healed.get() && self.link.permille(options.tail_permille);
        let tail = if is_tail { self.link.heavy(200_000) } else { 0 };
        let delay = self.link.between(options.latency_us / 2, options.latency_us * 2);
        Duration::from_micros(10 + delay + tail + self.slowness(from, to))
    }

    fn resend_delay(&mut self) -> Duration {
        Duration::from_micros(self.link.heavy(100_000))
    }

    fn disk_delay(&mut self, host: Host) -> Duration {
        let options = &self.state.options;
        let mut delay = self.disk.between(options.disk_us / 4, options.disk_us * 2);
        if self.disk.permille(options.slow_disk_permille) && !self.state.is_healed.get() {
            delay += self.disk.heavy(300_000);
        }
        let mut members = self.state.members.borrow_mut();
        if let Some(point) = &mut members[host].crash_in {
            point.batches = point.batches.saturating_sub(1);
            if point.batches == 0
                && let Some(point) = members[host].crash_in.take()
            {
                self.state.happened(Event::CrashPoint { host, point });
            }
        }
        Duration::from_micros(delay)
    }

    fn disk_stopped(&mut self, host: Host) {
        // (With the power gone, it comes back with what is on the disk, and not in the page cache.)
        let point = CrashPoint { batches: 0, power: true, sends: false, down_us: STOPPED_DOWN_US };
        self.state.happened(Event::CrashPoint { host, point });
    }

    fn seed(&mut self, _: Host) -> u64 {
        self.seeds.next()
    }

    fn shape(&mut self, config: Config) -> Config {
        let options = &self.state.options;
        Config {
            wal_segment_bytes: options.wal_segment_bytes,
            wal_spare_pieces: options.wal_spare_pieces,
            revlog_segment_bytes: options.revlog_segment_bytes,
            image_debt_bytes: options.image_debt_bytes,
            image_step_bytes: options.image_step_bytes,
            compact_records: options.compact_records,
            compact_pause_ms: options.compact_pause_ms,
            work_pause_ms: options.work_pause_ms,
            cache_bytes: options.cache_bytes,
            limits: options.limits,
            checkpoint_interval_ms: rest_between_checkpoints(config.snapshot_count),
            ..config
        }
    }

    fn turned(&mut self, host: Host, node: &Node<Reader>) {
        let place = (node.applied(), node.raft().term().0, node.raft().leader().0);
        let state = &self.state;
        state.counts.borrow_mut().turns += 1;
        state.trace.borrow_mut().place(State::now_us(), host, Place::of(node));
        let mut members = state.members.borrow_mut();
        (members[host].place, members[host].was_open) = (Some(place), true);
        drop(members);
        operator::observe(state, node);
        let mut raft = state.raft.borrow_mut();
        raft.lives_on(node.id(), host);
        let leaders = raft.leader_count();
        let seen = raft.observe(node);
        if raft.leader_count() > leaders && state.at_election.borrow().is_some() {
            state.happened(Event::Elected { host });
        }
        state.times.borrow_mut().observe(State::now_us(), raft.model.applied);
        drop(raft);
        if let Err(failure) = seen {
            state.fail(failure);
        }
    }

    fn said(&mut self, host: Host, line: &str) {
        self.state.tell(What::Log { node: host }, || line.to_owned());
        self.state.said(host, line);
    }

    fn carried(&mut self, from: Host, to: Host, data: &[u8]) {
        let bytes = data.len() as u64;
        let mut counts = self.state.counts.borrow_mut();
        counts.pieces += 1;
        counts.bytes += bytes;
        drop(counts);
        let sum = crc32c::crc32c(data).into();
        self.state.note(What::Data { from, to, bytes, sum });
    }

    fn spoilt(&mut self, from: Host, to: Host) {
        self.state.counts.borrow_mut().spoilt += 1;
        let text = || format!("nonsense instead of what it sends n{}", to + 1);
        self.state.tell(What::Log { node: from }, text);
    }

    fn swallowed(&mut self, from: Host, to: Host) {
        let detail = format!("n{} goes on reading what n{} sends", to + 1, from + 1);
        self.state.fail(Failure::new("A member hangs up where bytes make no sense.", detail));
    }

    fn sends(&mut self, host: Host, messages: &[Message]) {
        for message in messages {
            let Some(to) = self.state.raft.borrow().host_of(message.to.0) else { continue };
            self.sent += 1;
            let id = self.sent;
            self.on_way.entry(Mark::of(host, to, message)).or_default().push_back(id);
            self.state.note(What::Send {
                id,
                from: host,
                to,
                kind: message.kind as u8,
                term: message.term.0,
                index: index(message),
                entries: message.entries.len(),
                copies: 1,
            });
        }
    }

    fn takes(&mut self, host: Host, inputs: &[Input]) {
        for input in inputs {
            let message = match input {
                Input::Peer(message) => message,
                Input::SnapshotReceived { message, .. } => {
                    self.state.note(What::Snapshot { node: host, index: index(message) });
                    message
                }
                _ => continue,
            };
            let Some(from) = self.state.raft.borrow().host_of(message.from.0) else { continue };
            let mark = Mark::of(from, host, message);
            // (What a broken connection lost leaves its mark behind: only the last few can be this one.)
            let Some(mut marks) = self.on_way.remove(&mark) else { continue };
            while marks.len() > MARKS_MAX {
                marks.pop_front();
            }
            if let Some(id) = marks.pop_front() {
                self.state.note(What::Arrive { id, to: host });
            }
            if !marks.is_empty() {
                self.on_way.insert(mark, marks);
            }
        }
    }
}
