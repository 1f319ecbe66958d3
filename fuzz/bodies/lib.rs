//! What the fuzz targets do with their bytes, without any fuzzer.
//!
//! Each body takes any bytes, and panics if a promise is broken. libFuzzer runs them from `fuzz/targets`; the tests of this
//! crate run them on stable, over the corpus and over random inputs. Structured bodies read their operations from the
//! bytes with [`choices::Choices`], so that a corpus is plain files and no input is wasted.

pub mod canary;
pub mod choices;
pub mod memory;
pub mod raft_cluster;
pub mod raft_log;
pub mod wal_frame;
pub mod wal_replay;
mod wal_twin;

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
        bug: Some(Bug::OldAppendTruncates),
        bytes_max: 1200,
        cases: 300,
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
