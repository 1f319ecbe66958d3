//! Committed entries, applied in order: the same effects, revisions and hashes on every member.

use bytes::Bytes;
use norn_mvcc::{Change, DeleteRequest, Event};
use norn_planted::planted;
use norn_proto::{etcdserverpb as pb, leasepb};
use norn_raft::{ConfChange, ConfChangeKind, ConfChangeV2, Entry, EntryKind, codec};
use norn_storage::revlog::Table;
use prost::Message;

use crate::calls::{lease_cost, put_cost, txn_cost};
use crate::command::{Command, OPS};
use crate::counters::Work;
use crate::input::NodeEvent;
use crate::members::ChangeContext;
use crate::node::Proposal;
use crate::wire::Writer;
use crate::{Error, Node, Reader, convert};

/// Alarms counted for operators. Beyond it, those that are as often down as up are forgotten: clients choose the members they name.
const ALARM_COUNTS_MAX: usize = 1_000;

impl<R: Reader> Node<R> {
    /// Applies what raft has handed over, as long as the disk of the revision log keeps up.
    pub(crate) fn apply_held(&mut self) {
        while let Some(message) = self.work.applies.pop_front() {
            for entry in &message.entries {
                if self.is_failed {
                    return;
                }
                if entry.index.0 <= self.applied {
                    continue;
                }
                let room = self.config.limits.unwritten_bytes;
                if self.unwritten_bytes() >= room && !planted!(UnwrittenUnbounded) {
                    return self.work.applies.push_front(message);
                }
                self.apply_entry(entry);
            }
            for response in message.responses {
                self.step_self(response);
            }
        }
    }

    fn apply_entry(&mut self, entry: &Entry) {
        assert_eq!(entry.index.0, self.applied + 1, "entries are applied without gaps");
        let was_first_of_term = entry.term.0 > self.applied_term;
        self.applied = entry.index.0;
        self.applied_term = entry.term.0;
        self.work.has_applied = true;
        self.counters.proposals_committed += 1;
        match entry.kind {
            EntryKind::Normal if entry.data.is_empty() => self.new_term(was_first_of_term),
            EntryKind::Normal => self.apply_normal(entry.data.clone()),
            EntryKind::ConfChange => self.apply_conf_change(entry.data.clone()),
            EntryKind::ConfChangeV2 => {
                self.fail("the log holds a joint membership change, which etcd never writes");
            }
        }
        self.counters.proposals_applied += 1;
    }

    /// The empty entry with which a leader begins. (Later ones of its term are changes of the membership that were refused: if they
    /// started the clocks again, a lease could be renewed whose revocation is on its way.)
    fn new_term(&mut self, is_first: bool) {
        if !is_first {
            return;
        }
        self.reads.ask_again();
        if self.raft.is_leader() && self.raft.term().0 == self.applied_term {
            self.lessor.promote(self.now, self.config.election_ms());
            self.doubt = None;
            self.next_version_check = self.now;
        }
    }

    fn apply_normal(&mut self, data: Bytes) {
        let (header, command) = match Command::decode(data) {
            Ok(decoded) => decoded,
            Err(error) => {
                let reason = format!("entry {} cannot be applied: {error}", self.applied);
                return self.fail(&reason);
            }
        };
        let proposal = self.proposals.remove(&header.id);
        let is_local = proposal.is_some();
        let op = command.op();
        let result = self.apply_command(command, is_local);
        let is_ok = matches!(result, Ok(_) | Err(Error::Compacted));
        self.counters.applied[op][usize::from(is_ok)] += 1;
        if let Err(Error::Storage(reason)) = &result {
            self.fail(reason);
        }
        let Some(Proposal { token, started, is_physical }) = proposal else { return };
        let Some(token) = token else {
            let took_ms = self.now.since(started);
            return self.out.events.push(NodeEvent::Proposed { op: OPS[op], took_ms, is_ok });
        };
        if is_physical && self.store.is_compacting() {
            self.compact_waits.push((self.store.compacted(), token, result));
        } else {
            self.reply(token, result);
        }
    }

    fn apply_command(&mut self, command: Command, is_local: bool) -> Result<Bytes, Error> {
        self.check_alarms(&command)?;
        match command {
            // Reads in the log serve only whoever waits for them.
            Command::Range(r) if is_local => {
                let result = self.store.range(&self.backend, &convert::range_request(&r)?)?;
                Ok(convert::range_reply(&self.header_at(result.revision), &result))
            }
            Command::Range(_) | Command::DowngradeVersionTest => Ok(Bytes::new()),
            Command::Put(r) => self.apply_put(&r),
            Command::DeleteRange(r) => self.apply_delete(&convert::delete_request(&r)),
            Command::Txn(r) => self.apply_txn(&r, is_local),
            Command::Compaction(r) => self.apply_compaction(r.revision),
            Command::LeaseGrant(r) => self.apply_lease_grant(&r),
            Command::LeaseRevoke(r) => self.apply_lease_revoke(r.id),
            Command::LeaseCheckpoint(r) => {
                for checkpoint in r.checkpoints {
                    self.apply_lease_checkpoint(&checkpoint);
                }
                Ok(convert::header_reply(&self.header()))
            }
            Command::Alarm(r) => Ok(self.apply_alarm(&r)),
            Command::AuthStatus => {
                let mut w = Writer::default();
                w.header(&self.header());
                w.uint(3, 1);
                Ok(w.finish())
            }
            Command::Auth(field) => {
                // Going on would leave this member with other users than the rest of the cluster.
                let what = format!("entry {} changes authentication (field {field})", self.applied);
                Err(Error::Storage(format!("{what}, which this version does not implement")))
            }
            Command::ClusterVersionSet(r) => {
                self.apply_cluster_version(&r.ver);
                Ok(Bytes::new())
            }
            Command::ClusterMemberAttrSet(r) => {
                let attributes = r.member_attributes.unwrap_or_default();
                self.apply_attributes(
                    r.member_id,
                    attributes.name,
                    attributes.client_urls,
                    is_local,
                );
                Ok(Bytes::new())
            }
            Command::DowngradeInfoSet(r) => Ok(self.apply_downgrade(&r)),
        }
    }

    /// What raised alarms refuse, before anything else is looked at.
    fn check_alarms(&self, command: &Command) -> Result<(), Error> {
        if self.alarms.is_empty() {
            return Ok(());
        }
        let raised = |kind: pb::AlarmType| self.alarms.iter().any(|(_, k)| *k == i32::from(kind));
        let is_write = matches!(
            command,
            Command::Put(_)
                | Command::DeleteRange(_)
                | Command::Txn(_)
                | Command::Compaction(_)
                | Command::LeaseGrant(_)
                | Command::LeaseRevoke(_)
        );
        if is_write && raised(pb::AlarmType::Corrupt) {
            return Err(Error::Corrupt);
        }
        if raised(pb::AlarmType::Nospace) {
            let grows = match command {
                Command::Put(_) | Command::LeaseGrant(_) => true,
                Command::Txn(r) => txn_cost(r) > 0,
                _ => false,
            };
            if grows {
                return Err(Error::NoSpace);
            }
        }
        Ok(())
    }

    /// The request has been executed, whatever the quota says: only its answer and an alarm depend on it, because
    /// members differ in size and must not differ in content.
    fn charge(&mut self, cost: u64) -> Result<(), Error> {
        if self.fits_quota(cost) {
            return Ok(());
        }
        self.raise_no_space();
        Err(Error::NoSpace)
    }

    fn apply_put(&mut self, r: &pb::PutRequest) -> Result<Bytes, Error> {
        let fits = self.charge(put_cost(r));
        if planted!(QuotaInApply) {
            fits.clone()?;
        }
        let request = convert::put_request(r);
        let lessor = &self.lessor;
        request
            .check_state::<crate::backend::BackendError>(&self.store, &|id| lessor.contains(id))?;
        let mut txn = self.store.write();
        let result = request.apply(&mut txn, &self.backend)?;
        let changes = txn.finish();
        self.counters.add(&Work::put(&request));
        self.changed(&changes)?;
        fits?;
        Ok(convert::put_reply(&self.header_at(result.revision), &result))
    }

    fn apply_delete(&mut self, request: &DeleteRequest) -> Result<Bytes, Error> {
        self.counters.add(&Work::delete(request));
        let mut txn = self.store.write();
        let result = request.apply(&mut txn, &self.backend)?;
        let changes = txn.finish();
        self.changed(&changes)?;
        Ok(convert::delete_reply(&self.header_at(result.revision), &result))
    }

    fn apply_txn(&mut self, r: &pb::TxnRequest, is_local: bool) -> Result<Bytes, Error> {
        let fits = self.charge(txn_cost(r));
        let request = convert::txn_request(r)?;
        let lessor = &self.lessor;
        let (result, changes) =
            request.apply(&mut self.store, &self.backend, &|id| lessor.contains(id), is_local)?;
        self.counters.add(&Work::txn(&request, &result));
        self.changed(&changes)?;
        fits?;
        Ok(convert::txn_reply(&self.header_at(result.revision), &result))
    }

    fn apply_compaction(&mut self, revision: i64) -> Result<Bytes, Error> {
        self.store.compact(revision).map_err(Error::from_infallible)?;
        let (key, len) = norn_mvcc::Revision::new(revision, 0).to_bytes(false);
        let scheduled = Bytes::from_static(b"scheduledCompactRev");
        self.backend.set(Table::Meta, scheduled, key[..len].to_vec());
        Ok(convert::header_reply(&self.header()))
    }

    /// All of a compaction's removals are done.
    pub(crate) fn compaction_finished(&mut self, main: i64) {
        let (key, len) = norn_mvcc::Revision::new(main, 0).to_bytes(false);
        let finished = Bytes::from_static(b"finishedCompactRev");
        self.backend.set(Table::Meta, finished, key[..len].to_vec());
        self.work.has_applied = true;
        self.counters.compactions += 1;
        let waits = std::mem::take(&mut self.compact_waits);
        for (wanted, token, result) in waits {
            if wanted <= main {
                self.reply(token, result);
            } else {
                self.compact_waits.push((wanted, token, result));
            }
        }
    }

    fn apply_lease_grant(&mut self, r: &pb::LeaseGrantRequest) -> Result<Bytes, Error> {
        let fits = self.charge(lease_cost());
        if r.id == 0 {
            return Err(Error::LeaseNotFound);
        }
        if r.ttl > crate::lease::TTL_MAX {
            return Err(Error::LeaseTtlTooLarge);
        }
        if self.lessor.contains(r.id) {
            return Err(Error::LeaseExists);
        }
        let ttl = self.lessor.grant(r.id, r.ttl, self.now);
        self.counters.lease_granted(ttl);
        self.store_lease(r.id, ttl, 0);
        fits?;
        let mut w = Writer::default();
        w.header(&self.header());
        w.int(2, r.id);
        w.int(3, ttl);
        Ok(w.finish())
    }

    fn apply_lease_revoke(&mut self, id: i64) -> Result<Bytes, Error> {
        let Some(keys) = self.lessor.keys_of(id) else { return Err(Error::LeaseNotFound) };
        let keys: Vec<Bytes> = keys.cloned().collect();
        self.counters.leases_revoked += 1;
        self.counters.add(&Work::deletes(keys.len()));
        let mut txn = self.store.write();
        for key in keys {
            txn.delete_range(&norn_mvcc::KeyRange::Key(key));
        }
        let changes = txn.finish();
        self.changed(&changes)?;
        self.lessor.remove(id);
        self.backend.unset(Table::Lease, id.to_be_bytes().to_vec());
        let header = self.header();
        for token in self.lease_waits.remove(&id).unwrap_or_default() {
            self.reply(token, Ok(crate::calls::keep_alive_reply(&header, id, 0)));
        }
        Ok(convert::header_reply(&header))
    }

    fn apply_lease_checkpoint(&mut self, checkpoint: &pb::LeaseCheckpoint) {
        let (id, remaining) = (checkpoint.id, checkpoint.remaining_ttl);
        if let Some((ttl, remaining)) = self.lessor.checkpoint(id, remaining, self.now) {
            self.store_lease(id, ttl, remaining);
        }
    }

    fn store_lease(&mut self, id: i64, ttl: i64, remaining_ttl: i64) {
        let stored = leasepb::Lease { id, ttl, remaining_ttl };
        self.backend.set(Table::Lease, id.to_be_bytes().to_vec(), stored.encode_to_vec());
    }

    fn count_alarm(&mut self, alarm: (u64, i32), change: i64) {
        let counts = &mut self.alarm_counts;
        if counts.len() >= ALARM_COUNTS_MAX && !counts.contains_key(&alarm) {
            counts.retain(|_, count| *count != 0);
        }
        *counts.entry(alarm).or_default() += change;
    }

    fn apply_alarm(&mut self, r: &pb::AlarmRequest) -> Bytes {
        use pb::alarm_request::AlarmAction;
        let none = i32::from(pb::AlarmType::None);
        let alarm = (r.member_id, r.alarm);
        let mut shown: Vec<(u64, i32)> = Vec::new();
        match AlarmAction::try_from(r.action) {
            Ok(AlarmAction::Get) => {
                let wanted = |kind: i32| r.alarm == none || kind == r.alarm;
                shown.extend(self.alarms.iter().filter(|(_, kind)| wanted(*kind)));
            }
            Ok(AlarmAction::Activate) if r.alarm != none => {
                if r.member_id == self.id {
                    self.alarm_proposed = None;
                }
                self.alarms.insert(alarm);
                self.count_alarm(alarm, 1);
                self.backend.set(Table::Alarm, alarm_key(alarm), Bytes::new());
                shown.push(alarm);
            }
            Ok(AlarmAction::Deactivate) if self.alarms.remove(&alarm) => {
                self.backend.unset(Table::Alarm, alarm_key(alarm));
                self.count_alarm(alarm, -1);
                shown.push(alarm);
            }
            _ => {}
        }
        let mut w = Writer::default();
        w.header(&self.header());
        for (member, kind) in shown {
            w.nested(2, |w| {
                w.uint(1, member);
                w.int(2, i64::from(kind));
            });
        }
        w.finish()
    }

    /// Bookkeeping after a transaction: the log, the leases, the watchers.
    fn changed(&mut self, changes: &[Change]) -> Result<(), Error> {
        self.backend.add_changes(changes);
        for change in changes {
            if change.tombstone {
                self.lessor.detach(&change.key);
            } else {
                self.lessor.attach(&change.key, change.lease);
            }
        }
        if self.watchers.stream_count() > 0 && !changes.is_empty() {
            let events: Vec<Event> = changes.iter().map(Event::from_change).collect();
            let header = self.header();
            self.watchers.notify(events, &header, &self.store, &self.backend)?;
        }
        Ok(())
    }

    fn apply_conf_change(&mut self, data: Bytes) {
        let change = match codec::decode_conf_change(data) {
            Ok(change) => change,
            Err(error) => {
                let reason = format!("entry {} is no membership change: {error}", self.applied);
                return self.fail(&reason);
            }
        };
        let context = match parse_context(&change) {
            Ok(context) => context,
            Err(error) => {
                let reason = format!("entry {}: member JSON: {error}", self.applied);
                return self.fail(&reason);
            }
        };
        let max = self.config.learners_max;
        let result = self.members.check(change.kind, change.node_id.0, &context, max);
        let effective = match &result {
            Ok(()) => change.to_v2(),
            // A change of nobody: raft forgets that one is pending, and nothing else happens.
            Err(_) => ConfChangeV2 {
                changes: vec![norn_raft::ConfChangeSingle::default()],
                ..ConfChangeV2::default()
            },
        };
        if let Err(error) = self.raft.apply_conf_change(&effective) {
            // The database says otherwise who the members are.
            return self.fail(&format!("entry {}: {error}", self.applied));
        }
        if result.is_ok() {
            self.member_changed(&change, &context);
        }
        let token = self.changes.remove(&change.id);
        let is_add =
            matches!(change.kind, ConfChangeKind::AddNode | ConfChangeKind::AddLearnerNode);
        let added = (is_add && !context.is_promote).then_some(change.node_id.0);
        let has_changed = result.is_ok();
        let reply = result.map(|()| self.member_change_reply(added));
        match (has_changed, token) {
            (true, _) => self.await_change(token.map(|token| (token, reply))),
            (false, Some(token)) => self.reply(token, reply),
            (false, None) => {}
        }
    }
}

fn parse_context(change: &ConfChange) -> Result<ChangeContext, serde_json::Error> {
    if change.context.is_empty() {
        return Ok(ChangeContext::default());
    }
    serde_json::from_slice(&change.context)
}

pub(crate) fn alarm_key((member, kind): (u64, i32)) -> Bytes {
    pb::AlarmMember { member_id: member, alarm: kind }.encode_to_vec().into()
}
