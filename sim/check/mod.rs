//! Oracles, one file per promise.

pub mod bounds;
pub mod convergence;
pub mod disks;
pub mod durability;
pub mod hash;
pub mod lease;
pub mod linearizable;
pub mod raft;
pub mod revision;
pub mod stories;
pub mod told;
pub mod watch;
