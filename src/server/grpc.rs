//! gRPC over hyper's HTTP/2: paths, frames, status. Messages stay bytes: what they mean is the node's business, so
//! another transport can take this one's place without touching a service.

use std::rc::Rc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use norn_node::{Code, Error, Method};

use crate::body::Body;
use crate::core::Core;
use crate::streams;

/// Above `--max-request-bytes`, what a message may have on the way (etcd's allowance).
pub const OVERHEAD_BYTES: usize = 512 << 10;

/// A status as it travels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    pub code: u8,
    pub message: String,
}

impl From<Error> for Status {
    fn from(error: Error) -> Status {
        Status { code: error.code() as u8, message: error.to_string() }
    }
}

impl Status {
    pub fn new(code: Code, message: impl Into<String>) -> Status {
        Status { code: code as u8, message: message.into() }
    }

    pub fn trailers(&self) -> HeaderMap {
        let mut trailers = HeaderMap::with_capacity(2);
        trailers.insert("grpc-status", HeaderValue::from(u16::from(self.code)));
        if !self.message.is_empty()
            && let Ok(message) = HeaderValue::from_str(&percent_encoded(&self.message))
        {
            trailers.insert("grpc-message", message);
        }
        trailers
    }
}

pub fn ok_trailers() -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    trailers
}

/// gRPC's encoding of the message header: printable ASCII but `%`.
fn percent_encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if (0x20..0x7f).contains(&byte) && byte != b'%' {
            out.push(byte as char);
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// What a path leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route {
    Unary(Method),
    RangeStream,
    Watch,
    KeepAlive,
    /// Unary, but answered by the leader when this member is not it.
    TimeToLive,
    Promote,
    Snapshot,
    HealthCheck,
    HealthWatch,
    /// A client with a user's name asks first whether that is wanted, and goes on without when it is not.
    Authenticate,
    /// Known to etcd, not served yet.
    Missing,
}

/// (service, method, kind, route)
type Entry = (&'static str, &'static str, &'static str, Route);

#[rustfmt::skip]
const ROUTES: &[Entry] = &[
    ("etcdserverpb.KV", "Range", "unary", Route::Unary(Method::Range)),
    ("etcdserverpb.KV", "Put", "unary", Route::Unary(Method::Put)),
    ("etcdserverpb.KV", "Txn", "unary", Route::Unary(Method::Txn)),
    ("etcdserverpb.KV", "DeleteRange", "unary", Route::Unary(Method::DeleteRange)),
    ("etcdserverpb.KV", "Compact", "unary", Route::Unary(Method::Compact)),
    ("etcdserverpb.KV", "RangeStream", "server_stream", Route::RangeStream),
    ("etcdserverpb.Watch", "Watch", "bidi_stream", Route::Watch),
    ("etcdserverpb.Lease", "LeaseKeepAlive", "bidi_stream", Route::KeepAlive),
    ("etcdserverpb.Lease", "LeaseGrant", "unary", Route::Unary(Method::LeaseGrant)),
    ("etcdserverpb.Lease", "LeaseRevoke", "unary", Route::Unary(Method::LeaseRevoke)),
    ("etcdserverpb.Lease", "LeaseTimeToLive", "unary", Route::TimeToLive),
    ("etcdserverpb.Lease", "LeaseLeases", "unary", Route::Unary(Method::LeaseLeases)),
    ("etcdserverpb.Cluster", "MemberAdd", "unary", Route::Unary(Method::MemberAdd)),
    ("etcdserverpb.Cluster", "MemberRemove", "unary", Route::Unary(Method::MemberRemove)),
    ("etcdserverpb.Cluster", "MemberUpdate", "unary", Route::Unary(Method::MemberUpdate)),
    ("etcdserverpb.Cluster", "MemberList", "unary", Route::Unary(Method::MemberList)),
    ("etcdserverpb.Cluster", "MemberPromote", "unary", Route::Promote),
    ("etcdserverpb.Maintenance", "Alarm", "unary", Route::Unary(Method::Alarm)),
    ("etcdserverpb.Maintenance", "Status", "unary", Route::Unary(Method::Status)),
    ("etcdserverpb.Maintenance", "Defragment", "unary", Route::Unary(Method::Defragment)),
    ("etcdserverpb.Maintenance", "Hash", "unary", Route::Unary(Method::Hash)),
    ("etcdserverpb.Maintenance", "HashKV", "unary", Route::Unary(Method::HashKv)),
    ("etcdserverpb.Maintenance", "Snapshot", "server_stream", Route::Snapshot),
    ("etcdserverpb.Maintenance", "MoveLeader", "unary", Route::Unary(Method::MoveLeader)),
    ("etcdserverpb.Maintenance", "Downgrade", "unary", Route::Missing),
    ("etcdserverpb.Auth", "AuthStatus", "unary", Route::Unary(Method::AuthStatus)),
    ("etcdserverpb.Auth", "AuthEnable", "unary", Route::Missing),
    ("etcdserverpb.Auth", "AuthDisable", "unary", Route::Missing),
    ("etcdserverpb.Auth", "Authenticate", "unary", Route::Authenticate),
    ("etcdserverpb.Auth", "UserAdd", "unary", Route::Missing),
    ("etcdserverpb.Auth", "UserGet", "unary", Route::Missing),
    ("etcdserverpb.Auth", "UserList", "unary", Route::Missing),
    ("etcdserverpb.Auth", "UserDelete", "unary", Route::Missing),
    ("etcdserverpb.Auth", "UserChangePassword", "unary", Route::Missing),
    ("etcdserverpb.Auth", "UserGrantRole", "unary", Route::Missing),
    ("etcdserverpb.Auth", "UserRevokeRole", "unary", Route::Missing),
    ("etcdserverpb.Auth", "RoleAdd", "unary", Route::Missing),
    ("etcdserverpb.Auth", "RoleGet", "unary", Route::Missing),
    ("etcdserverpb.Auth", "RoleList", "unary", Route::Missing),
    ("etcdserverpb.Auth", "RoleDelete", "unary", Route::Missing),
    ("etcdserverpb.Auth", "RoleGrantPermission", "unary", Route::Missing),
    ("etcdserverpb.Auth", "RoleRevokePermission", "unary", Route::Missing),
    ("grpc.health.v1.Health", "Check", "unary", Route::HealthCheck),
    ("grpc.health.v1.Health", "Watch", "server_stream", Route::HealthWatch),
];

pub fn is_grpc<B>(request: &Request<B>) -> bool {
    let content_type = request.headers().get(CONTENT_TYPE);
    content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

/// Answers one gRPC request. The common case, one question and one answer, has a small future of its own: hyper moves
/// futures around, and the others are several times larger.
pub async fn serve(core: Rc<Core>, request: Request<Incoming>) -> Response<Body> {
    let path = request.uri().path().strip_prefix('/').unwrap_or_default();
    let (service, method) = path.split_once('/').unwrap_or((path, ""));
    let known = ROUTES.iter().position(|(s, m, _, _)| *m == method && *s == service);
    let Some(at) = known else {
        let knows_service = ROUTES.iter().any(|(s, _, _, _)| *s == service);
        let message = if knows_service {
            format!("unknown method {method} for service {service}")
        } else {
            format!("unknown service {service}")
        };
        return refused(&Status::new(Code::Unimplemented, message));
    };
    core.grpc_metrics.borrow_mut().started(at);
    let headers = request.headers();
    let needs_leader = headers.get("hasleader").is_some_and(|value| value == "true");
    let deadline = timeout(headers);
    let result = if needs_leader && !core.with_node(|node| node.has_leader()) {
        Err(Error::NoLeader.into())
    } else if let (Route::Unary(method), None) = (ROUTES[at].3, deadline) {
        unary(&core, request.into_body(), method).await
    } else {
        Box::pin(answer(&core, request, at, needs_leader, deadline)).await
    };
    let code = match &result {
        Ok(_) => 0,
        Err(status) => status.code,
    };
    if ROUTES[at].2 == "unary" || code != 0 {
        core.grpc_metrics.borrow_mut().handled(at, code);
    }
    result.unwrap_or_else(|status| refused(&status))
}

async fn unary(core: &Rc<Core>, body: Incoming, method: Method) -> Result<Response<Body>, Status> {
    let message = read_message(core, body).await?;
    let reply = core.call(method, message).await?;
    Ok(unary_response(reply))
}

async fn answer(
    core: &Rc<Core>,
    request: Request<Incoming>,
    at: usize,
    needs_leader: bool,
    deadline: Option<Duration>,
) -> Result<Response<Body>, Status> {
    let (service, name, _, route) = ROUTES[at];
    let body = request.into_body();
    let answered = async {
        match route {
            Route::Unary(method) => unary(core, body, method).await,
            Route::TimeToLive => {
                let message = read_message(core, body).await?;
                let reply = streams::time_to_live(core, message).await?;
                Ok(unary_response(reply))
            }
            Route::Promote => {
                let message = read_message(core, body).await?;
                let reply = streams::promote(core, message).await?;
                Ok(unary_response(reply))
            }
            Route::HealthCheck => {
                let message = read_message(core, body).await?;
                // The message is one string: the service asked about. Only the whole server has a name: none.
                if !message.is_empty() {
                    return Err(Status::new(Code::NotFound, "unknown service"));
                }
                Ok(unary_response(Bytes::from_static(&[0x08, 0x01])))
            }
            Route::HealthWatch => streams::health_watch(core, &read_message(core, body).await?),
            Route::RangeStream => {
                let message = read_message(core, body).await?;
                streams::range(core, message).await
            }
            Route::Snapshot => streams::snapshot(core).await,
            Route::Watch => Ok(streams::watch(core, body, needs_leader, at)),
            Route::KeepAlive => Ok(streams::keep_alive(core, body, needs_leader, at)),
            Route::Authenticate => Err(Error::NotEnabledAuth.into()),
            Route::Missing => Err(Status::new(
                Code::Unimplemented,
                format!("method {name} of service {service} is not implemented by norn yet"),
            )),
        }
    };
    match deadline {
        Some(after) => match tokio::time::timeout(after, answered).await {
            Ok(result) => result,
            Err(_) => Err(Error::DeadlineExceeded.into()),
        },
        None => answered.await,
    }
}

/// Service, method and kind of a route, for metrics.
pub fn route_labels() -> impl ExactSizeIterator<Item = (&'static str, &'static str, &'static str)> {
    ROUTES.iter().map(|(service, method, kind, _)| (*service, *method, *kind))
}

/// gRPC's `grpc-timeout`: up to eight digits and a unit.
fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number: u64 = number.parse().ok()?;
    Some(match unit {
        "n" => Duration::from_nanos(number),
        "u" => Duration::from_micros(number),
        "m" => Duration::from_millis(number),
        "S" => Duration::from_secs(number),
        "M" => Duration::from_secs(number.checked_mul(60)?),
        "H" => Duration::from_secs(number.checked_mul(3600)?),
        _ => return None,
    })
}

/// The one message of a unary request.
async fn read_message(core: &Rc<Core>, mut body: Incoming) -> Result<Bytes, Status> {
    let mut frames = Frames::new(core);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Status::new(Code::Canceled, error.to_string()))?;
        if let Ok(data) = frame.into_data() {
            frames.push(data);
            if let Some(message) = frames.next_message()? {
                return Ok(message);
            }
        }
    }
    Err(Status::new(Code::Internal, "unexpected EOF"))
}

/// Cuts a request body into messages.
pub struct Frames {
    buffer: BytesMut,
    /// Arrived in one piece and not copied.
    whole: Option<Bytes>,
    bytes_max: usize,
}

impl Frames {
    pub fn new(core: &Core) -> Frames {
        let bytes_max = core.with_node(|node| node.config().request_bytes_max) + OVERHEAD_BYTES;
        Frames { buffer: BytesMut::new(), whole: None, bytes_max }
    }

    pub fn push(&mut self, data: Bytes) {
        if self.buffer.is_empty() && self.whole.is_none() {
            self.whole = Some(data);
            return;
        }
        if let Some(whole) = self.whole.take() {
            self.buffer.extend_from_slice(&whole);
        }
        self.buffer.extend_from_slice(&data);
    }

    /// The next complete message. A length beyond the limit is refused before anything is kept for it.
    pub fn next_message(&mut self) -> Result<Option<Bytes>, Status> {
        let head: &[u8] = self.whole.as_deref().unwrap_or(&self.buffer);
        if head.len() < 5 {
            return Ok(None);
        }
        let compressed = head[0];
        let len = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        if compressed != 0 {
            let message = "grpc: compressed flag set with identity or empty encoding";
            return Err(Status::new(Code::Internal, message));
        }
        if len > self.bytes_max {
            let message =
                format!("grpc: received message larger than max ({len} vs. {})", self.bytes_max);
            return Err(Status::new(Code::ResourceExhausted, message));
        }
        if head.len() < 5 + len {
            return Ok(None);
        }
        if let Some(whole) = &mut self.whole {
            whole.advance(5);
            let message = whole.split_to(len);
            if whole.is_empty() {
                self.whole = None;
            }
            return Ok(Some(message));
        }
        self.buffer.advance(5);
        Ok(Some(self.buffer.split_to(len).freeze()))
    }
}

pub fn response(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

fn unary_response(reply: Bytes) -> Response<Body> {
    response(Body::unary(reply, ok_trailers()))
}

/// A response that is nothing but its status.
fn refused(status: &Status) -> Response<Body> {
    let mut response = response(Body::empty());
    *response.status_mut() = StatusCode::OK;
    response.headers_mut().extend(status.trailers());
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::framed;

    #[test]
    fn timeouts() {
        let parse = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", HeaderValue::from_static(text));
            timeout(&headers)
        };
        assert_eq!(parse("5S"), Some(Duration::from_secs(5)));
        assert_eq!(parse("4999996u"), Some(Duration::from_micros(4_999_996)));
        assert_eq!(parse("S"), None);
        assert_eq!(parse("5"), None);
        assert_eq!(parse(""), None);
    }

    #[test]
    fn messages_of_any_cut() {
        let mut stream = framed(b"hello").to_vec();
        stream.extend_from_slice(&framed(b""));
        stream.extend_from_slice(&framed(b"world"));
        for step in 1..stream.len() {
            let mut frames = Frames { buffer: BytesMut::new(), whole: None, bytes_max: 10 };
            let mut got = Vec::new();
            for piece in stream.chunks(step) {
                frames.push(Bytes::copy_from_slice(piece));
                while let Some(message) = frames.next_message().unwrap() {
                    got.push(message);
                }
            }
            assert_eq!(got, ["hello", "", "world"], "in pieces of {step}");
        }
        let mut frames = Frames { buffer: BytesMut::new(), whole: None, bytes_max: 10 };
        frames.push(Bytes::from_static(&[0, 0xff, 0xff, 0xff, 0xff]));
        let status = frames.next_message().unwrap_err();
        assert_eq!(status.message, "grpc: received message larger than max (4294967295 vs. 10)");
    }
}
