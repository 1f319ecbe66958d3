//! The configuration file: YAML whose keys are the flags' names, with a few sections. It takes the place of every flag and
//! variable. What it does not know it passes over, as etcd does. (operations.md 1.7)

use std::collections::BTreeMap;

use norn_planted::planted;
use serde_json::{Map, Value};

use crate::flags::{Flag, Kind, Values, find};
use crate::url;

/// Bytes of a file. A full one has some five thousand.
pub const FILE_BYTES_MAX: u64 = 256 << 10;

/// What ends the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// `failed to verify flags` in the log.
    Verify(String),
    /// A line on stderr.
    Line(String),
}

/// (section, its key, the flag's name)
#[rustfmt::skip]
const SECTIONS: &[(&str, &str, &str)] = &[
    ("socket-options", "reuse-port", "socket-reuse-port"),
    ("socket-options", "reuse-address", "socket-reuse-address"),
    ("client-transport-security", "cert-file", "cert-file"),
    ("client-transport-security", "key-file", "key-file"),
    ("client-transport-security", "client-cert-file", "client-cert-file"),
    ("client-transport-security", "client-key-file", "client-key-file"),
    ("client-transport-security", "client-cert-auth", "client-cert-auth"),
    ("client-transport-security", "trusted-ca-file", "trusted-ca-file"),
    ("client-transport-security", "auto-tls", "auto-tls"),
    ("client-transport-security", "allowed-hostname", "client-cert-allowed-hostname"),
    ("peer-transport-security", "cert-file", "peer-cert-file"),
    ("peer-transport-security", "key-file", "peer-key-file"),
    ("peer-transport-security", "client-cert-file", "peer-client-cert-file"),
    ("peer-transport-security", "client-key-file", "peer-client-key-file"),
    ("peer-transport-security", "client-cert-auth", "peer-client-cert-auth"),
    ("peer-transport-security", "trusted-ca-file", "peer-trusted-ca-file"),
    ("peer-transport-security", "auto-tls", "peer-auto-tls"),
    ("peer-transport-security", "allowed-cn", "peer-cert-allowed-cn"),
    ("peer-transport-security", "allowed-hostname", "peer-cert-allowed-hostname"),
    ("peer-transport-security", "skip-client-san-verification", "peer-skip-client-san-verification"),
];

/// In a file these are lists, not text with commas.
const LISTS: &[&str] = &[
    "log-outputs",
    "cipher-suites",
    "client-cert-allowed-hostname",
    "peer-cert-allowed-cn",
    "peer-cert-allowed-hostname",
];

/// Fields that etcd reads by a struct of their own, and names so when they are wrong.
const READ_AS_TEXT: &[&str] = &["cors", "host-whitelist", "feature-gates"];

/// Flags that are not a file's business.
const KEPT: &[&str] = &["raft-read-timeout", "raft-write-timeout"];

/// The values of the file at a path, and of the few flags that count beside one.
///
/// # Errors
/// As [`read`], and when there is no such file.
pub fn load(path: &str, flags: &Values) -> Result<Values, Problem> {
    let failed = |error: std::io::Error| Problem::Verify(format!("open {path}: {}", in_go(&error)));
    let len = std::fs::metadata(path).map_err(failed)?.len();
    if len > FILE_BYTES_MAX {
        let text = format!("open {path}: {len} bytes are more than {FILE_BYTES_MAX}");
        return Err(Problem::Verify(text));
    }
    let mut values = read(&std::fs::read_to_string(path).map_err(failed)?)?;
    for flag in KEPT.iter().filter_map(|name| find(name)) {
        if flags.is_set(flag.name) {
            values.say(flag, flags.text(flag.name).to_owned());
        }
    }
    Ok(values)
}

fn in_go(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "no such file or directory".to_owned(),
        std::io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => error.to_string(),
    }
}

/// The values that a file says.
///
/// # Errors
/// What is wrong with it, in etcd's words where they are known.
pub fn read(yaml: &str) -> Result<Values, Problem> {
    let options = serde_saphyr::options! {
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::LastWins,
        with_snippet: false,
    };
    let document: Value = serde_saphyr::from_str_with_options(yaml, options).map_err(|error| {
        Problem::Verify(format!("error converting YAML to JSON: yaml: {error}"))
    })?;
    let mut values = Values::of_file();
    match document {
        Value::Null => {}
        Value::Object(fields) => read_fields(&mut values, fields)?,
        other => return Err(mismatch(kind_of(&other), "value", "embed.configYAML")),
    }
    Ok(values)
}

fn read_fields(values: &mut Values, fields: Map<String, Value>) -> Result<(), Problem> {
    // (Sorted, so that the first mistake is the same one as etcd's.)
    for (key, value) in fields.into_iter().collect::<BTreeMap<_, _>>() {
        if SECTIONS.iter().any(|(section, _, _)| *section == key) {
            read_section(values, &key, value)?;
            continue;
        }
        let owner = match READ_AS_TEXT.contains(&key.as_str()) || key.ends_with("-urls") {
            true => "configYAML.configJSON",
            false => "configYAML.Config",
        };
        if let Some(flag) =
            find(&key).filter(|flag| !matches!(flag.name, "config-file" | "version"))
        {
            take(values, flag, &format!("{owner}.{key}"), &value)?;
        }
    }
    Ok(())
}

fn read_section(values: &mut Values, section: &str, value: Value) -> Result<(), Problem> {
    let (owner, package, of) = match section {
        "socket-options" => ("Config", "transport", "SocketOpts"),
        _ => ("configJSON", "embed", "securityConfig"),
    };
    let path = format!("{owner}.{section}");
    let fields = match value {
        Value::Null => return Ok(()),
        Value::Object(fields) => fields,
        other => {
            let place = format!("struct field configYAML.{path}");
            return Err(mismatch(kind_of(&other), &place, &format!("{package}.{of}")));
        }
    };
    for (key, value) in fields.into_iter().collect::<BTreeMap<_, _>>() {
        let known = SECTIONS.iter().find(|(s, k, _)| *s == section && *k == key);
        if let Some(flag) = known.and_then(|(_, _, flag)| find(flag)) {
            take(values, flag, &format!("{of}.{path}.{key}"), &value)?;
        }
    }
    Ok(())
}

fn take(
    values: &mut Values,
    flag: &'static Flag,
    path: &str,
    value: &Value,
) -> Result<(), Problem> {
    let wrong = |what: String| Err(mismatch(&what, &format!("struct field {path}"), go_type(flag)));
    let text = match (value, flag.kind) {
        (Value::Null, _) => return Ok(()),
        (Value::Array(parts), _) if LISTS.contains(&flag.name) => {
            let texts: Option<Vec<&str>> = parts.iter().map(Value::as_str).collect();
            match texts {
                Some(texts) => texts.join(","),
                None => return wrong("number".to_owned()),
            }
        }
        (other, _) if LISTS.contains(&flag.name) => return wrong(kind_of(other).to_owned()),
        (Value::Bool(is), Kind::Bool) => is.to_string(),
        (Value::Number(number), Kind::Uint) if number.is_u64() => number.to_string(),
        (Value::Number(number), Kind::Int) if number.is_i64() => number.to_string(),
        (Value::Number(number), Kind::Duration) if number.is_i64() => {
            let unit = if planted!(FileDurationInMillis) { "ms" } else { "ns" };
            format!("{number}{unit}")
        }
        (Value::Number(number), Kind::Uint | Kind::Int | Kind::Duration) => {
            return wrong(format!("number {number}"));
        }
        (Value::String(text), Kind::Text | Kind::Enum(_) | Kind::Urls | Kind::Origins) => {
            text.clone()
        }
        (other, _) => return wrong(kind_of(other).to_owned()),
    };
    check(flag, &text)?;
    values.say(flag, text);
    Ok(())
}

fn check(flag: &Flag, text: &str) -> Result<(), Problem> {
    let mut urls = text.split(',').map(str::trim).filter(|url| !url.is_empty());
    let checked = match flag.kind {
        Kind::Urls => urls.try_for_each(url::check),
        Kind::Origins => urls.filter(|url| *url != "*").try_for_each(url::check),
        Kind::Enum(allowed) if !allowed.contains(&text) && flag.name == "initial-cluster-state" => {
            return Err(Problem::Verify(format!("unexpected clusterState {text:?}")));
        }
        _ if flag.name == "feature-gates" => {
            return crate::flags::feature_gates(text).map(drop).map_err(Problem::Verify);
        }
        _ => Ok(()),
    };
    checked.map_err(|error: String| {
        Problem::Line(format!("unexpected error setting up {}: {error}", flag.name))
    })
}

/// Go's words for a value where another type is wanted.
fn mismatch(what: &str, place: &str, wanted: &str) -> Problem {
    Problem::Verify(format!(
        "error unmarshaling JSON: while decoding JSON: json: cannot unmarshal {what} into Go {place} of type {wanted}"
    ))
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn go_type(flag: &Flag) -> &'static str {
    match (flag.name, flag.kind) {
        (name, _) if LISTS.contains(&name) => "[]string",
        (_, Kind::Bool) => "bool",
        (_, Kind::Duration) => "time.Duration",
        ("quota-backend-bytes", _) => "int64",
        (_, Kind::Int) => "int",
        ("snapshot-count" | "snapshot-catchup-entries", _) => "uint64",
        ("max-concurrent-streams", _) => "uint32",
        (_, Kind::Uint) => "uint",
        _ => "string",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verify(yaml: &str) -> String {
        match read(yaml) {
            Err(Problem::Verify(text)) => text,
            other => panic!("{yaml}: {other:?}"),
        }
    }

    #[test]
    fn a_file_like_the_one_that_comes_with_etcd() {
        let yaml = "
# A comment.
name: 'default'
data-dir:
snapshot-count: 10000
heartbeat-interval: 250
listen-client-urls: http://localhost:2379,http://127.0.0.1:2379
cors:
discovery-fallback: 'exit'
discovery-proxy:
proxy: 'off'
proxy-failure-wait: 5000
strict-reconfig-check: false
enable-pprof: true
watch-progress-notify-interval: 5000000000
client-transport-security:
  cert-file:
  client-cert-auth: false
  trusted-ca-file:
socket-options: {reuse-port: true}
cipher-suites: [
  A,
  B
]
log-level: debug
logger: zap
log-outputs: [stderr]
auto-compaction-retention: \"1\"
quota-backend-bytes: 0
";
        let values = read(yaml).unwrap();
        assert_eq!((values.text("name"), values.text("log-outputs")), ("default", "stderr"));
        assert_eq!(values.uint("heartbeat-interval"), 250);
        assert_eq!(values.duration_ms("watch-progress-notify-interval"), 5000);
        assert_eq!(values.urls("listen-client-urls").len(), 2);
        assert!(!values.bool("strict-reconfig-check") && values.bool("socket-reuse-port"));
        assert_eq!(values.text("cipher-suites"), "A,B");
        assert!(!values.is_set("data-dir") && values.is_set("auto-compaction-retention"));
        assert!(read("").is_ok() && read("# nothing\n").is_ok());
    }

    #[test]
    fn mistakes_are_told_in_gos_words() {
        let at = "error unmarshaling JSON: while decoding JSON: json: cannot unmarshal ";
        for (yaml, text) in [
            (
                "watch-progress-notify-interval: 5s",
                "string into Go struct field configYAML.Config.watch-progress-notify-interval of type time.Duration",
            ),
            (
                "name: 123\nheartbeat-interval: 1.5",
                "number 1.5 into Go struct field configYAML.Config.heartbeat-interval of type uint",
            ),
            (
                "max-txn-ops: -3",
                "number -3 into Go struct field configYAML.Config.max-txn-ops of type uint",
            ),
            ("name: 123", "number into Go struct field configYAML.Config.name of type string"),
            (
                "pre-vote: 'true'",
                "string into Go struct field configYAML.Config.pre-vote of type bool",
            ),
            (
                "log-outputs: stderr",
                "string into Go struct field configYAML.Config.log-outputs of type []string",
            ),
            (
                "client-transport-security: 5",
                "number into Go struct field configYAML.configJSON.client-transport-security of type embed.securityConfig",
            ),
            ("- a", "array into Go value of type embed.configYAML"),
        ] {
            assert_eq!(verify(yaml), format!("{at}{text}"), "{yaml}");
        }
        assert!(verify("a: [").starts_with("error converting YAML to JSON: yaml: "));
        assert_eq!(verify("initial-cluster-state: foo"), "unexpected clusterState \"foo\"");
        assert_eq!(verify("feature-gates: Foo=true"), "unrecognized feature gate: Foo");
        let line = "unexpected error setting up listen-client-urls: URL scheme must be http, https, unix, or unixs: localhost:1";
        assert_eq!(read("listen-client-urls: localhost:1").err(), Some(Problem::Line(line.into())));
    }

    #[test]
    fn hostile_files_end_in_an_error() {
        let bomb = "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e]\ng: [*f,*f,*f,*f,*f,*f,*f,*f,*f]\n";
        assert!(read(bomb).is_err());
        assert!(read(&"[".repeat(100_000)).is_err());
    }
}
