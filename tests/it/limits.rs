//! What a request may cost, and what is read of a call beside its message.

use std::time::Duration;

use norn_tests::bare::{Ended, call};
use norn_tests::http::get as page;
use norn_tests::pb::alarm_request::AlarmAction;
use norn_tests::pb::*;
use norn_tests::poll::until;
use norn_tests::req::*;
use norn_tests::{Client, Server, Setup};
use tonic::metadata::{AsciiMetadataValue, MetadataMap};
use tonic::{Code, Request, Status};

use crate::assert_refused;

const NO_SPACE: &str = "etcdserver: mvcc: database space exceeded";

#[track_caller]
fn assert_no_space<T: std::fmt::Debug>(answer: Result<T, Status>) {
    assert_refused(answer, Code::ResourceExhausted, NO_SPACE);
}

async fn alarms(client: &Client) -> Vec<AlarmMember> {
    client.alarm(AlarmRequest::default()).await.unwrap().alarms
}

async fn change(client: &Client, action: AlarmAction, alarm: &AlarmMember) {
    let request =
        AlarmRequest { action: action.into(), member_id: alarm.member_id, alarm: alarm.alarm };
    let changed = client.alarm(request).await.unwrap().alarms;
    assert_eq!(changed, std::slice::from_ref(alarm));
}

fn puts(count: usize) -> Vec<RequestOp> {
    (0..count).map(|i| op_put(put(&format!("k{i}"), "v"))).collect()
}

/// What every server refuses that is full, or took itself for it.
async fn assert_writes_refused(client: &Client) {
    assert_no_space(client.put(put("a", "1")).await);
    assert_no_space(client.txn(txn(vec![], puts(1), vec![])).await);
    assert_no_space(client.txn(txn(vec![], vec![], puts(1))).await);
    let nested = op_txn(txn(vec![], vec![], puts(1)));
    assert_no_space(client.txn(txn(vec![], vec![op_get(get("a")), nested], vec![])).await);
    assert_no_space(client.lease_grant(9, 60).await);
}

#[tokio::test]
async fn who_has_no_room_refuses_what_costs_some_before_looking_at_it() {
    let server = Server::start_with(Setup::quick().flag("--quota-backend-bytes=1"));
    let client = server.client();
    let me = client.status().await.unwrap().header.unwrap().member_id;
    assert_eq!(alarms(&client).await, []);
    // Free: these work whatever the quota is.
    client.range(get("a")).await.unwrap();
    client.delete(del("a")).await.unwrap();
    let deletes = vec![op_del(del("a")), op_get(get("a"))];
    client.txn(txn(vec![], deletes, vec![])).await.unwrap();
    let lost = client.lease_revoke(7).await;
    assert_refused(lost, Code::NotFound, "etcdserver: requested lease not found");
    let empty = client.txn(txn(vec![], vec![op_get(get(""))], vec![])).await;
    assert_refused(empty, Code::InvalidArgument, "etcdserver: key is not provided");
    assert_eq!(alarms(&client).await, []);
    // Everything else about them is wrong, too.
    assert_no_space(client.put(put("", "1")).await);
    let full = AlarmMember { member_id: me, alarm: AlarmType::Nospace.into() };
    assert_eq!(alarms(&client).await, [full], "raised before the answer");
    assert_no_space(client.txn(txn(vec![], puts(200), vec![])).await);
    assert_no_space(client.txn(txn(vec![], vec![op_put(put("", ""))], vec![])).await);
    assert_no_space(client.lease_grant(7, i64::MAX).await);
    assert_writes_refused(&client).await;
    // Taken back: raised again by the next one.
    change(&client, AlarmAction::Deactivate, &full).await;
    assert_eq!(alarms(&client).await, []);
    assert_no_space(client.lease_grant(7, 60).await);
    assert_eq!(alarms(&client).await, [full]);
}

#[tokio::test]
async fn the_costs_of_puts_and_transactions_are_exact() {
    const QUOTA: usize = 4 << 20;
    let flag = format!("--quota-backend-bytes={QUOTA}");
    let server = Server::start_with(Setup::quick().flag(flag));
    let client = server.client();
    // (Nothing else is written after that.)
    until("the cluster version", Duration::from_secs(20), || {
        let version = page(&server.client_address(), "/version").json();
        (version["etcdcluster"] == "3.7.0").then_some(())
    });
    let me = client.status().await.unwrap().header.unwrap().member_id;
    let full = AlarmMember { member_id: me, alarm: AlarmType::Nospace.into() };
    // Costs so much, in up to three puts of at least 1,000 bytes, none above what a request may have.
    let ops = |cost: usize| {
        let each = cost / 3;
        let sizes = [each, each, cost - 2 * each];
        let op =
            |(i, size): (usize, usize)| op_put(put(&format!("k{i}"), &"v".repeat(size - 256 - 2)));
        sizes.into_iter().enumerate().map(op).collect::<Vec<_>>()
    };
    // Until one request can take what is left.
    let mut i = 0;
    while room(&client, QUOTA).await > 1_400_000 {
        client.put(put(&format!("f{i}"), &"v".repeat(200_000))).await.unwrap();
        i += 1;
    }
    let left = room(&client, QUOTA).await;
    assert!(left > 3_000, "{left} bytes are left");
    let exact = [
        txn(vec![], ops(left), vec![]),
        txn(vec![], vec![], ops(left)),
        txn(vec![], vec![op_txn(txn(vec![], ops(left / 2), vec![])), op_get(get("a"))], ops(left)),
        txn(
            vec![],
            vec![op_put(put("a", "")), op_txn(txn(vec![], puts(1), ops(left - 257)))],
            vec![],
        ),
    ];
    for request in exact {
        assert_no_space(client.txn(request).await);
        change(&client, AlarmAction::Deactivate, &full).await;
    }
    let largest = "v".repeat(left - 256 - 1);
    assert_no_space(client.put(put("k", &largest)).await);
    change(&client, AlarmAction::Deactivate, &full).await;
    // One byte less is not too much. (Branches are not added up.)
    let left = room(&client, QUOTA).await;
    client.txn(txn(vec![], vec![], ops(left - 1))).await.unwrap();
    assert_eq!(alarms(&client).await, []);
}

/// Bytes left of the quota. etcd counts what is in its file; a snapshot puts everything there first.
async fn room(client: &Client, quota: usize) -> usize {
    client.snapshot().await.unwrap();
    quota - client.status().await.unwrap().db_size as usize
}

#[tokio::test]
async fn an_alarm_refuses_what_makes_it_worse() {
    let server = Server::start();
    let client = server.client();
    client.put(put("a", "1")).await.unwrap();
    client.lease_grant(7, 600).await.unwrap();
    // Somebody else's is as good as one's own.
    let full = AlarmMember { member_id: 4711, alarm: AlarmType::Nospace.into() };
    change(&client, AlarmAction::Activate, &full).await;
    assert_writes_refused(&client).await;
    client.range(get("a")).await.unwrap();
    let deletes = vec![op_del(del("b")), op_get(get("a"))];
    client.txn(txn(vec![], deletes, vec![])).await.unwrap();
    client.keep_alive(7).await.unwrap();
    client.lease_revoke(7).await.unwrap();
    client.delete(del("a")).await.unwrap();
    client.compact(3).await.unwrap();
    // (Whoever names nobody means nobody.)
    let nobody = AlarmRequest {
        action: AlarmAction::Deactivate.into(),
        member_id: 0,
        alarm: AlarmType::Nospace.into(),
    };
    assert_eq!(client.alarm(nobody).await.unwrap().alarms, []);
    change(&client, AlarmAction::Deactivate, &full).await;
    client.put(put("a", "1")).await.unwrap();
    client.lease_grant(7, 600).await.unwrap();

    let corrupt = AlarmMember { member_id: 4711, alarm: AlarmType::Corrupt.into() };
    change(&client, AlarmAction::Activate, &corrupt).await;
    let text = "etcdserver: corrupt cluster";
    assert_refused(client.put(put("a", "1")).await, Code::DataLoss, text);
    assert_refused(client.delete(del("a")).await, Code::DataLoss, text);
    assert_refused(client.txn(txn(vec![], puts(1), vec![])).await, Code::DataLoss, text);
    assert_refused(client.compact(3).await, Code::DataLoss, text);
    assert_refused(client.lease_grant(8, 60).await, Code::DataLoss, text);
    assert_refused(client.lease_revoke(7).await, Code::DataLoss, text);
    client.range(get("a")).await.unwrap();
    client.keep_alive(7).await.unwrap();
    client.lease_ttl(7, true).await.unwrap();
    change(&client, AlarmAction::Deactivate, &corrupt).await;
    client.put(put("a", "1")).await.unwrap();
}

#[tokio::test]
async fn clients_are_counted_by_their_version() {
    let server = Server::start();
    let client = server.client();
    let asks = |value: &[u8]| {
        let mut metadata = MetadataMap::new();
        let value = AsciiMetadataValue::try_from(value).unwrap();
        metadata.insert("client-api-version", value);
        Request::from_parts(metadata, tonic::Extensions::default(), get("a"))
    };
    let mut kv = client.kv.clone();
    kv.range(asks(b"3.6")).await.unwrap();
    kv.range(asks(b"3.6")).await.unwrap();
    kv.range(asks("\u{e9}".as_bytes())).await.unwrap();
    kv.range(asks(b"")).await.unwrap();
    client.range(get("a")).await.unwrap();
    let mut watching = Request::new(tokio_stream::pending::<WatchRequest>());
    watching.metadata_mut().insert("client-api-version", "3.6".parse().unwrap());
    let mut watch = client.watch.clone();
    let watching = tokio::spawn(async move { watch.watch(watching).await });
    let refused = kv.range(asks(b"3.6\xff")).await;
    let text = "etcdserver: invalid client api version";
    assert_refused(refused, Code::InvalidArgument, text);
    let counts = until("the stream is counted", Duration::from_secs(10), || {
        let text = page(&server.client_address(), "/metrics").text();
        let name = "etcd_server_client_requests_total{client_api_version=";
        let mut counts: Vec<String> =
            text.lines().filter_map(|line| line.strip_prefix(name)).map(str::to_owned).collect();
        counts.sort();
        counts.iter().any(|line| line.contains("\"stream\"")).then_some(counts)
    });
    watching.abort();
    let expected = [
        "\"\",type=\"unary\"} 1",
        "\"3.6\",type=\"stream\"} 1",
        "\"3.6\",type=\"unary\"} 2",
        "\"unknown\",type=\"unary\"} 1",
        "\"\u{e9}\",type=\"unary\"} 1",
    ];
    assert_eq!(counts, expected);
}

#[tokio::test]
async fn a_timeout_is_one_or_the_call_is_refused() {
    let server = Server::start();
    let address = server.client_address();
    let path = "/etcdserverpb.KV/Range";
    let ask = async |value: &str| {
        let headers = [("grpc-timeout", value.as_bytes())];
        call(&address, path, &headers, &get("a")).await.unwrap()
    };
    let fine = Ended::new(Code::Ok, "");
    assert_eq!(call(&address, path, &[], &get("a")).await.unwrap(), fine);
    for value in ["20S", "99999999H", "00000005M"] {
        assert_eq!(ask(value).await, fine, "{value}");
    }
    for value in ["0S", "00000000n"] {
        let ended = Ended::new(Code::DeadlineExceeded, "context deadline exceeded");
        assert_eq!(ask(value).await, ended, "{value}");
    }
    for (value, what) in [
        ("S", "transport: timeout string is too short: \"S\""),
        ("999999999S", "transport: timeout string is too long: \"999999999S\""),
        ("55", "transport: timeout unit is not recognized: \"55\""),
        ("+5S", "strconv.ParseUint: parsing \"+5\": invalid syntax"),
    ] {
        let ended = Ended::new(Code::Internal, &format!("malformed grpc-timeout: {what}"));
        assert_eq!(ask(value).await, ended, "{value}");
    }
}

#[tokio::test]
async fn messages_and_chunks_follow_the_request_limit() {
    let server = Server::start_with(Setup::quick().flag("--max-request-bytes=1000"));
    let client = server.client();
    for i in 0..21 {
        client.put(put(&format!("k{i}"), &"v".repeat(800))).await.unwrap();
    }
    let text = "etcdserver: request is too large";
    let large = client.put(put("k", &"v".repeat(500_000))).await;
    assert_refused(large, Code::InvalidArgument, text);
    let larger = client.put(put("k", &"v".repeat(526_000))).await.unwrap_err();
    assert_eq!(larger.code(), Code::ResourceExhausted);
    assert!(larger.message().ends_with(" vs. 525288)"), "{larger:?}");
    let (chunks, ended) = client.range_stream(prefix("k")).await;
    assert!(ended.is_none(), "{ended:?}");
    // Ten, then half as many while they are more than twice the limit.
    let counts: Vec<usize> =
        chunks.iter().map(|chunk| chunk.range_response.as_ref().unwrap().kvs.len()).collect();
    assert_eq!(counts, [10, 5, 2, 2, 2]);
}

#[tokio::test]
async fn the_quota_is_two_gibibytes_unless_told_otherwise() {
    for (flag, shown) in [("0", 2 << 30), ("-1", -1), ("1048576", 1 << 20)] {
        let setup = Setup::quick().flag(format!("--quota-backend-bytes={flag}"));
        let server = Server::start_with(setup);
        let client = server.client();
        assert_eq!(client.status().await.unwrap().db_size_quota, shown);
        client.put(put("a", "1")).await.unwrap();
    }
}

#[tokio::test]
async fn the_number_of_learners_is_a_flag() {
    let server = Server::start_with(Setup::quick().flag("--max-learners=2"));
    let client = server.client();
    for port in 1..3 {
        client.member_add(&format!("http://127.0.0.1:{port}"), true).await.unwrap();
    }
    let third = client.member_add("http://127.0.0.1:3", true).await;
    let text = "etcdserver: too many learner members in cluster";
    assert_refused(third, Code::FailedPrecondition, text);
    assert_eq!(client.member_list().await.unwrap().members.len(), 3);
}
