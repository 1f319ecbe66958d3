//! What clients, browsers and dashboards ask over plain HTTP: health, version, metrics, and calls as JSON.

use std::rc::Rc;

use bytes::Bytes;
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, HOST,
    HeaderMap, HeaderValue, ORIGIN,
};
use http::{Method as HttpMethod, Request, Response};
use norn_node::{Error, Method};
use norn_proto::etcdserverpb as pb;
use prost::Message;

use crate::body::Body;
use crate::client::{JSON, PLAIN, page};
use crate::config::ServerConfig;
use crate::core::Core;
use crate::debug_http;
use crate::gateway;

/// What a client asks: the gateway's calls, or a look at the server.
pub async fn serve<B>(core: Rc<Core>, config: &ServerConfig, request: Request<B>) -> Response<Body>
where
    B: http_body::Body<Data = Bytes> + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    if let Some(refused) = foreign_host(config, &request) {
        return refused;
    }
    let origin = allowed_origin(config, request.headers());
    let mut response = if request.method() == HttpMethod::OPTIONS {
        Response::new(Body::empty())
    } else if config.gateway && gateway::serves(request.uri().path()) {
        gateway::serve(&core, request).await
    } else if let Some(page) = debug_http::serve(&core, config, request.uri().path()) {
        page
    } else {
        look(&core, &request).await
    };
    if let Some(origin) = origin {
        let headers = response.headers_mut();
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        let methods = HeaderValue::from_static("POST, GET, OPTIONS, PUT, DELETE");
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, methods);
        let allowed = HeaderValue::from_static("accept, content-type, authorization");
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, allowed);
    }
    response
}

/// `--host-whitelist`: against names that an attacker lets point to this server.
fn foreign_host<B>(config: &ServerConfig, request: &Request<B>) -> Option<Response<Body>> {
    let named = request.headers().get(HOST).and_then(|host| host.to_str().ok());
    let host = named.or(request.uri().authority().map(|a| a.as_str())).unwrap_or_default();
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let is_listed = |listed: &String| listed == "*" || listed == name;
    if config.host_whitelist.is_empty() || config.host_whitelist.iter().any(is_listed) {
        return None;
    }
    let text = format!(
        "A request for the host {name:?}, which --host-whitelist does not name, is refused: \
         against DNS rebinding. Start the server with --host-whitelist={name} to allow it.\n"
    );
    Some(page(421, PLAIN, text))
}

/// What a browser is told of the page that asks.
fn allowed_origin(config: &ServerConfig, headers: &HeaderMap) -> Option<HeaderValue> {
    let allows = |origin: &str| config.cors.iter().any(|allowed| allowed == origin);
    if config.cors.is_empty() || allows("*") {
        return Some(HeaderValue::from_static("*"));
    }
    let origin = headers.get(ORIGIN)?;
    origin.to_str().is_ok_and(allows).then(|| origin.clone())
}

/// Health, version, metrics.
pub async fn look<B>(core: &Rc<Core>, request: &Request<B>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let query = request.uri().query().unwrap_or_default().to_owned();
    let is_get = request.method() == HttpMethod::GET;
    match path.as_str() {
        "/version" | "/health" if !is_get => not_allowed(),
        "/version" => page(200, JSON, version(core)),
        "/health" => health(core, &query).await,
        "/metrics" => {
            let text = crate::metrics::page(core);
            page(200, "text/plain; version=0.0.4; charset=utf-8; escaping=underscores", text)
        }
        _ => match path.strip_prefix('/').and_then(|path| {
            let (kind, check) = path.split_once('/').unwrap_or((path, ""));
            let kind = ["livez", "readyz"].into_iter().find(|known| *known == kind)?;
            Some((kind, check.to_owned()))
        }) {
            Some(_) if !is_get => not_allowed(),
            Some((kind, check)) => probes(core, kind, &check, &query).await,
            None => {
                let mut response = page(404, PLAIN, "404 page not found\n");
                let nosniff = HeaderValue::from_static("nosniff");
                response.headers_mut().insert("X-Content-Type-Options", nosniff);
                response
            }
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
    core.health_metrics.answered(reason.is_none());
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

async fn probes(core: &Rc<Core>, kind: &'static str, only: &str, query: &str) -> Response<Body> {
    let all: &[&'static str] = match kind {
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
        core.health_metrics.checked(kind, check, result.is_ok());
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
