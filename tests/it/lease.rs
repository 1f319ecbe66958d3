//! Leases: grant, keepalive, time to live, expiry, revoke.

use std::time::{Duration, Instant};

use norn_tests::pb::PutRequest;
use norn_tests::poll::until_async;
use norn_tests::req::*;
use norn_tests::{Server, Setup};
use tonic::Code;

use crate::{assert_refused, revision};

const NOT_FOUND: &str = "etcdserver: requested lease not found";

#[tokio::test]
async fn a_lease_gets_the_id_asked_for_or_a_positive_one() {
    let server = Server::start();
    let client = server.client();
    let given = client.lease_grant(-5, 600).await.unwrap();
    assert_eq!((given.id, given.ttl, given.error.as_str()), (-5, 600, ""));
    assert_eq!(revision(&given.header), 1);
    let made = client.lease_grant(0, 600).await.unwrap();
    assert!(made.id > 0, "{made:?}");
    let exists = client.lease_grant(-5, 600).await;
    assert_refused(exists, Code::FailedPrecondition, "etcdserver: lease already exists");
}

#[tokio::test]
async fn times_to_live_have_bounds() {
    let server = Server::start_with(Setup::default());
    let client = server.client();
    for ttl in [0, -3, 1, 2] {
        assert_eq!(client.lease_grant(0, ttl).await.unwrap().ttl, 2, "asked for {ttl}");
    }
    assert_eq!(client.lease_grant(0, 9_000_000_000).await.unwrap().ttl, 9_000_000_000);
    let long = client.lease_grant(0, 9_000_000_001).await;
    assert_refused(long, Code::OutOfRange, "etcdserver: too large lease TTL");
}

#[tokio::test]
async fn time_to_live_shows_what_is_left_and_the_keys() {
    let server = Server::start();
    let client = server.client();
    client.lease_grant(7, 600).await.unwrap();
    for key in ["a", "b"] {
        client.put(PutRequest { lease: 7, ..put(key, "1") }).await.unwrap();
    }
    let left = client.lease_ttl(7, false).await.unwrap();
    assert_eq!((left.id, left.granted_ttl, left.keys.len()), (7, 600, 0));
    assert!((590..=600).contains(&left.ttl), "{left:?}");
    let mut keys = client.lease_ttl(7, true).await.unwrap().keys;
    keys.sort();
    assert_eq!(keys, [bytes("a"), bytes("b")]);
}

#[tokio::test]
async fn unknown_leases_have_their_answers() {
    let server = Server::start();
    let client = server.client();
    assert_refused(client.lease_revoke(9).await, Code::NotFound, NOT_FOUND);
    let left = client.lease_ttl(9, true).await.unwrap();
    assert_eq!((left.id, left.ttl, left.granted_ttl), (9, -1, 0));
    let alive = client.keep_alive(9).await.unwrap();
    assert_eq!((alive.id, alive.ttl), (9, 0));
}

#[tokio::test]
async fn revoking_deletes_the_attached_keys_in_one_revision() {
    let server = Server::start();
    let client = server.client();
    client.lease_grant(7, 600).await.unwrap();
    for key in ["b", "a", "c"] {
        client.put(PutRequest { lease: 7, ..put(key, "1") }).await.unwrap();
    }
    let mut watch = client.watch(watch_prefix("")).await;
    let revoked = client.lease_revoke(7).await.unwrap();
    assert_eq!(revision(&revoked.header), 5);
    assert_eq!(watch.events(3).await, ["DELETE a@5", "DELETE b@5", "DELETE c@5"]);
    assert_eq!(client.range(all()).await.unwrap().count, 0);
}

#[tokio::test]
async fn a_put_without_the_lease_detaches_the_key() {
    let server = Server::start();
    let client = server.client();
    client.lease_grant(7, 600).await.unwrap();
    client.put(PutRequest { lease: 7, ..put("a", "1") }).await.unwrap();
    client.put(put("a", "2")).await.unwrap();
    assert!(client.lease_ttl(7, true).await.unwrap().keys.is_empty());
    assert_eq!(revision(&client.lease_revoke(7).await.unwrap().header), 3);
    assert_eq!(client.range(get("a")).await.unwrap().count, 1);
}

#[tokio::test]
async fn the_list_of_leases_is_complete() {
    let server = Server::start();
    let client = server.client();
    for id in [3, 1, 2] {
        client.lease_grant(id, 600).await.unwrap();
    }
    let mut ids: Vec<i64> = client.leases().await.unwrap().leases.iter().map(|l| l.id).collect();
    ids.sort_unstable();
    assert_eq!(ids, [1, 2, 3]);
}

#[tokio::test]
async fn a_lease_that_is_not_renewed_expires_and_takes_its_keys() {
    let server = Server::start();
    let client = server.client();
    let ttl = client.lease_grant(7, 1).await.unwrap().ttl;
    client.put(PutRequest { lease: 7, ..put("a", "1") }).await.unwrap();
    let start = Instant::now();
    let mut watch = client.watch(watch("a")).await;
    assert_eq!(watch.events(1).await, ["DELETE a@3"]);
    let took = start.elapsed();
    let least = Duration::from_secs(ttl as u64).saturating_sub(Duration::from_millis(300));
    assert!(took >= least, "gone after {took:?}, granted {ttl} s");
    assert_eq!(client.lease_ttl(7, false).await.unwrap().ttl, -1);
}

#[tokio::test]
async fn keepalives_keep_a_lease_beyond_its_time() {
    let server = Server::start();
    let client = server.client();
    let ttl = client.lease_grant(7, 1).await.unwrap().ttl;
    client.put(PutRequest { lease: 7, ..put("a", "1") }).await.unwrap();
    let start = Instant::now();
    let beyond = Duration::from_secs(ttl as u64 * 3);
    until_async("three lives of the lease", Duration::from_secs(30), async || {
        assert_eq!(client.keep_alive(7).await.unwrap().ttl, ttl);
        (start.elapsed() > beyond).then_some(())
    })
    .await;
    assert_eq!(client.range(get("a")).await.unwrap().count, 1);
}

#[tokio::test]
async fn a_thousand_keys_of_one_lease_go_in_one_revision() {
    let server = Server::start();
    let client = server.client();
    client.lease_grant(7, 600).await.unwrap();
    for batch in 0..10 {
        let puts = (0..100)
            .map(|i| op_put(PutRequest { lease: 7, ..put(&format!("k{batch}-{i:02}"), "v") }))
            .collect();
        client.txn(txn(vec![], puts, vec![])).await.unwrap();
    }
    assert_eq!(client.lease_ttl(7, true).await.unwrap().keys.len(), 1000);
    assert_eq!(revision(&client.lease_revoke(7).await.unwrap().header), 12);
    assert_eq!(client.range(all()).await.unwrap().count, 0);
}

#[tokio::test]
async fn leases_and_attachments_survive_a_restart() {
    let mut server = Server::start();
    let client = server.client();
    client.lease_grant(7, 600).await.unwrap();
    client.put(PutRequest { lease: 7, ..put("a", "1") }).await.unwrap();
    server.crash_and_restart();
    let client = server.client();
    let left = client.lease_ttl(7, true).await.unwrap();
    assert_eq!((left.granted_ttl, left.keys), (600, vec![bytes("a")]));
    client.lease_revoke(7).await.unwrap();
    assert_eq!(client.range(get("a")).await.unwrap().count, 0);
}
