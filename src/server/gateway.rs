//! gRPC's calls as JSON over HTTP: a POST with the question as its body, and the answer as the page, or as a line for each
//! answer of a stream. (api.md 1.2)

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use norn_node::Code;
use prost_reflect::MessageDescriptor;
use serde_json::json;

use crate::body::{Body, FRAME_HEAD_BYTES, Part};
use crate::client::JSON;
use crate::core::Core;
use crate::frames::{check_len, message_bytes_max};
use crate::grpc::{self, Reply, Status};
use crate::json::{self, Shapes};
use crate::runtime::sync::mpsc;
use crate::runtime::task;

/// Questions of a stream that wait to be taken; then the body is read no further.
const QUESTIONS_MAX: usize = 4;
/// What base64 and names may make of a message's bytes.
const JSON_TIMES: usize = 2;
const METADATA: &str = "grpc-metadata-";
const GRPC_CONTENT_TYPE: HeaderName = HeaderName::from_static("grpc-metadata-content-type");

/// (path, service, method)
#[rustfmt::skip]
const BINDINGS: &[(&str, &str, &str)] = &[
    ("/kv/range", "etcdserverpb.KV", "Range"),
    ("/kv/put", "etcdserverpb.KV", "Put"),
    ("/kv/deleterange", "etcdserverpb.KV", "DeleteRange"),
    ("/kv/txn", "etcdserverpb.KV", "Txn"),
    ("/kv/compaction", "etcdserverpb.KV", "Compact"),
    ("/watch", "etcdserverpb.Watch", "Watch"),
    ("/lease/grant", "etcdserverpb.Lease", "LeaseGrant"),
    ("/lease/revoke", "etcdserverpb.Lease", "LeaseRevoke"),
    ("/kv/lease/revoke", "etcdserverpb.Lease", "LeaseRevoke"),
    ("/lease/keepalive", "etcdserverpb.Lease", "LeaseKeepAlive"),
    ("/lease/timetolive", "etcdserverpb.Lease", "LeaseTimeToLive"),
    ("/kv/lease/timetolive", "etcdserverpb.Lease", "LeaseTimeToLive"),
    ("/lease/leases", "etcdserverpb.Lease", "LeaseLeases"),
    ("/kv/lease/leases", "etcdserverpb.Lease", "LeaseLeases"),
    ("/cluster/member/add", "etcdserverpb.Cluster", "MemberAdd"),
    ("/cluster/member/remove", "etcdserverpb.Cluster", "MemberRemove"),
    ("/cluster/member/update", "etcdserverpb.Cluster", "MemberUpdate"),
    ("/cluster/member/list", "etcdserverpb.Cluster", "MemberList"),
    ("/cluster/member/promote", "etcdserverpb.Cluster", "MemberPromote"),
    ("/maintenance/alarm", "etcdserverpb.Maintenance", "Alarm"),
    ("/maintenance/status", "etcdserverpb.Maintenance", "Status"),
    ("/maintenance/defragment", "etcdserverpb.Maintenance", "Defragment"),
    ("/maintenance/hash", "etcdserverpb.Maintenance", "Hash"),
    ("/maintenance/hashkv", "etcdserverpb.Maintenance", "HashKV"),
    ("/maintenance/snapshot", "etcdserverpb.Maintenance", "Snapshot"),
    ("/maintenance/transfer-leadership", "etcdserverpb.Maintenance", "MoveLeader"),
    ("/maintenance/downgrade", "etcdserverpb.Maintenance", "Downgrade"),
    ("/auth/enable", "etcdserverpb.Auth", "AuthEnable"),
    ("/auth/disable", "etcdserverpb.Auth", "AuthDisable"),
    ("/auth/status", "etcdserverpb.Auth", "AuthStatus"),
    ("/auth/authenticate", "etcdserverpb.Auth", "Authenticate"),
    ("/auth/user/add", "etcdserverpb.Auth", "UserAdd"),
    ("/auth/user/get", "etcdserverpb.Auth", "UserGet"),
    ("/auth/user/list", "etcdserverpb.Auth", "UserList"),
    ("/auth/user/delete", "etcdserverpb.Auth", "UserDelete"),
    ("/auth/user/changepw", "etcdserverpb.Auth", "UserChangePassword"),
    ("/auth/user/grant", "etcdserverpb.Auth", "UserGrantRole"),
    ("/auth/user/revoke", "etcdserverpb.Auth", "UserRevokeRole"),
    ("/auth/role/add", "etcdserverpb.Auth", "RoleAdd"),
    ("/auth/role/get", "etcdserverpb.Auth", "RoleGet"),
    ("/auth/role/list", "etcdserverpb.Auth", "RoleList"),
    ("/auth/role/delete", "etcdserverpb.Auth", "RoleDelete"),
    ("/auth/role/grant", "etcdserverpb.Auth", "RoleGrantPermission"),
    ("/auth/role/revoke", "etcdserverpb.Auth", "RoleRevokePermission"),
    ("/lock/lock", "v3lockpb.Lock", "Lock"),
    ("/lock/unlock", "v3lockpb.Lock", "Unlock"),
    ("/election/campaign", "v3electionpb.Election", "Campaign"),
    ("/election/proclaim", "v3electionpb.Election", "Proclaim"),
    ("/election/leader", "v3electionpb.Election", "Leader"),
    ("/election/observe", "v3electionpb.Election", "Observe"),
    ("/election/resign", "v3electionpb.Election", "Resign"),
];

/// Whether a path is the gateway's.
pub fn serves(path: &str) -> bool {
    below(path).is_some()
}

/// (The old prefix means the same.)
fn below(path: &str) -> Option<&str> {
    let rest = path.strip_prefix("/v3beta").or_else(|| path.strip_prefix("/v3"))?;
    rest.starts_with('/').then_some(rest)
}

pub async fn serve<B>(core: &Rc<Core>, request: Request<B>) -> Response<Body>
where
    B: http_body::Body<Data = Bytes> + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (head, body) = request.into_parts();
    let path = below(head.uri.path()).unwrap_or_default();
    let Some((_, service, method)) = BINDINGS.iter().find(|(bound, _, _)| *bound == path) else {
        return refused(&Status::new(Code::NotFound, "Not Found"));
    };
    if head.method != Method::POST {
        return refused(&Status::new(Code::Unimplemented, "Method Not Allowed"));
    }
    let shapes = Shapes::of(service, method);
    let at = grpc::route(&format!("/{service}/{method}"));
    let (Some(shapes), Ok(at)) = (shapes, at) else {
        return refused(&Status::new(Code::Internal, format!("{service}/{method} has no shape")));
    };
    let (sender, given) = mpsc::channel(QUESTIONS_MAX);
    if shapes.asks_many {
        let bytes_max = message_bytes_max(core);
        task::spawn_local(read_all(body, shapes.question, bytes_max, sender));
    } else {
        match read_one(core, body, &shapes.question).await {
            // (There is room: nobody else sends.)
            Ok(question) => drop(sender.try_send(question)),
            Err(status) => return refused(&status),
        }
    }
    let metadata = metadata(&head.headers);
    let needs_leader = metadata.get(grpc::HAS_LEADER).is_some_and(|value| value == "true");
    match grpc::call(core, at, given, &metadata, needs_leader).await {
        Ok(Reply::Message(message)) => match json::encode(&shapes.answer, message) {
            Ok(json) => answered(Body::text(json)),
            Err(text) => refused(&Status::new(Code::Internal, text)),
        },
        Ok(Reply::Stream(body)) => Lines::begin(body, shapes.answer).await,
        // (What a stream is refused with is a line, too.)
        Err(status) if shapes.answers_many => refused_with(&status, &error_line(&status)),
        Err(status) => refused(&status),
    }
}

/// What a client says to gRPC: `Grpc-Timeout`, and every header that says that it is meant for it.
fn metadata(headers: &HeaderMap) -> HeaderMap {
    let mut metadata = HeaderMap::new();
    for (name, value) in headers {
        let name = match name.as_str() {
            "grpc-timeout" | "authorization" => name.clone(),
            other => match other.strip_prefix(METADATA).map(HeaderName::try_from) {
                Some(Ok(name)) => name,
                _ => continue,
            },
        };
        metadata.append(name, value.clone());
    }
    metadata
}

async fn read_one<B>(core: &Core, body: B, shape: &MessageDescriptor) -> Result<Bytes, Status>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let bytes_max = message_bytes_max(core);
    let json_max = bytes_max * JSON_TIMES;
    let body = Limited::new(body, json_max).collect().await;
    let json = body.map_err(|_| too_long(json_max, bytes_max))?.to_bytes();
    let invalid = |text: String| Status::new(Code::InvalidArgument, text);
    match json::decode(shape, &json).map_err(invalid)? {
        Some((message, _)) => Ok(message),
        None => Err(invalid("unexpected EOF".to_owned())),
    }
}

/// (How long it is, nobody knows; longer than it may be.)
fn too_long(json_max: usize, bytes_max: usize) -> Status {
    match check_len(json_max, bytes_max) {
        Err(status) => status,
        Ok(()) => Status::new(Code::Canceled, "the client has gone"),
    }
}

/// Hands over one question after the other, until the client says no more, or something that is none.
async fn read_all<B>(body: B, shape: MessageDescriptor, bytes_max: usize, to: mpsc::Sender<Bytes>)
where
    B: http_body::Body<Data = Bytes>,
{
    let mut body = pin!(body);
    let mut said = BytesMut::new();
    loop {
        while !said.iter().all(u8::is_ascii_whitespace) {
            match json::decode(&shape, &said) {
                Ok(Some((question, len))) => {
                    let _ = said.split_to(len);
                    if to.send(question).await.is_err() {
                        return;
                    }
                }
                Ok(None) if said.len() <= bytes_max * JSON_TIMES => break,
                _ => return,
            }
        }
        let Some(Ok(frame)) = body.frame().await else { return };
        if let Ok(data) = frame.into_data() {
            said.extend_from_slice(&data);
        }
    }
}

/// Answers of a stream, a line each.
pub struct Lines {
    answers: Body,
    shape: MessageDescriptor,
    /// It was waited for.
    first: Option<Bytes>,
    is_over: bool,
}

impl Lines {
    /// The response to a stream: its status is known when the first answer is.
    async fn begin(answers: Body, shape: MessageDescriptor) -> Response<Body> {
        let mut lines = Lines { answers, shape, first: None, is_over: false };
        match poll_fn(|cx| lines.answers.poll_part(cx)).await {
            Some(Part::End(status)) if status.code != 0 => {
                refused_with(&status, &error_line(&status))
            }
            Some(Part::Message(frame)) => {
                lines.first = Some(lines.line(&frame));
                answered(Body::Lines(Box::new(lines)))
            }
            _ => answered(Body::empty()),
        }
    }

    pub fn poll_line(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(first));
        }
        if self.is_over {
            return Poll::Ready(None);
        }
        Poll::Ready(match ready!(self.answers.poll_part(cx)) {
            Some(Part::Message(frame)) => Some(self.line(&frame)),
            Some(Part::End(status)) if status.code != 0 => {
                self.is_over = true;
                Some(error_line(&status))
            }
            _ => None,
        })
    }

    fn line(&mut self, frame: &Bytes) -> Bytes {
        match json::encode(&self.shape, frame.slice(FRAME_HEAD_BYTES..)) {
            Ok(json) => [b"{\"result\":", json.as_slice(), b"}\n"].concat().into(),
            Err(text) => {
                self.is_over = true;
                error_line(&Status::new(Code::Internal, text))
            }
        }
    }
}

fn error_line(status: &Status) -> Bytes {
    let error = json!({ "error": { "code": status.code, "message": status.message } });
    format!("{error}\n").into()
}

fn answered(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(JSON));
    headers.insert(GRPC_CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

fn refused(status: &Status) -> Response<Body> {
    let page = json!({ "code": status.code, "message": status.message });
    refused_with(status, &page.to_string().into())
}

fn refused_with(status: &Status, page: &Bytes) -> Response<Body> {
    let mut response = crate::client::page(http_status(status.code).as_u16(), JSON, page.clone());
    if status.code == Code::Unauthenticated as u8
        && let Ok(message) = HeaderValue::from_str(&status.message)
    {
        response.headers_mut().insert(http::header::WWW_AUTHENTICATE, message);
    }
    response
}

/// What HTTP calls a gRPC code.
fn http_status(code: u8) -> StatusCode {
    StatusCode::from_u16(match code {
        0 => 200,
        1 => 499,
        3 | 9 | 11 => 400,
        4 => 504,
        5 => 404,
        6 | 10 => 409,
        7 => 403,
        8 => 429,
        12 => 501,
        14 => 503,
        16 => 401,
        _ => 500,
    })
    .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_leads_to_a_call_with_a_shape() {
        for (path, service, method) in BINDINGS {
            assert!(Shapes::of(service, method).is_some(), "{path}");
            assert!(grpc::route(&format!("/{service}/{method}")).is_ok(), "{path}");
            assert_eq!(below(&format!("/v3{path}")), Some(*path));
            assert_eq!(below(&format!("/v3beta{path}")), Some(*path));
        }
        for other in ["/v3", "/v3x/kv/put", "/health", "/v2/keys"] {
            assert!(!serves(other), "{other}");
        }
    }
}
