//! Leases: promises that keys vanish unless somebody keeps asking for them.
//!
//! Grant, revocation and checkpoints are applied from the log, so every member knows the same leases and keys. Only
//! the leader runs clocks: it restarts them all when it begins to lead (full or checkpointed time, plus one election
//! timeout, so that nothing expires early), and proposes a revocation for each lease that runs out.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use bytes::Bytes;
use norn_planted::planted;

use crate::Time;

/// Seconds; beyond it a clock in nanoseconds would overflow (etcd's limit).
pub(crate) const TTL_MAX: i64 = 9_000_000_000;
/// Leases given to the log per scan, as in etcd: bounds the burst of revocations.
pub(crate) const EXPIRED_MAX: usize = 500;
/// With at least this many leases a new leader spreads what would expire together.
const SPREAD_FROM: usize = 1000;
/// Expiries per second after a change of leader: three quarters of what one scan a second could revoke.
const SPREAD_PER_SECOND: usize = 750;
/// Leases longer than this are checkpointed at this interval.
pub(crate) const CHECKPOINT_INTERVAL_MS: u64 = 300_000;
/// Checkpoints per proposal.
pub(crate) const CHECKPOINTS_MAX: usize = 1000;

#[derive(Clone, Debug)]
struct Lease {
    /// Seconds granted.
    ttl: i64,
    /// Seconds left at the last checkpoint; 0 when there was none since the last renewal.
    remaining_ttl: i64,
    /// On the leader: when it runs out.
    expires: Option<Time>,
    /// Where it stands in `Lessor::due` and `Lessor::checkpoints_due`, so that nobody has to look for it there.
    due: Option<Time>,
    checkpoint_due: Option<Time>,
    /// Ascending: revocation deletes keys in this order on all members.
    keys: BTreeSet<Bytes>,
}

impl Lease {
    fn left_ms(&self) -> u64 {
        let seconds = if self.remaining_ttl > 0 { self.remaining_ttl } else { self.ttl };
        seconds.unsigned_abs().saturating_mul(1000)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenewError {
    NotFound,
    /// Another member keeps the clocks.
    NotPrimary,
    /// It ran out; its revocation is under way.
    Expired,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseTime {
    /// Whole seconds left; may be 0 or less while the revocation is under way.
    pub remaining: i64,
    pub granted: i64,
}

#[derive(Debug)]
pub struct Lessor {
    ttl_min: i64,
    leases: BTreeMap<i64, Lease>,
    /// A key has at most one lease: that of its last put.
    keys: BTreeMap<Bytes, i64>,
    is_primary: bool,
    /// Leases by expiry, while this member leads. A lease whose revocation was proposed is due again later.
    due: BTreeSet<(Time, i64)>,
    /// Each at most once, however often it is renewed.
    checkpoints_due: BTreeSet<(Time, i64)>,
}

/// Moves a lease within what is due, or takes it out.
fn schedule(all: &mut BTreeSet<(Time, i64)>, at: &mut Option<Time>, id: i64, next: Option<Time>) {
    if let Some(old) = std::mem::replace(at, next) {
        all.remove(&(old, id));
    }
    if let Some(next) = next {
        all.insert((next, id));
    }
}

impl Lessor {
    /// `ttl_min` in seconds: shorter leases are raised to it, so that one change of leader cannot outlast them.
    pub fn new(ttl_min: i64) -> Lessor {
        Lessor {
            ttl_min,
            leases: BTreeMap::new(),
            keys: BTreeMap::new(),
            is_primary: false,
            due: BTreeSet::new(),
            checkpoints_due: BTreeSet::new(),
        }
    }

    pub fn len(&self) -> usize {
        self.leases.len()
    }

    pub fn is_empty(&self) -> bool {
        self.leases.is_empty()
    }

    pub fn is_primary(&self) -> bool {
        self.is_primary
    }

    pub fn contains(&self, id: i64) -> bool {
        self.leases.contains_key(&id)
    }

    /// The lease must not exist. Returns the effective TTL in seconds.
    pub fn grant(&mut self, id: i64, ttl: i64, now: Time) -> i64 {
        let ttl = ttl.max(self.ttl_min);
        self.restore(id, ttl, 0);
        if self.is_primary {
            self.start_clock(id, now);
        }
        ttl
    }

    /// Puts back a stored lease.
    pub fn restore(&mut self, id: i64, ttl: i64, remaining_ttl: i64) {
        let lease = Lease {
            ttl: ttl.max(self.ttl_min),
            remaining_ttl,
            expires: None,
            due: None,
            checkpoint_due: None,
            keys: BTreeSet::new(),
        };
        self.leases.insert(id, lease);
    }

    /// The attached keys in byte order, `None` if there is no such lease. They stay attached until deleted.
    pub fn keys_of(&self, id: i64) -> Option<impl Iterator<Item = &Bytes>> {
        self.leases.get(&id).map(|lease| lease.keys.iter())
    }

    /// After its keys were deleted.
    pub fn remove(&mut self, id: i64) {
        if let Some(mut lease) = self.leases.remove(&id) {
            for key in &lease.keys {
                self.keys.remove(key);
            }
            schedule(&mut self.due, &mut lease.due, id, None);
            schedule(&mut self.checkpoints_due, &mut lease.checkpoint_due, id, None);
        }
    }

    /// A put with `lease` (0 for none): the key leaves its old lease.
    pub fn attach(&mut self, key: &Bytes, lease: i64) {
        self.detach(key);
        if lease != 0
            && let Some(entry) = self.leases.get_mut(&lease)
        {
            entry.keys.insert(key.clone());
            self.keys.insert(key.clone(), lease);
        }
    }

    /// Attached keys and their leases, in byte order.
    pub(crate) fn attached(&self, from: Bound<Bytes>) -> impl Iterator<Item = (&Bytes, i64)> {
        self.keys.range((from, Bound::Unbounded)).map(|(key, lease)| (key, *lease))
    }

    /// Forgets which keys the leases have.
    pub(crate) fn detach_all(&mut self) {
        self.keys.clear();
        self.leases.values_mut().for_each(|lease| lease.keys.clear());
    }

    pub fn detach(&mut self, key: &[u8]) {
        if self.keys.is_empty() {
            return;
        }
        if let Some(old) = self.keys.remove(key)
            && let Some(lease) = self.leases.get_mut(&old)
        {
            lease.keys.remove(key);
        }
    }

    /// This member leads now: all clocks start, `extend_ms` later than granted.
    pub fn promote(&mut self, now: Time, extend_ms: u64) {
        self.stop_clocks();
        self.is_primary = true;
        let mut order: Vec<(u64, i64)> =
            self.leases.iter().map(|(id, lease)| (lease.left_ms(), *id)).collect();
        order.sort_unstable();
        let spread = order.len() >= SPREAD_FROM;
        let (mut second, mut in_second) = (0, 0);
        for (left_ms, id) in order {
            let mut left_ms = left_ms;
            if spread {
                let wanted = left_ms / 1000;
                if wanted > second {
                    (second, in_second) = (wanted, 0);
                }
                if in_second == SPREAD_PER_SECOND {
                    (second, in_second) = (second + 1, 0);
                }
                in_second += 1;
                left_ms = left_ms.max(second * 1000);
            }
            let expires = now + left_ms + extend_ms;
            if !planted!(LeaseClockStopped) {
                self.set_expiry(id, expires, now);
            }
        }
    }

    pub fn demote(&mut self) {
        self.is_primary = false;
        self.stop_clocks();
    }

    fn stop_clocks(&mut self) {
        self.due.clear();
        self.checkpoints_due.clear();
        for lease in self.leases.values_mut() {
            (lease.expires, lease.due, lease.checkpoint_due) = (None, None, None);
        }
    }

    /// The clock starts over from the full TTL, which is returned. The flag tells that a checkpoint must be undone
    /// in the log first.
    pub fn renew(&mut self, id: i64, now: Time) -> Result<(i64, bool), RenewError> {
        if !self.is_primary {
            return Err(RenewError::NotPrimary);
        }
        let lease = self.leases.get_mut(&id).ok_or(RenewError::NotFound)?;
        if lease.expires.is_some_and(|expires| expires <= now) {
            return Err(RenewError::Expired);
        }
        let checkpointed = lease.remaining_ttl > 0;
        lease.remaining_ttl = 0;
        let ttl = lease.ttl;
        self.start_clock(id, now);
        Ok((ttl, checkpointed))
    }

    pub fn time_left(&self, id: i64, now: Time) -> Option<LeaseTime> {
        let lease = self.leases.get(&id)?;
        let remaining = match lease.expires {
            Some(expires) if expires >= now => (expires.since(now) / 1000).cast_signed(),
            Some(expires) => -((now.since(expires) / 1000).cast_signed()),
            None => lease.ttl,
        };
        Some(LeaseTime { remaining, granted: lease.ttl })
    }

    /// Ids by time left on the leader, by id elsewhere.
    pub fn ids(&self) -> Vec<i64> {
        let mut ids: Vec<i64> = self.leases.keys().copied().collect();
        if self.is_primary {
            ids.sort_by_key(|id| self.leases[id].expires);
        }
        ids
    }

    /// When the next lease runs out.
    pub fn next_due(&self) -> Option<Time> {
        self.due.first().map(|(time, _)| *time)
    }

    /// Leases that ran out, at most `EXPIRED_MAX`; each is due again `retry_ms` later, in case its revocation
    /// gets lost.
    pub fn take_expired(&mut self, now: Time, retry_ms: u64) -> Vec<i64> {
        let due = self.due.iter().take_while(|(time, _)| *time <= now);
        let expired: Vec<i64> = due.take(EXPIRED_MAX).map(|(_, id)| *id).collect();
        for id in &expired {
            if let Some(lease) = self.leases.get_mut(id) {
                schedule(&mut self.due, &mut lease.due, *id, Some(now + retry_ms));
            }
        }
        expired
    }

    /// Seconds left for leases whose checkpoint is due, at most `CHECKPOINTS_MAX`.
    pub fn take_checkpoints(&mut self, now: Time) -> Vec<(i64, i64)> {
        let due = self.checkpoints_due.iter().take_while(|(time, _)| *time <= now);
        let due: Vec<i64> = due.take(CHECKPOINTS_MAX).map(|(_, id)| *id).collect();
        let mut taken = Vec::new();
        for id in due {
            let Some(lease) = self.leases.get_mut(&id) else { continue };
            let left_ms = lease.expires.map_or(0, |expires| expires.since(now));
            let next = (left_ms > CHECKPOINT_INTERVAL_MS).then_some(now + CHECKPOINT_INTERVAL_MS);
            schedule(&mut self.checkpoints_due, &mut lease.checkpoint_due, id, next);
            taken.push((id, left_ms.div_ceil(1000).cast_signed()));
        }
        taken
    }

    /// Applies a checkpoint from the log. Returns what is to be stored.
    pub fn checkpoint(&mut self, id: i64, remaining_ttl: i64, now: Time) -> Option<(i64, i64)> {
        let lease = self.leases.get_mut(&id)?;
        lease.remaining_ttl = remaining_ttl;
        let stored = (lease.ttl, remaining_ttl);
        if self.is_primary && remaining_ttl > 0 {
            let due = Some(now + CHECKPOINT_INTERVAL_MS);
            schedule(&mut self.checkpoints_due, &mut lease.checkpoint_due, id, due);
        }
        Some(stored)
    }

    fn start_clock(&mut self, id: i64, now: Time) {
        let Some(lease) = self.leases.get(&id) else { return };
        let expires = now + lease.left_ms();
        self.set_expiry(id, expires, now);
    }

    fn set_expiry(&mut self, id: i64, expires: Time, now: Time) {
        let Some(lease) = self.leases.get_mut(&id) else { return };
        lease.expires = Some(expires);
        schedule(&mut self.due, &mut lease.due, id, Some(expires));
        if expires.since(now) > CHECKPOINT_INTERVAL_MS {
            let due = Some(now + CHECKPOINT_INTERVAL_MS);
            schedule(&mut self.checkpoints_due, &mut lease.checkpoint_due, id, due);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &'static str) -> Bytes {
        Bytes::from_static(name.as_bytes())
    }

    #[test]
    fn short_leases_are_raised_and_expire_only_on_the_leader() {
        let mut lessor = Lessor::new(2);
        let start = Time::from_ms(1000);
        assert_eq!(lessor.grant(1, 0, start), 2);
        assert!(lessor.take_expired(start + 1_000_000, 7000).is_empty());
        lessor.promote(start, 1000);
        assert!(lessor.take_expired(start + 2999, 7000).is_empty());
        assert_eq!(lessor.take_expired(start + 3000, 7000), [1]);
        assert!(lessor.take_expired(start + 3001, 7000).is_empty(), "asked for once");
        assert_eq!(lessor.take_expired(start + 10_000, 7000), [1], "and again when it got lost");
        assert_eq!(lessor.renew(1, start + 3500), Err(RenewError::Expired));
    }

    #[test]
    fn renewal_restarts_the_clock() {
        let mut lessor = Lessor::new(2);
        let start = Time::from_ms(0);
        lessor.promote(start, 0);
        lessor.grant(5, 10, start);
        assert_eq!(lessor.renew(5, start + 9000), Ok((10, false)));
        let left = lessor.time_left(5, start + 9500).unwrap();
        assert_eq!(left, LeaseTime { remaining: 9, granted: 10 });
        assert!(lessor.take_expired(start + 18_999, 7000).is_empty());
        assert_eq!(lessor.take_expired(start + 19_000, 7000), [5]);
        lessor.demote();
        assert_eq!(lessor.renew(5, start), Err(RenewError::NotPrimary));
    }

    #[test]
    fn keys_follow_their_last_put() {
        let mut lessor = Lessor::new(2);
        let now = Time::from_ms(0);
        lessor.grant(1, 10, now);
        lessor.grant(2, 10, now);
        for name in ["c", "a", "b"] {
            lessor.attach(&key(name), 1);
        }
        lessor.attach(&key("b"), 2);
        lessor.detach(b"c");
        assert_eq!(lessor.keys_of(1).unwrap().collect::<Vec<_>>(), [&key("a")]);
        assert_eq!(lessor.keys_of(2).unwrap().collect::<Vec<_>>(), [&key("b")]);
        lessor.remove(2);
        assert!(lessor.keys_of(2).is_none());
        lessor.attach(&key("b"), 0);
        assert_eq!(lessor.keys_of(1).unwrap().count(), 1);
    }

    #[test]
    fn a_new_leader_spreads_what_would_expire_together() {
        let mut lessor = Lessor::new(2);
        let now = Time::from_ms(0);
        for id in 1..=2000 {
            lessor.grant(id, 10, now);
        }
        lessor.promote(now, 0);
        let due = |ms| lessor.due.iter().filter(|(t, _)| t.ms <= ms).count();
        assert_eq!((due(9_999), due(10_000), due(11_000), due(12_000)), (0, 750, 1500, 2000));
    }

    /// Whatever happens to a lease, what is due of it stands in one place, and goes with it.
    #[test]
    fn a_lease_is_due_once_however_often_it_is_renewed() {
        let mut lessor = Lessor::new(2);
        let now = Time::from_ms(0);
        lessor.promote(now, 0);
        for id in [1, 2] {
            lessor.grant(id, 1000, now);
        }
        for ms in 0..500 {
            lessor.renew(1, now + ms).unwrap();
        }
        lessor.checkpoint(2, 900, now + 500);
        assert_eq!(lessor.take_expired(now + 2_000_000, 7000), [2, 1]);
        assert_eq!((lessor.due.len(), lessor.checkpoints_due.len()), (2, 2));
        lessor.remove(1);
        assert_eq!((lessor.due.len(), lessor.checkpoints_due.len()), (1, 1));
        lessor.remove(2);
        assert!(lessor.due.is_empty() && lessor.checkpoints_due.is_empty());
    }

    #[test]
    fn checkpointed_time_survives_a_change_of_leader() {
        let mut lessor = Lessor::new(2);
        let now = Time::from_ms(0);
        lessor.promote(now, 0);
        lessor.grant(1, 1000, now);
        let later = now + CHECKPOINT_INTERVAL_MS;
        assert_eq!(lessor.take_checkpoints(later), [(1, 700)]);
        lessor.checkpoint(1, 700, later);
        lessor.demote();
        lessor.promote(later, 0);
        assert_eq!(lessor.time_left(1, later).unwrap().remaining, 700);
        assert_eq!(lessor.renew(1, later), Ok((1000, true)));
    }
}
