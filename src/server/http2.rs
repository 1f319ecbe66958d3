//! One HTTP/2 connection: requests in, replies out.
//!
//! A call of one question and one answer has no task of its own: its question is read where the connection accepts it,
//! and its answer is written from the turn that produced it (see [`grpc`]). The connection's task then
//! sends what all answers of a turn came to.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::server::{Connection, SendResponse};
use h2::{Ping, PingPong, RecvStream, SendStream};
use http::{Request, Response};
use http_body::{Body as _, Frame};

use crate::body::Body;
use crate::config::ServerConfig;
use crate::core::Core;
use crate::grpc;
// (Tokio's, or the simulation's.)
use crate::runtime as tokio;
use crate::runtime::io::{AsyncRead, AsyncWrite};
use crate::runtime::sync::watch;
use crate::runtime::time::{Instant, Sleep};

/// Bytes of one stream, and of all streams of a connection, that may be on their way to us unread. Requests are at
/// most two megabytes; more only costs memory.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;
/// All headers of a request together. The largest of them is a token of a few kilobytes.
const HEADERS_BYTES_MAX: u32 = 16 << 10;

/// Serves a connection until either side ends it.
pub async fn serve<S>(
    core: Rc<Core>,
    stream: S,
    config: &Rc<ServerConfig>,
    mut stop: watch::Receiver<bool>,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(HEADERS_BYTES_MAX)
        .max_concurrent_streams(config.streams_max);
    // (How a connection ends is the client's business, here and below.)
    let Ok(mut connection) = builder.handshake::<S, Bytes>(stream).await else { return };
    let mut pulse = Pulse::new(&mut connection, config);
    let mut stopped = pin!(stop.wait_for(|stop| *stop));
    let mut is_leaving = false;
    poll_fn(|cx| {
        loop {
            match connection.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, respond)))) => {
                    accept(&core, config, request, respond);
                }
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => break,
            }
        }
        if !is_leaving && stopped.as_mut().poll(cx).is_ready() {
            is_leaving = true;
            connection.graceful_shutdown();
            cx.waker().wake_by_ref();
        }
        pulse.as_mut().map_or(Poll::Pending, |pulse| pulse.poll_lost(cx))
    })
    .await;
}

fn accept(
    core: &Rc<Core>,
    config: &Rc<ServerConfig>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) {
    if grpc::is_grpc(&request) {
        return grpc::accept(core, request, respond);
    }
    let (core, config) = (Rc::clone(core), Rc::clone(config));
    tokio::task::spawn_local(async move {
        let page = crate::http_api::serve(core, &config, request.map(Inbound::new));
        let page = tokio::select! {
            page = page => page,
            () = withdrawn(&mut respond) => return,
        };
        send(respond, page).await;
    });
}

/// Asks a silent client whether it is still there.
struct Pulse {
    ping_pong: PingPong,
    interval: Duration,
    timeout: Duration,
    timer: Pin<Box<Sleep>>,
    is_waiting: bool,
}

impl Pulse {
    fn new<S>(connection: &mut Connection<S, Bytes>, config: &ServerConfig) -> Option<Pulse>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        if config.keepalive_ms == 0 {
            return None;
        }
        let interval = Duration::from_millis(config.keepalive_ms);
        Some(Pulse {
            ping_pong: connection.ping_pong()?,
            interval,
            timeout: Duration::from_millis(config.keepalive_timeout_ms.max(1)),
            timer: Box::pin(tokio::time::sleep(interval)),
            is_waiting: false,
        })
    }

    /// Ready when the client did not answer in time.
    fn poll_lost(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.is_waiting && self.ping_pong.poll_pong(cx).is_ready() {
            self.is_waiting = false;
            self.timer.as_mut().reset(Instant::now() + self.interval);
        }
        while self.timer.as_mut().poll(cx).is_ready() {
            if self.is_waiting || self.ping_pong.send_ping(Ping::opaque()).is_err() {
                return Poll::Ready(());
            }
            self.is_waiting = true;
            self.timer.as_mut().reset(Instant::now() + self.timeout);
            if self.ping_pong.poll_pong(cx).is_ready() {
                self.is_waiting = false;
                self.timer.as_mut().reset(Instant::now() + self.interval);
            }
        }
        Poll::Pending
    }
}

/// What a client sends on one stream.
pub struct Inbound(RecvStream);

impl Inbound {
    pub fn new(stream: RecvStream) -> Inbound {
        Inbound(stream)
    }

    /// The next piece; `None` when the client said all it has to say. Taking it makes room for more.
    pub fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, h2::Error>>> {
        let polled = self.0.poll_data(cx);
        if let Poll::Ready(Some(Ok(data))) = &polled {
            // (It fails only for more than was received.)
            let _ = self.0.flow_control().release_capacity(data.len());
        }
        polled
    }
}

impl http_body::Body for Inbound {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        self.poll_data(cx).map(|next| next.map(|data| data.map(Frame::data)))
    }
}

/// Waits until the client withdraws its request.
pub async fn withdrawn(respond: &mut SendResponse<Bytes>) {
    // (An error means that nobody is there, too.)
    let _ = poll_fn(|cx| respond.poll_reset(cx)).await;
}

/// Sends a response as its parts come, as fast as the client takes them, until it is complete or unwanted.
pub async fn send(mut respond: SendResponse<Bytes>, response: Response<Body>) {
    let (head, body) = response.into_parts();
    let is_whole = body.is_end_stream();
    let Ok(mut out) = respond.send_response(Response::from_parts(head, ()), is_whole) else {
        return;
    };
    if is_whole {
        return;
    }
    let mut body = pin!(body);
    loop {
        let frame = poll_fn(|cx| match out.poll_reset(cx) {
            Poll::Ready(_) => Poll::Ready(Err(())),
            Poll::Pending => body.as_mut().poll_frame(cx).map(Ok),
        });
        let sent = match frame.await {
            Err(()) => return,
            Ok(None) => {
                let _ = out.send_data(Bytes::new(), true);
                return;
            }
            Ok(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => send_data(&mut out, data).await,
                Err(frame) => {
                    if let Ok(trailers) = frame.into_trailers() {
                        let _ = out.send_trailers(trailers);
                    }
                    return;
                }
            },
        };
        if sent.is_none() {
            return;
        }
    }
}

/// Sends one part when the client has room for the beginning of it; h2 keeps the rest. `None`: nobody wants it.
async fn send_data(out: &mut SendStream<Bytes>, data: Bytes) -> Option<()> {
    out.reserve_capacity(1);
    while out.capacity() == 0 {
        poll_fn(|cx| out.poll_capacity(cx)).await?.ok()?;
    }
    out.send_data(data, false).ok()
}
