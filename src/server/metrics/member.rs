//! What the node counts and holds.

use norn_node::{Counters, LEASE_TTL_BOUNDS, Node, Reader};
use norn_proto::etcdserverpb::AlarmType;

use super::histogram::Histogram;
use super::text::Page;

/// In etcd the gates at their defaults of this version: the stable ones are on.
const ON: &[&str] = &["FastLeaseKeepAlive", "TxnModeWriteWithSharedBuffer"];

pub(super) fn write<R: Reader>(page: &mut Page, node: &Node<R>) {
    let id = format!("{:x}", node.id());
    write_raft(page, node);
    write_identity(page, node, &id);
    write_store(page, node);
    write_leases(page, node.counters());
}

fn write_raft<R: Reader>(page: &mut Page, node: &Node<R>) {
    let c = node.counters();
    page.gauge(
        "etcd_server_has_leader",
        "Whether or not a leader exists. 1 is existence, 0 is not.",
        node.has_leader().into(),
    );
    page.gauge(
        "etcd_server_is_leader",
        "Whether or not this member is a leader. 1 if is, 0 otherwise.",
        node.is_leader().into(),
    );
    page.gauge(
        "etcd_server_is_learner",
        "Whether or not this member is a learner. 1 if is, 0 otherwise.",
        node.is_learner().into(),
    );
    page.counter(
        "etcd_server_leader_changes_seen_total",
        "The number of leader changes seen.",
        c.leader_changes,
    );
    page.gauge(
        "etcd_server_proposals_committed_total",
        "The total number of consensus proposals committed.",
        node.raft().committed().0 as f64,
    );
    page.gauge(
        "etcd_server_proposals_applied_total",
        "The total number of consensus proposals applied.",
        node.applied() as f64,
    );
    page.gauge(
        "etcd_server_proposals_pending",
        "The current number of pending proposals to commit.",
        node.proposals_pending() as f64,
    );
    page.counter(
        "etcd_server_proposals_failed_total",
        "The total number of failed proposals seen.",
        c.proposals_failed,
    );
    page.counter(
        "etcd_server_heartbeat_send_failures_total",
        "The total number of leader heartbeat send failures (likely overloaded from slow disk).",
        c.heartbeats_late,
    );
    page.counter(
        "etcd_server_slow_read_indexes_total",
        "The total number of pending read indexes not in sync with leader's or timed out read \
         index requests.",
        c.read_indexes_slow,
    );
    page.counter(
        "etcd_server_read_indexes_failed_total",
        "The total number of failed read indexes seen.",
        c.read_indexes_failed,
    );
    page.gauge(
        "etcd_server_snapshot_apply_in_progress_total",
        "1 if the server is applying the incoming snapshot. 0 if none.",
        node.is_taking_snapshot().into(),
    );
}

fn write_identity<R: Reader>(page: &mut Page, node: &Node<R>, id: &str) {
    page.gauges(
        "etcd_server_version",
        "Which version is running. 1 for 'server_version' label with current version.",
    )
    .sample(&[("server_version", norn_node::SERVER_VERSION)], 1.0);
    // (Dashboards join with it; there is no Go here.)
    page.gauges(
        "etcd_server_go_version",
        "Which Go version server is running with. 1 for 'server_go_version' label with current \
         version.",
    )
    .sample(&[("server_go_version", "none")], 1.0);
    page.gauges(
        "etcd_server_id",
        "Server or member ID in hexadecimal format. 1 for 'server_id' label with current ID.",
    )
    .sample(&[("server_id", id)], 1.0);
    if let Some(version) = node.cluster_version() {
        page.gauges(
            "etcd_cluster_version",
            "Which version is running. 1 for 'cluster_version' label with current cluster version",
        )
        .sample(&[("cluster_version", norn_node::short_version(version))], 1.0);
    }
    page.gauge(
        "etcd_server_quota_backend_bytes",
        "Current backend storage quota size in bytes.",
        node.config().quota().map_or(-1.0, |bytes| bytes as f64),
    );
    let mut gates: Vec<&str> = crate::flags::GATES.to_vec();
    gates.sort_unstable();
    let mut family = page.gauges(
        "etcd_server_feature_enabled",
        "Whether or not a feature is enabled. 1 is enabled, 0 is not.",
    );
    for gate in gates {
        let is_on =
            ON.contains(&gate) || (gate == "LeaseCheckpoint" && node.config().lease_checkpoint);
        let is_beta = ON.contains(&gate) || gate == "AllBeta";
        let stage = if is_beta { "BETA" } else { "ALPHA" };
        family.sample(&[("name", gate), ("stage", stage)], is_on.into());
    }
    drop(family);
    let mut family = page.gauges("etcd_network_known_peers", "The current number of known peers.");
    for member in node.members().iter() {
        family.sample(&[("Local", id), ("Remote", &format!("{:x}", member.id))], 1.0);
    }
    drop(family);
    let mut family = page.gauges(
        "etcd_debugging_server_alarms",
        "Alarms for every member in cluster. 1 for 'server_id' label with current ID. 2 for \
         'alarm_type' label with type of this alarm",
    );
    for ((member, kind), count) in node.alarm_counts() {
        let kind = AlarmType::try_from(kind).unwrap_or(AlarmType::None).as_str_name();
        family.sample(&[("alarm_type", kind), ("server_id", &format!("{member:x}"))], count as f64);
    }
    drop(family);
    page.gauge("etcd_debugging_auth_revision", "The current revision of auth store.", 1.0);
}

fn write_store<R: Reader>(page: &mut Page, node: &Node<R>) {
    let c = node.counters();
    let (db_bytes, used_bytes) = node.db_bytes();
    let (store, watchers) = (node.store(), node.watchers());
    let counters = [
        ("etcd_mvcc_range_total", "Total number of ranges seen by this member.", c.ranges),
        ("etcd_mvcc_put_total", "Total number of puts seen by this member.", c.puts),
        ("etcd_mvcc_delete_total", "Total number of deletes seen by this member.", c.deletes),
        ("etcd_mvcc_txn_total", "Total number of txns seen by this member.", c.txns),
        (
            "etcd_debugging_mvcc_events_total",
            "Total number of events sent by this member.",
            watchers.event_count(),
        ),
        (
            "etcd_debugging_mvcc_db_compaction_keys_total",
            "Total number of db keys compacted.",
            c.keys_compacted,
        ),
    ];
    for (name, help, value) in counters {
        page.counter(name, help, value);
    }
    let gauges = [
        (
            "etcd_mvcc_db_total_size_in_bytes",
            "Total size of the underlying database physically allocated in bytes.",
            db_bytes as f64,
        ),
        (
            "etcd_mvcc_db_total_size_in_use_in_bytes",
            "Total size of the underlying database logically in use in bytes.",
            used_bytes as f64,
        ),
        (
            "etcd_mvcc_db_open_read_transactions",
            "The number of currently open read transactions",
            node.exports() as f64,
        ),
        (
            "etcd_debugging_mvcc_total_put_size_in_bytes",
            "The total size of put kv pairs seen by this member.",
            c.put_bytes as f64,
        ),
        (
            "etcd_debugging_mvcc_keys_total",
            "Total number of keys.",
            store.index().live_count() as f64,
        ),
        (
            "etcd_debugging_mvcc_current_revision",
            "The current revision of store.",
            store.current() as f64,
        ),
        (
            "etcd_debugging_mvcc_compact_revision",
            "The revision of the last compaction in store.",
            store.compacted() as f64,
        ),
        (
            "etcd_debugging_mvcc_watch_stream_total",
            "Total number of watch streams.",
            watchers.stream_count() as f64,
        ),
        (
            "etcd_debugging_mvcc_watcher_total",
            "Total number of watchers.",
            watchers.watcher_count() as f64,
        ),
        (
            "etcd_debugging_mvcc_slow_watcher_total",
            "Total number of unsynced slow watchers.",
            watchers.catching_up_count() as f64,
        ),
    ];
    for (name, help, value) in gauges {
        page.gauge(name, help, value);
    }
}

fn write_leases(page: &mut Page, c: &Counters) {
    let counters = [
        (
            "etcd_debugging_lease_granted_total",
            "The total number of granted leases.",
            c.leases_granted,
        ),
        (
            "etcd_debugging_lease_revoked_total",
            "The total number of revoked leases.",
            c.leases_revoked,
        ),
        (
            "etcd_debugging_lease_renewed_total",
            "The number of renewed leases seen by the leader.",
            c.leases_renewed,
        ),
        (
            "etcd_debugging_server_lease_expired_total",
            "The total number of expired leases.",
            c.leases_expired,
        ),
    ];
    for (name, help, value) in counters {
        page.counter(name, help, value);
    }
    let ttls = Histogram::exponential(1.0, 2.0, LEASE_TTL_BOUNDS);
    ttls.fill(&c.lease_ttls, c.lease_ttl_seconds);
    page.histogram("etcd_debugging_lease_ttl_total", "Bucketed histogram of lease TTLs.", &ttls);
}
