//! Batches and records as bytes.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use norn_planted::planted;

use super::{Batch, RevisionRecord, Table, TableRecord};

pub(super) const BATCH_HEADER_BYTES: usize = 32;
pub(super) const RECORD_HEADER_BYTES: usize = 24;
pub(super) const TABLE_HEADER_BYTES: usize = 12;

const TOMBSTONE: u32 = 1 << 31;
const DEAD: u32 = 1 << 30;
/// Longest value: two bits of the length are flags in memory.
pub const VALUE_BYTES_MAX: usize = DEAD as usize - 1;

/// Where a revision stands in its segment. 20 bytes, because there is one for every revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    main_high: u32,
    main_low: u32,
    sub: u32,
    /// Of the record's header.
    pub(super) offset: u32,
    /// Value length and flags.
    len: u32,
}

pub(super) const SLOT_BYTES: usize = 20;

impl Slot {
    pub(super) fn new(main: i64, sub: i64, tombstone: bool, offset: u64, value_len: usize) -> Slot {
        assert!(main >= 0, "negative revision {main}");
        assert!(value_len <= VALUE_BYTES_MAX, "value of {value_len} bytes");
        Slot {
            main_high: (main >> 32) as u32,
            main_low: main as u32,
            sub: u32::try_from(sub).expect("sub revisions fit 32 bits"),
            offset: u32::try_from(offset).expect("segments are shorter than 4 GiB"),
            len: value_len as u32 | if tombstone { TOMBSTONE } else { 0 },
        }
    }

    pub(super) fn revision(&self) -> (i64, i64) {
        (i64::from(self.main_high) << 32 | i64::from(self.main_low), i64::from(self.sub))
    }

    pub(super) fn value_len(&self) -> usize {
        (self.len & !(TOMBSTONE | DEAD)) as usize
    }

    /// Of the whole record.
    pub(super) fn record_len(&self) -> usize {
        RECORD_HEADER_BYTES + self.value_len()
    }

    pub(super) fn is_tombstone(&self) -> bool {
        self.len & TOMBSTONE != 0
    }

    pub(super) fn is_dead(&self) -> bool {
        self.len & DEAD != 0
    }

    pub(super) fn die(&mut self) {
        self.len |= DEAD;
    }

    /// The same record at another place.
    pub(super) fn moved(self, offset: u64) -> Slot {
        let offset = u32::try_from(offset).expect("segments are shorter than 4 GiB");
        Slot { offset, ..self }
    }

    pub(super) fn encoded(&self) -> [u8; SLOT_BYTES] {
        let words = [self.main_high, self.main_low, self.sub, self.offset, self.len & !DEAD];
        let mut bytes = [0; SLOT_BYTES];
        for (at, word) in bytes.chunks_exact_mut(4).zip(words) {
            at.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// Takes `SLOT_BYTES` bytes.
    pub(super) fn decode(from: &mut Bytes) -> Slot {
        let main_high = from.get_u32_le();
        let main_low = from.get_u32_le();
        let sub = from.get_u32_le();
        Slot { main_high, main_low, sub, offset: from.get_u32_le(), len: from.get_u32_le() & !DEAD }
    }
}

/// Encodes a batch behind what `out` holds, which begins at `base` of the segment. Calls `place` for every revision.
/// Returns the chain value after the batch.
pub(super) fn encode_batch(
    batch: &Batch<'_>,
    chain: u32,
    base: u64,
    out: &mut BytesMut,
    place: &mut dyn FnMut(Slot),
) -> u32 {
    let revisions =
        batch.revisions.iter().map(|r| RECORD_HEADER_BYTES + r.value.len()).sum::<usize>();
    let tables = batch.tables.iter().map(table_record_len).sum::<usize>();
    let body = u32::try_from(revisions + tables).expect("a batch is shorter than 4 GiB");
    out.reserve(BATCH_HEADER_BYTES + body as usize);
    let start = out.len();
    out.put_u32_le(body);
    out.put_u32_le(0);
    out.put_u64_le(batch.applied_index);
    out.put_u64_le(batch.term);
    out.put_u32_le(batch.revisions.len() as u32);
    out.put_u32_le(batch.tables.len() as u32);
    for revision in batch.revisions {
        let RevisionRecord { main, sub, tombstone, value } = revision;
        let slot = Slot::new(*main, *sub, *tombstone, base + out.len() as u64, value.len());
        let at = out.len();
        out.put_u32_le(0);
        out.put_u32_le(slot.len);
        out.put_i64_le(*main);
        out.put_i64_le(*sub);
        out.put_slice(value);
        let crc = crc32c::crc32c(&out[at + 4..]);
        out[at..at + 4].copy_from_slice(&crc.to_le_bytes());
        place(slot);
    }
    for change in batch.tables {
        encode_table_record(change.table, &change.key, change.value.as_ref(), out);
    }
    let chain = chain_after(chain, &out[start..]);
    out[start + 4..start + 8].copy_from_slice(&chain.to_le_bytes());
    chain
}

fn chain_after(chain: u32, batch: &[u8]) -> u32 {
    let chain = crc32c::crc32c_append(chain, &batch[..4]);
    crc32c::crc32c_append(chain, &batch[8..])
}

fn table_record_len(change: &TableRecord) -> usize {
    TABLE_HEADER_BYTES + change.key.len() + change.value.as_ref().map_or(0, Bytes::len)
}

pub(super) fn encode_table_record(
    table: Table,
    key: &Bytes,
    value: Option<&Bytes>,
    out: &mut BytesMut,
) {
    let len =
        |bytes: &Bytes| u32::try_from(bytes.len()).expect("table records are shorter than 4 GiB");
    out.put_u8(table as u8);
    out.put_u8(u8::from(value.is_some()));
    out.put_u16_le(0);
    out.put_u32_le(len(key));
    out.put_u32_le(value.map_or(0, len));
    out.put_slice(key);
    out.put_slice(value.map_or(&[], |value| &value[..]));
}

/// Takes a table record; `None` if there is none.
pub(super) fn decode_table_record(from: &mut Bytes) -> Option<TableRecord> {
    if from.len() < TABLE_HEADER_BYTES {
        return None;
    }
    let table = Table::parse(from.get_u8())?;
    let present = from.get_u8();
    from.advance(2);
    let (key_len, value_len) = (from.get_u32_le() as usize, from.get_u32_le() as usize);
    if present > 1 || key_len.checked_add(value_len)? > from.len() {
        return None;
    }
    let key = from.split_to(key_len);
    let value = from.split_to(value_len);
    Some(TableRecord { table, key, value: (present == 1).then_some(value) })
}

/// First bytes of a batch.
#[derive(Clone, Copy, Debug)]
pub(super) struct BatchHeader {
    pub(super) body_len: u64,
    pub(super) applied_index: u64,
    pub(super) term: u64,
    pub(super) revisions: u32,
    pub(super) tables: u32,
}

impl BatchHeader {
    /// `from` has `BATCH_HEADER_BYTES`.
    pub(super) fn parse(mut from: &[u8]) -> BatchHeader {
        let body_len = u64::from(from.get_u32_le());
        from.advance(4);
        let (applied_index, term) = (from.get_u64_le(), from.get_u64_le());
        BatchHeader {
            body_len,
            applied_index,
            term,
            revisions: from.get_u32_le(),
            tables: from.get_u32_le(),
        }
    }
}

/// The chain value after this whole batch, if it continues `chain`.
pub(super) fn check_chain(chain: u32, batch: &[u8]) -> Option<u32> {
    let found = u32::from_le_bytes(batch[4..8].try_into().expect("four bytes"));
    let holds = chain_after(chain, batch) == found || planted!(RevlogChainUnread);
    holds.then_some(found)
}

/// Takes the records of a whole batch that begins at `at` of its segment; `None` if they are not what the header says.
pub(super) fn decode_batch(
    mut batch: Bytes,
    at: u64,
    place: &mut dyn FnMut(Slot),
    change: &mut dyn FnMut(TableRecord),
) -> Option<()> {
    let header = BatchHeader::parse(&batch);
    let end = at + batch.len() as u64;
    batch.advance(BATCH_HEADER_BYTES);
    for _ in 0..header.revisions {
        let offset = end - batch.len() as u64;
        let slot = decode_record_header(&batch, offset)?;
        if slot.record_len() > batch.len() {
            return None;
        }
        batch.advance(slot.record_len());
        place(slot);
    }
    for _ in 0..header.tables {
        change(decode_table_record(&mut batch)?);
    }
    batch.is_empty().then_some(())
}

fn decode_record_header(mut from: &[u8], offset: u64) -> Option<Slot> {
    if from.len() < RECORD_HEADER_BYTES {
        return None;
    }
    from.advance(4);
    let len = from.get_u32_le();
    let (main, sub) = (from.get_i64_le(), from.get_i64_le());
    let offset = u32::try_from(offset).ok()?;
    let (valid, sub) = (main >= 0 && len & DEAD == 0, u32::try_from(sub).ok()?);
    valid.then_some(Slot {
        main_high: (main >> 32) as u32,
        main_low: main as u32,
        sub,
        offset,
        len,
    })
}

/// The value of a whole record, if it is the one that `slot` speaks of and its checksum is good.
pub(super) fn check_record(slot: &Slot, record: &Bytes) -> Option<Bytes> {
    let crc = u32::from_le_bytes(record.get(..4)?.try_into().expect("four bytes"));
    let found = decode_record_header(record, u64::from(slot.offset))?;
    let same = found.revision() == slot.revision()
        && found.record_len() == record.len()
        && found.is_tombstone() == slot.is_tombstone()
        && crc32c::crc32c(&record[4..]) == crc;
    same.then(|| record.slice(RECORD_HEADER_BYTES..))
}
