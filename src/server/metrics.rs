//! Numbers for operators, in Prometheus' text format under etcd's names, with its help and its buckets.
//!
//! What etcd shows and this page does not: `go_*`, because there is no Go runtime; and what can only be said of bbolt is
//! there and stays at 0: rebalancing, spilling. So do the times of etcd's loop that sends to watchers: here a turn
//! does that, for all of them at once. Also at 0, as in etcd's own server, are the proxy's numbers and those
//! of the store of API version 2.

mod disk;
mod grpc;
mod health;
mod histogram;
mod member;
mod network;
mod process;
mod text;
mod turns;

pub use disk::DiskMetrics;
pub use grpc::{GrpcMetrics, Started, StreamFailure};
pub use health::HealthMetrics;
pub use network::NetworkMetrics;
pub use turns::{Asked, TurnMetrics};

use crate::core::Core;
use histogram::Histogram;
use text::Page;

/// The whole page.
pub fn page(core: &Core) -> String {
    let mut page = Page::default();
    let id = core.with_node(|node| {
        member::write(&mut page, node);
        format!("{:x}", node.id())
    });
    core.turn_metrics.write(&mut page);
    core.disk_metrics.write(&mut page);
    core.grpc_metrics.borrow().write(&mut page);
    core.transport.metrics.write(&mut page, &id);
    core.health_metrics.write(&mut page);
    process::write(&mut page);
    page.gauge(
        "etcd_debugging_mvcc_pending_events_total",
        "Total number of pending events to be sent.",
        core.watch_responses_queued() as f64,
    );
    page.gauge(
        "etcd_disk_defrag_inflight",
        "Whether or not defrag is active on the member. 1 means active, 0 means not.",
        // (It has nothing left to do, and is over at once.)
        0.0,
    );
    let scrapes = core.scrapes.replace(core.scrapes.get() + 1);
    let mut family = page.counters(
        "promhttp_metric_handler_requests_total",
        "Total number of scrapes by HTTP status code.",
    );
    for (code, count) in [("200", scrapes), ("500", 0), ("503", 0)] {
        family.sample(&[("code", code)], count as f64);
    }
    drop(family);
    page.gauge(
        "promhttp_metric_handler_requests_in_flight",
        "Current number of scrapes being served.",
        1.0,
    );
    write_still(&mut page);
    page.finish()
}

/// What never moves: see the top of this file.
fn write_still(page: &mut Page) {
    let empty = Histogram::disk();
    for (name, help) in [
        (
            "etcd_debugging_disk_backend_commit_rebalance_duration_seconds",
            "The latency distributions of commit.rebalance called by bboltdb backend.",
        ),
        (
            "etcd_debugging_disk_backend_commit_spill_duration_seconds",
            "The latency distributions of commit.spill called by bboltdb backend.",
        ),
        (
            "etcd_debugging_snap_save_marshalling_duration_seconds",
            "The marshalling cost distributions of save called by snapshot.",
        ),
        (
            "etcd_debugging_server_watch_send_loop_watch_stream_duration_seconds",
            "The total duration in seconds of running through the send loop watch stream response \
             all events.",
        ),
        (
            "etcd_debugging_server_watch_send_loop_watch_stream_duration_per_event_seconds",
            "The average duration in seconds of running through the send loop watch stream \
             response, per event.",
        ),
        (
            "etcd_debugging_server_watch_send_loop_control_stream_duration_seconds",
            "The total duration in seconds of running through the send loop control stream \
             response.",
        ),
        (
            "etcd_debugging_server_watch_send_loop_progress_duration_seconds",
            "The total duration in seconds of running through the progress loop control stream \
             response.",
        ),
    ] {
        page.histogram(name, help, &empty);
    }
    for (name, help) in [
        ("etcd_grpc_proxy_cache_hits_total", "Total number of cache hits"),
        ("etcd_grpc_proxy_cache_keys_total", "Total number of keys/ranges cached"),
        ("etcd_grpc_proxy_cache_misses_total", "Total number of cache misses"),
        (
            "etcd_grpc_proxy_watchers_coalescing_total",
            "Total number of current watchers coalescing",
        ),
        ("etcd_debugging_store_watchers", "Count of currently active watchers."),
    ] {
        page.gauge(name, help, 0.0);
    }
    for (name, help) in [
        ("etcd_grpc_proxy_events_coalescing_total", "Total number of events coalescing"),
        ("etcd_debugging_store_expires_total", "Total number of expired keys."),
        (
            "etcd_debugging_store_watch_requests_total",
            "Total number of incoming watch requests (new or reestablished).",
        ),
    ] {
        page.counter(name, help, 0);
    }
}
