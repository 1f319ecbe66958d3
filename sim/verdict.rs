//! The verdict over a whole run: everything that can be judged only when it is over.

use crate::check::lease::Times;
use crate::check::linearizable::{self, Effort};
use crate::check::raft::RaftCheck;
use crate::check::watch::{self, Span};
use crate::check::{durability, lease, revision, stories, told};
use crate::history::{Op, Verdict};

/// What was seen of a run.
pub struct Record<'a> {
    pub ops: &'a [Op],
    pub spans: &'a [Span],
    /// Spans whose watcher is still there.
    pub open: &'a [usize],
    pub raft: &'a RaftCheck,
    pub times: &'a Times,
    /// How much faster than true time members' clocks may be; `None`: they jump.
    pub drift_ppm: Option<u64>,
    /// The revision when the cluster had converged; `None`: nobody waited for that.
    pub quiet_revision: Option<i64>,
}

pub fn judge(record: &Record<'_>, effort: &mut Effort) -> Verdict {
    *effort = linearizable::check(record.ops)?;
    if record.raft.lost_at.is_some() {
        return Ok(());
    }
    let model = &record.raft.model;
    durability::check(record.ops, model)?;
    revision::check(record.ops, model)?;
    told::check(record.ops, record.spans)?;
    lease::check(record.ops, model, record.times, record.drift_ppm)?;
    stories::check(record.ops, model)?;
    for (at, span) in record.spans.iter().enumerate() {
        // What happened in the last moments may still be on its way.
        let until = record.quiet_revision.filter(|_| record.open.contains(&at));
        watch::check(span, model, until)?;
    }
    Ok(())
}
