//! What stands in the header of each answer.

use norn_tests::Server;
use norn_tests::pb::downgrade_request::DowngradeAction;
use norn_tests::pb::*;
use norn_tests::poll::until_async;
use norn_tests::req::*;

/// `None`: an answer without a header.
type Header = Option<ResponseHeader>;

#[tokio::test]
async fn every_answer_has_the_header_that_etcd_gives_it() {
    let server = Server::start();
    let client = server.client();
    let me = client.put(put("a", "1")).await.unwrap().header.unwrap();
    client.put(put("a", "2")).await.unwrap();
    client.lease_grant(7, 600).await.unwrap();
    let (mut cluster, mut maintenance) = (client.cluster.clone(), client.maintenance.clone());
    let mut auth = client.auth.clone();
    let url = server.peer_port.url();
    let update = MemberUpdateRequest { id: me.member_id, peer_ur_ls: vec![url] };
    let list = |linearizable| MemberListRequest { linearizable };
    let lists = [
        cluster.member_list(list(true)).await.unwrap().into_inner().header,
        cluster.member_list(list(false)).await.unwrap().into_inner().header,
    ];
    let mut lock = client.lock.clone();
    let locked = lock.lock(norn_tests::lockpb::LockRequest { name: bytes("lock"), lease: 7 });
    // (The cluster's version comes a moment after the start.)
    let validate =
        DowngradeRequest { action: DowngradeAction::Validate.into(), version: "3.6".into() };
    let validated = async || client.downgrade(validate.clone()).await.ok();
    let limit = std::time::Duration::from_secs(20);
    let validated = until_async("the cluster version", limit, validated).await;
    let answers: Vec<(&str, i64, Header)> = vec![
        ("Range", 3, client.range(get("a")).await.unwrap().header),
        (
            "Range of old",
            3,
            client.range(RangeRequest { revision: 2, ..get("a") }).await.unwrap().header,
        ),
        ("DeleteRange of nothing", 3, client.delete(del("b")).await.unwrap().header),
        ("Txn of nothing", 3, client.txn(TxnRequest::default()).await.unwrap().header),
        ("Compact", 3, client.compact(2).await.unwrap().header),
        ("LeaseGrant", 3, client.lease_grant(8, 600).await.unwrap().header),
        ("LeaseRevoke", 3, client.lease_revoke(8).await.unwrap().header),
        ("LeaseKeepAlive", 3, client.keep_alive(7).await.unwrap().header),
        ("LeaseKeepAlive of nothing", 3, client.keep_alive(9).await.unwrap().header),
        ("LeaseTimeToLive", 3, client.lease_ttl(7, true).await.unwrap().header),
        ("LeaseTimeToLive of nothing", 3, client.lease_ttl(9, true).await.unwrap().header),
        ("LeaseLeases", 3, client.leases().await.unwrap().header),
        ("MemberList", 0, lists[0]),
        ("MemberList, local", 0, lists[1]),
        ("MemberUpdate", 0, client.member_update(update).await.unwrap().header),
        ("Alarm", 3, client.alarm(AlarmRequest::default()).await.unwrap().header),
        ("Status", 3, client.status().await.unwrap().header),
        ("Downgrade", 3, validated.header),
        ("Hash", 3, maintenance.hash(HashRequest {}).await.unwrap().into_inner().header),
        ("HashKV", 3, client.hash_kv(0).await.unwrap().header),
        (
            "AuthStatus",
            3,
            auth.auth_status(AuthStatusRequest {}).await.unwrap().into_inner().header,
        ),
        ("Watch", 3, {
            let mut watch = client.open_watch();
            watch.create(watch_prefix("a")).await.header
        }),
        ("Lock", 4, locked.await.unwrap().into_inner().header),
    ];
    for (call, revision, header) in answers {
        assert_eq!(header, Some(ResponseHeader { revision, ..me }), "{call}");
    }
    assert_eq!(client.defragment().await.unwrap().header, None);
    assert_eq!(client.move_leader(me.member_id).await.unwrap().header, None);
    for part in client.snapshot().await.unwrap() {
        assert_eq!(part.header, None);
    }
}
