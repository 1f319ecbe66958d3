//! How often what happened: a sweep is worth as much as what occurred in it.

use std::fmt::Write as _;

use norn_raft::MessageKind;

use crate::fault::Kind;
use crate::record::{End, What};

const MESSAGES: usize = MessageKind::ALL.len();
const FAULTS: usize = Kind::ALL.len();
const ROLES: [&str; 4] = ["Follower", "PreCandidate", "Candidate", "Leader"];
const BLOWS: [&str; 11] = [
    "message lost",
    "message twice",
    "message into a cut",
    "message to nobody",
    "power off",
    "killed",
    "start cut short",
    "ended by itself",
    "failed",
    "snapshot sent",
    "answer unknown",
];
const WORD: &str = "tally";

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tally {
    /// Messages between members, by kind.
    pub messages: [u64; MESSAGES],
    /// Faults that struck, by kind.
    pub faults: [u64; FAULTS],
    /// Members that took a role.
    pub roles: [u64; ROLES.len()],
    /// What came of it.
    pub blows: [u64; BLOWS.len()],
}

impl Default for Tally {
    fn default() -> Tally {
        Tally {
            messages: [0; MESSAGES],
            faults: [0; FAULTS],
            roles: [0; ROLES.len()],
            blows: [0; BLOWS.len()],
        }
    }
}

impl Tally {
    pub fn count(&mut self, what: &What) {
        let blow = match *what {
            What::Send { kind, copies, .. } => {
                self.messages[usize::from(kind)] += 1;
                match copies {
                    0 => 0,
                    1 => return,
                    _ => 1,
                }
            }
            What::Fault { kind, .. } => return self.faults[kind as usize] += 1,
            What::Drop { is_cut, .. } => {
                if is_cut {
                    2
                } else {
                    3
                }
            }
            What::Crash { power, .. } => {
                if power {
                    4
                } else {
                    5
                }
            }
            What::StartCut { .. } => 6,
            What::End { .. } => 7,
            What::Failed { .. } => 8,
            What::Snapshot { .. } => 9,
            What::Answer { end: End::Unknown, .. } => 10,
            _ => return,
        };
        self.blows[blow] += 1;
    }

    fn all(&self) -> impl Iterator<Item = &u64> {
        self.messages.iter().chain(&self.faults).chain(&self.roles).chain(&self.blows)
    }

    fn all_mut(&mut self) -> impl Iterator<Item = &mut u64> {
        let Tally { messages, faults, roles, blows } = self;
        messages.iter_mut().chain(faults).chain(roles).chain(blows)
    }

    pub fn add(&mut self, other: &Tally) {
        self.all_mut().zip(other.all()).for_each(|(sum, n)| *sum += n);
    }

    /// From one program to the other.
    pub fn line(&self) -> String {
        self.all().fold(WORD.to_owned(), |mut line, n| {
            let _ = write!(line, " {n}");
            line
        })
    }

    pub fn parse(line: &str) -> Option<Tally> {
        let mut words = line.strip_prefix(WORD)?.split_whitespace();
        let mut tally = Tally::default();
        for n in tally.all_mut() {
            *n = words.next()?.parse().ok()?;
        }
        words.next().is_none().then_some(tally)
    }

    /// For people. What never occurred, and could have in this tier, is named by the zero beside it.
    pub fn show(&self, is_cluster: bool) -> String {
        let messages = MessageKind::ALL.iter().zip(&self.messages);
        let messages = messages.filter(|(kind, n)| travels(**kind) || **n > 0);
        let faults = Kind::ALL.iter().zip(&self.faults);
        let faults = faults.filter(|(kind, n)| kind.is_of(is_cluster) || **n > 0);
        let lines = [
            ("messages", list(messages.map(|(kind, n)| (kind.name(), *n)))),
            ("faults", list(faults.map(|(kind, n)| (kind.name(), *n)))),
            ("roles", list(ROLES.into_iter().zip(self.roles))),
            ("came of it", list(BLOWS.into_iter().zip(self.blows).filter(|(_, n)| *n > 0))),
        ];
        lines.iter().fold(String::new(), |mut text, (name, list)| {
            let _ = writeln!(text, "{name}: {list}");
            text
        })
    }

    /// Kinds of messages that travel, and kinds of faults of the tier, that never occurred.
    pub fn missing(&self, is_cluster: bool) -> Vec<&'static str> {
        let messages = MessageKind::ALL.iter().zip(&self.messages);
        let messages = messages.filter(|(kind, n)| travels(**kind) && **n == 0);
        let faults = Kind::ALL.iter().zip(&self.faults);
        let faults = faults.filter(|(kind, n)| kind.is_of(is_cluster) && **n == 0);
        let names = messages.map(|(kind, _)| kind.name());
        names.chain(faults.map(|(kind, _)| kind.name())).collect()
    }
}

/// Kinds that members of Norn send each other. (Leadership is handed over by whoever leads, unasked by other members.)
fn travels(kind: MessageKind) -> bool {
    !kind.is_local() && !matches!(kind, MessageKind::ForgetLeader | MessageKind::TransferLeader)
}

fn list(of: impl Iterator<Item = (&'static str, u64)>) -> String {
    of.map(|(name, n)| format!("{name} {n}")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tally_is_read_as_it_was_written() {
        let mut tally = Tally::default();
        tally.all_mut().enumerate().for_each(|(at, n)| *n = at as u64);
        assert_eq!(Tally::parse(&tally.line()), Some(tally.clone()));
        assert_eq!(Tally::parse(&format!("{} 1", tally.line())), None);
        assert_eq!(Tally::parse("tally 1 2"), None);
    }
}
