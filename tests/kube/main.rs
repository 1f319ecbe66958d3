//! norn-kube: what kube-apiserver does to its store, on three nodes of which one is killed, and what it relies on.
//!
//! ```text
//! norn-kube --server /path/to/nornd --seconds 300 --seed 1
//! ```
//!
//! Several apiservers, each with a cache of every resource ([`cacher`]): a list (streamed or in pages), a watch from there with the previous values, and
//! progress asked for while a reader waits. Each writes in the three shapes of transaction that there are ([`writer`]); one
//! compacts every 20 seconds. What is checked:
//!   - every cache hears of every write of its resource once, in order, with what was there before; nothing else comes;
//!   - a list at a revision is what a cache had at that revision, streamed or in pages;
//!   - a watch breaks with a status, never with wrong events, and goes on where it broke;
//!   - while nothing is broken, a reader is told within 50 ms (99 of 100) that its cache is new enough.

mod cacher;
mod compactor;
mod endpoints;
mod truth;
mod writer;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use norn_tests::program::{self, Words};
use norn_tests::rng::Rng;
use norn_tests::{Cluster, Setup};

use endpoints::Shared;
use truth::Truth;

struct Options {
    server: PathBuf,
    seconds: u64,
    seed: u64,
    apiservers: usize,
    /// Milliseconds between two writes of a writer.
    pace: u64,
}

const USAGE: &str =
    "usage: norn-kube [--server PATH] [--seconds N] [--seed S] [--apiservers N] [--pace MS]";
const MEMBERS: usize = 3;
pub const RESOURCES: [&str; 3] = ["leases", "pods", "events"];
/// How long a killed member stays away.
const AWAY: Duration = Duration::from_secs(5);
/// After a fault, before latency counts again.
const RECOVERY: Duration = Duration::from_secs(10);
/// The 99th percentile of what a reader may wait for.
const PROGRESS_LIMIT: Duration = Duration::from_millis(50);

fn main() -> ExitCode {
    let options = program::options(USAGE, read);
    program::end(&program::runtime().block_on(run(&options)))
}

async fn run(options: &Options) -> Vec<String> {
    let mut cluster = Cluster::start_with(MEMBERS, &Setup::of(&options.server));
    let shared = Arc::new(Shared::new(cluster.urls()));
    let mut cachers = Vec::new();
    let mut writers = Vec::new();
    for apiserver in 0..options.apiservers {
        for resource in RESOURCES {
            let shared = Arc::clone(&shared);
            cachers.push(tokio::spawn(cacher::run(apiserver, resource, shared)));
        }
        for (n, resource) in RESOURCES.into_iter().enumerate() {
            let pace = Duration::from_millis(options.pace);
            let seed = options.seed + (apiserver * RESOURCES.len() + n) as u64;
            let shared = Arc::clone(&shared);
            writers.push(tokio::spawn(writer::run(apiserver, resource, seed, pace, shared)));
        }
    }
    let compactor = tokio::spawn(compactor::run(Arc::clone(&shared)));

    let start = Instant::now();
    let whole = Duration::from_secs(options.seconds);
    let mut rng = Rng::new(options.seed);
    // Two quiet thirds, with a kill at the end of each.
    for third in 1..=2 {
        tokio::time::sleep_until((start + whole * third / 3).into()).await;
        let victim = match third {
            1 => rng.below(MEMBERS as u64) as usize,
            _ => cluster.leader().await,
        };
        kill(&mut cluster, victim, &shared).await;
    }
    tokio::time::sleep_until((start + whole).into()).await;

    shared.stop_writing.store(true, Ordering::Relaxed);
    let mut truth = Truth::default();
    for writer in writers {
        truth.take(writer.await.expect("a writer does not panic"));
    }
    let compactions = compactor.await.expect("the compactor does not panic");
    shared.finish(cluster.servers[0].client()).await;
    let mut logs = Vec::new();
    for cacher in cachers {
        logs.push(cacher.await.expect("a cacher does not panic"));
    }

    let mut problems = cluster.problems();
    truth.check(&logs, &mut problems);
    let mut waits: Vec<Duration> = logs.iter().flat_map(|log| log.waits.clone()).collect();
    waits.sort();
    let at = |percent: usize| waits.get(waits.len() * percent / 100).copied().unwrap_or_default();
    let p99 = at(99);
    if waits.len() < 100 {
        problems.push(format!("only {} readers waited", waits.len()));
    } else if p99 > PROGRESS_LIMIT {
        problems.push(format!("progress: 99 of 100 within {p99:?}, not {PROGRESS_LIMIT:?}"));
    }
    let sum = |f: fn(&cacher::Log) -> usize| logs.iter().map(f).sum::<usize>();
    println!(
        "norn-kube: seed {}, {} s: {} writes, {} without answer, {} events in {} caches, {} breaks, {} lists compared, \
         {compactions} compactions, {} waits for progress: p50 {:?}, p99 {p99:?}, longest {:?}, {} problems",
        options.seed,
        options.seconds,
        truth.written(),
        truth.unknown,
        sum(|log| log.events.len()),
        logs.len(),
        sum(|log| log.breaks),
        sum(|log| log.compared),
        waits.len(),
        at(50),
        waits.last().copied().unwrap_or_default(),
        problems.len(),
    );
    problems
}

async fn kill(cluster: &mut Cluster, victim: usize, shared: &Shared) {
    println!("  kill {}", cluster.servers[victim].setup.name);
    shared.faults.fetch_add(1, Ordering::SeqCst);
    cluster.servers[victim].kill();
    tokio::time::sleep(AWAY).await;
    let server = &mut cluster.servers[victim];
    server.launch();
    tokio::task::block_in_place(|| server.wait_ready());
    cluster.leader().await;
    tokio::time::sleep(RECOVERY).await;
    shared.faults.fetch_add(1, Ordering::SeqCst);
}

fn read(words: &mut Words) -> Result<Options, String> {
    Ok(Options {
        seconds: words.number("--seconds", 60)?,
        seed: words.number("--seed", 1)?,
        apiservers: words.number("--apiservers", 2)?,
        pace: words.number("--pace", 20)?,
        server: words.server()?,
    })
}
