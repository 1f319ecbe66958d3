//! What a response consists of: a page, or a stream of parts.

use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use norn_node::StreamId;

use crate::core::Core;
use crate::gateway::Lines;
use crate::grpc::Status;
use crate::runtime::sync::mpsc;

/// Part of a streaming response.
#[derive(Debug)]
pub enum Part {
    /// One gRPC message, framed.
    Message(Bytes),
    /// Raw bytes (peer streams).
    Raw(Bytes),
    End(Status),
}

pub enum Body {
    Full(Option<Bytes>),
    Stream(mpsc::Receiver<Part>),
    Watch(WatchBody),
    Lines(Box<Lines>),
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

    /// The next part.
    pub fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Option<Part>> {
        match self {
            Body::Full(bytes) => Poll::Ready(bytes.take().map(Part::Raw)),
            Body::Stream(parts) => parts.poll_recv(cx),
            Body::Watch(watch) => watch.parts.poll_recv(cx).map(|part| {
                if matches!(part, Some(Part::Message(_))) {
                    watch.core.watch_taken(watch.stream);
                }
                part
            }),
            Body::Lines(lines) => lines.poll_line(cx).map(|line| line.map(Part::Raw)),
        }
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
            Part::End(status) => Frame::trailers(status.trailers()),
        };
        self.get_mut().poll_part(cx).map(|part| part.map(|part| Ok(frame(part))))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            _ => SizeHint::default(),
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
