//! Many cases on several threads, a sample of them twice, and what they came to.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use super::{commit, told};
use crate::args::{Args, Command};
use crate::case::{Case, Tier};
use crate::kept::Kept;
use crate::progress::Progress;
use crate::report::{Exit, Stats};
use crate::runner::{Ran, Runner};
use crate::tally::Tally;

/// Of the seeds, one in so many runs again in another process: the same seed must be the same run.
const TWICE_EVERY: usize = 10;
/// Of the core tier's, which are cheaper than a process.
const CORE_TWICE_EVERY: usize = 50;

/// Seeds of which every kind of fault and message should be one's own.
const MANY: usize = 100;

#[derive(Default)]
struct Sum {
    stats: Stats,
    tally: Tally,
    ran: usize,
    passed: usize,
    twice: usize,
    exit: Option<Exit>,
    error: Option<String>,
}

pub fn sweep(args: &Args) -> Result<Exit, String> {
    let runner = Runner::new(&args.cases)?;
    let (first, last) = (args.cases.first(), args.cases.last());
    let (first, last) = first.zip(last).ok_or("no seeds to run")?;
    let count = args.cases.len();
    println!(
        "commit {}, profile {:?}, {count} seeds from {} to {}",
        commit(),
        first.profile,
        first.seed,
        last.seed
    );
    if let Some(dir) = &args.keep {
        std::fs::create_dir_all(dir).map_err(|error| format!("{dir}: {error}"))?;
    }
    let (started, next, stop) = (Instant::now(), AtomicUsize::new(0), AtomicBool::new(false));
    let sum = Mutex::new(Sum::default());
    let progress = Progress::new(count);
    let is_late = || args.time.is_some_and(|time| started.elapsed() >= time);
    std::thread::scope(|scope| {
        for _ in 0..args.jobs {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) && !is_late() {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(case) = args.cases.get(at) else { break };
                    let done = one(&runner, case, at);
                    let mut sum = sum.lock().expect("no holder panics");
                    let told = done.and_then(|(ran, is_twice)| {
                        sum.twice += usize::from(is_twice);
                        sum.add(&ran);
                        progress.clear();
                        show(args, case, &ran)?;
                        Ok(ran.exit == Exit::Pass || args.keeps_going)
                    });
                    match told {
                        Ok(goes_on) => stop.fetch_or(!goes_on, Ordering::Relaxed),
                        Err(error) => {
                            sum.error.get_or_insert(error);
                            stop.swap(true, Ordering::Relaxed)
                        }
                    };
                    progress.tell(sum.ran, sum.ran - sum.passed);
                }
            });
        }
    });
    progress.clear();
    let sum = sum.into_inner().expect("no holder panics");
    if let Some(error) = sum.error {
        return Err(error);
    }
    sum.show(args, started.elapsed().as_secs_f64());
    if sum.ran < count {
        println!("{} of {count} seeds were not begun", count - sum.ran);
    }
    println!("passed {} of {}", sum.passed, sum.ran);
    // A time that was over before anything ran has shown nothing.
    Ok(sum.exit.unwrap_or(if sum.ran > 0 { Exit::Pass } else { Exit::Harness }))
}

/// Also whether it ran twice.
fn one(runner: &Runner, case: &Case, at: usize) -> Result<(Ran, bool), String> {
    let mut ran = runner.run(case)?;
    let every = if case.tier == Tier::Core { CORE_TWICE_EVERY } else { TWICE_EVERY };
    let is_twice = at.is_multiple_of(every);
    if is_twice {
        let again = runner.again(case)?;
        if again.stats.hash != ran.stats.hash || again.promise != ran.promise {
            ran.exit = Exit::Difference;
            ran.text += &format!(
                "FAILED seed {}: The same seed is the same run.\ntrace {:016x}, then, in another process, {:016x}\n",
                case.seed, ran.stats.hash, again.stats.hash
            );
        }
    }
    Ok((ran, is_twice))
}

fn show(args: &Args, case: &Case, ran: &Ran) -> Result<(), String> {
    let has_failed = ran.exit != Exit::Pass;
    if !args.is_quiet || has_failed {
        print!("{}", told(case, ran));
    }
    if args.command == Command::Bugs && has_failed {
        println!("(seed {} of the {} tier had failed before)", case.seed, case.tier.name());
    }
    if let (Some(dir), true) = (&args.keep, has_failed) {
        let file = Path::new(dir).join(format!("{}.case", case.name()));
        Kept::new(case, ran, &commit()).write(&file)?;
        println!("kept: {}", file.display());
    }
    Ok(())
}

impl Sum {
    fn add(&mut self, ran: &Ran) {
        self.stats.add(&ran.stats);
        self.tally.add(&ran.tally);
        self.ran += 1;
        match ran.exit {
            Exit::Pass => self.passed += 1,
            exit => self.exit = self.exit.max(Some(exit)),
        }
    }

    fn show(&self, args: &Args, seconds: f64) {
        let stats = &self.stats;
        let cpu = (stats.cpu_us as f64 / 1e6).max(1e-6);
        println!(
            "{:.0} s simulated, {} events, {} operations in {seconds:.1} s ({:.1} seeds/s); given up: {} keys, {} logs",
            stats.simulated_us as f64 / 1e6,
            stats.events,
            stats.ops,
            self.ran as f64 / seconds,
            stats.unsearched,
            stats.unfollowed,
        );
        println!(
            "per second of CPU: {:.0} s simulated, {:.0} operations",
            stats.simulated_us as f64 / 1e6 / cpu,
            stats.ops as f64 / cpu
        );
        println!("run twice, in two processes, with the same trace: {}", self.twice);
        let is_cluster = args.cases.iter().any(|case| case.tier == Tier::Cluster);
        print!("{}", self.tally.show(is_cluster));
        let missing = self.tally.missing(is_cluster);
        // (Few seeds show little.)
        if !missing.is_empty() && self.ran >= MANY {
            println!("never seen: {}", missing.join(", "));
        }
    }
}
