//! What the flags mean together: etcd's checks, in its order and with its texts.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use norn_node::AutoCompaction;

use crate::flags::{Values, feature_gates};
use crate::go_values::parse_duration_ns;
use crate::log::Level;
use crate::url::{self, host};

#[derive(Clone, Debug)]
pub struct ServerConfig {
    pub name: String,
    pub data_dir: PathBuf,
    pub wal_dir: Option<PathBuf>,
    pub listen_peer_urls: Vec<String>,
    pub listen_client_urls: Vec<String>,
    pub listen_client_http_urls: Vec<String>,
    pub listen_metrics_urls: Vec<String>,
    pub advertise_peer_urls: Vec<String>,
    pub advertise_client_urls: Vec<String>,
    /// Name to URLs, of the founding (or existing) members.
    pub initial_cluster: BTreeMap<String, Vec<String>>,
    pub initial_cluster_text: String,
    pub is_new_cluster: bool,
    pub token: String,
    pub tick_ms: u64,
    pub election_ticks: u32,
    pub tick_advance: bool,
    pub pre_vote: bool,
    pub strict_reconfig_check: bool,
    pub learners_max: usize,
    pub quota_bytes: i64,
    pub request_bytes_max: usize,
    pub txn_ops_max: usize,
    pub streams_max: u32,
    pub keepalive_ms: u64,
    pub keepalive_timeout_ms: u64,
    /// Clients that ping more often are sent away.
    pub keepalive_min: Duration,
    pub snapshot_count: u64,
    pub catch_up_entries: u64,
    pub wals_max: usize,
    pub snapshots_max: usize,
    pub auto_compaction: AutoCompaction,
    pub compact_records: usize,
    pub compact_pause_ms: u64,
    pub watch_progress_interval_ms: u64,
    pub lease_checkpoint: bool,
    /// `None`: never.
    pub downgrade_check_ms: Option<u64>,
    pub no_fsync: bool,
    /// The paths of Go's profiler, and more of them while debugging.
    pub pprof: bool,
    pub is_debugging: bool,
    /// Also how long each gRPC method takes.
    pub metrics_extensive: bool,
    /// Applying one request may take so long without being counted as slow.
    pub warning_apply_ms: u64,
    /// JSON under `/v3/`.
    pub gateway: bool,
    /// Origins that browsers may ask for; none, or `*`: all.
    pub cors: Vec<String>,
    /// Names of this host, for requests without TLS; none, or `*`: any.
    pub host_whitelist: Vec<String>,
    pub reuse_port: bool,
    pub reuse_address: bool,
    /// Warnings to log at the start.
    pub warnings: Vec<String>,
}

const ELECTION_MS_MAX: u64 = 50_000;
/// Go's gRPC server's own, which zero stands for.
const KEEPALIVE_MIN: Duration = Duration::from_secs(300);
const HOUR_MS: u64 = 3_600_000;
const QUOTA_SUGGESTED_MAX: i64 = 8 << 30;
const REQUEST_SUGGESTED_MAX: u64 = 10 << 20;

/// Flags that ask for something this version has not got. Starting without it would be worse than not starting.
const UNSUPPORTED: &[&str] = &[
    "discovery-token",
    "discovery-endpoints",
    "discovery-srv",
    "cert-file",
    "key-file",
    "client-cert-auth",
    "trusted-ca-file",
    "auto-tls",
    "peer-cert-file",
    "peer-key-file",
    "peer-client-cert-auth",
    "peer-trusted-ca-file",
    "peer-auto-tls",
    "force-new-cluster",
    "enable-distributed-tracing",
];

impl ServerConfig {
    /// # Errors
    /// The text for `failed to verify flags`.
    pub fn new(values: &Values) -> Result<ServerConfig, String> {
        for name in UNSUPPORTED {
            let value = values.text(name);
            if values.is_set(name) && !value.is_empty() && value != "false" {
                return Err(format!("--{name} is not supported by this version of norn"));
            }
        }
        if let Some(error) = logging_error(values) {
            return Err(error);
        }
        let name = values.text("name").to_owned();
        let listen_peer_urls = values.urls("listen-peer-urls");
        let listen_client_urls = values.urls("listen-client-urls");
        let listen_client_http_urls = values.urls("listen-client-http-urls");
        let listen_metrics_urls = values.urls("listen-metrics-urls");
        for list in
            [&listen_peer_urls, &listen_client_urls, &listen_client_http_urls, &listen_metrics_urls]
        {
            for url in list {
                check_bindable(url)?;
            }
        }
        for url in listen_client_urls.iter().chain(&listen_client_http_urls) {
            if url.starts_with("https:") || url.starts_with("unixs:") {
                return Err(format!(
                    "TLS key/cert (--cert-file, --key-file) must be provided for client url {url} \
                     with HTTPS scheme"
                ));
            }
        }
        let advertise_peer_urls = values.urls("initial-advertise-peer-urls");
        for url in &advertise_peer_urls {
            if host(url).is_empty() {
                return Err(format!(
                    "--initial-advertise-peer-urls \"{url}\" must be \"host:port\" \
                     (missing host in {url})"
                ));
            }
        }
        let advertise_client_urls = values.urls("advertise-client-urls");
        for url in &advertise_client_urls {
            if host(url).is_empty() {
                return Err(format!(
                    "--advertise-client-urls \"{url}\" must be in the format \"host:port\", \
                     \"unix:/path/to/socket\" or \"unixs:/path/to/socket\" \
                     (missing host in {url})"
                ));
            }
        }
        // (The file that comes with etcd says so, and nobody minds.)
        if values.text("discovery-fallback") == "proxy" && !values.is_file {
            return Err("v2 proxy is deprecated, and --discovery-fallback can't be configured as \
                 \"proxy\""
                .into());
        }
        for url in &listen_client_http_urls {
            if listen_client_urls.contains(url) {
                return Err(format!(
                    "cannot bind both --listen-client-urls and --listen-client-http-urls on the \
                     same url {url}"
                ));
            }
        }
        let (tick_ms, election_ticks) = check_times(values)?;
        let is_listening = values.is_set("listen-client-urls") && !values.is_file;
        if is_listening && !values.is_set("advertise-client-urls") {
            return Err(
                "--advertise-client-urls is required when --listen-client-urls is set explicitly"
                    .into(),
            );
        }
        let auto_compaction = auto_compaction(values)?;
        if values.duration_ms("compact-hash-check-time") == 0 {
            return Err("--compact-hash-check-time must be >0 (set to 0s)".into());
        }
        let initial_cluster_text = if values.is_set("name") && !values.is_set("initial-cluster") {
            let own = advertise_peer_urls.iter().map(|url| format!("{name}={url}"));
            own.collect::<Vec<_>>().join(",")
        } else {
            values.text("initial-cluster").to_owned()
        };
        let data_dir = match values.text("data-dir") {
            "" => PathBuf::from(format!("{name}.etcd")),
            path => PathBuf::from(path),
        };
        let wal_dir = Some(values.text("wal-dir")).filter(|dir| !dir.is_empty());
        // (Without both of them Go's gRPC has its own.)
        let (keepalive_ms, keepalive_timeout_ms) = match (
            values.duration_ms("grpc-keepalive-interval"),
            values.duration_ms("grpc-keepalive-timeout"),
        ) {
            (0, _) | (_, 0) => (2 * HOUR_MS, 20_000),
            // (Nor does it ask more often than once a second.)
            (interval, timeout) => (interval.max(1_000), timeout),
        };
        let mut config = ServerConfig {
            initial_cluster: parse_cluster(&initial_cluster_text)?,
            initial_cluster_text,
            name,
            data_dir,
            wal_dir: wal_dir.map(PathBuf::from),
            listen_peer_urls,
            listen_client_urls,
            listen_client_http_urls,
            listen_metrics_urls,
            advertise_peer_urls,
            advertise_client_urls,
            is_new_cluster: values.text("initial-cluster-state") == "new",
            token: values.text("initial-cluster-token").to_owned(),
            tick_ms,
            election_ticks,
            tick_advance: values.bool("initial-election-tick-advance"),
            pre_vote: values.bool("pre-vote"),
            strict_reconfig_check: values.bool("strict-reconfig-check"),
            learners_max: usize::try_from(values.int("max-learners")).unwrap_or(0),
            quota_bytes: values.int("quota-backend-bytes"),
            request_bytes_max: values.uint("max-request-bytes") as usize,
            txn_ops_max: values.uint("max-txn-ops") as usize,
            streams_max: u32::try_from(values.uint("max-concurrent-streams")).unwrap_or(u32::MAX),
            keepalive_ms,
            keepalive_timeout_ms,
            keepalive_min: match values.duration("grpc-keepalive-min-time") {
                Duration::ZERO => KEEPALIVE_MIN,
                min => min,
            },
            snapshot_count: or_default(values.uint("snapshot-count"), 10_000),
            catch_up_entries: or_default(values.uint("snapshot-catchup-entries"), 5_000),
            wals_max: values.uint("max-wals") as usize,
            snapshots_max: values.uint("max-snapshots") as usize,
            auto_compaction,
            watch_progress_interval_ms: or_default(
                values.duration_ms("watch-progress-notify-interval"),
                600_000,
            )
            .max(100),
            compact_records: match usize::try_from(values.int("compaction-batch-limit")) {
                Ok(0) | Err(_) => 1_000,
                Ok(records) => records,
            },
            compact_pause_ms: match values.is_zero_duration("compaction-sleep-interval") {
                true => 10,
                false => values.duration_ms("compaction-sleep-interval"),
            },
            downgrade_check_ms: downgrade_check_ms(values),
            lease_checkpoint: feature_gates(values.text("feature-gates"))?
                .get("LeaseCheckpoint")
                .copied()
                .unwrap_or(false),
            no_fsync: values.bool("unsafe-no-fsync"),
            pprof: values.bool("enable-pprof"),
            is_debugging: values.text("log-level") == "debug",
            metrics_extensive: values.text("metrics") == "extensive",
            warning_apply_ms: or_default(values.duration_ms("warning-apply-duration"), 100),
            gateway: values.bool("enable-grpc-gateway"),
            cors: list(values.text("cors")),
            host_whitelist: list(values.text("host-whitelist")),
            reuse_port: values.bool("socket-reuse-port"),
            reuse_address: values.bool("socket-reuse-address"),
            warnings: Vec::new(),
        };
        config.add_warnings(values);
        Ok(config)
    }

    fn add_warnings(&mut self, values: &Values) {
        let mut warn = |text: &str| self.warnings.push(text.to_owned());
        if self.name == "default" {
            warn(
                "it isn't recommended to use default name, please set a value for --name. Note \
                 that etcd might run into issue when multiple members have the same default name",
            );
        }
        if values.text("data-dir").is_empty() {
            warn("'data-dir' was empty; using default");
        }
        if values.is_set("max-snapshots") {
            warn("--max-snapshots is deprecated in 3.6 and will be decommissioned in 3.8.");
        }
        if values.is_set("v2-deprecation") {
            warn(
                "--v2-deprecation is deprecated and scheduled for removal in v3.8. The default \
                 value is enforced, ignoring user input.",
            );
        }
        if self.listen_client_http_urls.is_empty() {
            warn(
                "Running http and grpc server on single port. This is not recommended for \
                 production.",
            );
        }
        if self.quota_bytes > QUOTA_SUGGESTED_MAX {
            warn("quota exceeds the maximum value");
        }
        if self.request_bytes_max as u64 > REQUEST_SUGGESTED_MAX {
            warn("exceeded recommended request limit");
        }
    }
}

/// What commas stand between.
fn list(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect()
}

/// As etcd takes it: 0 is never, and less than nothing as often as can be.
fn downgrade_check_ms(values: &Values) -> Option<u64> {
    let name = "downgrade-check-time";
    (!values.is_zero_duration(name)).then(|| values.duration_ms(name))
}

fn or_default(value: u64, default: u64) -> u64 {
    if value == 0 { default } else { value }
}

fn logging_error(values: &Values) -> Option<String> {
    match values.text("logger") {
        "zap" => None,
        "capnslog" => Some("--logger=capnslog is removed in v3.5".into()),
        other => Some(format!("unknown logger option \"{other}\"")),
    }
    .or_else(|| {
        let level = values.text("log-level");
        Level::parse(level).is_none().then(|| format!("unrecognized level: \"{level}\""))
    })
}

/// Heartbeat in milliseconds, election timeout in heartbeats.
fn check_times(values: &Values) -> Result<(u64, u32), String> {
    let heartbeat = values.uint("heartbeat-interval");
    let election = values.uint("election-timeout");
    if heartbeat == 0 {
        return Err("--heartbeat-interval must be >0 (set to 0ms)".into());
    }
    if election == 0 {
        return Err("--election-timeout must be >0 (set to 0ms)".into());
    }
    if heartbeat.saturating_mul(5) > election {
        return Err(format!(
            "--election-timeout[{election}ms] should be at least as 5 times as \
             --heartbeat-interval[{heartbeat}ms]"
        ));
    }
    if election > ELECTION_MS_MAX {
        return Err(format!(
            "--election-timeout[{election}ms] is too long, and should be set less than 50000ms"
        ));
    }
    Ok((heartbeat, (election / heartbeat) as u32))
}

fn auto_compaction(values: &Values) -> Result<AutoCompaction, String> {
    let text = values.text("auto-compaction-retention");
    let is_periodic = values.text("auto-compaction-mode") == "periodic";
    let number: Option<u64> = text.parse().ok();
    let ns = match number {
        Some(n) => n.cast_signed(),
        None => parse_duration_ns(text).ok_or_else(|| {
            format!("error parsing CompactionRetention: time: invalid duration \"{text}\"")
        })?,
    };
    if ns <= 0 {
        return Ok(AutoCompaction::Off);
    }
    Ok(match (is_periodic, number) {
        (true, Some(hours)) => {
            AutoCompaction::Periodic { retention_ms: hours.saturating_mul(HOUR_MS) }
        }
        (true, None) => {
            AutoCompaction::Periodic { retention_ms: (ns / 1_000_000).max(1).cast_unsigned() }
        }
        (false, _) => AutoCompaction::Revision { retention: ns },
    })
}

/// `name=url,name=url`; a name may come more than once, a URL may not.
fn parse_cluster(text: &str) -> Result<BTreeMap<String, Vec<String>>, String> {
    let mut cluster: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for pair in text.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
        let Some((name, url)) = pair.split_once('=') else {
            return Err(format!("invalid initial-cluster entry \"{pair}\""));
        };
        url::check(url)?;
        if cluster.values().flatten().any(|other| other == url) {
            return Err(format!("initial cluster {text} has duplicate url"));
        }
        cluster.entry(name.to_owned()).or_default().push(url.to_owned());
    }
    for urls in cluster.values_mut() {
        urls.sort();
    }
    Ok(cluster)
}

fn check_bindable(url: &str) -> Result<(), String> {
    if url.starts_with("unix") {
        return Ok(());
    }
    let host = host(url);
    if host == "localhost" || host.parse::<IpAddr>().is_ok() {
        return Ok(());
    }
    Err(format!("expected IP in URL for binding ({url})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(list: &[&str]) -> Result<ServerConfig, String> {
        let args: Vec<String> = list.iter().map(|a| (*a).to_owned()).collect();
        ServerConfig::new(&crate::flags::parse(&args, []).unwrap())
    }

    #[test]
    fn defaults() {
        let config = config(&["--name=m1"]).unwrap();
        assert_eq!(config.initial_cluster_text, "m1=http://localhost:2380");
        assert_eq!((config.tick_ms, config.election_ticks), (100, 10));
        assert_eq!(config.data_dir, PathBuf::from("m1.etcd"));
    }

    #[test]
    fn the_interval_of_pings() {
        let min = |text: &str| {
            config(&[&format!("--grpc-keepalive-min-time={text}")]).unwrap().keepalive_min
        };
        assert_eq!(min("1ns"), Duration::from_nanos(1));
        assert_eq!(min("0s"), KEEPALIVE_MIN);
        assert_eq!(min("-1s"), KEEPALIVE_MIN);
    }

    #[test]
    fn texts() {
        let text = |list: &[&str]| config(list).map(drop).unwrap_err();
        assert_eq!(
            text(&["--election-timeout=400"]),
            "--election-timeout[400ms] should be at least as 5 times as --heartbeat-interval[100ms]"
        );
        assert_eq!(
            text(&["--election-timeout=60000"]),
            "--election-timeout[60000ms] is too long, and should be set less than 50000ms"
        );
        assert_eq!(
            text(&["--listen-client-urls=http://127.0.0.1:1"]),
            "--advertise-client-urls is required when --listen-client-urls is set explicitly"
        );
        assert_eq!(
            text(&["--listen-peer-urls=http://example.com:1"]),
            "expected IP in URL for binding (http://example.com:1)"
        );
        assert_eq!(
            text(&["--auto-compaction-retention=foo"]),
            "error parsing CompactionRetention: time: invalid duration \"foo\""
        );
        assert_eq!(
            text(&["--initial-cluster=a=http://h:1,b=http://h:1"]),
            "initial cluster a=http://h:1,b=http://h:1 has duplicate url"
        );
        assert_eq!(text(&["--logger=capnslog"]), "--logger=capnslog is removed in v3.5");
    }

    #[test]
    fn retention() {
        let mode = |list: &[&str]| config(list).unwrap().auto_compaction;
        let retention_ms = 2 * HOUR_MS;
        assert_eq!(
            mode(&["--auto-compaction-retention=2"]),
            AutoCompaction::Periodic { retention_ms }
        );
        assert_eq!(
            mode(&["--auto-compaction-retention=10m"]),
            AutoCompaction::Periodic { retention_ms: 600_000 }
        );
        assert_eq!(
            mode(&["--auto-compaction-retention=1000", "--auto-compaction-mode=revision"]),
            AutoCompaction::Revision { retention: 1000 }
        );
    }
}
