//! An etcd's database as the state of a member: refused with words, or served, and the same again after another start.

use bytes::Bytes;
use norn_node::{Method, Node};
use norn_proto::{etcdserverpb as pb, leasepb, mvccpb};
use norn_storage::{DiskOp, DiskRead, FileName};
use prost::Message as _;

use crate::bbolt::{self, Contents, Edits};
use crate::choices::Choices;
use crate::grpc_convert::small;
use crate::memory;
use crate::support::run;
use crate::world::World;

/// Entries of a log that founded a member and knows its name; the database may claim a few less or more.
const INDEX_MAX: usize = 8;
/// Milliseconds for a member to serve, or to show that it does not.
const SERVE_MS: u64 = 4_000;

/// What a member serves that was given the database; `None` if it refused it, or found nobody to serve with.
pub(crate) fn body(choices: &mut Choices<'_>) -> Option<Served> {
    let mut world = World::new(1, small);
    let id = world.until_serving();
    world.put(id, "before", "lost with the revision log");
    world.crash(id, 1);
    let edits = Edits::read(choices);
    let mut file = bbolt::write(&contents(choices, id));
    edits.make(&mut file);
    let rev_dir = world.configs[&id].rev_dir.clone();
    let db = FileName::new(format!("{}/db", world.configs[&id].snap_dir));
    let disk = world.disks.get_mut(&id).expect("its disk");
    let mut ops: Vec<DiskOp> = disk
        .list(&rev_dir)
        .expect("a healthy disk")
        .iter()
        .map(|name| DiskOp::Remove { file: FileName::new(format!("{rev_dir}/{name}")) })
        .collect();
    ops.extend([
        DiskOp::Create { file: db.clone() },
        DiskOp::Write { file: db.clone(), offset: 0, data: Bytes::from(file.clone()) },
        DiskOp::Sync { file: db },
    ]);
    run(disk, &ops).expect("a healthy disk");
    if !opens(&world, id, file.len()) {
        return None;
    }
    let first = serve(&mut world, id);
    world.crash(id, 2);
    assert!(opens(&world, id, file.len()), "opened once, and not again");
    if let Some(first) = &first {
        let second = serve(&mut world, id).expect("served once, and not again");
        second.must_follow(first);
    }
    first
}

/// What clients see.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Served {
    hash: u32,
    revision: i64,
    compacted: i64,
    keys: Vec<mvccpb::KeyValue>,
    leases: usize,
}

impl Served {
    /// After another start: the same, but for what went with leases that ran out meanwhile. The end of one is a revision if it had keys.
    fn must_follow(&self, before: &Served) {
        if self.revision == before.revision {
            let same = Served { leases: self.leases, ..self.clone() };
            assert_eq!(same, Served { leases: self.leases, ..before.clone() });
            return;
        }
        let ended = before.leases - self.leases;
        assert!(self.keys.iter().all(|key| before.keys.contains(key)), "{self:?} after {before:?}");
        let mut gone = before.keys.iter().filter(|key| !self.keys.contains(key));
        assert!(gone.all(|key| key.lease != 0), "{self:?} after {before:?}");
        assert!(self.keys.len() < before.keys.len(), "{self:?} after {before:?}");
        assert!(self.revision - before.revision <= ended as i64, "{self:?} after {before:?}");
        assert_eq!(self.compacted, before.compacted);
    }
}

/// Tried on a copy of the disk.
fn opens(world: &World, id: u64, bytes: usize) -> bool {
    let mut disk = world.disks[&id].snapshot_image();
    let reader = disk.clone();
    let config = world.configs[&id].clone();
    let opened = memory::bounded(bytes, 64, 4 << 20, || {
        Node::open(&mut disk, reader, config, world.now).map(|node| node.id())
    });
    match opened {
        Ok(found) => {
            assert_eq!(found, id);
            true
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            false
        }
    }
}

/// Of a member that serves. It may stop, or wait for members that are nowhere.
fn serve(world: &mut World, id: u64) -> Option<Served> {
    world.start(id);
    world.nodes.get_mut(&id).expect("started").seen.may_fail = true;
    world.run(SERVE_MS);
    let all = pb::RangeRequest {
        key: Bytes::from_static(b"\0"),
        range_end: Bytes::from_static(b"\0"),
        serializable: true,
        ..Default::default()
    };
    let calls = [
        world.start_call(id, Method::Range, &all),
        world.start_call(id, Method::HashKv, &pb::HashKvRequest { revision: 0 }),
        world.start_call(id, Method::LeaseLeases, &pb::LeaseLeasesRequest {}),
        world.start_call(id, Method::MemberList, &pb::MemberListRequest::default()),
    ];
    world.run(SERVE_MS);
    let replies = &mut world.nodes.get_mut(&id).expect("started").seen.replies;
    let range = replies.remove(&calls[0])?.ok()?;
    let hash = replies.remove(&calls[1])?.ok()?;
    let leases = replies.remove(&calls[2])?.ok()?;
    let range = pb::RangeResponse::decode(range).expect("an answer");
    let hash = pb::HashKvResponse::decode(hash).expect("an answer");
    let leases = pb::LeaseLeasesResponse::decode(leases).expect("an answer");
    assert_eq!(range.count, range.kvs.len() as i64);
    Some(Served {
        hash: hash.hash,
        revision: hash.hash_revision,
        compacted: hash.compact_revision,
        keys: range.kvs,
        leases: leases.leases.len(),
    })
}

/// What etcd's buckets hold, mostly as etcd would write it.
fn contents(choices: &mut Choices<'_>, id: u64) -> Contents {
    let mut contents = Contents::new();
    let mut put = |bucket: &str, key: Vec<u8>, value: Vec<u8>| {
        contents.entry(bucket.as_bytes().to_vec()).or_default().insert(key, value);
    };
    let index = choices.below(INDEX_MAX + 4) as u64;
    put("meta", b"consistent_index".to_vec(), index.to_be_bytes().to_vec());
    put("meta", b"term".to_vec(), u64::from(choices.byte() % 4).to_be_bytes().to_vec());
    let mut main = 1;
    while !choices.is_done() {
        let kind = choices.byte();
        let is_wild = kind >= 0xe0;
        match kind % 16 {
            0..=7 => {
                main += i64::from(kind >> 4 & 1);
                let revision = if is_wild { choices.long() as i64 } else { main };
                let sub = i64::from(kind >> 5 & 3);
                let mut key = revision.to_be_bytes().to_vec();
                key.push(b'_');
                key.extend(sub.to_be_bytes());
                if kind % 16 > 5 {
                    key.push(b't');
                }
                put("key", key, key_value(choices, main, is_wild));
            }
            8 | 9 => {
                let lease = leasepb::Lease {
                    id: i64::from(choices.byte()),
                    ttl: if is_wild { choices.long() as i64 } else { i64::from(choices.word()) },
                    remaining_ttl: i64::from(choices.byte()),
                };
                put("lease", lease.id.to_be_bytes().to_vec(), lease.encode_to_vec());
            }
            10 => {
                let who = if is_wild { choices.long() } else { id };
                let json = format!(
                    "{{\"id\":{who},\"peerURLs\":[\"http://n1:2380\"],\"name\":\"n1\",\"clientURLs\":[]}}"
                );
                put("members", format!("{who:x}").into_bytes(), json.into_bytes());
            }
            11 => {
                let who = if is_wild { id } else { choices.long() };
                put("members_removed", format!("{who:x}").into_bytes(), b"removed".to_vec());
            }
            12 => {
                let alarm = pb::AlarmMember {
                    member_id: 1 + choices.long() / 2,
                    alarm: i32::from(choices.byte() % 4),
                };
                put("alarm", alarm.encode_to_vec(), Vec::new());
            }
            13 => {
                let name = [&b"finishedCompactRev"[..], b"scheduledCompactRev"][choices.below(2)];
                let at = if is_wild { choices.long() } else { u64::from(choices.byte() % 16) };
                let mut value = at.to_be_bytes().to_vec();
                value.push(b'_');
                value.extend([0; 8]);
                put("meta", name.to_vec(), value);
            }
            14 => {
                let version = [&b"3.7.0"[..], b"3.5.0", b"9.9.9", b"x"][choices.below(4)];
                put("cluster", b"clusterVersion".to_vec(), version.to_vec());
            }
            _ => {
                let bucket =
                    ["key", "lease", "members", "meta", "alarm", "auth", "members_removed"]
                        [choices.below(7)];
                let (key, value) = (choices.bytes(20).to_vec(), choices.bytes(30).to_vec());
                // (bbolt has no empty keys.)
                if !key.is_empty() {
                    put(bucket, key, value);
                }
            }
        }
    }
    contents
}

fn key_value(choices: &mut Choices<'_>, main: i64, is_wild: bool) -> Vec<u8> {
    if is_wild && choices.bool() {
        return choices.bytes(30).to_vec();
    }
    let number = |choices: &mut Choices<'_>, usual: i64| {
        if is_wild { choices.long() as i64 } else { usual }
    };
    let version = i64::from(choices.byte() % 4);
    let kv = mvccpb::KeyValue {
        key: Bytes::from(vec![b'a' + choices.byte() % 4]),
        create_revision: number(choices, main - version),
        mod_revision: number(choices, main),
        version: number(choices, 1 + version),
        value: Bytes::copy_from_slice(choices.bytes(8)),
        lease: i64::from(choices.byte() % 3),
    };
    kv.encode_to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sound_databases_are_served_and_others_refused() {
        let keys = |bytes: &[u8]| body(&mut Choices::new(bytes)).map(|served| served.keys.len());
        // The log ends with entry 4, a put. All of it is applied to nothing; only that one to a member and a key; then none. What the
        // database says is applied beyond the log's end is of another log.
        assert_eq!(keys(&[0, 0, 1]), Some(1));
        assert_eq!(keys(&[0, 3, 1, 0x0a, 0x10, 0, 1, 1, 7, 0]), Some(2));
        assert_eq!(keys(&[0, 4, 1, 0x0a, 0x10, 0, 1, 1, 7, 0]), Some(1));
        assert_eq!(keys(&[0, 5, 1, 0x0a, 0x10, 0, 1, 1, 7, 0]), None);
    }
}
