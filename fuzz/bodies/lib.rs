//! What the fuzz targets do with their bytes, without any fuzzer.
//!
//! Each body takes any bytes, and panics if a promise is broken. libFuzzer runs them from `fuzz/targets`; the tests of this
//! crate run them on stable, over the corpus and over random inputs. Structured bodies read their operations from the
//! bytes with [`choices::Choices`], so that a corpus is plain files and no input is wasted.

pub mod bbolt;
pub mod canary;
pub mod choices;
pub mod config;
mod database;
pub mod flags;
pub mod gateway_json;
pub mod grpc_convert;
pub mod memory;
pub mod mvcc_ops;
pub mod node_ops;
pub mod peer_stream;
pub mod raft_cluster;
pub mod raft_log;
pub mod revision_log;
pub mod snapshot_file;
mod support;
pub mod wal_frame;
pub mod wal_replay;
mod wal_twin;
#[path = "../../src/node/tests/it/world.rs"]
#[allow(dead_code, unreachable_pub)]
mod world;

use norn_planted::Bug;

/// A body, and what examines it.
pub struct Target {
    pub name: &'static str,
    pub body: fn(&[u8]),
    /// The mistake it must find from nothing; the canary needs none.
    pub bug: Option<Bug>,
    /// Random inputs of the stable test are up to this long.
    pub bytes_max: usize,
    /// So many of them: about a second's worth.
    pub cases: u32,
}

/// Every target, the canary first.
pub const TARGETS: &[Target] = &[
    Target { name: "canary", body: canary::body, bug: None, bytes_max: 8, cases: 0 },
    Target {
        name: "wal_frame",
        body: wal_frame::body,
        bug: Some(Bug::WalChecksumUnread),
        bytes_max: 400,
        cases: 2000,
    },
    Target {
        name: "wal_replay",
        body: wal_replay::body,
        bug: Some(Bug::WalTailUnrepaired),
        bytes_max: 600,
        cases: 1000,
    },
    Target {
        name: "raft_log",
        body: raft_log::body,
        bug: Some(Bug::LogStableWithoutTerm),
        bytes_max: 600,
        cases: 2000,
    },
    Target {
        name: "raft_cluster",
        body: raft_cluster::body,
        bug: Some(Bug::VoteTwice),
        bytes_max: 1200,
        cases: 300,
    },
    Target {
        name: "revision_log",
        body: revision_log::body,
        bug: Some(Bug::RevlogChainUnread),
        bytes_max: 700,
        cases: 500,
    },
    Target {
        name: "bbolt",
        body: bbolt::body,
        bug: Some(Bug::BoltElementUnchecked),
        bytes_max: 500,
        cases: 500,
    },
    Target {
        name: "snapshot_file",
        body: snapshot_file::body,
        bug: Some(Bug::SnapChecksumUnread),
        bytes_max: 300,
        cases: 2000,
    },
    Target {
        name: "mvcc_ops",
        body: mvcc_ops::body,
        bug: Some(Bug::TombstoneDropped),
        bytes_max: 400,
        cases: 300,
    },
    Target {
        name: "node_ops",
        body: node_ops::body,
        bug: Some(Bug::ProposalNeverExpires),
        bytes_max: 300,
        cases: 30,
    },
    Target {
        name: "peer_stream",
        body: peer_stream::body,
        bug: Some(Bug::AppendPositionKept),
        bytes_max: 300,
        cases: 2000,
    },
    Target {
        name: "grpc_convert",
        body: grpc_convert::body,
        bug: Some(Bug::RequestLengthBelieved),
        bytes_max: 200,
        cases: 100,
    },
    Target {
        name: "flags",
        body: flags::body,
        bug: Some(Bug::DurationWithoutUnit),
        bytes_max: 80,
        cases: 2000,
    },
    Target {
        name: "gateway_json",
        body: gateway_json::body,
        bug: Some(Bug::JsonEscapeUnread),
        bytes_max: 120,
        cases: 2000,
    },
    Target {
        name: "config",
        body: config::body,
        bug: Some(Bug::FileDurationInMillis),
        bytes_max: 120,
        cases: 1000,
    },
];

/// Called by each fuzz target once: turns on the planted bug that `NORN_PLANTED` names, in a build that has them. With
/// `NORN_FUZZ_LIST` it prints which target is examined with which bug instead, and ends the process.
///
/// # Panics
/// If there is no such bug, or the build has none.
pub fn init() {
    if std::env::var_os("NORN_FUZZ_LIST").is_some() {
        for target in TARGETS {
            let Some(bug) = target.bug else { continue };
            println!("{} {}", target.name, bug.name());
        }
        std::process::exit(0);
    }
    let Ok(name) = std::env::var("NORN_PLANTED") else { return };
    let bug = Bug::ALL.iter().copied().find(|bug| bug.name() == name);
    norn_planted::only(Some(bug.unwrap_or_else(|| panic!("no planted bug is called {name}"))));
}
