//! No leader, or one that is out of reach: who waits, for how long, and in which words it ends.

use std::time::{Duration, Instant};

use norn_tests::pb::*;
use norn_tests::poll::until_async;
use norn_tests::req::*;
use norn_tests::{Client, Cluster, Setup};
use rustix::process::Signal;
use tokio::time::timeout;
use tokio_stream::StreamExt as _;
use tonic::{Code, Request, Status};

use crate::assert_refused;

const LIMIT: Duration = Duration::from_secs(20);
const ELECTION: Duration = Duration::from_millis(500);
/// What a server gives a request: five seconds and two elections.
const REQUEST: Duration = Duration::from_secs(6);

const NO_LEADER: &str = "etcdserver: no leader";
const TIMEOUT: &str = "etcdserver: request timed out";

fn three() -> Cluster {
    let election = format!("--election-timeout={}", ELECTION.as_millis());
    Cluster::start_with(3, &Setup::default().flag("--heartbeat-interval=50").flag(election))
}

/// With metadata: `hasleader`, once or more.
fn asking<T>(message: T, values: &[&'static str]) -> Request<T> {
    let mut request = Request::new(message);
    for value in values {
        request.metadata_mut().append("hasleader", value.parse().unwrap());
    }
    request
}

/// Kills two of three, and waits until the last one knows of no leader.
async fn desert(cluster: &mut Cluster, last: usize) {
    for i in 1..3 {
        cluster.servers[(last + i) % 3].kill();
    }
    let client = cluster.servers[last].client();
    until_async("no leader", LIMIT, async || {
        (client.status().await.unwrap().leader == 0).then_some(())
    })
    .await;
}

/// The answer, and how long it took.
async fn timed<T>(call: impl Future<Output = Result<T, Status>>) -> (Result<(), Status>, Duration) {
    let began = Instant::now();
    (call.await.map(|_| ()), began.elapsed())
}

#[track_caller]
fn assert_waited((answer, took): (Result<(), Status>, Duration), code: Code, text: &str) {
    assert_refused(answer, code, text);
    // (The clock of the server may be a tick behind.)
    let least = REQUEST - Duration::from_millis(100);
    // Reads that meet a round under way wait for the next one.
    assert!(took >= least && took < 2 * REQUEST + Duration::from_secs(3), "{text} after {took:?}");
}

#[tokio::test]
async fn without_a_leader_writes_and_sure_reads_wait_and_end() {
    let mut cluster = three();
    let leader = cluster.leader().await;
    let client = cluster.servers[leader].client();
    client.put(put("a", "1")).await.unwrap();
    client.lease_grant(7, 600).await.unwrap();
    desert(&mut cluster, leader).await;

    let deadline = "context deadline exceeded";
    let writes = async {
        let puts = txn(vec![], vec![op_put(put("a", "2"))], vec![]);
        let alarms = AlarmRequest::default();
        let answers = tokio::join!(
            timed(client.put(put("a", "2"))),
            timed(client.delete(del("a"))),
            timed(client.txn(puts)),
            timed(client.compact(2)),
            timed(client.lease_grant(8, 600)),
            timed(client.lease_revoke(7)),
            timed(client.alarm(alarms)),
        );
        for answer in [answers.0, answers.1, answers.2, answers.3, answers.4, answers.5, answers.6]
        {
            assert_waited(answer, Code::DeadlineExceeded, deadline);
        }
    };
    let reads = async {
        let gets = txn(vec![], vec![op_get(get("a"))], vec![]);
        let answers = tokio::join!(
            timed(client.range(get("a"))),
            timed(client.txn(gets)),
            timed(client.member_list()),
            timed(async {
                let (chunks, error) = client.range_stream(get("a")).await;
                assert_eq!(chunks, []);
                error.map_or(Ok(()), Err)
            }),
        );
        for answer in [answers.0, answers.1, answers.2, answers.3] {
            assert_waited(answer, Code::Unavailable, TIMEOUT);
        }
    };
    // (They would have to ask the leader.)
    let leases = async {
        let answers = tokio::join!(timed(client.lease_ttl(7, true)), timed(client.keep_alive(7)));
        for answer in [answers.0, answers.1] {
            assert_waited(answer, Code::Unavailable, NO_LEADER);
        }
    };
    tokio::join!(writes, reads, leases, local(&client));
    let read = client.range(RangeRequest { serializable: true, ..get("a") }).await.unwrap();
    assert_eq!(read.kvs[0].value, bytes("1"), "none of them was done");
}

/// What a member answers by itself, at once.
async fn local(client: &Client) {
    let began = Instant::now();
    let read = RangeRequest { serializable: true, ..get("a") };
    assert_eq!(client.range(read.clone()).await.unwrap().count, 1);
    let read_txn = txn(vec![], vec![op_get(read.clone())], vec![]);
    assert_eq!(client.txn(read_txn).await.unwrap().responses.len(), 1);
    let (chunks, error) = client.range_stream(read).await;
    assert!(chunks.len() == 1 && error.is_none(), "{error:?}");
    assert_eq!(client.leases().await.unwrap().leases[0].id, 7);
    assert!(client.status().await.unwrap().errors.contains(&NO_LEADER.to_owned()));
    client.hash_kv(0).await.unwrap();
    assert!(!client.snapshot().await.unwrap().is_empty());
    let list = MemberListRequest { linearizable: false };
    let list = client.cluster.clone().member_list(list).await.unwrap().into_inner();
    assert_eq!(list.members.len(), 3);
    let moved = client.move_leader(1).await;
    assert_refused(moved, Code::FailedPrecondition, "etcdserver: not leader");
    assert!(began.elapsed() < REQUEST / 2, "{:?}", began.elapsed());
}

#[tokio::test]
async fn who_asks_for_a_leader_is_refused_at_once_without_one() {
    let mut cluster = three();
    let leader = cluster.leader().await;
    let client = cluster.servers[leader].client();
    let local = || RangeRequest { serializable: true, ..get("a") };
    let mut kv = client.kv.clone();
    kv.range(asking(get("a"), &["true"])).await.unwrap();
    desert(&mut cluster, leader).await;

    let began = Instant::now();
    let refused = |status: Status| {
        assert_eq!((status.code(), status.message()), (Code::Unavailable, NO_LEADER));
    };
    refused(kv.put(asking(put("a", "1"), &["true"])).await.unwrap_err());
    refused(kv.range(asking(get("a"), &["true"])).await.unwrap_err());
    refused(kv.range(asking(local(), &["true"])).await.unwrap_err());
    // Before anything is looked at.
    refused(kv.put(asking(put("", "1"), &["true"])).await.unwrap_err());
    let mut maintenance = client.maintenance.clone();
    refused(maintenance.status(asking(StatusRequest {}, &["true"])).await.unwrap_err());
    let mut lease = client.lease.clone();
    refused(lease.lease_leases(asking(LeaseLeasesRequest {}, &["true"])).await.unwrap_err());
    // The first value counts, and there is one that means it.
    refused(kv.range(asking(local(), &["true", "false"])).await.unwrap_err());
    for values in [&["false", "true"][..], &["TRUE"], &["1"], &[""], &[]] {
        kv.range(asking(local(), values)).await.unwrap();
    }
    // Streams.
    let none = tokio_stream::pending::<WatchRequest>();
    refused(client.watch.clone().watch(asking(none, &["true"])).await.unwrap_err());
    let none = tokio_stream::pending::<LeaseKeepAliveRequest>();
    refused(lease.lease_keep_alive(asking(none, &["true"])).await.unwrap_err());
    refused(maintenance.snapshot(asking(SnapshotRequest {}, &["true"])).await.unwrap_err());
    refused(kv.range_stream(asking(local(), &["true"])).await.unwrap_err());
    assert!(began.elapsed() < REQUEST / 2, "{:?}", began.elapsed());
}

#[tokio::test]
async fn open_streams_that_asked_for_a_leader_end_without_one() {
    let mut cluster = three();
    let leader = cluster.leader().await;
    let last = (leader + 1) % 3;
    let client = cluster.servers[last].client();
    client.lease_grant(7, 600).await.unwrap();

    let create = || WatchRequest {
        request_union: Some(watch_request::RequestUnion::CreateRequest(watch("a"))),
    };
    let renew = || LeaseKeepAliveRequest { id: 7 };
    let (mut watch, mut lease) = (client.watch.clone(), client.lease.clone());
    let once_then_silent = |values: &'static [&'static str]| {
        asking(tokio_stream::once(create()).chain(tokio_stream::pending()), values)
    };
    let mut strict = watch.watch(once_then_silent(&["true"])).await.unwrap().into_inner();
    let mut patient = watch.watch(once_then_silent(&[])).await.unwrap().into_inner();
    for stream in [&mut strict, &mut patient] {
        assert!(stream.message().await.unwrap().unwrap().created);
    }
    let renewing = |values: &'static [&'static str]| {
        asking(tokio_stream::once(renew()).chain(tokio_stream::pending()), values)
    };
    let renewed = lease.lease_keep_alive(renewing(&["true"])).await.unwrap();
    let mut strict_lease = renewed.into_inner();
    let mut patient_lease = lease.lease_keep_alive(renewing(&[])).await.unwrap().into_inner();
    for stream in [&mut strict_lease, &mut patient_lease] {
        assert_eq!(stream.message().await.unwrap().unwrap().ttl, 600);
    }

    // A change of leaders is over before the third look.
    cluster.servers[leader].kill();
    let other = cluster.leader().await;
    cluster.servers[other].client().put(put("a", "1")).await.unwrap();
    for stream in [&mut strict, &mut patient] {
        assert_eq!(stream.message().await.unwrap().unwrap().events.len(), 1);
    }

    desert(&mut cluster, last).await;
    let began = Instant::now();
    let ended = timeout(LIMIT, strict.message()).await.expect("the watch stream ends");
    assert_refused(ended, Code::Unavailable, NO_LEADER);
    assert!(began.elapsed() > ELECTION, "three looks after {:?}", began.elapsed());
    let ended = timeout(LIMIT, strict_lease.message()).await.expect("the keepalive stream ends");
    assert_refused(ended, Code::Unavailable, NO_LEADER);
    let nothing = Duration::from_millis(50);
    assert!(timeout(nothing, patient.message()).await.is_err(), "open, and silent");
    assert!(timeout(nothing, patient_lease.message()).await.is_err(), "open, and silent");
    // They are as good as before when there is a leader again.
    for i in 1..3 {
        cluster.servers[(last + i) % 3].launch();
    }
    cluster.leader().await;
    client.put(put("a", "2")).await.unwrap();
    assert_eq!(timeout(LIMIT, patient.message()).await.unwrap().unwrap().unwrap().events.len(), 1);
}

#[tokio::test]
async fn a_write_that_got_lost_says_what_may_have_been_the_cause() {
    let mut cluster = three();
    let old = cluster.leader().await;
    cluster.servers[old].client().put(put("a", "1")).await.unwrap();
    let ids = ids(&cluster).await;
    cluster.servers[old].signal(Signal::STOP);
    // Proposals of followers go to a leader that does not answer, until there is another one: those begun shortly before it.
    let followers = [(old + 1) % 3, (old + 2) % 3];
    let clients = followers.map(|f| cluster.servers[f].client());
    let mut calls = [Vec::new(), Vec::new()];
    let new = until_async("another leader", LIMIT, async || {
        for (client, calls) in clients.iter().zip(&mut calls) {
            let client = client.clone();
            calls.push(tokio::spawn(async move { client.put(put("a", "2")).await }));
        }
        let leader = clients[0].status().await.unwrap().leader;
        (0..2).find(|f| ids[followers[*f]] == leader)
    })
    .await;
    let [first, second] = calls;
    let (to_leader, to_other) = if new == 0 { (first, second) } else { (second, first) };
    // The stopped one begins again and leads again; the follower has not been connected with it all the time.
    cluster.servers[old].kill();
    cluster.servers[old].launch();
    cluster.servers[old].wait_ready();
    let moved = async || clients[new].move_leader(ids[old]).await.ok();
    until_async("the old leader back in office", LIMIT, moved).await;
    let fail = "etcdserver: request timed out, possibly due to previous leader failure";
    let texts = texts(to_leader).await;
    assert!(texts.contains(&fail.to_owned()), "{texts:?}");
    assert!(texts.iter().all(|text| [fail, TIMEOUT].contains(&text.as_str())), "{texts:?}");
    let lost = "etcdserver: request timed out, possibly due to connection lost";
    let texts = self::texts(to_other).await;
    assert!(!texts.is_empty() && texts.iter().all(|text| text == lost), "{texts:?}");
}

async fn ids(cluster: &Cluster) -> Vec<u64> {
    let mut ids = Vec::new();
    for client in cluster.clients() {
        ids.push(client.status().await.unwrap().header.unwrap().member_id);
    }
    ids
}

/// Of those that failed: all in one way.
async fn texts(calls: Vec<tokio::task::JoinHandle<Result<PutResponse, Status>>>) -> Vec<String> {
    let mut texts = Vec::new();
    for call in calls {
        if let Err(status) = call.await.unwrap() {
            assert_eq!(status.code(), Code::Unavailable, "{status:?}");
            texts.push(status.message().to_owned());
        }
    }
    texts
}

#[tokio::test]
async fn a_cut_off_leader_keeps_no_write_waiting_longer_than_a_request_may_take() {
    let mut cluster = three();
    let leader = cluster.leader().await;
    let client = cluster.servers[leader].client();
    client.put(put("a", "1")).await.unwrap();
    for i in 1..3 {
        cluster.servers[(leader + i) % 3].signal(Signal::STOP);
    }
    // It was accepted, and led nowhere; what began later may meet a member that leads no more.
    let answer = timed(client.put(put("a", "2"))).await;
    assert_waited(answer, Code::Unavailable, TIMEOUT);
}

#[tokio::test]
async fn a_follower_asks_the_leader_about_leases() {
    let mut cluster = three();
    let leader = cluster.leader().await;
    let client = cluster.servers[leader].client();
    client.lease_grant(7, 600).await.unwrap();
    client.put(PutRequest { lease: 7, ..put("a", "1") }).await.unwrap();
    for (server, other) in cluster.servers.iter().zip(cluster.clients()) {
        let me = other.status().await.unwrap().header.unwrap().member_id;
        let left = other.lease_ttl(7, true).await.unwrap();
        assert_eq!((left.granted_ttl, &left.keys[..]), (600, &[bytes("a")][..]));
        assert_eq!(left.header.unwrap().member_id, me, "{}", server.setup.name);
        let renewed = other.keep_alive(7).await.unwrap();
        assert_eq!((renewed.id, renewed.ttl), (7, 600));
        assert_eq!(renewed.header.unwrap().member_id, me, "{}", server.setup.name);
        assert_eq!(other.lease_ttl(8, false).await.unwrap().ttl, -1);
        assert_eq!(other.keep_alive(8).await.unwrap().ttl, 0);
    }
}
