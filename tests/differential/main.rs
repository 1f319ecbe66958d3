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
    let options = match parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(problem) => {
            eprintln!("{problem}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let (seeds, ops) = (options.seeds.end - options.seeds.start, options.ops);
    let differing = LocalSet::new().block_on(&runtime, run(options));
    println!("norn-diff: {seeds} seeds of {ops} operations, {differing} with a difference");
    if differing == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
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

fn parse(mut words: impl Iterator<Item = String>) -> Result<Options, String> {
    let (mut etcd, mut norn) = (None, None);
    let (mut seeds, mut ops, mut shrink_runs, mut jobs, mut all) = (1..11, 300, 150, 1, false);
    while let Some(word) = words.next() {
        if word == "--all" {
            all = true;
            continue;
        }
        let value = words.next().ok_or_else(|| format!("{word} needs a value"))?;
        let bad = || format!("{word}: cannot read {value:?}");
        match word.as_str() {
            "--etcd" => etcd = Some(PathBuf::from(value)),
            "--norn" => norn = Some(PathBuf::from(value)),
            "--ops" => ops = value.parse().map_err(|_| bad())?,
            "--jobs" => jobs = value.parse().map_err(|_| bad())?,
            "--shrink" => shrink_runs = value.parse().map_err(|_| bad())?,
            "--seeds" => {
                let (a, b) = value.split_once("..").ok_or_else(bad)?;
                seeds = a.parse().map_err(|_| bad())?..b.parse().map_err(|_| bad())?;
            }
            _ => return Err(format!("unknown option {word}")),
        }
    }
    Ok(Options {
        etcd: etcd.ok_or("--etcd is missing")?,
        norn: norn.ok_or("--norn is missing")?,
        seeds,
        ops,
        shrink_runs,
        all,
        jobs,
    })
}
