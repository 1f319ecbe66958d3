//! One or three whole nodes: calls, watches, faults and time in any order, against what a node promises.

use std::collections::{BTreeMap, BTreeSet};

use norn_node::{Input, Method, StreamId, Token};
use norn_proto::etcdserverpb as pb;
use norn_storage::{DiskQueue, FileName};
use prost::Message;

use crate::choices::Choices;
use crate::grpc_convert::small;
use crate::world::{World, bytes, put, watch};

pub fn body(input: &[u8]) {
    let mut choices = Choices::new(input);
    let count = if choices.bool() { 3 } else { 1 };
    let mut run = Run::new(count, choices.byte() & 3);
    let mut steps = 0;
    while !choices.is_done() && steps < 80 {
        steps += 1;
        run.step(&mut choices);
    }
    run.finish();
}

struct Run {
    world: World,
    /// All members, up or down.
    ids: Vec<u64>,
    /// Calls under way: where, and the key of a put.
    pending: BTreeMap<Token, (u64, Option<String>)>,
    acknowledged: BTreeSet<String>,
    /// Keys whose put was started, in this order.
    started: Vec<String>,
    /// The newest revision that an answered put had.
    revision: i64,
    /// Where the watch is, while that node lives.
    watch_at: Option<u64>,
    watched: Vec<(i64, String)>,
    leases: i64,
}

const STREAM: StreamId = StreamId(7);

impl Run {
    fn new(count: u64, switches: u8) -> Run {
        let mut world = World::new(count, |config| {
            small(config);
            config.lease_checkpoint = switches & 1 != 0;
            config.pre_vote = switches & 2 != 0;
        });
        let leader = world.until_serving();
        let ids: Vec<u64> = world.nodes.keys().copied().collect();
        world.input(leader, Input::WatchOpen { stream: STREAM });
        world.input(leader, Input::WatchRequest { stream: STREAM, body: watch("a", "b", 1) });
        let mut run = Run {
            world,
            ids,
            pending: BTreeMap::new(),
            acknowledged: BTreeSet::new(),
            started: Vec::new(),
            revision: 0,
            watch_at: Some(leader),
            watched: Vec::new(),
            leases: 0,
        };
        run.collect();
        run
    }

    fn step(&mut self, choices: &mut Choices<'_>) {
        let kind = choices.byte() % 32;
        let id = self.ids[choices.below(self.ids.len())];
        let peer = self.ids[choices.below(self.ids.len())];
        let up = self.world.nodes.contains_key(&id);
        match kind {
            0..=6 if up => self.put(id),
            7..=11 if up => self.call(id, choices),
            12..=15 => self.world.run(u64::from(choices.byte()) * 4),
            16 => self.world.settle(),
            17 if up => self.world.input(id, Input::Wake),
            18 if up => {
                let token = self.pending.keys().next().copied();
                if let Some(token) = token.filter(|token| self.pending[token].0 == id) {
                    self.world.input(id, Input::Forget { token });
                    self.pending.remove(&token);
                }
            }
            19 if up => self.world.input(id, Input::Unreachable { id: peer }),
            20 if up => {
                let active = choices.bool();
                self.world.input(id, Input::PeerActive { id: peer, active });
            }
            21 if up => {
                let version = choices.bool().then_some((3, u64::from(choices.byte() % 9)));
                self.world.input(id, Input::PeerVersion { id: peer, version });
            }
            22 if up => {
                let ok = choices.bool();
                self.world.input(id, Input::SnapshotSent { to: peer, ok });
            }
            23 if up => {
                let file = FileName::new("member/snap/nobody-asked.db");
                self.world.input(id, Input::ExportDone { file });
            }
            24 if up => self.world.input(id, Input::TransferLeadership),
            25 if up => {
                // Streams that are not there, and requests that are none.
                let stream = StreamId(8 + u64::from(choices.byte() % 3));
                match choices.byte() % 4 {
                    0 => self.world.input(id, Input::WatchOpen { stream }),
                    1 => self.world.input(id, Input::WatchClose { stream }),
                    2 => {
                        let body = bytes(&String::from_utf8_lossy(choices.bytes(20)));
                        self.world.input(id, Input::WatchRequest { stream, body });
                    }
                    _ => self.world.input(id, Input::WatchDrained { stream, count: 3 }),
                }
            }
            26 => {
                let pair = (id, peer);
                if !self.world.cut.remove(&pair) {
                    self.world.cut.insert(pair);
                }
            }
            27 | 28 if up => self.crash(id, choices),
            27 | 28 => self.world.start(id),
            29 if up => {
                let disk = &self.world.disks[&id];
                disk.defer(choices.bool());
            }
            30 if up => {
                let queue = if choices.bool() { DiskQueue::Log } else { DiskQueue::Bulk };
                let _ = self.world.disks[&id].complete_next(queue);
                self.world.input(id, Input::Wake);
            }
            _ => {
                for id in self.ids.clone() {
                    if self.world.nodes.contains_key(&id) {
                        self.world.input(id, Input::Wake);
                    }
                }
                self.world.settle();
            }
        }
        self.collect();
    }

    fn put(&mut self, id: u64) {
        let key = format!("a{:04}", self.started.len());
        let token = self.world.start_call(id, Method::Put, &put(&key, &format!("value of {key}")));
        self.pending.insert(token, (id, Some(key.clone())));
        self.started.push(key);
    }

    fn call(&mut self, id: u64, choices: &mut Choices<'_>) {
        let revision = i64::from(choices.byte()) - 1;
        let (method, body) = match choices.byte() % 12 {
            0 => (
                Method::Range,
                pb::RangeRequest { key: bytes("a"), range_end: bytes("b"), ..Default::default() }
                    .encode_to_vec(),
            ),
            1 => (
                Method::Compact,
                pb::CompactionRequest { revision, physical: choices.bool() }.encode_to_vec(),
            ),
            2 => {
                self.leases += 1;
                let ttl = revision % 9;
                (Method::LeaseGrant, pb::LeaseGrantRequest { ttl, id: self.leases }.encode_to_vec())
            }
            3 => {
                let id = revision % (self.leases + 1);
                (Method::LeaseRevoke, pb::LeaseRevokeRequest { id }.encode_to_vec())
            }
            4 => {
                let id = revision % (self.leases + 1);
                (Method::LeaseKeepAlive, pb::LeaseKeepAliveRequest { id }.encode_to_vec())
            }
            5 => {
                let lease = revision % (self.leases + 1);
                (Method::Put, pb::PutRequest { lease, ..put("c", "leased") }.encode_to_vec())
            }
            6 => (Method::HashKv, pb::HashKvRequest { revision }.encode_to_vec()),
            7 => (
                Method::MemberList,
                pb::MemberListRequest { linearizable: choices.bool() }.encode_to_vec(),
            ),
            8 => {
                let target_id = self.ids[choices.below(self.ids.len())];
                (Method::MoveLeader, pb::MoveLeaderRequest { target_id }.encode_to_vec())
            }
            9 => (Method::Status, Vec::new()),
            10 => (Method::Barrier, Vec::new()),
            _ => (
                Method::DeleteRange,
                pb::DeleteRangeRequest { key: bytes("c"), ..Default::default() }.encode_to_vec(),
            ),
        };
        let token = self.world.start_call_bytes(id, method, body.into());
        self.pending.insert(token, (id, None));
    }

    fn crash(&mut self, id: u64, choices: &mut Choices<'_>) {
        self.collect();
        self.world.disks[&id].defer(choices.bool());
        self.world.crash(id, choices.long());
        self.pending.retain(|_, (at, _)| *at != id);
        if self.watch_at == Some(id) {
            self.watch_at = None;
        }
    }

    /// Takes answers and watch responses.
    fn collect(&mut self) {
        for (id, running) in &mut self.world.nodes {
            for (token, reply) in std::mem::take(&mut running.seen.replies) {
                // One that was forgotten may have been answered before.
                let Some((at, key)) = self.pending.remove(&token) else { continue };
                assert_eq!(at, *id, "answered by somebody else");
                if let (Some(key), Ok(reply)) = (key, reply) {
                    let reply = pb::PutResponse::decode(reply).expect("our own encoding");
                    let revision = reply.header.expect("a header").revision;
                    self.revision = self.revision.max(revision);
                    self.acknowledged.insert(key);
                }
            }
            let responses = std::mem::take(&mut running.seen.watch);
            for (stream, response) in responses {
                if stream != STREAM || response.canceled {
                    continue;
                }
                for event in response.events {
                    let kv = event.kv.expect("an event has its key");
                    let key = String::from_utf8_lossy(&kv.key).into_owned();
                    let last = self.watched.last().map_or(0, |(revision, _)| *revision);
                    assert!(kv.mod_revision > last, "{key} at {} after {last}", kv.mod_revision);
                    self.watched.push((kv.mod_revision, key));
                }
            }
        }
        // The connection takes everything at once.
        if let Some(id) = self.watch_at {
            self.world.input(id, Input::WatchDrained { stream: STREAM, count: 64 });
        }
    }

    /// All faults end: every call is answered, what was acknowledged is there, everybody has the same, and the watch has
    /// seen it all.
    fn finish(mut self) {
        self.world.cut.clear();
        for id in self.ids.clone() {
            self.world.disks[&id].defer(false);
            if !self.world.nodes.contains_key(&id) {
                self.world.start(id);
            }
        }
        for _ in 0..9 {
            self.world.run(1_000);
            self.collect();
        }
        assert!(self.pending.is_empty(), "never answered: {:?}", self.pending);
        let ids = self.ids.clone();
        self.world.run_until("a leader", |world| world.leader().is_some());
        let leader = self.world.leader().expect("just seen");
        self.world.put(leader, "end", "of the run");
        for key in &self.acknowledged {
            let value = self.world.get(leader, key);
            assert_eq!(value.as_deref(), Some(&*format!("value of {key}")), "{key} is lost");
        }
        self.world.run(1_000);
        let hashes: Vec<_> = ids.iter().map(|id| self.world.hash(*id)).collect();
        assert!(hashes.iter().all(|hash| *hash == hashes[0]), "members differ: {hashes:?}");
        assert!(hashes[0].1 >= self.revision, "revision {} after {}", hashes[0].1, self.revision);
        self.collect();
        if self.watch_at.is_some() {
            let seen: BTreeSet<&String> = self.watched.iter().map(|(_, key)| key).collect();
            let missed: Vec<_> =
                self.acknowledged.iter().filter(|key| !seen.contains(key)).collect();
            assert!(missed.is_empty(), "the watch missed {missed:?}");
            assert_eq!(seen.len(), self.watched.len(), "an event came twice");
        }
    }
}
