//! A gRPC client in the fewest words: calls and streams over HTTP/2 on a simulated connection.

use std::future::poll_fn;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request};
use madsim::task::spawn_local;
use norn_node::{Error, Method};
use norn_server::runtime::net::{TcpStream, address};
use norn_server::runtime::time::timeout;

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

/// Where a method is found.
pub fn path(method: Method) -> &'static str {
    match method {
        Method::Range => "/etcdserverpb.KV/Range",
        Method::Put => "/etcdserverpb.KV/Put",
        Method::DeleteRange => "/etcdserverpb.KV/DeleteRange",
        Method::Txn => "/etcdserverpb.KV/Txn",
        Method::Compact => "/etcdserverpb.KV/Compact",
        Method::LeaseGrant => "/etcdserverpb.Lease/LeaseGrant",
        Method::LeaseRevoke => "/etcdserverpb.Lease/LeaseRevoke",
        Method::LeaseKeepAlive => "/etcdserverpb.Lease/LeaseKeepAlive",
        Method::Alarm => "/etcdserverpb.Maintenance/Alarm",
        Method::MemberAdd => "/etcdserverpb.Cluster/MemberAdd",
        Method::MemberRemove => "/etcdserverpb.Cluster/MemberRemove",
        Method::MemberPromote => "/etcdserverpb.Cluster/MemberPromote",
        Method::Defragment => "/etcdserverpb.Maintenance/Defragment",
        Method::HashKv => "/etcdserverpb.Maintenance/HashKV",
        other => panic!("no client asks for {other:?}"),
    }
}

pub const WATCH: &str = "/etcdserverpb.Watch/Watch";

impl Channel {
    /// # Errors
    /// Nobody is there.
    pub async fn open(host: usize, within: Duration) -> Result<Channel, Broken> {
        let opened = async {
            let target = format!("{}:{CLIENT_PORT}", address(host));
            let stream = TcpStream::connect(&target).await.map_err(|_| Broken::Silence)?;
            let (sender, connection) = h2::client::handshake(stream).await?;
            spawn_local(async move {
                // (Whoever uses the connection sees its end.)
                let _ = connection.await;
            });
            Ok(Channel { sender })
        };
        timeout(within, opened).await.map_err(|_| Broken::Silence)?
    }

    /// Opens a stream to a method.
    ///
    /// # Errors
    /// The connection is broken.
    pub async fn stream(
        &self,
        path: &str,
        server_within: Option<Duration>,
    ) -> Result<Stream, Broken> {
        let mut request = Request::builder()
            .method("POST")
            .uri(format!("http://norn{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        if let Some(within) = server_within {
            request = request.header("grpc-timeout", format!("{}m", within.as_millis()));
        }
        let request = request.body(()).expect("a request");
        let mut sender = self.sender.clone().ready().await?;
        let (response, out) = sender.send_request(request, false)?;
        Ok(Stream { response: Some(response), out, body: None, buffer: BytesMut::new() })
    }

    /// One question, one answer.
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
        let answered = async {
            let mut stream = self.stream(path(method), tells_server.then_some(within)).await?;
            stream.say(body, true)?;
            let answer = stream.hear().await?;
            // (The trailers are part of the answer.)
            match (answer, stream.hear().await?) {
                (Some(answer), None) => Ok(answer),
                _ => Err(Broken::Silence),
            }
        };
        timeout(within, answered).await.map_err(|_| Broken::Silence)?
    }
}

/// A call under way.
pub struct Stream {
    response: Option<h2::client::ResponseFuture>,
    out: SendStream<Bytes>,
    body: Option<RecvStream>,
    buffer: BytesMut,
}

impl Stream {
    /// # Errors
    /// The connection is broken.
    pub fn say(&mut self, message: Bytes, is_last: bool) -> Result<(), Broken> {
        let mut frame = BytesMut::with_capacity(5 + message.len());
        frame.put_u8(0);
        frame.put_u32(message.len() as u32);
        frame.put_slice(&message);
        Ok(self.out.send_data(frame.freeze(), is_last)?)
    }

    /// The next message; `None` when the server ended the stream as it should.
    ///
    /// # Errors
    /// The server ended it with another status, or the connection broke.
    pub async fn hear(&mut self) -> Result<Option<Bytes>, Broken> {
        if let Some(response) = self.response.take() {
            let (head, body) = response.await?.into_parts();
            status(&head.headers)?;
            self.body = Some(body);
        }
        let Some(body) = &mut self.body else { return Err(Broken::Silence) };
        loop {
            if self.buffer.len() >= 5 {
                let len = u32::from_be_bytes([1, 2, 3, 4].map(|at| self.buffer[at])) as usize;
                if self.buffer.len() >= 5 + len {
                    self.buffer.advance(5);
                    return Ok(Some(self.buffer.split_to(len).freeze()));
                }
            }
            match poll_fn(|cx| body.poll_data(cx)).await {
                Some(data) => {
                    let data = data?;
                    self.buffer.extend_from_slice(&data);
                    body.flow_control().release_capacity(data.len())?;
                }
                None => {
                    let trailers = poll_fn(|cx| body.poll_trailers(cx)).await?;
                    return match trailers {
                        Some(trailers) => status(&trailers).map(|()| None),
                        None => Err(Broken::Silence),
                    };
                }
            }
        }
    }
}

fn status(headers: &HeaderMap) -> Result<(), Broken> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    match text("grpc-status") {
        None | Some("0") => Ok(()),
        Some(_) => Err(Broken::Status(text("grpc-message").unwrap_or("").to_owned())),
    }
}
