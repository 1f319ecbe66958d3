//! The exam of the simulator: one planted bug after the other, and how long it looks until a check fails.
//!
//! Every bug of the catalogue (`norn-planted`) is hunted from several starts, far from each other, in the tier and with the
//! profile that the catalogue names. A start takes one seed after the other until a promise is broken or its CPU time is
//! spent. In the core tier that is one process, of a build with the switch; in the cluster tier one per seed.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use norn_planted::{Bug, Hunt};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::args::Args;
use crate::case::{self, Case, Tier};
use crate::launch::Launcher;
use crate::report::{self, Exit};
use crate::run;

/// Seeds between two starts: more than any of them takes.
const STRIDE: u64 = 1_000_000;
/// Address space of this process and of each that hunts: a mistake may ask for memory without end, and then that process is to fail, not
/// the machine. (What a seed needs is a hundredth; memory allocators reserve more than they use.)
const ADDRESSES_MAX: u64 = 12 << 30;
/// What a hunting process says before its result.
const FOUND: &str = "found";

/// How one start ended.
#[derive(Clone, Debug, Default)]
struct Find {
    /// The promise that was broken; none: nothing was found.
    promise: Option<String>,
    seeds: u64,
    cpu_us: u64,
}

/// What bugs are hunted with.
struct Tools {
    core: Option<Launcher>,
    cluster: Option<Launcher>,
    budget_us: u64,
}

/// `norn-sim mutants`.
///
/// # Errors
/// Something could not be built or run.
pub fn exam(args: &Args) -> Result<Exit, String> {
    let only = args.cases.first().and_then(|case| case.plant);
    let wanted = |bug: &&Bug| only.is_none_or(|only| **bug == only);
    let bugs: Vec<Bug> =
        Bug::ALL.iter().filter(wanted).filter(|bug| bug.hunt() != Hunt::Fuzz).copied().collect();
    if bugs.is_empty() {
        return Err("that one is for the fuzz targets: see fuzz/exam".to_owned());
    }
    let is_core = |bug: &Bug| matches!(bug.hunt(), Hunt::Core(_));
    let core = bugs.iter().any(is_core).then(Launcher::build_planted_core).transpose()?;
    let cluster = (!bugs.iter().all(is_core)).then(|| Launcher::build(true)).transpose()?;
    let had = getrlimit(Resource::As);
    let least = |limit: Option<u64>| limit.map_or(ADDRESSES_MAX, |limit| limit.min(ADDRESSES_MAX));
    setrlimit(Resource::As, Rlimit { current: Some(least(had.current)), ..had })
        .map_err(|error| format!("a limit of memory: {error}"))?;
    let tools = Tools { core, cluster, budget_us: args.budget_s * 1_000_000 };
    println!("{} starts each, at most {} CPU seconds per start", args.starts, args.budget_s);
    println!("| bug | mimics | looked for in | broken promise | seeds | CPU s | median |");
    println!("|---|---|---|---|---|---|---|");

    let finds: Vec<Mutex<Vec<Find>>> = bugs.iter().map(|_| Mutex::default()).collect();
    let (next, error) = (AtomicUsize::new(0), Mutex::new(None));
    std::thread::scope(|scope| {
        for _ in 0..args.jobs {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let (bug, start) = (at / args.starts, at % args.starts);
                    if bug >= bugs.len() || error.lock().expect("no holder panics").is_some() {
                        return;
                    }
                    match tools.hunt(bugs[bug], start as u64) {
                        Ok(find) => {
                            let mut finds = finds[bug].lock().expect("no holder panics");
                            finds.push(find);
                            if finds.len() == args.starts {
                                println!("{}", row(bugs[bug], &mut finds));
                            }
                        }
                        Err(failed) => {
                            error.lock().expect("no holder panics").get_or_insert(failed);
                        }
                    }
                }
            });
        }
    });
    if let Some(error) = error.into_inner().expect("no holder panics") {
        return Err(error);
    }
    let all: Vec<Vec<Find>> =
        finds.into_iter().map(|finds| finds.into_inner().expect("no holder panics")).collect();
    Ok(summary(&all))
}

/// `norn-sim hunt`: one start, in a process of the build with the switch. Says what came of it in its last line.
///
/// # Errors
/// This build has no switch.
pub fn hunt(args: &Args) -> Result<Exit, String> {
    let case = args.cases.first().filter(|case| case.plant.is_some());
    let case = case.ok_or("hunt wants --plant NAME")?;
    if !norn_planted::is_switchable() {
        return Err("hunt is for the build that has planted bugs".to_owned());
    }
    norn_planted::only(case.plant);
    let mut find = Find::default();
    let first = case.seed;
    while find.promise.is_none() && find.cpu_us < args.budget_s * 1_000_000 {
        let seed = first + find.seeds;
        let report = run(Case { seed, ..case.clone() }.options(), false);
        find.seeds += 1;
        find.cpu_us = cpu_us();
        if let Some(failure) = report.failure {
            if !args.is_quiet {
                println!("{}", report::shorten(&failure.detail));
            }
            println!("seed {seed}");
            find.promise = Some(failure.promise.to_owned());
        }
    }
    let promise = find.promise.unwrap_or_default();
    println!("{FOUND} {} {} {promise}", find.seeds, find.cpu_us);
    Ok(Exit::Pass)
}

impl Tools {
    fn hunt(&self, bug: Bug, start: u64) -> Result<Find, String> {
        let from = start * STRIDE;
        match bug.hunt() {
            Hunt::Core(profile) => {
                let launcher = self.core.as_ref().expect("built for it");
                core(launcher.program(), bug, profile, from, self.budget_us)
            }
            Hunt::Cluster(profile) => self.cluster(bug, profile, from),
            Hunt::Fuzz => unreachable!("not hunted here"),
        }
    }

    fn cluster(&self, bug: Bug, profile: &str, from: u64) -> Result<Find, String> {
        let launcher = self.cluster.as_ref().expect("built for it");
        let profile = case::profile(profile).ok_or(format!("no profile {profile}"))?;
        let mut find = Find::default();
        while find.promise.is_none() && find.cpu_us < self.budget_us {
            let (tier, seed, plant) = (Tier::Cluster, from + find.seeds, Some(bug));
            let ran =
                launcher.run(&Case { tier, profile, seed, plant, ..Case::default() }, None)?;
            find.seeds += 1;
            find.cpu_us += ran.stats.cpu_us;
            if ran.exit != Exit::Pass {
                find.promise = Some(ran.promise.unwrap_or_default());
            }
        }
        Ok(find)
    }
}

fn core(
    program: &Path,
    bug: Bug,
    profile: &str,
    from: u64,
    budget_us: u64,
) -> Result<Find, String> {
    let budget_s = budget_us / 1_000_000;
    let output = Command::new(program)
        .args(["hunt", "--quiet", "--plant", bug.name(), "--profile", profile])
        .args(["--seed", &from.to_string(), "--budget-s", &budget_s.to_string()])
        .stderr(Stdio::piped())
        .output()
        .map_err(|error| format!("{}: {error}", program.display()))?;
    let said = String::from_utf8_lossy(&output.stdout);
    let last = said.lines().last().and_then(|line| line.strip_prefix(FOUND));
    let Some(mut words) = last.map(|line| line.trim_start().splitn(3, ' ')) else {
        let errors = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{} from seed {from}: {}\n{errors}", bug.name(), output.status));
    };
    let mut number = || words.next().and_then(|word| word.parse().ok()).unwrap_or(0);
    let (seeds, cpu_us) = (number(), number());
    let promise = words.next().filter(|text| !text.is_empty()).map(str::to_owned);
    Ok(Find { promise, seeds, cpu_us })
}

fn is_caught(finds: &[Find]) -> bool {
    finds.iter().all(|find| find.promise.is_some())
}

fn median_s(finds: &[Find]) -> f64 {
    let mut all: Vec<u64> = finds.iter().map(|find| find.cpu_us).collect();
    all.sort_unstable();
    all.get(all.len() / 2).map_or(0.0, |us| *us as f64 / 1e6)
}

/// A line of the table.
fn row(bug: Bug, finds: &mut [Find]) -> String {
    finds.sort_by_key(|find| find.cpu_us);
    let mut promises: BTreeMap<&str, usize> = BTreeMap::new();
    for promise in finds.iter().filter_map(|find| find.promise.as_deref()) {
        *promises.entry(promise).or_default() += 1;
    }
    let often = promises.iter().max_by_key(|(_, times)| **times).map(|(promise, _)| *promise);
    let more = promises.len().saturating_sub(1);
    let promise = match (often, more) {
        _ if !is_caught(finds) => "**NOT FOUND**".to_owned(),
        (None, _) => String::new(),
        (Some(promise), 0) => promise.to_owned(),
        (Some(promise), more) => format!("{promise} (and {more} more)"),
    };
    let list = |of: &dyn Fn(&Find) -> String| finds.iter().map(of).collect::<Vec<_>>().join(" ");
    let tier = match bug.hunt() {
        Hunt::Core(profile) => format!("core, {profile}"),
        Hunt::Cluster(profile) => format!("cluster, {profile}"),
        Hunt::Fuzz => String::new(),
    };
    format!(
        "| `{}`: {} | {} | {tier} | {promise} | {} | {} | {:.1} |",
        bug.name(),
        bug.cause(),
        bug.origin(),
        list(&|find| find.seeds.to_string()),
        list(&|find| format!("{:.1}", find.cpu_us as f64 / 1e6)),
        median_s(finds),
    )
}

fn summary(all: &[Vec<Find>]) -> Exit {
    let caught: Vec<&Vec<Find>> = all.iter().filter(|finds| is_caught(finds)).collect();
    let mut medians: Vec<f64> = caught.iter().map(|finds| median_s(finds)).collect();
    medians.sort_by(f64::total_cmp);
    let soon = medians.iter().filter(|seconds| **seconds <= 30.0).count();
    let median = medians.get(medians.len() / 2).copied().unwrap_or(0.0);
    println!("within 30 CPU seconds: {soon}; median of all: {median:.1} CPU seconds");
    println!("caught {} of {}", caught.len(), all.len());
    if caught.len() == all.len() { Exit::Pass } else { Exit::Harness }
}

/// What this process has used.
fn cpu_us() -> u64 {
    let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    cpu.tv_sec.cast_unsigned() * 1_000_000 + cpu.tv_nsec.cast_unsigned() / 1000
}
