//! One to seven raft nodes under any schedule: the simulated group of raft's own tests, driven by bytes.

use std::collections::BTreeMap;

use norn_raft::{
    ConfChange, ConfChangeKind, ConfChangeSingle, ConfChangeTransition, ConfChangeV2, Config,
    Index, NodeId,
};

use crate::choices::Choices;
use sim::{Sim, plain};

#[path = "../../src/raft/tests/sim/mod.rs"]
mod sim;

pub fn body(bytes: &[u8]) {
    let mut choices = Choices::new(bytes);
    let count = 1 + choices.below(7) as u64;
    let voters: Vec<u64> = (1..=1 + choices.below(count as usize) as u64).collect();
    let heals = choices.one_in(4);
    let mut group = Group {
        sim: Sim::new(count, &voters, settings(&mut choices)),
        count,
        committed: BTreeMap::new(),
        serial: 0,
    };
    let mut steps = 0;
    while !choices.is_done() && steps < 400 {
        steps += 1;
        group.step(&mut choices);
        group.check();
    }
    if heals {
        group.sim.make_progress();
        // (That may have restarted some.)
        group.committed.clear();
        group.check();
    }
}

fn settings(choices: &mut Choices<'_>) -> Config {
    let switches = choices.byte();
    let bytes = [0, 40, 1 << 20][choices.below(3)];
    Config {
        check_quorum: switches & 1 != 0,
        pre_vote: switches & 2 != 0,
        async_storage_writes: switches & 4 != 0,
        step_down_on_removal: switches & 8 != 0,
        seed: u64::from(choices.byte()),
        inflight_messages_max: 1 + choices.below(3),
        message_bytes_max: bytes,
        committed_bytes_max: bytes.max(1),
        election_ticks: 5,
        ..plain()
    }
}

struct Group {
    sim: Sim,
    count: u64,
    /// Highest commit index of each host since it started.
    committed: BTreeMap<u64, Index>,
    serial: u32,
}

impl Group {
    fn step(&mut self, choices: &mut Choices<'_>) {
        let kind = choices.byte();
        let n = 1 + choices.below(self.count as usize) as u64;
        let under_way = self.sim.network.len();
        match kind % 64 {
            0..=7 => self.sim.tick(n, 1),
            8..=19 => self.sim.work(n),
            20..=25 => self.sim.append_thread(n),
            26..=31 => self.sim.apply_thread(n),
            32..=44 if under_way > 0 => {
                let place = usize::from(choices.byte()) % under_way;
                self.sim.deliver(place);
            }
            45..=46 if under_way > 0 => {
                let place = usize::from(choices.byte()) % under_way;
                drop(self.sim.network.remove(place));
            }
            47..=48 if under_way > 0 => {
                let place = usize::from(choices.byte()) % under_way;
                let again = self.sim.network[place].clone();
                self.sim.network.push(again);
            }
            32..=48 => {}
            49 | 50 => self.sim.raw(n).campaign(),
            51 | 52 => {
                self.serial += 1;
                let text = format!("payload {}", self.serial);
                self.sim.propose(n, &text);
            }
            53 => {
                self.serial += 1;
                let text = format!("read {}", self.serial);
                self.sim.read(n, &text);
            }
            54 => self.sim.raw(n).transfer_leader(NodeId(1 + choices.below(7) as u64)),
            55 => self.sim.host(n).compact(),
            56 => {
                self.sim.crash(n);
                self.committed.remove(&n);
            }
            57 => {
                let peer = NodeId(1 + choices.below(self.count as usize) as u64);
                match choices.byte() % 3 {
                    0 => self.sim.raw(n).report_unreachable(peer),
                    answer => self.sim.raw(n).report_snapshot(peer, answer == 1),
                }
            }
            58 => self.sim.raw(n).forget_leader(),
            59 | 60 => self.change(n, choices),
            61 => self.change_jointly(n, choices),
            // A few hosts talk until nothing is left to say, and everything else is lost.
            62 => {
                let some = choices.byte();
                let all = self.sim.everyone();
                let some: Vec<u64> = all.into_iter().filter(|n| some >> n & 1 == 1).collect();
                self.sim.settle(&some);
            }
            _ => {
                let all = self.sim.everyone();
                self.sim.settle(&all);
            }
        }
    }

    fn change(&mut self, n: u64, choices: &mut Choices<'_>) {
        let kinds = [
            ConfChangeKind::AddNode,
            ConfChangeKind::RemoveNode,
            ConfChangeKind::AddLearnerNode,
            ConfChangeKind::UpdateNode,
        ];
        let kind = kinds[choices.below(4)];
        let node_id = NodeId(1 + choices.below(self.count as usize) as u64);
        let change = ConfChange { kind, node_id, ..ConfChange::default() };
        let _ = self.sim.raw(n).propose_conf_change(change);
    }

    /// A member for another one at once, or the way out of a joint configuration.
    fn change_jointly(&mut self, n: u64, choices: &mut Choices<'_>) {
        let (add, remove) =
            (choices.below(self.count as usize), choices.below(self.count as usize));
        let single = |kind, at: usize| ConfChangeSingle { kind, node_id: NodeId(1 + at as u64) };
        let change = if add == remove {
            ConfChangeV2::default()
        } else {
            let gone = [ConfChangeKind::RemoveNode, ConfChangeKind::AddLearnerNode];
            ConfChangeV2 {
                transition: [
                    ConfChangeTransition::Auto,
                    ConfChangeTransition::JointImplicit,
                    ConfChangeTransition::JointExplicit,
                ][choices.below(3)],
                changes: vec![
                    single(ConfChangeKind::AddNode, add),
                    single(gone[choices.below(2)], remove),
                ],
                ..ConfChangeV2::default()
            }
        };
        let _ = self.sim.raw(n).propose_conf_change(change);
    }

    /// Election safety, leader completeness, state machine safety (the group's own checks), log matching, and commit
    /// indexes that never fall.
    fn check(&mut self) {
        self.sim.check();
        self.sim.check_log_matching();
        for n in 1..=self.count {
            let now = self.sim.raw(n).committed();
            let before = self.committed.insert(n, now).unwrap_or_default();
            assert!(before <= now, "commit of {n} fell from {before} to {now}");
        }
    }
}
