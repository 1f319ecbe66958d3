//! Auto-compaction: the leader compacts by age or by number of revisions. Every member samples, so that a new leader
//! has history.

use std::collections::VecDeque;

use norn_proto::etcdserverpb as pb;

use crate::command::Command;
use crate::config::AutoCompaction;
use crate::{Node, Reader, Time};

const HOUR_MS: u64 = 3_600_000;
/// How often the revision mode looks.
const REVISION_CHECK_MS: u64 = 300_000;
/// Samples per compaction interval of the periodic mode.
const SAMPLES_PER_INTERVAL: u64 = 10;

#[derive(Debug)]
pub(crate) struct Compactor {
    mode: AutoCompaction,
    next_check: Time,
    /// Periodic mode: revisions at past checks, oldest first.
    samples: VecDeque<i64>,
    last_success: Time,
    last_target: i64,
    /// Between successes; the first is a whole retention away.
    interval_ms: u64,
}

impl Compactor {
    pub(crate) fn new(mode: AutoCompaction, now: Time) -> Compactor {
        let interval_ms = match mode {
            AutoCompaction::Periodic { retention_ms } => retention_ms,
            _ => REVISION_CHECK_MS,
        };
        Compactor {
            mode,
            next_check: match mode {
                AutoCompaction::Periodic { .. } => now,
                _ => now + REVISION_CHECK_MS,
            },
            samples: VecDeque::new(),
            last_success: now,
            last_target: 0,
            interval_ms,
        }
    }

    /// The revision to compact at, if one is due.
    fn target(&mut self, now: Time, current: i64, is_leader: bool) -> Option<i64> {
        if now < self.next_check {
            return None;
        }
        let target = match self.mode {
            AutoCompaction::Off => return None,
            AutoCompaction::Revision { retention } => {
                self.next_check = now + REVISION_CHECK_MS;
                current - retention
            }
            AutoCompaction::Periodic { retention_ms } => {
                let interval_ms = retention_ms.min(HOUR_MS);
                let sample_ms = (interval_ms / SAMPLES_PER_INTERVAL).max(1);
                self.next_check = now + sample_ms;
                let window = retention_ms / sample_ms + 1;
                let oldest = self.samples.front().copied();
                self.samples.push_back(current);
                if self.samples.len() as u64 > window {
                    self.samples.pop_front();
                }
                if now.since(self.last_success) < self.interval_ms {
                    return None;
                }
                oldest?
            }
        };
        (is_leader && target > 0 && target != self.last_target).then_some(target)
    }

    fn proposed(&mut self, target: i64, now: Time) {
        self.last_target = target;
        self.last_success = now;
        if let AutoCompaction::Periodic { retention_ms } = self.mode {
            self.interval_ms = retention_ms.min(HOUR_MS);
        }
    }
}

impl<R: Reader> Node<R> {
    pub(crate) fn auto_compact(&mut self) {
        let (current, is_leader) = (self.store.current(), self.raft.is_leader());
        let Some(target) = self.compactor.target(self.now, current, is_leader) else { return };
        self.compactor.proposed(target, self.now);
        self.info("starting auto compaction", vec![("revision", target.to_string())]);
        let request = pb::CompactionRequest { revision: target, physical: false };
        self.propose_own(&Command::Compaction(request));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periodic_compacts_at_what_was_current_about_a_period_ago() {
        let period = 600_000;
        let mode = AutoCompaction::Periodic { retention_ms: period };
        let mut compactor = Compactor::new(mode, Time::from_ms(0));
        let mut compacted = Vec::new();
        for minute in 0..=30 {
            let now = Time::from_ms(minute * 60_000);
            if let Some(target) = compactor.target(now, minute.cast_signed() + 100, true) {
                compactor.proposed(target, now);
                compacted.push((minute, target));
            }
        }
        // (The window holds one sample more than a period, as etcd's does.)
        assert_eq!(compacted, [(10, 100), (20, 109), (30, 119)]);
    }

    #[test]
    fn revision_keeps_a_number() {
        let mode = AutoCompaction::Revision { retention: 10 };
        let mut compactor = Compactor::new(mode, Time::from_ms(0));
        let at = |minutes: u64| Time::from_ms(minutes * 60_000);
        assert_eq!(compactor.target(at(4), 100, true), None);
        assert_eq!(compactor.target(at(5), 100, true), Some(90));
        compactor.proposed(90, at(5));
        assert_eq!(compactor.target(at(10), 100, true), None, "unchanged");
        assert_eq!(compactor.target(at(15), 120, false), None, "not leading");
    }
}
