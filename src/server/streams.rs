//! The calls that are more than one question and one answer, and those that may have to ask the leader.

use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use norn_node::{Code, Error, Input, Method, RangeStream};
use norn_proto::etcdserverpb::downgrade_request::DowngradeAction;
use norn_proto::{etcdserverpb as pb, leasepb};
use norn_storage::{DiskRead, FileName};
use prost::Message;
use sha2::{Digest, Sha256};

use crate::body::{Body, Part, WatchBody, framed};
use crate::core::Core;
use crate::grpc::{Question, Status};
use crate::log::Value;
use crate::metrics::StreamFailure;
use crate::runtime::sync::mpsc;
use crate::runtime::time::Instant;
use crate::runtime::{self, task, time};

/// Parts of a stream that wait for their connection; the producer stops until there is room.
const PARTS_MAX: usize = 4;
/// Bytes per message of a snapshot, as etcd sends them.
const BLOB_BYTES: usize = 32 << 10;
/// Leaderless looks, an election timeout apart, after which a stream that asked for a leader ends.
const LEADERLESS_MAX: u32 = 3;
/// Requests of a watch stream given to the node before its answers are counted. Each has at most one, so this and
/// `RESPONSES_IN_FLIGHT_MAX` bound what a client that asks and never reads has waiting here.
const WATCH_REQUESTS_MAX: usize = 64;
/// Between two tries to reach the leader.
const FORWARD_RETRY: Duration = Duration::from_millis(50);

pub fn watch(core: &Rc<Core>, question: Question, needs_leader: bool) -> Body {
    let (stream, parts) = core.open_watch();
    let reader = Rc::clone(core);
    task::spawn_local(async move {
        let requests = read_watch(&reader, question, stream);
        if needs_leader {
            runtime::select! {
                () = requests => {}
                () = leaderless(Rc::clone(&reader)) => {
                    reader.end_watch(stream, Error::NoLeader.into());
                }
            }
        } else {
            requests.await;
        }
    });
    Body::Watch(WatchBody { core: Rc::clone(core), stream, parts })
}

/// Reads until the client is gone, and stops reading while too many answers wait: HTTP/2 then stops the client. One that
/// only closed its sending side still wants its events: they go on without this task.
async fn read_watch(core: &Rc<Core>, mut question: Question, stream: norn_node::StreamId) {
    let mut given = 0;
    while let Some(next) = question.next().await {
        let body = match next.and_then(checked::<pb::WatchRequest>) {
            Ok(body) => body,
            Err(status) => {
                core.grpc_metrics.borrow_mut().stream_failed(StreamFailure::WatchReceive);
                return core.end_watch(stream, status);
            }
        };
        core.input(Input::WatchRequest { stream, body });
        given += 1;
        if given == WATCH_REQUESTS_MAX {
            core.watch_room(stream).await;
            given = 0;
        }
    }
}

/// A message on a stream. (grpc-go has other words here than for the only question of a call.)
///
/// # Errors
/// If it is none.
pub fn decode<M: Message + Default>(message: Bytes) -> Result<M, Status> {
    M::decode(message).map_err(|error| {
        let text = format!("grpc: failed to unmarshal the received message: {error}");
        Status::new(Code::Internal, text)
    })
}

/// The message as it is, if it is one: for those who decode it themselves and are never wrong.
///
/// # Errors
/// As [`decode`].
pub fn checked<M: Message + Default>(message: Bytes) -> Result<Bytes, Status> {
    decode::<M>(message.clone()).map(|_| message)
}

/// Ends when there was no leader for too long.
async fn leaderless(core: Rc<Core>) {
    let mut looks = 0;
    let every = Duration::from_millis(core.with_node(|node| node.config().election_ms()));
    while looks < LEADERLESS_MAX {
        time::sleep(every).await;
        looks = if core.with_node(|node| node.has_leader()) { 0 } else { looks + 1 };
    }
}

/// Answers are made when the connection asks for them: a renewal needs no task and no queue of its own.
pub fn keep_alive(core: &Rc<Core>, question: Question, needs_leader: bool) -> Body {
    let leaderless = needs_leader.then(|| Box::pin(leaderless(Rc::clone(core))));
    let stream = KeepAlives { core: Rc::clone(core), question, leaderless, is_answering: false };
    // (In a box: it is handed on with every answer.)
    let parts = stream::unfold(Some(Box::new(stream)), |stream| async {
        let mut stream = stream?;
        Some(match stream.next().await {
            Ok(Some(reply)) => (Part::Message(framed(&reply)), Some(stream)),
            Ok(None) => (Part::End(Status::OK), None),
            Err(status) => (Part::End(status), None),
        })
    });
    Body::Pulled(Box::pin(parts))
}

/// Renewals of one stream: one after the other, in order.
struct KeepAlives<L> {
    core: Rc<Core>,
    question: Question,
    /// Ends when there was no leader for too long; for clients who want to know.
    leaderless: Option<Pin<Box<L>>>,
    is_answering: bool,
}

impl<L: Future<Output = ()>> KeepAlives<L> {
    /// `None` when the client said all it has to say.
    async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        let KeepAlives { core, question, leaderless, is_answering } = self;
        let answer = async {
            let Some(message) = question.next().await else { return Ok(None) };
            let message = message.and_then(checked::<pb::LeaseKeepAliveRequest>);
            let message = message.inspect_err(|_| {
                core.grpc_metrics.borrow_mut().stream_failed(StreamFailure::LeaseReceive);
            })?;
            *is_answering = true;
            renew(core, message).await.map(Some)
        };
        let answer = match leaderless {
            None => answer.await,
            Some(leaderless) => runtime::select! {
                answer = answer => answer,
                () = leaderless => Err(Error::NoLeader.into()),
            },
        };
        self.is_answering = false;
        answer
    }
}

impl<L> Drop for KeepAlives<L> {
    fn drop(&mut self) {
        if self.is_answering {
            // Its client is gone.
            self.core.grpc_metrics.borrow_mut().stream_failed(StreamFailure::LeaseSend);
        }
    }
}

async fn renew(core: &Rc<Core>, message: Bytes) -> Result<Bytes, Status> {
    let header = header(core);
    let from_leader = |body: Bytes| {
        let reply = pb::LeaseKeepAliveResponse::decode(body).ok()?;
        let reply = pb::LeaseKeepAliveResponse { header: Some(header), ..reply };
        Some(Bytes::from(reply.encode_to_vec()))
    };
    let not_found = || {
        let id = pb::LeaseKeepAliveRequest::decode(message.clone()).map_or(0, |r| r.id);
        let reply = pb::LeaseKeepAliveResponse { header: Some(header), id, ttl: 0 };
        Bytes::from(reply.encode_to_vec())
    };
    let call = (Method::LeaseKeepAlive, message.clone());
    at_leader(core, call, "/leases", message.clone(), from_leader, not_found).await
}

pub async fn time_to_live(core: &Rc<Core>, message: Bytes) -> Result<Bytes, Status> {
    let request = pb::LeaseTimeToLiveRequest::decode(message.clone())
        .map_err(|error| Status::from(Error::Malformed(error.to_string())))?;
    let header = header(core);
    let id = request.id;
    let forwarded = leasepb::LeaseInternalRequest { lease_time_to_live_request: Some(request) };
    let from_leader = |body: Bytes| {
        let reply = leasepb::LeaseInternalResponse::decode(body).ok()?;
        let reply = reply.lease_time_to_live_response?;
        let reply = pb::LeaseTimeToLiveResponse { header: Some(header), ..reply };
        Some(Bytes::from(reply.encode_to_vec()))
    };
    let not_found = || {
        let ttl = -1;
        let reply =
            pb::LeaseTimeToLiveResponse { header: Some(header), id, ttl, ..Default::default() };
        Bytes::from(reply.encode_to_vec())
    };
    let call = (Method::LeaseTimeToLive, message);
    let body = forwarded.encode_to_vec().into();
    at_leader(core, call, "/leases/internal", body, from_leader, not_found).await
}

fn header(core: &Core) -> pb::ResponseHeader {
    let header = core.with_node(|node| node.header());
    pb::ResponseHeader {
        cluster_id: header.cluster_id,
        member_id: header.member_id,
        revision: header.revision,
        raft_term: header.raft_term,
    }
}

/// Asks this member and, as long as it does not lead, the one that does.
async fn at_leader(
    core: &Rc<Core>,
    (method, message): (Method, Bytes),
    path: &str,
    forwarded: Bytes,
    from_leader: impl Fn(Bytes) -> Option<Bytes>,
    not_found: impl Fn() -> Bytes,
) -> Result<Bytes, Status> {
    let timeout_ms = core.with_node(|node| node.config().request_timeout_ms());
    let tries = async {
        loop {
            match core.call(method, message.clone()).await {
                Err(Error::NotPrimaryLessor) => {}
                result => return result.map_err(Status::from),
            }
            for url in leader_urls(core) {
                let body = forwarded.clone();
                let reply = crate::client::post(&url, path, "application/protobuf", body).await;
                match reply {
                    Ok((200, body)) => {
                        if let Some(reply) = from_leader(body) {
                            return Ok(reply);
                        }
                    }
                    Ok((404, _)) => return Ok(not_found()),
                    _ => {}
                }
            }
            time::sleep(FORWARD_RETRY).await;
        }
    };
    match time::timeout(Duration::from_millis(timeout_ms), tries).await {
        Ok(result) => result,
        Err(_) if core.with_node(|node| node.has_leader()) => Err(Error::Timeout.into()),
        Err(_) => Err(Error::NoLeader.into()),
    }
}

fn leader_urls(core: &Core) -> Vec<String> {
    core.with_node(|node| {
        let leader = node.raft().leader().0;
        if leader == node.id() {
            return Vec::new();
        }
        node.members().member(leader).map(|m| m.peer_urls.clone()).unwrap_or_default()
    })
}

/// Promotion is decided by the leader, who alone knows how far the learner is.
pub async fn promote(core: &Rc<Core>, message: Bytes) -> Result<Bytes, Status> {
    let id = pb::MemberPromoteRequest::decode(message.clone())
        .map_err(|error| Status::from(Error::Malformed(error.to_string())))?
        .id;
    let timeout_ms = core.with_node(|node| node.config().request_timeout_ms());
    let tries = async {
        loop {
            match core.call(Method::MemberPromote, message.clone()).await {
                Err(Error::NotLeader) => {}
                result => return result.map_err(Status::from),
            }
            for url in leader_urls(core) {
                let path = format!("/members/promote/{id}");
                match crate::client::post(&url, &path, "application/json", Bytes::new()).await {
                    Ok((200, _)) => {
                        // Everybody knows the members; this one will, when it has applied the change.
                        let list = pb::MemberListRequest { linearizable: true };
                        let body = list.encode_to_vec().into();
                        return core.call(Method::MemberList, body).await.map_err(Status::from);
                    }
                    Ok((404, _)) => return Err(Error::MemberNotFound.into()),
                    Ok((412, body)) => {
                        let text = String::from_utf8_lossy(&body).into_owned();
                        let known = [Error::LearnerNotReady, Error::MemberNotLearner];
                        for error in known {
                            if text.contains(&error.to_string()) {
                                return Err(error.into());
                            }
                        }
                    }
                    _ => {}
                }
            }
            time::sleep(FORWARD_RETRY).await;
        }
    };
    match time::timeout(Duration::from_millis(timeout_ms), tries).await {
        Ok(result) => result,
        Err(_) => Err(Error::Timeout.into()),
    }
}

/// Canceling succeeds whatever happens, also when there was nothing to cancel, as in etcd.
pub async fn downgrade(core: &Rc<Core>, message: Bytes) -> Result<Bytes, Status> {
    let action = pb::DowngradeRequest::decode(message.clone())
        .map_err(|error| Status::from(Error::Malformed(error.to_string())))?
        .action;
    let error = match core.call(Method::Downgrade, message).await {
        Err(error) if error != Error::NotSupportedForLearner => error,
        done => return Ok(done?),
    };
    let fields = [("error", Value::Text(&error.to_string()))];
    match DowngradeAction::try_from(action) {
        Ok(DowngradeAction::Cancel) => {
            core.log.warn("failed to cancel downgrade", &fields);
            Ok(core.with_node(|node| node.downgrade_reply()))
        }
        Ok(DowngradeAction::Enable) => {
            core.log.warn("reject downgrade request", &fields);
            Err(error.into())
        }
        _ => Err(error.into()),
    }
}

/// The one service there is serves from the moment it can be asked.
pub fn health_watch(core: &Rc<Core>, message: &[u8]) -> Body {
    let (sender, parts) = mpsc::channel(PARTS_MAX);
    // 1: serving. 3: nobody knows that name.
    let status: &[u8] = if message.is_empty() { &[0x08, 0x01] } else { &[0x08, 0x03] };
    let first = framed(status);
    let mut phase = core.phase();
    task::spawn_local(async move {
        if sender.send(Part::Message(first)).await.is_err() {
            return;
        }
        // (Open until the client or the server goes.)
        runtime::select! {
            () = sender.closed() => {}
            _ = phase.wait_for(|p| matches!(p, crate::core::Phase::Failed(_))) => {}
        }
    });
    Body::Stream(parts)
}

pub async fn range(core: &Rc<Core>, message: Bytes) -> Result<Body, Status> {
    let request: pb::RangeRequest = decode(message)?;
    let mut stream = RangeStream::new(&request)?;
    if !stream.is_serializable {
        core.call(Method::Barrier, Bytes::new()).await?;
    }
    // The first chunk decides whether there is a stream at all.
    let first = core.with_node(|node| stream.next(node))?;
    let (sender, parts) = mpsc::channel(PARTS_MAX);
    let core = Rc::clone(core);
    task::spawn_local(async move {
        let mut next = Ok(first);
        let status = loop {
            match next {
                Ok(Some(chunk)) => {
                    if sender.send(Part::Message(framed(&chunk))).await.is_err() {
                        return;
                    }
                    task::yield_now().await;
                    next = core.with_node(|node| stream.next(node));
                }
                Ok(None) => break Status::OK,
                Err(error) => break error.into(),
            }
        };
        let _ = sender.send(Part::End(status)).await;
    });
    Ok(Body::Stream(parts))
}

pub async fn snapshot(core: &Rc<Core>) -> Result<Body, Status> {
    let began = Instant::now();
    let name = core.call(Method::Export, Bytes::new()).await?;
    let file = FileName::new(String::from_utf8_lossy(&name));
    let version = core.with_node(|node| node.storage_version()).unwrap_or_default();
    let (sender, parts) = mpsc::channel(PARTS_MAX);
    let core = Rc::clone(core);
    task::spawn_local(async move {
        let sent = send_file(&core, &file, &version, &sender).await;
        let _ = sender.send(Part::End(sent.err().unwrap_or(Status::OK))).await;
        core.disk_metrics.export.observe(began.elapsed());
        core.input(Input::ExportDone { file });
    });
    Ok(Body::Stream(parts))
}

async fn send_file(
    core: &Rc<Core>,
    file: &FileName,
    version: &str,
    parts: &mpsc::Sender<Part>,
) -> Result<(), Status> {
    let failed = |error: norn_storage::DiskError| Status::new(Code::Internal, error.to_string());
    let reader = core.reader();
    let len = reader.len(file).map_err(failed)?.unwrap_or(0);
    let mut hash = Sha256::new();
    let mut sent = 0;
    while sent < len {
        let blob = reader.read_at(file, sent, BLOB_BYTES).map_err(failed)?;
        if blob.is_empty() {
            return Err(Status::new(Code::Internal, format!("{file} ends early")));
        }
        hash.update(&blob);
        sent += blob.len() as u64;
        let remaining_bytes = len - sent;
        let message = pb::SnapshotResponse {
            remaining_bytes,
            blob,
            version: version.to_owned(),
            ..Default::default()
        };
        if parts.send(Part::Message(framed(&message.encode_to_vec()))).await.is_err() {
            return Ok(());
        }
    }
    let blob = Bytes::copy_from_slice(&hash.finalize());
    let message = pb::SnapshotResponse { blob, version: version.to_owned(), ..Default::default() };
    let _ = parts.send(Part::Message(framed(&message.encode_to_vec()))).await;
    Ok(())
}
