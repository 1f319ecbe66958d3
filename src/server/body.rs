//! What a response consists of: a page, one gRPC message with its trailers, or a stream of them.

use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::{BufMut, Bytes, BytesMut};
use http::HeaderMap;
use http_body::Frame;
use norn_node::StreamId;
use tokio::sync::mpsc;

use crate::core::Core;

/// Part of a streaming response.
#[derive(Debug)]
pub enum Part {
    /// One gRPC message, framed.
    Message(Bytes),
    /// Raw bytes (peer streams).
    Raw(Bytes),
    End(HeaderMap),
}

pub enum Body {
    Full(Option<Bytes>),
    /// `prefix` is the frame's head, when the message is too large to be worth copying behind it.
    Unary {
        prefix: Option<Bytes>,
        message: Option<Bytes>,
        trailers: Option<HeaderMap>,
    },
    Stream(mpsc::Receiver<Part>),
    Watch(WatchBody),
}

/// Responses of one watch stream. Taking one makes room for another; dropping it ends the stream.
pub struct WatchBody {
    pub core: Rc<Core>,
    pub stream: StreamId,
    /// For counting its end.
    pub route: usize,
    /// Bounded: past `RESPONSES_IN_FLIGHT_MAX` the node gives no more events, and no more requests are read.
    pub parts: mpsc::UnboundedReceiver<Part>,
}

impl Drop for WatchBody {
    fn drop(&mut self) {
        // A watch ends when its client leaves.
        let canceled = norn_node::Code::Canceled as u8;
        self.core.grpc_metrics.borrow_mut().handled(self.route, canceled);
        self.core.close_watch(self.stream);
    }
}

impl Body {
    pub fn empty() -> Body {
        Body::Full(None)
    }

    pub fn text(text: impl Into<Bytes>) -> Body {
        Body::Full(Some(text.into()))
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let frame = |part: Part| match part {
            Part::Message(bytes) | Part::Raw(bytes) => Frame::data(bytes),
            Part::End(trailers) => Frame::trailers(trailers),
        };
        match self.get_mut() {
            Body::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Body::Unary { prefix, message, trailers } => {
                let next = prefix.take().or_else(|| message.take()).map(Frame::data);
                let next = next.or_else(|| trailers.take().map(Frame::trailers));
                Poll::Ready(next.map(Ok))
            }
            Body::Stream(parts) => parts.poll_recv(cx).map(|part| part.map(|p| Ok(frame(p)))),
            Body::Watch(watch) => watch.parts.poll_recv(cx).map(|part| {
                if matches!(part, Some(Part::Message(_))) {
                    watch.core.watch_taken(watch.stream);
                }
                part.map(|p| Ok(frame(p)))
            }),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Body::Full(bytes) => bytes.is_none(),
            Body::Unary { prefix, message, trailers } => {
                prefix.is_none() && message.is_none() && trailers.is_none()
            }
            _ => false,
        }
    }
}

impl Body {
    /// One gRPC message and its trailers.
    pub fn unary(message: Bytes, trailers: HeaderMap) -> Body {
        let trailers = Some(trailers);
        if message.len() < COPIED_MAX {
            return Body::Unary { prefix: None, message: Some(framed(&message)), trailers };
        }
        let mut prefix = BytesMut::with_capacity(5);
        prefix.put_u8(0);
        prefix.put_u32(message.len() as u32);
        Body::Unary { prefix: Some(prefix.freeze()), message: Some(message), trailers }
    }
}

/// Messages from this size on travel behind their head instead of being copied behind it: a frame more costs less.
const COPIED_MAX: usize = 16 << 10;

/// gRPC's frame: not compressed, length, message.
pub fn framed(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(message.len() + 5);
    frame.put_u8(0);
    frame.put_u32(message.len() as u32);
    frame.put_slice(message);
    frame.freeze()
}
