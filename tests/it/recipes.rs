//! The Lock and Election services.

use std::time::Duration;

use norn_tests::electionpb::*;
use norn_tests::lockpb::*;
use norn_tests::poll::until_async;
use norn_tests::req::*;
use norn_tests::{Client, Server};
use tokio::time::timeout;
use tonic::{Code, Status, Streaming};

use crate::{assert_refused, revision};

const LIMIT: Duration = Duration::from_secs(20);
const NO_LEASE: &str = "etcdserver: requested lease not found";

async fn lock(client: &Client, name: &str, lease: i64) -> Result<LockResponse, Status> {
    let request = LockRequest { name: bytes(name), lease };
    client.lock.clone().lock(request).await.map(|answer| answer.into_inner())
}

async fn unlock(client: &Client, key: &str) -> Result<UnlockResponse, Status> {
    let request = UnlockRequest { key: bytes(key) };
    client.lock.clone().unlock(request).await.map(|answer| answer.into_inner())
}

async fn campaign(client: &Client, lease: i64, value: &str) -> Result<CampaignResponse, Status> {
    let request = CampaignRequest { name: bytes("e"), lease, value: bytes(value) };
    client.election.clone().campaign(request).await.map(|answer| answer.into_inner())
}

async fn proclaim(
    client: &Client,
    leader: Option<LeaderKey>,
    value: &str,
) -> Result<ProclaimResponse, Status> {
    let request = ProclaimRequest { leader, value: bytes(value) };
    client.election.clone().proclaim(request).await.map(|answer| answer.into_inner())
}

async fn resign(client: &Client, leader: Option<LeaderKey>) -> Result<ResignResponse, Status> {
    let request = ResignRequest { leader };
    client.election.clone().resign(request).await.map(|answer| answer.into_inner())
}

async fn leader(client: &Client) -> Result<LeaderResponse, Status> {
    let request = LeaderRequest { name: bytes("e") };
    client.election.clone().leader(request).await.map(|answer| answer.into_inner())
}

async fn leases(client: &Client, ids: &[i64]) {
    for id in ids {
        client.lease_grant(*id, 600).await.unwrap();
    }
}

/// As many keys as that are in a queue.
async fn queued(client: &Client, name: &str, count: i64) {
    let request = prefix(&format!("{name}/"));
    let what = format!("{count} keys under {name}");
    until_async(&what, LIMIT, async || {
        (client.range(request.clone()).await.unwrap().count == count).then_some(())
    })
    .await;
}

/// The next thing an observer is told: the header's revision, key and value.
async fn told(observer: &mut Streaming<LeaderResponse>) -> (i64, String, String) {
    let next = timeout(LIMIT, observer.message()).await.expect("in time");
    let response = next.unwrap().expect("the stream goes on");
    let kv = response.kv.unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (response.header.unwrap().revision, text(&kv.key), text(&kv.value))
}

#[tokio::test]
async fn a_lock_is_a_key_that_lives_with_its_lease() {
    let server = Server::start();
    let client = server.client();
    leases(&client, &[0x1f, -0x1f]).await;
    let held = lock(&client, "l", 0x1f).await.unwrap();
    assert_eq!((&held.key[..], revision(&held.header)), (&b"l/1f"[..], 2));
    let kv = client.range(get("l/1f")).await.unwrap().kvs.remove(0);
    assert_eq!((&kv.value[..], kv.lease, kv.version), (&b""[..], 0x1f, 1));
    // Once more with the same lease: the same place, which is the first one.
    let again = lock(&client, "l", 0x1f).await.unwrap();
    assert_eq!((&again.key[..], revision(&again.header)), (&b"l/1f"[..], 2));
    let other = lock(&client, "other", -0x1f).await.unwrap();
    assert_eq!(&other.key[..], b"other/-1f");
    let freed = unlock(&client, "l/1f").await.unwrap();
    assert_eq!(revision(&freed.header), 4);
    let nothing = unlock(&client, "l/1f").await.unwrap();
    assert_eq!(revision(&nothing.header), 4);
    client.lease_revoke(-0x1f).await.unwrap();
    assert_eq!(client.range(all()).await.unwrap().count, 0);
}

#[tokio::test]
async fn who_brings_no_lease_gets_one_for_a_minute() {
    let server = Server::start();
    let client = server.client();
    let held = lock(&client, "l", 0).await.unwrap();
    let kv = client.range(prefix("l/")).await.unwrap().kvs.remove(0);
    assert_eq!((&kv.key, format!("l/{:x}", kv.lease)), (&held.key, kv_text(&kv.key)));
    assert_eq!(client.lease_ttl(kv.lease, false).await.unwrap().granted_ttl, 60);
    campaign(&client, 0, "me").await.unwrap();
    assert_eq!(client.leases().await.unwrap().leases.len(), 2);
    // Asking who leads needs none.
    leader(&client).await.unwrap();
    assert_eq!(client.leases().await.unwrap().leases.len(), 2);
}

fn kv_text(key: &[u8]) -> String {
    String::from_utf8_lossy(key).into_owned()
}

#[tokio::test]
async fn a_lock_goes_from_one_to_the_next_in_order() {
    let server = Server::start();
    let client = server.client();
    leases(&client, &[1, 2, 3, 4]).await;
    lock(&client, "l", 1).await.unwrap();
    let mut waiting = Vec::new();
    for lease in [2, 3, 4] {
        let client = client.clone();
        waiting.push(tokio::spawn(async move { lock(&client, "l", lease).await }));
        queued(&server.client(), "l", lease).await;
    }
    // The third one gives up, and leaves no key.
    waiting.remove(1).abort();
    queued(&client, "l", 3).await;
    assert!(client.range(get("l/3")).await.unwrap().kvs.is_empty());
    let last = waiting.remove(1);
    let freed = unlock(&client, "l/1").await.unwrap();
    let second = waiting.remove(0).await.unwrap().unwrap();
    assert_eq!(&second.key[..], b"l/2");
    assert_eq!(revision(&second.header), revision(&freed.header));
    assert!(!last.is_finished());
    // A lease that ends frees the lock, too.
    client.lease_revoke(2).await.unwrap();
    assert_eq!(&last.await.unwrap().unwrap().key[..], b"l/4");
    queued(&client, "l", 1).await;
}

#[tokio::test]
async fn who_loses_the_key_while_waiting_is_told() {
    let server = Server::start();
    let client = server.client();
    leases(&client, &[1, 2]).await;
    lock(&client, "l", 1).await.unwrap();
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { lock(&client, "l", 2).await }
    });
    queued(&client, "l", 2).await;
    client.delete(del("l/2")).await.unwrap();
    unlock(&client, "l/1").await.unwrap();
    assert_refused(waiting.await.unwrap(), Code::Unknown, "mutex: session is expired");
}

#[tokio::test]
async fn refusals_within_a_recipe_keep_their_text_and_lose_their_code() {
    let server = Server::start();
    let client = server.client();
    assert_refused(lock(&client, "l", 77).await, Code::Unknown, NO_LEASE);
    assert_refused(campaign(&client, 77, "v").await, Code::Unknown, NO_LEASE);
    assert_refused(leader(&client).await, Code::Unknown, "election: no leader");
    let missing = "\"leader\" field must be provided";
    assert_refused(proclaim(&client, None, "v").await, Code::Unknown, missing);
    assert_refused(resign(&client, None).await, Code::Unknown, missing);
    let nobody = LeaderKey { name: bytes("e"), lease: 1, ..Default::default() };
    let empty = "etcdserver: key is not provided";
    assert_refused(proclaim(&client, Some(nobody.clone()), "v").await, Code::Unknown, empty);
    assert_refused(resign(&client, Some(nobody)).await, Code::Unknown, empty);
    assert_refused(unlock(&client, "").await, Code::Unknown, empty);
}

#[tokio::test]
async fn a_leader_proclaims_resigns_and_is_followed() {
    let server = Server::start();
    let client = server.client();
    leases(&client, &[0xa, 0xb]).await;
    let won = campaign(&client, 0xa, "first").await.unwrap();
    let first = won.leader.unwrap();
    assert_eq!(
        (&first.name[..], &first.key[..], first.rev, first.lease),
        (&b"e"[..], &b"e/a"[..], 2, 0xa)
    );
    assert_eq!(revision(&won.header), 2);
    // The same candidate again, with another value: proclaimed at once.
    let again = campaign(&client, 0xa, "new").await.unwrap();
    assert_eq!((again.leader.as_ref(), revision(&again.header)), (Some(&first), 2));
    let now = leader(&client).await.unwrap();
    assert_eq!((&now.kv.unwrap().value[..], revision(&now.header)), (&b"new"[..], 3));

    let waiting = tokio::spawn({
        let client = client.clone();
        async move { campaign(&client, 0xb, "second").await }
    });
    queued(&client, "e", 2).await;
    let said = proclaim(&client, Some(first.clone()), "newer").await.unwrap();
    assert_eq!(revision(&said.header), 5);
    assert!(!waiting.is_finished());
    let resigned = resign(&client, Some(first.clone())).await.unwrap();
    assert_eq!(revision(&resigned.header), 6);
    let won = waiting.await.unwrap().unwrap();
    // (The header is that of the candidature.)
    assert_eq!((won.leader.unwrap().rev, revision(&won.header)), (4, 4));
    let late = proclaim(&client, Some(first.clone()), "too late").await;
    assert_refused(late, Code::Unknown, "election: not leader");
    // Resigning from what one does not hold changes nothing.
    assert_eq!(revision(&resign(&client, Some(first)).await.unwrap().header), 6);
    let now = leader(&client).await.unwrap().kv.unwrap();
    assert_eq!((&now.key[..], &now.value[..]), (&b"e/b"[..], &b"second"[..]));
}

#[tokio::test]
async fn a_candidate_that_goes_away_does_not_stand_in_the_way() {
    let server = Server::start();
    let client = server.client();
    leases(&client, &[0xa, 0xb]).await;
    let first = campaign(&client, 0xa, "first").await.unwrap().leader;
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { campaign(&client, 0xb, "second").await }
    });
    queued(&client, "e", 2).await;
    waiting.abort();
    queued(&client, "e", 1).await;
    resign(&client, first).await.unwrap();
    assert_refused(leader(&client).await, Code::Unknown, "election: no leader");
}

#[tokio::test]
async fn an_observer_is_told_of_every_leader() {
    let server = Server::start();
    let client = server.client();
    leases(&client, &[0xa, 0xb]).await;
    let request = LeaderRequest { name: bytes("e") };
    // (etcd answers nothing, not even with headers, before somebody leads.)
    let mut election = client.election.clone();
    let early = tokio::spawn({
        let request = request.clone();
        async move { election.observe(request).await.unwrap().into_inner() }
    });
    let first = campaign(&client, 0xa, "1").await.unwrap().leader;
    let mut early = early.await.unwrap();
    assert_eq!(told(&mut early).await, (2, "e/a".into(), "1".into()));
    proclaim(&client, first.clone(), "2").await.unwrap();
    assert_eq!(told(&mut early).await, (3, "e/a".into(), "2".into()));
    let mut late = client.election.clone().observe(request).await.unwrap().into_inner();
    assert_eq!(told(&mut late).await, (3, "e/a".into(), "2".into()));
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { campaign(&client, 0xb, "3").await }
    });
    queued(&client, "e", 2).await;
    resign(&client, first).await.unwrap();
    waiting.await.unwrap().unwrap();
    for observer in [&mut early, &mut late] {
        assert_eq!(told(observer).await, (5, "e/b".into(), "3".into()));
    }
    // Nobody leads for a while, and then somebody does.
    client.lease_revoke(0xb).await.unwrap();
    client.put(put("unrelated", "1")).await.unwrap();
    campaign(&client, 0xa, "4").await.unwrap();
    for observer in [&mut early, &mut late] {
        assert_eq!(told(observer).await, (8, "e/a".into(), "4".into()));
    }
}
