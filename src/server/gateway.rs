//! gRPC's calls as JSON over HTTP: a POST with the question as its body, and the answer as the page, or as a line for each
//! answer of a stream. (api.md 1.2)

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use base64::DecodeError;
use base64::prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD, Engine as _};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use norn_node::{Code, Error};
use prost_reflect::MessageDescriptor;
use serde_json::json;

use crate::body::{Body, FRAME_HEAD_BYTES, Part};
use crate::client::JSON;
use crate::core::Core;
use crate::frames::{check_len, message_bytes_max};
use crate::go_paths;
use crate::grpc::{self, Reply, Status};
use crate::json::{self, Shapes};
use crate::json_values::Values;
use crate::runtime::sync::mpsc;
use crate::runtime::task;

/// Questions of a stream that wait to be taken; then the body is read no further.
const QUESTIONS_MAX: usize = 4;
/// What base64 and names may make of a message's bytes.
pub const JSON_TIMES: usize = 2;
const FORM: &str = "application/x-www-form-urlencoded";
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

/// Below this, everything is the gateway's.
pub const FOLDER: &str = "/v3/";

/// Whether a path is the gateway's.
pub fn serves(path: &str) -> bool {
    let path = go_paths::current(path);
    let folder = path.split('/').nth(1).and_then(go_paths::unescaped);
    folder.as_deref() == Some("v3") && path.matches('/').count() > 1
}

/// What stands below the folder.
fn below(path: &str) -> Option<String> {
    let path = go_paths::unescaped(&go_paths::current(path))?;
    path.strip_prefix("/v3").map(str::to_owned)
}

/// The service and the method that a path stands for.
pub fn bound(path: &str) -> Option<(&'static str, &'static str)> {
    let path = below(path)?;
    let entry = BINDINGS.iter().find(|(bound, _, _)| *bound == path)?;
    Some((entry.1, entry.2))
}

pub async fn serve<B>(core: &Rc<Core>, request: Request<B>) -> Response<Body>
where
    B: http_body::Body<Data = Bytes> + 'static,
{
    let (mut head, body) = request.into_parts();
    let mut body = Box::pin(body);
    if let Some(method) = other_method(&head) {
        // (What a form has to say is in its body, which is no question any more.)
        while let Some(Ok(_)) = body.frame().await {}
        head.method = method;
    }
    let Some((service, method)) = bound(head.uri.path()) else {
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
    let Metadata { headers, deadline } = match metadata(&head.headers) {
        Ok(metadata) => metadata,
        Err(text) => return refused(&Status::new(Code::InvalidArgument, text)),
    };
    let (sender, given) = mpsc::channel(QUESTIONS_MAX);
    let bytes_max = message_bytes_max(core);
    if shapes.asks_many {
        task::spawn_local(read_all(body, shapes.question, bytes_max, sender));
    } else {
        match read_one(body, &shapes.question, bytes_max).await {
            // (There is room: nobody else sends.)
            Ok(question) => drop(sender.try_send(question)),
            Err(status) => return refused(&status),
        }
    }
    if deadline == Some(Duration::ZERO) {
        return refused(&Error::DeadlineExceeded.into());
    }
    let needs_leader = headers.get(grpc::HAS_LEADER).is_some_and(|value| value == "true");
    match grpc::call(core, at, given, &headers, deadline, needs_leader).await {
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

/// What a client that can only send forms would rather have used.
fn other_method(head: &http::request::Parts) -> Option<Method> {
    let is_form = head.headers.get(CONTENT_TYPE).is_some_and(|value| value == FORM);
    let other = head.headers.get("x-http-method-override").filter(|other| !other.is_empty())?;
    let is_asked = is_form && head.method == Method::POST;
    // (One that is none is not POST, and that is all it is asked.)
    let name = other.to_str().unwrap_or("-").to_ascii_uppercase();
    is_asked.then(|| Method::from_bytes(name.as_bytes()).unwrap_or(Method::TRACE))
}

/// What a client says to gRPC: when it wants its answer, and every header that says that it is meant for it.
pub struct Metadata {
    pub headers: HeaderMap,
    pub deadline: Option<Duration>,
}

/// # Errors
/// What is wrong with a header, in words.
pub fn metadata(given: &HeaderMap) -> Result<Metadata, String> {
    let mut headers = HeaderMap::new();
    for (name, value) in given {
        let name = match name.as_str() {
            "authorization" => name.clone(),
            other => match other.strip_prefix(METADATA).map(HeaderName::try_from) {
                Some(Ok(name)) => name,
                _ => continue,
            },
        };
        if name.as_str().ends_with("-bin") {
            check_binary(&name, value)?;
        }
        headers.append(name, value.clone());
    }
    let timeout = given.get("grpc-timeout").filter(|text| !text.is_empty());
    let text = String::from_utf8_lossy(timeout.map_or(b"0n", |text| text.as_bytes()));
    let nanos = timeout_ns(&text).ok_or_else(|| format!("invalid grpc-timeout: {text}"))?;
    // (One in the past is over at once; none is none.)
    let deadline = (nanos != 0).then(|| Duration::from_nanos(nanos.try_into().unwrap_or(0)));
    Ok(Metadata { headers, deadline })
}

/// Go's arithmetic: it goes around.
fn timeout_ns(text: &str) -> Option<i64> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let unit: i64 = match unit {
        "H" => 3_600_000_000_000,
        "M" => 60_000_000_000,
        "S" => 1_000_000_000,
        "m" => 1_000_000,
        "u" => 1_000,
        "n" => 1,
        _ => return None,
    };
    number.parse::<i64>().ok().map(|number| number.wrapping_mul(unit))
}

fn check_binary(name: &HeaderName, value: &HeaderValue) -> Result<(), String> {
    let engine = match value.len() % 4 {
        0 => &BASE64_STANDARD,
        _ => &BASE64_STANDARD_NO_PAD,
    };
    let at = match engine.decode(value.as_bytes()) {
        Ok(_) => return Ok(()),
        Err(DecodeError::InvalidByte(at, _) | DecodeError::InvalidLastSymbol(at, _)) => at,
        Err(_) => value.len(),
    };
    // (As Go writes the name of a header.)
    let words = name.as_str().split('-').map(|word| {
        let (first, rest) = word.split_at(word.len().min(1));
        first.to_ascii_uppercase() + rest
    });
    let name = words.collect::<Vec<_>>().join("-");
    Err(format!(
        "invalid binary header Grpc-Metadata-{name}: illegal base64 data at input byte {at}"
    ))
}

/// The one question of a body, which is read to its end. No JSON at all is the empty message, and what follows the first
/// value is nobody's.
async fn read_one<B>(
    mut body: Pin<Box<B>>,
    shape: &MessageDescriptor,
    bytes_max: usize,
) -> Result<Bytes, Status>
where
    B: http_body::Body<Data = Bytes>,
{
    let invalid = |text: String| Status::new(Code::InvalidArgument, text);
    let json_max = bytes_max * JSON_TIMES;
    let mut values = Values::default();
    let mut question = None;
    while let Some(frame) = body.frame().await {
        let gone = |_| Status::new(Code::Canceled, "the client has gone");
        let Ok(data) = frame.map_err(gone)?.into_data() else { continue };
        if question.is_some() {
            continue;
        }
        values.push(&data);
        if let Some(json) = values.next_value().map_err(invalid)? {
            question = Some(json::decode(shape, &json).map_err(invalid)?);
            values = Values::default();
        }
        // (How long it will be, nobody knows; longer than it may be.)
        check_len(values.held(), json_max)
            .map_err(|_| check_len(json_max, bytes_max).err().unwrap_or(Status::OK))?;
    }
    match question {
        Some(question) => Ok(question),
        None => match values.last_value().map_err(invalid)? {
            Some(json) => json::decode(shape, &json).map_err(invalid),
            None => Ok(Bytes::new()),
        },
    }
}

/// Hands over one question after the other, until the client says no more, or something that is none.
async fn read_all<B>(
    mut body: Pin<Box<B>>,
    shape: MessageDescriptor,
    bytes_max: usize,
    to: mpsc::Sender<Bytes>,
) where
    B: http_body::Body<Data = Bytes>,
{
    let mut values = Values::default();
    let mut is_over = false;
    while !is_over {
        match body.frame().await {
            Some(Ok(frame)) => frame.data_ref().into_iter().for_each(|data| values.push(data)),
            Some(Err(_)) => return,
            None => is_over = true,
        }
        loop {
            let next = if is_over { values.last_value() } else { values.next_value() };
            let json = match next {
                Ok(Some(json)) => json,
                Ok(None) => break,
                Err(_) => return,
            };
            let Ok(question) = json::decode(&shape, &json) else { return };
            if to.send(question).await.is_err() {
                return;
            }
        }
        if values.held() > bytes_max * JSON_TIMES {
            return;
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
            // (Nothing to say has no type.)
            _ => Response::new(Body::Lines(Box::new(Lines { is_over: true, ..lines }))),
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
            Ok(json) => format!("{{\"result\":{}}}\n", json::escaped_for_html(json)).into(),
            Err(text) => {
                self.is_over = true;
                error_line(&Status::new(Code::Internal, text))
            }
        }
    }
}

fn error_line(status: &Status) -> Bytes {
    let error = json!({ "error": { "code": status.code, "message": status.message } });
    format!("{}\n", json::escaped_for_html(error.to_string())).into()
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
            assert_eq!(below(&format!("/v3{path}")).as_deref(), Some(*path));
            assert_eq!(below(&format!("/v3beta{path}")).as_deref(), Some(*path));
        }
        for own in ["/v3/", "/v3/kv/put", "/v3beta/kv/put", "/%76%33/no"] {
            assert!(serves(own), "{own}");
        }
        for other in ["/v3", "/v3beta", "/v3x/kv/put", "/health", "/v2/keys", "/v3%2fkv/put"] {
            assert!(!serves(other), "{other}");
        }
    }

    #[test]
    fn timeouts_are_go_s() {
        assert_eq!((timeout_ns("5S"), timeout_ns("-2u")), (Some(5_000_000_000), Some(-2_000)));
        assert_eq!(
            (timeout_ns("S"), timeout_ns("5"), timeout_ns("x"), timeout_ns("é")),
            (None, None, None, None)
        );
    }
}
