//! Members: who they are, and how they come and go.

use std::time::Duration;

use norn_tests::bare::{Ended, call};
use norn_tests::cluster::initial_cluster;
use norn_tests::pb::*;
use norn_tests::poll::until_async;
use norn_tests::req::*;
use norn_tests::{Cluster, Server, Setup};
use tonic::Code;

use crate::assert_refused;

const LIMIT: Duration = Duration::from_secs(30);

#[tokio::test]
async fn three_members_agree_on_who_they_are() {
    let mut cluster = Cluster::start(3);
    cluster.leader().await;
    let mut lists = Vec::new();
    for (server, client) in cluster.servers.iter().zip(cluster.clients()) {
        let answer = client.member_list().await.unwrap();
        let me = answer.header.unwrap().member_id;
        let member = answer.members.iter().find(|m| m.id == me).unwrap();
        assert_eq!(member.name, server.setup.name);
        assert_eq!(member.peer_ur_ls, [server.peer_port.url()]);
        assert_eq!(member.client_ur_ls, [server.client_url()]);
        assert_eq!(answer.header.unwrap().revision, 0);
        lists.push(answer.members);
    }
    assert!(lists.iter().all(|l| *l == lists[0]), "{lists:#?}");
    let ids: Vec<u64> = lists[0].iter().map(|m| m.id).collect();
    assert!(ids.is_sorted() && ids.len() == 3, "{ids:?}");
    cluster.assert_same_hash().await;
}

#[tokio::test]
async fn ids_are_derived_as_etcd_derives_them() {
    // Member: SHA-1 over the peer URL and the token; cluster: SHA-1 over the member id.
    let server = Server::start_with(Setup::quick().flag("--initial-cluster-token=token"));
    let header = server.client().member_list().await.unwrap().header.unwrap();
    let sha = |input: &[u8]| {
        let hex = norn_tests::command::run(
            std::process::Command::new("sh").arg("-c").arg(format!(
                "printf '{}' | sha1sum",
                input.iter().map(|b| format!("\\{b:03o}")).collect::<String>()
            )),
            Duration::from_secs(10),
        );
        u64::from_str_radix(&hex.ok()[..16], 16).unwrap()
    };
    let member = sha(format!("{}token", server.peer_port.url()).as_bytes());
    assert_eq!(header.member_id, member);
    assert_eq!(header.cluster_id, sha(&member.to_be_bytes()));
}

#[tokio::test]
async fn every_member_takes_writes_and_reads() {
    let mut cluster = Cluster::start(3);
    cluster.leader().await;
    let clients = cluster.clients();
    for (i, client) in clients.iter().enumerate() {
        client.put(put("k", &i.to_string())).await.unwrap();
        for reader in &clients {
            let read = reader.range(get("k")).await.unwrap();
            assert_eq!(read.kvs[0].value, bytes(i.to_string()));
        }
    }
}

#[tokio::test]
async fn a_learner_joins_catches_up_and_is_promoted() {
    let server = Server::start_with(Setup::default());
    let client = server.client();
    for i in 0..20 {
        client.put(put(&format!("k{i}"), "v")).await.unwrap();
    }
    let mut learner =
        Server::prepare(Setup { name: "n2".into(), existing: true, ..Setup::default() });
    let added = client.member_add(&learner.peer_port.url(), true).await.unwrap();
    let id = added.member.as_ref().unwrap().id;
    assert!(added.member.unwrap().is_learner);
    assert_eq!(added.members.len(), 2);
    let early = client.member_promote(id).await;
    let text = "etcdserver: can only promote a learner member which is in sync with leader";
    assert_refused(early, Code::FailedPrecondition, text);
    let second = client.member_add("http://127.0.0.1:1", true).await;
    let text = "etcdserver: too many learner members in cluster";
    assert_refused(second, Code::FailedPrecondition, text);

    learner.setup.initial_cluster = Some(format!(
        "{},n2={}",
        initial_cluster(std::slice::from_ref(&server)),
        learner.peer_port.url()
    ));
    learner.launch();
    learner.wait_ready();
    let local = learner.client();
    let refused = local.put(put("a", "1")).await;
    let text = "etcdserver: rpc not supported for learner";
    assert_refused(refused, Code::FailedPrecondition, text);
    assert_refused(local.range(get("k1")).await, Code::FailedPrecondition, text);
    assert_refused(local.member_list().await, Code::FailedPrecondition, text);
    let (chunks, refused) =
        local.range_stream(RangeRequest { serializable: true, ..get("k1") }).await;
    assert!(chunks.is_empty());
    assert_refused(refused.map_or(Ok(()), Err), Code::FailedPrecondition, text);
    // A stream is refused when it is opened, and so is what is asked of the server as such.
    let refused = Ended::new(Code::FailedPrecondition, text);
    for path in [
        "/etcdserverpb.Watch/Watch",
        "/etcdserverpb.Lease/LeaseKeepAlive",
        "/v3electionpb.Election/Observe",
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/Watch",
    ] {
        // Before its version, and that there may be no leader.
        let headers = [("client-api-version", &b"\xff"[..]), ("hasleader", b"true")];
        let ended = call(&learner.client_address(), path, &headers, &()).await;
        assert_eq!(ended.as_ref(), Ok(&refused), "{path}");
    }
    assert!(!local.snapshot().await.unwrap().is_empty());
    until_async("the learner to have the keys", LIMIT, async || {
        let read = local.range(RangeRequest { serializable: true, ..prefix("k") }).await;
        (read.unwrap().count == 20).then_some(())
    })
    .await;
    assert!(local.status().await.unwrap().is_learner);

    until_async("the promotion", LIMIT, async || client.member_promote(id).await.ok()).await;
    until_async("the new voter to take writes", LIMIT, async || {
        local.put(put("a", "1")).await.ok()
    })
    .await;
    assert!(!local.status().await.unwrap().is_learner);
    let again = client.member_promote(id).await;
    let text = "etcdserver: can only promote a learner member";
    assert_refused(again, Code::FailedPrecondition, text);
    let cluster = Cluster { servers: vec![server, learner] };
    cluster.assert_same_hash().await;
}

#[tokio::test]
async fn a_removed_member_stops_and_the_rest_goes_on() {
    let mut cluster = Cluster::start(3);
    let leader = cluster.leader().await;
    let client = cluster.servers[leader].client();
    let away = (leader + 1) % 3;
    let id = cluster.servers[away].client().status().await.unwrap().header.unwrap().member_id;
    // Until the members have been connected for five seconds the change is refused.
    until_async("the removal", LIMIT, async || match client.member_remove(id).await {
        Ok(answer) => {
            assert_eq!(answer.members.len(), 2);
            Some(())
        }
        Err(status) => {
            assert_eq!(status.message(), "etcdserver: unhealthy cluster");
            None
        }
    })
    .await;
    let status = cluster.servers[away].wait_exit(LIMIT);
    assert!(status.success(), "{status:?}");
    let lines = cluster.servers[away].lines();
    let text = "the member has been permanently removed from the cluster";
    assert!(lines.iter().any(|l| l.contains(text)), "{lines:#?}");
    client.put(put("a", "1")).await.unwrap();
    let text = "etcdserver: member not found";
    assert_refused(client.member_remove(id).await, Code::NotFound, text);
    assert_eq!(client.member_list().await.unwrap().members.len(), 2);
}

#[tokio::test]
async fn leadership_moves_on_request() {
    let mut cluster = Cluster::start(3);
    let leader = cluster.leader().await;
    let target = (leader + 1) % 3;
    let client = cluster.servers[leader].client();
    let other = cluster.servers[target].client();
    let id = other.status().await.unwrap().header.unwrap().member_id;
    let term = other.status().await.unwrap().raft_term;
    let wrong = other.move_leader(id).await;
    assert_refused(wrong, Code::FailedPrecondition, "etcdserver: not leader");
    let nobody = client.move_leader(4711).await;
    assert_refused(nobody, Code::FailedPrecondition, "etcdserver: bad leader transferee");
    client.move_leader(id).await.unwrap();
    assert_eq!(cluster.leader().await, target);
    other.put(put("a", "1")).await.unwrap();
    assert_eq!(other.status().await.unwrap().raft_term, term + 1);
}

#[tokio::test]
async fn changes_that_make_no_sense_are_refused() {
    let server = Server::start();
    let client = server.client();
    let own = server.peer_port.url();
    let me = client.member_list().await.unwrap().members[0].id;
    let bad = "etcdserver: given member URLs are invalid";
    for url in ["nonsense", "http://127.0.0.1", "http://127.0.0.1:1/path"] {
        assert_refused(client.member_add(url, false).await, Code::InvalidArgument, bad);
    }
    let none = client.member_add_with(MemberAddRequest::default()).await;
    assert_refused(none, Code::InvalidArgument, bad);
    let twice = client.member_add(&own, false).await;
    assert_refused(twice, Code::FailedPrecondition, "etcdserver: Peer URLs already exists");
    let unknown = "etcdserver: member not found";
    assert_refused(client.member_remove(4711).await, Code::NotFound, unknown);
    let update = MemberUpdateRequest { id: 4711, peer_ur_ls: vec![own.clone()] };
    assert_refused(client.member_update(update).await, Code::NotFound, unknown);
    assert_refused(client.member_promote(4711).await, Code::NotFound, unknown);
    let last = client.member_remove(me).await;
    let text = "etcdserver: re-configuration failed due to not enough started members";
    assert_refused(last, Code::Unknown, text);
    assert_eq!(client.member_list().await.unwrap().members.len(), 1);
    client.put(put("a", "1")).await.unwrap();
}

#[tokio::test]
async fn a_member_updates_its_peer_urls() {
    let server = Server::start();
    let client = server.client();
    let me = client.member_list().await.unwrap().members[0].id;
    let urls = vec!["http://127.0.0.1:1".to_owned()];
    let request = MemberUpdateRequest { id: me, peer_ur_ls: urls.clone() };
    let answer = client.member_update(request).await.unwrap();
    assert_eq!(answer.members[0].peer_ur_ls, urls);
    assert_eq!(answer.members[0].name, "n1");
}

#[tokio::test]
async fn a_cluster_without_a_majority_refuses_and_recovers() {
    let mut cluster = Cluster::start(3);
    let leader = cluster.leader().await;
    let client = cluster.servers[leader].client();
    client.put(put("a", "1")).await.unwrap();
    for i in 1..3 {
        cluster.servers[(leader + i) % 3].kill();
    }
    let serializable = RangeRequest { serializable: true, ..get("a") };
    assert_eq!(client.range(serializable).await.unwrap().count, 1);
    until_async("the leader to step down", LIMIT, async || {
        (client.status().await.unwrap().leader == 0).then_some(())
    })
    .await;
    let mut request = tonic::Request::new(get("a"));
    request.metadata_mut().insert("hasleader", "true".parse().unwrap());
    let answer = client.kv.clone().range(request).await;
    assert_refused(answer, Code::Unavailable, "etcdserver: no leader");
    let health = norn_tests::http::get(&cluster.servers[leader].client_address(), "/health");
    assert_eq!(health.status, 503);
    assert!(health.text().contains("RAFT NO LEADER"), "{}", health.text());
    for i in 1..3 {
        cluster.servers[(leader + i) % 3].launch();
    }
    for i in 1..3 {
        cluster.servers[(leader + i) % 3].wait_ready();
    }
    cluster.leader().await;
    client.put(put("a", "2")).await.unwrap();
    cluster.assert_same_hash().await;
}

#[tokio::test]
async fn a_stopped_leader_is_replaced_and_follows_when_it_wakes() {
    let mut cluster = Cluster::start(3);
    let leader = cluster.leader().await;
    let others: Vec<_> = (1..3).map(|i| cluster.servers[(leader + i) % 3].client()).collect();
    cluster.servers[leader].signal(rustix::process::Signal::STOP);
    until_async("a write without the old leader", LIMIT, async || {
        let call = others[0].put(put("a", "1"));
        tokio::time::timeout(Duration::from_secs(3), call).await.ok()?.ok()
    })
    .await;
    cluster.servers[leader].signal(rustix::process::Signal::CONT);
    cluster.leader().await;
    let read = cluster.servers[leader].client().range(get("a")).await.unwrap();
    assert_eq!(read.count, 1);
    cluster.assert_same_hash().await;
}
