//! Answers without what must differ between two servers: lease ids and ids of members added (made from the clock),
//! raft's terms and positions, sizes, times taken. Everything else stays, member and cluster ids too: both servers stand on the
//! same ports.

use std::sync::LazyLock;

use regex::Regex;

use crate::side::{Answer, Run};
use crate::{Scenario, Vary};

/// Patterns for the output of every command.
static ALWAYS: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
    compile(&[
        // etcdctl's own log lines: when, and where an object lay in its memory.
        (r#""ts":("[^"]*"|\d+\.\d+)"#, r#""ts":"T""#),
        (r#""took":\d+\.\d+"#, r#""took":"T""#),
        (r"\b0x[0-9a-f]{6,}", "POINTER"),
        (r"LocalAddr: '127.0.0.1:\d+'", "LocalAddr: 'HERE'"),
        (r"client-[0-9a-f-]{36}", "client-UUID"),
        (r"\b\d+(\.\d+)?(ns|µs|ms)\b|\b\d+\.\d+s\b", "T"),
        (r"remaining\(\d+s\)", "remaining(T)"),
        // A session's key ends in its lease.
        (r"/[0-9a-f]{14,16}\b", "/LEASE"),
        (
            r#""(raft_term|raftTerm|raftIndex|raftAppliedIndex|dbSize|dbSizeInUse)":\d+"#,
            r#""$1":0"#,
        ),
        (r#""(RaftTerm|RaftIndex|RaftAppliedIndex|DBSize|DBSizeInUse|Took)" : .*"#, r#""$1" : N"#),
        (r"current term: \d+", "current term: N"),
        // An interrupt meets a call under way, or the pause between two.
        (r"(?m)^\{[^\n]*retrying of unary invoker failed[^\n]*context canceled[^\n]*\n?", ""),
        // Leases that were not captured.
        (r#""(Lease)" : \d{6,}"#, r#""$1" : LEASE"#),
        (r#""(lease)":\d{6,}"#, r#""$1":0"#),
        // Columns are as wide as their widest cell, and blanks in protobuf's text are random on purpose.
        (r"─+", "─"),
        (r"-{4,}", "---"),
        (r" {2,}", " "),
    ])
});

/// A lease's own answers, where its id was not captured, and the seconds it has left.
static LEASE: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
    compile(&[
        (r#""(ID|id)":\d+"#, r#""$1":0"#),
        (r#""(ID|LeaseID)" : [0-9a-f]+"#, r#""$1" : LEASE"#),
        (r"\b[0-9a-f]{15,16}\b", "LEASE"),
        (r#"("ttl":\d*)\d,"granted"#, r#""ttl":0,"granted"#),
        (r#""TTL" : \d+(\n"GrantedTTL")"#, r#""TTL" : T$1"#),
    ])
});

static REVISION: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
    compile(&[
        (r#""revision":\d+"#, r#""revision":N"#),
        (r#""Revision" : \d+"#, r#""Revision" : N"#),
    ])
});

/// The key of a session ends in its lease, in JSON behind base64.
static SESSION: LazyLock<Vec<(Regex, &str)>> =
    LazyLock::new(|| compile(&[(r#""key":"[^"]*""#, r#""key":"""#)]));

/// The database as a file: its size and the hash over ids that are this cluster's own.
static FILE: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
    compile(&[
        (r#""(hash|totalSize)":\d+"#, r#""$1":0"#),
        (r#""(Hash|Size)" : .*"#, r#""$1" : N"#),
        (r"(?m)^[0-9a-f]{5,8}, ", "HASH, "),
        (r"(?m)^([│|]) [0-9a-f]{5,8} ", "$1 HASH "),
        (r"\b\d+(\.\d+)? [kM]B\b", "SIZE"),
    ])
});

/// Whole cells of `endpoint status`.
static STATUS_CELL: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"^(\d+|\d+(\.\d+)? ?[kMG]?B|\d+%)$").expect("a pattern of ours"));

fn compile(patterns: &[(&str, &'static str)]) -> Vec<(Regex, &'static str)> {
    patterns
        .iter()
        .map(|(pattern, with)| (Regex::new(pattern).expect("a pattern of ours"), *with))
        .collect()
}

pub fn normal(answer: &Answer, run: &Run, scenario: &Scenario) -> Answer {
    let joins = scenario.vary == Vary::Members;
    let words: Vec<&str> = answer.command.split(' ').collect();
    let has = |word: &str| words.contains(&word);
    let text = |text: &str| {
        let mut text = text.to_owned();
        for (name, value) in &run.captured {
            text = without_captured(text, name, value);
        }
        if has("lease") {
            text = replaced(text, &LEASE);
        }
        if has("lock") || has("elect") {
            text = replaced(text, &SESSION);
        }
        if has("snapshot") {
            text = replaced(text, &FILE);
        }
        if scenario.vary == Vary::Revisions {
            text = replaced(text, &REVISION);
        }
        text = replaced(text, &ALWAYS);
        if has("endpoint") && has("status") && !text.starts_with(['[', '"']) {
            text = text.lines().map(|l| status_line(l) + "\n").collect();
        }
        let no_order =
            // Asked all at the same time.
            (has("endpoint") && has("health"))
            // A new member's id stands anywhere among the others.
            || (joins && (has("member") || has("--cluster")))
            // Ordered by expiry, which only the leader knows.
            || (has("lease") && has("list") && scenario.nodes > 1)
            // A map's order in a real etcd.
            || has("timetolive");
        if no_order {
            text = sorted(&text);
        }
        text
    };
    Answer {
        command: answer.command.clone(),
        code: answer.code.clone(),
        took: answer.took,
        stdout: text(&answer.stdout),
        stderr: text(&answer.stderr),
    }
}

fn replaced(mut text: String, patterns: &[(Regex, &str)]) -> String {
    for (pattern, with) in patterns {
        text = pattern.replace_all(&text, *with).into_owned();
    }
    text
}

/// An id, as etcdctl writes it: in hex, as a decimal number, signed or not.
fn without_captured(mut text: String, name: &str, value: &str) -> String {
    let with = format!("<{name}>");
    if let Ok(number) = u64::from_str_radix(value, 16) {
        let quote = if text.starts_with(['{', '[']) { "\"" } else { "" };
        text = text.replace(&number.to_string(), &format!("{quote}{with}{quote}"));
        text = text.replace(&format!("{number:016x}"), &with);
        text = text.replace(&format!("{number:x}"), &with);
    }
    text.replace(value, &with)
}

fn status_line(line: &str) -> String {
    let separator = if line.contains('│') {
        '│'
    } else if line.contains('|') {
        '|'
    } else {
        ','
    };
    let cells: Vec<String> = line
        .split(separator)
        .map(|cell| match STATUS_CELL.is_match(cell.trim()) {
            true => " N ".to_owned(),
            false => cell.to_owned(),
        })
        .collect();
    cells.join(&separator.to_string())
}

/// In an order that does not depend on ids: paragraphs of `fields`, elements of JSON, names of a list, else lines.
fn sorted(text: &str) -> String {
    if text.starts_with('"') && text.contains("\n\n") {
        // The header stands before the first.
        let text = text.replace("\n\"ID\" :", "\n\n\"ID\" :").replace("\n\n\n", "\n\n");
        let mut parts: Vec<&str> = text.split("\n\n").collect();
        parts.sort_unstable();
        return parts.join("\n\n");
    }
    if let Ok(mut json) = serde_json::from_str(text) {
        sort_arrays(&mut json);
        return format!("{json}\n");
    }
    let mut lines: Vec<String> = text
        .lines()
        .map(|line| {
            if let Some(list) = line.strip_prefix("ETCD_INITIAL_CLUSTER=\"") {
                let list = sorted_words(list.trim_end_matches('"'), ",");
                return format!("ETCD_INITIAL_CLUSTER=\"{list}\"");
            }
            if let Some((head, list)) = line.split_once("attached keys([") {
                return format!(
                    "{head}attached keys({}",
                    sorted_words(list.trim_end_matches("])"), " ")
                );
            }
            line.to_owned()
        })
        .collect();
    lines.sort_unstable();
    lines.join("\n") + "\n"
}

fn sorted_words(list: &str, separator: &str) -> String {
    let mut words: Vec<&str> = list.split(separator).collect();
    words.sort_unstable();
    words.join(separator)
}

fn sort_arrays(json: &mut serde_json::Value) {
    match json {
        serde_json::Value::Array(list) => {
            list.iter_mut().for_each(sort_arrays);
            list.sort_by_cached_key(ToString::to_string);
        }
        serde_json::Value::Object(fields) => fields.values_mut().for_each(sort_arrays),
        _ => {}
    }
}
