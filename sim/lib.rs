//! Whole clusters of `norn-node` in one thread, under one queue of events: a 64-bit seed decides everything.
//!
//! ```text
//!   seed ──> options ──> faults, clients, watchers ──> world ──> history, log, hashes ──> checks
//!                                                        │
//!              members: Host<Node, SimDisk>, own clocks ─┴─ network: delay, loss, cuts
//! ```
//!
//! No fault goes beyond what a cluster must survive: a crash keeps what was synced, disks do not rot, links heal.
//! Then whatever a check says is a bug, in the node or here.

pub mod args;
pub mod case;
pub mod check;
#[cfg(madsim)]
pub mod cluster;
pub mod command;
mod disk;
pub mod fault;
mod hardships;
pub mod history;
pub mod kept;
pub mod launch;
pub mod less;
mod member;
pub mod model;
pub mod mutants;
mod network;
pub mod options;
pub mod page;
mod panics;
mod progress;
pub mod record;
pub mod recording;
pub mod report;
mod rng;
mod run;
pub mod runner;
pub mod shrink;
pub mod tally;
mod trace;
mod verdict;
mod workload;
mod world;

pub use options::{BUGS, Bug, Options, Profile};
pub use run::{Report, run};
