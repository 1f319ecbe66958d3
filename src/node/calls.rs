//! The front door: requests are decoded, checked, and become a reply, a read that waits, or a proposal.

use bytes::Bytes;
use norn_planted::planted;
use norn_proto::etcdserverpb as pb;
use norn_raft::{NodeId, ProposeError};
use norn_storage::revlog::Table;
use prost::Message;

use crate::command::{Command, CommandHeader};
use crate::counters::Work;
use crate::input::{Method, Token};
use crate::lease::RenewError;
use crate::node::Proposal;
use crate::reads::{Read, ReadKind};
use crate::watchers::StreamId;
use crate::wire::{Header, Writer};
use crate::{Error, Node, Reader, convert};

/// Payload bytes handed to raft in one proposal message; a follower forwards each as one message to its leader.
pub(crate) const PROPOSAL_BYTES: usize = 1 << 20;
/// What a key costs beside its bytes, for the quota (etcd's estimate).
const KEY_COST: u64 = 256;
const LEASE_COST: u64 = 64;
/// How often the leader looks for leases that ran out.
const LEASE_SCAN_MS: u64 = 500;

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

    fn lease_grant(&mut self, token: Token, body: Bytes) -> Result<Option<Bytes>, Error> {
        let mut r: pb::LeaseGrantRequest = decode(body)?;
        self.check_quota(LEASE_COST)?;
        if r.id == 0 {
            // Positive, so that it prints the same everywhere.
            r.id = (self.ids.next() & (i64::MAX as u64)).cast_signed();
        }
        self.propose(token, &Command::LeaseGrant(r))
    }

    fn lease_keep_alive(&mut self, token: Token, body: Bytes) -> Result<Option<Bytes>, Error> {
        let r: pb::LeaseKeepAliveRequest = decode(body)?;
        self.renew(token, r.id, true)
    }

    /// A leader that cannot reach the others renews in good faith, no longer than its successor gives everybody in addition.
    /// One that stood still must prove first that it leads: it does not know how long its successor has been there.
    fn renew(&mut self, token: Token, id: i64, may_wait: bool) -> Result<Option<Bytes>, Error> {
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
    fn lease_time_to_live(&mut self, token: Token, body: Bytes) -> Result<Option<Bytes>, Error> {
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

    fn time_to_live_reply(&self, r: &pb::LeaseTimeToLiveRequest) -> Result<Bytes, Error> {
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

    fn alarm(&mut self, token: Token, body: Bytes) -> Result<Option<Bytes>, Error> {
        let r: pb::AlarmRequest = decode(body)?;
        if pb::alarm_request::AlarmAction::try_from(r.action).is_err() {
            return Err(Error::UnknownMethod);
        }
        self.propose(token, &Command::Alarm(r))
    }

    fn status_reply(&self) -> Bytes {
        let (db_bytes, used_bytes) = self.db_bytes();
        let mut errors = Vec::new();
        if !self.has_leader() {
            errors.push(Error::NoLeader.to_string());
        }
        // (In protobuf's text format, which leaves zeros out.)
        for (member, kind) in &self.alarms {
            let mut fields = Vec::new();
            if *member != 0 {
                fields.push(format!("memberID:{member}"));
            }
            match pb::AlarmType::try_from(*kind) {
                Ok(pb::AlarmType::None) => {}
                Ok(kind) => fields.push(format!("alarm:{}", kind.as_str_name())),
                Err(_) => fields.push(format!("alarm:{kind}")),
            }
            errors.push(fields.join(" "));
        }
        let quota = match self.config.quota_bytes {
            0 => 2 << 30,
            bytes => bytes,
        };
        let downgrade = self.downgrade_target();
        let header = self.header();
        pb::StatusResponse {
            header: Some(pb::ResponseHeader {
                cluster_id: header.cluster_id,
                member_id: header.member_id,
                revision: header.revision,
                raft_term: header.raft_term,
            }),
            version: crate::config::SERVER_VERSION.to_owned(),
            db_size: db_bytes.cast_signed(),
            leader: self.raft.leader().0,
            raft_index: self.raft.committed().0,
            raft_term: self.applied_term,
            raft_applied_index: self.applied,
            errors,
            db_size_in_use: used_bytes.cast_signed(),
            is_learner: self.is_learner(),
            storage_version: self.storage_version().unwrap_or_default(),
            db_size_quota: quota,
            downgrade_info: Some(pb::DowngradeInfo {
                enabled: downgrade.is_some(),
                target_version: downgrade.unwrap_or_default(),
            }),
        }
        .encode_to_vec()
        .into()
    }

    /// CRC-32C over every bucket, in name order: name, then keys and values, but for what differs between members.
    fn hash_reply(&self) -> Result<Bytes, Error> {
        let mut crc = 0;
        let mut add = |bytes: &[u8]| crc = crc32c::crc32c_append(crc, bytes);
        let skipped = [&b"term"[..], b"consistent_index", b"storageVersion"];
        let before =
            [Table::Alarm, Table::Auth, Table::AuthRoles, Table::AuthUsers, Table::Cluster];
        let after = [Table::Lease, Table::Members, Table::MembersRemoved, Table::Meta];
        for table in before {
            add(crate::export::bucket_name(table).as_bytes());
            for (key, value) in self.backend.log.table(table) {
                add(key);
                add(value);
            }
        }
        add(b"key");
        let all = norn_mvcc::Revision::default();
        norn_mvcc::Values::scan(&self.backend, all, i64::MAX, &mut |revision, tombstone, value| {
            let (key, len) = revision.to_bytes(tombstone);
            add(&key[..len]);
            add(value);
            std::ops::ControlFlow::Continue(())
        })
        .map_err(|error| Error::Storage(error.to_string()))?;
        for table in after {
            add(crate::export::bucket_name(table).as_bytes());
            for (key, value) in self.backend.log.table(table) {
                if table != Table::Meta || !skipped.contains(&&key[..]) {
                    add(key);
                    add(value);
                }
            }
        }
        let mut w = Writer::default();
        w.header(&self.header());
        w.uint(2, u64::from(crc));
        Ok(w.finish())
    }

    fn hash_kv_reply(&self, body: Bytes) -> Result<Bytes, Error> {
        let r: pb::HashKvRequest = decode(body)?;
        let hash = match self.store.hash(r.revision).map_err(Error::from_infallible)? {
            Ok(hash) => hash,
            Err(scan) => scan.run(self.store.index(), &self.backend)?,
        };
        let mut w = Writer::default();
        w.header(&self.header());
        w.uint(2, u64::from(hash.hash));
        w.int(3, hash.compact_revision);
        w.int(4, hash.hash_revision);
        Ok(w.finish())
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

    // ---- reads

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

    // ---- proposals

    /// Sends a request through the log; its reply comes when it is applied here.
    pub(crate) fn propose(
        &mut self,
        token: Token,
        command: &Command,
    ) -> Result<Option<Bytes>, Error> {
        let gap = self.raft.committed().0.saturating_sub(self.applied);
        if gap > self.config.limits.apply_gap || self.is_swamped() {
            return Err(Error::TooManyRequests);
        }
        if self.to_propose.len() >= self.config.limits.held_proposals {
            return Err(Error::TooManyRequests);
        }
        let id = self.ids.next();
        let data = command.encode(&CommandHeader { id, ..CommandHeader::default() });
        if data.len() > self.config.request_bytes_max {
            return Err(Error::RequestTooLarge);
        }
        let is_physical = matches!(command, Command::Compaction(r) if r.physical);
        self.track(id, Proposal { token: Some(token), started: self.now, is_physical });
        self.to_propose.push((id, data));
        Ok(None)
    }

    /// A request of the node's own.
    pub(crate) fn propose_own(&mut self, command: &Command) -> u64 {
        let id = self.ids.next();
        let data = command.encode(&CommandHeader { id, ..CommandHeader::default() });
        self.track(id, Proposal { token: None, started: self.now, is_physical: false });
        self.to_propose.push((id, data));
        id
    }

    fn track(&mut self, id: u64, proposal: Proposal) {
        let deadline = self.now + self.config.request_timeout_ms();
        self.proposals.insert(id, proposal);
        self.proposal_deadlines.push_back((deadline, id));
    }

    /// Hands the turn's proposals to raft. Without a leader they wait for one.
    pub(crate) fn propose_all(&mut self) {
        if self.to_propose.is_empty() || !self.has_leader() {
            return;
        }
        let all = std::mem::take(&mut self.to_propose);
        let mut rest = all.into_iter().peekable();
        while rest.peek().is_some() {
            let (mut ids, mut batch, mut bytes) = (Vec::new(), Vec::new(), 0);
            while let Some((id, data)) =
                rest.next_if(|(_, data)| batch.is_empty() || bytes + data.len() <= PROPOSAL_BYTES)
            {
                bytes += data.len();
                ids.push(id);
                batch.push(data);
            }
            if let Err(ProposeError(_)) = self.raft.propose_batch(batch) {
                for id in ids {
                    self.counters.proposals_failed += 1;
                    self.fail_proposal(id, Error::ProposalDropped);
                }
            }
        }
    }

    fn fail_proposal(&mut self, id: u64, error: Error) {
        if let Some(proposal) = self.proposals.remove(&id)
            && let Some(token) = proposal.token
        {
            self.reply(token, Err(error));
        }
    }

    pub(crate) fn expire_proposals(&mut self) {
        while let Some((deadline, id)) = self.proposal_deadlines.front().copied() {
            let waits = deadline > self.now || planted!(ProposalNeverExpires);
            if waits && self.proposals.contains_key(&id) {
                break;
            }
            self.proposal_deadlines.pop_front();
            let Some(proposal) = self.proposals.get(&id) else { continue };
            self.counters.proposals_failed += 1;
            // One that never met a leader was never accepted, and will not be now.
            let held = self.to_propose.len();
            self.to_propose.retain(|(other, _)| *other != id);
            let error = if self.to_propose.len() < held {
                Error::DeadlineExceeded
            } else {
                self.timeout_cause(proposal.started)
            };
            self.fail_proposal(id, error);
        }
    }

    fn timeout_cause(&self, started: crate::Time) -> Error {
        let window = 2 * self.config.election_ms();
        if let Some(elected) = self.leader_elected_at
            && started < elected
            && elected.since(started) < window
        {
            return Error::TimeoutDueToLeaderFail;
        }
        let connected = |id: u64| {
            self.peers.get(&id).and_then(|p| p.active_since).is_some_and(|since| since <= started)
        };
        let leader = self.raft.leader().0;
        let is_cut_off = if leader == self.id {
            let voters = self.members.voters();
            let reached = voters.filter(|m| m.id == self.id || connected(m.id)).count();
            reached < crate::members::quorum(self.members.voters().count())
        } else {
            leader != 0 && !connected(leader)
        };
        if is_cut_off { Error::TimeoutDueToConnectionLost } else { Error::Timeout }
    }

    // ---- leases

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

    // ---- quota

    pub(crate) fn fits_quota(&self, cost: u64) -> bool {
        match self.config.quota() {
            Some(quota) if cost > 0 => self.db_bytes().0 + cost < quota,
            _ => true,
        }
    }

    fn check_quota(&mut self, cost: u64) -> Result<(), Error> {
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

impl Error {
    pub(crate) fn from_infallible(error: norn_mvcc::Error<std::convert::Infallible>) -> Error {
        error.into()
    }
}

pub(crate) fn keep_alive_reply(header: &Header, id: i64, ttl: i64) -> Bytes {
    let mut w = Writer::default();
    w.header(header);
    w.int(2, id);
    w.int(3, ttl);
    w.finish()
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

/// Every range of it may be served from local state. True also for a transaction with no operations at all.
fn is_serializable(r: &pb::TxnRequest) -> bool {
    r.success.iter().chain(&r.failure).all(|op| match &op.request {
        Some(pb::request_op::Request::RequestRange(range)) => range.serializable,
        _ => false,
    })
}
