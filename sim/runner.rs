//! Runs cases, of both tiers, in this process or in one of their own.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::case::{Case, Tier};
use crate::launch::Launcher;
use crate::panics;
use crate::recording::Recording;
use crate::report::{Exit, Stats, failed};
use crate::run::{Report, run};
use crate::tally::Tally;

/// What came of a case.
#[derive(Clone, Debug)]
pub struct Ran {
    pub exit: Exit,
    pub stats: Stats,
    pub tally: Tally,
    /// The one that was broken.
    pub promise: Option<String>,
    /// What it said.
    pub text: String,
}

/// Whoever runs cases.
#[derive(Default)]
pub struct Runner {
    own: OnceLock<Launcher>,
    /// The core tier in a build with planted bugs.
    planted: Option<Launcher>,
    cluster: Option<Launcher>,
}

impl Runner {
    /// Builds the programs that the cases need.
    ///
    /// # Errors
    /// It cannot be built, or a case makes no sense.
    pub fn new<'a>(cases: impl IntoIterator<Item = &'a Case>) -> Result<Runner, String> {
        let (mut is_needed, mut plants, mut plants_core) = (false, false, false);
        for case in cases {
            let is_cluster = case.tier == Tier::Cluster;
            is_needed |= is_cluster;
            plants |= is_cluster && case.plant.is_some();
            plants_core |= !is_cluster && case.plant.is_some();
            if is_cluster && case.bug.is_some() {
                return Err("--bug is for the core tier, --plant for both".into());
            }
        }
        let cluster = if is_needed { Some(Launcher::build(plants)?) } else { None };
        let planted = plants_core.then(Launcher::build_planted_core).transpose()?;
        Ok(Runner { own: OnceLock::new(), planted, cluster })
    }

    /// # Errors
    /// It could not be run to its end.
    pub fn run(&self, case: &Case) -> Result<Ran, String> {
        match case.tier {
            Tier::Core if case.plant.is_none() => Ok(core(case, false).0),
            Tier::Core | Tier::Cluster => self.again(case),
        }
    }

    /// The same in another process, whatever the tier.
    ///
    /// # Errors
    /// It could not be run to its end.
    pub fn again(&self, case: &Case) -> Result<Ran, String> {
        self.launcher(case)?.run(case, None)
    }

    /// Runs it and keeps everything that happened.
    ///
    /// # Errors
    /// It could not be run to its end.
    pub fn record(&self, case: &Case) -> Result<(Ran, Recording), String> {
        if case.tier == Tier::Core
            && case.plant.is_none()
            && let (ran, Some(recording)) = core(case, true)
        {
            return Ok((ran, recording));
        }
        let file = aside();
        let ran = self.launcher(case)?.run(case, Some(&file));
        let recording = Recording::read(&file);
        // (What is left behind of a failed run is nobody's to judge.)
        let _ = std::fs::remove_file(&file);
        Ok((ran?, recording?))
    }

    fn launcher(&self, case: &Case) -> Result<&Launcher, String> {
        match case.tier {
            Tier::Cluster => self.cluster.as_ref().ok_or("the cluster tier was not built".into()),
            Tier::Core if case.plant.is_some() => {
                self.planted.as_ref().ok_or("the core tier was not built with planted bugs".into())
            }
            Tier::Core => match self.own.get() {
                Some(own) => Ok(own),
                None => {
                    let own = Launcher::own()?;
                    Ok(self.own.get_or_init(|| own))
                }
            },
        }
    }
}

/// A name for a file that nobody else has.
fn aside() -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("norn-sim-{}-{number}.recording", std::process::id()))
}

/// Runs a case of the core tier here.
pub fn core(case: &Case, keeps_records: bool) -> (Ran, Option<Recording>) {
    let started = cpu_us();
    let report =
        catch_unwind(AssertUnwindSafe(|| panics::watched(|| run(case.options(), keeps_records))));
    let Ok(mut report) = report else {
        let text =
            format!("FAILED seed {}: the simulator panicked\n{}\n", case.seed, panics::take());
        let (stats, tally) = (Stats::default(), Tally::default());
        return (Ran { exit: Exit::Harness, stats, tally, promise: None, text }, None);
    };
    let mut ran = ran(&report);
    ran.stats.cpu_us = cpu_us() - started;
    let recording = report.records.take().map(|records| {
        Recording::new(&report.options, report.trace_hash, report.failure.as_ref(), records)
    });
    (ran, recording)
}

/// Of this thread.
fn cpu_us() -> u64 {
    let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    cpu.tv_sec.cast_unsigned() * 1_000_000 + cpu.tv_nsec.cast_unsigned() / 1000
}

fn ran(report: &Report) -> Ran {
    let seed = report.options.seed;
    let mut text = format!(
        "seed {seed}: trace {:016x}, {} members, {:.0} s, {} operations ({} unknown), revision {}, {} terms, {:?}, \
         {} hashes compared{}{}\n",
        report.trace_hash,
        report.options.nodes,
        report.simulated_us as f64 / 1e6,
        report.ops,
        report.unknown,
        report.revision,
        report.terms,
        report.counts,
        report.hashes_compared,
        match report.effort.given_up {
            0 => String::new(),
            n => format!(", {n} of {} keys given up", report.effort.keys),
        },
        report.lost_at.map_or(String::new(), |i| format!(", log not followed from index {i}")),
    );
    let exit = failed(seed, report.failure.as_ref(), &mut text);
    let stats = Stats {
        hash: report.trace_hash,
        simulated_us: report.simulated_us,
        ops: report.ops as u64,
        events: report.counts.events,
        unsearched: report.effort.given_up as u64,
        unfollowed: report.lost_at.is_some().into(),
        faults: report.counts.faults as u64,
        drawn: report.drawn as u64,
        cpu_us: 0,
    };
    let promise = report.failure.as_ref().map(|failure| failure.promise.to_owned());
    Ran { exit, stats, tally: report.tally.clone(), promise, text }
}
