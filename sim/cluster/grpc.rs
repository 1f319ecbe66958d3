//! The generated gRPC clients on simulated connections. (tonic's own transport wants tokio's runtime: here HTTP/2 is driven by the
//! machine that the client runs on.)

use std::error::Error as _;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use http::{Request, Response, Uri};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use madsim::task::spawn_local;
use norn_node::{Error, Method};
use norn_proto::etcdserverpb as pb;
use norn_proto::etcdserverpb::cluster_client::ClusterClient;
use norn_proto::etcdserverpb::kv_client::KvClient;
use norn_proto::etcdserverpb::lease_client::LeaseClient;
use norn_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use norn_proto::etcdserverpb::watch_client::WatchClient;
use norn_server::runtime::net::{Stream, address};
use norn_server::runtime::time::timeout;
use prost::Message;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Status, Streaming};

pub const CLIENT_PORT: u16 = 2379;

/// Why there is no answer.
#[derive(Clone, Debug)]
pub enum Broken {
    /// The server said so, in these words.
    Status(String),
    /// The connection broke, or nobody said anything in time.
    Silence,
}

impl From<h2::Error> for Broken {
    fn from(_: h2::Error) -> Broken {
        Broken::Silence
    }
}

impl From<Status> for Broken {
    /// What has a cause was made up on this side.
    fn from(status: Status) -> Broken {
        match status.source() {
            Some(_) => Broken::Silence,
            None => Broken::Status(status.message().to_owned()),
        }
    }
}

impl Broken {
    /// As the error that the node had given directly, if it was the node.
    pub fn error(&self) -> Error {
        let Broken::Status(text) = self else { return Error::Timeout };
        let known = Error::FIXED.iter().find(|error| error.to_string() == *text);
        known.cloned().unwrap_or(Error::Timeout)
    }
}

/// A connection to one member.
#[derive(Clone)]
pub struct Channel {
    sender: SendRequest<Bytes>,
}

impl Channel {
    /// # Errors
    /// Nobody is there.
    pub async fn open(host: usize, within: Duration) -> Result<Channel, Broken> {
        let opened = async {
            let target = format!("{}:{CLIENT_PORT}", address(host));
            let stream = Stream::connect(&target).await.map_err(|_| Broken::Silence)?;
            let (sender, connection) = h2::client::handshake(stream).await?;
            spawn_local(async move {
                // (Whoever uses the connection sees its end.)
                let _ = connection.await;
            });
            Ok(Channel { sender })
        };
        timeout(within, opened).await.map_err(|_| Broken::Silence)?
    }

    /// One question, one answer, as bytes.
    ///
    /// # Errors
    /// There is none.
    pub async fn call(
        &self,
        method: Method,
        body: Bytes,
        within: Duration,
        tells_server: bool,
    ) -> Result<Bytes, Broken> {
        macro_rules! ask {
            ($client:ident, $call:ident) => {{
                let message = Message::decode(body).expect("a client's own question");
                let mut request = tonic::Request::new(message);
                if tells_server {
                    request.set_timeout(within);
                }
                let client = $client::with_origin(self.clone(), origin());
                let mut client = client.max_decoding_message_size(usize::MAX);
                let answer = client.$call(request).await?;
                Ok(answer.into_inner().encode_to_vec().into())
            }};
        }
        let answered = async {
            match method {
                Method::Range => ask!(KvClient, range),
                Method::Put => ask!(KvClient, put),
                Method::DeleteRange => ask!(KvClient, delete_range),
                Method::Txn => ask!(KvClient, txn),
                Method::Compact => ask!(KvClient, compact),
                Method::LeaseGrant => ask!(LeaseClient, lease_grant),
                Method::LeaseRevoke => ask!(LeaseClient, lease_revoke),
                Method::LeaseKeepAlive => self.keep_alive(body).await,
                Method::Alarm => ask!(MaintenanceClient, alarm),
                Method::Defragment => ask!(MaintenanceClient, defragment),
                Method::HashKv => ask!(MaintenanceClient, hash_kv),
                Method::MemberAdd => ask!(ClusterClient, member_add),
                Method::MemberRemove => ask!(ClusterClient, member_remove),
                Method::MemberPromote => ask!(ClusterClient, member_promote),
                other => panic!("no client asks for {other:?}"),
            }
        };
        timeout(within, answered).await.map_err(|_| Broken::Silence)?
    }

    /// A stream of one question.
    async fn keep_alive(&self, body: Bytes) -> Result<Bytes, Broken> {
        let message = pb::LeaseKeepAliveRequest::decode(body).expect("a client's own question");
        let mut client = LeaseClient::with_origin(self.clone(), origin());
        let mut answers = client.lease_keep_alive(tokio_stream::once(message)).await?.into_inner();
        match (answers.message().await?, answers.message().await?) {
            (Some(answer), None) => Ok(answer.encode_to_vec().into()),
            _ => Err(Broken::Silence),
        }
    }

    /// A stream of watches. It begins when somebody listens.
    pub fn watch(&self) -> Watch {
        let (questions, receiver) = unbounded_channel();
        let client = WatchClient::with_origin(self.clone(), origin());
        let mut client = client.max_decoding_message_size(usize::MAX);
        let opening = async move {
            client
                .watch(UnboundedReceiverStream::new(receiver))
                .await
                .map(tonic::Response::into_inner)
        };
        Watch { questions, answers: Answers::Opening(Box::pin(opening)) }
    }
}

fn origin() -> Uri {
    Uri::from_static("http://norn")
}

impl tower_service::Service<Request<tonic::body::Body>> for Channel {
    type Response = Response<Answer>;
    type Error = h2::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Answer>, h2::Error>>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        let sender = self.sender.clone();
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let mut sender = sender.ready().await?;
            let (response, out) = sender.send_request(Request::from_parts(head, ()), false)?;
            spawn_local(say(body, out));
            Ok(response.await?.map(|body| Answer { body, is_over: false }))
        })
    }
}

/// Sends what a client says, to its end. (Who hears of a broken connection is the other half.)
async fn say(mut body: tonic::body::Body, mut out: SendStream<Bytes>) -> Result<(), h2::Error> {
    while let Some(Ok(frame)) = body.frame().await {
        if let Ok(data) = frame.into_data() {
            out.send_data(data, false)?;
        }
    }
    out.send_data(Bytes::new(), true)
}

/// What a server says.
pub struct Answer {
    body: RecvStream,
    is_over: bool,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        if let Some(data) = ready!(self.body.poll_data(cx)) {
            let data = data?;
            self.body.flow_control().release_capacity(data.len())?;
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        let trailers = ready!(self.body.poll_trailers(cx))?;
        self.is_over = true;
        Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
    }
}

/// A stream of watches.
pub struct Watch {
    questions: UnboundedSender<pb::WatchRequest>,
    answers: Answers,
}

type Opened = Result<Streaming<pb::WatchResponse>, Status>;

enum Answers {
    Opening(Pin<Box<dyn Future<Output = Opened>>>),
    Open(Box<Streaming<pb::WatchResponse>>),
}

impl Watch {
    /// # Errors
    /// The stream is over.
    pub fn say(&self, message: &Bytes) -> Result<(), Broken> {
        let message = pb::WatchRequest::decode(message.clone()).expect("a watcher's own question");
        self.questions.send(message).map_err(|_| Broken::Silence)
    }

    /// The next message; `None` when the server ended the stream as it should.
    ///
    /// # Errors
    /// The server ended it with another status, or the connection broke.
    pub async fn hear(&mut self) -> Result<Option<pb::WatchResponse>, Broken> {
        if let Answers::Opening(opening) = &mut self.answers {
            self.answers = Answers::Open(Box::new(opening.await?));
        }
        match &mut self.answers {
            Answers::Open(answers) => Ok(answers.message().await?),
            Answers::Opening(_) => unreachable!("opened above"),
        }
    }
}
