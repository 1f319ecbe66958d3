//! What the connections of clients count, by method. One thread: no atomics.

use std::collections::BTreeMap;

use super::histogram::Histogram;
use super::text::Page;
use crate::grpc::{Labels, route_labels};
use crate::runtime::time::Instant;

/// Versions that clients say of themselves, remembered by name. A client that makes up more of them is `unknown`.
const VERSIONS_MAX: usize = 64;
/// Bytes of such a version that are worth remembering.
const VERSION_BYTES_MAX: usize = 64;

/// A call that was counted as started.
#[derive(Clone, Copy, Debug)]
pub struct Started {
    pub route: usize,
    /// When its duration is wanted.
    at: Option<Instant>,
}

#[derive(Clone, Debug, Default)]
struct Route {
    started: u64,
    handled: [u64; CODES.len()],
    received: u64,
    sent: u64,
}

/// Calls of one method so far.
pub struct Requests {
    pub labels: Labels,
    pub started: u64,
    pub ok: u64,
    pub failed: u64,
}

/// Streams whose sending or receiving can fail apart from the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StreamFailure {
    WatchReceive,
    LeaseReceive,
    LeaseSend,
}

#[derive(Debug)]
pub struct GrpcMetrics {
    routes: Vec<Route>,
    /// Only with `--metrics=extensive`.
    handling: Option<Vec<Histogram>>,
    sent_bytes: u64,
    received_bytes: u64,
    /// By kind of call and version of the client.
    clients: BTreeMap<(&'static str, String), u64>,
    stream_failures: BTreeMap<StreamFailure, u64>,
}

impl GrpcMetrics {
    pub fn new(is_extensive: bool) -> GrpcMetrics {
        let count = route_labels().len();
        let bounds = vec![0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
        let histograms = || (0..count).map(|_| Histogram::new(bounds.clone())).collect();
        GrpcMetrics {
            routes: vec![Route::default(); count],
            handling: is_extensive.then(histograms),
            sent_bytes: 0,
            received_bytes: 0,
            clients: BTreeMap::new(),
            stream_failures: BTreeMap::new(),
        }
    }

    pub fn started(&mut self, route: usize) -> Started {
        self.routes[route].started += 1;
        Started { route, at: self.handling.is_some().then(Instant::now) }
    }

    /// A client of this version made a call.
    pub fn asked(&mut self, is_stream: bool, version: &str) {
        let kind = if is_stream { "stream" } else { "unary" };
        let found = self.clients.iter_mut().find(|((k, v), _)| *k == kind && v == version);
        if let Some((_, count)) = found {
            *count += 1;
            return;
        }
        let is_new = self.clients.len() < VERSIONS_MAX && version.len() <= VERSION_BYTES_MAX;
        let version = if is_new { version } else { "unknown" };
        *self.clients.entry((kind, version.to_owned())).or_default() += 1;
    }

    pub fn handled(&mut self, call: Started, code: u8) {
        let code = usize::from(code).min(CODES.len() - 1);
        self.routes[call.route].handled[code] += 1;
        if let (Some(handling), Some(at)) = (&self.handling, call.at) {
            handling[call.route].observe(at.elapsed());
        }
    }

    pub fn received(&mut self, route: usize, bytes: usize) {
        self.routes[route].received += 1;
        self.received_bytes += bytes as u64;
    }

    pub fn sent(&mut self, route: usize, bytes: usize) {
        self.routes[route].sent += 1;
        self.sent_bytes += bytes as u64;
    }

    pub fn stream_failed(&mut self, failure: StreamFailure) {
        *self.stream_failures.entry(failure).or_default() += 1;
    }

    /// Of every method that was called.
    pub fn requests(&self) -> impl Iterator<Item = Requests> {
        let called = route_labels().zip(&self.routes).filter(|(_, route)| route.started > 0);
        called.map(|(labels, route)| Requests {
            labels,
            started: route.started,
            ok: route.handled[0],
            failed: route.handled[1..].iter().sum(),
        })
    }

    /// Locks and elections are shown from their first use on, everything else from the start, at 0 (as etcd does, which
    /// registers those two behind the others).
    fn shown(&self) -> impl Iterator<Item = (Labels, &Route, usize)> {
        let all = route_labels().zip(&self.routes).enumerate();
        all.filter_map(|(at, (labels, route))| {
            let is_late = labels.service.starts_with("v3");
            (!is_late || route.started > 0).then_some((labels, route, at))
        })
    }

    pub(super) fn write(&self, page: &mut Page) {
        page.counter(
            "etcd_network_client_grpc_sent_bytes_total",
            "The total number of bytes sent to grpc clients.",
            self.sent_bytes,
        );
        page.counter(
            "etcd_network_client_grpc_received_bytes_total",
            "The total number of bytes received from grpc clients.",
            self.received_bytes,
        );
        let mut clients = page.counters(
            "etcd_server_client_requests_total",
            "The total number of client requests per client version.",
        );
        for ((kind, version), count) in &self.clients {
            clients.sample(&[("client_api_version", version), ("type", kind)], *count as f64);
        }
        drop(clients);
        let mut failures = page.counters(
            "etcd_network_server_stream_failures_total",
            "The total number of stream failures from the local server.",
        );
        for (failure, count) in &self.stream_failures {
            let (api, kind) = match failure {
                StreamFailure::WatchReceive => ("watch", "receive"),
                StreamFailure::LeaseReceive => ("lease-keepalive", "receive"),
                StreamFailure::LeaseSend => ("lease-keepalive", "send"),
            };
            failures.sample(&[("API", api), ("Type", kind)], *count as f64);
        }
        drop(failures);
        self.write_calls(page);
    }

    fn write_calls(&self, page: &mut Page) {
        let mut each = |name, help, count: fn(&Route) -> u64| {
            let mut family = page.counters(name, help);
            for (labels, route, _) in self.shown() {
                family.sample(&named(&labels), count(route) as f64);
            }
        };
        each("grpc_server_started_total", "Total number of RPCs started on the server.", |route| {
            route.started
        });
        each(
            "grpc_server_msg_received_total",
            "Total number of RPC stream messages received on the server.",
            |route| route.received,
        );
        each(
            "grpc_server_msg_sent_total",
            "Total number of gRPC stream messages sent by the server.",
            |route| route.sent,
        );
        let mut handled = page.counters(
            "grpc_server_handled_total",
            "Total number of RPCs completed on the server, regardless of success or failure.",
        );
        for (labels, route, _) in self.shown() {
            for (code, count) in CODES.iter().zip(route.handled) {
                let [method, service, kind] = named(&labels);
                handled.sample(&[("grpc_code", code), method, service, kind], count as f64);
            }
        }
        drop(handled);
        if let Some(handling) = &self.handling {
            let mut family = page.histograms(
                "grpc_server_handling_seconds",
                "Histogram of response latency (seconds) of gRPC that had been application-level \
                 handled by the server.",
            );
            for (labels, _, at) in self.shown() {
                family.histogram(&named(&labels), &handling[at]);
            }
        }
    }
}

fn named(labels: &Labels) -> [(&'static str, &'static str); 3] {
    [("grpc_method", labels.method), ("grpc_service", labels.service), ("grpc_type", labels.kind)]
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_cannot_make_the_page_grow_for_ever() {
        let mut metrics = GrpcMetrics::new(false);
        for version in 0..10_000 {
            metrics.asked(version % 2 == 0, &version.to_string());
        }
        metrics.asked(true, &"x".repeat(1 << 20));
        assert!(metrics.clients.len() <= VERSIONS_MAX + 2);
        assert_eq!(metrics.clients.values().sum::<u64>(), 10_001);
    }
}
