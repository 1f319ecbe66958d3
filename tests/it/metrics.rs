//! The page for Prometheus: every name of etcd's, with its type, labels and buckets; and what dashboards read moves.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use norn_tests::http::get;
use norn_tests::poll::{until, until_async};
use norn_tests::req;
use norn_tests::{Cluster, Server, Setup};

/// Of one member of etcd 3.7.1 after three puts and a get: name, type, names of labels, bounds of buckets. Without what Go's
/// runtime says of itself.
const FAMILIES: &str = include_str!("metrics.txt");

/// One scrape.
#[derive(Debug, Default)]
struct Page {
    types: BTreeMap<String, String>,
    labels: BTreeMap<String, BTreeSet<String>>,
    bounds: BTreeMap<String, Vec<String>>,
    /// By name and labels as they stand there.
    samples: BTreeMap<String, f64>,
}

impl Page {
    fn of(address: &str) -> Page {
        let answer = get(address, "/metrics");
        assert_eq!(answer.status, 200);
        let mut page = Page::default();
        for line in answer.text().lines() {
            if let Some(typed) = line.strip_prefix("# TYPE ") {
                let (name, kind) = typed.split_once(' ').expect("a name and a type");
                page.types.insert(name.to_owned(), kind.to_owned());
            } else if !line.starts_with('#') {
                page.sample(line);
            }
        }
        page
    }

    fn sample(&mut self, line: &str) {
        let (name, value) = line.rsplit_once(' ').expect("a name and a value");
        let value = value.parse().unwrap_or_else(|_| panic!("no number: {line}"));
        assert!(self.samples.insert(name.to_owned(), value).is_none(), "twice: {line}");
        let (base, labels) = name.split_once('{').unwrap_or((name, ""));
        let family = ["_bucket", "_sum", "_count"]
            .iter()
            .filter_map(|suffix| base.strip_suffix(suffix))
            .find(|family| self.types.contains_key(*family))
            .unwrap_or(base)
            .to_owned();
        assert!(self.types.contains_key(&family), "without a type: {line}");
        for pair in labels.trim_end_matches('}').split("\",").filter(|pair| !pair.is_empty()) {
            let (label, value) = pair.split_once("=\"").expect("a label and its value");
            if label == "le" {
                let bounds = self.bounds.entry(family.clone()).or_default();
                let bound = value.trim_end_matches('"').to_owned();
                if !bounds.contains(&bound) {
                    bounds.push(bound);
                }
            } else {
                self.labels.entry(family.clone()).or_default().insert(label.to_owned());
            }
        }
    }

    /// All samples of a name whose labels have these words.
    fn sum(&self, name: &str, words: &[&str]) -> f64 {
        let is_meant = |key: &str| {
            let base = key.split_once('{').map_or(key, |(base, _)| base);
            base == name && words.iter().all(|word| key.contains(word))
        };
        self.samples.iter().filter(|(key, _)| is_meant(key)).map(|(_, value)| value).sum()
    }
}

/// As the table has it.
fn described(page: &Page, name: &str) -> String {
    let or_none = |list: Vec<String>| match list.is_empty() {
        true => "-".to_owned(),
        false => list.join(","),
    };
    let labels = page.labels.get(name).into_iter().flatten().cloned().collect();
    let bounds = page.bounds.get(name).cloned().unwrap_or_default();
    format!("{name} {} {} {}", page.types[name], or_none(labels), or_none(bounds))
}

#[tokio::test]
async fn every_name_is_there_as_etcd_has_it_and_no_other() {
    let server = Server::start();
    let client = server.client();
    for key in ["a1", "a2", "a3"] {
        client.put(req::put(key, "b")).await.unwrap();
    }
    client.range(req::get("a1")).await.unwrap();
    let expected: Vec<&str> = FAMILIES.lines().collect();
    let address = server.client_address();
    // (The cluster's version is decided a moment after the start.)
    let page = until("the cluster version", Duration::from_secs(10), || {
        let page = Page::of(&address);
        page.types.contains_key("etcd_cluster_version").then_some(page)
    });
    let own = |name: &&String| !name.starts_with("go_");
    let found: Vec<String> = page.types.keys().filter(own).map(|n| described(&page, n)).collect();
    let missing: Vec<_> =
        expected.iter().filter(|line| !found.iter().any(|f| f == *line)).collect();
    let surplus: Vec<_> = found.iter().filter(|line| !expected.contains(&line.as_str())).collect();
    assert!(
        missing.is_empty() && surplus.is_empty(),
        "{missing:#?} are not there, {surplus:#?} are"
    );
    for (sample, value) in [
        ("etcd_server_has_leader", 1.0),
        ("etcd_server_is_leader", 1.0),
        ("etcd_server_leader_changes_seen_total", 1.0),
        ("etcd_mvcc_put_total", 3.0),
        ("etcd_mvcc_txn_total", 0.0),
        ("etcd_debugging_mvcc_total_put_size_in_bytes", 9.0),
        ("etcd_debugging_mvcc_compact_revision", -1.0),
        ("etcd_server_quota_backend_bytes", 2_147_483_648.0),
        (
            "etcd_server_apply_duration_seconds_count{op=\"Put\",success=\"true\",version=\"v3\"}",
            3.0,
        ),
        ("etcd_server_request_duration_seconds_count{success=\"true\",type=\"Put\"}", 3.0),
        ("etcd_server_request_duration_seconds_count{success=\"true\",type=\"Range\"}", 1.0),
        ("etcd_server_client_requests_total{client_api_version=\"unknown\",type=\"unary\"}", 4.0),
        ("etcd_server_version{server_version=\"3.7.1\"}", 1.0),
        ("etcd_server_feature_enabled{name=\"FastLeaseKeepAlive\",stage=\"BETA\"}", 1.0),
    ] {
        assert_eq!(page.samples.get(sample), Some(&value), "{sample}");
    }
}

#[tokio::test]
async fn what_the_dashboard_shows_of_one_member_moves() {
    let server = Server::start_with(Setup::quick().flag("--metrics=extensive"));
    let client = server.client();
    let address = server.client_address();
    let before = Page::of(&address);
    let mut watch = client.watch(req::watch("a")).await;
    client.put(req::put("a", "1")).await.unwrap();
    watch.events(1).await;
    client.lease_grant(7, 60).await.unwrap();
    client.keep_alive(7).await.unwrap();
    client.range(req::get("a")).await.unwrap();
    let read = req::op_get(req::get("a"));
    client.txn(req::txn(vec![], vec![read.clone(), read], vec![])).await.unwrap();
    let delete = req::op_del(req::del("a"));
    let put = req::op_put(req::put("b", "1"));
    client.txn(req::txn(vec![], vec![put, delete], vec![])).await.unwrap();
    client.compact(3).await.unwrap();
    client.hash_kv(0).await.unwrap();
    client.snapshot().await.unwrap();
    client.range(req::get("")).await.unwrap_err();
    let moved = [
        "etcd_server_proposals_committed_total",
        "etcd_server_proposals_applied_total",
        "etcd_disk_wal_fsync_duration_seconds_count",
        "etcd_disk_wal_fsync_duration_seconds_sum",
        "etcd_disk_wal_write_bytes_total",
        "etcd_disk_wal_write_duration_seconds_count",
        "etcd_disk_backend_snapshot_duration_seconds_count",
        "etcd_mvcc_hash_rev_duration_seconds_count",
        "etcd_network_client_grpc_received_bytes_total",
        "etcd_network_client_grpc_sent_bytes_total",
        "etcd_debugging_mvcc_db_compaction_keys_total",
        "etcd_debugging_mvcc_db_compaction_total_duration_milliseconds_count",
        "etcd_debugging_lease_granted_total",
        "etcd_debugging_lease_renewed_total",
        "etcd_debugging_lease_ttl_total_sum",
        "etcd_debugging_mvcc_events_total",
        "etcd_mvcc_txn_total",
        "etcd_mvcc_delete_total",
        "etcd_mvcc_range_total",
        "etcd_debugging_mvcc_watcher_total",
        "etcd_debugging_mvcc_db_compaction_last",
        "etcd_debugging_mvcc_compact_revision",
    ];
    let page = until("what moves", Duration::from_secs(10), || {
        let page = Page::of(&address);
        moved.iter().all(|name| page.sum(name, &[]) > before.sum(name, &[])).then_some(page)
    });
    // Active streams are those begun less those ended.
    let count =
        |page: &Page, what: &str, words: &[&str]| page.sum(&format!("grpc_server_{what}"), words);
    let watches = ["etcdserverpb.Watch", "bidi_stream"];
    let active = |page: &Page| {
        count(page, "started_total", &watches) - count(page, "handled_total", &watches)
    };
    assert_eq!(active(&page), 1.0);
    assert_eq!(count(&page, "msg_received_total", &watches), 1.0);
    assert_eq!(count(&page, "msg_sent_total", &watches), 3.0, "created, a put and a deletion");
    let refused = ["\"Range\"", "InvalidArgument"];
    assert_eq!(count(&page, "handled_total", &refused), 1.0);
    let snapshot = ["\"Snapshot\"", "\"OK\""];
    assert_eq!(count(&page, "handled_total", &snapshot), 1.0);
    assert_eq!(count(&page, "handling_seconds_count", &["\"Put\""]), 1.0);
    let kind = |kind: &str| page.sum("etcd_server_request_duration_seconds_count", &[kind]);
    assert_eq!((kind("\"ReadonlyTxn\""), kind("\"Txn\""), kind("\"Compaction\"")), (1.0, 1.0, 1.0));
    drop(watch);
    // (Waits so that the client gets to say it.)
    until_async("the end of the watch", Duration::from_secs(10), async || {
        let page = Page::of(&address);
        let canceled = count(&page, "handled_total", &["\"Watch\"", "Canceled", watches[0]]);
        (active(&page) == 0.0 && canceled == 1.0).then_some(())
    })
    .await;
}

/// Counted up and down, so that a dashboard sees an alarm end, and one that is raised again count twice, as in etcd.
#[tokio::test]
async fn an_alarm_that_was_taken_back_is_shown_as_none() {
    use norn_tests::pb::alarm_request::AlarmAction::{self, Activate, Deactivate, Get};
    use norn_tests::pb::{AlarmRequest, AlarmType};
    let server = Server::start();
    let client = server.client();
    let shown = async |action: AlarmAction, kind: AlarmType| {
        let request = AlarmRequest { action: action.into(), member_id: 4711, alarm: kind.into() };
        client.alarm(request).await.unwrap();
        let page = Page::of(&server.client_address());
        let count = |kind: &str| {
            let labels = format!("{{alarm_type=\"{kind}\",server_id=\"1267\"}}");
            page.samples.get(&format!("etcd_debugging_server_alarms{labels}")).copied()
        };
        (count("NOSPACE"), count("CORRUPT"))
    };
    let (full, corrupt) = (AlarmType::Nospace, AlarmType::Corrupt);
    assert_eq!(shown(Get, full).await, (None, None));
    assert_eq!(shown(Deactivate, full).await, (None, None));
    assert_eq!(shown(Activate, full).await, (Some(1.0), None));
    assert_eq!(shown(Activate, full).await, (Some(2.0), None));
    assert_eq!(shown(Activate, corrupt).await, (Some(2.0), Some(1.0)));
    assert_eq!(shown(Deactivate, corrupt).await, (Some(2.0), Some(0.0)));
    assert_eq!(shown(Deactivate, full).await, (Some(1.0), Some(0.0)));
    assert_eq!(shown(Deactivate, full).await, (Some(1.0), Some(0.0)));
    assert_eq!(shown(Activate, AlarmType::None).await, (Some(1.0), Some(0.0)));
}

#[tokio::test]
async fn what_the_dashboard_shows_of_three_members_moves() {
    let mut cluster = Cluster::start(3);
    let leader = cluster.leader().await;
    let clients = cluster.clients();
    for _ in 0..3 {
        clients[leader].put(req::put("a", "1")).await.unwrap();
    }
    let ids: Vec<String> = member_ids(&clients).await;
    let addresses: Vec<String> = cluster.servers.iter().map(Server::client_address).collect();
    for (at, address) in addresses.iter().enumerate() {
        // (etcd looks at its probes every half a minute.)
        until("traffic, and round trips", Duration::from_secs(60), || {
            let page = Page::of(address);
            // Everybody talks with the leader.
            let is_peer = |other: usize| other != at && (at == leader || other == leader);
            let peers = ids.iter().enumerate().filter(|(other, _)| is_peer(*other));
            let is_live = peers.into_iter().all(|(_, id)| {
                let to = format!("To=\"{id}\"");
                let from = format!("From=\"{id}\"");
                page.sum("etcd_network_peer_sent_bytes_total", &[&to]) > 0.0
                    && page.sum("etcd_network_peer_received_bytes_total", &[&from]) > 0.0
                    && page.sum("etcd_network_peer_round_trip_time_seconds_count", &[&to]) > 0.0
                    && page.sum("etcd_network_active_peers", &[&format!("Remote=\"{id}\"")]) >= 1.0
            });
            let known = page.sum("etcd_network_known_peers", &[]);
            (is_live && known == 3.0).then_some(())
        });
    }
    let bounds = &Page::of(&addresses[0]).bounds["etcd_network_peer_round_trip_time_seconds"];
    assert_eq!((bounds.len(), bounds[0].as_str(), bounds[15].as_str()), (17, "0.0001", "3.2768"));
    let lost = (leader + 1) % 3;
    cluster.servers[lost].kill();
    let remote = format!("Remote=\"{}\"", ids[lost]);
    let to = format!("To=\"{}\"", ids[lost]);
    until_async("what a lost member leaves", Duration::from_secs(30), async || {
        clients[leader].put(req::put("a", "1")).await.unwrap();
        let page = Page::of(&addresses[leader]);
        let is_gone = page.sum("etcd_network_active_peers", &[&remote]) == 0.0
            && page.sum("etcd_network_disconnected_peers_total", &[&remote]) > 0.0
            && page.sum("etcd_network_peer_sent_failures_total", &[&to]) > 0.0;
        is_gone.then_some(())
    })
    .await;
}

/// Ids of the members asked, as the page has them.
async fn member_ids(clients: &[norn_tests::Client]) -> Vec<String> {
    let mut ids = Vec::new();
    for client in clients {
        let header = client.status().await.unwrap().header.unwrap();
        ids.push(format!("{:x}", header.member_id));
    }
    ids
}
