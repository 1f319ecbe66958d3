//! What clients, browsers and dashboards ask over plain HTTP: health, version, metrics, and calls as JSON.

use std::rc::Rc;

use bytes::Bytes;
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, HOST,
    HeaderMap, HeaderValue, ORIGIN, X_CONTENT_TYPE_OPTIONS,
};
use http::{Method as HttpMethod, Request, Response, StatusCode};
use norn_node::{Error, Method};
use norn_proto::etcdserverpb as pb;
use prost::Message;

use crate::body::Body;
use crate::client::{JSON, PLAIN, page};
use crate::config::ServerConfig;
use crate::core::Core;
use crate::{debug_http, gateway, go_paths, websocket};

/// What a client asks: the gateway's calls, or a look at the server.
pub async fn serve<B>(core: Rc<Core>, config: &ServerConfig, request: Request<B>) -> Response<Body>
where
    B: http_body::Body<Data = Bytes> + 'static,
{
    if let Some(refused) = go_paths::refused(request.uri()) {
        return refused;
    }
    if let Some(refused) = foreign_host(config, &request) {
        return refused;
    }
    let origin = allowed_origin(config, request.headers());
    let is_gateways = config.gateway && gateway::serves(request.uri().path());
    let folder = config.gateway.then_some(gateway::FOLDER);
    let elsewhere = go_paths::elsewhere(request.method(), request.uri(), folder);
    let mut response = if request.method() == HttpMethod::OPTIONS {
        Response::new(Body::empty())
    } else if let Some(elsewhere) = elsewhere {
        elsewhere
    } else if is_gateways && websocket::is_asked(request.headers()) {
        websocket::begin(&request)
    } else if is_gateways {
        gateway::serve(&core, request).await
    } else if let Some(page) = debug_http::serve(&core, config, request.uri()).await {
        page
    } else {
        look(&core, &request).await
    };
    // (A connection that becomes another is nobody's page.)
    if let Some(origin) = origin
        && response.status() != StatusCode::SWITCHING_PROTOCOLS
    {
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
    let path = go_paths::unescaped(request.uri().path()).unwrap_or_default();
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
        _ => match probe(&path) {
            Some(_) if !is_get => not_allowed(),
            Some((kind, check)) => probes(core, kind, check, &query).await,
            None => not_found(),
        },
    }
}

fn not_found() -> Response<Body> {
    let mut response = page(404, PLAIN, "404 page not found\n");
    response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// The checks of a kind.
fn checks(kind: &str) -> Option<&'static [&'static str]> {
    match kind {
        "livez" => Some(&["serializable_read"]),
        "readyz" => {
            Some(&["data_corruption", "serializable_read", "linearizable_read", "non_learner"])
        }
        _ => None,
    }
}

/// A kind, and which one of its checks, if not all.
fn probe(path: &str) -> Option<(&'static str, Option<&str>)> {
    let path = path.strip_prefix('/')?;
    let (kind, check) = match path.split_once('/') {
        None => (path, None),
        Some((kind, check)) => (kind, Some(check)),
    };
    let kind = ["livez", "readyz"].into_iter().find(|known| *known == kind)?;
    let is_known = check.is_none_or(|check| checks(kind).unwrap_or_default().contains(&check));
    is_known.then_some((kind, check))
}

fn not_allowed() -> Response<Body> {
    let mut response = page(405, PLAIN, "Method Not Allowed\n");
    let headers = response.headers_mut();
    headers.insert(http::header::ALLOW, http::HeaderValue::from_static("GET"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
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

async fn health(core: &Rc<Core>, query: &str) -> Response<Body> {
    let excluded = go_paths::asked(query, "exclude");
    let serializable = go_paths::asked(query, "serializable");
    let is_serializable = serializable.first().is_some_and(|value| value == "true");
    let reason = match alarm(core, |name| excluded.iter().any(|other| other == name)) {
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
            let mut response = page(503, PLAIN, text);
            let nosniff = HeaderValue::from_static("nosniff");
            response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, nosniff);
            response
        }
    }
}

fn alarm(core: &Core, is_excluded: impl Fn(&str) -> bool) -> Option<&'static str> {
    core.with_node(|node| {
        node.alarms()
            .map(|(_, kind)| match pb::AlarmType::try_from(kind) {
                Ok(pb::AlarmType::Nospace) => "NOSPACE",
                Ok(pb::AlarmType::Corrupt) => "CORRUPT",
                _ => "UNKNOWN",
            })
            .find(|name| !is_excluded(name))
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

async fn probes(
    core: &Rc<Core>,
    kind: &'static str,
    only: Option<&str>,
    query: &str,
) -> Response<Body> {
    let excluded = go_paths::asked(query, "exclude");
    let is_verbose = !go_paths::asked(query, "verbose").is_empty();
    let mut lines = String::new();
    let mut failed = false;
    for check in checks(kind).unwrap_or_default() {
        // (Who names one means it.)
        let is_meant = match only {
            Some(only) => only == *check,
            None => !excluded.iter().any(|name| name == check),
        };
        if !is_meant {
            continue;
        }
        let result = match *check {
            "data_corruption" => match alarm(core, |name| name != "CORRUPT") {
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
    response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
