//! What the committed log means, by a second and naive implementation: the truth that answers are compared with.

pub mod view;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use norn_node::Command;
use norn_proto::etcdserverpb as pb;
use norn_proto::mvccpb::KeyValue;
use norn_raft::{Entry, EntryKind};
use pb::alarm_request::AlarmAction;
use pb::request_op::Request;
use view::View;

use crate::check::lease::Life;

#[derive(Default)]
pub struct Model {
    /// Index up to which the log was taken in.
    pub applied: u64,
    pub revision: i64,
    pub compacted: i64,
    pub leases: BTreeMap<i64, BTreeSet<Bytes>>,
    /// (kind, member).
    alarms: BTreeSet<(i32, u64)>,
    /// Every lease that there ever was.
    pub lives: BTreeMap<i64, Life>,
    /// Per revision: what changed, in order; `version` 0 is a delete.
    pub events: BTreeMap<i64, Vec<KeyValue>>,
    /// Per key: its states by revision.
    states: BTreeMap<Bytes, BTreeMap<i64, KeyValue>>,
    /// (revision, compacted) after each index.
    pub at_index: BTreeMap<u64, (i64, i64)>,
}

impl Model {
    pub fn new() -> Model {
        Model { revision: 1, compacted: -1, ..Model::default() }
    }

    /// All keys as of a revision.
    pub fn at(&self, revision: i64) -> Vec<KeyValue> {
        let newest =
            |states: &BTreeMap<i64, KeyValue>| newest_value(states.range(..=revision).next_back());
        self.states.values().filter_map(newest).collect()
    }

    pub fn get_at(&self, key: &[u8], revision: i64) -> Option<KeyValue> {
        newest_value(self.states.get(key)?.range(..=revision).next_back())
    }

    /// The keys of a request's range as of a revision.
    pub fn in_range(&self, key: &[u8], end: &[u8], revision: i64) -> Vec<KeyValue> {
        if end.is_empty() {
            return self.get_at(key, revision).into_iter().collect();
        }
        let from = self.states.range(Bytes::copy_from_slice(key)..);
        from.take_while(|(name, _)| view::contains(key, end, name))
            .filter_map(|(_, states)| newest_value(states.range(..=revision).next_back()))
            .collect()
    }

    pub fn take(&mut self, index: u64, entry: &Entry) {
        assert_eq!(index, self.applied + 1, "the log is taken in without gaps");
        self.applied = index;
        if entry.kind == EntryKind::Normal
            && !entry.data.is_empty()
            && let Ok((_, command)) = Command::decode(entry.data.clone())
        {
            self.apply(command);
        }
        self.at_index.insert(index, (self.revision, self.compacted));
    }

    fn apply(&mut self, command: Command) {
        if self.is_full() && grows(&command) {
            return;
        }
        let mut view = View::now(self);
        let is_accepted = match &command {
            Command::Put(r) => view.put(r).is_ok(),
            Command::DeleteRange(r) => {
                view.delete(r);
                true
            }
            Command::Txn(r) => view.txn(r).is_ok(),
            _ => false,
        };
        if is_accepted {
            let changes = view.changes;
            return self.commit(changes);
        }
        match command {
            Command::Compaction(r)
                if r.revision > self.compacted && r.revision <= self.revision =>
            {
                self.compacted = r.revision;
            }
            Command::LeaseGrant(r) if r.id != 0 => {
                self.leases.entry(r.id).or_default();
                let life = Life { granted: self.applied, ended: None };
                self.lives.entry(r.id).or_insert(life);
            }
            Command::LeaseRevoke(r) => self.revoke(r.id),
            Command::Alarm(r) if r.action == i32::from(AlarmAction::Activate) => {
                self.alarms.insert((r.alarm, r.member_id));
            }
            Command::Alarm(r) if r.action == i32::from(AlarmAction::Deactivate) => {
                self.alarms.remove(&(r.alarm, r.member_id));
            }
            _ => {}
        }
    }

    /// Somebody said that there is no room; everybody refuses what needs some.
    fn is_full(&self) -> bool {
        self.alarms.iter().any(|(kind, _)| *kind == i32::from(pb::AlarmType::Nospace))
    }

    fn revoke(&mut self, id: i64) {
        let Some(keys) = self.leases.remove(&id) else { return };
        self.lives.entry(id).and_modify(|life| life.ended = Some(self.applied));
        let mod_revision = self.revision + 1;
        let gone = |key| KeyValue { key, mod_revision, ..Default::default() };
        self.commit(keys.into_iter().map(gone).collect());
    }

    fn commit(&mut self, changes: Vec<KeyValue>) {
        if changes.is_empty() {
            return;
        }
        self.revision += 1;
        for kv in &changes {
            for keys in self.leases.values_mut() {
                keys.remove(&kv.key);
            }
            if kv.version > 0
                && let Some(keys) = self.leases.get_mut(&kv.lease)
            {
                keys.insert(kv.key.clone());
            }
            self.states.entry(kv.key.clone()).or_default().insert(self.revision, kv.clone());
        }
        self.events.insert(self.revision, changes);
    }
}

/// Whether a command needs room, whichever way its compares go.
fn grows(command: &Command) -> bool {
    fn txn_grows(r: &pb::TxnRequest) -> bool {
        r.success.iter().chain(&r.failure).any(|op| match &op.request {
            Some(Request::RequestPut(_)) => true,
            Some(Request::RequestTxn(inner)) => txn_grows(inner),
            _ => false,
        })
    }
    match command {
        Command::Put(_) | Command::LeaseGrant(_) => true,
        Command::Txn(r) => txn_grows(r),
        _ => false,
    }
}

fn newest_value(found: Option<(&i64, &KeyValue)>) -> Option<KeyValue> {
    found.map(|(_, kv)| kv).filter(|kv| kv.version > 0).cloned()
}
