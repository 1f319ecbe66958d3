//! Faults, when they strike, and their end.

use norn_node::Input;

use super::{Event, World};
use crate::fault::{Act, Fault};
use crate::member::CrashPoint;
use crate::network::Network;
use crate::rng::Rng;

impl World {
    pub(super) fn strike(&mut self, fault: Fault) {
        self.trace.note(self.now, "fault", 0, 0, || format!("{fault:?}"));
        match fault {
            Fault::Crash { node, power, in_batches, sends, down_us, boot_syncs } => {
                let node = self.victim(node);
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
                let leader = self.leader();
                let mut rng = Rng::new(draw);
                let links = Network::draw_partition(&mut rng, self.members.len(), leader);
                self.cut(links, for_us);
            }
            Fault::Pause { node, for_us } => self.pause(self.victim(node), for_us),
            Fault::FailSync { node, nth } => {
                let node = self.victim(node);
                if self.members[node].host.is_some() {
                    self.members[node].disk.inner.fail_sync(nth);
                    self.members[node].may_fail = true;
                }
            }
            Fault::Transfer { node } => self.turn(self.victim(node), Input::TransferLeadership),
            Fault::AtElection { act, after_us, for_us } => {
                self.at_election = Some((act, after_us, for_us));
            }
            Fault::Upon { node, act, for_us } => match act {
                Act::Pause => self.pause(node, for_us),
                Act::Crash if self.members[node].host.is_some() => self.crash(node, true, for_us),
                Act::Crash => {}
                Act::Isolate(way) => self.cut(way.links(node, self.members.len()), for_us),
            },
            Fault::PauseLeader { for_us } => {
                if let Some(node) = self.leader() {
                    self.pause(node, for_us);
                }
            }
        }
    }

    /// A leader was elected: the moment that some faults wait for.
    pub(super) fn elected(&mut self, node: usize) {
        let Some((act, after_us, for_us)) = self.at_election.take() else { return };
        if self.options.member_every_us > 0 {
            // (What the leader before left unfinished may be a change, too.)
            self.after(after_us / 2, Event::Change { node });
        }
        let fault = Fault::Upon { node, act, for_us };
        self.after(after_us, Event::Fault { fault });
    }

    /// What comes in meanwhile waits. When it goes on, what clients asked may be read before what members sent: these are
    /// different connections.
    fn pause(&mut self, node: usize, for_us: u64) {
        self.members[node].paused_until = self.now + for_us;
        self.members[node].calls_first = for_us % 2 == 0;
        self.after(for_us, Event::Resume { node });
    }

    pub(super) fn resume(&mut self, node: usize) {
        let member = &mut self.members[node];
        if member.paused_until > self.now {
            return;
        }
        let mut inputs = std::mem::take(&mut member.inbox);
        if std::mem::take(&mut member.calls_first) {
            self.renew_aside(node);
            let is_call = |input: &mut Input| matches!(input, Input::Call { .. });
            let calls = inputs.extract_if(.., is_call).collect();
            self.turns(node, calls);
        }
        self.turns(node, inputs);
    }

    fn cut(&mut self, links: Vec<(usize, usize)>, for_us: u64) {
        for (a, b) in &links {
            let id = self.members[*b].id;
            self.tell_later(*a, Input::PeerActive { id, active: false });
        }
        self.network.cut(links);
        self.counts.partitions += 1;
        self.partitions += 1;
        self.after(for_us, Event::Mend { count: self.partitions });
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
}
