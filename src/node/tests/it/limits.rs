//! What a node refuses because there is too much of something, and how long it lets anybody wait.

use norn_node::{Command, CommandHeader, Config, Error, Input, Limits, Method, Time};
use norn_proto::{etcdserverpb as pb, membershippb};
use norn_raft::{Entry, Message, MessageKind, NodeId};

use crate::world::{World, bytes, put};

fn three(tune: impl Fn(&mut Config)) -> (World, u64, [u64; 2]) {
    let mut world = World::new(3, tune);
    let leader = world.until_serving();
    let mut others = world.nodes.keys().copied().filter(|id| *id != leader);
    let others = [others.next().unwrap(), others.next().unwrap()];
    (world, leader, others)
}

/// The error of a call that has been answered, and nothing of one that waits.
fn refusal(
    world: &mut World,
    id: u64,
    method: Method,
    request: &impl prost::Message,
) -> Option<Error> {
    let token = world.start_call(id, method, request);
    world.nodes[&id].seen.replies.get(&token).and_then(|reply| reply.clone().err())
}

fn gap(world: &World, id: u64) -> u64 {
    world.node(id).raft().committed().0 - world.node(id).applied()
}

fn serializable(key: &str) -> pb::RangeRequest {
    pb::RangeRequest { key: bytes(key), serializable: true, ..Default::default() }
}

#[test]
fn a_member_that_applies_too_slowly_takes_no_proposals() {
    assert_eq!(Limits::default().apply_gap, 5_000, "etcd's");
    let (mut world, leader, [follower, _]) = three(|config| {
        config.limits.apply_gap = 5;
        config.strict_reconfig_check = false;
    });
    let granted: pb::LeaseGrantResponse =
        world.call(leader, Method::LeaseGrant, &pb::LeaseGrantRequest { id: 7, ttl: 600 }).unwrap();
    assert_eq!(granted.id, 7);
    world.run(100);
    world.disks[&leader].defer(true);
    while gap(&world, leader) < 5 {
        world.put(follower, "k", "v");
        world.run(20);
    }
    assert_eq!(gap(&world, leader), 5);
    assert_eq!(refusal(&mut world, leader, Method::Put, &put("k", "w")), None, "just not too many");
    world.put(follower, "k", "v");
    world.run(20);
    assert!(gap(&world, leader) > 5);
    let full = Some(Error::TooManyRequests);
    let mut told = |method, request: &dyn Fn(&mut World, Method) -> Option<Error>| {
        assert_eq!(request(&mut world, method), full, "{method:?}");
    };
    told(Method::Put, &|w, m| refusal(w, leader, m, &put("k", "v")));
    let delete = pb::DeleteRangeRequest { key: bytes("k"), ..Default::default() };
    told(Method::DeleteRange, &|w, m| refusal(w, leader, m, &delete));
    let op = pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(put("k", "v"))) };
    let txn = pb::TxnRequest { success: vec![op], ..Default::default() };
    told(Method::Txn, &|w, m| refusal(w, leader, m, &txn));
    let compact = pb::CompactionRequest { revision: 2, physical: false };
    told(Method::Compact, &|w, m| refusal(w, leader, m, &compact));
    let grant = pb::LeaseGrantRequest { id: 8, ttl: 600 };
    told(Method::LeaseGrant, &|w, m| refusal(w, leader, m, &grant));
    told(Method::LeaseRevoke, &|w, m| refusal(w, leader, m, &pb::LeaseRevokeRequest { id: 7 }));
    told(Method::Alarm, &|w, m| refusal(w, leader, m, &pb::AlarmRequest::default()));
    told(Method::AuthStatus, &|w, m| refusal(w, leader, m, &pb::AuthStatusRequest {}));
    // Not reads, nor what has nothing to do with the log, nor changes of the membership.
    let _: pb::RangeResponse = world.call(leader, Method::Range, &serializable("k")).unwrap();
    let sure = pb::RangeRequest { key: bytes("k"), ..Default::default() };
    assert_eq!(refusal(&mut world, leader, Method::Range, &sure), None);
    let _: pb::StatusResponse = world.call(leader, Method::Status, &pb::StatusRequest {}).unwrap();
    let add = pb::MemberAddRequest { peer_ur_ls: vec!["http://n4:2380".into()], is_learner: true };
    assert_eq!(refusal(&mut world, leader, Method::MemberAdd, &add), None);
    // Each member goes by itself, and it passes.
    world.put(follower, "k", "last");
    world.disks[&leader].defer(false);
    world.run_until("the leader has applied", |w| gap(w, leader) == 0);
    world.put(leader, "k", "v");
}

#[test]
fn a_member_that_comes_back_is_sent_so_much_at_once() {
    let (mut world, leader, [behind, _]) = three(|config| {
        config.message_bytes_max = 2_000;
        config.limits.inflight_bytes = 10_000;
    });
    world.cut.extend([(leader, behind), (behind, leader)]);
    for _ in 0..100 {
        world.put(leader, "k", &"v".repeat(1_000));
    }
    world.cut.clear();
    let on_the_way = |world: &World| {
        let all = world.node(leader).holdings();
        all.iter().find(|held| held.what == "entries on their way to a member").unwrap().count
    };
    let mut most = 0;
    while gap(&world, behind) > 0 || world.node(behind).applied() < world.node(leader).applied() {
        if !world.deliver() {
            world.run(10);
        }
        most = most.max(on_the_way(&world));
    }
    assert!((8_000..=12_000).contains(&most), "{most}");
}

#[test]
fn a_turn_sends_so_much_to_a_member_and_no_more() {
    let (mut world, leader, [behind, _]) = three(|config| {
        config.message_bytes_max = 2_000;
        config.limits.turn_bytes = 10_000;
    });
    world.cut.extend([(leader, behind), (behind, leader)]);
    for _ in 0..100 {
        world.put(leader, "k", &"v".repeat(1_000));
    }
    world.cut.clear();
    world.most_at_once.clear();
    let waits = |world: &World| {
        let all = world.node(leader).holdings();
        let what = "entries that have not left for a member";
        all.iter().find(|held| held.what == what).unwrap().count
    };
    while waits(&world) == 0 {
        if !world.deliver() {
            world.now = world.now + 10;
            world.input(leader, Input::Wake);
        }
    }
    let mut turns = 0;
    while waits(&world) > 0 {
        assert_eq!(world.node(leader).deadline(), world.now, "what is left has the next turn");
        world.input(leader, Input::Wake);
        turns += 1;
    }
    assert!((8..=12).contains(&turns), "{turns}");
    assert!((8_000..=12_000).contains(&world.most_at_once[&(leader, behind)]));
    world.settle();
    assert_eq!(world.node(behind).applied(), world.node(leader).applied());
}

#[test]
fn a_lease_costs_64_bytes_of_the_quota() {
    const QUOTA: u64 = 30_000;
    let mut world = World::new(1, |config| config.quota_bytes = QUOTA as i64);
    let id = world.until_serving();
    let left = |world: &World| QUOTA.saturating_sub(world.node(id).db_bytes().0);
    while left(&world) > 2_000 {
        world.put(id, "k", &"v".repeat(1_000));
    }
    let mut granted = 0;
    loop {
        let fits = left(&world) > 64;
        let grant = pb::LeaseGrantRequest { id: 0, ttl: 600 };
        match world.call::<pb::LeaseGrantResponse>(id, Method::LeaseGrant, &grant) {
            Ok(_) => assert!(fits, "{} bytes are left", left(&world)),
            Err(error) => {
                assert_eq!((error, fits), (Error::NoSpace, false), "{} bytes", left(&world));
                break;
            }
        }
        granted += 1;
    }
    assert!(granted > 10, "{granted}");
}

/// Both passed the door when there was room for one.
#[test]
fn what_overruns_the_quota_when_applied_is_done_and_answered_with_no_space() {
    const QUOTA: u64 = 60_000;
    let mut world = World::new(1, |config| config.quota_bytes = QUOTA as i64);
    let id = world.until_serving();
    let value = "v".repeat((QUOTA - world.node(id).db_bytes().0) as usize * 2 / 3);
    world.disks[&id].defer(true);
    let first = world.start_call(id, Method::Put, &put("first", &value));
    let second = world.start_call(id, Method::Put, &put("second", &value));
    world.disks[&id].defer(false);
    let _: pb::PutResponse = world.finish(id, first).unwrap();
    let over = world.finish::<pb::PutResponse>(id, second);
    assert_eq!(over.unwrap_err(), Error::NoSpace);
    assert_eq!(world.get(id, "second"), Some(value), "members of other sizes have it, too");
    world.run(100);
    assert_eq!(world.node(id).alarms().count(), 1);
}

/// A put begun at `id` while the disks of `slow` do not write, and what it ends with.
fn lost_put(world: &mut World, id: u64, slow: [u64; 2]) -> Error {
    for disk in slow {
        world.disks[&disk].defer(true);
    }
    let began = world.now;
    let token = world.start_call(id, Method::Put, &put("k", "v"));
    world.settle();
    let limit = world.configs[&id].request_timeout_ms();
    world.run(limit - 200);
    assert!(!world.nodes[&id].seen.replies.contains_key(&token), "too early");
    let error = world.finish::<pb::PutResponse>(id, token).unwrap_err();
    assert!(world.now.since(began) < limit + 200, "too late");
    for disk in slow {
        world.disks[&disk].defer(false);
    }
    world.run(1_000);
    error
}

fn connect(world: &mut World, from: u64, to: u64, active: bool) {
    world.input(from, Input::PeerActive { id: to, active });
}

#[test]
fn a_lost_write_ends_with_what_may_have_been_the_cause() {
    let (mut world, leader, [a, b]) = three(|_| {});
    assert_eq!(Config::new("n", "http://n:1").request_timeout_ms(), 7_000);
    // Longer ago than an election is of interest.
    world.run(3_000);
    // The leader needs one of them.
    let lost = lost_put(&mut world, leader, [a, b]);
    assert_eq!(lost, Error::TimeoutDueToConnectionLost);
    connect(&mut world, leader, a, true);
    assert_eq!(lost_put(&mut world, leader, [a, b]), Error::Timeout);
    // A connection that was lost in between is a new one.
    for disk in [a, b] {
        world.disks[&disk].defer(true);
    }
    let token = world.start_call(leader, Method::Put, &put("k", "v"));
    world.run(1_000);
    connect(&mut world, leader, a, false);
    connect(&mut world, leader, a, true);
    let lost = world.finish::<pb::PutResponse>(leader, token);
    assert_eq!(lost.unwrap_err(), Error::TimeoutDueToConnectionLost);
    for disk in [a, b] {
        world.disks[&disk].defer(false);
    }
    world.run(1_000);
    // A follower needs the leader, whoever else is there.
    connect(&mut world, a, b, true);
    let lost = lost_put(&mut world, a, [leader, b]);
    assert_eq!(lost, Error::TimeoutDueToConnectionLost);
    connect(&mut world, a, leader, true);
    assert_eq!(lost_put(&mut world, a, [leader, b]), Error::Timeout);
    assert_eq!(world.leader(), Some(leader), "all the time");
}

#[test]
fn a_write_lost_with_the_leader_says_so_where_its_successor_is() {
    // (Elections come after one to two times the timeout.)
    for seed in 0..8 {
        lose_the_leader(seed);
    }
}

fn lose_the_leader(seed: u64) {
    let (mut world, leader, others) = three(|config| config.seed += seed << 40);
    world.run(3_000);
    for from in others {
        for to in others {
            connect(&mut world, from, to, true);
        }
        world.cut.extend([(leader, from), (from, leader)]);
    }
    let mut calls: Vec<(u64, _, Time)> = Vec::new();
    let elected = loop {
        if let Some(new) = others.into_iter().find(|id| world.node(*id).is_leader()) {
            break new;
        }
        for id in others {
            if world.node(id).has_leader() {
                calls.push((id, world.start_call(id, Method::Put, &put("k", "v")), world.now));
            }
        }
        world.run(100);
    };
    let since = world.now;
    let window = 2 * world.configs[&elected].election_ms();
    assert!(calls.len() >= 10, "{}", calls.len());
    for (id, token, began) in calls {
        let lost = world.finish::<pb::PutResponse>(id, token).unwrap_err();
        let is_late = id == elected && since.since(began) < window - 100;
        let is_early = id != elected || since.since(began) > window;
        assert!(!is_late || lost == Error::TimeoutDueToLeaderFail, "{id:x}: {lost}");
        assert!(!is_early || lost == Error::Timeout, "{id:x}: {lost}");
    }
}

#[test]
fn a_write_without_a_leader_ends_as_if_its_client_had_had_enough() {
    let (mut world, leader, [a, b]) = three(|_| {});
    world.nodes.remove(&a);
    world.nodes.remove(&b);
    world.run_until("no leader", |w| !w.node(leader).has_leader());
    let read = pb::RangeRequest { key: bytes("k"), ..Default::default() };
    let began = world.now;
    let write = world.start_call(leader, Method::Put, &put("k", "v"));
    let read = world.start_call(leader, Method::Range, &read);
    let given_up = world.start_call(leader, Method::Put, &put("k", "v"));
    world.input(leader, Input::Forget { token: given_up });
    let lost = world.finish::<pb::PutResponse>(leader, write);
    assert_eq!(lost.unwrap_err(), Error::DeadlineExceeded);
    let lost = world.finish::<pb::RangeResponse>(leader, read);
    assert_eq!(lost.unwrap_err(), Error::Timeout);
    let took = world.now.since(began);
    assert!((7_000..7_200).contains(&took), "{took} ms");
    let _: pb::RangeResponse = world.call(leader, Method::Range, &serializable("k")).unwrap();
}

/// Members of the target's version can be had only the other way round here: the target is this version.
fn downgraded_after(every_ms: Option<u64>) -> Option<u64> {
    let (mut world, leader, others) = three(|config| config.downgrade_check_ms = every_ms);
    world.run(3_000);
    let set = membershippb::DowngradeInfoSetRequest { enabled: true, ver: "3.7.0".into() };
    let header = CommandHeader { id: 1, ..CommandHeader::default() };
    let data = Command::DowngradeInfoSet(set).encode(&header);
    world.input(
        leader,
        Input::Peer(Message {
            from: NodeId(others[0]),
            entries: vec![Entry::proposal(data)],
            ..Message::new(MessageKind::Prop, NodeId(leader))
        }),
    );
    world.settle();
    let is_enabled = |world: &mut World| {
        let status: pb::StatusResponse =
            world.call(leader, Method::Status, &pb::StatusRequest {}).unwrap();
        status.downgrade_info.unwrap().enabled
    };
    world.run(20_000);
    assert!(is_enabled(&mut world), "nobody knows what the others run");
    for other in others {
        world.input(leader, Input::PeerVersion { id: other, version: Some((3, 7)) });
    }
    let began = world.now;
    while is_enabled(&mut world) {
        world.run(100);
        if world.now.since(began) > 20_000 {
            return None;
        }
    }
    Some(world.now.since(began))
}

#[test]
fn a_complete_downgrade_is_ended_when_it_is_looked_at() {
    assert_eq!(Config::new("n", "http://n:1").downgrade_check_ms, Some(5_000));
    let often = downgraded_after(Some(500)).unwrap();
    assert!(often <= 700, "{often} ms");
    // (Where in the interval this begins is the same each time.)
    let seldom = downgraded_after(Some(17_000)).unwrap();
    assert!((700..=17_200).contains(&seldom), "{seldom} ms");
    assert_eq!(downgraded_after(None), None);
}

#[test]
fn a_leader_waits_a_second_for_its_own_application() {
    let (mut world, leader, [follower, _]) = three(|_| {});
    let grant = pb::LeaseGrantRequest { id: 7, ttl: 600 };
    let _: pb::LeaseGrantResponse = world.call(leader, Method::LeaseGrant, &grant).unwrap();
    world.disks[&leader].defer(true);
    world.put(follower, "k", "v");
    world.run(20);
    assert!(gap(&world, leader) > 0);
    let began = world.now;
    let ask = pb::LeaseTimeToLiveRequest { id: 7, keys: true };
    let late = world.call::<pb::LeaseTimeToLiveResponse>(leader, Method::LeaseTimeToLive, &ask);
    assert_eq!(late.unwrap_err(), Error::TimeoutWaitAppliedIndex);
    let took = world.now.since(began);
    assert!((1_000..=1_110).contains(&took), "{took} ms");
}
