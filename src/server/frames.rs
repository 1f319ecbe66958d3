//! gRPC's framing of what a client sends: a body, in any pieces, to messages.

use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use norn_node::Code;

use crate::core::Core;
use crate::grpc::Status;
use crate::http2::Inbound;

/// Above `--max-request-bytes`, what a message may have on the way (etcd's allowance).
const OVERHEAD_BYTES: usize = 512 << 10;

/// Bytes of the largest message that a client may send.
pub fn message_bytes_max(core: &Core) -> usize {
    core.with_node(|node| node.config().request_bytes_max) + OVERHEAD_BYTES
}

/// # Errors
/// What gRPC says of a message that is too long.
pub fn check_len(len: usize, bytes_max: usize) -> Result<(), Status> {
    if len <= bytes_max {
        return Ok(());
    }
    let message = format!("grpc: received message larger than max ({len} vs. {bytes_max})");
    Err(Status::new(Code::ResourceExhausted, message))
}

/// Cuts a request body into messages.
pub struct Frames {
    buffer: BytesMut,
    /// Arrived in one piece and not copied.
    whole: Option<Bytes>,
    bytes_max: usize,
}

impl Frames {
    pub fn new(core: &Core) -> Frames {
        Frames { buffer: BytesMut::new(), whole: None, bytes_max: message_bytes_max(core) }
    }

    pub fn push(&mut self, data: Bytes) {
        if self.buffer.is_empty() && self.whole.is_none() {
            self.whole = Some(data);
            return;
        }
        if let Some(whole) = self.whole.take() {
            self.buffer.extend_from_slice(&whole);
        }
        self.buffer.extend_from_slice(&data);
    }

    /// The next message of a body; `None` when it has ended.
    pub fn poll_message(
        &mut self,
        body: &mut Inbound,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Status>>> {
        loop {
            if let Some(next) = self.next_message().transpose() {
                return Poll::Ready(Some(next));
            }
            match ready!(body.poll_data(cx)) {
                Some(Ok(data)) => self.push(data),
                Some(Err(error)) => {
                    return Poll::Ready(Some(Err(Status::new(Code::Canceled, error.to_string()))));
                }
                None => return Poll::Ready(None),
            }
        }
    }

    /// The next complete message. A length beyond the limit is refused before anything is kept for it.
    pub fn next_message(&mut self) -> Result<Option<Bytes>, Status> {
        let head: &[u8] = self.whole.as_deref().unwrap_or(&self.buffer);
        if head.len() < 5 {
            return Ok(None);
        }
        let compressed = head[0];
        let len = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        if compressed != 0 {
            let message = "grpc: compressed flag set with identity or empty encoding";
            return Err(Status::new(Code::Internal, message));
        }
        check_len(len, self.bytes_max)?;
        if head.len() < 5 + len {
            return Ok(None);
        }
        if let Some(whole) = &mut self.whole {
            whole.advance(5);
            let message = whole.split_to(len);
            if whole.is_empty() {
                self.whole = None;
            }
            return Ok(Some(message));
        }
        self.buffer.advance(5);
        Ok(Some(self.buffer.split_to(len).freeze()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::framed;

    #[test]
    fn messages_of_any_cut() {
        let mut stream = framed(b"hello").to_vec();
        stream.extend_from_slice(&framed(b""));
        stream.extend_from_slice(&framed(b"world"));
        for step in 1..stream.len() {
            let mut frames = Frames { buffer: BytesMut::new(), whole: None, bytes_max: 10 };
            let mut got = Vec::new();
            for piece in stream.chunks(step) {
                frames.push(Bytes::copy_from_slice(piece));
                while let Some(message) = frames.next_message().unwrap() {
                    got.push(message);
                }
            }
            assert_eq!(got, ["hello", "", "world"], "in pieces of {step}");
        }
        let mut frames = Frames { buffer: BytesMut::new(), whole: None, bytes_max: 10 };
        frames.push(Bytes::from_static(&[0, 0xff, 0xff, 0xff, 0xff]));
        let status = frames.next_message().unwrap_err();
        assert_eq!(status.message, "grpc: received message larger than max (4294967295 vs. 10)");
    }
}
