//! The command line of the cluster tier's program, and what it says. People use `norn-sim`; this is its tool.

use std::process::ExitCode;

use super::run::{Report, run};
use crate::args;
use crate::history::Outcome;
use crate::options::Options;
use crate::report::{self, Exit, Stats};

pub fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let value = |name: &str| {
        let at = args.iter().position(|arg| arg == name)?;
        args.get(at + 1).cloned()
    };
    let seed = value("--seed").and_then(|text| text.parse().ok());
    let profile = args::profile(value("--profile").as_deref().unwrap_or("swarm"));
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
    let report = run(options, trace.is_some());
    if let (Some(file), Some(lines)) = (trace, &report.state.trace.borrow().lines)
        && let Err(error) = std::fs::write(&file, lines.join("\n") + "\n")
    {
        eprintln!("{file}: {error}");
    }
    show(&report)
}

fn show(report: &Report) -> ExitCode {
    let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let cpu_us = cpu.tv_sec.cast_unsigned() * 1_000_000 + cpu.tv_nsec.cast_unsigned() / 1000;
    let state = &report.state;
    let ops = state.ops.borrow();
    let unknown = ops.iter().filter(|op| matches!(op.outcome, Outcome::Unknown)).count();
    let raft = state.raft.borrow();
    println!(
        "seed {}: trace {:016x}, {} members, {:.1} s simulated, {} operations ({unknown} unknown), \
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
    let stats = Stats {
        hash: state.trace.borrow().hash,
        simulated_us: report.simulated_us,
        ops: ops.len() as u64,
        events: state.counts.borrow().turns,
        gaps: (report.effort.given_up + usize::from(raft.lost_at.is_some())) as u64,
        cpu_us,
    };
    println!("{}", stats.line());
    match &*state.failure.borrow() {
        None => Exit::Pass.into(),
        Some(failure) => {
            println!("FAILED seed {}: {}", state.options.seed, failure.promise);
            println!("{}", report::shorten(&failure.detail));
            report::exit_of(failure).into()
        }
    }
}
