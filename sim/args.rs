//! The command line.

use std::time::Duration;

use crate::case::{Case, cases};

pub const USAGE: &str = "\
usage: norn-sim run --seed N             one seed, with its options and its counts
       norn-sim sweep --seeds A..B       many
       norn-sim shrink --seed N | FILE   the smallest run that breaks the same promise, as a file
       norn-sim replay FILE              a kept failure once more: the same trace, or an error
       norn-sim report --seed N | FILE --out PAGE.html
                                         everything that happened, as a page for a browser
       norn-sim bugs [--file FILE]       seeds that once failed (sim/seeds.txt)
       norn-sim mutants [--plant NAME]   mistakes put in by hand, which must be found

What to run:
  --tier core|cluster         nodes in one thread (default), or whole servers under madsim
  --profile swarm|calm|storm|ruin|busy
                              a draw of faults (default), none, all, or none and clients that never think
  --bug NAME                  (core tier) a mistake of the harness: must fail
  --plant NAME                a mistake in the server (src/planted): must fail
  --less WHAT                 what to leave out, in the words of a shrunk case
How:
  --jobs N                    processes or threads (sweep, bugs)
  --shard I/N                 of the seeds, those whose place in the list is I-1 modulo N (sweep, bugs)
  --time SECONDS              begin nothing after that (sweep, shrink)
  --keep DIR                  a file for every failure (sweep, bugs)
  --keep-going                also after a failure (sweep, bugs)
  --runs N                    at most (shrink; 1000)
  --out FILE                  (shrink, report)
  --trace FILE                every event as a line (run, replay)
  --starts N                  how often each mistake is hunted, seeds far apart (mutants; 5)
  --budget-s N                CPU seconds for a start (mutants; 300)
  --quiet                     only failures and sums

Without a word in front, --seed means run, and everything else sweep or bugs.
The last line of sweep and bugs is `passed N of M`, that of mutants `caught N of M`.
Exit status: 0 passed, 2 safety, 3 liveness, 4 panic, 5 not deterministic, 6 the simulator itself.
A build that would check less, or plant nothing, ends with 6 and says so.
shrink and report end with 0 when they wrote what they should; replay ends as what it replays.";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    Run,
    Sweep,
    Shrink,
    Replay,
    Report,
    Bugs,
    Mutants,
    /// One start of it, for another `norn-sim`.
    Hunt,
    /// For another `norn-sim`.
    One,
}

#[derive(Debug)]
pub struct Args {
    pub command: Command,
    /// For all but `replay`; `shrink` and `report` may have a file instead.
    pub cases: Vec<Case>,
    /// What is not a flag's.
    pub file: Option<String>,
    pub trace: Option<String>,
    pub out: Option<String>,
    pub recording: Option<String>,
    pub keep: Option<String>,
    pub time: Option<Duration>,
    pub runs: usize,
    pub jobs: usize,
    pub keeps_going: bool,
    pub is_quiet: bool,
    /// Of the exam: how often each mistake is hunted, and for how long at most.
    pub starts: usize,
    pub budget_s: u64,
}

/// They are kept as a list.
const SEEDS_MAX: u64 = 1_000_000;

fn command(word: &str) -> Option<Command> {
    Some(match word {
        "run" => Command::Run,
        "sweep" => Command::Sweep,
        "shrink" => Command::Shrink,
        "replay" => Command::Replay,
        "report" => Command::Report,
        "bugs" => Command::Bugs,
        "mutants" => Command::Mutants,
        "hunt" => Command::Hunt,
        crate::launch::ONE => Command::One,
        _ => return None,
    })
}

/// # Errors
/// What is wrong with it.
pub fn parse(args: impl Iterator<Item = String>) -> Result<Args, String> {
    let mut args = args.peekable();
    let word = args.peek().and_then(|word| command(word));
    if word.is_some() {
        args.next();
    }
    let mut parsed = Args {
        command: word.unwrap_or(Command::Sweep),
        cases: Vec::new(),
        file: None,
        trace: None,
        out: None,
        recording: None,
        keep: None,
        time: None,
        runs: 1000,
        jobs: 1,
        keeps_going: false,
        is_quiet: false,
        starts: 5,
        budget_s: 300,
    };
    let (mut case, mut seeds, mut seed_file, mut shard) = (Case::default(), None, None, None);
    let (mut has_seed, mut tier) = (false, None);
    let number = |text: &str| text.parse::<u64>().map_err(|e| format!("{text}: {e}"));
    while let Some(flag) = args.next() {
        let mut value = || args.next().ok_or(format!("{flag} wants a value"));
        if case.take(&flag, &mut value)? {
            has_seed |= flag == "--seed";
            tier = if flag == "--tier" { Some(case.tier) } else { tier };
            continue;
        }
        match flag.as_str() {
            "--seeds" => {
                let text = value()?;
                let (a, b) = text.split_once("..").ok_or("--seeds wants A..B")?;
                let (a, b) = (number(a)?, number(b)?);
                if b.saturating_sub(a) > SEEDS_MAX {
                    return Err(format!("--seeds {text}: over {SEEDS_MAX}"));
                }
                seeds = Some(a..b);
            }
            "--file" => seed_file = Some(value()?),
            "--shard" => shard = Some(self::shard(&value()?)?),
            "--time" => parsed.time = Some(Duration::from_secs(number(&value()?)?)),
            "--keep" => parsed.keep = Some(value()?),
            "--trace" => parsed.trace = Some(value()?),
            "--out" => parsed.out = Some(value()?),
            "--recording" => parsed.recording = Some(value()?),
            "--runs" => parsed.runs = number(&value()?)? as usize,
            "--jobs" => parsed.jobs = number(&value()?)?.max(1) as usize,
            "--starts" => parsed.starts = number(&value()?)?.max(1) as usize,
            "--budget-s" => parsed.budget_s = number(&value()?)?,
            "--keep-going" => parsed.keeps_going = true,
            "--quiet" => parsed.is_quiet = true,
            _ if flag.starts_with('-') || parsed.file.is_some() => {
                return Err(format!("unknown flag {flag}"));
            }
            _ => parsed.file = Some(flag),
        }
    }
    if word.is_none() {
        parsed.command = match (&seed_file, has_seed) {
            (Some(_), _) => Command::Bugs,
            (None, true) => Command::Run,
            (None, false) => Command::Sweep,
        };
    }
    parsed.cases = match parsed.command {
        Command::Mutants => vec![case],
        Command::Bugs => {
            let file = seed_file.unwrap_or_else(|| "sim/seeds.txt".to_owned());
            let text = std::fs::read_to_string(&file).map_err(|e| format!("{file}: {e}"))?;
            let all = cases(&text)?;
            all.into_iter().filter(|case| tier.is_none_or(|tier| tier == case.tier)).collect()
        }
        Command::Sweep => {
            let seeds = seeds.unwrap_or(if has_seed { case.seed..case.seed + 1 } else { 0..100 });
            seeds.map(|seed| Case { seed, ..case.clone() }).collect()
        }
        Command::Replay => match parsed.file {
            Some(_) => Vec::new(),
            None => return Err("replay wants a file".to_owned()),
        },
        Command::Shrink | Command::Report if parsed.file.is_some() && !has_seed => Vec::new(),
        _ if !has_seed => return Err(format!("{} wants --seed N", name(parsed.command))),
        _ => vec![case],
    };
    if let Some((part, of)) = shard {
        let cases = std::mem::take(&mut parsed.cases).into_iter().enumerate();
        parsed.cases = cases.filter(|(at, _)| at % of == part).map(|(_, case)| case).collect();
    }
    // Nothing run is nothing shown, and must not pass for success.
    if parsed.cases.is_empty() && matches!(parsed.command, Command::Sweep | Command::Bugs) {
        return Err("no seeds to run".to_owned());
    }
    if parsed.out.is_none() && parsed.command == Command::Report {
        return Err("report wants --out FILE".to_owned());
    }
    if parsed.file.is_some()
        && !matches!(parsed.command, Command::Replay | Command::Shrink | Command::Report)
    {
        return Err(format!("{} takes no file", name(parsed.command)));
    }
    Ok(parsed)
}

fn name(command: Command) -> String {
    format!("{command:?}").to_lowercase()
}

/// `I/N`, from 1, as (index, count).
fn shard(text: &str) -> Result<(usize, usize), String> {
    let numbers = text.split_once('/').and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
    match numbers {
        Some((part, of)) if (1..=of).contains(&part) => Ok((part - 1, of)),
        _ => Err(format!("--shard {text}: not I/N with I from 1 to N")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::Tier;

    fn parsed(line: &str) -> Result<Args, String> {
        parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn words_and_the_lack_of_them() {
        let args = parsed("--seed 7").unwrap();
        assert_eq!(args.command, Command::Run);
        assert_eq!(args.cases, [Case { seed: 7, ..Case::default() }]);
        let args = parsed("sweep --seeds 1..3 --tier cluster").unwrap();
        let case = |seed| Case { tier: Tier::Cluster, seed, ..Case::default() };
        assert_eq!(args.cases, [case(1), case(2)]);
        for wrong in ["run", "replay", "shrink", "report --seed 1", "run x --seed 1", "--moon"] {
            assert!(parsed(wrong).is_err(), "{wrong}");
        }
        assert_eq!(parsed("replay x.case").unwrap().file.as_deref(), Some("x.case"));
    }

    #[test]
    fn shards_share_the_seeds_and_nothing_is_an_error() {
        let seeds = |line: &str| -> Vec<u64> {
            parsed(line).unwrap().cases.iter().map(|case| case.seed).collect()
        };
        assert_eq!(seeds("sweep --seeds 10..15 --shard 1/2"), [10, 12, 14]);
        assert_eq!(seeds("sweep --seeds 10..15 --shard 2/2"), [11, 13]);
        for wrong in ["--seeds 5..5", "--seeds 1..2 --shard 2/2", "--shard 0/2", "--shard 3/2"] {
            assert!(parsed(wrong).is_err(), "{wrong}");
        }
    }
}
