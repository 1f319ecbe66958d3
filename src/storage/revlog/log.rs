//! The running log: appends, reads, scans, deaths.

use std::collections::{BTreeSet, VecDeque};
use std::hint::black_box;
use std::ops::ControlFlow;
use std::sync::{Mutex, PoisonError};

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::disk::{DiskOp, DiskRead, FileName};

use super::cache::{BLOCK_BYTES, BlockCache, LINE_BYTES};
use super::checkpoint::{IndexImages, PendingCheckpoint, Saving};
use super::collect::Collecting;
use super::record::{self, RECORD_HEADER_BYTES, Slot};
use super::segment::{Segment, SegmentName};
use super::{AppendId, Batch, RevLogError, RevLogOptions, Rows, Table, TableRecord};

/// Records that [`RevisionLog::read_all`] looks for at a time: about as many loads as a processor keeps in flight, and few
/// enough that the first is still in its cache when it is read.
const SIDE_BY_SIDE: usize = 32;

/// The revision log. `R` is a handle of the disk for reads.
///
/// ```text
///   segments:  [collected 0..=4] [5 sealed] [6 sealed] [7 active]
///                                                ^ durable: the checkpoint's position
///                                                        ^ written: completed writes; read through the cache
///                                                            ^ bytes: emitted writes; read from `tail`
/// ```
///
/// All operations go to one queue (Bulk), in the order they were emitted. Reads need `&self` only and may run on
/// several threads.
pub struct RevisionLog<R> {
    pub(super) reader: R,
    pub(super) dir: FileName,
    pub(super) opts: RevLogOptions,
    /// By number, without overlap; the last one is active. Revisions ascend through them.
    pub(super) segments: Vec<Segment>,
    pub(super) tables: [Rows; Table::ALL.len()],
    pub(super) applied_index: u64,
    pub(super) term: u64,
    /// Last revision appended, dead or not.
    pub(super) last: (i64, i64),
    /// Deaths marked since the log was made.
    pub(super) deaths: u64,
    pub(super) next_uid: u64,
    /// Emitted writes that are not known to have completed, oldest first.
    tail: VecDeque<Unwritten>,
    tail_bytes: usize,
    appends: u64,
    /// Bytes appended since the log was opened.
    appended_bytes: u64,
    buffer: BytesMut,
    /// Segments (by uid) with writes that no emitted sync covers.
    pub(super) dirty: BTreeSet<u64>,
    cache: Mutex<BlockCache>,
    /// Applied index of the durable checkpoint, and the segment that was active then.
    pub(super) durable_index: u64,
    pub(super) durable_segment: u64,
    pub(super) checkpoint_bytes: u64,
    pub(super) pending: Option<PendingCheckpoint>,
    pub(super) saving: Option<Saving>,
    pub(super) images: IndexImages,
    pub(super) collecting: Option<Collecting>,
    /// Files that nothing refers to any more, not even the durable checkpoint.
    pub(super) garbage: Vec<FileName>,
    pub(super) tickets: u64,
}

struct Unwritten {
    id: u64,
    uid: u64,
    offset: u64,
    bytes: Bytes,
}

/// Values longer than this are read straight from the file: they would sweep the cache.
const CACHED_RECORD_BYTES_MAX: usize = 64 << 10;

/// How much a scan reads at a time: about what those that scan in steps want per step.
const SCAN_CHUNK_BYTES: usize = 256 << 10;
/// Bytes of a revision, until a full segment has shown how many fit.
const RECORD_BYTES_GUESS: u64 = 256;

impl<R: DiskRead> RevisionLog<R> {
    pub(super) fn empty(reader: R, dir: FileName, opts: RevLogOptions) -> RevisionLog<R> {
        assert!(
            opts.segment_bytes <= 1 << 30,
            "segments of at most 1 GiB, not {}",
            opts.segment_bytes
        );
        RevisionLog {
            reader,
            dir,
            opts,
            segments: Vec::new(),
            tables: Table::ALL.map(Rows::new),
            applied_index: 0,
            term: 0,
            last: (0, -1),
            deaths: 0,
            next_uid: 0,
            tail: VecDeque::new(),
            tail_bytes: 0,
            appends: 0,
            appended_bytes: 0,
            buffer: BytesMut::new(),
            dirty: BTreeSet::new(),
            cache: Mutex::new(BlockCache::new(opts.cache_bytes)),
            durable_index: 0,
            durable_segment: 0,
            checkpoint_bytes: 0,
            pending: None,
            saving: None,
            images: IndexImages::default(),
            collecting: None,
            garbage: Vec::new(),
            tickets: 0,
        }
    }

    /// Emits the write of one batch; readable at once. Not synced: until the next checkpoint the WAL vouches for it.
    pub fn append(&mut self, batch: &Batch<'_>, ops: &mut Vec<DiskOp>) -> AppendId {
        assert!(
            batch.applied_index >= self.applied_index,
            "applied index falls from {} to {}",
            self.applied_index,
            batch.applied_index
        );
        let mut buffer = std::mem::take(&mut self.buffer);
        if self.active().bytes >= self.opts.segment_bytes {
            let before = self.active();
            let (name, chain) = (SegmentName::appended(before.name.last + 1), before.chain);
            let segment = self.new_segment(name, chain);
            ops.push(DiskOp::Create { file: segment.file.clone() });
            buffer.put_slice(&name.header(chain));
            self.segments.push(segment);
        }
        let mut last = self.last;
        let active = self.segments.last_mut().expect("there is an active segment");
        // The header, if the segment is new, goes out in the same write.
        let offset = active.bytes - buffer.len() as u64;
        active.chain =
            record::encode_batch(batch, active.chain, offset, &mut buffer, &mut |slot| {
                let revision = slot.revision();
                assert!(revision > last, "revision {revision:?} appended after {last:?}");
                last = revision;
                active.push(slot);
            });
        let bytes = buffer.split().freeze();
        active.bytes = offset + bytes.len() as u64;
        self.appended_bytes += bytes.len() as u64;
        ops.push(DiskOp::Write { file: active.file.clone(), offset, data: bytes.clone() });
        let uid = active.uid;
        self.buffer = buffer;
        self.last = last;
        self.applied_index = batch.applied_index;
        self.term = batch.term;
        for change in batch.tables {
            self.change_table(change);
        }
        self.dirty.insert(uid);
        self.appends += 1;
        self.tail_bytes += bytes.len();
        self.tail.push_back(Unwritten { id: self.appends, uid, offset, bytes });
        AppendId(self.appends)
    }

    /// The operations of all appends up to and including this one have completed: their memory is released.
    pub fn written(&mut self, up_to: AppendId) {
        while let Some(first) = self.tail.front().filter(|first| first.id <= up_to.0) {
            let (uid, end) = (first.uid, first.offset + first.bytes.len() as u64);
            if let Some(segment) = self.segments.iter_mut().rev().find(|segment| segment.uid == uid)
            {
                segment.written = end;
            }
            self.tail_bytes -= first.bytes.len();
            self.tail.pop_front();
        }
    }

    /// Bytes appended whose write has not completed: they are in memory.
    pub fn unwritten_bytes(&self) -> usize {
        self.tail_bytes
    }

    /// What the blocks in the cache may take.
    pub fn cached_bytes(&self) -> usize {
        self.cache().bytes()
    }

    /// Contents of a table.
    pub fn table(&self, table: Table) -> &Rows {
        &self.tables[table as usize]
    }

    /// Index and term of the last batch appended.
    pub fn applied_index(&self) -> u64 {
        self.applied_index
    }

    pub fn term(&self) -> u64 {
        self.term
    }

    /// Main part of the last revision appended, dead or not; 0 when there was none.
    pub fn last_main(&self) -> i64 {
        self.last.0
    }

    /// Everything up to this applied index survives any crash: the WAL may be purged up to it.
    pub fn durable_index(&self) -> u64 {
        self.durable_index
    }

    /// Bytes appended since the log was opened.
    pub fn appended_bytes(&self) -> u64 {
        self.appended_bytes
    }

    /// Live revisions.
    pub fn live_revisions(&self) -> u64 {
        self.segments.iter().map(|segment| segment.live_records).sum()
    }

    /// Bytes of all files.
    pub fn size_on_disk(&self) -> u64 {
        let collecting = self.collecting.as_ref().map_or(0, |collecting| collecting.bytes());
        let segments = self.segments.iter().map(|segment| segment.bytes).sum::<u64>();
        segments + self.checkpoint_bytes + self.images.bytes + collecting
    }

    /// What the last checkpoint wrote of its own: mostly the tables.
    pub fn checkpoint_bytes(&self) -> u64 {
        self.checkpoint_bytes
    }

    /// Bytes of live revisions and tables.
    pub fn size_in_use(&self) -> u64 {
        let tables = self.tables.iter().map(Rows::bytes).sum::<u64>();
        tables + self.segments.iter().map(|segment| segment.live_bytes).sum::<u64>()
    }

    /// The value of a revision and whether it is a tombstone. `Ok(None)`: never written, or dead. The checksum is
    /// verified whenever a record comes from the disk.
    pub fn read(&self, main: i64, sub: i64) -> Result<Option<(Bytes, bool)>, RevLogError> {
        let Some(segment) = self.segment_of((main, sub)) else {
            return Ok(None);
        };
        let Some(at) = segment.find((main, sub)) else {
            return Ok(None);
        };
        let slot = &segment.slots[at];
        Ok(Some((self.value(segment, slot)?, slot.is_tombstone())))
    }

    /// Appends the values of many revisions, in their order; stops at one that was never written or is dead, and returns
    /// it. What is spread over a large log is rarely in the processor's cache: a few records are looked for at a time, so
    /// that the processor waits for their memory once and not for each in turn.
    pub fn read_all(
        &self,
        revisions: impl IntoIterator<Item = (i64, i64)>,
        out: &mut Vec<Bytes>,
    ) -> Result<Option<(i64, i64)>, RevLogError> {
        let mut revisions = revisions.into_iter();
        let mut asked: Vec<((i64, i64), &Segment)> = Vec::with_capacity(SIDE_BY_SIDE);
        let mut found: Vec<(&Segment, &Slot)> = Vec::with_capacity(SIDE_BY_SIDE);
        loop {
            let mut touched = 0;
            for revision in revisions.by_ref().take(SIDE_BY_SIDE) {
                let Some(segment) = self.segment_of(revision) else {
                    return Ok(Some(revision));
                };
                touched ^= segment.touch(revision);
                asked.push((revision, segment));
            }
            if asked.is_empty() {
                return Ok(None);
            }
            for (revision, segment) in asked.drain(..) {
                let Some(at) = segment.find(revision) else {
                    return Ok(Some(revision));
                };
                found.push((segment, &segment.slots[at]));
            }
            let cache = self.cache();
            let mut records: [&[u8]; SIDE_BY_SIDE] = [&[]; SIDE_BY_SIDE];
            for (record, (segment, slot)) in records.iter_mut().zip(&found) {
                let offset = u64::from(slot.offset);
                let key = (segment.uid, (offset / BLOCK_BYTES) as u32);
                *record = cache.peek(key, (offset % BLOCK_BYTES) as usize, slot.record_len());
            }
            for byte in records.iter().flat_map(|record| record.iter().step_by(LINE_BYTES)) {
                touched ^= u32::from(*byte);
            }
            drop(cache);
            black_box(touched);
            for (segment, slot) in found.drain(..) {
                out.push(self.value(segment, slot)?);
            }
        }
    }

    /// Visits live revisions with `from <= (main, sub)` and `main <= to_main` (inclusive), in order, until `visit`
    /// breaks. Reads past the cache, in big pieces; values are slices of these, so keep copies, not values, for long.
    pub fn scan(
        &self,
        from: (i64, i64),
        to_main: i64,
        visit: &mut dyn FnMut(i64, i64, bool, &Bytes) -> ControlFlow<()>,
    ) -> Result<(), RevLogError> {
        let first = self.segments.partition_point(|segment| segment.low < from).saturating_sub(1);
        for segment in &self.segments[first..] {
            let mut chunk = Chunk::default();
            let at = segment.slots.partition_point(|slot| slot.revision() < from);
            for slot in segment.slots[at..].iter().filter(|slot| !slot.is_dead()) {
                let (main, sub) = slot.revision();
                if main > to_main {
                    return Ok(());
                }
                let record = self.scan_record(segment, slot, &mut chunk)?;
                let value = self.check(segment, slot, &record)?;
                if visit(main, sub, slot.is_tombstone(), &value).is_break() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// A compaction made this revision unreachable; `false` if it was not there. Not durable by itself: after a crash
    /// before the next checkpoint the revision lives again, and replaying the compaction marks it again. A checkpoint
    /// taken in the middle of a compaction makes the deaths so far durable: mark in ascending order, as etcd deletes,
    /// or take no checkpoint before the compaction has been marked to its end.
    pub fn mark_dead(&mut self, main: i64, sub: i64) -> bool {
        let at = self.segments.partition_point(|segment| segment.low < (main, sub));
        let died = at > 0 && self.segments[at - 1].mark_dead((main, sub));
        self.deaths += u64::from(died);
        died
    }

    pub(super) fn active(&self) -> &Segment {
        self.segments.last().expect("there is an active segment")
    }

    /// A segment after the ones there are, above the last revision, with room for the slots of about as many revisions as the one before it
    /// got: a list of megabytes that grows is copied, all at once, into memory that the system has to clear first. (What is
    /// not needed of it is never touched.)
    pub(super) fn new_segment(&mut self, name: SegmentName, chain: u32) -> Segment {
        self.next_uid += 1;
        let mut segment = Segment::new(&self.dir, name, self.next_uid, self.last, chain);
        let full = self.segments.last().filter(|before| before.bytes >= self.opts.segment_bytes);
        let slots = match full {
            Some(before) => before.slots.len() + before.slots.len() / 8,
            None => usize::try_from(self.opts.segment_bytes / RECORD_BYTES_GUESS).unwrap_or(0),
        };
        segment.slots.reserve_exact(slots);
        segment
    }

    pub(super) fn change_table(&mut self, change: &TableRecord) {
        self.tables[change.table as usize].change(&change.key, change.value.as_ref());
    }

    fn segment_of(&self, revision: (i64, i64)) -> Option<&Segment> {
        let at = self.segments.partition_point(|segment| segment.low < revision);
        self.segments.get(at.checked_sub(1)?)
    }

    pub(super) fn check(
        &self,
        segment: &Segment,
        slot: &Slot,
        record: &Bytes,
    ) -> Result<Bytes, RevLogError> {
        record::check_record(slot, record).ok_or_else(|| RevLogError::Corrupt {
            file: segment.file.clone(),
            offset: u64::from(slot.offset),
            what: "damaged revision record",
        })
    }

    /// The value of a record, checked.
    fn value(&self, segment: &Segment, slot: &Slot) -> Result<Bytes, RevLogError> {
        let (offset, len) = (u64::from(slot.offset), slot.record_len());
        if offset >= segment.written {
            // (Ours, and still in memory.)
            return Ok(self.unwritten(segment, offset, len).slice(RECORD_HEADER_BYTES..));
        }
        if len > CACHED_RECORD_BYTES_MAX {
            return self.check(segment, slot, &self.bytes(segment, offset, len)?);
        }
        let block = offset / BLOCK_BYTES;
        let start = (offset % BLOCK_BYTES) as usize;
        let end = start + len;
        if end > BLOCK_BYTES as usize {
            return self.check(segment, slot, &self.pieces(segment, block, start, len)?);
        }
        let key = (segment.uid, block as u32);
        let cached = self.cache().record(key, start, end);
        let record = match cached {
            Some((mut record, true)) => {
                record.advance(RECORD_HEADER_BYTES);
                return Ok(record);
            }
            Some((record, false)) => record,
            None => self.block(segment, block, end)?.slice(start..end),
        };
        let value = self.check(segment, slot, &record)?;
        self.cache().is_good(key, start);
        Ok(value)
    }

    /// A record that goes on in the next block or blocks.
    fn pieces(
        &self,
        segment: &Segment,
        mut block: u64,
        mut start: usize,
        len: usize,
    ) -> Result<Bytes, RevLogError> {
        let mut record = BytesMut::with_capacity(len);
        while record.len() < len {
            let end = (start + len - record.len()).min(BLOCK_BYTES as usize);
            record.put_slice(&self.block(segment, block, end)?[start..end]);
            (block, start) = (block + 1, 0);
        }
        Ok(record.freeze())
    }

    /// A block of the written part of a segment, at least its first `len` bytes.
    fn block(&self, segment: &Segment, block: u64, len: usize) -> Result<Bytes, RevLogError> {
        let key = (segment.uid, block as u32);
        let cached = self.cache().block(key, len);
        if let Some(bytes) = cached {
            return Ok(bytes);
        }
        // Not beyond `written`: what is being written may be read in any state, and must not be kept.
        let offset = block * BLOCK_BYTES;
        let available = (segment.written - offset).min(BLOCK_BYTES) as usize;
        let bytes = self.bytes(segment, offset, available)?;
        self.cache().keep(key, bytes.clone());
        Ok(bytes)
    }

    fn cache(&self) -> std::sync::MutexGuard<'_, BlockCache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn forget_blocks(&self, uid: u64) {
        self.cache().forget(uid);
    }

    fn bytes(&self, segment: &Segment, offset: u64, len: usize) -> Result<Bytes, RevLogError> {
        let bytes = self.reader.read_at(&segment.file, offset, len)?;
        if bytes.len() < len {
            return Err(RevLogError::Corrupt {
                file: segment.file.clone(),
                offset: offset + bytes.len() as u64,
                what: "the file ends before its records",
            });
        }
        Ok(bytes)
    }

    fn unwritten(&self, segment: &Segment, offset: u64, len: usize) -> Bytes {
        // Segments fill one after the other, and uids ascend with them.
        let at =
            self.tail.partition_point(|write| (write.uid, write.offset) <= (segment.uid, offset));
        let write = &self.tail[at.checked_sub(1).expect("what is not written is in the tail")];
        let start = (offset - write.offset) as usize;
        write.bytes.slice(start..start + len)
    }

    /// The whole record, unchecked, from a window that moves forward.
    pub(super) fn scan_record(
        &self,
        segment: &Segment,
        slot: &Slot,
        chunk: &mut Chunk,
    ) -> Result<Bytes, RevLogError> {
        let (offset, len) = (u64::from(slot.offset), slot.record_len());
        if offset >= segment.written {
            return Ok(self.unwritten(segment, offset, len));
        }
        let ends = chunk.offset + chunk.bytes.len() as u64;
        if offset < chunk.offset || offset + len as u64 > ends {
            let available = usize::try_from(segment.written - offset).unwrap_or(usize::MAX);
            chunk.bytes = self.bytes(segment, offset, SCAN_CHUNK_BYTES.max(len).min(available))?;
            chunk.offset = offset;
        }
        let start = (offset - chunk.offset) as usize;
        chunk.bytes.get(start..start + len).ok_or_else(|| RevLogError::Corrupt {
            file: segment.file.clone(),
            offset,
            what: "a record reaches beyond what was written",
        })?;
        Ok(chunk.bytes.slice(start..start + len))
    }
}

/// A window on a segment.
#[derive(Default)]
pub(super) struct Chunk {
    offset: u64,
    bytes: Bytes,
}
