//! `norn-sim`: runs seeds, says what broke, and how to see it again.

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use norn_sim::args::{self, Args, Case, Command, Tier, USAGE};
use norn_sim::launch::{self, Launcher, Order, Ran};
use norn_sim::mutants;
use norn_sim::report::{self, Exit, Stats};
use norn_sim::{Options, Report, run};

/// A seed is made of millions of small allocations.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Of the cluster tier's seeds, one in so many runs twice: the same seed must be the same run.
const TWICE_EVERY: usize = 10;

fn main() -> ExitCode {
    let args = match args::parse(std::env::args().skip(1)) {
        Ok(args) => args,
        Err(error) => {
            eprintln!("{error}\n{USAGE}");
            return Exit::Harness.into();
        }
    };
    let done = match args.command {
        Command::Mutants => mutants::exam(&args),
        Command::Hunt => mutants::hunt(&args),
        _ => all_planted(&args),
    };
    match done {
        Ok(exit) => exit.into(),
        Err(error) => {
            eprintln!("{error}");
            Exit::Harness.into()
        }
    }
}

/// The source that this was built from, as far as git knows.
fn commit() -> String {
    let asked = std::process::Command::new("git")
        .args(["-C", env!("CARGO_MANIFEST_DIR"), "describe", "--always", "--dirty"])
        .output();
    let text = asked.ok().filter(|out| out.status.success()).map(|out| out.stdout);
    text.map_or("unknown".into(), |text| String::from_utf8_lossy(&text).trim().to_owned())
}

/// Runs every case, with the planted bug on, if one is asked for.
fn all_planted(args: &Args) -> Result<Exit, String> {
    if let Some(name) = &args.plant
        && args.cases.iter().any(|case| case.tier == Tier::Core)
    {
        if !norn_planted::is_switchable() {
            return launch::again_planted();
        }
        norn_planted::only(Some(mutants::planted(name)?));
    }
    all(args)
}

/// Runs every case, on several threads.
fn all(args: &Args) -> Result<Exit, String> {
    let needs_cluster = args.cases.iter().any(|case| case.tier == Tier::Cluster);
    let launcher = match needs_cluster {
        true => Some(Launcher::build(args.plant.is_some())?),
        false => None,
    };
    let (first, last) = (args.cases.first(), args.cases.last());
    let seeds = first.zip(last).map_or((0, 0), |(first, last)| (first.seed, last.seed));
    println!(
        "commit {}, profile {:?}, {} seeds from {} to {}",
        commit(),
        args.profile,
        args.cases.len(),
        seeds.0,
        seeds.1
    );
    let (started, next) = (Instant::now(), AtomicUsize::new(0));
    let (stop, total) = (AtomicBool::new(false), Mutex::new((Stats::default(), 0, Exit::Pass)));
    let error = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..args.jobs {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(case) = args.cases.get(at) else { break };
                    let ran = match one(args, *case, launcher.as_ref(), at % TWICE_EVERY == 0) {
                        Ok(ran) => ran,
                        Err(failed) => {
                            stop.store(true, Ordering::Relaxed);
                            error.lock().expect("no holder panics").get_or_insert(failed);
                            break;
                        }
                    };
                    let mut total = total.lock().expect("no holder panics");
                    total.0.add(&ran.stats);
                    if ran.exit == Exit::Pass {
                        total.1 += 1;
                    } else {
                        total.2 = total.2.max(ran.exit);
                        stop.store(!args.keeps_going, Ordering::Relaxed);
                    }
                    show(args, *case, &ran);
                }
            });
        }
    });
    if let Some(error) = error.into_inner().expect("no holder panics") {
        return Err(error);
    }
    let (stats, passed, exit) = total.into_inner().expect("no holder panics");
    let seconds = started.elapsed().as_secs_f64();
    let cpu = (stats.cpu_us as f64 / 1e6).max(1e-6);
    let count = next.into_inner().min(args.cases.len());
    println!(
        "{:.0} s simulated, {} events, {} operations in {seconds:.1} s ({:.1} seeds/s); checks given up: {}",
        stats.simulated_us as f64 / 1e6,
        stats.events,
        stats.ops,
        count as f64 / seconds,
        stats.gaps,
    );
    if stats.cpu_us > 0 {
        println!(
            "per second of CPU: {:.0} s simulated, {:.0} operations",
            stats.simulated_us as f64 / 1e6 / cpu,
            stats.ops as f64 / cpu
        );
    }
    println!("passed {passed} of {count}");
    Ok(exit)
}

fn one(
    args: &Args,
    case: Case,
    launcher: Option<&Launcher>,
    is_twice: bool,
) -> Result<Ran, String> {
    let Some(launcher) = launcher.filter(|_| case.tier == Tier::Cluster) else {
        let options = Options::draw(case.seed, case.profile, args.bug);
        return Ok(core(args, &run(options, args.trace.is_some())));
    };
    let order = Order {
        seed: case.seed,
        profile: case.profile,
        trace: args.trace.as_deref(),
        plant: args.plant.as_deref(),
        shows_options: args.command == Command::Run,
    };
    let mut ran = launcher.run(order)?;
    if is_twice && ran.exit == Exit::Pass {
        let again = launcher.run(order)?;
        if again.stats.hash != ran.stats.hash {
            ran.exit = Exit::Difference;
            ran.text += &format!(
                "FAILED seed {}: The same seed is the same run.\ntrace {:016x}, then {:016x}\n",
                case.seed, ran.stats.hash, again.stats.hash
            );
        }
    }
    if ran.exit != Exit::Pass {
        let replay = Options::draw(case.seed, case.profile, None).replay();
        ran.text += &format!("replay: {replay} --tier cluster{}\n", plant_flag(args));
    }
    Ok(ran)
}

fn plant_flag(args: &Args) -> String {
    args.plant.as_ref().map_or(String::new(), |name| format!(" --plant {name}"))
}

/// What the core tier found, in the words of both.
fn core(args: &Args, report: &Report) -> Ran {
    let seed = report.options.seed;
    let mut text = String::new();
    if args.command == Command::Run {
        text += &format!("{:#?}\n", report.options);
    }
    if let (Some(file), Some(lines)) = (&args.trace, &report.trace)
        && let Err(error) = std::fs::write(file, lines.join("\n") + "\n")
    {
        eprintln!("{file}: {error}");
    }
    text += &format!(
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
    let mut exit = Exit::Pass;
    if let Some(failure) = &report.failure {
        exit = report::exit_of(failure);
        text += &format!("FAILED seed {seed}: {}\n", failure.promise);
        text += &format!("{:?}\n{}\n", report.options, report::shorten(&failure.detail));
        text += &format!("replay: {}{}\n", report.options.replay(), plant_flag(args));
    }
    let stats = Stats {
        hash: report.trace_hash,
        simulated_us: report.simulated_us,
        ops: report.ops as u64,
        events: report.counts.events,
        gaps: (report.effort.given_up + usize::from(report.lost_at.is_some())) as u64,
        cpu_us: 0,
    };
    Ran { exit, stats, text }
}

fn show(args: &Args, case: Case, ran: &Ran) {
    let is_shown = args.command == Command::Run || !args.is_quiet || ran.exit != Exit::Pass;
    if is_shown {
        print!("{}", ran.text);
    }
    if args.command == Command::Bugs && ran.exit != Exit::Pass {
        println!("(seed {} of {:?} had failed before)", case.seed, case.tier);
    }
}
