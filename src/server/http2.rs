//! One HTTP/2 connection: requests in, replies out.
//!
//! A call of one question and one answer has no task of its own: its question is read where the connection accepts it,
//! and its answer is written from the turn that produced it (see [`grpc`]). The connection's task then
//! sends what all answers of a turn came to.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use h2::server::{Connection, SendResponse};
use h2::{Ping, PingPong, RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use http_body::{Body as _, Frame};

use crate::body::Body;
use crate::config::ServerConfig;
use crate::core::Core;
use crate::grpc;
use crate::pings::Pings;
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

/// Messages of a stream that are there together share frames up to this size: what a frame may be by default. From a quarter of it on
/// a message is not worth copying.
const FRAME_BYTES: usize = 16 << 10;
const SHARED_BYTES_MAX: usize = FRAME_BYTES / 4;

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
    let stream = Pings::new(stream, config.keepalive_min);
    let heard = stream.heard();
    let Ok(mut connection) = builder.handshake::<_, Bytes>(stream).await else { return };
    let mut pulse = Pulse::new(&mut connection, config, heard);
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
    /// A ping is on its way, or its answer.
    is_asked: bool,
    /// When the client was last heard, and when it had been when the timer was set.
    heard: Rc<Cell<Instant>>,
    heard_before: Instant,
}

impl Pulse {
    fn new<S>(
        connection: &mut Connection<S, Bytes>,
        config: &ServerConfig,
        heard: Rc<Cell<Instant>>,
    ) -> Option<Pulse>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let interval = Duration::from_millis(config.keepalive_ms);
        Some(Pulse {
            ping_pong: connection.ping_pong()?,
            interval,
            timeout: Duration::from_millis(config.keepalive_timeout_ms),
            timer: Box::pin(tokio::time::sleep(interval)),
            is_waiting: false,
            is_asked: false,
            heard_before: heard.get(),
            heard,
        })
    }

    /// Ready when the client was silent after a question. (Whatever it says shows that it is there.)
    fn poll_lost(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // (Takes the answer, so that another question may be asked.)
        let mut is_free = !self.is_asked || self.ping_pong.poll_pong(cx).is_ready();
        while self.timer.as_mut().poll(cx).is_ready() {
            let (now, heard) = (Instant::now(), self.heard.get());
            let mut next = now + self.interval;
            if heard > self.heard_before {
                self.heard_before = heard;
                self.is_waiting = false;
                next = heard + self.interval;
            } else if self.is_waiting {
                return Poll::Ready(());
            } else if is_free {
                if self.ping_pong.send_ping(Ping::opaque()).is_err() {
                    return Poll::Ready(());
                }
                self.is_waiting = true;
                next = now + self.timeout;
                is_free = self.ping_pong.poll_pong(cx).is_ready();
            }
            self.timer.as_mut().reset(next);
        }
        self.is_asked = !is_free;
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

/// Sends a response as its parts come, as fast as the client takes them, until it is complete or unwanted. Like Go's server
/// it says nothing before there is something to say: what ends at once is one frame.
pub async fn send(mut respond: SendResponse<Bytes>, response: Response<Body>) {
    let (mut head, body) = response.into_parts();
    if body.is_end_stream() {
        let _ = respond.send_response(Response::from_parts(head, ()), true);
        return;
    }
    let mut body = pin!(body);
    let first = poll_fn(|cx| match respond.poll_reset(cx) {
        Poll::Ready(_) => Poll::Ready(Err(())),
        Poll::Pending => body.as_mut().poll_frame(cx).map(Ok),
    });
    let mut next = match first.await {
        Err(()) => return,
        Ok(next) => next,
    };
    let trailers = match &next {
        Some(Ok(frame)) => frame.trailers_ref().cloned(),
        Some(Err(never)) => match *never {},
        None => Some(HeaderMap::new()),
    };
    if let Some(trailers) = trailers {
        head.headers.extend(trailers);
        let _ = respond.send_response(Response::from_parts(head, ()), true);
        return;
    }
    let Ok(mut out) = respond.send_response(Response::from_parts(head, ()), false) else { return };
    loop {
        let Some(Ok(frame)) = next else {
            let _ = out.send_data(Bytes::new(), true);
            return;
        };
        let (data, mut behind) = match frame.into_data() {
            Ok(data) => together(&mut body, data).await,
            Err(frame) => {
                if let Ok(trailers) = frame.into_trailers() {
                    let _ = out.send_trailers(trailers);
                }
                return;
            }
        };
        if send_data(&mut out, data).await.is_none() {
            return;
        }
        let more = poll_fn(|cx| match (out.poll_reset(cx), behind.take()) {
            (Poll::Ready(_), _) => Poll::Ready(Err(())),
            (Poll::Pending, Some(next)) => Poll::Ready(Ok(next)),
            (Poll::Pending, None) => body.as_mut().poll_frame(cx).map(Ok),
        });
        next = match more.await {
            Err(()) => return,
            Ok(next) => next,
        };
    }
}

type Next = Option<Result<Frame<Bytes>, Infallible>>;

/// A small part and the small ones behind it that are there already, in one piece (a frame costs as much as copying a kilobyte);
/// and what came behind them.
async fn together(body: &mut Pin<&mut Body>, first: Bytes) -> (Bytes, Option<Next>) {
    let mut all = BytesMut::new();
    let mut behind = None;
    while first.len().max(all.len()) + SHARED_BYTES_MAX <= FRAME_BYTES {
        let next = poll_fn(|cx| Poll::Ready(body.as_mut().poll_frame(cx))).await;
        let Poll::Ready(next) = next else { break };
        let data = next.as_ref().and_then(|next| next.as_ref().ok()?.data_ref());
        let Some(data) = data.filter(|data| data.len() <= SHARED_BYTES_MAX) else {
            behind = Some(next);
            break;
        };
        if all.is_empty() {
            all.extend_from_slice(&first);
        }
        all.extend_from_slice(data);
    }
    let data = if all.is_empty() { first } else { all.freeze() };
    (data, behind)
}

/// Sends one part when the client has room for the beginning of it; h2 keeps the rest. `None`: nobody wants it.
async fn send_data(out: &mut SendStream<Bytes>, data: Bytes) -> Option<()> {
    out.reserve_capacity(1);
    while out.capacity() == 0 {
        poll_fn(|cx| out.poll_capacity(cx)).await?.ok()?;
    }
    out.send_data(data, false).ok()
}
