//! What both tiers tell whoever called them.

use std::process::ExitCode;

use crate::history::Failure;
use crate::options::Profile;

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
        | "A watcher is told everything in the end." => Exit::Liveness,
        "A node never panics." | "A member never panics." => Exit::Panic,
        _ => Exit::Safety,
    }
}

pub fn profile(name: &str) -> Option<Profile> {
    Some(match name {
        "swarm" => Profile::Swarm,
        "calm" => Profile::Calm,
        "storm" => Profile::Storm,
        _ => return None,
    })
}

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
