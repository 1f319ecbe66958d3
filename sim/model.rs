//! What the committed log means, by a second and naive implementation: the truth that answers are compared with.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use norn_node::Command;
use norn_proto::{etcdserverpb as pb, mvccpb};
use norn_raft::{Entry, EntryKind};

#[derive(Default)]
pub struct Model {
    /// Index up to which the log was taken in.
    pub applied: u64,
    pub revision: i64,
    pub compacted: i64,
    kv: BTreeMap<Bytes, mvccpb::KeyValue>,
    pub leases: BTreeMap<i64, BTreeSet<Bytes>>,
    /// Per revision: what changed, in order; `version` 0 is a delete.
    pub events: BTreeMap<i64, Vec<mvccpb::KeyValue>>,
    /// Per key: its states by revision.
    states: BTreeMap<Bytes, BTreeMap<i64, mvccpb::KeyValue>>,
    /// (revision, compacted) after each index.
    pub at_index: BTreeMap<u64, (i64, i64)>,
}

impl Model {
    pub fn new() -> Model {
        Model { revision: 1, compacted: -1, ..Model::default() }
    }

    /// All keys as of a revision.
    pub fn at(&self, revision: i64) -> Vec<mvccpb::KeyValue> {
        let newest = |states: &BTreeMap<i64, mvccpb::KeyValue>| {
            newest_value(states.range(..=revision).next_back())
        };
        self.states.values().filter_map(newest).collect()
    }

    pub fn get_at(&self, key: &[u8], revision: i64) -> Option<mvccpb::KeyValue> {
        newest_value(self.states.get(key)?.range(..=revision).next_back())
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
        match command {
            Command::Put(r) if r.lease == 0 || self.leases.contains_key(&r.lease) => {
                let mut changes = Vec::new();
                self.put(&r, &mut changes);
                self.commit(changes);
            }
            Command::DeleteRange(r) => {
                let mut changes = Vec::new();
                self.delete(&r, &mut changes);
                self.commit(changes);
            }
            Command::Txn(r) => self.txn(&r),
            Command::Compaction(r)
                if r.revision > self.compacted && r.revision <= self.revision =>
            {
                self.compacted = r.revision;
            }
            Command::LeaseGrant(r) if r.id != 0 => {
                self.leases.entry(r.id).or_default();
            }
            Command::LeaseRevoke(r) => {
                if let Some(keys) = self.leases.remove(&r.id) {
                    let mut changes = Vec::new();
                    for key in keys {
                        self.remove(&key, &mut changes);
                    }
                    self.commit(changes);
                }
            }
            _ => {}
        }
    }

    fn txn(&mut self, r: &pb::TxnRequest) {
        let holds = r.compare.iter().all(|c| self.holds(c));
        let ops = if holds { &r.success } else { &r.failure };
        let mut changes = Vec::new();
        for op in ops {
            match &op.request {
                Some(pb::request_op::Request::RequestPut(put)) => self.put(put, &mut changes),
                Some(pb::request_op::Request::RequestDeleteRange(d)) => {
                    self.delete(d, &mut changes);
                }
                _ => {}
            }
        }
        self.commit(changes);
    }

    /// The two compares that the workload uses.
    fn holds(&self, c: &pb::Compare) -> bool {
        use pb::compare::TargetUnion;
        let kv = self.kv.get(&c.key);
        match &c.target_union {
            Some(TargetUnion::Value(value)) => kv.is_some_and(|kv| kv.value == *value),
            Some(TargetUnion::Version(version)) => kv.map_or(0, |kv| kv.version) == *version,
            _ => panic!("a compare that the model does not know: {c:?}"),
        }
    }

    fn put(&mut self, r: &pb::PutRequest, changes: &mut Vec<mvccpb::KeyValue>) {
        let revision = self.revision + 1;
        let old = self.kv.get(&r.key);
        let kv = mvccpb::KeyValue {
            key: r.key.clone(),
            create_revision: old.map_or(revision, |kv| kv.create_revision),
            mod_revision: revision,
            version: old.map_or(1, |kv| kv.version + 1),
            value: r.value.clone(),
            lease: r.lease,
        };
        for keys in self.leases.values_mut() {
            keys.remove(&r.key);
        }
        if let Some(keys) = self.leases.get_mut(&r.lease) {
            keys.insert(r.key.clone());
        }
        self.kv.insert(r.key.clone(), kv.clone());
        changes.push(kv);
    }

    fn delete(&mut self, r: &pb::DeleteRangeRequest, changes: &mut Vec<mvccpb::KeyValue>) {
        assert!(r.range_end.is_empty(), "the workload deletes single keys");
        self.remove(&r.key, changes);
    }

    fn remove(&mut self, key: &Bytes, changes: &mut Vec<mvccpb::KeyValue>) {
        if self.kv.remove(key).is_some() {
            for keys in self.leases.values_mut() {
                keys.remove(key);
            }
            changes.push(mvccpb::KeyValue {
                key: key.clone(),
                mod_revision: self.revision + 1,
                ..Default::default()
            });
        }
    }

    fn commit(&mut self, changes: Vec<mvccpb::KeyValue>) {
        if changes.is_empty() {
            return;
        }
        self.revision += 1;
        for kv in &changes {
            self.states.entry(kv.key.clone()).or_default().insert(self.revision, kv.clone());
        }
        self.events.insert(self.revision, changes);
    }
}

fn newest_value(found: Option<(&i64, &mvccpb::KeyValue)>) -> Option<mvccpb::KeyValue> {
    found.map(|(_, kv)| kv).filter(|kv| kv.version > 0).cloned()
}
