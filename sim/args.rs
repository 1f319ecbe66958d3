//! The command line.

use crate::mutants;
use crate::options::{BUGS, Bug, Profile};

pub const USAGE: &str = "\
usage: norn-sim run --seed N            one seed, with its options and its counts
       norn-sim sweep --seeds A..B      many
       norn-sim bugs [--file FILE]      seeds that once failed (sim/seeds.txt)
       norn-sim mutants                 mistakes put in by hand, which must be found

  --tier core|cluster         nodes in one thread (default), or whole servers under madsim
  --profile swarm|calm|storm  a draw of faults (default), none, or all
  --trace FILE                every event as a line (of the last seed)
  --jobs N  --keep-going  --quiet
  --bug NAME                  (core tier) a mistake of the harness: must fail
  --plant NAME                a mistake in the server (src/planted): must fail
  mutants: --bug NAME (one of src/planted)  --starts N (5)  --budget-s N (CPU seconds per start, 300)

Without a word in front, --seed means run, and everything else sweep or bugs.
Exit status: 0 passed, 2 safety, 3 liveness, 4 panic, 5 not deterministic, 6 the simulator itself.";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tier {
    Core,
    Cluster,
}

/// What to run with which profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    pub tier: Tier,
    pub profile: Profile,
    pub seed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    Run,
    Sweep,
    Bugs,
    Mutants,
    /// One start of it, for the program itself.
    Hunt,
}

pub struct Args {
    pub command: Command,
    pub cases: Vec<Case>,
    pub profile: Profile,
    pub bug: Option<Bug>,
    pub plant: Option<String>,
    pub trace: Option<String>,
    pub jobs: usize,
    pub keeps_going: bool,
    pub is_quiet: bool,
    /// Of the exam: how often each bug is hunted, and for how long at most.
    pub starts: usize,
    pub budget_s: u64,
}

pub fn profile(name: &str) -> Option<Profile> {
    Some(match name {
        "swarm" => Profile::Swarm,
        "calm" => Profile::Calm,
        "storm" => Profile::Storm,
        _ => return None,
    })
}

fn planted(name: String) -> Result<String, String> {
    mutants::planted(&name).map(|_| name)
}

/// # Errors
/// What is wrong with it.
pub fn parse(args: impl Iterator<Item = String>) -> Result<Args, String> {
    let mut args = args.peekable();
    let command = match args.peek().map(String::as_str) {
        Some("run") => Some(Command::Run),
        Some("sweep") => Some(Command::Sweep),
        Some("bugs") => Some(Command::Bugs),
        Some("mutants") => Some(Command::Mutants),
        Some("hunt") => Some(Command::Hunt),
        _ => None,
    };
    if command.is_some() {
        args.next();
    }
    let (mut seeds, mut file, mut tier) = (None, None, None);
    let mut parsed = Args {
        command: command.unwrap_or(Command::Sweep),
        cases: Vec::new(),
        profile: Profile::Swarm,
        bug: None,
        plant: None,
        trace: None,
        jobs: 1,
        keeps_going: false,
        is_quiet: false,
        starts: 5,
        budget_s: 300,
    };
    let number = |text: &str| text.parse::<u64>().map_err(|e| format!("{text}: {e}"));
    while let Some(flag) = args.next() {
        let mut value = || args.next().ok_or(format!("{flag} wants a value"));
        match flag.as_str() {
            "--seed" => {
                seeds = Some(vec![number(&value()?)?]);
                parsed.command = command.unwrap_or(Command::Run);
            }
            "--seeds" => {
                let text = value()?;
                let (a, b) = text.split_once("..").ok_or("--seeds wants A..B")?;
                seeds = Some((number(a)?..number(b)?).collect());
            }
            "--file" => {
                file = Some(value()?);
                parsed.command = command.unwrap_or(Command::Bugs);
            }
            "--tier" => {
                tier = Some(match value()?.as_str() {
                    "core" => Tier::Core,
                    "cluster" => Tier::Cluster,
                    other => return Err(format!("no tier {other}")),
                });
            }
            "--profile" => {
                let name = value()?;
                parsed.profile = profile(&name).ok_or(format!("no profile {name}"))?;
            }
            "--bug" if command == Some(Command::Mutants) => parsed.plant = Some(planted(value()?)?),
            "--bug" => {
                let name = value()?;
                let found = BUGS.iter().find(|(n, _)| *n == name);
                parsed.bug = Some(found.ok_or(format!("no bug {name}"))?.1);
            }
            "--plant" => parsed.plant = Some(planted(value()?)?),
            "--starts" => parsed.starts = number(&value()?)?.max(1) as usize,
            "--budget-s" => parsed.budget_s = number(&value()?)?,
            "--trace" => parsed.trace = Some(value()?),
            "--jobs" => parsed.jobs = number(&value()?)?.max(1) as usize,
            "--keep-going" => parsed.keeps_going = true,
            "--quiet" => parsed.is_quiet = true,
            _ => return Err(format!("unknown flag {flag}")),
        }
    }
    parsed.cases = match parsed.command {
        Command::Mutants => Vec::new(),
        Command::Bugs => {
            let file = file.unwrap_or_else(|| "sim/seeds.txt".to_owned());
            let text = std::fs::read_to_string(&file).map_err(|e| format!("{file}: {e}"))?;
            let all = cases(&text)?;
            all.into_iter().filter(|case| tier.is_none_or(|tier| tier == case.tier)).collect()
        }
        Command::Run if seeds.as_ref().is_none_or(|seeds| seeds.len() != 1) => {
            return Err("run wants --seed N".to_owned());
        }
        Command::Run | Command::Sweep | Command::Hunt => {
            let (tier, profile) = (tier.unwrap_or(Tier::Core), parsed.profile);
            let seeds = seeds.unwrap_or_else(|| (0..100).collect());
            seeds.into_iter().map(|seed| Case { tier, profile, seed }).collect()
        }
    };
    Ok(parsed)
}

/// The seeds of a file: a number, words with `@` for tier and profile, and a line of history.
///
/// # Errors
/// The line that is none of these.
pub fn cases(text: &str) -> Result<Vec<Case>, String> {
    let mut cases = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let mut words = line.split_whitespace();
        let Some(seed) = words.next() else { continue };
        let seed = seed.parse().map_err(|e| format!("{line}: {e}"))?;
        let mut case = Case { tier: Tier::Core, profile: Profile::Swarm, seed };
        for word in words.map_while(|word| word.strip_prefix('@')) {
            match (word, profile(word)) {
                ("cluster", _) => case.tier = Tier::Cluster,
                (_, Some(profile)) => case.profile = profile,
                _ => return Err(format!("{line}: no tier or profile {word}")),
            }
        }
        cases.push(case);
    }
    Ok(cases)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Args {
        parse(line.split_whitespace().map(str::to_owned)).unwrap()
    }

    #[test]
    fn words_and_the_lack_of_them() {
        let args = parsed("--seed 7");
        assert_eq!(args.command, Command::Run);
        let swarm = Profile::Swarm;
        assert_eq!(args.cases, [Case { tier: Tier::Core, profile: swarm, seed: 7 }]);
        let args = parsed("sweep --seeds 1..3 --tier cluster");
        let case = |seed| Case { tier: Tier::Cluster, profile: swarm, seed };
        assert_eq!(args.cases, [case(1), case(2)]);
        assert!(parse(["run".to_owned()].into_iter()).is_err());
    }

    #[test]
    fn seeds_say_where_they_belong() {
        let text = "# seeds\n7 once failed\n8 @cluster @storm also @home\n";
        let (core, cluster) = (Tier::Core, Tier::Cluster);
        let seven = Case { tier: core, profile: Profile::Swarm, seed: 7 };
        let eight = Case { tier: cluster, profile: Profile::Storm, seed: 8 };
        assert_eq!(cases(text).unwrap(), [seven, eight]);
        assert!(cases("9 @nowhere").is_err());
    }
}
