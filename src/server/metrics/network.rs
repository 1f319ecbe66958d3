//! Traffic with other members, by their ids.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;

use super::histogram::Histogram;
use super::text::Page;

/// Members counted: those of the cluster, and some that were. Beyond it nothing is counted of new ones.
const PEERS_MAX: usize = 256;

#[derive(Debug)]
struct Peer {
    sent_bytes: u64,
    received_bytes: u64,
    send_failures: u64,
    receive_failures: u64,
    /// From the question of a probe to its answer.
    round_trip: Histogram,
    /// `None`: never yet.
    is_active: Option<bool>,
    disconnects: u64,
    snapshots_sent: Snapshots,
    snapshots_received: Snapshots,
}

#[derive(Debug)]
struct Snapshots {
    successes: u64,
    failures: u64,
    in_flight: i64,
    took: Histogram,
}

impl Default for Snapshots {
    fn default() -> Snapshots {
        let took = Histogram::exponential(0.1, 2.0, 10);
        Snapshots { successes: 0, failures: 0, in_flight: 0, took }
    }
}

impl Snapshots {
    fn ended(&mut self, took: Duration, ok: bool) {
        self.in_flight -= 1;
        if ok {
            self.successes += 1;
            self.took.observe(took);
        } else {
            self.failures += 1;
        }
    }
}

impl Default for Peer {
    fn default() -> Peer {
        Peer {
            sent_bytes: 0,
            received_bytes: 0,
            send_failures: 0,
            receive_failures: 0,
            round_trip: Histogram::exponential(0.0001, 2.0, 16),
            is_active: None,
            disconnects: 0,
            snapshots_sent: Snapshots::default(),
            snapshots_received: Snapshots::default(),
        }
    }
}

#[derive(Debug, Default)]
pub struct NetworkMetrics {
    peers: RefCell<BTreeMap<u64, Peer>>,
}

impl NetworkMetrics {
    fn with(&self, peer: u64, count: impl FnOnce(&mut Peer)) {
        let mut peers = self.peers.borrow_mut();
        if peers.contains_key(&peer) || peers.len() < PEERS_MAX {
            count(peers.entry(peer).or_default());
        }
    }

    pub fn sent(&self, to: u64, bytes: usize) {
        self.with(to, |peer| peer.sent_bytes += bytes as u64);
    }

    pub fn received(&self, from: u64, bytes: usize) {
        self.with(from, |peer| peer.received_bytes += bytes as u64);
    }

    pub fn send_failed(&self, to: u64) {
        self.with(to, |peer| peer.send_failures += 1);
    }

    pub fn receive_failed(&self, from: u64) {
        self.with(from, |peer| peer.receive_failures += 1);
    }

    pub fn answered(&self, peer: u64, took: Duration) {
        self.with(peer, |peer| peer.round_trip.observe(took));
    }

    pub fn active(&self, peer: u64, is_active: bool) {
        self.with(peer, |peer| {
            peer.disconnects += u64::from(peer.is_active == Some(true) && !is_active);
            peer.is_active = Some(is_active);
        });
    }

    pub fn snapshot_begins(&self, to: u64) {
        self.with(to, |peer| peer.snapshots_sent.in_flight += 1);
    }

    pub fn snapshot_sent(&self, to: u64, took: Duration, ok: bool) {
        self.with(to, |peer| peer.snapshots_sent.ended(took, ok));
    }

    pub fn snapshot_comes(&self, from: u64) {
        self.with(from, |peer| peer.snapshots_received.in_flight += 1);
    }

    pub fn snapshot_received(&self, from: u64, took: Duration, ok: bool) {
        self.with(from, |peer| peer.snapshots_received.ended(took, ok));
    }

    pub(super) fn write(&self, page: &mut Page, local: &str) {
        let peers = self.peers.borrow();
        let peers: Vec<(String, &Peer)> =
            peers.iter().map(|(id, peer)| (format!("{id:x}"), peer)).collect();
        let mut counter = |name, help, label, count: fn(&Peer) -> u64| {
            let mut family = page.counters(name, help);
            for (id, peer) in peers.iter().filter(|(_, peer)| count(peer) > 0) {
                family.sample(&[(label, id)], count(peer) as f64);
            }
        };
        counter(
            "etcd_network_peer_sent_bytes_total",
            "The total number of bytes sent to peers.",
            "To",
            |peer| peer.sent_bytes,
        );
        counter(
            "etcd_network_peer_received_bytes_total",
            "The total number of bytes received from peers.",
            "From",
            |peer| peer.received_bytes,
        );
        counter(
            "etcd_network_peer_sent_failures_total",
            "The total number of send failures from peers.",
            "To",
            |peer| peer.send_failures,
        );
        counter(
            "etcd_network_peer_received_failures_total",
            "The total number of receive failures from peers.",
            "From",
            |peer| peer.receive_failures,
        );
        let mut active = page
            .gauges("etcd_network_active_peers", "The current number of active peer connections.");
        for (id, peer) in &peers {
            if let Some(is_active) = peer.is_active {
                active.sample(&[("Local", local), ("Remote", id)], is_active.into());
            }
        }
        drop(active);
        let mut disconnected = page.counters(
            "etcd_network_disconnected_peers_total",
            "The total number of disconnected peers.",
        );
        for (id, peer) in peers.iter().filter(|(_, peer)| peer.disconnects > 0) {
            let labels = [("Local", local), ("Remote", id)];
            disconnected.sample(&labels, peer.disconnects as f64);
        }
        drop(disconnected);
        let mut round_trips = page.histograms(
            "etcd_network_peer_round_trip_time_seconds",
            "Round-Trip-Time histogram between peers",
        );
        for (id, peer) in peers.iter().filter(|(_, peer)| peer.round_trip.read().count > 0) {
            round_trips.histogram(&[("To", id)], &peer.round_trip);
        }
        drop(round_trips);
        let sent: Vec<_> = peers.iter().map(|(id, peer)| (&**id, &peer.snapshots_sent)).collect();
        write_snapshots(page, &SENT, "To", &sent);
        let received: Vec<_> =
            peers.iter().map(|(id, peer)| (&**id, &peer.snapshots_received)).collect();
        write_snapshots(page, &RECEIVED, "From", &received);
    }
}

/// Name and help of successes, failures, those under way, and durations.
type SnapshotNames = [(&'static str, &'static str); 4];

const SENT: SnapshotNames = [
    ("etcd_network_snapshot_send_success", "Total number of successful snapshot sends"),
    ("etcd_network_snapshot_send_failures", "Total number of snapshot send failures"),
    ("etcd_network_snapshot_send_inflights_total", "Total number of inflight snapshot sends"),
    (
        "etcd_network_snapshot_send_total_duration_seconds",
        "Total latency distributions of v3 snapshot sends",
    ),
];

const RECEIVED: SnapshotNames = [
    ("etcd_network_snapshot_receive_success", "Total number of successful snapshot receives"),
    ("etcd_network_snapshot_receive_failures", "Total number of snapshot receive failures"),
    ("etcd_network_snapshot_receive_inflights_total", "Total number of inflight snapshot receives"),
    (
        "etcd_network_snapshot_receive_total_duration_seconds",
        "Total latency distributions of v3 snapshot receives",
    ),
];

fn write_snapshots(
    page: &mut Page,
    names: &SnapshotNames,
    label: &str,
    peers: &[(&str, &Snapshots)],
) {
    let [successes, failures, in_flight, took] = names;
    let known = |s: &Snapshots| s.successes + s.failures > 0 || s.in_flight != 0;
    let peers: Vec<_> = peers.iter().filter(|(_, snapshots)| known(snapshots)).collect();
    let mut family = page.counters(successes.0, successes.1);
    for (id, snapshots) in peers.iter().filter(|(_, s)| s.successes > 0) {
        family.sample(&[(label, id)], snapshots.successes as f64);
    }
    drop(family);
    let mut family = page.counters(failures.0, failures.1);
    for (id, snapshots) in peers.iter().filter(|(_, s)| s.failures > 0) {
        family.sample(&[(label, id)], snapshots.failures as f64);
    }
    drop(family);
    let mut family = page.gauges(in_flight.0, in_flight.1);
    for (id, snapshots) in &peers {
        family.sample(&[(label, id)], snapshots.in_flight as f64);
    }
    drop(family);
    let mut family = page.histograms(took.0, took.1);
    for (id, snapshots) in peers.iter().filter(|(_, s)| s.successes > 0) {
        family.histogram(&[(label, id)], &snapshots.took);
    }
}
