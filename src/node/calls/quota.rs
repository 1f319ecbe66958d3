//! What requests cost, and whether it fits.

use norn_proto::etcdserverpb as pb;

use crate::command::Command;
use crate::{Error, Node, Reader};

/// What a key costs beside its bytes, for the quota (etcd's estimate).
const KEY_COST: u64 = 256;
pub(super) const LEASE_COST: u64 = 64;

impl<R: Reader> Node<R> {
    pub(crate) fn fits_quota(&self, cost: u64) -> bool {
        match self.config.quota() {
            Some(quota) if cost > 0 => self.db_bytes().0 + cost < quota,
            _ => true,
        }
    }

    pub(super) fn check_quota(&mut self, cost: u64) -> Result<(), Error> {
        if self.fits_quota(cost) {
            return Ok(());
        }
        self.raise_no_space();
        Err(Error::NoSpace)
    }

    /// Tells the cluster that this member is full.
    pub(crate) fn raise_no_space(&mut self) {
        let alarm = (self.id, i32::from(pb::AlarmType::Nospace));
        let is_proposed = self.alarm_proposed.is_some_and(|id| self.proposals.contains_key(&id));
        if is_proposed || self.alarms.contains(&alarm) {
            return;
        }
        self.warn(
            "database space exceeded; raising alarm",
            vec![("local-member-id", format!("{:x}", self.id))],
        );
        let request = pb::AlarmRequest {
            action: pb::alarm_request::AlarmAction::Activate.into(),
            member_id: self.id,
            alarm: pb::AlarmType::Nospace.into(),
        };
        self.alarm_proposed = Some(self.propose_own(&Command::Alarm(request)));
    }
}

pub(crate) fn put_cost(r: &pb::PutRequest) -> u64 {
    KEY_COST + r.key.len() as u64 + r.value.len() as u64
}

pub(crate) fn txn_cost(r: &pb::TxnRequest) -> u64 {
    use pb::request_op::Request;
    let branch = |ops: &[pb::RequestOp]| -> u64 {
        ops.iter()
            .map(|op| match &op.request {
                Some(Request::RequestPut(put)) => put_cost(put),
                Some(Request::RequestTxn(txn)) => txn_cost(txn),
                _ => 0,
            })
            .sum()
    };
    branch(&r.success).max(branch(&r.failure))
}

pub(crate) fn lease_cost() -> u64 {
    LEASE_COST
}
