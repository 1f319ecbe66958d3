//! Bad input: what is refused, in which words, and that the server is as well afterwards as it was before.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::Command;
use std::time::Duration;

use norn_tests::command::{Output, run, server_path};
use norn_tests::pb::RangeRequest;
use norn_tests::req::*;
use norn_tests::{Cluster, Server, Setup};
use tonic::Code;

use crate::{assert_refused, revision};

const LIMIT: Duration = Duration::from_secs(20);

/// Runs a server that must end by itself.
fn ends(server: &Server, change: impl FnOnce(&mut Command)) -> Output {
    let mut command = server.command();
    change(&mut command);
    run(&mut command, LIMIT)
}

#[track_caller]
fn assert_ends(output: &Output, code: i32, text: &str) {
    assert_eq!(output.status.code(), Some(code), "{output:#?}");
    assert!(output.stderr.contains(text), "no {text:?} in {output:#?}");
}

#[test]
fn an_unknown_flag_ends_with_2_and_its_name() {
    for flag in ["--no-such-flag", "-no-such-flag=1", "--no-such-flag=x"] {
        let output = run(Command::new(server_path()).arg(flag), LIMIT);
        assert_ends(&output, 2, "flag provided but not defined: -no-such-flag");
    }
}

#[test]
fn flags_that_were_removed_are_unknown() {
    for flag in ["enable-v2", "proxy", "experimental-corrupt-check-time", "debug", "discovery"] {
        let output = run(Command::new(server_path()).arg(format!("--{flag}=x")), LIMIT);
        assert_ends(&output, 2, &format!("flag provided but not defined: -{flag}"));
    }
}

#[test]
fn bad_flag_values_end_with_2_and_say_why() {
    for (flag, text) in [
        (
            "--heartbeat-interval=abc",
            "invalid value \"abc\" for flag -heartbeat-interval: parse error",
        ),
        ("--max-txn-ops=-1", "invalid value \"-1\" for flag -max-txn-ops: parse error"),
        ("--pre-vote=maybe", "invalid boolean value \"maybe\" for -pre-vote: parse error"),
        (
            "--initial-cluster-state=maybe",
            "invalid value \"maybe\" for flag -initial-cluster-state",
        ),
        (
            "--listen-client-urls=nonsense",
            "URL scheme must be http, https, unix, or unixs: nonsense",
        ),
        (
            "--listen-client-urls=http://127.0.0.1",
            "URL address does not have the form \"host:port\": http://127.0.0.1",
        ),
        (
            "--listen-client-urls=http://127.0.0.1:1/x",
            "URL must not contain a path: http://127.0.0.1:1/x",
        ),
        ("--feature-gates=Nonsense=true", "unrecognized feature gate: Nonsense"),
    ] {
        let output = run(Command::new(server_path()).arg(flag), LIMIT);
        assert_ends(&output, 2, text);
    }
}

#[test]
fn contradictory_flags_end_with_1_and_say_why() {
    let server = Server::prepare(Setup::default());
    for (flags, text) in [
        (vec!["--heartbeat-interval=0"], "--heartbeat-interval must be >0 (set to 0ms)"),
        (
            vec!["--election-timeout=400"],
            "--election-timeout[400ms] should be at least as 5 times as --heartbeat-interval[100ms]",
        ),
        (
            vec!["--election-timeout=60000"],
            "--election-timeout[60000ms] is too long, and should be set less than 50000ms",
        ),
        (vec!["leftover"], "\\\"leftover\\\" is not a valid flag"),
        (vec!["--listen-client-urls=http://example.com:1"], "expected IP in URL for binding"),
    ] {
        let output = ends(&server, |c| {
            c.args(flags);
        });
        assert_ends(&output, 1, text);
        assert!(output.stderr.contains("failed to verify flags"), "{output:#?}");
    }
    let flag = "--listen-client-urls=http://127.0.0.1:1";
    let output = run(Command::new(server_path()).arg(flag), LIMIT);
    assert_ends(
        &output,
        1,
        "--advertise-client-urls is required when --listen-client-urls is set explicitly",
    );
}

#[test]
fn the_help_and_the_version_end_with_0() {
    let version = run(Command::new(server_path()).arg("--version"), LIMIT);
    assert!(version.status.success());
    assert_eq!(version.stdout.lines().next(), Some("etcd Version: 3.7.1"), "{version:#?}");
    for flag in ["--help", "-h"] {
        assert!(run(Command::new(server_path()).arg(flag), LIMIT).status.success());
    }
}

#[test]
fn an_environment_variable_that_shadows_a_flag_ends_with_1() {
    let server = Server::prepare(Setup::default());
    let output = ends(&server, |c| {
        c.env("ETCD_NAME", "n1");
    });
    let text = "conflicting environment variable is shadowed by corresponding command-line flag";
    assert_ends(&output, 1, text);
    assert!(output.stderr.contains("ETCD_NAME"), "{output:#?}");
}

#[test]
fn a_bad_environment_value_ends_with_1() {
    let server = Server::prepare(Setup::default());
    let output = ends(&server, |c| {
        c.env("ETCD_HEARTBEAT_INTERVAL", "abc");
    });
    let text = "invalid value \\\"abc\\\" for ETCD_HEARTBEAT_INTERVAL: parse error";
    assert_ends(&output, 1, text);
}

#[test]
fn a_name_that_is_not_in_the_cluster_ends_with_1() {
    let mut server = Server::prepare(Setup::default());
    server.setup.initial_cluster = Some(format!("other={}", server.peer_port.url()));
    let output = ends(&server, |_| ());
    let text = "couldn't find local name \\\"n1\\\" in the initial cluster configuration";
    assert_ends(&output, 1, text);
}

#[test]
fn a_peer_url_that_is_not_the_advertised_one_ends_with_1() {
    let mut server = Server::prepare(Setup::default());
    server.setup.initial_cluster = Some("n1=http://127.0.0.1:1".to_owned());
    let output = ends(&server, |_| ());
    assert_ends(&output, 1, "--initial-cluster");
}

#[test]
fn an_occupied_data_directory_is_left_alone() {
    let first = Server::start();
    let mut second = Server::prepare(Setup::quick());
    let data = format!("--data-dir={}", first.data_dir().display());
    second.setup = second.setup.clone().flag(data);
    // etcd waits for the lock of the other process; ours may also say so and end. Neither may serve.
    second.launch();
    norn_tests::poll::until("a second server to wait or end", LIMIT, || {
        let lines = second.lines();
        assert!(!lines.iter().any(|l| l.contains("ready to serve client requests")), "{lines:#?}");
        let waits = lines.iter().any(|l| l.contains("db file") || l.contains("lock"));
        (waits || !second.is_running()).then_some(())
    });
    second.kill();
    assert_eq!(norn_tests::http::get(&first.client_address(), "/health").status, 200);
}

#[test]
fn an_occupied_port_ends_with_1() {
    let first = Server::start();
    let second = Server::prepare(Setup::quick());
    let output = ends(&second, |c| {
        c.arg(format!("--listen-client-urls={}", first.client_url()));
    });
    assert_ends(&output, 1, "address already in use");
}

/// What no client sends.
fn garbage() -> Vec<Vec<u8>> {
    let mut http2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    http2.extend_from_slice(&[0xff; 300]);
    vec![
        vec![0; 64],
        vec![0xff; 100_000],
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        b"GET / HTTP/1.1\r\nHost:".to_vec(),
        b"GET /\r\n\r\n".to_vec(),
        b"POST /raft HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nabcde".to_vec(),
        b"POST /raft HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n".to_vec(),
        b"GET /raft/stream/message/zz HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x05\x01\x05\x00\x00\x00\x01\xff\xff\xff\xff\xff"
            .to_vec(),
        http2,
        (0..=255).cycle().take(5000).collect(),
    ]
}

fn throw(address: &str, bytes: &[u8]) {
    let mut stream = TcpStream::connect(address).expect("the port accepts");
    stream.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout");
    // The server may close at any time; all that matters is what becomes of it.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    let _ = stream.read(&mut [0; 1024]);
}

#[tokio::test]
async fn garbage_on_both_ports_is_shrugged_off() {
    let mut server = Server::start();
    let client = server.client();
    client.put(put("a", "1")).await.unwrap();
    let addresses = [server.client_address(), server.peer_address()];
    let throw_all = || {
        for address in &addresses {
            for bytes in garbage() {
                throw(address, &bytes);
            }
        }
    };
    throw_all();
    let before = server.rss_kib();
    for _ in 0..3 {
        throw_all();
    }
    let grown = server.rss_kib().saturating_sub(before);
    assert!(grown < 8 * 1024, "grew by {grown} KiB");
    server.assert_alive();
    assert_eq!(client.range(get("a")).await.unwrap().count, 1);
    client.put(put("a", "2")).await.unwrap();
}

#[tokio::test]
async fn connections_that_say_nothing_do_not_keep_others_out() {
    let mut server = Server::start();
    let silent: Vec<TcpStream> = (0..200)
        .map(|_| TcpStream::connect(server.client_address()).expect("the port accepts"))
        .collect();
    server.client().put(put("a", "1")).await.unwrap();
    drop(silent);
    server.assert_alive();
}

#[tokio::test]
async fn requests_over_the_limit_are_refused_and_not_kept() {
    let mut server = Server::start();
    let client = server.client();
    let large = "v".repeat(1_572_864);
    let huge = "v".repeat(2_097_152);
    let text = "etcdserver: request is too large";
    let refuse = async || {
        assert_refused(client.put(put("a", &large)).await, Code::InvalidArgument, text);
        let status = client.put(put("a", &huge)).await.unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
        let start = "grpc: received message larger than max (";
        assert!(status.message().starts_with(start), "{status:?}");
        assert!(status.message().ends_with(" vs. 2097152)"), "{status:?}");
    };
    for _ in 0..5 {
        refuse().await;
    }
    let before = server.rss_kib();
    for _ in 0..20 {
        refuse().await;
    }
    let grown = server.rss_kib().saturating_sub(before);
    // etcd's collector lets garbage stand for a while.
    let allowed = if norn_tests::command::server_is_etcd() { 64 } else { 8 };
    assert!(grown < allowed * 1024, "grew by {grown} KiB");
    server.assert_alive();
    let fits = "v".repeat(1_572_864 - 200);
    client.put(put("a", &fits)).await.unwrap();
    assert_eq!(client.range(get("a")).await.unwrap().kvs[0].value.len(), fits.len());
}

#[tokio::test]
async fn the_request_limit_is_a_flag() {
    let server = Server::start_with(Setup::quick().flag("--max-request-bytes=1000"));
    let client = server.client();
    client.put(put("a", &"v".repeat(900))).await.unwrap();
    let text = "etcdserver: request is too large";
    assert_refused(client.put(put("a", &"v".repeat(1000))).await, Code::InvalidArgument, text);
}

#[tokio::test]
async fn the_number_of_operations_is_a_flag() {
    let server = Server::start_with(Setup::quick().flag("--max-txn-ops=3"));
    let client = server.client();
    let puts = |n| (0..n).map(|i| op_put(put(&format!("k{i}"), "v"))).collect::<Vec<_>>();
    client.txn(txn(vec![], puts(3), vec![])).await.unwrap();
    let text = "etcdserver: too many operations in txn request";
    assert_refused(client.txn(txn(vec![], puts(4), vec![])).await, Code::InvalidArgument, text);
}

#[tokio::test]
async fn a_full_quota_refuses_writes_until_the_alarm_is_cleared() {
    let server = Server::start_with(Setup::quick().flag("--quota-backend-bytes=16777216"));
    let client = server.client();
    let value = "v".repeat(1_000_000);
    let text = "etcdserver: mvcc: database space exceeded";
    let mut written = 0;
    let refused = loop {
        match client.put(put(&format!("k{written}"), &value)).await {
            Ok(_) => written += 1,
            Err(status) => break status,
        }
        assert!(written < 100, "16 MiB of quota took {written} MB");
    };
    assert_eq!((refused.code(), refused.message()), (Code::ResourceExhausted, text));
    assert!(written >= 8, "only {written} MB");
    assert_refused(client.put(put("small", "1")).await, Code::ResourceExhausted, text);
    assert!(
        client.range(RangeRequest { count_only: true, ..all() }).await.unwrap().count >= written
    );
    let alarms = client.alarm(norn_tests::pb::AlarmRequest::default()).await.unwrap().alarms;
    assert_eq!(alarms.len(), 1, "{alarms:?}");
    let deleted = client.delete(del_prefix("k")).await.unwrap();
    client.compact(revision(&deleted.header)).await.unwrap();
    client.defragment().await.unwrap();
    let off = norn_tests::pb::AlarmRequest {
        action: norn_tests::pb::alarm_request::AlarmAction::Deactivate.into(),
        member_id: alarms[0].member_id,
        alarm: alarms[0].alarm,
    };
    client.alarm(off).await.unwrap();
    client.put(put("small", "1")).await.unwrap();
}

#[tokio::test]
async fn unknown_methods_and_services_are_unimplemented() {
    let server = Server::start();
    let client = server.client();
    for path in ["/etcdserverpb.KV/Nothing", "/nothing.Nothing/Nothing"] {
        let mut grpc = tonic::client::Grpc::new(client.channel.clone());
        grpc.ready().await.unwrap();
        let codec =
            tonic_prost::ProstCodec::<RangeRequest, norn_tests::pb::RangeResponse>::default();
        let request = tonic::Request::new(get("a"));
        let answer = grpc.unary(request, path.parse().unwrap(), codec).await;
        assert_eq!(answer.unwrap_err().code(), Code::Unimplemented, "{path}");
    }
}

#[tokio::test]
async fn authentication_is_said_not_to_be_served() {
    if norn_tests::command::server_is_etcd() {
        return;
    }
    let server = Server::start();
    let mut auth = server.client().auth;
    let answer = auth.user_list(norn_tests::pb::AuthUserListRequest {}).await;
    let text = "authentication is not served by norn: etcdserverpb.Auth/UserList";
    assert_refused(answer, Code::Unimplemented, text);
    let status = auth.auth_status(norn_tests::pb::AuthStatusRequest {}).await.unwrap();
    assert!(!status.into_inner().enabled);
}

/// The status and the body of a peer's request that names another cluster.
fn ask_as_stranger(address: &str, method: &str, path: &str, member: u64) -> (u16, String) {
    let mut stream = TcpStream::connect(address).expect("the peer port accepts");
    stream.set_read_timeout(Some(LIMIT)).expect("a timeout");
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: 0\r\n\
         X-Etcd-Cluster-ID: abc\r\nX-Server-From: 1\r\nX-Server-Version: 3.7.1\r\n\
         X-Min-Cluster-Version: 3.0.0\r\nX-Raft-To: {member:x}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).expect("the peer port reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let status = answer.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status");
    (status, answer)
}

#[tokio::test]
async fn a_peer_of_another_cluster_is_not_let_in() {
    let mut cluster = Cluster::start(3);
    cluster.leader().await;
    let before = cluster.assert_same_hash().await;
    let client = cluster.servers[0].client();
    let member = client.status().await.unwrap().header.unwrap().member_id;
    let address = cluster.servers[0].peer_address();
    for (method, path) in
        [("GET", "/raft/stream/message/1"), ("GET", "/raft/stream/msgapp/1"), ("POST", "/raft")]
    {
        let (status, answer) = ask_as_stranger(&address, method, path, member);
        assert!(status == 412 && answer.contains("cluster ID mismatch"), "{path}: {answer}");
    }
    // The same addresses in another cluster (another token): its messages must not be taken.
    let mut stranger = Server::prepare(Setup { name: "n4".to_owned(), ..Setup::default() });
    let members = norn_tests::cluster::initial_cluster(&cluster.servers);
    stranger.setup.initial_cluster = Some(format!("{members},n4={}", stranger.peer_port.url()));
    stranger.setup = stranger.setup.clone().flag("--initial-cluster-token=other");
    stranger.launch();
    // It asks for votes after a second, and may also give up by itself.
    norn_tests::poll::until("the stranger to campaign", LIMIT, || {
        let campaigns = |s: &Server| s.lines().iter().any(|l| l.contains("MsgPreVote request to"));
        (!stranger.is_running() || campaigns(&stranger)).then_some(())
    });
    for i in 0..100 {
        client.put(put("a", &i.to_string())).await.unwrap();
    }
    assert!(!stranger.lines().iter().any(|l| l.contains("ready to serve client requests")));
    assert_ne!(cluster.assert_same_hash().await, before);
    assert_eq!(client.member_list().await.unwrap().members.len(), 3);
    for server in &mut cluster.servers {
        server.assert_alive();
    }
}
