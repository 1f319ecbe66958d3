//! norn-diff: the same operations to a real etcd and to nornd, side by side; every answer compared, field by field.
//!
//! ```text
//! norn-diff --etcd /path/to/etcd --norn /path/to/nornd --seeds 1..20 --ops 300 --jobs 4
//! ```
//!
//! With `--all` a run goes on behind a difference as long as both servers hold the same keys, and nothing is shrunk.
//!
//! A seed is a list of operations ([`ops`]), run on two fresh servers ([`pair`]). The first difference ends the run: the list
//! is cut behind it and shrunk ([`shrink`]), and what remains is printed. With etcd on both sides there must be none.

mod members;
mod normal;
mod ops;
mod pair;
mod shrink;
mod watches;

use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use norn_tests::program::{self, Words};
use tokio::task::{JoinSet, LocalSet};

struct Options {
    etcd: PathBuf,
    norn: PathBuf,
    seeds: std::ops::Range<u64>,
    ops: usize,
    shrink_runs: usize,
    all: bool,
    /// Seeds that run beside each other: most of their time they wait.
    jobs: usize,
}

const USAGE: &str = "usage: norn-diff --etcd PATH --norn PATH [--seeds A..B] [--ops N] [--shrink RUNS] [--jobs N] [--all]";

fn main() -> ExitCode {
    let options = program::options(USAGE, read);
    let (seeds, ops) = (options.seeds.end - options.seeds.start, options.ops);
    let differing = LocalSet::new().block_on(&program::runtime(), run(options));
    println!("norn-diff: {seeds} seeds of {ops} operations, {differing} with a difference");
    program::verdict(differing == 0)
}

async fn run(options: Options) -> usize {
    let options = Arc::new(options);
    let mut seeds = options.seeds.clone();
    let mut running = JoinSet::new();
    let mut differing = 0;
    loop {
        while running.len() < options.jobs
            && let Some(seed) = seeds.next()
        {
            let options = Arc::clone(&options);
            running.spawn_local(async move { one(&options, seed).await });
        }
        let Some(report) = running.join_next().await else { return differing };
        let (text, differs) = report.expect("no run panics");
        print!("{text}");
        differing += usize::from(differs);
    }
}

/// What there is to say of a seed, and whether the two differ.
async fn one(options: &Options, seed: u64) -> (String, bool) {
    let list = ops::generate(seed, options.ops);
    let found = pair::run(&options.etcd, &options.norn, &list, options.all).await;
    let mut report = String::new();
    for one in &found {
        let _ = writeln!(report, "seed {seed}: operation {}: {}", one.at, one.text);
    }
    let Some(first) = found.into_iter().next() else {
        return (format!("seed {seed}: no difference\n"), false);
    };
    if options.all {
        return (report, true);
    }
    let mut prefix = list;
    prefix.truncate(first.at + 1);
    let (small, last) = shrink::shrink(options, prefix, first).await;
    let _ = writeln!(report, "seed {seed}: shrunk to {} operations:", small.len());
    for (i, op) in small.iter().enumerate() {
        let _ = writeln!(report, "  {i}: {op:?}");
    }
    let _ = writeln!(report, "  at {}: {}\n", last.at, last.text);
    (report, true)
}

fn read(words: &mut Words) -> Result<Options, String> {
    Ok(Options {
        etcd: words.path("--etcd")?,
        norn: words.path("--norn")?,
        seeds: words.seeds(1..11)?,
        ops: words.number("--ops", 300)?,
        shrink_runs: words.number("--shrink", 150)?,
        all: words.has("--all"),
        jobs: words.number("--jobs", 1)?,
    })
}
