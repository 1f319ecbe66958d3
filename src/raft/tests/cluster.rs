//! Random schedules: messages delivered in any order, lost, doubled; hosts crash at any time, members come
//! and go, logs are compacted, storage threads lag. The promises are checked at every step by `Sim`; at the
//! end the group must still be able to make progress.

mod sim;

use norn_raft::{ConfChange, ConfChangeKind, Config, NodeId};
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use sim::{Sim, plain};

const HOSTS: u64 = 5;

#[derive(Clone, Debug)]
enum Op {
    Tick(u64),
    Work(u64),
    AppendThread(u64),
    ApplyThread(u64),
    Deliver(usize),
    Lose(usize),
    Double(usize),
    Campaign(u64),
    Propose(u64),
    Read(u64),
    Transfer(u64, u64),
    Compact(u64),
    Crash(u64),
    Unreachable(u64, u64),
    SnapshotReport(u64, u64, bool),
    Forget(u64),
    Change(u64, u64, u8),
    Settle,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let host = 1..=HOSTS;
    let place = 0usize..1000;
    let op = prop_oneof![
        8 => host.clone().prop_map(Op::Tick),
        12 => host.clone().prop_map(Op::Work),
        10 => host.clone().prop_map(Op::AppendThread),
        8 => host.clone().prop_map(Op::ApplyThread),
        30 => place.clone().prop_map(Op::Deliver),
        4 => place.clone().prop_map(Op::Lose),
        3 => place.prop_map(Op::Double),
        2 => host.clone().prop_map(Op::Campaign),
        6 => host.clone().prop_map(Op::Propose),
        3 => host.clone().prop_map(Op::Read),
        1 => (host.clone(), host.clone()).prop_map(|(a, b)| Op::Transfer(a, b)),
        2 => host.clone().prop_map(Op::Compact),
        1 => host.clone().prop_map(Op::Crash),
        1 => (host.clone(), host.clone()).prop_map(|(a, b)| Op::Unreachable(a, b)),
        1 => (host.clone(), host.clone(), any::<bool>())
            .prop_map(|(a, b, ok)| Op::SnapshotReport(a, b, ok)),
        1 => host.clone().prop_map(Op::Forget),
        2 => (host.clone(), host, 0..3u8).prop_map(|(a, b, kind)| Op::Change(a, b, kind)),
        1 => Just(Op::Settle),
    ];
    prop::collection::vec(op, 50..600)
}

fn settings() -> impl Strategy<Value = Config> {
    (any::<[bool; 4]>(), any::<u64>(), 1..4usize, prop::sample::select(vec![0, 40, 1 << 20]))
        .prop_map(|([check_quorum, pre_vote, is_async, step_down], seed, inflight, bytes)| Config {
            check_quorum,
            pre_vote,
            async_storage_writes: is_async,
            step_down_on_removal: step_down,
            seed: seed >> 8,
            inflight_messages_max: inflight,
            message_bytes_max: bytes,
            committed_bytes_max: bytes.max(1),
            election_ticks: 5,
            ..plain()
        })
}

fn run(settings: Config, ops: Vec<Op>) {
    let mut sim = Sim::new(HOSTS, &[1, 2, 3], settings);
    let mut serial = 0u32;
    for op in ops {
        let count = sim.network.len();
        match op {
            Op::Tick(n) => sim.tick(n, 1),
            Op::Work(n) => sim.work(n),
            Op::AppendThread(n) => sim.append_thread(n),
            Op::ApplyThread(n) => sim.apply_thread(n),
            Op::Deliver(i) if count > 0 => sim.deliver(i % count),
            Op::Lose(i) if count > 0 => drop(sim.network.remove(i % count)),
            Op::Double(i) if count > 0 => {
                let again = sim.network[i % count].clone();
                sim.network.push(again);
            }
            Op::Deliver(_) | Op::Lose(_) | Op::Double(_) => {}
            Op::Campaign(n) => sim.raw(n).campaign(),
            Op::Propose(n) => {
                serial += 1;
                sim.propose(n, &format!("payload {serial}"));
            }
            Op::Read(n) => {
                serial += 1;
                sim.read(n, &format!("read {serial}"));
            }
            Op::Transfer(n, to) => sim.raw(n).transfer_leader(NodeId(to)),
            Op::Compact(n) => sim.host(n).compact(),
            Op::Crash(n) => sim.crash(n),
            Op::Unreachable(n, peer) => sim.raw(n).report_unreachable(NodeId(peer)),
            Op::SnapshotReport(n, peer, ok) => sim.raw(n).report_snapshot(NodeId(peer), ok),
            Op::Forget(n) => sim.raw(n).forget_leader(),
            Op::Change(n, member, kind) => {
                let kind = [
                    ConfChangeKind::AddNode,
                    ConfChangeKind::RemoveNode,
                    ConfChangeKind::AddLearnerNode,
                ][usize::from(kind)];
                let node_id = NodeId(member);
                let change = ConfChange { kind, node_id, ..ConfChange::default() };
                let _ = sim.raw(n).propose_conf_change(change);
            }
            Op::Settle => {
                let all = sim.everyone();
                sim.settle(&all);
            }
        }
        sim.check();
    }
    sim.check_log_matching();
    sim.make_progress();
    sim.check_log_matching();
}

/// Failures are kept beside the test, and run first from then on.
fn proptest_config() -> ProptestConfig {
    let seeds = FileFailurePersistence::Direct("tests/cluster.seeds");
    ProptestConfig {
        cases: 2_000,
        max_shrink_iters: 2_000,
        failure_persistence: Some(Box::new(seeds)),
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(proptest_config())]

    #[test]
    fn the_promises_hold_under_any_schedule(settings in settings(), ops in ops()) {
        run(settings, ops);
    }
}
