//! norn-etcd-client: does with the crate `etcd-client` what programs do with it, against the endpoints given, and ends with
//! status 0 when every answer was right. Faults are asked of whoever started it: a line `please crash` or `please revive`
//! on standard output, a line on standard input when that is done.
//!
//! Lock and election are recipes here: a key under a lease, and whoever's is the oldest has it. The crate's own calls ask
//! the server's services for them.

use std::io::{BufRead, Write};
use std::time::Duration;

use etcd_client::*;

const ANSWERED: &str = "an answer";

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let endpoints: Vec<String> =
        std::env::args().nth(1).expect("endpoints").split(',').map(str::to_owned).collect();
    let run = async {
        let client = connect(&endpoints).await;
        keys(client.clone()).await;
        passed("keys");
        transactions(client.clone()).await;
        passed("transactions");
        watches(client.clone()).await;
        passed("watches");
        leases(client.clone()).await;
        passed("leases");
        services(client.clone()).await;
        passed("services");
        lock(&endpoints).await;
        passed("lock");
        election(&endpoints).await;
        passed("election");
        maintenance(client.clone(), endpoints.len()).await;
        passed("maintenance");
        crash(&endpoints).await;
        passed("a crash");
    };
    tokio::time::timeout(Duration::from_secs(80), run).await.expect("in time");
}

fn passed(part: &str) {
    println!("passed: {part}");
}

fn please(what: &str) {
    println!("please {what}");
    std::io::stdout().flush().expect("somebody listens");
    std::io::stdin().lock().read_line(&mut String::new()).expect("somebody answers");
}

async fn connect(endpoints: &[String]) -> Client {
    Client::connect(endpoints, None).await.expect("a connection")
}

fn refused<T>(answer: Result<T, Error>) -> (tonic::Code, String) {
    match answer {
        Err(Error::GRpcStatus(status)) => (status.code(), status.message().to_owned()),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("accepted"),
    }
}

async fn keys(mut client: Client) {
    let first = client.put("key/1", "one", None).await.expect(ANSWERED);
    let first = first.header().expect("a header").revision();
    let again = client.put("key/1", "uno", Some(PutOptions::new().with_prev_key())).await;
    assert_eq!(again.expect(ANSWERED).prev_key().expect("a previous one").value(), b"one");
    for i in 2..8 {
        client.put(format!("key/{i}"), format!("{}", 10 - i), None).await.expect(ANSWERED);
    }
    let options = GetOptions::new()
        .with_prefix()
        .with_limit(2)
        .with_sort(SortTarget::Key, SortOrder::Descend);
    let answer = client.get("key/", Some(options)).await.expect(ANSWERED);
    assert_eq!((answer.kvs()[0].key(), answer.count(), answer.more()), (&b"key/7"[..], 7, true));
    let old = client.get("key/1", Some(GetOptions::new().with_revision(first))).await;
    assert_eq!(old.expect(ANSWERED).kvs()[0].value(), b"one");
    let options = DeleteOptions::new().with_range("key/4").with_prev_key();
    let gone = client.delete("key/2", Some(options)).await.expect(ANSWERED);
    assert_eq!((gone.deleted(), gone.prev_kvs()[1].value()), (2, &b"7"[..]));

    let compact = Some(CompactionOptions::new().with_physical());
    client.compact(first + 1, compact).await.expect(ANSWERED);
    let old = client.get("key/1", Some(GetOptions::new().with_revision(first))).await;
    let text = "etcdserver: mvcc: required revision has been compacted";
    assert_eq!(refused(old), (tonic::Code::OutOfRange, text.to_owned()));
    let empty = client.put("", "x", None).await;
    let text = "etcdserver: key is not provided";
    assert_eq!(refused(empty), (tonic::Code::InvalidArgument, text.to_owned()));
}

async fn transactions(mut client: Client) {
    client.put("txn", "1", None).await.expect(ANSWERED);
    let txn = Txn::new()
        .when([Compare::value("txn", CompareOp::Equal, "1")])
        .and_then([TxnOp::put("txn", "2", None), TxnOp::get("txn", None)])
        .or_else([TxnOp::txn(Txn::new().and_then([TxnOp::delete("txn", None)]))]);
    for succeeds in [true, false] {
        let answer = client.txn(txn.clone()).await.expect(ANSWERED);
        assert_eq!(answer.succeeded(), succeeds);
        match &answer.op_responses()[..] {
            [TxnOpResponse::Put(_), TxnOpResponse::Get(get)] => {
                assert_eq!((get.kvs()[0].value(), succeeds), (&b"2"[..], true));
            }
            [TxnOpResponse::Txn(inner)] => {
                let TxnOpResponse::Delete(delete) = &inner.op_responses()[0] else { panic!() };
                assert_eq!((delete.deleted(), succeeds), (1, false));
            }
            other => panic!("{other:?}"),
        }
    }
}

/// Events of a watch, as text, until there are `count`.
async fn events(stream: &mut WatchStream, count: usize) -> Vec<String> {
    let mut out = Vec::new();
    while out.len() < count {
        let answer = stream.message().await.expect(ANSWERED).expect("the watch is open");
        assert!(!answer.canceled(), "{}", answer.cancel_reason());
        for event in answer.events() {
            let kv = event.kv().expect("a key");
            let (key, value) = (kv.key_str().expect("text"), kv.value_str().expect("text"));
            out.push(format!("{:?} {key}={value}", event.event_type()));
        }
    }
    out
}

async fn watches(mut client: Client) {
    let options = WatchOptions::new().with_prefix().with_prev_key();
    let mut stream = client.watch("watch/", Some(options)).await.expect(ANSWERED);
    client.put("watch/a", "1", None).await.expect(ANSWERED);
    client.delete("watch/a", None).await.expect(ANSWERED);
    assert_eq!(events(&mut stream, 2).await, ["Put watch/a=1", "Delete watch/a="]);
    stream.request_progress().await.expect(ANSWERED);
    let answer = stream.message().await.expect(ANSWERED).expect("the watch is open");
    assert!(answer.events().is_empty() && answer.header().expect("a header").revision() > 1);
    // Behind a compaction: told why, and from where to go on.
    let options = WatchOptions::new().with_start_revision(1);
    let mut old = client.watch("watch/a", Some(options)).await.expect(ANSWERED);
    loop {
        let answer = old.message().await.expect(ANSWERED).expect("the watch is open");
        if answer.canceled() {
            assert!(answer.compact_revision() > 1);
            break;
        }
    }
    // Many events, one message after another.
    let mut stream =
        client.watch("many/", Some(WatchOptions::new().with_prefix())).await.expect(ANSWERED);
    for i in 0..200 {
        client.put(format!("many/{i}"), "x", None).await.expect(ANSWERED);
    }
    let want: Vec<String> = (0..200).map(|i| format!("Put many/{i}=x")).collect();
    assert_eq!(events(&mut stream, 200).await, want);
}

async fn leases(mut client: Client) {
    let id = client.lease_grant(600, None).await.expect(ANSWERED).id();
    let leased = Some(PutOptions::new().with_lease(id));
    client.put("leased", "x", leased.clone()).await.expect(ANSWERED);
    let (mut keeper, mut kept) = client.lease_keep_alive(id).await.expect(ANSWERED);
    keeper.keep_alive().await.expect(ANSWERED);
    assert_eq!(kept.message().await.expect(ANSWERED).expect("an answer").ttl(), 600);
    let keys = Some(LeaseTimeToLiveOptions::new().with_keys());
    let left = client.lease_time_to_live(id, keys).await.expect(ANSWERED);
    assert_eq!((left.granted_ttl(), left.keys()), (600, &[b"leased".to_vec()][..]));
    assert!(client.leases().await.expect(ANSWERED).leases().iter().any(|l| l.id() == id));
    client.lease_revoke(id).await.expect(ANSWERED);
    assert_eq!(client.get("leased", None).await.expect(ANSWERED).count(), 0);
    let text = "etcdserver: requested lease not found";
    assert_eq!(refused(client.lease_revoke(id).await), (tonic::Code::NotFound, text.to_owned()));
    assert_eq!(refused(client.put("leased", "x", leased).await).1, text);

    let id = client.lease_grant(1, None).await.expect(ANSWERED).id();
    let mut stream = client.watch("brief", None).await.expect(ANSWERED);
    client.put("brief", "x", Some(PutOptions::new().with_lease(id))).await.expect(ANSWERED);
    assert_eq!(events(&mut stream, 2).await, ["Put brief=x", "Delete brief="]);
}

/// The crate's own lock and election ask services of the server. One without them says so, and nothing breaks.
async fn services(mut client: Client) {
    match client.lock("service-lock", None).await {
        Ok(locked) => drop(client.unlock(locked.key()).await.expect(ANSWERED)),
        Err(Error::GRpcStatus(status)) => assert_eq!(status.code(), tonic::Code::Unimplemented),
        Err(other) => panic!("{other}"),
    }
    let lease = client.lease_grant(60, None).await.expect(ANSWERED).id();
    match client.campaign("service-election", "x", lease).await {
        Ok(won) => {
            let leader = won.leader().expect("a leader").clone();
            let option = ResignOptions::new().with_leader(leader);
            client.resign(Some(option)).await.expect(ANSWERED);
        }
        Err(Error::GRpcStatus(status)) => assert_eq!(status.code(), tonic::Code::Unimplemented),
        Err(other) => panic!("{other}"),
    }
    client.lease_revoke(lease).await.expect(ANSWERED);
}

/// A place in a queue: a key under a lease. Its holder is whoever's key is the oldest under the prefix.
struct Turn {
    client: Client,
    prefix: String,
    key: String,
    lease: i64,
    revision: i64,
}

impl Turn {
    async fn queue(endpoints: &[String], prefix: &str, value: &str) -> Self {
        let mut client = connect(endpoints).await;
        let lease = client.lease_grant(60, None).await.expect(ANSWERED).id();
        let key = format!("{prefix}/{lease:x}");
        let put = TxnOp::put(key.clone(), value, Some(PutOptions::new().with_lease(lease)));
        let txn = Txn::new()
            .when([Compare::create_revision(key.clone(), CompareOp::Equal, 0)])
            .and_then([put]);
        let answer = client.txn(txn).await.expect(ANSWERED);
        assert!(answer.succeeded());
        let revision = answer.header().expect("a header").revision();
        Self { client, prefix: format!("{prefix}/"), key, lease, revision }
    }

    /// Waits for the end of the key just before this one, until there is none.
    async fn wait(&mut self) {
        loop {
            let options = GetOptions::new()
                .with_prefix()
                .with_max_create_revision(self.revision - 1)
                .with_sort(SortTarget::Create, SortOrder::Descend)
                .with_limit(1);
            let before = self.client.get(self.prefix.clone(), Some(options)).await.expect(ANSWERED);
            let Some(kv) = before.kvs().first() else { return };
            let from = before.header().expect("a header").revision() + 1;
            let options = WatchOptions::new()
                .with_start_revision(from)
                .with_filters([WatchFilterType::NoPut]);
            let mut stream = self.client.watch(kv.key(), Some(options)).await.expect(ANSWERED);
            events(&mut stream, 1).await;
        }
    }

    async fn end(mut self) {
        self.client.lease_revoke(self.lease).await.expect(ANSWERED);
    }
}

async fn lock(endpoints: &[String]) {
    let mut tasks = Vec::new();
    for _ in 0..6 {
        let endpoints = endpoints.to_vec();
        tasks.push(tokio::spawn(async move {
            let mut turn = Turn::queue(&endpoints, "lock", "").await;
            turn.wait().await;
            // Nobody else's mark is here, and the mark is written only while the lock is held.
            let held = Compare::create_revision(turn.key.clone(), CompareOp::Equal, turn.revision);
            let alone = Compare::create_revision("inside", CompareOp::Equal, 0);
            let enter = Txn::new().when([held, alone]).and_then([TxnOp::put("inside", "x", None)]);
            assert!(turn.client.txn(enter).await.expect(ANSWERED).succeeded(), "not alone");
            turn.client.delete("inside", None).await.expect(ANSWERED);
            turn.end().await;
        }));
    }
    for task in tasks {
        task.await.expect("a task ends well");
    }
}

async fn election(endpoints: &[String]) {
    let mut client = connect(endpoints).await;
    let options = WatchOptions::new().with_prefix();
    let mut observed = client.watch("election/", Some(options)).await.expect(ANSWERED);
    let mut one = Turn::queue(endpoints, "election", "one").await;
    one.wait().await;
    let mut two = Turn::queue(endpoints, "election", "two").await;
    let oldest = || {
        let order =
            GetOptions::new().with_prefix().with_sort(SortTarget::Create, SortOrder::Ascend);
        Some(order.with_limit(1))
    };
    let leader = client.get("election/", oldest()).await.expect(ANSWERED);
    assert_eq!(leader.kvs()[0].value(), b"one");
    one.end().await;
    two.wait().await;
    let leader = client.get("election/", oldest()).await.expect(ANSWERED);
    assert_eq!(leader.kvs()[0].value(), b"two");
    two.end().await;
    assert_eq!(events(&mut observed, 4).await.len(), 4);
}

async fn maintenance(mut client: Client, members: usize) {
    let list = client.member_list().await.expect(ANSWERED);
    assert_eq!(list.members().len(), members);
    assert_eq!(client.status().await.expect(ANSWERED).version(), "3.7.1");
    assert_ne!(client.hash_kv(0).await.expect(ANSWERED).hash(), 0);
    client.defragment().await.expect(ANSWERED);
    let alarms = client.alarm(AlarmAction::Get, AlarmType::None, None).await.expect(ANSWERED);
    assert!(alarms.alarms().is_empty());
    let mut snapshot = client.snapshot().await.expect(ANSWERED);
    let (mut got, mut left) = (0, 1);
    while let Some(piece) = snapshot.message().await.expect(ANSWERED) {
        got += piece.blob().len();
        left = piece.remaining_bytes();
    }
    assert!(got > 0 && left == 0, "{got} bytes, {left} left");
}

/// Writes go on when a member is killed (the leader, of three), and a new watch sees all of them.
async fn crash(endpoints: &[String]) {
    let mut client = connect(endpoints).await;
    let first = client.put("crash/0", "x", None).await.expect(ANSWERED);
    let first = first.header().expect("a header").revision();
    please("crash");
    if endpoints.len() == 1 {
        please("revive");
    }
    for i in 1..=20 {
        // The crate repeats nothing. The same value twice does no harm here.
        while client.put(format!("crash/{i}"), "x", None).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    let options = WatchOptions::new().with_prefix().with_start_revision(first);
    let mut stream = loop {
        match client.watch("crash/", Some(options.clone())).await {
            Ok(stream) => break stream,
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    };
    let mut seen = Vec::new();
    while seen.last().is_none_or(|last| last != "Put crash/20=x") {
        seen.extend(events(&mut stream, 1).await);
        seen.dedup();
    }
    let want: Vec<String> = (0..=20).map(|i| format!("Put crash/{i}=x")).collect();
    assert_eq!(seen, want);
    if endpoints.len() > 1 {
        please("revive");
    }
}
