//! One record as bytes: frame, protobuf and running checksum, out and in.

use bytes::{BufMut, Bytes, BytesMut};

use crate::wire::{self, Field, Fields};

use super::scan::RecordKind;
use super::{WalSnapshot, WalState};

pub(super) const FRAME_HEADER_BYTES: u64 = 8;

/// Collects framed records in one growing buffer.
pub(super) struct Encoder {
    /// Checksum of all data so far.
    pub(super) crc: u32,
    buffer: BytesMut,
    /// Data of small records, kept for its capacity.
    scratch: Vec<u8>,
}

impl Encoder {
    pub(super) fn new(crc: u32) -> Encoder {
        Encoder { crc, buffer: BytesMut::new(), scratch: Vec::new() }
    }

    /// What was collected since the last call. The buffer's memory is used again once the caller has dropped it.
    pub(super) fn take(&mut self) -> Bytes {
        self.buffer.split().freeze()
    }

    pub(super) fn crc_record(&mut self) {
        self.frame(RecordKind::Crc, self.crc, None);
    }

    pub(super) fn record(&mut self, kind: RecordKind, data: &[u8]) {
        self.crc = crc32c::crc32c_append(self.crc, data);
        self.frame(kind, self.crc, Some(data));
    }

    pub(super) fn state(&mut self, state: &WalState) {
        let mut data = std::mem::take(&mut self.scratch);
        data.clear();
        wire::put_varint_field(&mut data, 1, state.term);
        wire::put_varint_field(&mut data, 2, state.vote);
        wire::put_varint_field(&mut data, 3, state.commit);
        self.record(RecordKind::State, &data);
        self.scratch = data;
    }

    pub(super) fn snapshot(&mut self, snapshot: &WalSnapshot) {
        let mut data = std::mem::take(&mut self.scratch);
        data.clear();
        wire::put_varint_field(&mut data, 1, snapshot.index);
        wire::put_varint_field(&mut data, 2, snapshot.term);
        // etcd refuses a snapshot record without one, except for the empty state at index 0.
        if snapshot.index > 0 || !snapshot.conf_state.is_empty() {
            wire::put_bytes_field(&mut data, 3, &snapshot.conf_state);
        }
        self.record(RecordKind::Snapshot, &data);
        self.scratch = data;
    }

    fn frame(&mut self, kind: RecordKind, crc: u32, data: Option<&[u8]>) {
        let data_field =
            data.map_or(0, |data| 1 + wire::varint_len(data.len() as u64) + data.len());
        let len = 3 + wire::varint_len(u64::from(crc)) + data_field;
        let padding = len.wrapping_neg() % 8;
        let mut header = len as u64;
        if padding != 0 {
            header |= (0x80 | padding as u64) << 56;
        }
        let out = &mut self.buffer;
        out.reserve(FRAME_HEADER_BYTES as usize + len + padding);
        out.put_u64_le(header);
        wire::put_varint_field(out, 1, kind as u64);
        wire::put_varint_field(out, 2, u64::from(crc));
        if let Some(data) = data {
            wire::put_bytes_field(out, 3, data);
        }
        out.put_bytes(0, padding);
    }
}

/// The frame's first 8 bytes: record length and padding.
pub(super) struct FrameHeader {
    pub(super) len: u64,
    pub(super) padding: u64,
    /// Length, padding and flag agree.
    pub(super) well_formed: bool,
}

impl FrameHeader {
    pub(super) fn parse(raw: u64) -> FrameHeader {
        let len = raw & ((1 << 56) - 1);
        let top = raw >> 56;
        // etcd ignores the padding bits unless the flag is set.
        let padding = if top & 0x80 != 0 { top & 7 } else { 0 };
        let expected = len.wrapping_neg() % 8;
        let well_formed = top == if expected == 0 { 0 } else { 0x80 | expected };
        FrameHeader { len, padding, well_formed }
    }
}

/// A record taken apart; nothing about it has been checked.
pub(super) struct RawRecord {
    pub(super) kind: u64,
    pub(super) crc: u32,
    pub(super) data: Bytes,
}

pub(super) fn parse_record(record: Bytes) -> Option<RawRecord> {
    let (mut kind, mut crc, mut data) = (None, None, Bytes::new());
    let mut fields = Fields::of(record);
    while let Some(field) = fields.next().ok()? {
        match field {
            Field::Varint(1, value) => kind = Some(value),
            // Readers of protobuf keep the low half; no writer sets the other, so it is damage.
            Field::Varint(2, value) => crc = Some(u32::try_from(value).ok()?),
            Field::Bytes(3, value) => data = value,
            _ => {}
        }
    }
    // Every writer writes both, also zeros. A length cut down to the type alone would leave a checksum that holds: that
    // of no data.
    Some(RawRecord { kind: kind?, crc: crc?, data })
}

/// Length of the record that begins here, told from its own fields instead of its frame; `None` if this is neither how
/// a record with data begins nor a crc record.
pub(super) fn self_described_len(start: &Bytes) -> Option<u64> {
    let (mut at, mut kind) = (0, 0);
    for tag in [0x08, 0x10, 0x1a] {
        if *start.get(at)? != tag {
            return None;
        }
        at += 1;
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = *start.get(at)?;
            at += 1;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
        match tag {
            0x08 => kind = value,
            0x10 if kind == RecordKind::Crc as u64 => return Some(at as u64),
            0x1a => return (at as u64).checked_add(value),
            _ => {}
        }
    }
    None
}

pub(super) fn parse_state(data: Bytes) -> Option<WalState> {
    let mut state = WalState::default();
    let mut fields = Fields::of(data);
    while let Some(field) = fields.next().ok()? {
        match field {
            Field::Varint(1, term) => state.term = term,
            Field::Varint(2, vote) => state.vote = vote,
            Field::Varint(3, commit) => state.commit = commit,
            // Checksums do not cover the record type: this may be an entry whose type has a flipped bit.
            _ => return None,
        }
    }
    Some(state)
}

pub(super) fn parse_snapshot(data: Bytes) -> Option<WalSnapshot> {
    let mut snapshot = WalSnapshot { index: 0, term: 0, conf_state: Bytes::new() };
    let mut fields = Fields::of(data);
    while let Some(field) = fields.next().ok()? {
        match field {
            Field::Varint(1, index) => snapshot.index = index,
            Field::Varint(2, term) => snapshot.term = term,
            Field::Bytes(3, conf_state) => snapshot.conf_state = conf_state,
            _ => {}
        }
    }
    Some(snapshot)
}

/// Term and index of an encoded raftpb.Entry.
pub(super) fn parse_entry(data: Bytes) -> Option<(u64, u64)> {
    let (mut term, mut index) = (0, 0);
    let mut fields = Fields::of(data);
    while let Some(field) = fields.next().ok()? {
        match field {
            // Normal, ConfChange, ConfChangeV2; anything else may be a state whose type has a flipped bit.
            Field::Varint(1, 3..) => return None,
            Field::Varint(2, value) => term = value,
            Field::Varint(3, value) => index = value,
            _ => {}
        }
    }
    Some((term, index))
}
