//! `norn-sim`: runs seeds, says what broke, and how to see it again.

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use norn_sim::{BUGS, Bug, Options, Profile, Report, run};

const USAGE: &str = "\
usage: norn-sim [--seed N | --seeds A..B | --file FILE] [--profile swarm|calm|storm]
                [--bug NAME] [--trace FILE] [--jobs N] [--keep-going] [--quiet]";

struct Args {
    seeds: Vec<u64>,
    profile: Profile,
    bug: Option<Bug>,
    trace: Option<String>,
    jobs: usize,
    keeps_going: bool,
    is_quiet: bool,
}

fn main() -> ExitCode {
    let args = match parse(std::env::args().skip(1)) {
        Ok(args) => args,
        Err(error) => {
            eprintln!("{error}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let (started, next, failed) = (Instant::now(), AtomicUsize::new(0), AtomicUsize::new(0));
    let (stop, total) = (AtomicBool::new(false), Mutex::new((0u64, 0u64, 0usize, 0usize)));
    std::thread::scope(|scope| {
        for _ in 0..args.jobs {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(seed) = args.seeds.get(at) else { break };
                    let options = Options::draw(*seed, args.profile, args.bug);
                    let report = run(options, args.trace.is_some());
                    let mut total = total.lock().expect("no holder panics");
                    total.0 += report.simulated_us;
                    total.1 += report.counts.events;
                    total.2 += report.ops;
                    total.3 += report.effort.given_up + usize::from(report.lost_at.is_some());
                    if report.failure.is_some() {
                        failed.fetch_add(1, Ordering::Relaxed);
                        stop.store(!args.keeps_going, Ordering::Relaxed);
                    }
                    show(&report, &args);
                }
            });
        }
    });
    let seconds = started.elapsed().as_secs_f64();
    let count = next.into_inner().min(args.seeds.len());
    let failed = failed.into_inner();
    let (simulated, events, ops, gaps) = total.into_inner().expect("no holder panics");
    println!(
        "{count} seeds, {failed} failed; {:.0} s simulated, {events} events, {ops} operations in {seconds:.1} s \
         ({:.1} seeds/s); checks given up: {gaps}",
        simulated as f64 / 1e6,
        count as f64 / seconds,
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn show(report: &Report, args: &Args) {
    let seed = report.options.seed;
    if args.seeds.len() == 1 {
        println!("{:#?}", report.options);
    }
    if let (Some(file), Some(lines)) = (&args.trace, &report.trace)
        && let Err(error) = std::fs::write(file, lines.join("\n") + "\n")
    {
        eprintln!("{file}: {error}");
    }
    if !args.is_quiet || args.seeds.len() == 1 {
        println!(
            "seed {seed}: trace {:016x}, {} members, {:.0} s, {} operations ({} unknown), revision {}, {} terms, \
             {:?}, {} hashes compared{}{}",
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
    }
    if let Some(failure) = &report.failure {
        println!("FAILED seed {seed}: {}", failure.promise);
        if args.seeds.len() > 1 {
            println!("{:?}", report.options);
        }
        println!("{}\nreplay: {}", shorten(&failure.detail), report.options.replay());
    }
}

/// Padding of values says nothing.
fn shorten(text: &str) -> String {
    let mut out = String::new();
    let mut dots = 0;
    for c in text.chars() {
        dots = if c == '.' { dots + 1 } else { 0 };
        if dots <= 3 {
            out.push(c);
        }
    }
    out
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<Args, String> {
    let mut parsed = Args {
        seeds: (0..100).collect(),
        profile: Profile::Swarm,
        bug: None,
        trace: None,
        jobs: 1,
        keeps_going: false,
        is_quiet: false,
    };
    let number = |text: &str| text.parse::<u64>().map_err(|e| format!("{text}: {e}"));
    while let Some(flag) = args.next() {
        let mut value = || args.next().ok_or(format!("{flag} wants a value"));
        match flag.as_str() {
            "--seed" => parsed.seeds = vec![number(&value()?)?],
            "--seeds" => {
                let text = value()?;
                let (a, b) = text.split_once("..").ok_or("--seeds wants A..B")?;
                parsed.seeds = (number(a)?..number(b)?).collect();
            }
            "--file" => {
                let file = value()?;
                let text = std::fs::read_to_string(&file).map_err(|e| format!("{file}: {e}"))?;
                let words = text.lines().filter_map(|line| line.split_whitespace().next());
                let seeds = words.filter(|word| !word.starts_with('#')).map(number);
                parsed.seeds = seeds.collect::<Result<_, _>>()?;
            }
            "--profile" => {
                parsed.profile = match value()?.as_str() {
                    "swarm" => Profile::Swarm,
                    "calm" => Profile::Calm,
                    "storm" => Profile::Storm,
                    other => return Err(format!("no profile {other}")),
                }
            }
            "--bug" => {
                let name = value()?;
                let found = BUGS.iter().find(|(n, _)| *n == name);
                parsed.bug = Some(found.ok_or(format!("no bug {name}"))?.1);
            }
            "--trace" => parsed.trace = Some(value()?),
            "--jobs" => parsed.jobs = number(&value()?)?.max(1) as usize,
            "--keep-going" => parsed.keeps_going = true,
            "--quiet" => parsed.is_quiet = true,
            _ => return Err(format!("unknown flag {flag}")),
        }
    }
    Ok(parsed)
}
