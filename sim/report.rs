//! What both tiers tell whoever called them.

use std::process::ExitCode;

use crate::history::Failure;

/// How a run ended, as an exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exit {
    Pass = 0,
    /// Something that must never be was.
    Safety = 2,
    /// Something that must come did not.
    Liveness = 3,
    Panic = 4,
    /// The same seed gave two runs.
    Difference = 5,
    /// The simulator itself could not do its work.
    Harness = 6,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

impl Exit {
    pub fn of(code: i32) -> Exit {
        match code {
            0 => Exit::Pass,
            2 => Exit::Safety,
            3 => Exit::Liveness,
            4 => Exit::Panic,
            5 => Exit::Difference,
            _ => Exit::Harness,
        }
    }
}

/// By the promise that was broken.
pub fn exit_of(failure: &Failure) -> Exit {
    match failure.promise {
        "A healed cluster serves through every member and converges."
        | "A lease that nobody renews ends."
        | "A run comes to an end."
        | "A watcher is told everything in the end." => Exit::Liveness,
        "A node never panics." | "A member never panics." => Exit::Panic,
        _ => Exit::Safety,
    }
}

/// Says what broke, and how the process is to end.
pub fn failed(seed: u64, failure: Option<&Failure>, text: &mut String) -> Exit {
    let Some(failure) = failure else { return Exit::Pass };
    text.push_str(&format!("{FAILED} {seed}: {}\n", failure.promise));
    text.push_str(&shorten(&failure.detail));
    text.push('\n');
    exit_of(failure)
}

/// The promise, if this is the line that says that it broke.
pub fn promise_of(line: &str) -> Option<&str> {
    Some(line.strip_prefix(FAILED)?.split_once(": ")?.1)
}

const FAILED: &str = "FAILED seed";

/// Padding of values says nothing.
pub fn shorten(text: &str) -> String {
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

/// What a run came to, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub hash: u64,
    pub simulated_us: u64,
    pub ops: u64,
    /// Events of the core tier; turns of nodes in the cluster tier.
    pub events: u64,
    /// Keys whose history was too long to search, and logs that could not be followed to their end.
    pub unsearched: u64,
    pub unfollowed: u64,
    /// Faults that were drawn, and operations, whether asked or not.
    pub faults: u64,
    pub drawn: u64,
    pub cpu_us: u64,
}

const STATS: &str = "stats";

impl Stats {
    /// From one program to the other.
    pub fn line(&self) -> String {
        let Stats {
            hash,
            simulated_us,
            ops,
            events,
            unsearched,
            unfollowed,
            faults,
            drawn,
            cpu_us,
        } = self;
        format!(
            "{STATS} {hash} {simulated_us} {ops} {events} {unsearched} {unfollowed} {faults} {drawn} {cpu_us}"
        )
    }

    pub fn parse(line: &str) -> Option<Stats> {
        let mut words = line.strip_prefix(STATS)?.split_whitespace().map(str::parse);
        let mut next = || words.next()?.ok();
        Some(Stats {
            hash: next()?,
            simulated_us: next()?,
            ops: next()?,
            events: next()?,
            unsearched: next()?,
            unfollowed: next()?,
            faults: next()?,
            drawn: next()?,
            cpu_us: next()?,
        })
    }

    pub fn add(&mut self, other: &Stats) {
        self.simulated_us += other.simulated_us;
        self.ops += other.ops;
        self.events += other.events;
        self.unsearched += other.unsearched;
        self.unfollowed += other.unfollowed;
        self.faults += other.faults;
        self.drawn += other.drawn;
        self.cpu_us += other.cpu_us;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_numbers_is_read_as_it_was_written() {
        let stats = Stats {
            hash: u64::MAX,
            simulated_us: 1,
            ops: 2,
            events: 3,
            unsearched: 4,
            unfollowed: 5,
            faults: 6,
            drawn: 7,
            cpu_us: 8,
        };
        assert_eq!(Stats::parse(&stats.line()), Some(stats));
        assert_eq!(Stats::parse("statistics"), None);
        assert_eq!(Stats::parse("stats 1 2 x"), None);
    }

    #[test]
    fn a_broken_promise_is_read_as_it_was_written() {
        let mut text = String::new();
        let failure = Failure::new("Water flows down.", "b1: up......");
        assert_eq!(failed(7, Some(&failure), &mut text), Exit::Safety);
        assert_eq!(text.lines().find_map(promise_of), Some("Water flows down."));
        assert!(text.ends_with("b1: up...\n"));
    }
}
