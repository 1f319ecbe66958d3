//! One node: requests, durability, leases, watches, alarms.

use bytes::Bytes;
use norn_node::{Error, Input, Method, StreamId, Token};
use norn_proto::etcdserverpb as pb;
use norn_storage::{DiskRead as _, FileName};
use prost::Message;

use crate::world::{World, bytes, put, watch};

fn one() -> (World, u64) {
    let mut world = World::new(1, |_| {});
    let id = world.until_serving();
    (world, id)
}

#[test]
fn put_get_restart() {
    let (mut world, id) = one();
    assert_eq!(world.put(id, "foo", "bar"), 2);
    assert_eq!(world.put(id, "foo", "baz"), 3);
    assert_eq!(world.get(id, "foo").as_deref(), Some("baz"));
    let hash = world.hash(id);
    for seed in 0..20 {
        world.crash(id, seed);
        world.start(id);
        world.until_serving();
        assert_eq!(world.get(id, "foo").as_deref(), Some("baz"), "seed {seed}");
        assert_eq!(world.hash(id), hash);
    }
    assert_eq!(world.put(id, "a", "1"), 4);
}

#[test]
fn acknowledged_writes_survive_any_crash() {
    let mut world = World::new(1, |config| {
        config.snapshot_count = 20;
        config.checkpoint_interval_ms = 0;
        config.wal_segment_bytes = 4_000;
        config.revlog_segment_bytes = 3_000;
    });
    let id = world.until_serving();
    let mut last = 1;
    for round in 0..40u64 {
        for i in 0..7 {
            let key = format!("k{}", (round * 7 + i) % 23);
            last = world.put(id, &key, &format!("{round}.{i}"));
        }
        if round % 5 == 4 {
            let r = pb::CompactionRequest { revision: last - 9, physical: round % 2 == 0 };
            let _: pb::CompactionResponse = world.call(id, Method::Compact, &r).unwrap();
        }
        let hash = world.hash(id);
        world.crash(id, round);
        world.start(id);
        world.until_serving();
        assert_eq!(world.hash(id), hash, "round {round}");
    }
}

fn puts(world: &mut World, id: u64, count: usize) {
    for _ in 0..count {
        world.put(id, "key", "a value that is of some length");
    }
}

fn checkpoints(world: &World, id: u64) -> usize {
    let names = world.disks[&id].list(&FileName::new("member/snap")).unwrap();
    names.iter().filter(|name| name.ends_with(".snap")).count()
}

#[test]
fn a_checkpoint_of_many_leases_waits_until_it_is_worth_it() {
    let mut world = World::new(1, |config| {
        config.snapshot_count = 10;
        config.checkpoint_interval_ms = 0;
        config.snapshots_max = 1000;
    });
    let id = world.until_serving();
    for lease in 1..=500 {
        let r = pb::LeaseGrantRequest { id: lease, ttl: 1000 };
        let _: pb::LeaseGrantResponse = world.call(id, Method::LeaseGrant, &r).unwrap();
    }
    // Whatever came before: from a checkpoint that has all of them on.
    let before = checkpoints(&world, id);
    while checkpoints(&world, id) == before {
        puts(&mut world, id, 1);
    }
    let with_all = checkpoints(&world, id);
    puts(&mut world, id, 50);
    assert_eq!(checkpoints(&world, id), with_all, "it would write more than was appended");
    puts(&mut world, id, 60);
    assert_eq!(checkpoints(&world, id), with_all + 1, "ten times as many entries as it is for");
}

#[test]
fn checkpoints_rest_but_not_for_ever() {
    let mut world = World::new(1, |config| {
        config.snapshot_count = 10;
        config.snapshots_max = 1000;
    });
    let id = world.until_serving();
    world.run(1_500);
    puts(&mut world, id, 40);
    let first = checkpoints(&world, id);
    assert!(first > 0, "it has rested, and there are ten entries");
    puts(&mut world, id, 50);
    assert_eq!(checkpoints(&world, id), first, "no time has passed");
    puts(&mut world, id, 60);
    assert_eq!(checkpoints(&world, id), first + 1, "ten times as many entries as it is for");
    world.run(1_500);
    puts(&mut world, id, 40);
    assert_eq!(checkpoints(&world, id), first + 2, "it has rested again");
}

/// `prost::Message` is no trait object.
trait Encode {
    fn encoded(&self) -> Bytes;
}

impl<M: prost::Message> Encode for M {
    fn encoded(&self) -> Bytes {
        self.encode_to_vec().into()
    }
}

/// Giving back the memory of a million entries at once would hold everybody up.
#[test]
fn the_log_in_memory_is_forgotten_in_pieces() {
    let entries = 40_000;
    let mut world = World::new(1, |config| {
        (config.memory_entries, config.catch_up_entries) = (entries, 10);
    });
    let id = world.until_serving();
    let first = |world: &World| world.node(id).raft().storage().first_index().0;
    while first(&world) == 1 {
        assert!(world.node(id).applied() <= entries + 1);
        puts(&mut world, id, 1);
    }
    // (The put, and what it had written, were a turn each.)
    assert!(first(&world) <= 1 + 2 * 8_192);
    let mut pieces = Vec::new();
    while world.node(id).deadline() <= world.now {
        let before = first(&world);
        world.input(id, Input::Wake);
        pieces.push(first(&world) - before);
    }
    assert!(pieces.len() > 1 && pieces.iter().all(|count| *count <= 8_192), "{pieces:?}");
    assert_eq!(first(&world) + 9, world.node(id).applied(), "and all of it: {pieces:?}");
}

#[test]
fn refusals_have_etcds_errors() {
    let (mut world, id) = one();
    let big = "v".repeat(1_572_864 + 1);
    let many = |n: usize| pb::TxnRequest {
        success: (0..n)
            .map(|i| pb::RequestOp {
                request: Some(pb::request_op::Request::RequestPut(put(&format!("k{i}"), "v"))),
            })
            .collect(),
        ..Default::default()
    };
    let mut refused = |method, request: &dyn Encode| {
        let token = world.start_call_bytes(id, method, request.encoded());
        world.finish::<pb::EmptyResponse>(id, token).unwrap_err()
    };
    assert_eq!(refused(Method::Put, &put("", "v")), Error::EmptyKey);
    assert_eq!(refused(Method::Put, &put("k", &big)), Error::RequestTooLarge);
    assert_eq!(refused(Method::Txn, &many(129)), Error::TooManyOps);
    let future = pb::RangeRequest { key: bytes("k"), revision: 100, ..Default::default() };
    assert_eq!(refused(Method::Range, &future), Error::FutureRevision);
    let lost = pb::PutRequest { lease: 77, ..put("k", "v") };
    assert_eq!(refused(Method::Put, &lost), Error::LeaseNotFound);
    let _: pb::TxnResponse = world.call(id, Method::Txn, &many(128)).unwrap();
}

#[test]
fn leases_expire_with_their_keys_in_one_revision() {
    let (mut world, id) = one();
    let grant = pb::LeaseGrantRequest { ttl: 3, id: 9 };
    let granted: pb::LeaseGrantResponse = world.call(id, Method::LeaseGrant, &grant).unwrap();
    assert_eq!((granted.id, granted.ttl), (9, 3));
    for key in ["b", "a", "c"] {
        let request = pb::PutRequest { lease: 9, ..put(key, "v") };
        let _: pb::PutResponse = world.call(id, Method::Put, &request).unwrap();
    }
    world.input(id, Input::WatchOpen { stream: StreamId(1) });
    world.input(id, Input::WatchRequest { stream: StreamId(1), body: watch("a", "z", 0) });
    world.run(2_000);
    let renew = pb::LeaseKeepAliveRequest { id: 9 };
    let renewed: pb::LeaseKeepAliveResponse =
        world.call(id, Method::LeaseKeepAlive, &renew).unwrap();
    assert_eq!(renewed.ttl, 3);
    // The remaining time survives a restart in full: nothing expires early.
    world.crash(id, 3);
    world.start(id);
    world.until_serving();
    world.input(id, Input::WatchOpen { stream: StreamId(1) });
    world.input(id, Input::WatchRequest { stream: StreamId(1), body: watch("a", "z", 0) });
    world.run(2_900);
    assert_eq!(world.get(id, "a").as_deref(), Some("v"));
    world.run(2_500);
    assert_eq!(world.get(id, "a"), None);
    let events: Vec<_> = world.responses(id).into_iter().flat_map(|r| r.events).collect();
    let seen: Vec<_> = events
        .iter()
        .map(|e| {
            (e.r#type, e.kv.as_ref().unwrap().key.clone(), e.kv.as_ref().unwrap().mod_revision)
        })
        .collect();
    let revision = seen[0].2;
    assert_eq!(
        seen,
        ["a", "b", "c"].map(|key| (1, bytes(key), revision)),
        "in byte order, in one revision"
    );
    assert!(events.iter().all(|e| e.prev_kv.is_some()));
    let left: pb::LeaseTimeToLiveResponse = world
        .call(id, Method::LeaseTimeToLive, &pb::LeaseTimeToLiveRequest { id: 9, keys: true })
        .unwrap();
    assert_eq!(left.ttl, -1);
}

#[test]
fn watchers_get_history_then_the_present() {
    let (mut world, id) = one();
    for i in 0..3000 {
        world.put(id, &format!("k{:04}", i % 50), &i.to_string());
    }
    world.input(id, Input::WatchOpen { stream: StreamId(7) });
    world.input(id, Input::WatchRequest { stream: StreamId(7), body: watch("k", "l", 2) });
    world.put(id, "k9999", "live");
    world.run(100);
    let responses = world.responses(id);
    assert!(responses[0].created);
    assert_eq!(revisions(&responses), (2..=3002).collect::<Vec<_>>());
    for event in responses.iter().flat_map(|r| &r.events) {
        let kv = event.kv.as_ref().unwrap();
        assert_eq!(event.prev_kv.is_none(), kv.create_revision == kv.mod_revision);
    }
}

#[test]
fn a_slow_watcher_costs_nothing_and_loses_nothing() {
    let (mut world, id) = one();
    let stream = StreamId(1);
    world.input(id, Input::WatchOpen { stream });
    world.input(id, Input::WatchRequest { stream, body: watch("k", "l", 0) });
    for i in 0..1000 {
        world.put(id, "k", &i.to_string());
    }
    let first = world.responses(id);
    assert!(first.len() <= norn_node::RESPONSES_IN_FLIGHT_MAX, "{}", first.len());
    let responses = drain(&mut world, id, stream, first);
    assert_eq!(revisions(&responses), (2..=1001).collect::<Vec<_>>());
}

/// Large values: what it has not taken is bounded in bytes, and so is each step through history.
#[test]
fn a_slow_watcher_of_large_values_costs_some_megabytes() {
    const VALUE: usize = 300_000;
    let (mut world, id) = one();
    let stream = StreamId(1);
    world.input(id, Input::WatchOpen { stream });
    world.input(id, Input::WatchRequest { stream, body: watch("k", "l", 0) });
    for _ in 0..120 {
        world.put(id, "k", &"v".repeat(VALUE));
    }
    let limits = *world.node(id).watchers().limits();
    let first = world.responses(id);
    // (Each response has the value before, too.)
    let live: usize = first.iter().map(Message::encoded_len).sum();
    assert!(live >= limits.bytes_in_flight && live < limits.bytes_in_flight + 3 * VALUE, "{live}");
    let responses = drain(&mut world, id, stream, first);
    for response in &responses {
        let len = response.encoded_len();
        assert!(len < 2 * (limits.catch_up_bytes + VALUE), "{len}");
    }
    assert_eq!(revisions(&responses), (2..=121).collect::<Vec<_>>());
}

/// Takes what there is and what comes because it was taken, to the end.
fn drain(
    world: &mut World,
    id: u64,
    stream: StreamId,
    first: Vec<pb::WatchResponse>,
) -> Vec<pb::WatchResponse> {
    let (mut all, mut next) = (Vec::new(), first);
    while !next.is_empty() {
        world.input(id, Input::WatchDrained { stream, count: next.len() });
        all.append(&mut next);
        world.run(20);
        next = world.responses(id);
    }
    all
}

fn revisions(responses: &[pb::WatchResponse]) -> Vec<i64> {
    let events = responses.iter().flat_map(|response| &response.events);
    events.map(|event| event.kv.as_ref().unwrap().mod_revision).collect()
}

#[test]
fn compacted_watch_is_told_so() {
    let (mut world, id) = one();
    for i in 0..10 {
        world.put(id, "k", &i.to_string());
    }
    let r = pb::CompactionRequest { revision: 8, physical: true };
    let _: pb::CompactionResponse = world.call(id, Method::Compact, &r).unwrap();
    let stream = StreamId(1);
    world.input(id, Input::WatchOpen { stream });
    world.input(id, Input::WatchRequest { stream, body: watch("k", "", 5) });
    world.run(50);
    let responses = world.responses(id);
    assert!(responses[0].created && !responses[0].canceled);
    assert!(responses[1].canceled);
    assert_eq!(responses[1].compact_revision, 8);
    assert_eq!(responses[1].header.as_ref().unwrap().revision, 0);
    world.input(id, Input::WatchRequest { stream, body: watch("k", "", 8) });
    world.run(50);
    let events: usize = world.responses(id).iter().map(|r| r.events.len()).sum();
    assert_eq!(events, 4, "the compacted revision itself can be watched");
}

#[test]
fn full_quota_raises_the_alarm_and_deletes_still_work() {
    let mut world = World::new(1, |config| config.quota_bytes = 60_000);
    let id = world.until_serving();
    let mut refused = None;
    for i in 0..100 {
        let request = put(&format!("k{i}"), &"v".repeat(2_000));
        match world.call::<pb::PutResponse>(id, Method::Put, &request) {
            Ok(_) => {}
            Err(error) => {
                refused = Some(error);
                break;
            }
        }
    }
    assert_eq!(refused, Some(Error::NoSpace));
    world.run(200);
    assert_eq!(world.node(id).alarms().count(), 1);
    let small = world.call::<pb::PutResponse>(id, Method::Put, &put("a", "b"));
    assert_eq!(small.unwrap_err(), Error::NoSpace);
    let delete =
        pb::DeleteRangeRequest { key: bytes("k"), range_end: bytes("l"), ..Default::default() };
    let deleted: pb::DeleteRangeResponse = world.call(id, Method::DeleteRange, &delete).unwrap();
    assert!(deleted.deleted > 10);
}

#[test]
fn a_compaction_pauses_while_somebody_asks_and_only_then() {
    let mut world = World::new(1, |config| {
        (config.compact_records, config.compact_pause_ms) = (100, 60_000);
    });
    let id = world.until_serving();
    for i in 0..600 {
        world.put(id, &format!("k{:03}", i % 300), &i.to_string());
    }
    let r = pb::CompactionRequest { revision: 601, physical: false };
    let _: pb::CompactionResponse = world.call(id, Method::Compact, &r).unwrap();
    for i in 0..20 {
        world.put(id, "other", &i.to_string());
        world.run(10);
    }
    assert!(world.node(id).counters().keys_compacted < 300);
    // Then nobody asks.
    world.run(61_000);
    assert_eq!(world.node(id).counters().keys_compacted, 300);
}

#[test]
fn an_image_pauses_while_somebody_asks_and_only_then() {
    let mut world = World::new(1, |config| {
        (config.snapshot_count, config.checkpoint_interval_ms) = (10, 0);
        (config.image_debt_bytes, config.image_step_bytes) = (1, 60);
        config.work_pause_ms = 60_000;
    });
    let id = world.until_serving();
    let whole = |world: &World| {
        let names = world.disks[&id].list(&FileName::new("member/rev")).unwrap();
        names.iter().filter(|name| name.ends_with(".idx")).count()
    };
    for i in 0..300 {
        world.put(id, &format!("k{i:03}"), "value");
        world.run(10);
    }
    assert_eq!(whole(&world), 0);
    // Then nobody asks.
    world.run(61_000);
    assert_eq!(whole(&world), 1);
}

/// Counted in records alone, a piece of long ones would be gigabytes.
#[test]
fn an_export_goes_in_pieces_and_pauses_while_somebody_asks() {
    let mut world = World::new(1, |config| config.work_pause_ms = 60_000);
    let id = world.until_serving();
    let value = "v".repeat(100_000);
    for i in 0..60 {
        world.put(id, &format!("k{i:02}"), &value);
    }
    world.run(61_000);
    let exported = |world: &World| {
        let file = FileName::new("member/snap/tmp-export-1");
        world.disks[&id].len(&file).unwrap().unwrap_or(0)
    };
    world.input(
        id,
        Input::Call { token: Token(u64::MAX), method: Method::Export, body: Bytes::new() },
    );
    for i in 0..20 {
        world.put(id, "other", &i.to_string());
        world.run(10);
    }
    let first = exported(&world);
    assert!((200_000..700_000).contains(&first), "{first}");
    // Then nobody asks.
    world.run(61_000);
    let whole = exported(&world);
    assert!((6_000_000..8_000_000).contains(&whole), "{whole}");
}

#[test]
fn compactions_survive_restarts_with_equal_hashes() {
    let (mut world, id) = one();
    for i in 0..200 {
        world.put(id, &format!("k{}", i % 17), &i.to_string());
    }
    let r = pb::CompactionRequest { revision: 150, physical: false };
    let _: pb::CompactionResponse = world.call(id, Method::Compact, &r).unwrap();
    world.crash(id, 1);
    world.start(id);
    world.until_serving();
    world.run(1_000);
    let old = pb::RangeRequest { key: bytes("k1"), revision: 149, ..Default::default() };
    let error = world.call::<pb::RangeResponse>(id, Method::Range, &old).unwrap_err();
    assert_eq!(error, Error::Compacted);
    let at = pb::RangeRequest { key: bytes("k1"), revision: 150, ..Default::default() };
    let reply: pb::RangeResponse = world.call(id, Method::Range, &at).unwrap();
    assert_eq!(reply.count, 1);
}

/// Before, a serializable read was answered with the error, and the next one from whatever could still be read.
#[test]
fn a_node_that_cannot_read_its_disk_stops() {
    let mut world = World::new(1, |config| config.cache_bytes = 0);
    let id = world.until_serving();
    world.put(id, "k", "v");
    world.run(1_000);
    world.nodes.get_mut(&id).unwrap().seen.may_fail = true;
    world.disks[&id].fail_read(1);
    let request = pb::RangeRequest { key: bytes("k"), serializable: true, ..Default::default() };
    let error = world.call::<pb::RangeResponse>(id, Method::Range, &request).unwrap_err();
    let file = world.disks[&id].unreadable().unwrap();
    assert!(file.as_str().starts_with("member/rev/"), "{file}");
    assert!(error.to_string().contains(file.as_str()), "{error}");
    assert_eq!(world.nodes[&id].seen.failed, Some(error.to_string()));
    let token = world.start_call(id, Method::Range, &request);
    assert!(!world.nodes[&id].seen.replies.contains_key(&token));
}
