//! A run in words, and as JSON.

use serde_json::{Map, Value, json};

use crate::options::Options;
use crate::run::Report;

const QUANTILES: [(&str, f64); 5] =
    [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0)];

pub fn text(r: &Report, with_server: bool) -> String {
    let mut out = String::new();
    let mut row = |name: &str, value: String| out += &format!("{name:<18} {value:>14}\n");
    row("operations", r.operations.to_string());
    row("operations/s", format!("{:.0}", r.per_second()));
    if r.events > 0 {
        row("events/s", format!("{:.0}", r.events as f64 / r.elapsed.as_secs_f64()));
    }
    for (name, quantile) in QUANTILES {
        row(&format!("latency {name}"), format!("{:.1} us", r.latency.micros(quantile)));
    }
    if r.unanswered > 0 {
        row("never answered", r.unanswered.to_string());
    }
    for (error, count) in &r.errors {
        row("errors", format!("{count} {error}"));
    }
    if with_server {
        row("server CPU/op", format!("{:.2} us", r.server_micros()));
        row("server resident", format!("{:.1} MB", r.rss_bytes as f64 / 1e6));
        row("server writes/op", format!("{:.0} B", r.written()));
    }
    row("loader CPU/op", format!("{:.2} us", r.own_micros()));
    out
}

pub fn json(name: &str, o: &Options, r: &Report) -> Value {
    let latency: Map<String, Value> =
        QUANTILES.iter().map(|(n, q)| ((*n).to_owned(), r.latency.micros(*q).into())).collect();
    json!({
        "workload": name,
        "clients": o.clients,
        "conns": o.conns,
        "rate": o.rate,
        "operations": r.operations,
        "per_second": r.per_second(),
        "events": r.events,
        "latency_us": latency,
        "errors": r.errors,
        "unanswered": r.unanswered,
        "server_cpu_us_per_op": r.server_micros(),
        "server_rss_bytes": r.rss_bytes,
        "server_rss_max_bytes": r.rss_max_bytes,
        "server_written_bytes_per_op": r.written(),
        "loader_cpu_us_per_op": r.own_micros(),
    })
}
