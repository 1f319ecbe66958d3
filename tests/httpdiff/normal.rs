//! Answers without what must differ between two servers: ids, terms, sizes, ports.

use norn_tests::http::Answer;
use serde_json::Value;

use crate::requests::Ask;

/// Headers that clients look at.
const HEADERS: &[&str] = &[
    "access-control-allow-headers",
    "access-control-allow-methods",
    "access-control-allow-origin",
    "allow",
    "content-type",
    "grpc-metadata-content-type",
    "location",
    "sec-websocket-version",
    "www-authenticate",
    "x-content-type-options",
];

/// Fields whose values are a server's own, if they have any.
const OWN: &[&str] = &[
    "cluster_id",
    "member_id",
    "memberID",
    "raft_term",
    "raftTerm",
    "raftIndex",
    "raftAppliedIndex",
    "leader",
    "dbSize",
    "dbSizeInUse",
    "TTL",
];

/// An answer as text: equal texts are equal answers.
pub fn shown(ask: &Ask, answer: &Answer) -> String {
    let named = answer.headers.iter().filter(|(name, _)| HEADERS.contains(&name.as_str()));
    let mut headers: Vec<String> = named.map(|(name, value)| format!("{name}: {value}")).collect();
    headers.sort();
    format!("{} [{}] {}", answer.status, headers.join(", "), body(ask, answer))
}

fn body(ask: &Ask, answer: &Answer) -> String {
    // (Go answers a path that it cannot read with a page, also where HTTP forbids one.)
    if ask.method == "HEAD" {
        return String::new();
    }
    if ask.path.ends_with("/snapshot") && answer.status == 200 {
        return "a database".to_owned();
    }
    // (Go's protobuf draws the width of the space behind its name, and of those between fields, when it is built.)
    let text = answer.text().replace('\u{a0}', " ");
    let lines = text.lines().map(|line| match serde_json::from_str::<Value>(line) {
        Ok(mut value) => {
            settle(&mut value);
            if ask.path.ends_with("/hash") {
                value["hash"].take();
            }
            value.to_string()
        }
        Err(_) => line.trim_end().to_owned(),
    });
    let mut lines: Vec<String> = lines.collect();
    // (Checks are listed as a Go map gives them.)
    if ask.path.contains("verbose") {
        lines.sort();
    }
    lines.join("\n")
}

fn settle(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields.iter_mut() {
                if OWN.contains(&name.as_str()) {
                    *value = Value::from("N");
                }
                let is_drawn = |id: &str| id.len() > 15 && id.bytes().all(|b| b.is_ascii_digit());
                if name == "ID" && value.as_str().is_some_and(is_drawn) {
                    *value = Value::from("N");
                }
                settle(value);
            }
        }
        Value::Array(values) => {
            values.iter_mut().for_each(settle);
            if values.iter().all(|value| value["ID"].is_string()) {
                values.sort_by_key(Value::to_string);
            }
        }
        Value::String(text) if text.starts_with("http://127.0.0.1:") => {
            "http://127.0.0.1".clone_into(text);
        }
        _ => {}
    }
}
