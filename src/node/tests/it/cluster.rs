//! Three nodes: replication, changes of leader, snapshots, membership.

use norn_node::{Config, Error, Host, Input, Method, Node, Start};
use norn_proto::etcdserverpb as pb;
use norn_raft::ProgressState;
use norn_storage::{DiskQueue, DiskRead, FileName, MemDisk};

use crate::world::{Seen, World, bytes, put};

fn three() -> (World, u64) {
    let mut world = World::new(3, |config| {
        config.snapshot_count = 50;
        config.checkpoint_interval_ms = 0;
        config.catch_up_entries = 20;
    });
    let leader = world.until_serving();
    (world, leader)
}

fn followers(world: &World, leader: u64) -> Vec<u64> {
    world.nodes.keys().copied().filter(|id| *id != leader).collect()
}

fn until_equal(world: &mut World) {
    world.run_until("all nodes applied the same", |w| {
        let mut applied = w.nodes.keys().map(|id| w.node(*id).applied());
        let first = applied.next();
        applied.all(|other| Some(other) == first)
    });
    let ids: Vec<u64> = world.nodes.keys().copied().collect();
    let mut hashes = Vec::new();
    for id in ids {
        // (A learner answers no HashKV; it is compared once it votes.)
        if !world.node(id).is_learner() {
            hashes.push(world.hash(id));
        }
    }
    hashes.dedup();
    assert_eq!(hashes.len(), 1, "{hashes:?}");
}

#[test]
fn writes_through_any_member_are_read_through_any_other() {
    let (mut world, leader) = three();
    let ids: Vec<u64> = world.nodes.keys().copied().collect();
    for (i, id) in ids.iter().enumerate() {
        world.put(*id, "k", &i.to_string());
        for other in &ids {
            assert_eq!(world.get(*other, "k"), Some(i.to_string()));
        }
    }
    assert_eq!(world.leader(), Some(leader));
    until_equal(&mut world);
}

#[test]
fn a_new_leader_takes_over_with_everything() {
    let (mut world, leader) = three();
    for i in 0..30 {
        world.put(leader, &format!("k{i}"), "v");
    }
    world.crash(leader, 5);
    let others = followers(&world, leader);
    world.run_until("a new leader", |w| {
        let led_by = |id: &u64| w.node(*id).raft().leader().0;
        w.nodes.keys().all(|id| led_by(id) != 0 && led_by(id) != leader)
    });
    for i in 0..30 {
        assert_eq!(world.get(others[0], &format!("k{i}")).as_deref(), Some("v"));
    }
    world.put(others[1], "k0", "new");
    world.start(leader);
    world.run_until("the old leader follows", |w| w.node(leader).has_leader());
    assert_eq!(world.get(leader, "k0").as_deref(), Some("new"));
    until_equal(&mut world);
}

#[test]
fn a_cut_off_leader_acknowledges_nothing_and_reads_nothing() {
    let (mut world, leader) = three();
    world.put(leader, "k", "before");
    for other in followers(&world, leader) {
        world.cut.insert((leader, other));
        world.cut.insert((other, leader));
    }
    let write = world.start_call(leader, Method::Put, &put("k", "lost"));
    let read = world.start_call(
        leader,
        Method::Range,
        &pb::RangeRequest { key: "k".into(), ..Default::default() },
    );
    let other = followers(&world, leader)[0];
    world.run_until("another leader", |w| w.leader().is_some_and(|id| id != leader));
    world.put(other, "k", "after");
    let lost = world.finish::<pb::PutResponse>(leader, write);
    assert!(lost.is_err(), "{lost:?}");
    let stale = world.finish::<pb::RangeResponse>(leader, read);
    assert!(stale.is_err(), "{stale:?}");
    world.cut.clear();
    world.run(2_000);
    assert_eq!(world.get(leader, "k").as_deref(), Some("after"));
    until_equal(&mut world);
}

#[test]
fn a_member_left_behind_gets_a_snapshot() {
    let (mut world, leader) = three();
    let behind = followers(&world, leader)[0];
    world.crash(behind, 1);
    for i in 0..300 {
        world.put(leader, &format!("k{}", i % 40), &"v".repeat(i % 90));
    }
    world.start(behind);
    until_equal(&mut world);
    assert_eq!(world.get(behind, "k1"), world.get(leader, "k1"));
    // And its state is as durable as if it had applied every entry.
    world.crash(behind, 2);
    world.start(behind);
    until_equal(&mut world);
}

/// Adds a learner and starts it.
fn with_learner(world: &mut World, leader: u64) -> u64 {
    world.run(6_000);
    for from in followers(world, leader) {
        world.input(leader, Input::PeerActive { id: from, active: true });
    }
    world.run(6_000);
    let add = pb::MemberAddRequest { peer_ur_ls: vec!["http://n4:2380".into()], is_learner: true };
    let added: pb::MemberAddResponse = world.call(leader, Method::MemberAdd, &add).unwrap();
    assert_eq!(added.members.len(), 4);
    let member_id = added.member.unwrap().id;
    let mut config = Config::new("n4", "http://n4:2380");
    config.start =
        Start::Join { cluster_id: world.node(leader).cluster_id(), member_id, members: Vec::new() };
    world.add(member_id, config);
    member_id
}

#[test]
fn members_come_and_go() {
    let (mut world, leader) = three();
    let others = followers(&world, leader);
    let learner = with_learner(&mut world, leader);
    let second =
        pb::MemberAddRequest { peer_ur_ls: vec!["http://n5:2380".into()], is_learner: true };
    let error = world.call::<pb::MemberAddResponse>(leader, Method::MemberAdd, &second);
    assert_eq!(error.unwrap_err(), Error::TooManyLearners);
    until_equal(&mut world);
    let refused = world.call::<pb::RangeResponse>(
        learner,
        Method::Range,
        &pb::RangeRequest { key: "k".into(), ..Default::default() },
    );
    assert_eq!(refused.unwrap_err(), Error::NotSupportedForLearner);
    let promote = pb::MemberPromoteRequest { id: learner };
    let _: pb::MemberPromoteResponse = world.call(leader, Method::MemberPromote, &promote).unwrap();
    world.run(500);
    world.put(learner, "from", "four");
    let remove = pb::MemberRemoveRequest { id: others[0] };
    let removed: pb::MemberRemoveResponse =
        world.call(leader, Method::MemberRemove, &remove).unwrap();
    assert_eq!(removed.members.len(), 3);
    world.run(500);
    world.nodes.remove(&others[0]);
    assert_eq!(world.get(others[1], "from").as_deref(), Some("four"));
    until_equal(&mut world);
}

#[test]
fn a_learner_is_told_of_many_writes_at_once() {
    let (mut world, leader) = three();
    let learner = with_learner(&mut world, leader);
    until_equal(&mut world);
    world.run(1_000);
    let matched = |world: &World, id: u64| {
        let mut all = world.node(leader).raft().progress();
        all.find(|(member, _)| member.0 == id).unwrap().1.matched.0
    };
    let put_all = |world: &mut World, values: &[String]| {
        let calls: Vec<_> = values
            .iter()
            .map(|value| world.start_call(leader, Method::Put, &put("k", value)))
            .collect();
        world.settle();
        for call in calls {
            assert!(world.nodes[&leader].seen.replies.contains_key(&call), "nobody waits for it");
        }
    };
    let before = matched(&world, learner);
    for i in 0..20 {
        put_all(&mut world, &[i.to_string()]);
    }
    assert_eq!(matched(&world, leader), before + 20);
    assert_eq!(matched(&world, learner), before, "no time has passed");
    world.run(20);
    assert_eq!(matched(&world, learner), before + 20);

    put_all(&mut world, &["v".repeat(70_000)]);
    assert_eq!(matched(&world, learner), before + 21, "that is company enough");
    world.run(20);
    until_equal(&mut world);
}

#[test]
fn a_learner_catches_up_twice_as_fast_as_the_log_grows() {
    const KB: usize = 1_000;
    let (mut world, leader) = three();
    let learner = with_learner(&mut world, leader);
    until_equal(&mut world);
    world.run(1_000);
    let value = "v".repeat(10 * KB);
    let put_some = |world: &mut World, values: usize| {
        for _ in 0..values {
            world.start_call(leader, Method::Put, &put("k", &value));
            world.settle();
        }
    };
    let behind = |w: &World| w.node(leader).applied() - w.node(learner).applied();
    put_some(&mut world, 400);
    assert!((390..400).contains(&behind(&world)), "no time has passed");
    // How many it gets while the log grows by so many values every ten milliseconds, six times.
    let gets = |world: &mut World, values: usize| {
        world.run(10);
        let before = world.node(learner).applied();
        for _ in 0..6 {
            put_some(world, values);
            world.run(10);
        }
        world.node(learner).applied() - before
    };
    // (At first a megabyte: the log has grown by four.)
    assert_eq!(gets(&mut world, 1), 16, "10 kB, and 16 KiB more");
    assert_eq!(gets(&mut world, 10), 120, "as much again");
    assert!(behind(&world) > 150);
    world.most_at_once.clear();
    world.run(200);
    let most = world.most_at_once[&(leader, learner)] / KB;
    assert!((262..=320).contains(&most), "nobody asks any more: {most}");
    until_equal(&mut world);
}

#[test]
fn a_promoted_learner_is_sent_first_what_waited_for_company() {
    let (mut world, leader) = three();
    let learner = with_learner(&mut world, leader);
    until_equal(&mut world);
    world.run(1_000);
    world.start_call(leader, Method::Put, &put("k", "waits"));
    world.settle();
    let promote = pb::MemberPromoteRequest { id: learner };
    let promoted = world.start_call(leader, Method::MemberPromote, &promote);
    world.settle();
    world.start_call(leader, Method::Put, &put("k", "is sent at once"));
    let state = |world: &World| {
        let mut all = world.node(leader).raft().progress();
        all.find(|(member, _)| member.0 == learner).unwrap().1.state
    };
    while world.deliver() {
        assert_eq!(state(&world), ProgressState::Replicate, "nothing seems lost");
    }
    let _: pb::MemberPromoteResponse = world.finish(leader, promoted).unwrap();
    world.run(20);
    until_equal(&mut world);
}

#[test]
fn leadership_moves_on_request() {
    let (mut world, leader) = three();
    let target = followers(&world, leader)[1];
    let request = pb::MoveLeaderRequest { target_id: target };
    let _: pb::MoveLeaderResponse = world.call(leader, Method::MoveLeader, &request).unwrap();
    assert_eq!(world.leader(), Some(target));
    let error = world.call::<pb::MoveLeaderResponse>(leader, Method::MoveLeader, &request);
    assert_eq!(error.unwrap_err(), Error::NotLeader);
}

#[test]
fn a_leader_with_a_slow_disk_answers_about_a_lease_when_it_has_caught_up() {
    let (mut world, leader) = three();
    let follower = followers(&world, leader)[0];
    world.disks[&leader].defer(true);
    let grant = pb::LeaseGrantRequest { id: 7, ttl: 600 };
    let _: pb::LeaseGrantResponse = world.call(follower, Method::LeaseGrant, &grant).unwrap();
    let leased = pb::PutRequest { lease: 7, ..put("k", "v") };
    let _: pb::PutResponse = world.call(follower, Method::Put, &leased).unwrap();
    assert!(world.node(leader).applied() < world.node(follower).applied());

    // Too slow: said so.
    let ask = pb::LeaseTimeToLiveRequest { id: 7, keys: true };
    let renew = pb::LeaseKeepAliveRequest { id: 7 };
    let late: Result<pb::LeaseTimeToLiveResponse, Error> =
        world.call(leader, Method::LeaseTimeToLive, &ask);
    assert_eq!(late.unwrap_err(), Error::TimeoutWaitAppliedIndex);
    let late: Result<pb::LeaseKeepAliveResponse, Error> =
        world.call(leader, Method::LeaseKeepAlive, &renew);
    assert_eq!(late.unwrap_err(), Error::TimeoutWaitAppliedIndex);

    let asked = world.start_call(leader, Method::LeaseTimeToLive, &ask);
    let renewed = world.start_call(leader, Method::LeaseKeepAlive, &renew);
    world.disks[&leader].defer(false);
    let reply: pb::LeaseTimeToLiveResponse = world.finish(leader, asked).unwrap();
    assert_eq!((reply.granted_ttl, &reply.keys[..]), (600, &[bytes("k")][..]));
    let reply: pb::LeaseKeepAliveResponse = world.finish(leader, renewed).unwrap();
    assert_eq!(reply.ttl, 600);
}

/// A member that kept only some of the founders would know too few to ever hear of the others.
#[test]
fn a_founding_cut_short_is_done_again() {
    let whole = World::new(3, |config| config.wal_segment_bytes = 8 << 10);
    let id = whole.nodes.keys().copied().next().unwrap();
    let config = whole.configs[&id].clone();
    let mut disk = MemDisk::new();
    disk.defer(true);
    let reader = disk.clone();
    let node = Node::open(&mut disk, reader, config.clone(), whole.now).unwrap();
    let mut host = Host::new(node, disk.clone());
    host.turn(whole.now, [Input::Wake], &mut Seen::default());
    assert!(disk.step(DiskQueue::Log), "the founding members are on their way to the disk");
    for mut image in disk.crash_images() {
        let reader = image.clone();
        let node = Node::open(&mut image, reader, config.clone(), whole.now).unwrap();
        let mut host = Host::new(node, image);
        host.turn(whole.now, [Input::Wake], &mut Seen::default());
        assert_eq!(host.node().members().iter().count(), 3);
    }
}

#[test]
fn members_of_a_busy_cluster_take_their_checkpoints_in_turn() {
    let mut world = World::new(3, |config| {
        (config.snapshot_count, config.checkpoint_interval_ms) = (10, u64::from(u32::MAX));
        config.snapshots_max = 1000;
    });
    let leader = world.until_serving();
    for i in 0..400 {
        world.put(leader, "key", &i.to_string());
    }
    let mut taken = Vec::new();
    for (id, disk) in &world.disks {
        let files = disk.list(&FileName::new("member/snap")).unwrap();
        let indexes = files.iter().filter_map(|file| file.strip_suffix(".snap")?.rsplit_once('-'));
        taken.extend(indexes.map(|(_, index)| (u64::from_str_radix(index, 16).unwrap(), *id)));
    }
    taken.sort_unstable();
    // Each once in a hundred entries.
    assert!((10..=13).contains(&taken.len()), "{taken:?}");
    for pair in taken.windows(2) {
        let [(before, first), (after, second)] = pair else { unreachable!("windows of two") };
        assert!(first != second && (30..=37).contains(&(after - before)), "{taken:?}");
    }
}
