//! Tokio, threads and files.

use std::future::Future;
use std::time::{SystemTime, UNIX_EPOCH};

use norn_node::{Config, Input, Node};
use norn_raft::Message;
use rustix::process::setpriority_process;
use rustix::thread::gettid;
pub use tokio::select;

use crate::rest;

pub mod net;
pub mod profile;

pub mod time {
    use std::time::{Duration, SystemTime, UNIX_EPOCH};

    pub use hyper_util::rt::TokioTimer as HyperTimer;
    pub use tokio::time::{Instant, Sleep, sleep, timeout};

    /// The wall clock.
    pub fn unix() -> Duration {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
    }
}

pub mod task {
    pub use tokio::task::{JoinHandle, spawn_local, yield_now};
}

pub mod disk {
    pub use crate::file_disk::{FileDisk as Disk, FileReader as Reader};
    pub use crate::received::Received;
}

pub mod signal {
    use tokio::signal::unix::{Signal, SignalKind, signal};

    /// The two signals that end the process in order.
    pub struct Ends {
        terminate: Signal,
        interrupt: Signal,
    }

    impl Ends {
        /// From here on they do not end it at once any more.
        pub fn catch() -> std::io::Result<Ends> {
            let terminate = signal(SignalKind::terminate())?;
            Ok(Ends { terminate, interrupt: signal(SignalKind::interrupt())? })
        }

        /// Number and name of the next one.
        pub async fn next(&mut self) -> (i32, &'static str) {
            tokio::select! {
                _ = self.terminate.recv() => (SignalKind::terminate().as_raw_value(), "terminated"),
                _ = self.interrupt.recv() => (SignalKind::interrupt().as_raw_value(), "interrupt"),
            }
        }
    }
}

/// Runs a program on this thread to its end.
///
/// # Errors
/// The system gives no event queue.
pub fn block_on<F: Future>(program: F) -> std::io::Result<F::Output> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(tokio::task::LocalSet::new().block_on(&runtime, program))
}

/// How much of a core a received snapshot may have where others want it as well: a tenth of what they have. (It gives way to other
/// members on the machine, not to anything on this one: whoever needs it waits for it.)
const INSTALL_NICE: i32 = 10;

/// Lets a node take in a snapshot, on a thread that gives way to others, and rests. This one waits for it.
pub fn install(node: &mut Node<disk::Reader>, disk: &mut disk::Disk) {
    let mut is_done = false;
    std::thread::scope(|scope| {
        let gentle = std::thread::Builder::new().name("norn-install".into());
        let _ = gentle.spawn_scoped(scope, || {
            // (Where that is not allowed, it is as fast as the others.)
            let _ = setpriority_process(Some(gettid()), INSTALL_NICE);
            rest::begin();
            node.install(disk);
            is_done = true;
        });
    });
    // (Where no thread could be had.)
    if !is_done {
        node.install(disk);
    }
}

/// Another one for every process and start.
pub fn seed() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let nanos = u64::try_from(since.as_nanos() & u128::from(u64::MAX)).unwrap_or(1);
    nanos ^ u64::from(std::process::id())
}

/// Where the log goes by default.
pub fn stderr() -> std::io::Stderr {
    std::io::stderr()
}

/// Sizes that the simulation makes small; here they stay what they are.
pub fn shape(config: Config) -> Config {
    config
}

/// The simulation looks at what goes in and out, and at the node after every turn.
#[inline(always)]
pub fn takes(_: &[Input]) {}

#[inline(always)]
pub fn sends(_: &[Message]) {}

#[inline(always)]
pub fn turned<R: norn_node::Reader>(_: &Node<R>) {}
