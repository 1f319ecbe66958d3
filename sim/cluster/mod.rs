//! The cluster tier: whole members, from command line to disk, on simulated machines under madsim.
//!
//! ```text
//!   seed ──> options ──> faults, clients, watchers ──> machines ──> history, log, hashes ──> checks
//!                                                        │
//!            members: nornd's own assembly (norn-server) ┴─ clients: gRPC over HTTP/2
//!                       └ runtime::simulated: clocks, connections, MemDisk
//! ```
//!
//! Options, faults, workload, oracles and trace are those of the core tier. One seed, one process.

mod clients;
mod command_line;
mod fate;
mod fault;
mod grpc;
mod members;
mod operator;
mod prober;
mod program;
mod rot;
mod run;
mod state;
mod watchers;

pub use program::main;
