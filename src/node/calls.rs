//! The front door: requests are decoded, checked, and become a reply, a read that waits, or a proposal.

mod leases;
mod maintenance;
mod proposals;
mod quota;

use bytes::Bytes;
use norn_planted::planted;
use norn_proto::etcdserverpb as pb;
use norn_raft::NodeId;
use prost::Message;

use crate::command::Command;
use crate::counters::Work;
use crate::input::{Method, Token};
use crate::reads::{Read, ReadKind};
use crate::watchers::StreamId;
use crate::wire::Writer;
use crate::{Error, Node, Reader, convert};

pub(crate) use leases::keep_alive_reply;
pub(crate) use proposals::PROPOSAL_BYTES;
pub(crate) use quota::{lease_cost, put_cost, txn_cost};

fn decode<M: Message + Default>(body: Bytes) -> Result<M, Error> {
    M::decode(body).map_err(|error| Error::Malformed(error.to_string()))
}

impl<R: Reader> Node<R> {
    pub(crate) fn call(&mut self, token: Token, method: Method, body: Bytes) {
        match self.try_call(token, method, body) {
            Ok(Some(reply)) => self.reply(token, Ok(reply)),
            Ok(None) => {}
            Err(error) => {
                // (Whoever cannot read what it has must not go on: the next answer may be a wrong one.)
                if let Error::Storage(reason) = &error {
                    self.fail(reason);
                }
                self.reply(token, Err(error));
            }
        }
    }

    /// `Ok(None)`: the reply will come.
    fn try_call(
        &mut self,
        token: Token,
        method: Method,
        body: Bytes,
    ) -> Result<Option<Bytes>, Error> {
        if self.is_learner() {
            let allowed = match method {
                Method::Status | Method::Export | Method::Barrier => true,
                Method::Range => decode::<pb::RangeRequest>(body.clone())?.serializable,
                _ => false,
            };
            if !allowed {
                return Err(Error::NotSupportedForLearner);
            }
        }
        match method {
            Method::Range => self.range(token, body),
            Method::Put => self.put(token, body),
            Method::DeleteRange => self.delete_range(token, body),
            Method::Txn => self.txn(token, body),
            Method::Compact => {
                let r: pb::CompactionRequest = decode(body)?;
                self.propose(token, &Command::Compaction(r))
            }
            Method::LeaseGrant => self.lease_grant(token, body),
            Method::LeaseRevoke => self.propose(token, &Command::LeaseRevoke(decode(body)?)),
            Method::LeaseKeepAlive => self.lease_keep_alive(token, body),
            Method::LeaseTimeToLive => self.lease_time_to_live(token, body),
            Method::LeaseLeases => {
                decode::<pb::LeaseLeasesRequest>(body)?;
                let mut w = Writer::default();
                w.header(&self.header());
                for id in self.lessor.ids() {
                    w.nested(2, |w| w.int(1, id));
                }
                Ok(Some(w.finish()))
            }
            Method::MemberAdd => self.member_add(token, decode(body)?),
            Method::MemberRemove => self.member_remove(token, decode(body)?),
            Method::MemberUpdate => self.member_update(token, decode(body)?),
            Method::MemberPromote => self.member_promote(token, decode(body)?),
            Method::MemberList => {
                let r: pb::MemberListRequest = decode(body)?;
                if r.linearizable {
                    self.read(token, ReadKind::MemberList);
                    return Ok(None);
                }
                Ok(Some(self.member_list_reply()))
            }
            Method::Alarm => self.alarm(token, body),
            Method::Status => {
                decode::<pb::StatusRequest>(body)?;
                Ok(Some(self.status_reply()))
            }
            Method::Defragment => {
                decode::<pb::DefragmentRequest>(body)?;
                // There is nothing to do that the collector does not do anyway.
                Ok(Some(Bytes::new()))
            }
            Method::Hash => {
                decode::<pb::HashRequest>(body)?;
                self.hash_reply().map(Some)
            }
            Method::HashKv => self.hash_kv_reply(body).map(Some),
            Method::MoveLeader => self.move_leader(token, body),
            Method::AuthStatus => self.propose(token, &Command::AuthStatus),
            Method::Downgrade => self.downgrade(token, &decode(body)?),
            Method::Barrier => {
                self.read(token, ReadKind::Barrier);
                Ok(None)
            }
            Method::Export => {
                self.export_for(token);
                Ok(None)
            }
        }
    }

    pub(crate) fn forget(&mut self, token: Token) {
        if planted!(ForgottenKept) {
            return;
        }
        self.reads.forget(token);
        self.transfers.retain(|(other, _, _)| *other != token);
        self.changes.retain(|_, other| *other != token);
        self.compact_waits.retain(|(_, other, _)| *other != token);
        for tokens in self.lease_waits.values_mut() {
            tokens.retain(|other| *other != token);
        }
    }

    fn range(&mut self, token: Token, body: Bytes) -> Result<Option<Bytes>, Error> {
        let r: pb::RangeRequest = decode(body)?;
        let request = convert::range_request(&r)?;
        if r.serializable {
            if planted!(ReadBehindWatch) && self.store.current() - 1 > self.store.compacted() {
                let request =
                    norn_mvcc::RangeRequest { revision: self.store.current() - 1, ..request };
                let result = self.store.range(&self.backend, &request)?;
                return Ok(Some(convert::range_reply(&self.header_at(request.revision), &result)));
            }
            return self.range_reply(&request).map(Some);
        }
        self.read(token, ReadKind::Range(request));
        Ok(None)
    }

    fn range_reply(&mut self, request: &norn_mvcc::RangeRequest) -> Result<Bytes, Error> {
        self.counters.add(&Work::range());
        let result = self.store.range(&self.backend, request);
        self.counters.range_calls[usize::from(result.is_ok())] += 1;
        let result = result?;
        Ok(convert::range_reply(&self.header_at(result.revision), &result))
    }

    fn put(&mut self, token: Token, body: Bytes) -> Result<Option<Bytes>, Error> {
        let r: pb::PutRequest = decode(body)?;
        self.check_quota(put_cost(&r))?;
        convert::put_request(&r).check()?;
        self.propose(token, &Command::Put(r))
    }

    fn delete_range(&mut self, token: Token, body: Bytes) -> Result<Option<Bytes>, Error> {
        let r: pb::DeleteRangeRequest = decode(body)?;
        if r.key.is_empty() {
            return Err(Error::EmptyKey);
        }
        self.propose(token, &Command::DeleteRange(r))
    }

    fn txn(&mut self, token: Token, body: Bytes) -> Result<Option<Bytes>, Error> {
        let r: pb::TxnRequest = decode(body)?;
        self.check_quota(txn_cost(&r))?;
        let request = convert::txn_request(&r)?;
        norn_mvcc::check_txn(&request, self.config.txn_ops_max)?;
        if !request.is_read_only() {
            return self.propose(token, &Command::Txn(r));
        }
        if is_serializable(&r) {
            return self.read_txn_reply(&request).map(Some);
        }
        self.read(token, ReadKind::Txn(request));
        Ok(None)
    }

    fn read_txn_reply(&mut self, request: &norn_mvcc::TxnRequest) -> Result<Bytes, Error> {
        let result = request.read(&self.store, &self.backend)?;
        self.counters.add(&Work::txn(request, &result));
        Ok(convert::txn_reply(&self.header_at(result.revision), &result))
    }

    fn alarm(&mut self, token: Token, body: Bytes) -> Result<Option<Bytes>, Error> {
        let r: pb::AlarmRequest = decode(body)?;
        if pb::alarm_request::AlarmAction::try_from(r.action).is_err() {
            return Err(Error::UnknownMethod);
        }
        self.propose(token, &Command::Alarm(r))
    }

    fn move_leader(&mut self, token: Token, body: Bytes) -> Result<Option<Bytes>, Error> {
        let r: pb::MoveLeaderRequest = decode(body)?;
        if !self.raft.is_leader() {
            return Err(Error::NotLeader);
        }
        if self.members.member(r.target_id).is_none_or(|m| m.is_learner) {
            return Err(Error::BadLeaderTransferee);
        }
        if r.target_id == self.id {
            return Ok(Some(Bytes::new()));
        }
        self.raft.transfer_leader(NodeId(r.target_id));
        let deadline = self.now + self.config.request_timeout_ms();
        self.transfers.push((token, r.target_id, deadline));
        Ok(None)
    }

    /// Before the server leaves: somebody else should lead, the member whose connection is oldest.
    pub(crate) fn hand_over(&mut self) {
        if !self.raft.is_leader() {
            return;
        }
        let voters = self.members.voters().filter(|m| m.id != self.id);
        let oldest =
            voters.filter_map(|m| Some((self.peers.get(&m.id)?.active_since?, m.id))).min();
        if let Some((_, target)) = oldest {
            self.info(
                "leadership transfer starting",
                vec![
                    ("local-member-id", format!("{:x}", self.id)),
                    ("transferee-member-id", format!("{target:x}")),
                ],
            );
            self.raft.transfer_leader(NodeId(target));
        }
    }

    pub(crate) fn watch_request(&mut self, stream: StreamId, body: &Bytes) {
        use pb::watch_request::RequestUnion;
        let Ok(request) = pb::WatchRequest::decode(body.clone()) else { return };
        // The header must not be ahead of what was appended for history to be read.
        self.commit_applied();
        let header = self.header();
        match request.request_union {
            Some(RequestUnion::CreateRequest(r)) => self.watchers.create(stream, &r, &header),
            Some(RequestUnion::CancelRequest(r)) => {
                self.watchers.cancel(stream, r.watch_id, &header);
            }
            Some(RequestUnion::ProgressRequest(_)) => {
                self.watchers.request_progress(stream, &header);
            }
            None => {}
        }
    }

    pub(crate) fn read(&mut self, token: Token, kind: ReadKind) {
        self.reads.add(Read { token, started: self.now, kind });
    }

    /// Without asking anybody: for what only the leader knows, and everybody else asks it for.
    fn wait_applied(&mut self, token: Token, kind: ReadKind) {
        let read = Read { token, started: self.now, kind };
        self.reads.wait_applied(self.raft.committed().0, read);
    }

    pub(crate) fn ask_read_index(&mut self) {
        if self.reads.wants_round(self.now) {
            let context = Bytes::copy_from_slice(&self.ids.next().to_be_bytes());
            self.reads.asked(context.clone(), self.now);
            if planted!(ReadUnconfirmed) {
                self.reads.confirmed(&context, self.applied);
            }
            self.raft.read_index(context);
        }
    }

    pub(crate) fn release_reads(&mut self) {
        let applied = self.applied + u64::from(planted!(ReadReleasedEarly));
        for read in self.reads.take_released(applied) {
            let result = match &read.kind {
                ReadKind::Range(request) => self.range_reply(request).map(Some),
                ReadKind::Txn(request) => self.read_txn_reply(request).map(Some),
                ReadKind::MemberList => Ok(Some(self.member_list_reply())),
                ReadKind::LeaseRenew(id) => self.renew(read.token, *id, false),
                ReadKind::LeaseRenewApplied(id) => self.renew(read.token, *id, true),
                ReadKind::LeaseTimeToLive(request) => self.time_to_live_reply(request).map(Some),
                ReadKind::Downgrade(downgrade) => self.downgrade_confirmed(read.token, *downgrade),
                ReadKind::Barrier => Ok(Some(Bytes::new())),
            };
            match result {
                Ok(Some(reply)) => self.reply(read.token, Ok(reply)),
                Ok(None) => {}
                Err(Error::Storage(reason)) => {
                    self.fail(&reason);
                    self.reply(read.token, Err(Error::Storage(reason)));
                }
                Err(error) => self.reply(read.token, Err(error)),
            }
        }
    }

    pub(crate) fn expire_reads(&mut self) {
        let timeout_ms = self.config.request_timeout_ms();
        for token in self.reads.take_expired(self.now, timeout_ms) {
            self.counters.read_indexes_failed += 1;
            self.reply(token, Err(Error::Timeout));
        }
        for token in self.reads.take_behind(self.now) {
            self.reply(token, Err(Error::TimeoutWaitAppliedIndex));
        }
        if self.reads.oldest().is_some_and(|started| self.now.since(started) > 1_000) {
            self.counters.read_indexes_slow += 1;
        }
    }
}

impl Error {
    pub(crate) fn from_infallible(error: norn_mvcc::Error<std::convert::Infallible>) -> Error {
        error.into()
    }
}

/// Every range of it may be served from local state. True also for a transaction with no operations at all.
fn is_serializable(r: &pb::TxnRequest) -> bool {
    r.success.iter().chain(&r.failure).all(|op| match &op.request {
        Some(pb::request_op::Request::RequestRange(range)) => range.serializable,
        _ => false,
    })
}
