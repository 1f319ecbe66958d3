//! Luck, drawn from the seed: a source of its own for each matter, so that one does not shift the other.

use std::rc::Rc;
use std::time::Duration;

use norn_node::{Config, Node};
use norn_server::runtime::disk::Reader;
use norn_server::runtime::simulated::{Fate, Host};

use super::operator;
use super::state::{Event, State};
use crate::rng::Rng;

pub struct Norns {
    state: Rc<State>,
    link: Rng,
    disk: Rng,
    seeds: Rng,
}

impl Norns {
    pub fn new(state: Rc<State>, rng: &mut Rng) -> Norns {
        Norns { state, link: rng.fork(10), disk: rng.fork(11), seeds: rng.fork(12) }
    }
}

impl Fate for Norns {
    fn link_delay(&mut self, _: Host, _: Host) -> Duration {
        let options = &self.state.options;
        let is_tail = !self.state.is_healed.get() && self.link.permille(options.tail_permille);
        let tail = if is_tail { self.link.heavy(200_000) } else { 0 };
        let delay = self.link.between(options.latency_us / 2, options.latency_us * 2);
        Duration::from_micros(10 + delay + tail)
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

    fn seed(&mut self, _: Host) -> u64 {
        self.seeds.next()
    }

    fn shape(&mut self, config: Config) -> Config {
        let options = &self.state.options;
        Config {
            wal_segment_bytes: options.wal_segment_bytes,
            revlog_segment_bytes: options.revlog_segment_bytes,
            image_debt_bytes: options.image_debt_bytes,
            image_step_bytes: options.image_step_bytes,
            cache_bytes: options.cache_bytes,
            ..config
        }
    }

    fn turned(&mut self, host: Host, node: &Node<Reader>) {
        let place = (node.applied(), node.raft().term().0, node.raft().leader().0);
        let state = &self.state;
        state.counts.borrow_mut().turns += 1;
        state.note("turn", host as u64, place.0 ^ (place.1 << 40), || {
            format!("applied {} term {} leader {:x}", place.0, place.1, place.2)
        });
        let mut members = state.members.borrow_mut();
        (members[host].place, members[host].was_open) = (Some(place), true);
        drop(members);
        operator::observe(state, node);
        let mut raft = state.raft.borrow_mut();
        raft.lives_on(node.id(), host);
        let seen = raft.observe(node);
        state.times.borrow_mut().observe(State::now_us(), raft.model.applied);
        drop(raft);
        if let Err(failure) = seen {
            state.fail(failure);
        }
    }

    fn said(&mut self, host: Host, line: &str) {
        self.state.note("log", host as u64, 0, || line.to_owned());
        self.state.said(host, line);
    }

    fn note(&mut self, _: Duration, what: &'static str, a: u64, b: u64) {
        let mut counts = self.state.counts.borrow_mut();
        counts.pieces += 1;
        counts.bytes += b >> 32;
        drop(counts);
        self.state.note(what, a, b, String::new);
    }
}
