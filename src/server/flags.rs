//! etcd's command line: the same flags, environment names, defaults and refusals.
//!
//! The table is the truth; parsing gives every flag a text value that has been checked to be of its kind. What the
//! values mean together is [`crate::config`]'s business.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::go_values::{parse_duration_ns, parse_int, parse_uint};
use crate::url;

/// What a flag's value must look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Text,
    Bool,
    Uint,
    Int,
    Duration,
    /// Comma-separated URLs.
    Urls,
    /// The same, or `*` among them.
    Origins,
    /// One of these.
    Enum(&'static [&'static str]),
}

#[derive(Clone, Copy, Debug)]
pub struct Flag {
    pub name: &'static str,
    pub kind: Kind,
    pub default: &'static str,
    pub help: &'static str,
}

const fn flag(name: &'static str, kind: Kind, default: &'static str, help: &'static str) -> Flag {
    Flag { name, kind, default, help }
}

const STATES: &[&str] = &["new", "existing"];
const FALLBACKS: &[&str] = &["exit", "proxy"];
const DEPRECATIONS: &[&str] =
    &["", "write-only", "write-only-skip-check", "write-only-drop-data", "gone"];

/// Every flag of etcd 3.7.1, in its groups.
pub const FLAGS: &[Flag] = &[
    // Member
    flag("name", Kind::Text, "default", "Human-readable name of this member."),
    flag("data-dir", Kind::Text, "", "Directory of the data; `<name>.etcd` if empty."),
    flag(
        "wal-dir",
        Kind::Text,
        "",
        "Directory of the write-ahead log, if not in the data directory.",
    ),
    flag("snapshot-count", Kind::Uint, "10000", "Applied entries between two snapshots to disk."),
    flag("snapshot-catchup-entries", Kind::Uint, "5000", "Entries kept for slow followers."),
    flag("heartbeat-interval", Kind::Uint, "100", "Milliseconds between heartbeats."),
    flag(
        "election-timeout",
        Kind::Uint,
        "1000",
        "Milliseconds without a leader before an election.",
    ),
    flag("initial-election-tick-advance", Kind::Bool, "true", "Shorten the first election."),
    flag("listen-peer-urls", Kind::Urls, "http://localhost:2380", "Where to listen for members."),
    flag("listen-client-urls", Kind::Urls, "http://localhost:2379", "Where to listen for clients."),
    flag(
        "listen-client-http-urls",
        Kind::Urls,
        "",
        "Where to listen for HTTP only; then the client URLs serve gRPC only.",
    ),
    flag("listen-metrics-urls", Kind::Urls, "", "Where else to serve metrics and health."),
    flag("max-snapshots", Kind::Uint, "5", "Snapshot files to keep (0: all)."),
    flag("max-wals", Kind::Uint, "5", "Write-ahead log files to keep (0: all)."),
    flag("memory-mlock", Kind::Bool, "false", "Keep the database in memory."),
    flag(
        "quota-backend-bytes",
        Kind::Int,
        "0",
        "Size at which the NOSPACE alarm is raised (0: 2 GiB).",
    ),
    flag("backend-bbolt-freelist-type", Kind::Text, "", "No effect: there is no bbolt backend."),
    flag("backend-batch-interval", Kind::Duration, "0s", "No effect: batches end with the turn."),
    flag("backend-batch-limit", Kind::Int, "0", "No effect: batches end with the turn."),
    flag("max-txn-ops", Kind::Uint, "128", "Operations in a transaction."),
    flag("max-request-bytes", Kind::Uint, "1572864", "Bytes in a request."),
    flag("max-concurrent-streams", Kind::Uint, "4294967295", "Streams per client connection."),
    flag(
        "grpc-keepalive-min-time",
        Kind::Duration,
        "5s",
        "Shortest accepted interval of client pings.",
    ),
    flag("grpc-keepalive-interval", Kind::Duration, "2h", "Interval of server pings (0: none)."),
    flag("grpc-keepalive-timeout", Kind::Duration, "20s", "Wait for an answer to a server ping."),
    flag("socket-reuse-port", Kind::Bool, "false", "Set SO_REUSEPORT."),
    flag("socket-reuse-address", Kind::Bool, "false", "Set SO_REUSEADDR."),
    flag("enable-grpc-gateway", Kind::Bool, "true", "Serve JSON under /v3/."),
    flag("raft-read-timeout", Kind::Duration, "5s", "Read timeout of peer connections."),
    flag("raft-write-timeout", Kind::Duration, "5s", "Write timeout of peer connections."),
    flag("feature-gates", Kind::Text, "", "Name=bool pairs."),
    // Clustering
    flag(
        "initial-advertise-peer-urls",
        Kind::Urls,
        "http://localhost:2380",
        "This member's peer URLs, as others reach them.",
    ),
    flag(
        "advertise-client-urls",
        Kind::Urls,
        "http://localhost:2379",
        "This member's client URLs, as clients reach them.",
    ),
    flag(
        "initial-cluster",
        Kind::Text,
        "default=http://localhost:2380",
        "The founding members, name=url,...",
    ),
    flag(
        "initial-cluster-state",
        Kind::Enum(STATES),
        "new",
        "`new` to found the cluster, `existing` to join it.",
    ),
    flag(
        "initial-cluster-token",
        Kind::Text,
        "etcd-cluster",
        "Keeps clusters with equal URLs apart.",
    ),
    flag("discovery-token", Kind::Text, "", "Not supported yet."),
    flag("discovery-endpoints", Kind::Text, "", "Not supported yet."),
    flag("discovery-dial-timeout", Kind::Duration, "2s", "Not supported yet."),
    flag("discovery-request-timeout", Kind::Duration, "5s", "Not supported yet."),
    flag("discovery-keepalive-time", Kind::Duration, "2s", "Not supported yet."),
    flag("discovery-keepalive-timeout", Kind::Duration, "6s", "Not supported yet."),
    flag("discovery-insecure-transport", Kind::Bool, "true", "Not supported yet."),
    flag("discovery-insecure-skip-tls-verify", Kind::Bool, "false", "Not supported yet."),
    flag("discovery-cert", Kind::Text, "", "Not supported yet."),
    flag("discovery-key", Kind::Text, "", "Not supported yet."),
    flag("discovery-cacert", Kind::Text, "", "Not supported yet."),
    flag("discovery-user", Kind::Text, "", "Not supported yet."),
    flag("discovery-password", Kind::Text, "", "Not supported yet."),
    flag("discovery-fallback", Kind::Enum(FALLBACKS), "exit", "What to do when discovery fails."),
    flag("discovery-srv", Kind::Text, "", "Not supported yet."),
    flag("discovery-srv-name", Kind::Text, "", "Not supported yet."),
    flag(
        "strict-reconfig-check",
        Kind::Bool,
        "true",
        "Refuse member changes that would lose the quorum.",
    ),
    flag("pre-vote", Kind::Bool, "true", "Ask before campaigning."),
    flag("auto-compaction-retention", Kind::Text, "0", "How much history to keep (0: all)."),
    flag(
        "auto-compaction-mode",
        Kind::Enum(&["periodic", "revision"]),
        "periodic",
        "What the retention counts.",
    ),
    flag("v2-deprecation", Kind::Enum(DEPRECATIONS), "", "No effect."),
    // Security
    flag("cert-file", Kind::Text, "", "Not supported yet."),
    flag("key-file", Kind::Text, "", "Not supported yet."),
    flag("client-cert-file", Kind::Text, "", "Not supported yet."),
    flag("client-key-file", Kind::Text, "", "Not supported yet."),
    flag("client-cert-auth", Kind::Bool, "false", "Not supported yet."),
    flag("client-crl-file", Kind::Text, "", "Not supported yet."),
    flag("trusted-ca-file", Kind::Text, "", "Not supported yet."),
    flag("client-cert-allowed-hostname", Kind::Text, "", "Not supported yet."),
    flag("auto-tls", Kind::Bool, "false", "Not supported yet."),
    flag("peer-cert-file", Kind::Text, "", "Not supported yet."),
    flag("peer-key-file", Kind::Text, "", "Not supported yet."),
    flag("peer-client-cert-file", Kind::Text, "", "Not supported yet."),
    flag("peer-client-key-file", Kind::Text, "", "Not supported yet."),
    flag("peer-client-cert-auth", Kind::Bool, "false", "Not supported yet."),
    flag("peer-trusted-ca-file", Kind::Text, "", "Not supported yet."),
    flag("peer-auto-tls", Kind::Bool, "false", "Not supported yet."),
    flag("peer-crl-file", Kind::Text, "", "Not supported yet."),
    flag("peer-cert-allowed-cn", Kind::Text, "", "Not supported yet."),
    flag("peer-cert-allowed-hostname", Kind::Text, "", "Not supported yet."),
    flag("peer-skip-client-san-verification", Kind::Bool, "false", "Not supported yet."),
    flag("self-signed-cert-validity", Kind::Uint, "1", "Not supported yet."),
    flag("cipher-suites", Kind::Text, "", "Not supported yet."),
    flag("tls-min-version", Kind::Text, "TLS1.2", "Not supported yet."),
    flag("tls-max-version", Kind::Text, "", "Not supported yet."),
    flag("cors", Kind::Origins, "*", "Origins allowed by browsers."),
    flag("host-whitelist", Kind::Text, "*", "Host headers accepted on plain HTTP."),
    flag("auth-token", Kind::Text, "simple", "Kind of authentication token."),
    flag("auth-token-ttl", Kind::Uint, "300", "Seconds a simple token lives."),
    flag("bcrypt-cost", Kind::Uint, "10", "Cost of hashing passwords."),
    // Logging, metrics, profiling, tuning
    flag("logger", Kind::Text, "zap", "Only `zap`, meaning structured lines."),
    flag("log-outputs", Kind::Text, "default", "default, stderr, stdout or file paths."),
    flag("log-level", Kind::Text, "info", "debug, info, warn, error, dpanic, panic or fatal."),
    flag("log-format", Kind::Text, "json", "json or console."),
    flag("enable-log-rotation", Kind::Bool, "false", "Not supported yet."),
    flag(
        "log-rotation-config-json",
        Kind::Text,
        "{\"maxsize\": 100, \"maxage\": 0, \"maxbackups\": 0, \"localtime\": false, \"compress\": false}",
        "Not supported yet.",
    ),
    flag("metrics", Kind::Text, "basic", "basic or extensive."),
    flag("enable-pprof", Kind::Bool, "false", "Serve the paths of Go's profiler."),
    flag("warning-apply-duration", Kind::Duration, "100ms", "When applying counts as slow."),
    flag(
        "warning-unary-request-duration",
        Kind::Duration,
        "300ms",
        "When a request counts as slow.",
    ),
    flag("enable-distributed-tracing", Kind::Bool, "false", "Not supported yet."),
    flag("distributed-tracing-address", Kind::Text, "localhost:4317", "Not supported yet."),
    flag("distributed-tracing-service-name", Kind::Text, "etcd", "Not supported yet."),
    flag("distributed-tracing-instance-id", Kind::Text, "", "Not supported yet."),
    flag("distributed-tracing-sampling-rate", Kind::Int, "0", "Not supported yet."),
    flag("corrupt-check-time", Kind::Duration, "0s", "Not supported yet."),
    flag("compact-hash-check-time", Kind::Duration, "1m", "Not supported yet."),
    flag(
        "compaction-batch-limit",
        Kind::Int,
        "0",
        "Revisions that a compaction looks at in one piece (0: 1000).",
    ),
    flag(
        "compaction-sleep-interval",
        Kind::Duration,
        "0s",
        "Pause between two pieces of a compaction while clients ask (0: 10ms).",
    ),
    flag(
        "watch-progress-notify-interval",
        Kind::Duration,
        "0s",
        "Interval of progress notifications (0: 10m).",
    ),
    flag(
        "downgrade-check-time",
        Kind::Duration,
        "5s",
        "How often the leader looks whether a downgrade is complete (0: never).",
    ),
    flag(
        "bootstrap-defrag-threshold-megabytes",
        Kind::Uint,
        "0",
        "No effect: nothing needs defragmenting.",
    ),
    flag("max-learners", Kind::Int, "1", "Learners a cluster may have."),
    flag("force-new-cluster", Kind::Bool, "false", "Not supported yet."),
    flag("unsafe-no-fsync", Kind::Bool, "false", "Never sync. Loses data in a crash."),
    flag("config-file", Kind::Text, "", "A file in the place of all other flags and variables."),
    flag("version", Kind::Bool, "false", "Print the version and exit."),
];

/// Leftovers of 0.4 that etcd still swallows.
const IGNORED: &[&str] = &[
    "cluster-active-size",
    "cluster-remove-delay",
    "cluster-sync-interval",
    "config",
    "force",
    "max-result-buffer",
    "max-retry-attempts",
    "peer-heartbeat-interval",
    "peer-election-timeout",
    "retry-interval",
    "snapshot",
    "v",
    "vv",
    "test.coverprofile",
    "test.outputdir",
];

/// Parsed values, and what should be told about the environment.
#[derive(Clone, Debug, Default)]
pub struct Values {
    set: BTreeMap<&'static str, String>,
    /// (level, message, field, value)
    pub notes: Vec<(&'static str, &'static str, &'static str, String)>,
    said: BTreeMap<&'static str, ()>,
    /// They are those of a configuration file.
    pub is_file: bool,
}

impl Values {
    pub fn text(&self, name: &str) -> &str {
        match self.set.get(name) {
            Some(value) => value,
            None => find(name).map_or("", |flag| flag.default),
        }
    }

    /// Those of a configuration file that says nothing.
    pub fn of_file() -> Values {
        Values { is_file: true, ..Values::default() }
    }

    pub fn say(&mut self, flag: &'static Flag, value: String) {
        self.said.insert(flag.name, ());
        self.set.insert(flag.name, value);
    }

    pub fn is_set(&self, name: &str) -> bool {
        self.said.contains_key(name)
    }

    pub fn bool(&self, name: &str) -> bool {
        parse_bool(self.text(name)).unwrap_or(false)
    }

    pub fn uint(&self, name: &str) -> u64 {
        parse_uint(self.text(name)).unwrap_or(0)
    }

    pub fn int(&self, name: &str) -> i64 {
        parse_int(self.text(name)).unwrap_or(0)
    }

    /// Not even a nanosecond.
    pub fn is_zero_duration(&self, name: &str) -> bool {
        parse_duration_ns(self.text(name)) == Some(0)
    }

    /// What is negative is nothing.
    pub fn duration(&self, name: &str) -> Duration {
        let ns = parse_duration_ns(self.text(name)).unwrap_or(0);
        Duration::from_nanos(u64::try_from(ns).unwrap_or(0))
    }

    pub fn duration_ms(&self, name: &str) -> u64 {
        self.duration(name).as_millis() as u64
    }

    pub fn urls(&self, name: &str) -> Vec<String> {
        split_urls(self.text(name)).iter().map(|url| url::normal(url)).collect()
    }
}

/// What ends the process before it began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Text for stderr, then usage, exit code 2.
    Usage(String),
    /// Help was asked for.
    Help,
    /// `failed to verify flags` in the log with this text, exit code 1.
    Verify(String),
    /// A fatal line with this message and field, exit code 1.
    Conflict(String),
}

pub fn find(name: &str) -> Option<&'static Flag> {
    FLAGS.iter().find(|flag| flag.name == name)
}

/// Parses arguments (without the program's name) and environment.
pub fn parse(
    args: &[String],
    env: impl IntoIterator<Item = (String, String)>,
) -> Result<Values, Refusal> {
    let mut values = Values::default();
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        let Some(body) = arg.strip_prefix("--").or_else(|| arg.strip_prefix('-')) else {
            return Err(Refusal::Verify(format!("\"{arg}\" is not a valid flag")));
        };
        if body.is_empty() || body.starts_with('-') || body.starts_with('=') {
            return Err(Refusal::Usage(format!("bad flag syntax: {arg}")));
        }
        let (name, inline) = match body.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (body, None),
        };
        if name == "help" || name == "h" {
            return Err(Refusal::Help);
        }
        if IGNORED.contains(&name) {
            continue;
        }
        let Some(flag) = find(name) else {
            return Err(Refusal::Usage(format!("flag provided but not defined: -{name}")));
        };
        let value = match (flag.kind, inline) {
            (_, Some(value)) => value,
            (Kind::Bool, None) => "true".to_owned(),
            (_, None) => match rest.next() {
                Some(value) => value.clone(),
                None => {
                    return Err(Refusal::Usage(format!("flag needs an argument: -{name}")));
                }
            },
        };
        if let Err(reason) = check(flag, &value) {
            let text = match flag.kind {
                Kind::Bool => format!("invalid boolean value \"{value}\" for -{name}: {reason}"),
                _ => format!("invalid value \"{value}\" for flag -{name}: {reason}"),
            };
            return Err(Refusal::Usage(text));
        }
        values.say(flag, value);
    }
    let mut env: Vec<(String, String)> =
        env.into_iter().filter(|(name, _)| name.starts_with("ETCD_")).collect();
    env.sort();
    // A file takes the place of them all.
    let file = env.iter().find(|(name, value)| name == "ETCD_CONFIG_FILE" && !value.is_empty());
    if let (false, Some((_, path)), Some(flag)) =
        (values.is_set("config-file"), file, find("config-file"))
    {
        values.say(flag, path.clone());
    }
    if !values.text("config-file").is_empty() {
        return Ok(values);
    }
    for (variable, value) in env {
        read_variable(&mut values, &variable, value)?;
    }
    Ok(values)
}

fn read_variable(values: &mut Values, variable: &str, value: String) -> Result<(), Refusal> {
    let name = variable["ETCD_".len()..].to_lowercase().replace('_', "-");
    let flag = find(&name).filter(|flag| flag.name != "version");
    let Some(flag) = flag else {
        let text = "unrecognized environment variable";
        let pair = format!("{variable}={value}");
        values.notes.push(("warn", text, "environment-variable", pair));
        return Ok(());
    };
    if values.is_set(flag.name) {
        return Err(Refusal::Conflict(variable.to_owned()));
    }
    if value.is_empty() {
        let text = "unrecognized environment variable";
        values.notes.push(("warn", text, "environment-variable", format!("{variable}=")));
        return Ok(());
    }
    if let Err(reason) = check(flag, &value) {
        return Err(Refusal::Verify(format!("invalid value \"{value}\" for {variable}: {reason}")));
    }
    let text = "recognized and used environment variable";
    values.notes.push(("info", text, "variable-name", variable.to_owned()));
    values.say(flag, value);
    Ok(())
}

fn check(flag: &Flag, value: &str) -> Result<(), String> {
    if flag.name == "feature-gates" {
        return feature_gates(value).map(drop);
    }
    let parse_error = || "parse error".to_owned();
    match flag.kind {
        Kind::Text => Ok(()),
        Kind::Bool => parse_bool(value).map(drop).ok_or_else(parse_error),
        Kind::Uint => parse_uint(value).map(drop).ok_or_else(parse_error),
        Kind::Int => parse_int(value).map(drop).ok_or_else(parse_error),
        Kind::Duration => parse_duration_ns(value).map(drop).ok_or_else(parse_error),
        Kind::Enum(allowed) if allowed.contains(&value) => Ok(()),
        Kind::Enum(_) => Err(format!("invalid value \"{value}\"")),
        Kind::Urls | Kind::Origins if value.is_empty() => Ok(()),
        Kind::Urls => split_urls(value).iter().try_for_each(|url| url::check(url)),
        Kind::Origins => {
            split_urls(value).iter().filter(|url| *url != "*").try_for_each(|url| url::check(url))
        }
    }
}

/// Sorted: a list of URLs is a set.
fn split_urls(text: &str) -> Vec<String> {
    let parts = text.split(',').map(str::trim).filter(|url| !url.is_empty());
    let mut urls: Vec<String> = parts.map(str::to_owned).collect();
    urls.sort();
    urls
}

fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// Gates of 3.7, with or without effect here.
pub const GATES: &[&str] = &[
    "StopGRPCServiceOnDefrag",
    "TxnModeWriteWithSharedBuffer",
    "InitialCorruptCheck",
    "CompactHashCheck",
    "LeaseCheckpoint",
    "LeaseCheckpointPersist",
    "SetMemberLocalAddr",
    "FastLeaseKeepAlive",
    "PriorityRequest",
    "AllAlpha",
    "AllBeta",
];

pub fn feature_gates(text: &str) -> Result<BTreeMap<String, bool>, String> {
    let mut gates = BTreeMap::new();
    for pair in text.split(',').filter(|pair| !pair.is_empty()) {
        let Some((name, value)) = pair.split_once('=') else {
            return Err(format!("missing bool value for {pair}"));
        };
        if !GATES.contains(&name) {
            return Err(format!("unrecognized feature gate: {name}"));
        }
        let value = value
            .parse()
            .map_err(|error| format!("invalid value of {name}={value}, err: {error}"))?;
        gates.insert(name.to_owned(), value);
    }
    Ok(gates)
}

/// The summary that follows an error, and `--help`.
pub fn usage() -> String {
    let mut text = String::from(
        "Usage:\n\n  etcd [flags]\n    Start an etcd server.\n\n  etcd --version\n    Show the version of etcd.\n\n  etcd -h | --help\n    Show the help information about etcd.\n",
    );
    text.push_str("\nFlags:\n");
    for flag in FLAGS {
        text.push_str(&format!("  --{} '{}'\n    {}\n", flag.name, flag.default, flag.help));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(args: &[&str]) -> Result<Values, Refusal> {
        let args: Vec<String> = args.iter().map(|a| (*a).to_owned()).collect();
        parse(&args, [])
    }

    #[test]
    fn forms() {
        let values = args(&["-name", "a", "--data-dir=/x", "--pre-vote=false", "--auto-tls"]);
        let values = values.unwrap();
        assert_eq!((values.text("name"), values.text("data-dir")), ("a", "/x"));
        assert!(!values.bool("pre-vote") && values.bool("auto-tls"));
        assert_eq!(values.uint("election-timeout"), 1000);
        assert_eq!(values.duration_ms("grpc-keepalive-interval"), 7_200_000);
    }

    #[test]
    fn refusals() {
        let usage = |text: &str| Err(Refusal::Usage(text.to_owned()));
        let result = |list: &[&str]| args(list).map(drop);
        assert_eq!(result(&["--nmae=x"]), usage("flag provided but not defined: -nmae"));
        assert_eq!(result(&["--name"]), usage("flag needs an argument: -name"));
        assert_eq!(
            result(&["--heartbeat-interval=abc"]),
            usage("invalid value \"abc\" for flag -heartbeat-interval: parse error")
        );
        assert_eq!(
            result(&["--pre-vote=maybe"]),
            usage("invalid boolean value \"maybe\" for -pre-vote: parse error")
        );
        let url = "invalid value \"localhost:1\" for flag -listen-peer-urls: URL scheme must be http, https, unix, or unixs: localhost:1";
        assert_eq!(result(&["--listen-peer-urls=localhost:1"]), usage(url));
        let path = "invalid value \"http://a:1/x\" for flag -listen-peer-urls: URL must not contain a path: http://a:1/x";
        assert_eq!(result(&["--listen-peer-urls=http://a:1/x"]), usage(path));
        assert_eq!(result(&["foo"]), Err(Refusal::Verify("\"foo\" is not a valid flag".into())));
        assert_eq!(result(&["-h"]), Err(Refusal::Help));
    }

    #[test]
    fn environment() {
        let env = |pairs: &[(&str, &str)], list: &[&str]| {
            let list: Vec<String> = list.iter().map(|a| (*a).to_owned()).collect();
            let pairs = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
            parse(&list, pairs.collect::<Vec<_>>())
        };
        let values = env(&[("ETCD_NAME", "a"), ("ETCD_FOO", "1"), ("PATH", "/")], &[]).unwrap();
        assert_eq!(values.text("name"), "a");
        assert_eq!(values.notes.len(), 2);
        let conflict = env(&[("ETCD_NAME", "a")], &["--name=b"]).unwrap_err();
        assert_eq!(conflict, Refusal::Conflict("ETCD_NAME".into()));
        let bad = env(&[("ETCD_HEARTBEAT_INTERVAL", "abc")], &[]).unwrap_err();
        let text = "invalid value \"abc\" for ETCD_HEARTBEAT_INTERVAL: parse error";
        assert_eq!(bad, Refusal::Verify(text.into()));
    }
}
