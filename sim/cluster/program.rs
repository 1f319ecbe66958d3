//! The command line of the cluster tier's program, and what it says. People use `norn-sim`; this is its tool.

use std::process::ExitCode;
use std::time::Instant;

use super::run::{Report, run};
use crate::history::Outcome;
use crate::options::Options;
use crate::report::{self, Exit};

pub fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let value = |name: &str| {
        let at = args.iter().position(|arg| arg == name)?;
        args.get(at + 1).cloned()
    };
    let seed = value("--seed").and_then(|text| text.parse().ok());
    let profile = report::profile(value("--profile").as_deref().unwrap_or("swarm"));
    let (Some(seed), Some(profile)) = (seed, profile) else {
        eprintln!(
            "usage: norn-sim-cluster --seed N [--profile swarm|calm|storm] [--trace FILE] [--plant BUG]"
        );
        return Exit::Harness.into();
    };
    if let Some(name) = value("--plant") {
        let found = norn_planted::Bug::ALL.iter().find(|bug| bug.name() == name);
        let Some(bug) = found else {
            eprintln!("no planted bug {name}");
            return Exit::Harness.into();
        };
        norn_planted::only(Some(*bug));
    }
    let options = Options::draw(seed, profile, None);
    if args.iter().any(|arg| arg == "--options") {
        println!("{options:#?}");
    }
    let trace = value("--trace");
    let started = Instant::now();
    let report = run(options, trace.is_some());
    let wall = started.elapsed();
    if let (Some(file), Some(lines)) = (trace, &report.state.trace.borrow().lines)
        && let Err(error) = std::fs::write(&file, lines.join("\n") + "\n")
    {
        eprintln!("{file}: {error}");
    }
    show(&report, wall.as_secs_f64())
}

fn show(report: &Report, wall: f64) -> ExitCode {
    let state = &report.state;
    let ops = state.ops.borrow();
    let unknown = ops.iter().filter(|op| matches!(op.outcome, Outcome::Unknown)).count();
    let raft = state.raft.borrow();
    println!(
        "seed {}: trace {:016x}, {} members, {:.1} s simulated in {wall:.2} s, {} operations ({unknown} unknown), \
         {} watches, revision {}, {} terms, {:?}, {} hashes compared, given up {}",
        state.options.seed,
        state.trace.borrow().hash,
        state.options.nodes,
        report.simulated_us as f64 / 1e6,
        ops.len(),
        state.spans.borrow().len(),
        raft.model.revision,
        raft.leader_count(),
        state.counts.borrow(),
        state.hashes.borrow().compared,
        report.effort.given_up + usize::from(raft.lost_at.is_some()),
    );
    match &*state.failure.borrow() {
        None => Exit::Pass.into(),
        Some(failure) => {
            println!("FAILED seed {}: {}", state.options.seed, failure.promise);
            println!("{}", report::shorten(&failure.detail));
            report::exit_of(failure).into()
        }
    }
}
