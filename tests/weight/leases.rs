//! Leases that run out together, and puts meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use norn_tests::pb::PutRequest;
use norn_tests::req::put;
use norn_tests::{Server, http};

/// Long enough to grant a million of them before the first runs out.
const TTL_SECONDS: i64 = 120;
const GRANTERS: usize = 64;
/// Every so many-th lease has a key.
const KEY_EVERY: usize = 10;
const PUT_LIMIT: Duration = Duration::from_millis(100);

pub async fn crowd(server: &Server, count: usize) -> Option<String> {
    let client = server.client();
    let next = Arc::new(AtomicUsize::new(0));
    let start = Instant::now();
    let granters: Vec<_> = (0..GRANTERS)
        .map(|_| {
            let (client, next) = (client.clone(), Arc::clone(&next));
            tokio::spawn(async move {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= count {
                        return;
                    }
                    let lease = client.lease_grant(0, TTL_SECONDS).await.expect("a lease").id;
                    if n.is_multiple_of(KEY_EVERY) {
                        let key = format!("leased-{n}");
                        let request = PutRequest { lease, ..put(&key, "value") };
                        client.put(request).await.expect("a put");
                    }
                }
            })
        })
        .collect();
    for granter in granters {
        granter.await.expect("a granter does not panic");
    }
    println!(
        "norn-weight: {count} leases granted in {:?}, resident {} KB",
        start.elapsed(),
        server.rss_kib()
    );

    let mut waits: Vec<Duration> = Vec::new();
    let mut looked = Instant::now();
    loop {
        let begun = Instant::now();
        client.put(put("written meanwhile", "value")).await.expect("a put");
        waits.push(begun.elapsed());
        // A thousand puts a second are enough to meet whatever holds them up.
        tokio::time::sleep(Duration::from_millis(1)).await;
        if looked.elapsed() > Duration::from_secs(1) {
            looked = Instant::now();
            if revoked(server) >= count {
                break;
            }
        }
    }
    println!("norn-weight: syncs of the log that took over 64 ms: {}", slow_syncs(server));
    let left = client.leases().await.expect("the leases").leases.len();
    waits.sort();
    let longest = waits.last().copied().unwrap_or_default();
    println!(
        "norn-weight: all of them ended after {:?}; {} puts meanwhile: p50 {:?}, p99 {:?}, longest {longest:?}",
        start.elapsed(),
        waits.len(),
        waits[waits.len() / 2],
        waits[waits.len() * 99 / 100],
    );
    if left != 0 {
        return Some(format!("{left} leases are left"));
    }
    (longest > PUT_LIMIT).then(|| format!("a put waited {longest:?}"))
}

/// Leases that have ended, by the server's own count.
fn revoked(server: &Server) -> usize {
    metric(server, "etcd_debugging_lease_revoked_total ")
}

/// For these no server can be blamed: a put waits for its sync.
fn slow_syncs(server: &Server) -> usize {
    let quick = "etcd_disk_wal_fsync_duration_seconds_bucket{le=\"0.064\"} ";
    metric(server, "etcd_disk_wal_fsync_duration_seconds_count ") - metric(server, quick)
}

fn metric(server: &Server, name: &str) -> usize {
    let page = http::get(&server.client_address(), "/metrics").text();
    let value = page.lines().find_map(|line| line.strip_prefix(name)).expect("the metric");
    value.parse::<f64>().expect("a number") as usize
}
