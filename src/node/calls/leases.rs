//! Leases: granted, renewed, asked for, and ended when they ran out.

use bytes::Bytes;
use norn_planted::planted;
use norn_proto::etcdserverpb as pb;

use super::decode;
use super::quota::LEASE_COST;
use crate::command::Command;
use crate::input::Token;
use crate::lease::RenewError;
use crate::reads::ReadKind;
use crate::wire::{Header, Writer};
use crate::{Error, Node, Reader};

/// How often the leader looks for leases that ran out.
const LEASE_SCAN_MS: u64 = 500;

impl<R: Reader> Node<R> {
    pub(super) fn lease_grant(
        &mut self,
        token: Token,
        body: Bytes,
    ) -> Result<Option<Bytes>, Error> {
        let mut r: pb::LeaseGrantRequest = decode(body)?;
        self.check_quota(LEASE_COST)?;
        if r.id == 0 {
            // Positive, so that it prints the same everywhere.
            r.id = (self.ids.next() & (i64::MAX as u64)).cast_signed();
        }
        self.propose(token, &Command::LeaseGrant(r))
    }

    pub(super) fn lease_keep_alive(
        &mut self,
        token: Token,
        body: Bytes,
    ) -> Result<Option<Bytes>, Error> {
        let r: pb::LeaseKeepAliveRequest = decode(body)?;
        self.renew(token, r.id, true)
    }

    /// A leader that cannot reach the others renews in good faith, no longer than its successor gives everybody in addition.
    /// One that stood still must prove first that it leads: it does not know how long its successor has been there.
    pub(super) fn renew(
        &mut self,
        token: Token,
        id: i64,
        may_wait: bool,
    ) -> Result<Option<Bytes>, Error> {
        if !self.raft.is_leader() {
            return Err(Error::NotPrimaryLessor);
        }
        let is_sure = self.doubt.is_none() && !self.stood_still();
        if !is_sure && !planted!(RenewUnproved) {
            self.read(token, ReadKind::LeaseRenew(id));
            return Ok(None);
        }
        let header = self.header();
        let ttl = match self.lessor.renew(id, self.now) {
            Ok((ttl, checkpointed)) => {
                if checkpointed {
                    let checkpoints = vec![pb::LeaseCheckpoint { id, remaining_ttl: 0 }];
                    let undo = pb::LeaseCheckpointRequest { checkpoints };
                    self.propose_own(&Command::LeaseCheckpoint(undo));
                }
                self.counters.leases_renewed += 1;
                ttl
            }
            // (It may be granted already: members whose disks are faster apply, and answer, before the leader does.)
            Err(RenewError::NotFound) if may_wait && self.raft.committed().0 > self.applied => {
                self.wait_applied(token, ReadKind::LeaseRenewApplied(id));
                return Ok(None);
            }
            // There may be another leader by now, who knows of it: nobody is told that a lease is gone without proof.
            Err(RenewError::NotFound) if may_wait => {
                self.read(token, ReadKind::LeaseRenew(id));
                return Ok(None);
            }
            Err(RenewError::NotFound) => 0,
            Err(RenewError::NotPrimary) => return Err(Error::NotPrimaryLessor),
            Err(RenewError::Expired) => {
                self.lease_waits.entry(id).or_default().push(token);
                return Ok(None);
            }
        };
        Ok(Some(keep_alive_reply(&header, id, ttl)))
    }

    /// Waits until what is committed is applied: a put that a faster member answered must show its key here.
    pub(super) fn lease_time_to_live(
        &mut self,
        token: Token,
        body: Bytes,
    ) -> Result<Option<Bytes>, Error> {
        let request = decode(body)?;
        if !self.lessor.is_primary() {
            return Err(Error::NotPrimaryLessor);
        }
        if self.raft.committed().0 > self.applied {
            self.wait_applied(token, ReadKind::LeaseTimeToLive(request));
            return Ok(None);
        }
        self.time_to_live_reply(&request).map(Some)
    }

    pub(super) fn time_to_live_reply(
        &self,
        r: &pb::LeaseTimeToLiveRequest,
    ) -> Result<Bytes, Error> {
        if !self.lessor.is_primary() {
            return Err(Error::LeaderChanged);
        }
        let mut w = Writer::default();
        w.header(&self.header());
        w.int(2, r.id);
        match self.lessor.time_left(r.id, self.now) {
            Some(time) => {
                w.int(3, time.remaining);
                w.int(4, time.granted);
                if r.keys {
                    for key in self.lessor.keys_of(r.id).into_iter().flatten() {
                        w.message(5, key);
                    }
                }
            }
            None => w.int(3, -1),
        }
        Ok(w.finish())
    }

    /// The leader proposes to revoke what ran out, and to remember how much is left of what is long.
    pub(crate) fn expire_leases(&mut self) {
        let leads = self.raft.is_leader() || planted!(RevokeByExLeader);
        if !self.lessor.is_primary() || !leads || self.now < self.next_lease_scan {
            return;
        }
        self.next_lease_scan = self.now + LEASE_SCAN_MS;
        for id in self.lessor.take_expired(self.now, self.config.request_timeout_ms()) {
            self.counters.leases_expired += 1;
            self.propose_own(&Command::LeaseRevoke(pb::LeaseRevokeRequest { id }));
        }
        if !self.config.lease_checkpoint {
            return;
        }
        let due = self.lessor.take_checkpoints(self.now);
        if !due.is_empty() {
            let checkpoints = due
                .into_iter()
                .map(|(id, remaining_ttl)| pb::LeaseCheckpoint { id, remaining_ttl })
                .collect();
            let request = pb::LeaseCheckpointRequest { checkpoints };
            self.propose_own(&Command::LeaseCheckpoint(request));
        }
    }
}

pub(crate) fn keep_alive_reply(header: &Header, id: i64, ttl: i64) -> Bytes {
    let mut w = Writer::default();
    w.header(header);
    w.int(2, id);
    w.int(3, ttl);
    w.finish()
}
