//! After healing, every member serves a new write, all have applied the same, and watchers are up to date, within a
//! bound of simulated time.

use crate::history::{Failure, Verdict};

/// Applied index, term, leader.
pub type Place = (u64, u64, u64);

/// Where a healed cluster stands.
#[derive(Debug)]
pub struct Standing {
    pub waited_us: u64,
    /// Per member: whether a new write through it was acknowledged, and where it is.
    pub members: Vec<(bool, Option<Place>)>,
}

impl Standing {
    pub fn is_converged(&self) -> bool {
        let first = self.members.first().and_then(|m| m.1);
        self.members.iter().all(|(served, at)| *served && at.is_some() && *at == first)
    }
}

pub fn check(standing: &Standing, bound_us: u64) -> Verdict {
    if standing.is_converged() || standing.waited_us <= bound_us {
        return Ok(());
    }
    let detail = format!("after {} s: {:?}", standing.waited_us / 1_000_000, standing.members);
    Err(Failure::new("A healed cluster serves through every member and converges.", detail))
}
