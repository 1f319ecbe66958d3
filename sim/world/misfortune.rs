//! Faults, when they strike, and their end.

use norn_node::Input;

use super::{Event, World};
use crate::fault::Fault;
use crate::member::CrashPoint;
use crate::network::Network;
use crate::record::What;
use crate::rng::Rng;

impl World {
    pub(super) fn strike(&mut self, fault: Fault) {
        let what = What::Fault { kind: fault.kind(), node: fault.node() };
        self.trace.tell(self.now, what, || format!("{fault:?}"));
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
                    self.trace.note(self.now, What::Cut { from: *a, to: *b });
                    let id = self.members[*b].id;
                    self.tell_later(*a, Input::PeerActive { id, active: false });
                }
                self.network.cut(links);
                self.counts.partitions += 1;
                self.partitions += 1;
                self.after(for_us, Event::Mend { count: self.partitions });
            }
            Fault::Pause { node, for_us } => {
                self.trace.note(self.now, What::Pause { node, for_us });
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
        self.trace.note(self.now, What::Heal);
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
