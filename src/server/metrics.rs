//! Numbers for operators, in Prometheus' text format under etcd's names.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use norn_node::{Node, Reader};

/// Buckets from 1 ms, doubling, 14 of them: what etcd uses for its disk.
const DISK_BUCKETS: usize = 14;

/// Durations in exponential buckets.
#[derive(Debug)]
pub struct Histogram {
    start_us: u64,
    buckets: Vec<AtomicU64>,
    sum_us: AtomicU64,
    count: AtomicU64,
}

impl Histogram {
    pub fn new(start_us: u64, buckets: usize) -> Histogram {
        Histogram {
            start_us,
            buckets: (0..buckets).map(|_| AtomicU64::new(0)).collect(),
            sum_us: AtomicU64::new(0),
            count: AtomicU64::new(0),
        }
    }

    pub fn observe(&self, duration: Duration) {
        let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.sum_us.fetch_add(us, Ordering::Relaxed);
        self.count.fetch_add(1, Ordering::Relaxed);
        let mut bound = self.start_us;
        for bucket in &self.buckets {
            if us <= bound {
                bucket.fetch_add(1, Ordering::Relaxed);
                return;
            }
            bound *= 2;
        }
    }

    fn write(&self, out: &mut String, name: &str, help: &str) {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} histogram");
        let (mut bound, mut below) = (self.start_us, 0);
        for bucket in &self.buckets {
            below += bucket.load(Ordering::Relaxed);
            let _ = writeln!(out, "{name}_bucket{{le=\"{}\"}} {below}", bound as f64 / 1e6);
            bound *= 2;
        }
        let count = self.count.load(Ordering::Relaxed);
        let sum = self.sum_us.load(Ordering::Relaxed) as f64 / 1e6;
        let _ = writeln!(
            out,
            "{name}_bucket{{le=\"+Inf\"}} {count}\n{name}_sum {sum}\n{name}_count {count}"
        );
    }
}

/// What the disk's threads measure.
#[derive(Debug)]
pub struct DiskMetrics {
    log_sync: Histogram,
    log_write: Histogram,
    bulk_sync: Histogram,
    written_bytes: AtomicU64,
}

impl Default for DiskMetrics {
    fn default() -> DiskMetrics {
        DiskMetrics {
            log_sync: Histogram::new(1000, DISK_BUCKETS),
            log_write: Histogram::new(1000, DISK_BUCKETS),
            bulk_sync: Histogram::new(1000, DISK_BUCKETS),
            written_bytes: AtomicU64::new(0),
        }
    }
}

impl DiskMetrics {
    pub fn wrote(&self, duration: Duration, bytes: usize) {
        self.log_write.observe(duration);
        self.written_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub fn synced(&self, duration: Duration, file: &str) {
        let is_log = file.ends_with(".wal");
        if is_log { &self.log_sync } else { &self.bulk_sync }.observe(duration);
    }
}

/// What the connections count, by route. One thread: no atomics.
#[derive(Clone, Debug)]
pub struct GrpcMetrics {
    started: Vec<u64>,
    handled: Vec<[u64; CODES.len()]>,
    pub sent_bytes: u64,
    pub received_bytes: u64,
}

impl Default for GrpcMetrics {
    fn default() -> GrpcMetrics {
        let routes = crate::grpc::route_labels().len();
        GrpcMetrics {
            started: vec![0; routes],
            handled: vec![[0; CODES.len()]; routes],
            sent_bytes: 0,
            received_bytes: 0,
        }
    }
}

impl GrpcMetrics {
    pub fn started(&mut self, route: usize) {
        self.started[route] += 1;
    }

    pub fn handled(&mut self, route: usize, code: u8) {
        self.handled[route][usize::from(code).min(CODES.len() - 1)] += 1;
    }
}

const CODES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

fn counter(out: &mut String, name: &str, help: &str, value: u64) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} counter\n{name} {value}");
}

fn gauge(out: &mut String, name: &str, help: &str, value: i64) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}");
}

fn labelled(out: &mut String, name: &str, help: &str, label: &str, value: &str) {
    let _ =
        writeln!(out, "# HELP {name} {help}\n# TYPE {name} gauge\n{name}{{{label}=\"{value}\"}} 1");
}

/// The whole page.
pub fn page<R: Reader>(node: &Node<R>, disk: &DiskMetrics, grpc: &GrpcMetrics) -> String {
    let mut out = String::with_capacity(16 << 10);
    let o = &mut out;
    let c = node.counters();
    let signed = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    gauge(o, "etcd_server_has_leader", "Whether or not a leader exists.", node.has_leader().into());
    gauge(o, "etcd_server_is_leader", "Whether this member leads.", node.is_leader().into());
    gauge(
        o,
        "etcd_server_is_learner",
        "Whether this member is a learner.",
        node.is_learner().into(),
    );
    counter(
        o,
        "etcd_server_leader_changes_seen_total",
        "Changes of leader seen.",
        c.leader_changes,
    );
    gauge(
        o,
        "etcd_server_proposals_committed_total",
        "Committed index.",
        signed(node.raft().committed().0),
    );
    gauge(o, "etcd_server_proposals_applied_total", "Applied index.", signed(node.applied()));
    gauge(
        o,
        "etcd_server_proposals_pending",
        "Proposals without an answer.",
        signed(node.proposals_pending() as u64),
    );
    counter(o, "etcd_server_proposals_failed_total", "Proposals that failed.", c.proposals_failed);
    counter(
        o,
        "etcd_server_slow_read_indexes_total",
        "Read indexes that took over a second.",
        c.read_indexes_slow,
    );
    counter(
        o,
        "etcd_server_read_indexes_failed_total",
        "Read indexes that failed.",
        c.read_indexes_failed,
    );
    gauge(
        o,
        "etcd_server_quota_backend_bytes",
        "Quota of the database.",
        node.config().quota().map_or(-1, signed),
    );
    labelled(
        o,
        "etcd_server_version",
        "Version of this server.",
        "server_version",
        norn_node::SERVER_VERSION,
    );
    labelled(o, "etcd_server_id", "Id of this member.", "server_id", &format!("{:x}", node.id()));
    if let Some(version) = node.cluster_version() {
        let short = version.rsplit_once('.').map_or(version, |(short, _)| short);
        labelled(o, "etcd_cluster_version", "Version of the cluster.", "cluster_version", short);
    }
    let (db_bytes, used_bytes) = node.db_bytes();
    gauge(
        o,
        "etcd_mvcc_db_total_size_in_bytes",
        "Bytes of the database on disk.",
        signed(db_bytes),
    );
    gauge(
        o,
        "etcd_mvcc_db_total_size_in_use_in_bytes",
        "Bytes of the database in use.",
        signed(used_bytes),
    );
    counter(o, "etcd_mvcc_range_total", "Ranges served.", c.ranges);
    counter(o, "etcd_mvcc_put_total", "Puts applied.", c.puts);
    counter(o, "etcd_mvcc_delete_total", "Deletes applied.", c.deletes);
    counter(o, "etcd_mvcc_txn_total", "Transactions applied.", c.txns);
    let store = node.store();
    gauge(
        o,
        "etcd_debugging_mvcc_keys_total",
        "Live keys.",
        signed(store.index().live_count() as u64),
    );
    gauge(o, "etcd_debugging_mvcc_current_revision", "Current revision.", store.current());
    gauge(o, "etcd_debugging_mvcc_compact_revision", "Compacted revision.", store.compacted());
    let watchers = node.watchers();
    gauge(
        o,
        "etcd_debugging_mvcc_watch_stream_total",
        "Watch streams.",
        signed(watchers.stream_count() as u64),
    );
    gauge(
        o,
        "etcd_debugging_mvcc_watcher_total",
        "Watchers.",
        signed(watchers.watcher_count() as u64),
    );
    gauge(
        o,
        "etcd_debugging_mvcc_slow_watcher_total",
        "Watchers reading history.",
        signed(watchers.catching_up_count() as u64),
    );
    counter(o, "etcd_debugging_mvcc_events_total", "Events sent.", watchers.event_count());
    counter(o, "etcd_debugging_lease_granted_total", "Leases granted.", c.leases_granted);
    counter(o, "etcd_debugging_lease_revoked_total", "Leases revoked.", c.leases_revoked);
    counter(o, "etcd_debugging_lease_renewed_total", "Leases renewed.", c.leases_renewed);
    counter(
        o,
        "etcd_debugging_server_lease_expired_total",
        "Leases that ran out.",
        c.leases_expired,
    );
    disk.log_sync.write(
        o,
        "etcd_disk_wal_fsync_duration_seconds",
        "Duration of syncs of the write-ahead log.",
    );
    disk.log_write.write(o, "etcd_disk_wal_write_duration_seconds", "Duration of writes.");
    disk.bulk_sync.write(
        o,
        "etcd_disk_backend_commit_duration_seconds",
        "Duration of syncs of the revision log.",
    );
    gauge(
        o,
        "etcd_disk_wal_write_bytes_total",
        "Bytes written.",
        signed(disk.written_bytes.load(Ordering::Relaxed)),
    );
    counter(
        o,
        "etcd_network_client_grpc_sent_bytes_total",
        "Bytes sent to clients.",
        grpc.sent_bytes,
    );
    counter(
        o,
        "etcd_network_client_grpc_received_bytes_total",
        "Bytes received from clients.",
        grpc.received_bytes,
    );
    grpc_page(o, grpc);
    feature_page(o);
    process_page(o);
    out
}

/// Every method with every code is there from the start, at 0.
fn grpc_page(o: &mut String, grpc: &GrpcMetrics) {
    let (started, handled) = ("grpc_server_started_total", "grpc_server_handled_total");
    let _ = writeln!(o, "# HELP {started} Calls started.\n# TYPE {started} counter");
    for ((service, method, kind), count) in crate::grpc::route_labels().zip(&grpc.started) {
        let _ = writeln!(
            o,
            "{started}{{grpc_method=\"{method}\",grpc_service=\"{service}\",grpc_type=\"{kind}\"}} {count}"
        );
    }
    let _ = writeln!(o, "# HELP {handled} Calls ended.\n# TYPE {handled} counter");
    for ((service, method, kind), counts) in crate::grpc::route_labels().zip(&grpc.handled) {
        for (code, count) in CODES.iter().zip(counts) {
            let _ = writeln!(
                o,
                "{handled}{{grpc_code=\"{code}\",grpc_method=\"{method}\",grpc_service=\"{service}\",grpc_type=\"{kind}\"}} {count}"
            );
        }
    }
}

fn feature_page(o: &mut String) {
    let name = "etcd_server_feature_enabled";
    let _ = writeln!(o, "# HELP {name} Whether a feature is on.\n# TYPE {name} gauge");
    for gate in crate::flags::GATES {
        let (stage, on) = match *gate {
            "FastLeaseKeepAlive" => ("BETA", 1),
            _ => ("ALPHA", 0),
        };
        let _ = writeln!(o, "{name}{{name=\"{gate}\",stage=\"{stage}\"}} {on}");
    }
}

fn process_page(o: &mut String) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kilobytes = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key))?;
        line.trim().trim_end_matches("kB").trim().parse::<i64>().ok()
    };
    if let Some(kb) = kilobytes("VmRSS:") {
        gauge(o, "process_resident_memory_bytes", "Resident memory.", kb * 1024);
    }
    if let Some(kb) = kilobytes("VmSize:") {
        gauge(o, "process_virtual_memory_bytes", "Virtual memory.", kb * 1024);
    }
    let fds = std::fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count());
    gauge(o, "process_open_fds", "Open file descriptors.", fds as i64);
    gauge(o, "os_fd_used", "Open file descriptors.", fds as i64);
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let limit = limit.and_then(|n| i64::try_from(n).ok()).unwrap_or(i64::MAX);
    gauge(o, "os_fd_limit", "File descriptors this process may open.", limit);
    gauge(o, "process_max_fds", "File descriptors this process may open.", limit);
    // User and system time, in hundredths of a second, are fields 14 and 15; the name before may hold blanks.
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks =
        after_name.split_whitespace().skip(11).take(2).filter_map(|n| n.parse::<u64>().ok());
    let seconds = ticks.sum::<u64>() as f64 / 100.0;
    let name = "process_cpu_seconds_total";
    let _ =
        writeln!(o, "# HELP {name} User and system time.\n# TYPE {name} counter\n{name} {seconds}");
}
