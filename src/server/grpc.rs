//! gRPC over HTTP/2: paths, frames, status. Messages stay bytes: what they mean is the node's business, so
//! another transport can take this one's place without touching a service.

use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, Request, Response};
use norn_node::{Code, Error, Method};

use crate::body::{Body, frame_head, framed};
use crate::core::Core;
use crate::frames::{Frames, check_len, message_bytes_max};
use crate::http2::{self, Inbound};
use crate::metrics::Started;
use crate::recipes::{self, Recipe};
// (Tokio's, or the simulation's.)
use crate::runtime as tokio;
use crate::runtime::sync::mpsc;
use crate::streams;

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
    pub const OK: Status = Status { code: 0, message: String::new() };

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
    Downgrade,
    Snapshot,
    HealthCheck,
    HealthList,
    HealthWatch,
    Recipe(Recipe),
    Observe,
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
    ("etcdserverpb.Maintenance", "Downgrade", "unary", Route::Downgrade),
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
    ("v3electionpb.Election", "Campaign", "unary", Route::Recipe(Recipe::Campaign)),
    ("v3electionpb.Election", "Proclaim", "unary", Route::Recipe(Recipe::Proclaim)),
    ("v3electionpb.Election", "Leader", "unary", Route::Recipe(Recipe::Leader)),
    ("v3electionpb.Election", "Observe", "server_stream", Route::Observe),
    ("v3electionpb.Election", "Resign", "unary", Route::Recipe(Recipe::Resign)),
    ("v3lockpb.Lock", "Lock", "unary", Route::Recipe(Recipe::Lock)),
    ("v3lockpb.Lock", "Unlock", "unary", Route::Recipe(Recipe::Unlock)),
    ("grpc.health.v1.Health", "Check", "unary", Route::HealthCheck),
    ("grpc.health.v1.Health", "List", "unary", Route::HealthList),
    ("grpc.health.v1.Health", "Watch", "server_stream", Route::HealthWatch),
];

pub const HAS_LEADER: HeaderName = HeaderName::from_static("hasleader");
const CLIENT_API_VERSION: HeaderName = HeaderName::from_static("client-api-version");
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

pub fn is_grpc<B>(request: &Request<B>) -> bool {
    let content_type = request.headers().get(CONTENT_TYPE);
    content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

/// Takes one gRPC request. The common case, one question and one answer, is answered by [`Answer`] without a task.
pub fn accept(core: &Rc<Core>, request: Request<RecvStream>, respond: SendResponse<Bytes>) {
    let (head, body) = request.into_parts();
    let deadline = match timeout(&head.headers) {
        Ok(Some(Duration::ZERO)) => return refuse(respond, &Error::DeadlineExceeded.into()),
        Ok(deadline) => deadline,
        Err(status) => return refuse(respond, &status),
    };
    let at = match route(head.uri.path()) {
        Ok(at) => at,
        Err(status) => return refuse(respond, &status),
    };
    let call = match begin(core, at, &head.headers) {
        Ok(call) => call,
        Err((call, status)) => return Answer { respond, call }.finish(core, Err(status)),
    };
    let needs_leader = head.headers.get(&HAS_LEADER).is_some_and(|value| value == "true");
    let answer = Answer { respond, call };
    if needs_leader && !core.with_node(|node| node.has_leader()) {
        return answer.finish(core, Err(Error::NoLeader.into()));
    }
    let source = Source::Client { frames: Frames::new(core), body: Inbound::new(body) };
    let question = Question { core: Rc::clone(core), route: at, source };
    match ROUTES[at].3 {
        Route::Unary(method) => ask(core, method, question, deadline, answer),
        _ => {
            let answered = stream(Rc::clone(core), question, answer, needs_leader, deadline);
            tokio::task::spawn_local(answered);
        }
    }
}

/// Counts a call, and its client's version, unless a learner has nothing to say to it.
fn begin(core: &Core, at: usize, headers: &HeaderMap) -> Result<Started, (Started, Status)> {
    let mut metrics = core.grpc_metrics.borrow_mut();
    let call = metrics.started(at);
    if !suits_learner(at) && core.with_node(|node| node.is_learner()) {
        return Err((call, Error::NotSupportedForLearner.into()));
    }
    let version = match headers.get(&CLIENT_API_VERSION).map(HeaderValue::as_bytes) {
        None => "unknown",
        Some(bytes) => {
            std::str::from_utf8(bytes).map_err(|_| (call, Error::InvalidClientApiVersion.into()))?
        }
    };
    metrics.asked(ROUTES[at].2 != "unary", version);
    Ok(call)
}

/// Learners answer nothing else. (Of ranges only serializable ones, which the node sees.)
fn suits_learner(at: usize) -> bool {
    let (service, method, ..) = ROUTES[at];
    matches!(
        (service, method),
        ("etcdserverpb.KV", "Range") | ("etcdserverpb.Maintenance", "Status" | "Snapshot")
    )
}

/// Which entry of `ROUTES` a path leads to.
pub fn route(path: &str) -> Result<usize, Status> {
    let path = path.strip_prefix('/').unwrap_or_default();
    let (service, method) = path.split_once('/').unwrap_or((path, ""));
    let known = ROUTES.iter().position(|(s, m, _, _)| *m == method && *s == service);
    known.ok_or_else(|| {
        let knows_service = ROUTES.iter().any(|(s, _, _, _)| *s == service);
        let message = if knows_service {
            format!("unknown method {method} for service {service}")
        } else {
            format!("unknown service {service}")
        };
        Status::new(Code::Unimplemented, message)
    })
}

fn ask(
    core: &Rc<Core>,
    method: Method,
    mut question: Question,
    deadline: Option<Duration>,
    answer: Answer,
) {
    // The message usually came with its headers.
    match question.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Ok(message)) => core.ask(method, message, deadline, answer),
        Poll::Ready(Err(status)) => answer.finish(core, Err(status)),
        Poll::Pending => {
            let core = Rc::clone(core);
            tokio::task::spawn_local(async move {
                match poll_fn(|cx| question.poll(cx)).await {
                    Ok(message) => core.ask(method, message, deadline, answer),
                    Err(status) => answer.finish(&core, Err(status)),
                }
            });
        }
    }
}

/// Where the answer to one question goes.
pub struct Answer {
    respond: SendResponse<Bytes>,
    call: Started,
}

impl Answer {
    /// Sends it. (That the client may be gone is nobody's concern.)
    pub fn finish(mut self, core: &Core, result: Result<Bytes, Status>) {
        let code = result.as_ref().map_or_else(|status| status.code, |_| 0);
        let mut metrics = core.grpc_metrics.borrow_mut();
        metrics.handled(self.call, code);
        if let Ok(message) = &result {
            metrics.sent(self.call.route, message.len());
        }
        drop(metrics);
        let message = match result {
            Ok(message) => message,
            Err(status) => return refuse(self.respond, &status),
        };
        let Ok(mut out) = self.respond.send_response(response(()), false) else { return };
        if message.len() < COPIED_MAX {
            let _ = out.send_data(framed(&message), false);
        } else {
            let _ = out.send_data(Bytes::copy_from_slice(&frame_head(message.len())), false);
            let _ = out.send_data(message, false);
        }
        let _ = out.send_trailers(Status::OK.trailers());
    }
}

/// Messages from this size on travel behind their head instead of being copied behind it: a frame more costs less.
const COPIED_MAX: usize = 16 << 10;

/// A response that is nothing but its status.
fn refuse(mut respond: SendResponse<Bytes>, status: &Status) {
    let mut response = response(());
    response.headers_mut().extend(status.trailers());
    let _ = respond.send_response(response, true);
}

/// Answers a call that is more than one question and one answer.
async fn stream(
    core: Rc<Core>,
    question: Question,
    answer: Answer,
    needs_leader: bool,
    deadline: Option<Duration>,
) {
    let Answer { mut respond, call } = answer;
    let answered = within(deadline, reply(&core, question, needs_leader));
    let result = tokio::select! {
        result = answered => result,
        () = http2::withdrawn(&mut respond) => {
            return core.grpc_metrics.borrow_mut().handled(call, Code::Canceled as u8);
        }
    };
    match result {
        Ok(Reply::Message(message)) => Answer { respond, call }.finish(&core, Ok(message)),
        Ok(Reply::Stream(body)) => {
            http2::send(respond, response(Body::counted(core, call, body))).await;
        }
        Err(status) => Answer { respond, call }.finish(&core, Err(status)),
    }
}

/// What a call is answered with.
pub enum Reply {
    Message(Bytes),
    Stream(Body),
}

async fn reply(
    core: &Rc<Core>,
    mut question: Question,
    needs_leader: bool,
) -> Result<Reply, Status> {
    let (service, name, _, route) = ROUTES[question.route];
    match route {
        Route::Watch => {
            return Ok(Reply::Stream(streams::watch(core, question, needs_leader)));
        }
        Route::KeepAlive => {
            return Ok(Reply::Stream(streams::keep_alive(core, question, needs_leader)));
        }
        _ => {}
    }
    let message = poll_fn(|cx| question.poll(cx)).await?;
    Ok(match route {
        Route::Unary(method) => Reply::Message(core.call(method, message).await?),
        Route::TimeToLive => Reply::Message(streams::time_to_live(core, message).await?),
        Route::Downgrade => Reply::Message(streams::downgrade(core, message).await?),
        Route::Promote => Reply::Message(streams::promote(core, message).await?),
        Route::HealthCheck => {
            // The message is one string: the service asked about. Only the whole server has a name: none.
            if !message.is_empty() {
                return Err(Status::new(Code::NotFound, "unknown service"));
            }
            Reply::Message(Bytes::from_static(&[0x08, 0x01]))
        }
        // {"": SERVING}: an entry with an empty key (left out) and a response.
        Route::HealthList => Reply::Message(Bytes::from_static(&[0x0a, 4, 0x12, 2, 0x08, 1])),
        Route::Recipe(recipe) => Reply::Message(recipes::run(core, recipe, message).await?),
        Route::Observe => Reply::Stream(recipes::observe(core, message)?),
        Route::HealthWatch => Reply::Stream(streams::health_watch(core, &message)),
        Route::RangeStream => Reply::Stream(streams::range(core, message).await?),
        Route::Snapshot => {
            streams::decode::<norn_proto::etcdserverpb::SnapshotRequest>(message)?;
            Reply::Stream(streams::snapshot(core).await?)
        }
        Route::Authenticate => return Err(Error::NotEnabledAuth.into()),
        Route::Watch | Route::KeepAlive | Route::Missing => {
            let message = format!("authentication is not served by norn: {service}/{name}");
            return Err(Status::new(Code::Unimplemented, message));
        }
    })
}

/// A call that came by another way than gRPC, message by message.
///
/// # Errors
/// What a gRPC client would be told.
pub async fn call(
    core: &Rc<Core>,
    at: usize,
    given: mpsc::Receiver<Bytes>,
    headers: &HeaderMap,
    deadline: Option<Duration>,
    needs_leader: bool,
) -> Result<Reply, Status> {
    let call = match begin(core, at, headers) {
        Ok(call) => call,
        Err((call, status)) => {
            core.grpc_metrics.borrow_mut().handled(call, status.code);
            return Err(status);
        }
    };
    let source = Source::Given(given);
    let question = Question { core: Rc::clone(core), route: at, source };
    let answered = async {
        if needs_leader && !core.with_node(|node| node.has_leader()) {
            return Err(Error::NoLeader.into());
        }
        within(deadline, reply(core, question, needs_leader)).await
    };
    let result = answered.await;
    let mut metrics = core.grpc_metrics.borrow_mut();
    match &result {
        Ok(Reply::Message(message)) => {
            metrics.handled(call, 0);
            metrics.sent(at, message.len());
        }
        Ok(Reply::Stream(_)) => {}
        Err(status) => metrics.handled(call, status.code),
    }
    drop(metrics);
    Ok(match result? {
        Reply::Stream(body) => Reply::Stream(Body::counted(Rc::clone(core), call, body)),
        message => message,
    })
}

async fn within(
    deadline: Option<Duration>,
    answered: impl Future<Output = Result<Reply, Status>>,
) -> Result<Reply, Status> {
    match deadline {
        Some(after) => match tokio::time::timeout(after, answered).await {
            Ok(result) => result,
            Err(_) => Err(Error::DeadlineExceeded.into()),
        },
        None => answered.await,
    }
}

/// What a client asks, message by message.
pub struct Question {
    core: Rc<Core>,
    route: usize,
    source: Source,
}

enum Source {
    Client { frames: Frames, body: Inbound },
    Given(mpsc::Receiver<Bytes>),
}

impl Question {
    /// The one message of a unary request.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, Status>> {
        self.poll_next(cx)
            .map(|next| next.unwrap_or_else(|| Err(Status::new(Code::Internal, "unexpected EOF"))))
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Status>>> {
        let next = match &mut self.source {
            Source::Client { frames, body } => ready!(frames.poll_message(body, cx)),
            Source::Given(given) => ready!(given.poll_recv(cx)).map(|message| {
                let bytes_max = message_bytes_max(&self.core);
                check_len(message.len(), bytes_max).map(|()| message)
            }),
        };
        if let Some(Ok(message)) = &next {
            self.core.grpc_metrics.borrow_mut().received(self.route, message.len());
        }
        Poll::Ready(next)
    }

    /// The next message; `None` when the client said all it has to say.
    pub async fn next(&mut self) -> Option<Result<Bytes, Status>> {
        poll_fn(|cx| self.poll_next(cx)).await
    }
}

/// What a route is counted under.
#[derive(Clone, Copy, Debug)]
pub struct Labels {
    pub service: &'static str,
    pub method: &'static str,
    pub kind: &'static str,
}

pub fn route_labels() -> impl ExactSizeIterator<Item = Labels> {
    ROUTES.iter().map(|(service, method, kind, _)| Labels { service, method, kind })
}

/// gRPC's `grpc-timeout`: up to eight digits and a unit. What is none is refused in grpc-go's words.
fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, Status> {
    let Some(value) = headers.get(&GRPC_TIMEOUT) else { return Ok(None) };
    let text = String::from_utf8_lossy(value.as_bytes());
    let malformed =
        |what: String| Status::new(Code::Internal, format!("malformed grpc-timeout: {what}"));
    match text.len() {
        0 | 1 => {
            return Err(malformed(format!("transport: timeout string is too short: {text:?}")));
        }
        2..=9 => {}
        _ => return Err(malformed(format!("transport: timeout string is too long: {text:?}"))),
    }
    let unit_ns: u64 = match text.as_bytes()[text.len() - 1] {
        b'n' => 1,
        b'u' => 1_000,
        b'm' => 1_000_000,
        b'S' => 1_000_000_000,
        b'M' => 60_000_000_000,
        b'H' => 3_600_000_000_000,
        _ => {
            let what = format!("transport: timeout unit is not recognized: {text:?}");
            return Err(malformed(what));
        }
    };
    let digits = &text[..text.len() - 1];
    // (A sign is none.)
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        let what = format!("strconv.ParseUint: parsing {digits:?}: invalid syntax");
        return Err(malformed(what));
    }
    let count: u64 = digits.parse().expect("up to eight digits");
    Ok(Some(Duration::from_nanos(count.saturating_mul(unit_ns))))
}

fn response<B>(body: B) -> Response<B> {
    // (A map that grows by itself begins with room for six.)
    let mut headers = HeaderMap::with_capacity(1);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    let mut response = Response::new(body);
    *response.headers_mut() = headers;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts() {
        let parse = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", HeaderValue::from_static(text));
            timeout(&headers)
        };
        let took = |text| parse(text).unwrap();
        assert_eq!(took("5S"), Some(Duration::from_secs(5)));
        assert_eq!(took("4999996u"), Some(Duration::from_micros(4_999_996)));
        assert_eq!(took("0n"), Some(Duration::ZERO));
        assert_eq!(took("99999999H"), Some(Duration::from_nanos(u64::MAX)));
        assert_eq!(timeout(&HeaderMap::new()).unwrap(), None);
        for (text, what) in [
            ("", "transport: timeout string is too short: \"\""),
            ("S", "transport: timeout string is too short: \"S\""),
            ("999999999S", "transport: timeout string is too long: \"999999999S\""),
            ("5", "transport: timeout string is too short: \"5\""),
            ("55", "transport: timeout unit is not recognized: \"55\""),
            ("+5S", "strconv.ParseUint: parsing \"+5\": invalid syntax"),
        ] {
            let status = parse(text).unwrap_err();
            assert_eq!(status.message, format!("malformed grpc-timeout: {what}"));
        }
    }
}
