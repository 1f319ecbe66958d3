//! norn-diff: the same operations to a real etcd and to nornd, side by side; every answer compared, field by field.
//!
//! ```text
//! norn-diff --etcd /path/to/etcd --norn /path/to/nornd --seeds 1..20 --ops 300
//! ```
//!
//! With `--all` a run goes on behind a difference as long as both servers hold the same keys, and nothing is shrunk.
//!
//! A seed is a list of operations ([`ops`]), run on two fresh servers ([`pair`]). The first difference ends the run: the list
//! is cut behind it and shrunk ([`shrink`]), and what remains is printed. With etcd on both sides there must be none.

mod normal;
mod ops;
mod pair;
mod shrink;
mod watches;

use std::path::PathBuf;
use std::process::ExitCode;

struct Options {
    etcd: PathBuf,
    norn: PathBuf,
    seeds: std::ops::Range<u64>,
    ops: usize,
    shrink_runs: usize,
    all: bool,
}

const USAGE: &str =
    "usage: norn-diff --etcd PATH --norn PATH [--seeds A..B] [--ops N] [--shrink RUNS] [--all]";

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
    let differing = runtime.block_on(run(&options));
    let seeds = options.seeds.end - options.seeds.start;
    println!(
        "norn-diff: {seeds} seeds of {} operations, {differing} with a difference",
        options.ops
    );
    if differing == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn run(options: &Options) -> usize {
    let mut differing = 0;
    for seed in options.seeds.clone() {
        let list = ops::generate(seed, options.ops);
        let found = pair::run(&options.etcd, &options.norn, &list, options.all).await;
        for one in &found {
            println!("seed {seed}: operation {}: {}", one.at, one.text);
        }
        let Some(first) = found.into_iter().next() else {
            println!("seed {seed}: no difference");
            continue;
        };
        differing += 1;
        if options.all {
            continue;
        }
        let mut prefix = list;
        prefix.truncate(first.at + 1);
        let (small, last) = shrink::shrink(options, prefix, first).await;
        println!("seed {seed}: shrunk to {} operations:", small.len());
        for (i, op) in small.iter().enumerate() {
            println!("  {i}: {op:?}");
        }
        println!("  at {}: {}\n", last.at, last.text);
    }
    differing
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Options, String> {
    let (mut etcd, mut norn) = (None, None);
    let (mut seeds, mut ops, mut shrink_runs, mut all) = (1..11, 300, 150, false);
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
    })
}
