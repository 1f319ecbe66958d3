//! One seed from beginning to end: a phase of faults, a phase of recovery, and the verdict.

use bytes::Bytes;
use norn_node::Method;
use prost::Message as _;

use crate::check::linearizable::Effort;
use crate::check::{convergence, lease};
use crate::history::{Failure, Outcome};
use crate::options::{Options, Profile};
use crate::tally::Tally;
use crate::verdict::{self, Record};
use crate::workload;
use crate::world::{CallFor, Counts, World};

/// How long a healed cluster may take until every member serves and all are equal.
const CONVERGENCE_US: u64 = 60_000_000;

/// How long leases may last after it: the longest of the workload by the slowest clock, and two changes of leader.
pub const LEASES_END_US: u64 = 30_000_000;

pub struct Report {
    pub options: Options,
    pub failure: Option<Failure>,
    pub trace_hash: u64,
    pub records: Option<Vec<crate::record::Record>>,
    pub tally: Tally,
    pub simulated_us: u64,
    pub ops: usize,
    pub drawn: usize,
    pub unknown: usize,
    pub terms: usize,
    pub revision: i64,
    pub hashes_compared: u64,
    pub effort: Effort,
    /// The log could not be followed from this index on, so part of the checks had nothing to compare with.
    pub lost_at: Option<u64>,
    pub counts: Counts,
}

pub fn run(options: Options, keeps_records: bool) -> Report {
    let mut world = World::new(options, keeps_records);
    world.run_until(world.options.safety_us);
    let mut effort = Effort::default();
    let recovers = world.options.profile != Profile::Ruin;
    if world.failure.is_none() && recovers {
        recover(&mut world);
    }
    if world.failure.is_none() {
        let record = Record {
            ops: &world.ops,
            spans: &world.spans,
            open: &world.open_spans(),
            raft: &world.raft,
            times: &world.times,
            drift_ppm: Some(world.options.drift_ppm),
            quiet_revision: recovers.then_some(world.quiet_revision),
        };
        if let Err(failure) = verdict::judge(&record, &mut effort) {
            world.fail(failure);
        }
    }
    let unknown = world.ops.iter().filter(|op| matches!(op.outcome, Outcome::Unknown)).count();
    Report {
        trace_hash: world.trace.hash,
        records: world.trace.records.take(),
        tally: world.trace.tally,
        simulated_us: world.now,
        ops: world.ops.len(),
        drawn: world.drawn,
        unknown,
        terms: world.raft.leader_count(),
        revision: world.raft.model.revision,
        hashes_compared: world.hashes.compared,
        effort,
        lost_at: world.raft.lost_at,
        counts: world.counts,
        failure: world.failure,
        options: world.options,
    }
}

fn recover(world: &mut World) {
    let from = world.now;
    world.heal();
    let mut probes = 0;
    loop {
        // Again and again, because a probe may meet an election.
        let voters: Vec<usize> =
            world.counted().filter(|(_, votes)| *votes).map(|(node, _)| node).collect();
        for node in voters {
            if !world.served[node] && world.members[node].host.is_some() {
                probes += 1;
                let value = Bytes::from(format!("probe-{probes}"));
                let body = workload::put(&Bytes::from_static(b"probe"), &value, 0).encode_to_vec();
                world.call(node, CallFor::Probe, Method::Put, body.into());
            }
        }
        let until = world.now + 500_000;
        world.run_until(until);
        if world.failure.is_some() {
            return;
        }
        let standing = standing(world, from);
        if standing.is_converged() {
            break;
        }
        if let Err(failure) = convergence::check(&standing, CONVERGENCE_US) {
            return world.fail(failure);
        }
    }
    leases_end(world);
    world.quiet_revision = world.raft.model.revision;
    world.compare();
    let until = world.now + 3_000_000;
    world.run_until(until);
    world.compare();
}

/// Nobody renews a lease any more: all of them run out.
fn leases_end(world: &mut World) {
    let from = world.now;
    while world.raft.lost_at.is_none() && !world.raft.model.leases.is_empty() {
        let until = world.now + 1_000_000;
        world.run_until(until);
        if world.failure.is_some() {
            return;
        }
        let waited_us = world.now - from;
        if waited_us >= LEASES_END_US
            && let Err(failure) = lease::all_gone(&world.raft.model.lives, waited_us)
        {
            return world.fail(failure);
        }
    }
}

fn standing(world: &World, from: u64) -> convergence::Standing {
    // (A learner serves no writes.)
    let members = world.counted().map(|(slot, votes)| {
        let node = world.members[slot].host.as_ref().map(|host| host.node());
        let at = node.map(|n| (n.applied(), n.raft().term().0, n.raft().leader().0));
        (world.served[slot] || !votes, at)
    });
    convergence::Standing { waited_us: world.now - from, members: members.collect() }
}
