//! Leases: they last as long as was promised, by true time, whatever leaders and their clocks do; they end when nobody renews them; and
//! what a renewal says is so.

use std::collections::{BTreeMap, BTreeSet};

use crate::history::{Answer, Ask, Failure, Op, Outcome, Verdict};
use crate::model::Model;

/// Members count milliseconds.
const RESOLUTION_US: u64 = 5_000;

/// When the log was seen applied.
#[derive(Default)]
pub struct Times {
    /// Per index, from 1 on: the first moment at which it was, somewhere.
    applied_us: Vec<u64>,
}

impl Times {
    /// After every turn: `applied` is how far the log is known.
    pub fn observe(&mut self, now_us: u64, applied: u64) {
        if self.applied_us.len() < applied as usize {
            self.applied_us.resize(applied as usize, now_us);
        }
    }

    fn at(&self, index: u64) -> Option<u64> {
        self.applied_us.get(index as usize - 1).copied()
    }
}

/// From the grant of a lease to its end, as indexes of the log.
#[derive(Clone, Copy, Debug)]
pub struct Life {
    pub granted: u64,
    pub ended: Option<u64>,
}

/// `drift_ppm`: how much faster than true time the clocks of members may be. `None`: they may jump, and nothing can be promised.
pub fn check(ops: &[Op], model: &Model, times: &Times, drift_ppm: Option<u64>) -> Verdict {
    let revoked: BTreeSet<i64> = ops
        .iter()
        .filter_map(|op| match op.ask {
            Ask::Revoke { id } => Some(id),
            _ => None,
        })
        .collect();
    for op in ops {
        let (Ask::Grant { id, .. } | Ask::KeepAlive { id }) = op.ask else { continue };
        let Outcome::Ok { answer: Answer::Ttl(ttl), .. } = op.outcome else { continue };
        let Some(returned) = op.returned else { continue };
        let life = model.lives.get(&id);
        let granted = life.and_then(|life| times.at(life.granted));
        let ended = life.and_then(|life| life.ended).and_then(|index| times.at(index));
        let told = |what: String| format!("{op:?}\n{what}");
        if ttl > 0 {
            let was_there = granted.is_some_and(|at| at <= returned.0)
                && ended.is_none_or(|at| at >= op.called.0);
            if !was_there {
                let what = format!("granted at {granted:?} us, ended at {ended:?} us");
                return Err(Failure::new("A lease that is renewed is there.", told(what)));
            }
        } else if granted.is_some_and(|at| at < op.called.0)
            && ended.is_none_or(|at| at > returned.0)
        {
            let what = format!("granted at {granted:?} us, ended at {ended:?} us");
            return Err(Failure::new("A lease that is there can be renewed.", told(what)));
        }
        let Some(drift_ppm) = drift_ppm.filter(|_| ttl > 0 && !revoked.contains(&id)) else {
            continue;
        };
        let promised = ttl.cast_unsigned() * 1_000_000 * 1_000_000 / (1_000_000 + drift_ppm);
        if let Some(ended) = ended
            && ended + RESOLUTION_US < op.called.0 + promised
        {
            let what = format!("it ended at {ended} us");
            return Err(Failure::new("A lease never ends early.", told(what)));
        }
    }
    Ok(())
}

/// When the cluster has long been quiet: leases that nobody renews are gone.
pub fn all_gone(lives: &BTreeMap<i64, Life>, waited_us: u64) -> Verdict {
    let left: Vec<_> = lives.iter().filter(|(_, life)| life.ended.is_none()).collect();
    if left.is_empty() {
        return Ok(());
    }
    let detail = format!("after {} s: {left:?}", waited_us / 1_000_000);
    Err(Failure::new("A lease that nobody renews ends.", detail))
}
