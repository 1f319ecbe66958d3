//! What other members ask over the peer port: raft's streams and posts, snapshots, members, leases.

use std::rc::Rc;

use bytes::Bytes;
use http::{HeaderMap, Method as HttpMethod, Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use norn_node::{CLUSTER_VERSION, Error, Input, Method, SERVER_VERSION, parse_version};
use norn_proto::{etcdserverpb as pb, leasepb};
use norn_raft::codec;
use norn_storage::FileName;
use prost::Message;

use crate::body::Body;
use crate::client::{JSON, PLAIN, page};
use crate::core::Core;
use crate::peer_codec::{BadHead, SnapshotHead, StreamKind};
use crate::runtime::disk::Received;
use crate::runtime::time::Instant;
use crate::transport::{hex_header, snapshot_index};

/// One posted raft message.
const POST_BYTES_MAX: usize = 512 << 20;
const LEASE_BYTES_MAX: usize = 64 << 10;

pub async fn serve(core: Rc<Core>, request: Request<Incoming>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let method = request.method().clone();
    let mut response = route(&core, &method, &path, request).await;
    if path.starts_with("/raft") || path.starts_with("/members") || path == "/downgrade/enabled" {
        let id = hex_header(core.transport.cluster_id());
        response.headers_mut().insert("X-Etcd-Cluster-ID", id);
    }
    response
}

async fn route(
    core: &Rc<Core>,
    method: &HttpMethod,
    path: &str,
    request: Request<Incoming>,
) -> Response<Body> {
    let is = |wanted: HttpMethod| *method == wanted;
    match path {
        "/version" if is(HttpMethod::GET) => page(200, JSON, crate::http_api::version(core)),
        "/members" if is(HttpMethod::GET) => page(200, JSON, members(core)),
        "/raft/probing" if is(HttpMethod::GET) => {
            let now = crate::runtime::time::unix();
            let now = crate::log::timestamp(now.as_secs(), now.subsec_micros());
            page(200, JSON, format!("{{\"OK\":true,\"Now\":\"{now}\"}}\n"))
        }
        "/raft" if is(HttpMethod::POST) => raft(core, request).await,
        "/raft/snapshot" if is(HttpMethod::POST) => snapshot(core, request).await,
        "/leases" if is(HttpMethod::POST) => lease(core, request).await,
        "/leases/internal" if is(HttpMethod::POST) => lease_internal(core, request).await,
        "/members/hashkv" if is(HttpMethod::GET) => hash_kv(core, request).await,
        "/downgrade/enabled" if is(HttpMethod::GET) => downgrade_enabled(core).await,
        "/version" | "/members" | "/raft/probing" | "/raft" | "/raft/snapshot" | "/leases"
        | "/leases/internal" | "/members/hashkv" | "/downgrade/enabled" => {
            page(405, PLAIN, "Method Not Allowed\n")
        }
        _ => {
            if let Some(rest) = path.strip_prefix("/raft/stream/") {
                if !is(HttpMethod::GET) {
                    return page(405, PLAIN, "Method Not Allowed\n");
                }
                return stream(core, rest, request.headers());
            }
            if let Some(id) = path.strip_prefix("/members/promote/") {
                if !is(HttpMethod::POST) {
                    return page(405, PLAIN, "Method Not Allowed\n");
                }
                return promote(core, id).await;
            }
            page(404, PLAIN, "404 page not found\n")
        }
    }
}

/// As all members know it, not only this one.
async fn downgrade_enabled(core: &Core) -> Response<Body> {
    match core.call(Method::Barrier, Bytes::new()).await {
        Ok(_) => {
            let is_enabled = core.with_node(|node| node.downgrade_target().is_some());
            page(200, "text/plain", is_enabled.to_string())
        }
        Err(error) => page(500, PLAIN, format!("failed linearized read: {error}\n")),
    }
}

fn members(core: &Core) -> String {
    core.with_node(|node| {
        let members: Vec<String> = node.members().iter().map(norn_node::Member::to_json).collect();
        format!("[{}]\n", members.join(","))
    })
}

/// Whether the sender may talk to us at all.
fn check(core: &Core, headers: &HeaderMap) -> Result<(), Box<Response<Body>>> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let refuse = |why: &'static str| Err(Box::new(page(412, PLAIN, format!("{why}\n"))));
    let version = text("X-Server-Version").map_or(Some((2, 0)), parse_version);
    let min_cluster = text("X-Min-Cluster-Version").map_or(Some((2, 0)), parse_version);
    let own = parse_version(SERVER_VERSION);
    if version < Some((3, 0)) || min_cluster > own || parse_version(CLUSTER_VERSION) > own {
        return refuse("incompatible version");
    }
    if let Some(id) = text("X-Etcd-Cluster-ID")
        && u64::from_str_radix(id, 16) != Ok(core.transport.cluster_id())
    {
        core.log.warn(
            "request cluster ID mismatch",
            &[
                (
                    "local-member-cluster-id",
                    format!("{:x}", core.transport.cluster_id()).as_str().into(),
                ),
                ("remote-peer-cluster-id", id.into()),
            ],
        );
        return refuse("cluster ID mismatch");
    }
    Ok(())
}

/// Remembers where the sender is found, in case it has to be answered before it is known.
fn meet(core: &Core, headers: &HeaderMap) {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let from = text("X-Server-From").and_then(|id| u64::from_str_radix(id, 16).ok());
    if let (Some(from), Some(urls)) = (from, text("X-PeerURLs").filter(|urls| !urls.is_empty())) {
        core.transport.meet(from, urls);
    }
}

fn stream(core: &Rc<Core>, path: &str, headers: &HeaderMap) -> Response<Body> {
    if let Err(refused) = check(core, headers) {
        return *refused;
    }
    meet(core, headers);
    let parsed = path.split_once('/').and_then(|(kind, id)| {
        let kind = match kind {
            "msgapp" => StreamKind::MsgApp,
            "message" => StreamKind::Message,
            _ => return None,
        };
        Some((kind, u64::from_str_radix(id, 16).ok()?))
    });
    let Some((kind, from)) = parsed else { return page(404, PLAIN, "invalid path\n") };
    if core.transport.is_removed(from) {
        return page(410, PLAIN, "removed member\n");
    }
    let to = headers.get("X-Raft-To").and_then(|value| value.to_str().ok());
    if to.and_then(|id| u64::from_str_radix(id, 16).ok()) != Some(core.transport.id()) {
        return page(412, PLAIN, "to field mismatch\n");
    }
    let Some(parts) = core.transport.attach(from, kind) else {
        return page(404, PLAIN, "error sender not found\n");
    };
    let mut response = Response::new(Body::Stream(parts));
    let version = http::HeaderValue::from_static(SERVER_VERSION);
    response.headers_mut().insert("X-Server-Version", version);
    response
}

async fn read_body(request: Request<Incoming>, max: usize) -> Result<Bytes, u16> {
    let body = http_body_util::Limited::new(request.into_body(), max);
    match body.collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => Err(413),
        Err(_) => Err(400),
    }
}

async fn raft(core: &Rc<Core>, request: Request<Incoming>) -> Response<Body> {
    if let Err(refused) = check(core, request.headers()) {
        return *refused;
    }
    meet(core, request.headers());
    let body = match read_body(request, POST_BYTES_MAX).await {
        Ok(body) => body,
        Err(status) => return page(status, PLAIN, "error reading raft message\n"),
    };
    let len = body.len();
    let Ok(message) = codec::decode_message(body) else {
        return page(400, PLAIN, "error unmarshalling raft message\n");
    };
    if let Some(refused) = check_addresses(core, &message) {
        return refused;
    }
    if core.transport.knows(message.from.0) {
        core.transport.metrics.received(message.from.0, len);
    }
    core.input(Input::Peer(message));
    empty(204)
}

/// A 403 makes the sender stop for good, so it is only for those who really are at the wrong address.
fn check_addresses(core: &Core, message: &norn_raft::Message) -> Option<Response<Body>> {
    let refuse = |why: &str| page(403, JSON, format!("{{\"message\":\"{why}\"}}"));
    if core.transport.is_removed(message.from.0) {
        return Some(refuse("cannot process message from removed member"));
    }
    if message.to.0 != core.transport.id() {
        return Some(refuse("cannot process message to mismatch member"));
    }
    None
}

fn empty(status: u16) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() =
        http::StatusCode::from_u16(status).unwrap_or(http::StatusCode::NO_CONTENT);
    response
}

/// A database from the leader: stored beside the snapshots and synced before raft hears of it.
async fn snapshot(core: &Rc<Core>, request: Request<Incoming>) -> Response<Body> {
    if let Err(refused) = check(core, request.headers()) {
        return *refused;
    }
    meet(core, request.headers());
    let mut body = request.into_body();
    let mut head = SnapshotHead::default();
    let (message, first) = loop {
        match head.take() {
            Ok(Some(found)) => break found,
            Ok(None) => {}
            Err(BadHead::TooLarge) => return page(400, PLAIN, "snapshot message too large\n"),
            Err(BadHead::NoSnapshot) => {
                return page(400, PLAIN, "failed to decode raft message\n");
            }
        }
        match body.frame().await {
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    head.push(&data);
                }
            }
            _ => return page(400, PLAIN, "failed to read raft message\n"),
        }
    };
    if let Some(refused) = check_addresses(core, &message) {
        return refused;
    }
    let index = snapshot_index(&message);
    let name = FileName::new(format!("member/snap/{index:016x}.snap.db"));
    let (from, metrics) = (message.from.0, &core.transport.metrics);
    let began = Instant::now();
    metrics.snapshot_comes(from);
    let stored = store(core, &name, first, body).await;
    metrics.snapshot_received(from, began.elapsed(), stored.is_ok());
    match stored {
        Ok(len) => {
            metrics.received(from, len);
            core.disk_metrics.received.observe(began.elapsed());
            core.input(Input::SnapshotReceived { message, file: name });
            empty(204)
        }
        Err(error) => {
            let text = error.to_string();
            core.log
                .warn("failed to save incoming database snapshot", &[("error", (&text).into())]);
            page(500, PLAIN, format!("failed to save KV snapshot: {text}\n"))
        }
    }
}

async fn store(
    core: &Core,
    name: &FileName,
    first: Bytes,
    mut body: Incoming,
) -> Result<usize, Box<dyn std::error::Error>> {
    let mut file = Received::create(core.data_dir(), name)?;
    file.write(&first).await?;
    let mut len = first.len();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            file.write(&data).await?;
            len += data.len();
        }
    }
    let began = Instant::now();
    file.finish().await?;
    core.disk_metrics.received_sync.observe(began.elapsed());
    Ok(len)
}

const NOT_APPLIED: &str = "waiting for node to catch up its applied index has timed out\n";

async fn lease(core: &Rc<Core>, request: Request<Incoming>) -> Response<Body> {
    let body = match read_body(request, LEASE_BYTES_MAX).await {
        Ok(body) => body,
        Err(status) => return page(status, PLAIN, "error reading body\n"),
    };
    match core.call(Method::LeaseKeepAlive, body).await {
        Ok(reply) => {
            let Ok(reply) = pb::LeaseKeepAliveResponse::decode(reply) else {
                return page(500, PLAIN, "bad reply\n");
            };
            if reply.ttl <= 0 {
                return page(404, PLAIN, "lease not found\n");
            }
            let reply = pb::LeaseKeepAliveResponse { header: None, ..reply };
            page(200, "application/protobuf", reply.encode_to_vec())
        }
        Err(Error::TimeoutWaitAppliedIndex) => page(408, PLAIN, NOT_APPLIED),
        Err(error) => page(400, PLAIN, format!("{error}\n")),
    }
}

async fn lease_internal(core: &Rc<Core>, request: Request<Incoming>) -> Response<Body> {
    let body = match read_body(request, LEASE_BYTES_MAX).await {
        Ok(body) => body,
        Err(status) => return page(status, PLAIN, "error reading body\n"),
    };
    let Some(inner) =
        leasepb::LeaseInternalRequest::decode(body).ok().and_then(|r| r.lease_time_to_live_request)
    else {
        return page(400, PLAIN, "error unmarshalling request\n");
    };
    match core.call(Method::LeaseTimeToLive, inner.encode_to_vec().into()).await {
        Ok(reply) => {
            let Ok(reply) = pb::LeaseTimeToLiveResponse::decode(reply) else {
                return page(500, PLAIN, "bad reply\n");
            };
            if reply.granted_ttl == 0 {
                return page(404, PLAIN, "lease not found\n");
            }
            let header = Some(pb::ResponseHeader::default());
            let reply = pb::LeaseTimeToLiveResponse { header, ..reply };
            let reply = leasepb::LeaseInternalResponse { lease_time_to_live_response: Some(reply) };
            page(200, "application/protobuf", reply.encode_to_vec())
        }
        Err(Error::TimeoutWaitAppliedIndex) => page(408, PLAIN, NOT_APPLIED),
        Err(error) => page(500, PLAIN, format!("{error}\n")),
    }
}

async fn promote(core: &Rc<Core>, id: &str) -> Response<Body> {
    let Ok(id) = id.parse::<u64>() else {
        return page(400, PLAIN, "member id is not a number\n");
    };
    let body = pb::MemberPromoteRequest { id }.encode_to_vec().into();
    match core.call(Method::MemberPromote, body).await {
        Ok(_) => page(200, JSON, members(core)),
        Err(error @ Error::MemberNotFound) => page(404, PLAIN, format!("{error}\n")),
        Err(error @ (Error::MemberNotLearner | Error::LearnerNotReady)) => {
            page(412, PLAIN, format!("{error}\n"))
        }
        Err(error) => page(500, PLAIN, format!("{error}\n")),
    }
}

async fn hash_kv(core: &Rc<Core>, request: Request<Incoming>) -> Response<Body> {
    let cluster = request.headers().get("X-Etcd-Cluster-ID").and_then(|v| v.to_str().ok());
    if let Some(id) = cluster
        && u64::from_str_radix(id, 16) != Ok(core.transport.cluster_id())
    {
        return page(412, PLAIN, "cluster ID mismatch\n");
    }
    let body = match read_body(request, LEASE_BYTES_MAX).await {
        Ok(body) => body,
        Err(status) => return page(status, PLAIN, "error reading body\n"),
    };
    let json: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
    let revision = json.get("revision").and_then(serde_json::Value::as_i64).unwrap_or(0);
    let body = pb::HashKvRequest { revision }.encode_to_vec().into();
    let reply = match core.call(Method::HashKv, body).await {
        Ok(reply) => reply,
        Err(error) => return page(400, PLAIN, format!("{error}\n")),
    };
    let Ok(reply) = pb::HashKvResponse::decode(reply) else {
        return page(500, PLAIN, "bad reply\n");
    };
    let json = serde_json::json!({
        "header": { "revision": reply.header.unwrap_or_default().revision },
        "hash": reply.hash,
        "compact_revision": reply.compact_revision,
        "hash_revision": reply.hash_revision,
    });
    page(200, JSON, json.to_string())
}
