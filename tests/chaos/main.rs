//! norn-chaos: three real processes under load, killed, stopped and wiped, and afterwards every promise checked.
//!
//! ```text
//! norn-chaos --server /path/to/nornd --seconds 60 --seed 1 --clients 16 [--wipe]
//! ```
//!
//! What is checked ([`check`]):
//!   - every acknowledged write is in the history of every member, at its revision, with its value;
//!   - a key's last value is its last acknowledged one, or one whose call ended without an answer and that came later;
//!   - nothing is in the history that nobody wrote, and no value is there twice;
//!   - a client never sees the revision go backwards, and reads what it wrote;
//!   - the members have the same hash at the same revision.
//!
//! The faults ([`faults`]) follow from the seed, which is printed; the interleaving with the processes does not.

mod check;
mod clients;
mod faults;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use norn_tests::program::{self, Words};
use norn_tests::rng::Rng;
use norn_tests::{Cluster, Setup};

struct Options {
    server: PathBuf,
    seconds: u64,
    seed: u64,
    clients: usize,
    wipe: bool,
    /// More flags for the servers.
    flags: Vec<String>,
}

const USAGE: &str = "usage: norn-chaos [--server PATH] [--seconds N] [--seed S] [--clients N] [--wipe] [--flag --SERVER-FLAG=V]...";
const MEMBERS: usize = 3;

fn main() -> ExitCode {
    let options = program::options(USAGE, read);
    println!(
        "norn-chaos: {} with seed {}, {} s, {} clients{}",
        options.server.display(),
        options.seed,
        options.seconds,
        options.clients,
        if options.wipe { ", wiping" } else { "" }
    );
    program::end(&program::runtime().block_on(run(&options)))
}

async fn run(options: &Options) -> Vec<String> {
    let setup = Setup { flags: options.flags.clone(), ..Setup::of(&options.server) };
    let mut cluster = Cluster::start_with(MEMBERS, &setup);
    let urls = cluster.urls();
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..options.clients)
        .map(|n| tokio::spawn(clients::run(n, urls.clone(), Arc::clone(&stop))))
        .collect();

    let start = Instant::now();
    let mut faults = faults::Faults::new(Rng::new(options.seed), options.wipe);
    while start.elapsed() < Duration::from_secs(options.seconds) {
        faults.next(&mut cluster).await;
    }
    let took = start.elapsed();
    stop.store(true, Ordering::Relaxed);
    let mut logs = Vec::new();
    for client in clients {
        logs.push(client.await.expect("a client does not panic"));
    }

    let mut problems = cluster.problems();
    let mut found = check::History::default();
    if problems.is_empty() {
        (found, problems) = check::check(&cluster, &logs).await;
    }
    let count = |f: fn(&clients::Log) -> usize| logs.iter().map(f).sum::<usize>();
    let acknowledged = count(|l| l.acknowledged());
    if !problems.is_empty() {
        for server in &cluster.servers {
            let file = format!("norn-chaos-{}-{}.log", options.seed, server.setup.name);
            let path = std::env::temp_dir().join(file);
            server.save_log(&path);
            println!("the log of {} is {}", server.setup.name, path.display());
        }
    }
    println!(
        "norn-chaos: seed {}: {} acknowledged ({}/s), {} without answer, {} reads, {}, {} revisions, hash {:08x}, {} problems",
        options.seed,
        acknowledged,
        acknowledged as u64 * 1000 / took.as_millis().max(1) as u64,
        count(|l| l.unknown()),
        count(|l| l.reads),
        faults.summary(),
        found.revisions,
        found.hash,
        problems.len()
    );
    problems
}

fn read(words: &mut Words) -> Result<Options, String> {
    Ok(Options {
        flags: words.all("--flag")?,
        seconds: words.number("--seconds", 30)?,
        seed: words.number("--seed", 1)?,
        clients: words.number("--clients", 16)?,
        wipe: words.has("--wipe"),
        server: words.server()?,
    })
}
