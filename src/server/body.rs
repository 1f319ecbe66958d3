//! What a response consists of: a page, or a stream of parts.

use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;
use norn_node::StreamId;

use crate::core::Core;
use crate::runtime::sync::mpsc;

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
            _ => false,
        }
    }
}

pub const FRAME_HEAD_BYTES: usize = 5;

/// What gRPC puts before a message: not compressed, so many bytes.
pub fn frame_head(len: usize) -> [u8; FRAME_HEAD_BYTES] {
    let [a, b, c, d] = (len as u32).to_be_bytes();
    [0, a, b, c, d]
}

pub fn framed(message: &[u8]) -> Bytes {
    let mut frame = Vec::with_capacity(message.len() + FRAME_HEAD_BYTES);
    frame.extend_from_slice(&frame_head(message.len()));
    frame.extend_from_slice(message);
    frame.into()
}
