//! The program of the cluster tier: one case, for [`crate::launch::Launcher`]. People use `norn-sim`; this is its tool.

use std::process::ExitCode;

use super::run::{Report, run};
use crate::case::Case;
use crate::command::say;
use crate::history::Outcome;
use crate::recording::Recording;
use crate::report::{Exit, Stats, failed};
use crate::runner::Ran;

pub fn main() -> ExitCode {
    match one() {
        Ok(exit) => exit.into(),
        Err(error) => {
            eprintln!("{error}");
            Exit::Harness.into()
        }
    }
}

fn one() -> Result<Exit, String> {
    let (mut case, mut file) = (Case::default(), None);
    let mut args = std::env::args().skip(1);
    while let Some(flag) = args.next() {
        let mut value = || args.next().ok_or(format!("{flag} wants a value"));
        if flag == "--recording" {
            file = Some(value()?);
        } else if !case.take(&flag, value)? {
            return Err(format!(
                "unknown flag {flag}; this is the tool of `cargo sim --tier cluster`"
            ));
        }
    }
    if case.plant.is_some() {
        if !cfg!(norn_planted) {
            return Err("built without --cfg norn_planted: there is nothing to plant".into());
        }
        norn_planted::only(case.plant);
    }
    let report = run(case.options(), file.is_some());
    let ran = ran(&report);
    let state = &report.state;
    let records = state.trace.borrow_mut().records.take();
    if let (Some(file), Some(records)) = (file, records) {
        let (failure, hash) = (state.failure.borrow(), ran.stats.hash);
        Recording::new(&state.options, hash, failure.as_ref(), records).write(file.as_ref())?;
    }
    Ok(say(&ran))
}

fn ran(report: &Report) -> Ran {
    let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let cpu_us = cpu.tv_sec.cast_unsigned() * 1_000_000 + cpu.tv_nsec.cast_unsigned() / 1000;
    let state = &report.state;
    let (seed, trace, ops) = (state.options.seed, state.trace.borrow(), state.ops.borrow());
    let unknown = ops.iter().filter(|op| matches!(op.outcome, Outcome::Unknown)).count();
    let (raft, counts) = (state.raft.borrow(), *state.counts.borrow());
    let (unsearched, unfollowed) = (report.effort.given_up, raft.lost_at.is_some());
    let mut text = format!(
        "seed {seed}: trace {:016x}, {} members, {:.1} s simulated, {} operations ({unknown} unknown), \
         {} watches, revision {}, {} terms, {counts:?}, {} hashes compared, {unsearched} keys given up, log {}\n",
        trace.hash,
        state.options.nodes,
        report.simulated_us as f64 / 1e6,
        ops.len(),
        state.spans.borrow().len(),
        raft.model.revision,
        raft.leader_count(),
        state.hashes.borrow().compared,
        if unfollowed { "lost" } else { "followed" },
    );
    let failure = state.failure.borrow();
    let exit = failed(seed, failure.as_ref(), &mut text);
    let stats = Stats {
        hash: trace.hash,
        simulated_us: report.simulated_us,
        ops: ops.len() as u64,
        events: counts.turns,
        unsearched: unsearched as u64,
        unfollowed: unfollowed.into(),
        faults: counts.faults as u64,
        drawn: counts.drawn as u64,
        cpu_us,
    };
    let promise = failure.as_ref().map(|failure| failure.promise.to_owned());
    Ran { exit, stats, tally: trace.tally.clone(), promise, text }
}
