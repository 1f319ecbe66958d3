//! Locks and elections for clients that have nothing but calls: etcd's recipes, executed here. Both are a queue of keys
//! under one prefix, ordered by the revision that made them; each waits until nobody older is left. (api.md 3.9, 3.10)

use std::fmt::Write as _;
use std::rc::Rc;

use bytes::Bytes;
use norn_node::{Code, Error, Input, Method, StreamId};
use norn_proto::etcdserverpb::{compare, range_request, request_op, response_op};
use norn_proto::{etcdserverpb as pb, mvccpb, v3electionpb as election, v3lockpb as lock};
use prost::Message;

use crate::body::{Body, FRAME_HEAD_BYTES, Part, framed};
use crate::core::Core;
use crate::grpc::Status;
use crate::runtime::sync::mpsc;
use crate::runtime::{self, task};
use crate::streams;

/// Life of the lease that is granted to whoever comes without one, in seconds.
const LEASE_TTL: i64 = 60;
/// Leaders that wait for a slow observer; then the observation waits.
const LEADERS_MAX: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recipe {
    Lock,
    Unlock,
    Campaign,
    Proclaim,
    Leader,
    Resign,
}

pub async fn run(core: &Rc<Core>, recipe: Recipe, message: Bytes) -> Result<Bytes, Status> {
    let inner = Inner(core);
    Ok(match recipe {
        Recipe::Lock => inner.lock(decode(message)?).await?.encode_to_vec(),
        Recipe::Unlock => inner.unlock(decode(message)?).await?.encode_to_vec(),
        Recipe::Campaign => inner.campaign(decode(message)?).await?.encode_to_vec(),
        Recipe::Proclaim => inner.proclaim(decode(message)?).await?.encode_to_vec(),
        Recipe::Leader => inner.leader(decode(message)?).await?.encode_to_vec(),
        Recipe::Resign => inner.resign(decode(message)?).await?.encode_to_vec(),
    }
    .into())
}

fn decode<M: Message + Default>(message: Bytes) -> Result<M, Status> {
    M::decode(message).map_err(|error| Error::Malformed(error.to_string()).into())
}

/// What goes wrong within a recipe loses its code on the way: etcd's recipes are clients of their own server.
fn unknown(error: impl std::fmt::Display) -> Status {
    Status::new(Code::Unknown, error.to_string())
}

/// The calls that recipes make.
struct Inner<'a>(&'a Rc<Core>);

/// A place in a queue.
struct Place {
    key: Bytes,
    /// The revision that made the key: the order in the queue.
    revision: i64,
    lease: i64,
}

impl Inner<'_> {
    async fn lock(&self, request: lock::LockRequest) -> Result<lock::LockResponse, Status> {
        let lease = self.lease(request.lease).await?;
        let prefix = prefix(&request.name);
        let key = key(&prefix, lease);
        let oldest = range(first(&prefix));
        let reply = self
            .txn(pb::TxnRequest {
                compare: vec![made_at(&key, 0)],
                success: vec![put(&key, Bytes::new(), lease), oldest.clone()],
                failure: vec![range(one(&key)), oldest],
            })
            .await?;
        let mine = if reply.succeeded { header_revision(&reply) } else { made(&reply, 0) };
        let owner = listed(&reply, 1).first().map(|kv| kv.create_revision);
        let header = if owner.is_none_or(|owner| owner == mine) {
            reply.header
        } else {
            // Who stops waiting leaves the queue.
            let place = Place { key: key.clone(), revision: mine, lease };
            let mut leave = Leave { core: self.0, leaves: Some(delete(&place.key)) };
            self.wait_for_older(&prefix, place.revision).await?;
            let reply = self.range(one(&place.key)).await?;
            leave.leaves = None;
            if reply.kvs.is_empty() {
                return Err(unknown("mutex: session is expired"));
            }
            reply.header
        };
        Ok(lock::LockResponse { header, key })
    }

    async fn unlock(&self, request: lock::UnlockRequest) -> Result<lock::UnlockResponse, Status> {
        let request = pb::DeleteRangeRequest { key: request.key, ..Default::default() };
        let reply: pb::DeleteRangeResponse = self.call(Method::DeleteRange, &request).await?;
        Ok(lock::UnlockResponse { header: reply.header })
    }

    async fn campaign(
        &self,
        request: election::CampaignRequest,
    ) -> Result<election::CampaignResponse, Status> {
        let lease = self.lease(request.lease).await?;
        let prefix = prefix(&request.name);
        let key = key(&prefix, lease);
        let reply = self
            .txn(pb::TxnRequest {
                compare: vec![made_at(&key, 0)],
                success: vec![put(&key, request.value.clone(), lease)],
                failure: vec![range(one(&key))],
            })
            .await?;
        let revision = if reply.succeeded { header_revision(&reply) } else { made(&reply, 0) };
        let place = Place { key, revision, lease };
        let mut leave = Leave { core: self.0, leaves: Some(resignation(&place)) };
        let says_else = |kv: &mvccpb::KeyValue| kv.value != request.value;
        if !reply.succeeded && listed(&reply, 0).first().is_some_and(says_else) {
            self.put_as_leader(&place, request.value).await?;
        }
        self.wait_for_older(&prefix, place.revision).await?;
        leave.leaves = None;
        Ok(election::CampaignResponse {
            // (That of the first transaction, not of the moment of winning.)
            header: reply.header,
            leader: Some(election::LeaderKey {
                name: request.name,
                key: place.key,
                rev: place.revision,
                lease: place.lease,
            }),
        })
    }

    async fn proclaim(
        &self,
        request: election::ProclaimRequest,
    ) -> Result<election::ProclaimResponse, Status> {
        let place = self.place(request.leader).await?;
        let header = self.put_as_leader(&place, request.value).await?;
        Ok(election::ProclaimResponse { header })
    }

    async fn resign(
        &self,
        request: election::ResignRequest,
    ) -> Result<election::ResignResponse, Status> {
        let place = self.place(request.leader).await?;
        let reply = self.txn(resignation(&place)).await?;
        Ok(election::ResignResponse { header: reply.header })
    }

    async fn leader(
        &self,
        request: election::LeaderRequest,
    ) -> Result<election::LeaderResponse, Status> {
        let mut reply = self.range(first(&prefix(&request.name))).await?;
        let kv = reply.kvs.pop().ok_or_else(|| unknown("election: no leader"))?;
        Ok(election::LeaderResponse { header: reply.header, kv: Some(kv) })
    }

    async fn put_as_leader(
        &self,
        place: &Place,
        value: Bytes,
    ) -> Result<Option<pb::ResponseHeader>, Status> {
        let reply = self
            .txn(pb::TxnRequest {
                compare: vec![made_at(&place.key, place.revision)],
                success: vec![put(&place.key, value, place.lease)],
                failure: Vec::new(),
            })
            .await?;
        if !reply.succeeded {
            return Err(unknown("election: not leader"));
        }
        Ok(reply.header)
    }

    async fn place(&self, leader: Option<election::LeaderKey>) -> Result<Place, Status> {
        let leader = leader.ok_or_else(|| unknown("\"leader\" field must be provided"))?;
        let lease = self.lease(leader.lease).await?;
        Ok(Place { key: leader.key, revision: leader.rev, lease })
    }

    /// The given lease, or a new one. Nobody but the client renews it.
    async fn lease(&self, given: i64) -> Result<i64, Status> {
        if given != 0 {
            return Ok(given);
        }
        let request = pb::LeaseGrantRequest { ttl: LEASE_TTL, id: 0 };
        let reply: pb::LeaseGrantResponse = self.call(Method::LeaseGrant, &request).await?;
        Ok(reply.id)
    }

    /// Until no key under the prefix is older than `revision`. Waits for the youngest of those only: the others wake others.
    async fn wait_for_older(&self, prefix: &Bytes, revision: i64) -> Result<(), Status> {
        let youngest = pb::RangeRequest {
            limit: 1,
            max_create_revision: revision - 1,
            sort_order: range_request::SortOrder::Descend as i32,
            ..first(prefix)
        };
        loop {
            let reply = self.range(youngest.clone()).await?;
            let Some(before) = reply.kvs.first() else { return Ok(()) };
            let since = reply.header.map_or(0, |header| header.revision);
            let mut watcher = Watcher::open(self.0, before.key.clone(), Bytes::new(), since);
            while !watcher.next().await?.events.iter().any(is_delete) {}
        }
    }

    async fn txn(&self, request: pb::TxnRequest) -> Result<pb::TxnResponse, Status> {
        self.call(Method::Txn, &request).await
    }

    async fn range(&self, request: pb::RangeRequest) -> Result<pb::RangeResponse, Status> {
        self.call(Method::Range, &request).await
    }

    async fn call<M: Message + Default>(
        &self,
        method: Method,
        request: &impl Message,
    ) -> Result<M, Status> {
        let reply = self.0.call(method, request.encode_to_vec().into()).await.map_err(unknown)?;
        M::decode(reply).map_err(unknown)
    }
}

/// Tells who leads, from now on: every value of a leader's key until it goes, then the next leader's.
pub fn observe(core: &Rc<Core>, message: Bytes) -> Result<Body, Status> {
    let request: election::LeaderRequest = streams::decode(message)?;
    let (sender, parts) = mpsc::channel(LEADERS_MAX);
    let core = Rc::clone(core);
    task::spawn_local(async move {
        let prefix = prefix(&request.name);
        let gone = sender.clone();
        let status = runtime::select! {
            // (It ends by an error only; etcd has one word for all of them.)
            _ = follow(&core, &prefix, &sender) => unknown("election: observe closed early"),
            () = gone.closed() => Status::OK,
        };
        let _ = gone.send(Part::End(status)).await;
    });
    Ok(Body::Stream(parts))
}

async fn follow(
    core: &Rc<Core>,
    prefix: &Bytes,
    sender: &mpsc::Sender<Part>,
) -> Result<(), Status> {
    loop {
        let mut reply = Inner(core).range(first(prefix)).await?;
        let header = reply.header.unwrap_or_default();
        let (header, kv) = match reply.kvs.pop() {
            Some(kv) => (header, kv),
            None => first_put(core, prefix, header.revision).await?,
        };
        let (key, since) = (kv.key.clone(), header.revision + 1);
        tell(sender, header, kv).await?;
        let mut watcher = Watcher::open(core, key, Bytes::new(), since);
        let mut leads = true;
        while leads {
            let response = watcher.next().await?;
            let header = response.header.unwrap_or_default();
            for event in response.events {
                leads = !is_delete(&event);
                match event.kv {
                    Some(kv) if leads => tell(sender, header, kv).await?,
                    _ => break,
                }
            }
        }
    }
}

/// The first key that is put under a prefix, where none was at that revision.
async fn first_put(
    core: &Rc<Core>,
    prefix: &Bytes,
    revision: i64,
) -> Result<(pb::ResponseHeader, mvccpb::KeyValue), Status> {
    let mut watcher = Watcher::open(core, prefix.clone(), prefix_end(prefix), revision);
    loop {
        let response = watcher.next().await?;
        let header = response.header.unwrap_or_default();
        let put = response.events.into_iter().find(|event| !is_delete(event));
        if let Some(kv) = put.and_then(|event| event.kv) {
            // (The response may be about later revisions, too.)
            return Ok((pb::ResponseHeader { revision: kv.mod_revision, ..header }, kv));
        }
    }
}

async fn tell(
    sender: &mpsc::Sender<Part>,
    header: pb::ResponseHeader,
    kv: mvccpb::KeyValue,
) -> Result<(), Status> {
    let response = election::LeaderResponse { header: Some(header), kv: Some(kv) };
    let part = Part::Message(framed(&response.encode_to_vec()));
    sender.send(part).await.map_err(|_| unknown("the observer has gone"))
}

/// Whoever gives up while waiting (goes, takes too long, meets an error) does not stay in the queue.
struct Leave<'a> {
    core: &'a Rc<Core>,
    leaves: Option<pb::TxnRequest>,
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        if let Some(request) = self.leaves.take() {
            let core = Rc::clone(self.core);
            task::spawn_local(async move {
                // (If it fails, the lease ends it.)
                let _ = core.call(Method::Txn, request.encode_to_vec().into()).await;
            });
        }
    }
}

/// A watch stream of the server's own, with one watcher.
struct Watcher<'a> {
    core: &'a Rc<Core>,
    stream: StreamId,
    parts: mpsc::UnboundedReceiver<Part>,
}

impl Watcher<'_> {
    fn open(core: &Rc<Core>, key: Bytes, range_end: Bytes, start_revision: i64) -> Watcher<'_> {
        let (stream, parts) = core.open_watch();
        let create =
            pb::WatchCreateRequest { key, range_end, start_revision, ..Default::default() };
        let request = pb::watch_request::RequestUnion::CreateRequest(create);
        let body = pb::WatchRequest { request_union: Some(request) }.encode_to_vec().into();
        core.input(Input::WatchRequest { stream, body });
        Watcher { core, stream, parts }
    }

    async fn next(&mut self) -> Result<pb::WatchResponse, Status> {
        let Some(Part::Message(frame)) = self.parts.recv().await else {
            return Err(unknown(Error::Stopped));
        };
        self.core.watch_taken(self.stream);
        let response =
            pb::WatchResponse::decode(frame.slice(FRAME_HEAD_BYTES..)).map_err(unknown)?;
        if response.compact_revision != 0 {
            return Err(unknown(Error::Compacted));
        }
        if response.canceled {
            return Err(unknown(response.cancel_reason));
        }
        Ok(response)
    }
}

impl Drop for Watcher<'_> {
    fn drop(&mut self) {
        self.core.close_watch(self.stream);
    }
}

fn is_delete(event: &mvccpb::Event) -> bool {
    event.r#type() == mvccpb::event::EventType::Delete
}

/// What stands before all keys of a queue.
fn prefix(name: &Bytes) -> Bytes {
    [name, b"/".as_slice()].concat().into()
}

/// (It ends in a slash, so that its end is never carried over.)
fn prefix_end(prefix: &Bytes) -> Bytes {
    let mut end = prefix.to_vec();
    *end.last_mut().expect("it ends in a slash") += 1;
    end.into()
}

/// A lease's key in a queue: its id in hexadecimal, with a sign.
fn key(prefix: &Bytes, lease: i64) -> Bytes {
    let mut id = String::new();
    let sign = if lease < 0 { "-" } else { "" };
    let _ = write!(id, "{sign}{:x}", lease.unsigned_abs());
    [prefix, id.as_bytes()].concat().into()
}

fn one(key: &Bytes) -> pb::RangeRequest {
    pb::RangeRequest { key: key.clone(), ..Default::default() }
}

/// The oldest key under a prefix.
fn first(prefix: &Bytes) -> pb::RangeRequest {
    pb::RangeRequest {
        key: prefix.clone(),
        range_end: prefix_end(prefix),
        limit: 1,
        sort_target: range_request::SortTarget::Create as i32,
        sort_order: range_request::SortOrder::Ascend as i32,
        ..Default::default()
    }
}

fn range(request: pb::RangeRequest) -> pb::RequestOp {
    pb::RequestOp { request: Some(request_op::Request::RequestRange(request)) }
}

fn put(key: &Bytes, value: Bytes, lease: i64) -> pb::RequestOp {
    let request = pb::PutRequest { key: key.clone(), value, lease, ..Default::default() };
    pb::RequestOp { request: Some(request_op::Request::RequestPut(request)) }
}

fn delete_op(key: &Bytes) -> pb::RequestOp {
    let request = pb::DeleteRangeRequest { key: key.clone(), ..Default::default() };
    pb::RequestOp { request: Some(request_op::Request::RequestDeleteRange(request)) }
}

fn delete(key: &Bytes) -> pb::TxnRequest {
    pb::TxnRequest { success: vec![delete_op(key)], ..Default::default() }
}

/// Takes the key away, if it is still the one that was put at that revision.
fn resignation(place: &Place) -> pb::TxnRequest {
    pb::TxnRequest {
        compare: vec![made_at(&place.key, place.revision)],
        success: vec![delete_op(&place.key)],
        failure: Vec::new(),
    }
}

/// Whether the key was made at that revision; 0: whether there is none.
fn made_at(key: &Bytes, revision: i64) -> pb::Compare {
    pb::Compare {
        result: compare::CompareResult::Equal as i32,
        target: compare::CompareTarget::Create as i32,
        key: key.clone(),
        target_union: Some(compare::TargetUnion::CreateRevision(revision)),
        ..Default::default()
    }
}

fn header_revision(reply: &pb::TxnResponse) -> i64 {
    reply.header.map_or(0, |header| header.revision)
}

/// What the n-th operation of a transaction listed.
fn listed(reply: &pb::TxnResponse, at: usize) -> &[mvccpb::KeyValue] {
    match reply.responses.get(at).and_then(|op| op.response.as_ref()) {
        Some(response_op::Response::ResponseRange(reply)) => &reply.kvs,
        _ => &[],
    }
}

/// The revision that made the first key of that list.
fn made(reply: &pb::TxnResponse, at: usize) -> i64 {
    listed(reply, at).first().map_or(0, |kv| kv.create_revision)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_the_lease_in_hexadecimal() {
        let prefix = prefix(&Bytes::from_static(b"name"));
        assert_eq!(key(&prefix, 0x2d70_96a7), "name/2d7096a7");
        assert_eq!(key(&prefix, -255), "name/-ff");
        assert_eq!(key(&prefix, i64::MIN), "name/-8000000000000000");
        assert_eq!(prefix_end(&prefix), "name0");
    }
}
