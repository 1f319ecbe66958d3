//! Whole nodes on simulated disks, without a runtime: one process, one thread, time as a number.

mod cluster;
mod limits;
mod single;
mod world;
