//! Faults, when they strike, and their end.

use norn_node::{Input, Method};
use norn_proto::etcdserverpb as pb;
use prost::Message as _;

use super::{CallFor, Event, World, members};
use crate::fault::{Act, Fault};
use crate::member::CrashPoint;
use crate::network::Network;
use crate::record::What;
use crate::rng::Rng;

/// How often the operator looks for alarms.
const TIDY_EVERY_US: u64 = 700_000;

impl World {
    pub(super) fn strike(&mut self, fault: Fault) {
        let what = What::Fault { kind: fault.kind(), node: fault.node() };
        self.trace.tell(self.now, what, || format!("{fault:?}"));
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
            Fault::Rot { node, draw, down_us } => self.rot(self.victim(node), draw, down_us),
            Fault::Unreadable { node, nth, at_start, down_us } => {
                self.unreadable(self.victim(node), nth, at_start, down_us);
            }
            Fault::Stray { node, nth, draw } => self.stray(self.victim(node), nth, draw),
            Fault::Upgrade { node, down_us } => {
                self.members[node].version = members::NEWEST;
                if self.members[node].host.is_some() {
                    self.crash(node, false, down_us);
                }
            }
            Fault::Full { node, room_bytes, for_us } => {
                let node = self.victim(node);
                let disk = &self.members[node].disk.inner;
                disk.limit_bytes(Some(disk.used_bytes() + room_bytes));
                self.counts.full_disks += 1;
                self.after(for_us, Event::Room { node });
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
        self.trace.note(self.now, What::Pause { node, for_us });
        self.members[node].paused_until = self.now + for_us;
        self.members[node].calls_first = for_us.is_multiple_of(2);
        self.after(for_us, Event::Resume { node });
    }

    pub(super) fn resume(&mut self, node: usize) {
        let member = &mut self.members[node];
        if member.paused_until > self.now {
            return;
        }
        let mut inputs = std::mem::take(&mut member.inbox);
        if std::mem::take(&mut member.calls_first) {
            member.is_waking = true;
            self.renew_aside(node);
            let is_call = |input: &mut Input| matches!(input, Input::Call { .. });
            let calls = inputs.extract_if(.., is_call).collect();
            self.turns(node, calls);
            // (And what members sent, one by one.)
            inputs.into_iter().for_each(|input| self.turn(node, input));
            self.members[node].is_waking = false;
            return;
        }
        self.turns(node, inputs);
    }

    fn cut(&mut self, links: Vec<(usize, usize)>, for_us: u64) {
        for (a, b) in &links {
            self.trace.note(self.now, What::Cut { from: *a, to: *b });
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
        self.trace.note(self.now, What::Heal);
        self.partitions += 1;
        self.network.heal();
        self.mend();
        for node in 0..self.members.len() {
            self.members[node].crash_in = None;
            self.members[node].paused_until = 0;
            self.members[node].disk.inner.limit_bytes(None);
            self.members[node].disk.inner.mend();
            self.members[node].disk_armed = [false; 2];
            self.arm_disk(node);
            self.after(0, Event::Resume { node });
            self.after(1, Event::Start { node });
        }
        if self.options.quota_bytes > 0 {
            self.raise_quotas();
        }
    }

    /// What an operator does whose members are full: they get a larger quota, which takes a restart.
    fn raise_quotas(&mut self) {
        for node in 0..self.members.len() {
            self.members[node].config.quota_bytes = -1;
            if self.members[node].host.is_some() {
                self.crash(node, false, 1_000);
            }
        }
    }

    /// Alarms are called off, and history is given up, so that there is room again.
    pub(super) fn tidy_up(&mut self) {
        self.after(TIDY_EVERY_US, Event::Tidy);
        // (A learner would refuse.)
        let full = |node: &usize| {
            let host = self.members[*node].host.as_ref();
            host.is_some_and(|host| host.node().alarms().next().is_some())
                && !self.membership.is_learner(self.members[*node].id)
        };
        let Some(node) = (0..self.members.len()).find(full) else { return };
        let Some(host) = &self.members[node].host else { return };
        let revision = host.node().store().current();
        let alarms: Vec<(u64, i32)> = host.node().alarms().collect();
        let body = pb::CompactionRequest { revision, physical: false }.encode_to_vec();
        self.call(node, CallFor::Change, Method::Compact, body.into());
        for (member_id, alarm) in alarms {
            let action = pb::alarm_request::AlarmAction::Deactivate.into();
            let body = pb::AlarmRequest { action, member_id, alarm }.encode_to_vec();
            self.call(node, CallFor::Change, Method::Alarm, body.into());
        }
    }
}
