//! Beside etcd's own server: its data directory taken over, and members of both kinds in one cluster. Skipped, loudly,
//! where etcd's program is not there.

use std::path::PathBuf;
use std::time::Duration;

use norn_tests::cluster::initial_cluster;
use norn_tests::command::{server_path, tool};
use norn_tests::mvccpb::KeyValue;
use norn_tests::poll::until_async;
use norn_tests::req::*;
use norn_tests::{Client, Cluster, Server, Setup};

const LIMIT: Duration = Duration::from_secs(60);
/// Both programs say so when they have replaced their state.
const BY_SNAPSHOT: &str = "\"applied snapshot\"";

fn etcd() -> Option<PathBuf> {
    tool("NORN_TEST_ETCD", "etcd")
}

/// Keys with a past, a lease, a compaction.
async fn fill(client: &Client, count: usize) {
    client.lease_grant(7, 3600).await.unwrap();
    for i in 0..count {
        let mut request = put(&format!("k{:03}", i % 100), &format!("{i}-{}", "v".repeat(300)));
        request.lease = if i % 20 == 0 { 7 } else { 0 };
        client.put(request).await.unwrap();
        if i % 50 == 49 {
            client.delete(del(&format!("k{:03}", i % 100))).await.unwrap();
        }
    }
}

/// What a client can see of a server's state.
async fn content(client: &Client) -> (u32, i64, Vec<KeyValue>, usize) {
    let hash = client.hash_kv(0).await.unwrap();
    let kvs = client.range(all()).await.unwrap().kvs;
    let leased = client.lease_ttl(7, true).await.unwrap().keys.len();
    (hash.hash, hash.compact_revision, kvs, leased)
}

/// Written by etcd, killed or ended, with snapshots of its own and without; goes on under Norn, and a crash later too.
#[tokio::test]
async fn an_etcd_data_directory_is_taken_over() {
    let Some(etcd) = etcd() else { return };
    for (snapshot_count, is_killed) in [(100_000, true), (100_000, false), (70, true), (70, false)]
    {
        let setup = Setup::of(etcd.clone()).quickly();
        let mut server =
            Server::start_with(setup.flag(format!("--snapshot-count={snapshot_count}")));
        let client = server.client();
        fill(&client, 250).await;
        client.compact(200).await.unwrap();
        client.put(put("last", "1")).await.unwrap();
        let before = content(&client).await;
        let members = client.member_list().await.unwrap().members;
        if is_killed {
            server.kill();
        } else {
            server.terminate();
        }
        server.setup.binary = server_path().to_owned();
        server.launch();
        server.wait_ready();
        for _ in 0..2 {
            let client = server.client();
            assert_eq!(content(&client).await, before, "every {snapshot_count}, {is_killed}");
            assert_eq!(client.member_list().await.unwrap().members, members);
            server.crash_and_restart();
        }
        let client = server.client();
        client.put(put("after", "1")).await.unwrap();
        client.lease_revoke(7).await.unwrap();
        let after = client.hash_kv(0).await.unwrap().hash;
        server.crash_and_restart();
        assert_eq!(server.client().hash_kv(0).await.unwrap().hash, after);
    }
}

/// A cluster of `first` members of one kind, to which one of the other kind is added late, behind a snapshot.
async fn grow(founders: PathBuf, late: PathBuf) -> Cluster {
    let setup = Setup { binary: founders, ..Setup::default() }
        .flag("--snapshot-count=50")
        .flag("--snapshot-catchup-entries=10");
    let mut cluster = Cluster::start_with(2, &setup);
    cluster.leader().await;
    let client = cluster.servers[0].client();
    fill(&client, 250).await;
    client.compact(100).await.unwrap();
    let mut third =
        Server::prepare(Setup { name: "n3".into(), existing: true, binary: late, ..setup.clone() });
    until_async("the new member to be accepted", LIMIT, async || {
        client.member_add(&third.peer_port.url(), false).await.ok()
    })
    .await;
    let url = third.peer_port.url();
    third.setup.initial_cluster = Some(format!("{},n3={url}", initial_cluster(&cluster.servers)));
    third.launch();
    third.wait_ready();
    third.wait_log(BY_SNAPSHOT);
    cluster.servers.push(third);
    cluster
}

/// Leadership goes to each member in turn; each takes writes as leader and as follower.
async fn leadership_goes_round(cluster: &mut Cluster) {
    for target in [2, 0, 2, 1] {
        let leader = cluster.leader().await;
        if leader != target {
            let id =
                cluster.servers[target].client().status().await.unwrap().header.unwrap().member_id;
            let client = cluster.servers[leader].client();
            until_async("the transfer", LIMIT, async || client.move_leader(id).await.ok()).await;
        }
        assert_eq!(cluster.leader().await, target);
        for (i, client) in cluster.clients().into_iter().enumerate() {
            client.put(put(&format!("round{target}"), &i.to_string())).await.unwrap();
        }
        cluster.assert_same_hash().await;
    }
}

/// A member that was down while the log moved on beyond what is kept for it gets a snapshot from the leader. (A leader
/// that has just sent one keeps its log for a while: then the log may do.)
async fn lag_and_return(cluster: &mut Cluster, behind: usize, leader: usize, by_snapshot: bool) {
    let at = cluster.leader().await;
    if at != leader {
        let id = cluster.servers[leader].client().status().await.unwrap().header.unwrap().member_id;
        let client = cluster.servers[at].client();
        until_async("the transfer", LIMIT, async || client.move_leader(id).await.ok()).await;
    }
    cluster.servers[behind].kill();
    let client = cluster.servers[leader].client();
    for i in 0..200 {
        until_async("a write by two", LIMIT, async || {
            client.put(put(&format!("while{i}"), "v")).await.ok()
        })
        .await;
    }
    cluster.servers[behind].launch();
    cluster.servers[behind].wait_ready();
    cluster.leader().await;
    cluster.assert_same_hash().await;
    if by_snapshot {
        cluster.servers[behind].wait_log(BY_SNAPSHOT);
    }
    let read = cluster.servers[behind].client().range(prefix("while")).await.unwrap();
    assert_eq!(read.count, 200);
    assert_eq!(
        cluster.servers[behind].client().lease_ttl(7, true).await.unwrap().granted_ttl,
        3600
    );
}

#[tokio::test]
async fn a_norn_member_joins_two_of_etcd() {
    let Some(etcd) = etcd() else { return };
    let mut cluster = grow(etcd, server_path().to_owned()).await;
    cluster.leader().await;
    cluster.assert_same_hash().await;
    leadership_goes_round(&mut cluster).await;
    lag_and_return(&mut cluster, 2, 0, false).await;
    lag_and_return(&mut cluster, 1, 2, true).await;
    cluster.servers.iter_mut().for_each(Server::assert_alive);
}

#[tokio::test]
async fn an_etcd_member_joins_two_of_norn() {
    let Some(etcd) = etcd() else { return };
    let mut cluster = grow(server_path().to_owned(), etcd).await;
    cluster.leader().await;
    cluster.assert_same_hash().await;
    leadership_goes_round(&mut cluster).await;
    lag_and_return(&mut cluster, 2, 0, false).await;
    lag_and_return(&mut cluster, 1, 2, true).await;
    cluster.servers.iter_mut().for_each(Server::assert_alive);
}
