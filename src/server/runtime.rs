//! What the server stands on: time, tasks, connections, the disk, signals. The rest of the crate names this module and
//! not tokio, so that the same code runs on real machines and, built with `--cfg madsim`, in the simulation.
//!
//! This is the one place where the two differ. [`real`](self) is tokio, threads and files, by other names and at no
//! cost; `simulated` is a cluster of machines in one thread, decided by a seed.

#[cfg(not(madsim))]
mod real;
#[cfg(not(madsim))]
pub use real::*;

#[cfg(madsim)]
pub mod simulated;
#[cfg(madsim)]
pub use simulated::*;

// What needs no runtime is the same in both.
pub use tokio::{io, sync};
