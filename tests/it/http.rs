//! What the client and the peer port answer to HTTP/1.1.

use norn_tests::http::{exchange, get, post};
use norn_tests::pb::{AlarmRequest, AlarmType, alarm_request::AlarmAction};
use norn_tests::poll::until;
use norn_tests::req::put;
use norn_tests::{Server, Setup};

use std::time::Duration;

#[test]
fn health_is_true_on_a_healthy_server() {
    let server = Server::start();
    let answer = get(&server.client_address(), "/health");
    assert_eq!((answer.status, answer.text().as_str()), (200, r#"{"health":"true","reason":""}"#));
    let answer = get(&server.client_address(), "/health?serializable=true");
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn health_is_false_under_an_alarm_unless_it_is_excluded() {
    let server = Server::start();
    let request = AlarmRequest {
        action: AlarmAction::Activate.into(),
        member_id: 0,
        alarm: AlarmType::Nospace.into(),
    };
    server.client().alarm(request).await.unwrap();
    let address = server.client_address();
    let answer = get(&address, "/health");
    assert_eq!(answer.status, 503);
    assert_eq!(answer.text().trim_end(), r#"{"health":"false","reason":"ALARM NOSPACE"}"#);
    assert_eq!(get(&address, "/health?exclude=NOSPACE").status, 200);
    assert_eq!(get(&address, "/readyz").status, 200);
}

#[test]
fn other_methods_than_get_are_refused() {
    let server = Server::start();
    for path in ["/health", "/livez", "/readyz"] {
        let answer = exchange(&server.client_address(), "POST", path, b"");
        assert_eq!((answer.status, answer.header("allow")), (405, Some("GET")), "{path}");
    }
    assert_eq!(exchange(&server.client_address(), "POST", "/version", b"").status, 405);
}

#[test]
fn the_version_settles_at_3_7() {
    let server = Server::start();
    for address in [server.client_address(), server.peer_address()] {
        let version = until("the cluster version", Duration::from_secs(10), || {
            let answer = get(&address, "/version");
            assert_eq!(answer.status, 200);
            let decided = !answer.text().contains("not_decided") && answer.text().contains("3.7.0");
            decided.then(|| answer.json())
        });
        assert_eq!(version["etcdserver"], "3.7.1");
        assert_eq!(version["etcdcluster"], "3.7.0");
        assert!(version["storage"].is_string(), "{version}");
    }
}

#[test]
fn livez_and_readyz_list_their_checks() {
    let server = Server::start();
    let address = server.client_address();
    for (path, checks) in [
        ("/livez", vec!["serializable_read"]),
        (
            "/readyz",
            vec!["data_corruption", "linearizable_read", "non_learner", "serializable_read"],
        ),
    ] {
        let brief = get(&address, path);
        assert_eq!((brief.status, brief.text().as_str()), (200, "ok\n"), "{path}");
        assert_eq!(brief.header("content-type"), Some("text/plain; charset=utf-8"));
        assert_eq!(brief.header("x-content-type-options"), Some("nosniff"));
        let verbose = get(&address, &format!("{path}?verbose")).text();
        let mut lines: Vec<&str> = verbose.lines().collect();
        assert_eq!(lines.pop(), Some("ok"), "{verbose}");
        lines.sort_unstable();
        let expected: Vec<String> = checks.iter().map(|c| format!("[+]{c} ok")).collect();
        assert_eq!(lines, expected);
        for check in checks {
            let one = get(&address, &format!("{path}/{check}"));
            assert_eq!((one.status, one.text().as_str()), (200, "ok\n"), "{path}/{check}");
        }
    }
    assert_eq!(get(&address, "/readyz/nothing").status, 404);
    assert_eq!(get(&address, "/readyz?exclude=non_learner&exclude=linearizable_read").status, 200);
}

#[test]
fn unknown_paths_are_not_found() {
    let server = Server::start();
    for path in ["/", "/v2/keys/foo", "/nothing"] {
        let answer = get(&server.client_address(), path);
        assert_eq!(
            (answer.status, answer.text().as_str()),
            (404, "404 page not found\n"),
            "{path}"
        );
    }
    assert_eq!(get(&server.client_address(), "/members").status, 404);
    assert_eq!(get(&server.peer_address(), "/health").status, 404);
}

#[test]
fn variables_are_those_of_gos_expvar() {
    let server = Server::start();
    let answer = get(&server.client_address(), "/debug/vars");
    assert_eq!(
        (answer.status, answer.header("content-type")),
        (200, Some("application/json; charset=utf-8"))
    );
    let variables = answer.json();
    assert!(
        variables["cmdline"][1].as_str().is_some_and(|arg| arg.starts_with("--name")),
        "{variables}"
    );
    assert!(variables["file_descriptor_limit"].as_u64().is_some_and(|limit| limit > 0));
    assert!(variables["memstats"]["Alloc"].as_u64().is_some_and(|bytes| bytes > 0));
    let raft = &variables["raft.status"];
    let id = raft["id"].as_str().expect("an id");
    assert_eq!((&raft["lead"], &raft["vote"]), (&raft["id"], &raft["id"]));
    assert_eq!((&raft["term"], &raft["raftState"]), (&2.into(), &"StateLeader".into()));
    assert_eq!(raft["progress"][id]["state"], "StateReplicate");
    assert!(raft["progress"][id]["match"].as_u64() >= raft["commit"].as_u64());
    assert_eq!(raft["leadtransferee"], "0");
    for path in ["/debug/pprof/", "/debug/pprof/cmdline", "/debug/requests", "/debug/events"] {
        assert_eq!(get(&server.client_address(), path).status, 404, "{path}");
    }
}

#[test]
fn the_profilers_paths_are_there_when_asked_for() {
    let server = Server::start_with(Setup::quick().flag("--enable-pprof"));
    let address = server.client_address();
    let index = get(&address, "/debug/pprof/");
    assert_eq!(
        (index.status, index.header("content-type")),
        (200, Some("text/html; charset=utf-8"))
    );
    let cmdline = get(&address, "/debug/pprof/cmdline");
    assert!(cmdline.text().contains("\0--enable-pprof"), "{}", cmdline.text());
    assert!(get(&address, "/debug/pprof/symbol").text().starts_with("num_symbols: "));
    assert_eq!(get(&address, "/debug/pprof/nothing").status, 404);
    assert_eq!(get(&address, "/debug/requests").status, 404);
    assert_eq!(get(&address, "/debug/pprof/trace").status, 501);
    for (name, kinds) in [
        ("heap", &["inuse_space", "bytes", "cached blocks"][..]),
        ("allocs", &["inuse_space", "bytes"]),
        ("goroutine", &["goroutine", "count", "norn-log"]),
        ("threadcreate", &["threadcreate", "norn-bulk"]),
        ("block", &["contentions", "delay"]),
        ("mutex", &["contentions", "nanoseconds"]),
    ] {
        assert!(index.text().contains(&format!("href='{name}'")), "{}", index.text());
        let file = get(&address, &format!("/debug/pprof/{name}"));
        assert_eq!(file.header("content-type"), Some("application/octet-stream"), "{name}");
        let file = String::from_utf8_lossy(&file.body).into_owned();
        assert!(kinds.iter().all(|kind| file.contains(kind)), "{name}: {file}");
        let text = get(&address, &format!("/debug/pprof/{name}?debug=1")).text();
        assert!(text.starts_with(&format!("{name} profile: total ")), "{text}");
    }
    assert_eq!(get(&address, "/debug/pprof/profile?seconds=601").status, 400);
}

#[test]
fn pages_of_requests_are_there_when_debugging() {
    let server = Server::start_with(Setup::quick().flag("--log-level=debug"));
    let address = server.client_address();
    let asked = post(&address, "/v3/kv/put", br#"{"key":"a2V5"}"#);
    assert_eq!(asked.status, 200, "{}", asked.text());
    let page = get(&address, "/debug/requests").text();
    let row = "<td>etcdserverpb.KV/Put</td><td>0</td><td>1</td><td>0</td>";
    assert!(page.contains(row), "{page}");
    assert_eq!(get(&address, "/debug/events").status, 200);
}

#[test]
fn a_profile_shows_where_the_time_goes_one_at_a_time() {
    let server = Server::start_with(Setup::quick().flag("--enable-pprof"));
    let address = server.client_address();
    let taking = std::thread::spawn({
        let address = address.clone();
        move || get(&address, "/debug/pprof/profile?seconds=2")
    });
    // (The first may be asked later than the second: then it is the first that is refused.)
    let second = get(&address, "/debug/pprof/profile?seconds=1");
    let first = taking.join().expect("an answer");
    let (taken, refused) = if first.status == 200 { (first, second) } else { (second, first) };
    assert_eq!(
        (taken.status, taken.header("content-type"), taken.header("content-disposition")),
        (200, Some("application/octet-stream"), Some("attachment; filename=\"profile\""))
    );
    let profile = String::from_utf8_lossy(&taken.body).into_owned();
    for kind in ["samples", "count", "cpu", "nanoseconds"] {
        assert!(profile.contains(kind), "{profile}");
    }
    assert_eq!((refused.status, refused.header("x-go-pprof")), (500, Some("1")));
    assert_eq!(refused.text(), "Could not enable CPU profiling: cpu profiling already in use\n");
}

/// Counters and gauges that dashboards and alerts read.
const METRICS: &[&str] = &[
    "etcd_server_has_leader 1",
    "etcd_server_is_leader 1",
    "etcd_server_is_learner 0",
    "etcd_server_leader_changes_seen_total ",
    "etcd_server_proposals_committed_total ",
    "etcd_server_proposals_applied_total ",
    "etcd_server_proposals_pending ",
    "etcd_server_proposals_failed_total ",
    "etcd_server_quota_backend_bytes ",
    "etcd_server_version{server_version=\"3.7.1\"} 1",
    "etcd_server_id{server_id=\"",
    "etcd_cluster_version{cluster_version=\"3.7\"} 1",
    "etcd_network_client_grpc_sent_bytes_total ",
    "etcd_network_client_grpc_received_bytes_total ",
    "etcd_disk_wal_fsync_duration_seconds_bucket{le=\"0.001\"} ",
    "etcd_disk_wal_fsync_duration_seconds_count ",
    "etcd_disk_backend_commit_duration_seconds_sum ",
    "etcd_mvcc_db_total_size_in_bytes ",
    "etcd_mvcc_db_total_size_in_use_in_bytes ",
    "etcd_mvcc_put_total 1",
    "etcd_debugging_mvcc_keys_total 1",
    "etcd_debugging_mvcc_current_revision 2",
    "etcd_server_feature_enabled{name=\"",
    "grpc_server_started_total{grpc_method=\"Put\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"} 1",
    "grpc_server_handled_total{grpc_code=\"OK\",grpc_method=\"Put\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"} 1",
    "process_resident_memory_bytes ",
    "process_open_fds ",
    "process_cpu_seconds_total ",
    "os_fd_limit ",
];

#[tokio::test]
async fn the_metrics_that_dashboards_read_are_there() {
    let server = Server::start();
    server.client().put(put("a", "1")).await.unwrap();
    let address = server.client_address();
    // The version is decided a moment after the start, and gauges are written behind the answer.
    let mut missing = Vec::new();
    let start = std::time::Instant::now();
    while start.elapsed() < Duration::from_secs(10) {
        let answer = get(&address, "/metrics");
        assert_eq!(answer.status, 200);
        let kind = answer.header("content-type").unwrap_or_default();
        assert!(kind.starts_with("text/plain; version=0.0.4"), "{kind}");
        let text = answer.text();
        let lines: Vec<&str> = text.lines().collect();
        missing = METRICS.iter().filter(|m| !lines.iter().any(|l| l.starts_with(**m))).collect();
        if missing.is_empty() {
            return;
        }
    }
    panic!("missing: {missing:#?}");
}

#[test]
fn the_peer_port_shows_the_members() {
    let server = Server::start();
    let answer = get(&server.peer_address(), "/members");
    assert_eq!(answer.status, 200);
    let cluster = answer.header("x-etcd-cluster-id").expect("X-Etcd-Cluster-ID").to_owned();
    assert!(u64::from_str_radix(&cluster, 16).is_ok_and(|id| id != 0), "{cluster}");
    let members = answer.json();
    let member = &members[0];
    assert!(member["id"].is_u64(), "{members}");
    assert_eq!(member["name"], "n1");
    assert_eq!(member["peerURLs"][0], server.peer_port.url());
    assert_eq!(member["clientURLs"][0], server.client_url());
}

#[test]
fn the_peer_port_answers_probes() {
    let server = Server::start();
    let answer = get(&server.peer_address(), "/raft/probing");
    assert_eq!(answer.status, 200);
    assert!(answer.json()["OK"].as_bool().unwrap_or_default(), "{}", answer.text());
}
