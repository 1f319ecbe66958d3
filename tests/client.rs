//! Typed gRPC calls with deadlines, to one endpoint, without retries: a test sees what the server said.

use std::time::Duration;

use norn_proto::etcdserverpb::auth_client::AuthClient;
use norn_proto::etcdserverpb::cluster_client::ClusterClient;
use norn_proto::etcdserverpb::kv_client::KvClient;
use norn_proto::etcdserverpb::lease_client::LeaseClient;
use norn_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use norn_proto::etcdserverpb::watch_client::WatchClient;
use norn_proto::etcdserverpb::watch_request::RequestUnion;
use norn_proto::etcdserverpb::*;
use norn_proto::v3electionpb::election_client::ElectionClient;
use norn_proto::v3lockpb::lock_client::LockClient;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status, Streaming};

/// The deadline of a call unless a test chooses another.
pub const CALL_LIMIT: Duration = Duration::from_secs(20);

#[derive(Clone, Debug)]
pub struct Client {
    pub channel: Channel,
    pub kv: KvClient<Channel>,
    pub watch: WatchClient<Channel>,
    pub lease: LeaseClient<Channel>,
    pub cluster: ClusterClient<Channel>,
    pub maintenance: MaintenanceClient<Channel>,
    pub auth: AuthClient<Channel>,
    pub lock: LockClient<Channel>,
    pub election: ElectionClient<Channel>,
    limit: Duration,
}

macro_rules! unary {
    ($(#[$doc:meta])* $name:ident, $service:ident, $method:ident, $request:ty, $response:ty) => {
        $(#[$doc])*
        pub async fn $name(&self, request: $request) -> Result<$response, Status> {
            self.bounded(self.$service.clone().$method(request)).await
        }
    };
}

impl Client {
    /// Does not connect yet: the first call does, and again after the server was restarted.
    pub fn new(url: &str) -> Self {
        Self::with_limit(url, CALL_LIMIT)
    }

    pub fn with_limit(url: &str, limit: Duration) -> Self {
        let endpoint = Endpoint::from_shared(url.to_owned()).expect("a URL");
        let channel =
            endpoint.connect_timeout(Duration::from_secs(2)).tcp_nodelay(true).connect_lazy();
        Self {
            kv: KvClient::new(channel.clone()).max_decoding_message_size(usize::MAX),
            watch: WatchClient::new(channel.clone()).max_decoding_message_size(usize::MAX),
            lease: LeaseClient::new(channel.clone()),
            cluster: ClusterClient::new(channel.clone()),
            maintenance: MaintenanceClient::new(channel.clone()),
            auth: AuthClient::new(channel.clone()),
            lock: LockClient::new(channel.clone()),
            election: ElectionClient::new(channel.clone()),
            channel,
            limit,
        }
    }

    async fn bounded<T>(
        &self,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Status> {
        match timeout(self.limit, call).await {
            Ok(answer) => answer.map(Response::into_inner),
            Err(_) => Err(Status::deadline_exceeded("the test's own deadline")),
        }
    }

    unary!(put, kv, put, PutRequest, PutResponse);
    unary!(range, kv, range, RangeRequest, RangeResponse);
    unary!(delete, kv, delete_range, DeleteRangeRequest, DeleteRangeResponse);
    unary!(txn, kv, txn, TxnRequest, TxnResponse);
    unary!(compact_with, kv, compact, CompactionRequest, CompactionResponse);
    unary!(lease_grant_with, lease, lease_grant, LeaseGrantRequest, LeaseGrantResponse);
    unary!(member_add_with, cluster, member_add, MemberAddRequest, MemberAddResponse);
    unary!(member_update, cluster, member_update, MemberUpdateRequest, MemberUpdateResponse);
    unary!(alarm, maintenance, alarm, AlarmRequest, AlarmResponse);
    unary!(downgrade, maintenance, downgrade, DowngradeRequest, DowngradeResponse);

    pub async fn compact(&self, revision: i64) -> Result<CompactionResponse, Status> {
        self.compact_with(CompactionRequest { revision, physical: true }).await
    }

    pub async fn lease_grant(&self, id: i64, ttl: i64) -> Result<LeaseGrantResponse, Status> {
        self.lease_grant_with(LeaseGrantRequest { id, ttl }).await
    }

    pub async fn lease_revoke(&self, id: i64) -> Result<LeaseRevokeResponse, Status> {
        self.bounded(self.lease.clone().lease_revoke(LeaseRevokeRequest { id })).await
    }

    pub async fn lease_ttl(&self, id: i64, keys: bool) -> Result<LeaseTimeToLiveResponse, Status> {
        let request = LeaseTimeToLiveRequest { id, keys };
        self.bounded(self.lease.clone().lease_time_to_live(request)).await
    }

    pub async fn leases(&self) -> Result<LeaseLeasesResponse, Status> {
        self.bounded(self.lease.clone().lease_leases(LeaseLeasesRequest {})).await
    }

    /// One keepalive on a stream of its own.
    pub async fn keep_alive(&self, id: i64) -> Result<LeaseKeepAliveResponse, Status> {
        let mut lease = self.lease.clone();
        let requests = tokio_stream::iter([LeaseKeepAliveRequest { id }]);
        let mut answers = self.bounded(lease.lease_keep_alive(requests)).await?;
        match timeout(self.limit, answers.message()).await {
            Ok(Ok(Some(answer))) => Ok(answer),
            Ok(Ok(None)) => Err(Status::unknown("the keepalive stream ended without an answer")),
            Ok(Err(status)) => Err(status),
            Err(_) => Err(Status::deadline_exceeded("the test's own deadline")),
        }
    }

    /// All chunks of a RangeStream, and the error it ended with if it did.
    pub async fn range_stream(
        &self,
        request: RangeRequest,
    ) -> (Vec<RangeStreamResponse>, Option<Status>) {
        let mut chunks = Vec::new();
        let mut stream = match self.bounded(self.kv.clone().range_stream(request)).await {
            Ok(stream) => stream,
            Err(status) => return (chunks, Some(status)),
        };
        loop {
            match timeout(self.limit, stream.message()).await {
                Ok(Ok(Some(chunk))) => chunks.push(chunk),
                Ok(Ok(None)) => return (chunks, None),
                Ok(Err(status)) => return (chunks, Some(status)),
                Err(_) => {
                    let status = Status::deadline_exceeded("the test's own deadline");
                    return (chunks, Some(status));
                }
            }
        }
    }

    pub async fn member_list(&self) -> Result<MemberListResponse, Status> {
        let request = MemberListRequest { linearizable: true };
        self.bounded(self.cluster.clone().member_list(request)).await
    }

    pub async fn member_add(&self, url: &str, learner: bool) -> Result<MemberAddResponse, Status> {
        let urls = vec![url.to_owned()];
        self.member_add_with(MemberAddRequest { peer_ur_ls: urls, is_learner: learner }).await
    }

    pub async fn member_remove(&self, id: u64) -> Result<MemberRemoveResponse, Status> {
        self.bounded(self.cluster.clone().member_remove(MemberRemoveRequest { id })).await
    }

    pub async fn member_promote(&self, id: u64) -> Result<MemberPromoteResponse, Status> {
        self.bounded(self.cluster.clone().member_promote(MemberPromoteRequest { id })).await
    }

    pub async fn move_leader(&self, target: u64) -> Result<MoveLeaderResponse, Status> {
        let request = MoveLeaderRequest { target_id: target };
        self.bounded(self.maintenance.clone().move_leader(request)).await
    }

    pub async fn status(&self) -> Result<StatusResponse, Status> {
        self.bounded(self.maintenance.clone().status(StatusRequest {})).await
    }

    pub async fn hash_kv(&self, revision: i64) -> Result<HashKvResponse, Status> {
        self.bounded(self.maintenance.clone().hash_kv(HashKvRequest { revision })).await
    }

    pub async fn defragment(&self) -> Result<DefragmentResponse, Status> {
        self.bounded(self.maintenance.clone().defragment(DefragmentRequest {})).await
    }

    /// The whole snapshot stream.
    pub async fn snapshot(&self) -> Result<Vec<SnapshotResponse>, Status> {
        let mut stream =
            self.bounded(self.maintenance.clone().snapshot(SnapshotRequest {})).await?;
        let mut messages = Vec::new();
        while let Some(message) = stream.message().await? {
            messages.push(message);
        }
        Ok(messages)
    }

    /// The server may answer nothing, not even headers, before the first create: opening never waits.
    pub fn open_watch(&self) -> WatchStream {
        // Bounded: a test that sends more than this without reading an answer is wrong.
        let (requests, receiver) = mpsc::channel(1024);
        let mut watch = self.watch.clone();
        let opening = tokio::spawn(async move { watch.watch(ReceiverStream::new(receiver)).await });
        WatchStream { requests, answers: Answers::Opening(opening), limit: self.limit }
    }

    /// A stream with one watcher, whose created answer has been read.
    pub async fn watch(&self, create: WatchCreateRequest) -> WatchStream {
        let mut stream = self.open_watch();
        let created = stream.create(create).await;
        assert!(created.created && !created.canceled, "{created:?}");
        stream
    }
}

/// One bidirectional Watch stream.
#[derive(Debug)]
pub struct WatchStream {
    requests: mpsc::Sender<WatchRequest>,
    answers: Answers,
    limit: Duration,
}

#[derive(Debug)]
enum Answers {
    Opening(JoinHandle<Result<Response<Streaming<WatchResponse>>, Status>>),
    Open(Box<Streaming<WatchResponse>>),
}

impl Answers {
    async fn message(&mut self) -> Result<Option<WatchResponse>, Status> {
        if let Self::Opening(opening) = self {
            let opened = opening.await.expect("opening a stream does not panic")?;
            *self = Self::Open(Box::new(opened.into_inner()));
        }
        match self {
            Self::Open(answers) => answers.message().await,
            Self::Opening(_) => unreachable!("opened above"),
        }
    }
}

impl WatchStream {
    pub async fn send(&self, request: RequestUnion) {
        let request = WatchRequest { request_union: Some(request) };
        self.requests.send(request).await.expect("the watch stream is open");
    }

    pub async fn send_create(&self, create: WatchCreateRequest) {
        self.send(RequestUnion::CreateRequest(create)).await;
    }

    /// Sends a create and reads one answer.
    pub async fn create(&mut self, create: WatchCreateRequest) -> WatchResponse {
        self.send_create(create).await;
        self.next().await
    }

    pub async fn cancel(&self, watch_id: i64) {
        self.send(RequestUnion::CancelRequest(WatchCancelRequest { watch_id })).await;
    }

    pub async fn ask_progress(&self) {
        self.send(RequestUnion::ProgressRequest(WatchProgressRequest {})).await;
    }

    /// Ends the request side; the answers go on.
    pub fn half_close(&mut self) {
        self.requests = mpsc::channel(1).0;
    }

    /// The next answer, or `None` when there is none before `limit`. The stream is as it was then.
    pub async fn next_within(&mut self, limit: Duration) -> Option<Result<WatchResponse, Status>> {
        match timeout(limit, self.answers.message()).await {
            Ok(Ok(Some(answer))) => Some(Ok(answer)),
            Ok(Ok(None)) => Some(Err(Status::ok("the end of the stream"))),
            Ok(Err(status)) => Some(Err(status)),
            Err(_) => None,
        }
    }

    /// The next answer; panics when none comes in time or the stream ends.
    pub async fn next(&mut self) -> WatchResponse {
        match self.next_within(self.limit).await {
            Some(Ok(answer)) => answer,
            Some(Err(status)) => panic!("the watch stream ended: {status:?}"),
            None => panic!("no watch answer after {:?}", self.limit),
        }
    }

    /// Events until there are at least `count`, as `PUT k=v@rev` and `DELETE k@rev`.
    pub async fn events(&mut self, count: usize) -> Vec<String> {
        let mut events = Vec::new();
        while events.len() < count {
            let answer = self.next().await;
            assert!(!answer.canceled, "{answer:?}");
            events.extend(answer.events.iter().map(show_event));
        }
        events
    }
}

pub fn show_event(event: &norn_proto::mvccpb::Event) -> String {
    let kv = event.kv.clone().unwrap_or_default();
    let key = String::from_utf8_lossy(&kv.key).into_owned();
    let value = String::from_utf8_lossy(&kv.value).into_owned();
    match event.r#type {
        0 => format!("PUT {key}={value}@{}", kv.mod_revision),
        1 => format!("DELETE {key}@{}", kv.mod_revision),
        other => format!("TYPE {other} {key}@{}", kv.mod_revision),
    }
}
