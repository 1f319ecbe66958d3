//! etcd's `raftpb` messages, to and from protobuf bytes, by hand.
//!
//! Written like etcd 3.6 writes them: every scalar, even zero, in ascending order of field numbers, and
//! byte fields only if not empty. Read from anyone: absent fields are zero, unknown ones are skipped,
//! repeated integers may be packed. Decoded payloads share the input's memory.
//!
//! ```text
//! Entry       1 Type  2 Term  3 Index  4 Data
//! Snapshot    1 data  2 metadata { 1 conf_state  2 index  3 term }
//! Message     1 type  2 to  3 from  4 term  5 logTerm  6 index  7 entries*  8 commit  9 snapshot
//!             10 reject  11 rejectHint  12 context  13 vote  14 responses*
//! HardState   1 term  2 vote  3 commit
//! ConfState   1 voters*  2 learners*  3 voters_outgoing*  4 learners_next*  5 auto_leave
//! ConfChange  1 id  2 type  3 node_id  4 context
//! ConfChangeV2  1 transition  2 changes* { 1 type  2 node_id }  3 context
//! ```

use std::fmt;

use bytes::Bytes;

use crate::message::{Message, MessageKind};
use crate::types::{
    ConfChange, ConfChangeKind, ConfChangeSingle, ConfChangeTransition, ConfChangeV2, ConfState,
    Entry, EntryKind, HardState, Index, NodeId, Snapshot, Term,
};

/// Why bytes are not the message they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CodecError {
    /// A field reaches beyond the end.
    Truncated,
    /// A variable-length integer of more than 64 bits.
    Varint,
    /// Field number 0, or a wire type that does not exist or is not this field's.
    Tag(u64),
    /// An enum value we do not know.
    Enum { field: &'static str, value: u64 },
    /// Responses within responses within responses.
    Depth,
    /// More responses than [`RESPONSES_MAX`].
    Responses,
}

impl fmt::Display for CodecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CodecError::Truncated => f.write_str("unexpected end of message"),
            CodecError::Varint => f.write_str("integer overflow"),
            CodecError::Tag(tag) => write!(f, "bad field tag {tag:#x}"),
            CodecError::Enum { field, value } => write!(f, "unknown {field} {value}"),
            CodecError::Depth => f.write_str("messages are nested too deeply"),
            CodecError::Responses => f.write_str("too many responses in a message"),
        }
    }
}

impl std::error::Error for CodecError {}

/// Bound on responses within responses. One level is ever written; the rest is an attack on our stack.
const DEPTH_MAX: u32 = 4;
/// Bound on them in one message, however nested: one of two bytes takes a hundred times that in memory, and what travels has none (they are
/// for a node's own storage).
pub const RESPONSES_MAX: usize = 64;

// ---- encoding ----

/// Bytes of `value` as a variable-length integer.
fn varint_len(value: u64) -> usize {
    ((64 - (value | 1).leading_zeros() as usize) * 9 + 64) / 64
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Fields have numbers up to 14, so every tag is one byte.
fn put_u64(out: &mut Vec<u8>, field: u8, value: u64) {
    out.push(field << 3);
    put_varint(out, value);
}

fn put_bytes(out: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    if !bytes.is_empty() {
        put_header(out, field, bytes.len());
        out.extend_from_slice(bytes);
    }
}

fn put_header(out: &mut Vec<u8>, field: u8, len: usize) {
    out.push(field << 3 | 2);
    put_varint(out, len as u64);
}

fn u64_len(value: u64) -> usize {
    1 + varint_len(value)
}

/// A field that is always there.
fn block_len(len: usize) -> usize {
    1 + varint_len(len as u64) + len
}

/// A field that is there if not empty.
fn bytes_len(bytes: &Bytes) -> usize {
    if bytes.is_empty() { 0 } else { block_len(bytes.len()) }
}

/// Encoded size of an entry. Size limits count this.
pub fn entry_len(entry: &Entry) -> usize {
    2 + u64_len(entry.term.0) + u64_len(entry.index.0) + bytes_len(&entry.data)
}

pub fn encode_entry_into(entry: &Entry, out: &mut Vec<u8>) {
    put_u64(out, 1, entry.kind as u64);
    put_u64(out, 2, entry.term.0);
    put_u64(out, 3, entry.index.0);
    put_bytes(out, 4, &entry.data);
}

pub fn hard_state_len(state: &HardState) -> usize {
    u64_len(state.term.0) + u64_len(state.vote.0) + u64_len(state.commit.0)
}

pub fn encode_hard_state_into(state: &HardState, out: &mut Vec<u8>) {
    put_u64(out, 1, state.term.0);
    put_u64(out, 2, state.vote.0);
    put_u64(out, 3, state.commit.0);
}

fn id_lists(state: &ConfState) -> [&[NodeId]; 4] {
    [&state.voters, &state.learners, &state.voters_outgoing, &state.learners_next]
}

pub fn conf_state_len(state: &ConfState) -> usize {
    2 + id_lists(state).into_iter().flatten().map(|id| u64_len(id.0)).sum::<usize>()
}

pub fn encode_conf_state_into(state: &ConfState, out: &mut Vec<u8>) {
    for (field, ids) in (1u8..).zip(id_lists(state)) {
        for id in ids {
            put_u64(out, field, id.0);
        }
    }
    put_u64(out, 5, u64::from(state.auto_leave));
}

fn metadata_len(snapshot: &Snapshot) -> usize {
    block_len(conf_state_len(&snapshot.conf_state))
        + u64_len(snapshot.index.0)
        + u64_len(snapshot.term.0)
}

pub fn snapshot_len(snapshot: &Snapshot) -> usize {
    bytes_len(&snapshot.data) + block_len(metadata_len(snapshot))
}

pub fn encode_snapshot_into(snapshot: &Snapshot, out: &mut Vec<u8>) {
    put_bytes(out, 1, &snapshot.data);
    put_header(out, 2, metadata_len(snapshot));
    put_header(out, 1, conf_state_len(&snapshot.conf_state));
    encode_conf_state_into(&snapshot.conf_state, out);
    put_u64(out, 2, snapshot.index.0);
    put_u64(out, 3, snapshot.term.0);
}

pub fn message_len(message: &Message) -> usize {
    let scalars = [
        message.kind as u64,
        message.to.0,
        message.from.0,
        message.term.0,
        message.log_term.0,
        message.index.0,
        message.commit.0,
        u64::from(message.reject),
        message.reject_hint.0,
        message.vote.0,
    ];
    scalars.into_iter().map(u64_len).sum::<usize>()
        + message.entries.iter().map(|entry| block_len(entry_len(entry))).sum::<usize>()
        + message.snapshot.as_ref().map_or(0, |snapshot| block_len(snapshot_len(snapshot)))
        + bytes_len(&message.context)
        + message.responses.iter().map(|response| block_len(message_len(response))).sum::<usize>()
}

pub fn encode_message_into(message: &Message, out: &mut Vec<u8>) {
    put_u64(out, 1, message.kind as u64);
    put_u64(out, 2, message.to.0);
    put_u64(out, 3, message.from.0);
    put_u64(out, 4, message.term.0);
    put_u64(out, 5, message.log_term.0);
    put_u64(out, 6, message.index.0);
    for entry in &message.entries {
        put_header(out, 7, entry_len(entry));
        encode_entry_into(entry, out);
    }
    put_u64(out, 8, message.commit.0);
    if let Some(snapshot) = &message.snapshot {
        put_header(out, 9, snapshot_len(snapshot));
        encode_snapshot_into(snapshot, out);
    }
    put_u64(out, 10, u64::from(message.reject));
    put_u64(out, 11, message.reject_hint.0);
    put_bytes(out, 12, &message.context);
    put_u64(out, 13, message.vote.0);
    for response in &message.responses {
        put_header(out, 14, message_len(response));
        encode_message_into(response, out);
    }
}

pub fn conf_change_len(change: &ConfChange) -> usize {
    2 + u64_len(change.id) + u64_len(change.node_id.0) + bytes_len(&change.context)
}

pub fn encode_conf_change_into(change: &ConfChange, out: &mut Vec<u8>) {
    put_u64(out, 1, change.id);
    put_u64(out, 2, change.kind as u64);
    put_u64(out, 3, change.node_id.0);
    put_bytes(out, 4, &change.context);
}

fn single_len(change: &ConfChangeSingle) -> usize {
    2 + u64_len(change.node_id.0)
}

pub fn conf_change_v2_len(change: &ConfChangeV2) -> usize {
    let changes: usize = change.changes.iter().map(|single| block_len(single_len(single))).sum();
    2 + changes + bytes_len(&change.context)
}

pub fn encode_conf_change_v2_into(change: &ConfChangeV2, out: &mut Vec<u8>) {
    put_u64(out, 1, change.transition as u64);
    for single in &change.changes {
        put_header(out, 2, single_len(single));
        put_u64(out, 1, single.kind as u64);
        put_u64(out, 2, single.node_id.0);
    }
    put_bytes(out, 3, &change.context);
}

macro_rules! encoders {
    ($($name:ident $into:ident $len:ident $type:ty;)*) => {$(
        /// Encodes into memory of exactly the needed size.
        pub fn $name(value: &$type) -> Bytes {
            let mut out = Vec::with_capacity($len(value));
            $into(value, &mut out);
            debug_assert_eq!(out.len(), $len(value));
            out.into()
        }
    )*};
}

encoders! {
    encode_entry encode_entry_into entry_len Entry;
    encode_hard_state encode_hard_state_into hard_state_len HardState;
    encode_conf_state encode_conf_state_into conf_state_len ConfState;
    encode_snapshot encode_snapshot_into snapshot_len Snapshot;
    encode_message encode_message_into message_len Message;
    encode_conf_change encode_conf_change_into conf_change_len ConfChange;
    encode_conf_change_v2 encode_conf_change_v2_into conf_change_v2_len ConfChangeV2;
}

// ---- decoding ----

/// Reads fields one after the other.
struct Reader {
    bytes: Bytes,
    at: usize,
}

/// The value of a field, by wire type.
enum Value {
    Varint(u64),
    Block(Bytes),
    /// Fixed-width: no field of ours.
    Other,
}

impl Reader {
    fn new(bytes: Bytes) -> Reader {
        Reader { bytes, at: 0 }
    }

    fn varint(&mut self) -> Result<u64, CodecError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = *self.bytes.get(self.at).ok_or(CodecError::Truncated)?;
            self.at += 1;
            if shift == 63 && byte > 1 {
                return Err(CodecError::Varint);
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(CodecError::Varint)
    }

    fn skip(&mut self, len: usize) -> Result<(), CodecError> {
        if len > self.bytes.len() - self.at {
            return Err(CodecError::Truncated);
        }
        self.at += len;
        Ok(())
    }

    /// The next field, or `None` at the end.
    fn field(&mut self) -> Result<Option<(u64, Value)>, CodecError> {
        if self.at == self.bytes.len() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Value::Varint(self.varint()?),
            1 => {
                self.skip(8)?;
                Value::Other
            }
            2 => {
                let len = usize::try_from(self.varint()?).map_err(|_| CodecError::Truncated)?;
                let from = self.at;
                self.skip(len)?;
                Value::Block(self.bytes.slice(from..self.at))
            }
            5 => {
                self.skip(4)?;
                Value::Other
            }
            _ => return Err(CodecError::Tag(tag)),
        };
        if tag >> 3 == 0 {
            return Err(CodecError::Tag(tag));
        }
        Ok(Some((tag >> 3, value)))
    }
}

impl Value {
    fn u64(self) -> Result<u64, CodecError> {
        match self {
            Value::Varint(value) => Ok(value),
            Value::Block(_) => Err(CodecError::Tag(2)),
            Value::Other => Err(CodecError::Tag(1)),
        }
    }

    fn block(self) -> Result<Bytes, CodecError> {
        match self {
            Value::Block(bytes) => Ok(bytes),
            Value::Varint(_) => Err(CodecError::Tag(0)),
            Value::Other => Err(CodecError::Tag(1)),
        }
    }

    /// One element, or a packed run of them.
    fn ids_into(self, ids: &mut Vec<NodeId>) -> Result<(), CodecError> {
        match self {
            Value::Varint(id) => ids.push(NodeId(id)),
            Value::Block(bytes) => {
                let mut reader = Reader::new(bytes);
                while reader.at < reader.bytes.len() {
                    ids.push(NodeId(reader.varint()?));
                }
            }
            Value::Other => return Err(CodecError::Tag(1)),
        }
        Ok(())
    }
}

/// Calls `each` for every field.
fn each_field(
    bytes: Bytes,
    mut each: impl FnMut(u64, Value) -> Result<(), CodecError>,
) -> Result<(), CodecError> {
    let mut reader = Reader::new(bytes);
    while let Some((number, value)) = reader.field()? {
        each(number, value)?;
    }
    Ok(())
}

pub fn decode_entry(bytes: Bytes) -> Result<Entry, CodecError> {
    let mut entry = Entry::default();
    each_field(bytes, |number, value| {
        match number {
            1 => {
                entry.kind = match value.u64()? {
                    0 => EntryKind::Normal,
                    1 => EntryKind::ConfChange,
                    2 => EntryKind::ConfChangeV2,
                    value => {
                        return Err(CodecError::Enum { field: "entry type", value });
                    }
                }
            }
            2 => entry.term = Term(value.u64()?),
            3 => entry.index = Index(value.u64()?),
            4 => entry.data = value.block()?,
            _ => {}
        }
        Ok(())
    })?;
    Ok(entry)
}

pub fn decode_hard_state(bytes: Bytes) -> Result<HardState, CodecError> {
    let mut state = HardState::default();
    each_field(bytes, |number, value| {
        match number {
            1 => state.term = Term(value.u64()?),
            2 => state.vote = NodeId(value.u64()?),
            3 => state.commit = Index(value.u64()?),
            _ => {}
        }
        Ok(())
    })?;
    Ok(state)
}

pub fn decode_conf_state(bytes: Bytes) -> Result<ConfState, CodecError> {
    let mut state = ConfState::default();
    each_field(bytes, |number, value| {
        match number {
            1 => value.ids_into(&mut state.voters)?,
            2 => value.ids_into(&mut state.learners)?,
            3 => value.ids_into(&mut state.voters_outgoing)?,
            4 => value.ids_into(&mut state.learners_next)?,
            5 => state.auto_leave = value.u64()? != 0,
            _ => {}
        }
        Ok(())
    })?;
    Ok(state)
}

pub fn decode_snapshot(bytes: Bytes) -> Result<Snapshot, CodecError> {
    let mut snapshot = Snapshot::default();
    each_field(bytes, |number, value| {
        match number {
            1 => snapshot.data = value.block()?,
            2 => each_field(value.block()?, |number, value| {
                match number {
                    1 => snapshot.conf_state = decode_conf_state(value.block()?)?,
                    2 => snapshot.index = Index(value.u64()?),
                    3 => snapshot.term = Term(value.u64()?),
                    _ => {}
                }
                Ok(())
            })?,
            _ => {}
        }
        Ok(())
    })?;
    Ok(snapshot)
}

pub fn decode_message(bytes: Bytes) -> Result<Message, CodecError> {
    let mut left = RESPONSES_MAX;
    decode_message_at(bytes, 0, &mut left)
}

/// `left`: how many responses there may still be.
fn decode_message_at(bytes: Bytes, depth: u32, left: &mut usize) -> Result<Message, CodecError> {
    if depth > DEPTH_MAX {
        return Err(CodecError::Depth);
    }
    let mut message = Message::default();
    each_field(bytes, |number, value| {
        match number {
            1 => {
                let value = value.u64()?;
                message.kind = MessageKind::from_number(value)
                    .ok_or(CodecError::Enum { field: "message type", value })?;
            }
            2 => message.to = NodeId(value.u64()?),
            3 => message.from = NodeId(value.u64()?),
            4 => message.term = Term(value.u64()?),
            5 => message.log_term = Term(value.u64()?),
            6 => message.index = Index(value.u64()?),
            7 => message.entries.push(decode_entry(value.block()?)?),
            8 => message.commit = Index(value.u64()?),
            9 => message.snapshot = Some(Box::new(decode_snapshot(value.block()?)?)),
            10 => message.reject = value.u64()? != 0,
            11 => message.reject_hint = Index(value.u64()?),
            12 => message.context = value.block()?,
            13 => message.vote = NodeId(value.u64()?),
            14 => {
                *left = left.checked_sub(1).ok_or(CodecError::Responses)?;
                message.responses.push(decode_message_at(value.block()?, depth + 1, left)?);
            }
            _ => {}
        }
        Ok(())
    })?;
    // Old peers attach an empty snapshot to everything.
    message.snapshot = message.snapshot.filter(|snapshot| **snapshot != Snapshot::default());
    Ok(message)
}

fn conf_change_kind(value: u64) -> Result<ConfChangeKind, CodecError> {
    Ok(match value {
        0 => ConfChangeKind::AddNode,
        1 => ConfChangeKind::RemoveNode,
        2 => ConfChangeKind::UpdateNode,
        3 => ConfChangeKind::AddLearnerNode,
        value => {
            return Err(CodecError::Enum { field: "membership change", value });
        }
    })
}

pub fn decode_conf_change(bytes: Bytes) -> Result<ConfChange, CodecError> {
    let mut change = ConfChange::default();
    each_field(bytes, |number, value| {
        match number {
            1 => change.id = value.u64()?,
            2 => change.kind = conf_change_kind(value.u64()?)?,
            3 => change.node_id = NodeId(value.u64()?),
            4 => change.context = value.block()?,
            _ => {}
        }
        Ok(())
    })?;
    Ok(change)
}

pub fn decode_conf_change_v2(bytes: Bytes) -> Result<ConfChangeV2, CodecError> {
    let mut change = ConfChangeV2::default();
    each_field(bytes, |number, value| {
        match number {
            1 => {
                change.transition = match value.u64()? {
                    0 => ConfChangeTransition::Auto,
                    1 => ConfChangeTransition::JointImplicit,
                    2 => ConfChangeTransition::JointExplicit,
                    value => {
                        return Err(CodecError::Enum { field: "transition", value });
                    }
                }
            }
            2 => {
                let mut single = ConfChangeSingle::default();
                each_field(value.block()?, |number, value| {
                    match number {
                        1 => single.kind = conf_change_kind(value.u64()?)?,
                        2 => single.node_id = NodeId(value.u64()?),
                        _ => {}
                    }
                    Ok(())
                })?;
                change.changes.push(single);
            }
            3 => change.context = value.block()?,
            _ => {}
        }
        Ok(())
    })?;
    Ok(change)
}
