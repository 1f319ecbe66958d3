//! What survives the end of a process.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use norn_tests::poll::until_async;
use norn_tests::req::*;
use norn_tests::server::ended_by;
use norn_tests::{Client, Cluster, Server};
use tonic::Code;

use crate::revision;

#[tokio::test]
async fn every_acknowledged_write_survives_a_kill() {
    let mut server = Server::start();
    let mut hash = 0;
    for round in 0..3 {
        let client = server.client();
        for i in 0..100 {
            client.put(put(&format!("k{i}"), &format!("{round}-{i}"))).await.unwrap();
        }
        if round > 0 {
            client.delete(del(&format!("k{round}"))).await.unwrap();
        }
        let before = client.hash_kv(0).await.unwrap();
        assert_ne!(before.hash, hash);
        server.crash_and_restart();
        let client = server.client();
        let after = client.hash_kv(0).await.unwrap();
        assert_eq!((after.hash, after.hash_revision), (before.hash, before.hash_revision));
        let read = client.range(get("k99")).await.unwrap();
        assert_eq!(read.kvs[0].value, bytes(format!("{round}-99")));
        hash = after.hash;
    }
}

// The writers must run while this thread waits for processes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_in_the_middle_of_writes_loses_no_acknowledged_one() {
    let mut server = Server::start();
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> =
        (0..8).map(|w| tokio::spawn(write(server.client(), w, stop.clone()))).collect();
    let watcher = server.client();
    until_async("some writes", Duration::from_secs(20), async || {
        let answer =
            watcher.range(norn_tests::pb::RangeRequest { count_only: true, ..all() }).await;
        (answer.unwrap().count > 200).then_some(())
    })
    .await;
    server.kill();
    stop.store(true, Ordering::Relaxed);
    let mut acknowledged = Vec::new();
    for writer in writers {
        acknowledged.extend(writer.await.unwrap());
    }
    server.launch();
    server.wait_ready();
    let client = server.client();
    for (key, written_at) in acknowledged {
        let read = client.range(get(&key)).await.unwrap();
        assert_eq!(read.kvs.first().map(|kv| kv.mod_revision), Some(written_at), "{key}");
    }
}

/// Writes new keys until told to stop or refused; gives back what was acknowledged, with its revision.
async fn write(client: Client, writer: usize, stop: Arc<AtomicBool>) -> Vec<(String, i64)> {
    let mut acknowledged = Vec::new();
    for i in 0.. {
        let key = format!("w{writer}-{i}");
        match client.put(put(&key, "v")).await {
            Ok(answer) => acknowledged.push((key, revision(&answer.header))),
            Err(_) => break,
        }
        if stop.load(Ordering::Relaxed) {
            break;
        }
    }
    acknowledged
}

#[tokio::test]
async fn sigterm_ends_the_process_by_that_signal_and_keeps_the_data() {
    let mut server = Server::start();
    server.client().put(put("a", "1")).await.unwrap();
    let before = server.client().hash_kv(0).await.unwrap().hash;
    let status = server.terminate();
    assert_eq!(ended_by(status), Some(15), "{status:?}\n{}", server.tail());
    server.launch();
    server.wait_ready();
    assert_eq!(server.client().hash_kv(0).await.unwrap().hash, before);
}

#[tokio::test]
async fn sigint_ends_the_process_by_that_signal() {
    let mut server = Server::start();
    server.signal(rustix::process::Signal::INT);
    let status = server.wait_exit(Duration::from_secs(20));
    assert_eq!(ended_by(status), Some(2), "{status:?}");
}

#[tokio::test]
async fn a_compacted_server_restarts_compacted() {
    let mut server = Server::start();
    let client = server.client();
    for i in 0..10 {
        client.put(put("a", &i.to_string())).await.unwrap();
    }
    client.compact(8).await.unwrap();
    let before = client.hash_kv(0).await.unwrap();
    server.crash_and_restart();
    let client = server.client();
    let after = client.hash_kv(0).await.unwrap();
    assert_eq!((after.hash, after.compact_revision), (before.hash, 8));
    let old = client.range(norn_tests::pb::RangeRequest { revision: 7, ..get("a") }).await;
    assert_eq!(old.unwrap_err().code(), Code::OutOfRange);
}

#[tokio::test]
async fn the_identity_of_a_member_survives() {
    let mut server = Server::start();
    let before = server.client().member_list().await.unwrap();
    server.crash_and_restart();
    let after = server.client().member_list().await.unwrap();
    assert_eq!(after.members, before.members);
    let ids = |h: &Option<norn_tests::pb::ResponseHeader>| h.map(|h| (h.cluster_id, h.member_id));
    assert_eq!(ids(&after.header), ids(&before.header));
}

// The writers must run while this thread waits for processes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_restarted_one_by_one_serves_writes_all_the_time() {
    let mut cluster = Cluster::start(3);
    let stop = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn(keep_writing(cluster.clients(), stop.clone()));
    for i in 0..3 {
        if i == 1 {
            cluster.servers[i].crash_and_restart();
        } else {
            let status = cluster.servers[i].terminate();
            assert_eq!(ended_by(status), Some(15), "{status:?}");
            cluster.servers[i].launch();
            cluster.servers[i].wait_ready();
        }
        cluster.leader().await;
    }
    stop.store(true, Ordering::Relaxed);
    let acknowledged = writer.await.unwrap();
    assert!(acknowledged.len() > 20, "only {} writes", acknowledged.len());
    cluster.assert_same_hash().await;
    for client in cluster.clients() {
        for (key, written_at) in &acknowledged {
            let read = client.range(get(key)).await.unwrap();
            let found = read.kvs.first().map(|kv| kv.mod_revision);
            assert_eq!(found, Some(*written_at), "{key}");
        }
    }
}

/// Writes new keys to whichever member takes them.
async fn keep_writing(clients: Vec<Client>, stop: Arc<AtomicBool>) -> Vec<(String, i64)> {
    let mut acknowledged = Vec::new();
    let mut at = 0;
    for i in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let key = format!("w{i}");
        let call = clients[at].put(put(&key, "v"));
        match tokio::time::timeout(Duration::from_secs(2), call).await {
            Ok(Ok(answer)) => acknowledged.push((key, revision(&answer.header))),
            _ => at = (at + 1) % clients.len(),
        }
    }
    acknowledged
}

#[tokio::test]
async fn a_whole_cluster_killed_at_once_comes_back() {
    let mut cluster = Cluster::start(3);
    let client = cluster.servers[0].client();
    for i in 0..50 {
        client.put(put(&format!("k{i}"), "v")).await.unwrap();
    }
    let before = cluster.assert_same_hash().await;
    for server in &mut cluster.servers {
        server.kill();
    }
    for server in &mut cluster.servers {
        server.launch();
    }
    for server in &mut cluster.servers {
        server.wait_ready();
    }
    assert_eq!(cluster.assert_same_hash().await, before);
}

#[tokio::test]
async fn a_restarted_server_is_ready_only_when_it_has_caught_up() {
    let mut server = Server::start();
    for round in 1..=20 {
        let client = server.client();
        for i in 0..10 {
            client.put(put(&format!("k{i}"), &round.to_string())).await.unwrap();
        }
        server.crash_and_restart();
        // Local, not linearizable: what the server had when it said that it was ready.
        let status = server.client().status().await.unwrap();
        assert_eq!(status.header.unwrap().revision, 10 * round + 1, "round {round}");
    }
}

#[tokio::test]
async fn a_member_that_is_sent_a_snapshot_while_it_runs_keeps_what_follows() {
    let setup = norn_tests::Setup::default()
        .flag("--snapshot-count=20")
        .flag("--snapshot-catchup-entries=10");
    let mut cluster = Cluster::start_with(3, &setup);
    let behind = (cluster.leader().await + 1) % 3;
    // How much a stopped member has in its sockets, and so whether the log is enough to catch up, is not ours to say:
    // as often as it takes.
    let start = std::time::Instant::now();
    while !cluster.servers[behind].lines().iter().any(|l| l.contains("applied snapshot")) {
        assert!(start.elapsed() < Duration::from_secs(90), "no snapshot was ever sent");
        leave_behind(&mut cluster, behind).await;
        cluster.assert_same_hash().await;
    }
    let leader = cluster.leader().await;
    let client = cluster.servers[leader].client();
    for i in 0..300 {
        client.put(put(&format!("after{i}"), &"v".repeat(1000))).await.unwrap();
    }
    let hash = cluster.assert_same_hash().await;
    let read = cluster.servers[behind].client().range(prefix("after")).await.unwrap();
    assert_eq!(read.count, 300);
    cluster.servers[behind].assert_alive();
    cluster.servers[behind].crash_and_restart();
    cluster.leader().await;
    assert_eq!(cluster.assert_same_hash().await, hash);
    cluster.servers[behind].assert_alive();
}

/// Stops a member (it keeps its files open, other than one that is killed), fills its connection until the leader gives it
/// up, writes more than the log keeps, and lets the member go on.
async fn leave_behind(cluster: &mut Cluster, behind: usize) {
    let others: Vec<Client> = (1..3).map(|i| cluster.servers[(behind + i) % 3].client()).collect();
    let given_up = |cluster: &Cluster| {
        let lines = (1..3).flat_map(|i| cluster.servers[(behind + i) % 3].lines());
        lines.filter(|l| l.contains("peer became inactive")).count()
    };
    let before = given_up(cluster);
    cluster.servers[behind].signal(rustix::process::Signal::STOP);
    let write = async |key: String, value: &str| {
        until_async("a write by the other two", Duration::from_secs(30), async || {
            others[0].put(put(&key, value)).await.ok()
        })
        .await;
    };
    let large = "v".repeat(200_000);
    for i in 0..100 {
        write(format!("while{}", i % 10), &large).await;
    }
    until_async("the leader to give up", Duration::from_secs(40), async || {
        (given_up(cluster) > before).then_some(())
    })
    .await;
    for i in 0..300 {
        write(format!("then{i}"), "v").await;
    }
    cluster.servers[behind].signal(rustix::process::Signal::CONT);
    cluster.leader().await;
}
