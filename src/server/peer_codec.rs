//! How raft messages travel on the two streams between members: etcd's `message` and `msgapp v2` encodings.
//!
//! ```text
//!   message    u64 length, raftpb.Message                               length big endian
//!   msgapp     0                                                        keep-alive
//!              1, u64 count, count x (u64 length, raftpb.Entry), u64 commit    goes on where the last one ended
//!              2, u64 length, raftpb.Message                            anything else
//! ```

use bytes::{Buf, BufMut, Bytes, BytesMut};
use norn_planted::planted;
use norn_raft::{Index, Message, MessageKind, NodeId, Term, codec};

/// etcd's limit for one message. Memory for it grows only as its bytes arrive.
const MESSAGE_BYTES_MAX: u64 = 512 << 20;
/// A message that says nothing: heartbeat from nobody to nobody.
const KEEP_ALIVE: [u8; 2] = [0x08, 0x08];

/// From this many bytes on a new piece is begun. One piece for all that a member missed, megabytes at once, was copied as it grew and
/// took fresh memory each time: half of the leader's thread went into that while a member caught up.
const PIECE_BYTES: usize = 64 << 10;

/// The message in front of a snapshot: what a cluster with very many members and a long v2 store could make of it, many times over.
const SNAPSHOT_HEAD_BYTES_MAX: u64 = 64 << 20;

/// The beginning of a posted snapshot: the length of a message, the message, and then the database.
#[derive(Debug, Default)]
pub struct SnapshotHead(BytesMut);

/// Why a posted snapshot is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadHead {
    TooLarge,
    NoSnapshot,
}

impl SnapshotHead {
    pub fn push(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// The message, and what came of the database, once the former is whole.
    ///
    /// # Errors
    /// A length beyond what such a message may have, or bytes that are no snapshot message.
    pub fn take(&mut self) -> Result<Option<(Message, Bytes)>, BadHead> {
        let Some(len) = self.0.first_chunk() else { return Ok(None) };
        let len = u64::from_be_bytes(*len);
        if len > SNAPSHOT_HEAD_BYTES_MAX {
            return Err(BadHead::TooLarge);
        }
        if (self.0.len() as u64) < 8 + len {
            return Ok(None);
        }
        let mut bytes = std::mem::take(&mut self.0);
        bytes.advance(8);
        let message = codec::decode_message(bytes.split_to(len as usize).freeze());
        match message {
            Ok(message) if message.kind == MessageKind::Snap => Ok(Some((message, bytes.freeze()))),
            _ => Err(BadHead::NoSnapshot),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StreamKind {
    Message,
    MsgApp,
}

impl StreamKind {
    pub fn path(self) -> &'static str {
        match self {
            StreamKind::Message => "message",
            StreamKind::MsgApp => "msgapp",
        }
    }

    pub fn keep_alive(self) -> Bytes {
        match self {
            StreamKind::MsgApp => Bytes::from_static(&[0]),
            StreamKind::Message => {
                let mut out = BytesMut::with_capacity(10);
                out.put_u64(KEEP_ALIVE.len() as u64);
                out.put_slice(&KEEP_ALIVE);
                out.freeze()
            }
        }
    }
}

/// Where the last append ended: both ends of a msgapp stream keep it, and so need not send it.
#[derive(Clone, Copy, Debug, Default)]
struct Position {
    term: u64,
    index: u64,
}

#[derive(Clone, Debug)]
pub struct Encoder {
    kind: StreamKind,
    at: Position,
}

impl Encoder {
    pub fn new(kind: StreamKind) -> Encoder {
        Encoder { kind, at: Position::default() }
    }

    pub fn encode(&mut self, message: &Message, out: &mut Pieces) {
        if self.kind == StreamKind::Message {
            return put_message(message, out);
        }
        let goes_on = message.index.0 == self.at.index
            && message.log_term.0 == self.at.term
            && message.term.0 == self.at.term;
        if goes_on {
            let head = out.room(9);
            head.put_u8(1);
            head.put_u64(message.entries.len() as u64);
            for entry in &message.entries {
                let len = codec::entry_len(entry);
                let body = out.room(8 + len);
                body.put_u64(len as u64);
                codec::encode_entry_into(entry, body);
            }
            out.room(8).put_u64(message.commit.0);
            self.at.index += message.entries.len() as u64;
        } else {
            out.room(1).put_u8(2);
            put_message(message, out);
            self.at = position_after(message);
        }
    }
}

fn position_after(message: &Message) -> Position {
    let index = message.entries.last().map_or(message.index.0, |entry| entry.index.0);
    Position { term: message.term.0, index }
}

fn put_message(message: &Message, out: &mut Pieces) {
    let len = codec::message_len(message);
    let body = out.room(8 + len);
    body.put_u64(len as u64);
    codec::encode_message_into(message, body);
}

/// What goes into a stream, cut anywhere between two writes.
#[derive(Clone, Debug, Default)]
pub struct Pieces {
    whole: Vec<Bytes>,
    open: Vec<u8>,
}

impl Pieces {
    /// Where the next `len` bytes go.
    fn room(&mut self, len: usize) -> &mut Vec<u8> {
        if !self.open.is_empty() && self.open.len() + len > PIECE_BYTES {
            let next = Vec::with_capacity(PIECE_BYTES.max(len));
            self.whole.push(std::mem::replace(&mut self.open, next).into());
        }
        self.open.reserve(len);
        &mut self.open
    }

    pub fn into_whole(mut self) -> Vec<Bytes> {
        self.whole.push(self.open.into());
        self.whole
    }
}

/// Cuts a stream into messages. Keep-alives are swallowed.
#[derive(Debug)]
pub struct Decoder {
    kind: StreamKind,
    at: Position,
    from: NodeId,
    to: NodeId,
    buffer: BytesMut,
}

/// Bytes that no member sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadStream(pub String);

impl Decoder {
    /// For the stream from `from` to `to` (us).
    pub fn new(kind: StreamKind, from: u64, to: u64) -> Decoder {
        Decoder {
            kind,
            at: Position::default(),
            from: NodeId(from),
            to: NodeId(to),
            buffer: BytesMut::new(),
        }
    }

    pub fn push(&mut self, data: &[u8]) {
        self.buffer.extend_from_slice(data);
    }

    pub fn next_message(&mut self) -> Result<Option<Message>, BadStream> {
        loop {
            let step = match self.kind {
                StreamKind::Message => self.next_whole(0)?,
                StreamKind::MsgApp => match self.buffer.first() {
                    None => return Ok(None),
                    Some(0) => {
                        self.buffer.advance(1);
                        continue;
                    }
                    Some(1) => self.next_append()?,
                    Some(2) => {
                        let step = self.next_whole(1)?;
                        if let Some(message) = &step {
                            self.at = position_after(message);
                        }
                        step
                    }
                    Some(kind) => return Err(BadStream(format!("message type {kind}"))),
                },
            };
            match step {
                Some(m) if m.kind == MessageKind::Heartbeat && m.from.is_none() => {}
                step => return Ok(step),
            }
        }
    }

    fn next_whole(&mut self, skip: usize) -> Result<Option<Message>, BadStream> {
        let Some(len) = peek_u64(&self.buffer, skip) else { return Ok(None) };
        let len = checked(len)?;
        if self.buffer.len() < skip + 8 + len {
            return Ok(None);
        }
        self.buffer.advance(skip + 8);
        let bytes = self.buffer.split_to(len).freeze();
        let message = codec::decode_message(bytes).map_err(|e| BadStream(e.to_string()))?;
        Ok(Some(message))
    }

    fn next_append(&mut self) -> Result<Option<Message>, BadStream> {
        let Some(count) = peek_u64(&self.buffer, 1) else { return Ok(None) };
        if count > MESSAGE_BYTES_MAX / 8 {
            return Err(BadStream(format!("{count} entries")));
        }
        // First see whether all of it is there, then take it.
        let mut end = 9;
        for _ in 0..count {
            let Some(len) = peek_u64(&self.buffer, end) else { return Ok(None) };
            end += 8 + checked(len)?;
            if end as u64 > MESSAGE_BYTES_MAX {
                return Err(BadStream("entries of more than 512 MiB".into()));
            }
            if self.buffer.len() < end {
                return Ok(None);
            }
        }
        let Some(commit) = peek_u64(&self.buffer, end) else { return Ok(None) };
        let Some(last) = self.at.index.checked_add(count) else {
            return Err(BadStream(format!("{count} entries after index {}", self.at.index)));
        };
        self.buffer.advance(9);
        let mut entries = Vec::new();
        for _ in 0..count {
            let len = self.buffer.get_u64() as usize;
            let bytes = self.buffer.split_to(len).freeze();
            entries.push(codec::decode_entry(bytes).map_err(|e| BadStream(e.to_string()))?);
        }
        self.buffer.advance(8);
        let message = Message {
            kind: MessageKind::App,
            to: self.to,
            from: self.from,
            term: Term(self.at.term),
            log_term: Term(self.at.term),
            index: Index(self.at.index),
            entries,
            commit: Index(commit),
            ..Message::default()
        };
        if !planted!(AppendPositionKept) {
            self.at.index = last;
        }
        Ok(Some(message))
    }
}

fn checked(len: u64) -> Result<usize, BadStream> {
    if len > MESSAGE_BYTES_MAX {
        return Err(BadStream(format!("message of {len} bytes")));
    }
    Ok(len as usize)
}

fn peek_u64(buffer: &[u8], at: usize) -> Option<u64> {
    let bytes = buffer.get(at..at + 8)?;
    Some(u64::from_be_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use norn_raft::Entry;

    use super::*;

    fn append(term: u64, log_term: u64, index: u64, count: u64, commit: u64) -> Message {
        let entry = |i| Entry {
            term: Term(term),
            index: Index(index + i),
            data: Bytes::from(vec![7; i as usize]),
            ..Entry::default()
        };
        Message {
            kind: MessageKind::App,
            to: NodeId(2),
            from: NodeId(1),
            term: Term(term),
            log_term: Term(log_term),
            index: Index(index),
            entries: (1..=count).map(entry).collect(),
            commit: Index(commit),
            ..Message::default()
        }
    }

    #[test]
    fn streams_carry_messages_in_any_pieces() {
        let heartbeat = Message {
            kind: MessageKind::Heartbeat,
            to: NodeId(2),
            from: NodeId(1),
            term: Term(3),
            commit: Index(9),
            ..Message::default()
        };
        let appends = vec![
            append(3, 2, 10, 2, 9),
            append(3, 3, 12, 3, 10),
            append(3, 3, 15, 0, 15),
            append(4, 3, 15, 1, 15),
            append(4, 4, 16, 1, 16),
        ];
        for (kind, messages) in
            [(StreamKind::MsgApp, appends), (StreamKind::Message, vec![heartbeat; 3])]
        {
            let mut encoder = Encoder::new(kind);
            let mut wire = Vec::new();
            for message in &messages {
                wire.put_slice(&kind.keep_alive());
                wire.extend(encoded(&mut encoder, message).concat());
            }
            for step in [1, 2, 7, 1000] {
                let mut decoder = Decoder::new(kind, 1, 2);
                let mut got = Vec::new();
                for piece in wire.chunks(step) {
                    decoder.push(piece);
                    while let Some(message) = decoder.next_message().unwrap() {
                        got.push(message);
                    }
                }
                assert_eq!(got, messages, "in pieces of {step}");
            }
        }
    }

    fn encoded(encoder: &mut Encoder, message: &Message) -> Vec<Bytes> {
        let mut pieces = Pieces::default();
        encoder.encode(message, &mut pieces);
        pieces.into_whole()
    }

    #[test]
    fn what_a_member_missed_goes_in_pieces() {
        let mut large = append(3, 3, 12, 2_000, 10);
        large.entries[7].data = Bytes::from(vec![8; 3 * PIECE_BYTES]);
        for (kind, first) in [(StreamKind::MsgApp, 12), (StreamKind::Message, 0)] {
            let mut encoder = Encoder::new(kind);
            encoder.at = Position { term: 3, index: first };
            let pieces = encoded(&mut encoder, &large);
            if kind == StreamKind::MsgApp {
                let sizes: Vec<usize> = pieces.iter().map(Bytes::len).collect();
                let (longest, others) = (3 * PIECE_BYTES, PIECE_BYTES - 2_100..=PIECE_BYTES);
                assert_eq!(sizes.iter().filter(|len| **len > longest).count(), 1, "{sizes:?}");
                let like_others = sizes.iter().filter(|len| others.contains(*len)).count();
                assert!(like_others > 25 && like_others + 3 >= sizes.len(), "{sizes:?}");
            }
            let mut decoder = Decoder::new(kind, 1, 2);
            decoder.at = Position { term: 3, index: first };
            for piece in pieces {
                assert_eq!(decoder.next_message(), Ok(None), "not before all of it is there");
                decoder.push(&piece);
            }
            assert!(decoder.next_message() == Ok(Some(large.clone())));
        }
    }

    #[test]
    fn lengths_are_not_believed() {
        let mut decoder = Decoder::new(StreamKind::Message, 1, 2);
        decoder.push(&[0xff; 8]);
        assert!(decoder.next_message().is_err());
        let mut decoder = Decoder::new(StreamKind::MsgApp, 1, 2);
        decoder.push(&[1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
        assert!(decoder.next_message().is_err());
        let mut decoder = Decoder::new(StreamKind::MsgApp, 1, 2);
        decoder.push(&[9]);
        assert!(decoder.next_message().is_err());
    }
}
