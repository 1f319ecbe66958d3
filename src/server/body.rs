//! What a response consists of: a page, or a stream of parts.

use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::Stream;
use http_body::{Frame, SizeHint};
use norn_node::StreamId;

use crate::core::Core;
use crate::gateway::Lines;
use crate::grpc::Status;
use crate::metrics::Started;
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
    /// Parts that are made when they are asked for.
    Pulled(Pin<Box<dyn Stream<Item = Part>>>),
    Watch(WatchBody),
    Counted(Box<Counted>),
    Lines(Box<Lines>),
}

/// Responses of one watch stream. Taking one makes room for another; dropping it ends the stream.
pub struct WatchBody {
    pub core: Rc<Core>,
    pub stream: StreamId,
    /// Bounded: past `RESPONSES_IN_FLIGHT_MAX` the node gives no more events, and no more requests are read.
    pub parts: mpsc::UnboundedReceiver<Part>,
}

impl Drop for WatchBody {
    fn drop(&mut self) {
        self.core.close_watch(self.stream);
    }
}

/// A stream of answers, counted: each, and how it ended.
pub struct Counted {
    core: Rc<Core>,
    /// `None`: it has ended.
    call: Option<Started>,
    body: Body,
}

impl Counted {
    fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Option<Part>> {
        let part = ready!(self.body.poll_part(cx));
        match (&part, self.call) {
            (Some(Part::Message(frame)), Some(call)) => {
                let len = frame.len() - FRAME_HEAD_BYTES;
                self.core.grpc_metrics.borrow_mut().sent(call.route, len);
            }
            (Some(Part::End(status)), Some(_)) => self.end(status.code),
            _ => {}
        }
        Poll::Ready(part)
    }

    fn end(&mut self, code: u8) {
        if let Some(call) = self.call.take() {
            self.core.grpc_metrics.borrow_mut().handled(call, code);
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        // Its client left before.
        self.end(norn_node::Code::Canceled as u8);
    }
}

impl Body {
    pub fn counted(core: Rc<Core>, call: Started, body: Body) -> Body {
        Body::Counted(Box::new(Counted { core, call: Some(call), body }))
    }

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
            Body::Pulled(parts) => parts.as_mut().poll_next(cx),
            Body::Counted(counted) => counted.poll_part(cx),
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
