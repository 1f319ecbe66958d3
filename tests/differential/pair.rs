//! Two fresh servers, one list of operations, and the first answer in which they differ.

use std::path::Path;
use std::time::{Duration, Instant};

use norn_tests::pb::compare::TargetUnion;
use norn_tests::pb::watch_request::RequestUnion;
use norn_tests::pb::*;
use norn_tests::req;
use norn_tests::{Client, Server, Setup};

use crate::normal::{Normal, show};
use crate::ops::{self, Op, Rev, STREAMS, TxnOp, Wanted};
use crate::watches::{Received, Stream, catch_up};

/// Where two servers differ, and how.
#[derive(Debug)]
pub struct Difference {
    /// Index of the operation.
    pub at: usize,
    pub text: String,
}

/// How long watch events may take to arrive.
const WATCH_LIMIT: Duration = Duration::from_secs(20);
/// Operations between two comparisons of the watchers.
const WATCH_EVERY: usize = 20;

pub struct Side {
    server: Server,
    pub client: Client,
    streams: Vec<Stream>,
    /// Id of the learner that was added last.
    pub added: u64,
}

impl Side {
    fn start(binary: &Path) -> Self {
        let mut server = Server::prepare(Setup::of(binary).quickly());
        server.launch();
        server.wait_ready();
        let client = server.client();
        let streams = (0..STREAMS).map(|_| Stream::open(&client)).collect();
        Self { server, client, streams, added: 0 }
    }
}

/// What the run has reached; the same for both sides as long as they agree.
#[derive(Clone, Copy, Debug)]
struct Reached {
    revision: i64,
    compacted: i64,
}

impl Reached {
    fn resolve(&self, revision: Rev) -> i64 {
        match revision {
            Rev::Exactly(n) => n,
            Rev::Now(n) => self.revision + n,
            Rev::Compacted(n) => self.compacted + n,
        }
    }
}

/// Nothing when the two agree to the end. The first difference ends the run, unless `all` are wanted and the state has
/// remained the same.
pub async fn run(etcd: &Path, norn: &Path, list: &[Op], all: bool) -> Vec<Difference> {
    let mut found = Vec::new();
    let mut sides = [Side::start(etcd), Side::start(norn)];
    for side in &sides {
        wait_versions(side).await;
    }
    let mut reached = Reached { revision: 1, compacted: 0 };
    for (at, op) in list.iter().enumerate() {
        if let Op::Compact { .. } | Op::Progress { .. } | Op::CancelWatch { .. } = op {
            // Who has not read its history yet is canceled by a compaction, holds back progress, and hears less before it is canceled.
            if let Some(text) = watchers_differ(&mut sides, &reached).await {
                found.push(Difference { at, text: format!("before {op:?}: {text}") });
                return found;
            }
        }
        let mut answers = Vec::new();
        for side in &mut sides {
            answers.push(apply(side, op, &reached).await);
        }
        let (theirs, ours) = (&answers[0], &answers[1]);
        if theirs.text != ours.text {
            let died = if sides[1].server.is_running() { "" } else { " (the second server died)" };
            let panics = sides[1].server.panics().join("\n    ");
            let text = format!(
                "{op:?} at {reached:?}{died}\n    etcd: {}\n    norn: {}\n    {panics}",
                theirs.text, ours.text
            );
            found.push(Difference { at, text });
            if !all || matches!(op, Op::Watch(_)) || !same_state(&sides).await {
                return found;
            }
        }
        reached.revision = reached.revision.max(theirs.revision);
        if let (Op::Compact { revision, .. }, true) = (op, theirs.accepted) {
            reached.compacted = reached.resolve(*revision);
        }
        let last = at + 1 == list.len();
        if (last || at % WATCH_EVERY == WATCH_EVERY - 1)
            && let Some(text) = watchers_differ(&mut sides, &reached).await
        {
            found.push(Difference { at, text });
            return found;
        }
    }
    let mut hashes = Vec::new();
    for side in &sides {
        hashes.push(show(side.client.hash_kv(0).await));
    }
    if hashes[0] != hashes[1] {
        found.push(Difference {
            at: list.len().saturating_sub(1),
            text: format!("the hash at the end\n    etcd: {}\n    norn: {}", hashes[0], hashes[1]),
        });
    }
    found
}

async fn same_state(sides: &[Side; 2]) -> bool {
    let mut states = Vec::new();
    for side in sides {
        let keys = show(side.client.range(req::all()).await);
        let alarms = show(side.client.alarm(AlarmRequest::default()).await);
        states.push((keys, alarms, show(side.client.leases().await)));
    }
    states[0] == states[1]
}

/// The cluster and storage versions are decided a moment after the start.
async fn wait_versions(side: &Side) {
    norn_tests::poll::until_async("the storage version", Duration::from_secs(10), async || {
        let status = side.client.status().await.ok()?;
        (status.storage_version == "3.7.0").then_some(())
    })
    .await;
}

/// The first watcher that has not received the same on both sides within the limit.
async fn watchers_differ(sides: &mut [Side; 2], reached: &Reached) -> Option<String> {
    for side in sides.iter() {
        catch_up(&side.client, reached.compacted.max(1)).await;
    }
    let start = Instant::now();
    loop {
        let received: Vec<Vec<Received>> =
            sides.iter().map(|side| side.streams.iter().map(Stream::snapshot).collect()).collect();
        if received[0] == received[1] {
            cancel_compacted(sides, &received[0]).await;
            return None;
        }
        if start.elapsed() > WATCH_LIMIT {
            return Some(first_difference(&received));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn cancel_compacted(sides: &mut [Side; 2], received: &[Received]) {
    for (i, stream) in received.iter().enumerate() {
        for watch_id in Stream::compacted(stream) {
            for side in sides.iter_mut() {
                let cancel = RequestUnion::CancelRequest(WatchCancelRequest { watch_id });
                side.streams[i].send(cancel).await;
                settle(&mut side.streams[i]).await;
            }
        }
    }
}

fn first_difference(received: &[Vec<Received>]) -> String {
    for (stream, (theirs, ours)) in received[0].iter().zip(&received[1]).enumerate() {
        let ids: std::collections::BTreeSet<i64> =
            theirs.keys().chain(ours.keys()).copied().collect();
        for id in ids {
            let none = Vec::new();
            let theirs = theirs.get(&id).unwrap_or(&none);
            let ours = ours.get(&id).unwrap_or(&none);
            let same = theirs.iter().zip(ours).take_while(|(a, b)| a == b).count();
            if same == theirs.len() && same == ours.len() {
                continue;
            }
            let at = |list: &[String]| list.get(same).cloned().unwrap_or("(nothing)".to_owned());
            return format!(
                "stream {stream} watch {id}: line {same} of {} and {}\n    etcd: {}\n    norn: {}",
                theirs.len(),
                ours.len(),
                at(theirs),
                at(ours)
            );
        }
    }
    "watchers differ".to_owned()
}

pub struct Answer {
    text: String,
    /// From the header, 0 when there is none.
    revision: i64,
    accepted: bool,
}

impl Answer {
    fn of<T: Normal + std::fmt::Debug + Headed>(answer: Result<T, tonic::Status>) -> Self {
        let revision = answer.as_ref().map_or(0, Headed::revision);
        Self { revision, accepted: answer.is_ok(), text: show(answer) }
    }

    pub fn text(text: String) -> Self {
        Self { text, revision: 0, accepted: true }
    }
}

trait Headed {
    fn revision(&self) -> i64;
}

macro_rules! headed {
    ($($t:ty),*) => {
        $(impl Headed for $t {
            fn revision(&self) -> i64 {
                self.header.map_or(0, |h| h.revision)
            }
        })*
    };
}

headed!(
    PutResponse,
    RangeResponse,
    DeleteRangeResponse,
    TxnResponse,
    CompactionResponse,
    LeaseGrantResponse,
    LeaseRevokeResponse,
    LeaseKeepAliveResponse,
    LeaseTimeToLiveResponse,
    LeaseLeasesResponse,
    HashKvResponse,
    AlarmResponse,
    StatusResponse,
    MemberListResponse
);

async fn apply(side: &mut Side, op: &Op, reached: &Reached) -> Answer {
    let client = &side.client;
    match op {
        Op::Put(put) => Answer::of(client.put(put_request(put)).await),
        Op::Range(range) => Answer::of(client.range(range_request(range, reached)).await),
        Op::RangeStream(range) => {
            let mut request = range_request(range, reached);
            if request.sort_order == 0 && (1..5).contains(&request.sort_target) {
                // The original resumes after the last key in sort order, which may lie anywhere.
                request.sort_target = 0;
            }
            stream(client, request).await
        }
        Op::Delete(delete) => Answer::of(client.delete(delete_request(delete)).await),
        Op::Txn(txn) => Answer::of(client.txn(txn_request(txn, reached)).await),
        Op::Compact { revision, physical } => {
            compact(client, reached.resolve(*revision), *physical).await
        }
        Op::Grant { id, ttl } => match *id {
            // The server would choose the id.
            0 => Answer::text(String::new()),
            id => Answer::of(client.lease_grant(id, *ttl).await),
        },
        Op::GrantAndRevoke { id, ttl } => {
            let granted = Answer::of(client.lease_grant(*id, *ttl).await);
            let revoked = Answer::of(client.lease_revoke(*id).await);
            let text = format!("{} then {}", granted.text, revoked.text);
            Answer { text, ..revoked }
        }
        Op::Revoke(id) => Answer::of(client.lease_revoke(*id).await),
        Op::TimeToLive { id, keys } => Answer::of(client.lease_ttl(*id, *keys).await),
        Op::KeepAlive(id) => Answer::of(client.keep_alive(*id).await),
        Op::Leases => Answer::of(client.leases().await),
        Op::HashKv(revision) => Answer::of(client.hash_kv(reached.resolve(*revision)).await),
        Op::Alarm { action, member, alarm } => {
            let request = AlarmRequest { action: *action, member_id: *member, alarm: *alarm };
            Answer::of(client.alarm(request).await)
        }
        Op::Status => Answer::of(client.status().await),
        Op::Members => Answer::of(client.member_list().await),
        Op::Member(change) => change.apply(side).await,
        Op::Defragment => Answer::text(show(client.defragment().await)),
        Op::Watch(watch) => {
            let request = watch_request(watch, reached);
            Answer::text(side.streams[watch.stream].create(request).await)
        }
        Op::CancelWatch { stream, id } => {
            let cancel = WatchCancelRequest { watch_id: *id };
            side.streams[*stream].send(RequestUnion::CancelRequest(cancel)).await;
            settle(&mut side.streams[*stream]).await;
            Answer::text(String::new())
        }
        Op::Progress { stream } => {
            let request = RequestUnion::ProgressRequest(WatchProgressRequest {});
            side.streams[*stream].send(request).await;
            settle(&mut side.streams[*stream]).await;
            Answer::text(String::new())
        }
    }
}

/// Requests on a stream have no answer that is sure to come, and the next operation must not overtake them: a create that is
/// refused at once is answered in their order.
async fn settle(stream: &mut Stream) {
    let refused = WatchCreateRequest { start_revision: -1, ..req::watch("settle") };
    stream.create(refused).await;
}

async fn compact(client: &Client, revision: i64, physical: bool) -> Answer {
    let request = CompactionRequest { revision, physical };
    let answer = Answer::of(client.compact_with(request).await);
    if answer.accepted && !physical {
        // Refused, but only after the running compaction has ended: hashes do not depend on timing.
        let again = CompactionRequest { revision, physical: true };
        drop(client.compact_with(again).await);
    }
    answer
}

/// A stream of answers, merged; the shape of the pieces is checked here.
async fn stream(client: &Client, request: RangeRequest) -> Answer {
    let (chunks, error) = client.range_stream(request).await;
    if let Some(status) = error {
        return Answer::of::<RangeResponse>(Err(status));
    }
    let mut merged = RangeResponse::default();
    let last = chunks.len().saturating_sub(1);
    let mut broken = String::new();
    for (i, chunk) in chunks.into_iter().enumerate() {
        let Some(part) = chunk.range_response else {
            broken.push_str("a chunk without content; ");
            continue;
        };
        if i < last && (part.header.is_some() || part.more || part.count != 0) {
            broken.push_str("an early chunk with a header, more or count; ");
        }
        if i == last {
            (merged.header, merged.more, merged.count) = (part.header, part.more, part.count);
        }
        merged.kvs.extend(part.kvs);
    }
    let answer = Answer::of(Ok(merged));
    Answer { text: broken + &answer.text, ..answer }
}

fn range_request(range: &ops::Range, reached: &Reached) -> RangeRequest {
    let [min_mod, max_mod, min_create, max_create] = range.filters.map(|r| reached.resolve(r));
    RangeRequest {
        key: req::bytes(&range.key),
        range_end: req::bytes(&range.end),
        limit: range.limit,
        revision: reached.resolve(range.revision),
        sort_order: range.order,
        sort_target: range.target,
        serializable: range.serializable,
        keys_only: range.keys_only,
        count_only: range.count_only,
        min_mod_revision: min_mod,
        max_mod_revision: max_mod,
        min_create_revision: min_create,
        max_create_revision: max_create,
    }
}

fn put_request(put: &ops::Put) -> PutRequest {
    PutRequest {
        key: req::bytes(&put.key),
        value: req::bytes(&put.value),
        lease: put.lease,
        prev_kv: put.prev_kv,
        ignore_value: put.ignore_value,
        ignore_lease: put.ignore_lease,
    }
}

fn delete_request(delete: &ops::Delete) -> DeleteRangeRequest {
    DeleteRangeRequest {
        key: req::bytes(&delete.key),
        range_end: req::bytes(&delete.end),
        prev_kv: delete.prev_kv,
    }
}

fn txn_request(txn: &ops::Txn, reached: &Reached) -> TxnRequest {
    let branch = |list: &[TxnOp]| list.iter().map(|op| txn_op(op, reached)).collect();
    TxnRequest {
        compare: txn.compares.iter().map(|c| compare_request(c, reached)).collect(),
        success: branch(&txn.success),
        failure: branch(&txn.failure),
    }
}

fn txn_op(op: &TxnOp, reached: &Reached) -> RequestOp {
    match op {
        TxnOp::Range(range) => req::op_get(range_request(range, reached)),
        TxnOp::Put(put) => req::op_put(put_request(put)),
        TxnOp::Delete(delete) => req::op_del(delete_request(delete)),
        TxnOp::Txn(txn) => req::op_txn(txn_request(txn, reached)),
        TxnOp::Nothing => RequestOp { request: None },
    }
}

fn compare_request(compare: &ops::Compare, reached: &Reached) -> Compare {
    let target_union = match &compare.wanted {
        Wanted::Version(n) => Some(TargetUnion::Version(*n)),
        Wanted::Create(r) => Some(TargetUnion::CreateRevision(reached.resolve(*r))),
        Wanted::Mod(r) => Some(TargetUnion::ModRevision(reached.resolve(*r))),
        Wanted::Value(v) => Some(TargetUnion::Value(req::bytes(v))),
        Wanted::Lease(id) => Some(TargetUnion::Lease(*id)),
        Wanted::Missing => None,
    };
    Compare {
        result: compare.result,
        target: compare.target,
        key: req::bytes(&compare.key),
        range_end: req::bytes(&compare.end),
        target_union,
    }
}

fn watch_request(watch: &ops::Watch, reached: &Reached) -> WatchCreateRequest {
    WatchCreateRequest {
        key: req::bytes(&watch.key),
        range_end: req::bytes(&watch.end),
        start_revision: reached.resolve(watch.start),
        progress_notify: false,
        filters: watch.filters.clone(),
        prev_kv: watch.prev_kv,
        watch_id: watch.id,
        fragment: watch.fragment,
    }
}
