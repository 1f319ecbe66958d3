//! What clients and dashboards ask over plain HTTP: health, version, metrics.

use std::rc::Rc;

use bytes::Bytes;
use http::{Method as HttpMethod, Request, Response};
use norn_node::{Error, Method};
use norn_proto::etcdserverpb as pb;
use prost::Message;

use crate::body::Body;
use crate::client::{JSON, PLAIN, page};
use crate::core::Core;

pub async fn serve<B>(core: Rc<Core>, request: Request<B>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let query = request.uri().query().unwrap_or_default().to_owned();
    let is_get = request.method() == HttpMethod::GET;
    match path.as_str() {
        "/version" | "/health" if !is_get => not_allowed(),
        "/version" => page(200, JSON, version(&core)),
        "/health" => health(&core, &query).await,
        "/metrics" => {
            let text = core.with_node(|node| {
                crate::metrics::page(node, &core.disk_metrics, &core.grpc_metrics.borrow())
            });
            page(200, "text/plain; version=0.0.4; charset=utf-8; escaping=underscores", text)
        }
        _ => match path.strip_prefix('/').and_then(|path| {
            let (kind, check) = path.split_once('/').unwrap_or((path, ""));
            (kind == "livez" || kind == "readyz").then(|| (kind.to_owned(), check.to_owned()))
        }) {
            Some(_) if !is_get => not_allowed(),
            Some((kind, check)) => probes(&core, &kind, &check, &query).await,
            None => page(404, PLAIN, "404 page not found\n"),
        },
    }
}

fn not_allowed() -> Response<Body> {
    let mut response = page(405, PLAIN, "Method Not Allowed\n");
    response.headers_mut().insert(http::header::ALLOW, http::HeaderValue::from_static("GET"));
    response
}

pub fn version(core: &Core) -> String {
    core.with_node(|node| {
        format!(
            "{{\"etcdserver\":\"{}\",\"etcdcluster\":\"{}\",\"storage\":\"{}\"}}",
            norn_node::SERVER_VERSION,
            node.cluster_version().unwrap_or("not_decided"),
            node.storage_version().unwrap_or_else(|| "unknown".to_owned()),
        )
    })
}

fn asked<'a>(query: &'a str, name: &'a str) -> impl Iterator<Item = &'a str> {
    let pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.filter(move |(key, _)| *key == name).map(|(_, value)| value)
}

async fn health(core: &Rc<Core>, query: &str) -> Response<Body> {
    let excluded: Vec<&str> = asked(query, "exclude").collect();
    let is_serializable = asked(query, "serializable").any(|value| value == "true");
    let reason = match alarm(core, &excluded) {
        Some(alarm) => Some(format!("ALARM {alarm}")),
        None if !is_serializable && !core.with_node(|node| node.has_leader()) => {
            Some("RAFT NO LEADER".to_owned())
        }
        None => read(core, is_serializable).await.err().map(|error| format!("RANGE ERROR:{error}")),
    };
    match reason {
        None => page(200, PLAIN, "{\"health\":\"true\",\"reason\":\"\"}"),
        Some(reason) => {
            let text = format!("{{\"health\":\"false\",\"reason\":\"{reason}\"}}\n");
            core.log.warn("/health error", &[("output", (&text).into())]);
            page(503, PLAIN, text)
        }
    }
}

fn alarm(core: &Core, excluded: &[&str]) -> Option<&'static str> {
    core.with_node(|node| {
        node.alarms()
            .map(|(_, kind)| match pb::AlarmType::try_from(kind) {
                Ok(pb::AlarmType::Nospace) => "NOSPACE",
                Ok(pb::AlarmType::Corrupt) => "CORRUPT",
                _ => "UNKNOWN",
            })
            .find(|name| !excluded.contains(name))
    })
}

async fn read(core: &Rc<Core>, is_serializable: bool) -> Result<Bytes, Error> {
    if !is_serializable {
        return core.call(Method::Barrier, Bytes::new()).await;
    }
    let request = pb::RangeRequest {
        key: Bytes::from_static(&[0]),
        limit: 1,
        keys_only: true,
        serializable: true,
        ..Default::default()
    };
    core.call(Method::Range, request.encode_to_vec().into()).await
}

async fn probes(core: &Rc<Core>, kind: &str, only: &str, query: &str) -> Response<Body> {
    let all: &[&str] = match kind {
        "livez" => &["serializable_read"],
        _ => &["data_corruption", "serializable_read", "linearizable_read", "non_learner"],
    };
    if !only.is_empty() && !all.contains(&only) {
        return page(404, PLAIN, "404 page not found\n");
    }
    let excluded: Vec<&str> = asked(query, "exclude").collect();
    let is_verbose = query.split('&').any(|pair| pair == "verbose" || pair.starts_with("verbose="));
    let mut lines = String::new();
    let mut failed = false;
    for check in all {
        if (!only.is_empty() && only != *check) || excluded.contains(check) {
            continue;
        }
        let result = match *check {
            "data_corruption" => match alarm(core, &["NOSPACE", "UNKNOWN"]) {
                Some(_) => Err("alarm activated: CORRUPT".to_owned()),
                None => Ok(()),
            },
            "non_learner" => match core.with_node(|node| node.is_learner()) {
                true => Err("not supported for learner".to_owned()),
                false => Ok(()),
            },
            "linearizable_read" => read(core, false).await.map(drop).map_err(|e| e.to_string()),
            _ => read(core, true).await.map(drop).map_err(|e| e.to_string()),
        };
        match result {
            Ok(()) => lines.push_str(&format!("[+]{check} ok\n")),
            Err(error) => {
                failed = true;
                lines.push_str(&format!("[-]{check} failed: {error}\n"));
            }
        }
    }
    let mut response = if failed {
        core.log.error("Health check error", &[("output", (&lines).into())]);
        page(503, PLAIN, lines + "\n")
    } else if is_verbose {
        page(200, PLAIN, lines + "ok\n")
    } else {
        page(200, PLAIN, "ok\n")
    };
    let nosniff = http::HeaderValue::from_static("nosniff");
    response.headers_mut().insert("X-Content-Type-Options", nosniff);
    response
}
