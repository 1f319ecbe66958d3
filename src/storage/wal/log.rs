//! The running WAL: what to write where, as operations for somebody else to run.

use bytes::Bytes;
use norn_planted::planted;

use crate::disk::{Disk, DiskOp, DiskRead, FileName};

use super::frame::{self, Encoder};
use super::scan::{self, Collector, Record, RecordKind, Tail};
use super::segment::{self, SegmentName};
use super::{Replay, Save, WalError, WalOptions, WalPosition, WalSnapshot, WalState};

/// An open WAL.
///
/// ```text
///   recycled <- [released ..][held .....................][tail] <- spare <- recycled
///                purge takes  may be needed by a restart   ^ offset: where the next record goes
///                them away    from `release_to`'s index
/// ```
///
/// A purged segment is what the next spare is made from: its blocks are written already, and a log in its steady state
/// asks the disk for no space at all.
///
/// The operations of `append` go to the Log queue, those of `prepare` and `purge` to the Bulk queue, each in the order
/// they were emitted. Operations that failed for want of space are submitted again, unchanged.
pub struct Wal {
    dir: FileName,
    opts: WalOptions,
    metadata: Bytes,
    /// The last state written, repeated at the head of every segment.
    state: Option<WalState>,
    encoder: Encoder,
    /// By sequence, never empty; the last one is the tail.
    segments: Vec<SegmentName>,
    /// So many of the oldest segments are released.
    released: usize,
    offset: u64,
    last_index: u64,
    spare: Spare,
    /// What was a segment, under its new name and as long as it was, to become the next spare. At most one: the next
    /// purge comes after the next cut.
    recycled: Option<FileName>,
    /// Numbers the `.tmp` names: one that is being renamed in one queue must not be created anew in the other.
    spares: u64,
}

enum Spare {
    Absent,
    /// Its making failed; the next attempt takes the same name and empties what this one left.
    Failed(FileName),
    /// A piece was emitted by `prepare`, up to this offset, and is not acknowledged.
    Preparing(FileName, u64),
    /// Zeroed so far.
    Partial(FileName, u64),
    /// Zeroed through and synced.
    Ready(FileName),
}

/// Of the first segment, the one that a start waits for, only this share is written with zeros before it is used: all
/// of it takes a third of a second. The rest is reserved, so that no append finds the disk full, and hardly used: once
/// the share is full and the spare (zeroed through, in the background) is there, the log goes on in the spare. Zeroing
/// the rest behind the back of the appends would need an order between the two disk queues; this needs none.
const FIRST_SEGMENT_SHARE: u64 = 16;

/// A single zeroing must not hold up the queue for long.
const ZERO_CHUNK_BYTES: u64 = 4 << 20;

const COPY_CHUNK_BYTES: usize = 1 << 20;

impl Wal {
    /// Whether there is any segment.
    pub fn exists(disk: &impl DiskRead, dir: &FileName) -> Result<bool, WalError> {
        Ok(disk.list(dir)?.iter().any(|name| name.ends_with(".wal")))
    }

    /// Makes a WAL that holds `metadata` and the empty snapshot. Whole or absent after a crash: it is built in
    /// `<dir>.tmp`, which then gets its name.
    pub fn create(
        disk: &mut impl Disk,
        dir: FileName,
        metadata: Bytes,
        opts: WalOptions,
    ) -> Result<Wal, WalError> {
        if Wal::exists(disk, &dir)? {
            return Err(WalError::Exists { dir });
        }
        let tmp = FileName::new(format!("{dir}.tmp"));
        for name in disk.list(&tmp)? {
            disk.execute(&DiskOp::Remove { file: FileName::new(format!("{tmp}/{name}")) })?;
        }
        // What stands in the target would be in the way of the rename; only leftovers of etcd's own can.
        for name in disk.list(&dir)? {
            disk.execute(&DiskOp::Remove { file: FileName::new(format!("{dir}/{name}")) })?;
        }

        let name = SegmentName { sequence: 0, index: 0 };
        let mut encoder = Encoder::new(0);
        encoder.crc_record();
        encoder.record(RecordKind::Metadata, &metadata);
        encoder.snapshot(&WalSnapshot { index: 0, term: 0, conf_state: Bytes::new() });
        let head = encoder.take();
        let offset = head.len() as u64;

        let file = name.file(&tmp);
        let mut ops =
            vec![DiskOp::MakeDir { dir: tmp.clone() }, DiskOp::Create { file: file.clone() }];
        ops.push(DiskOp::Reserve { file: file.clone(), len: opts.segment_bytes });
        zero(&file, 0, opts.segment_bytes / FIRST_SEGMENT_SHARE, &mut ops);
        ops.push(DiskOp::Write { file: file.clone(), offset: 0, data: head });
        ops.push(DiskOp::Sync { file: file.clone() });
        ops.push(DiskOp::SyncDir { dir: tmp.clone() });
        ops.push(DiskOp::Close { file });
        ops.push(DiskOp::Rename { from: tmp, to: dir.clone() });
        ops.push(DiskOp::SyncDir { dir: parent(&dir) });
        for op in &ops {
            disk.execute(op)?;
        }
        Ok(Wal {
            dir,
            opts,
            metadata,
            state: None,
            encoder,
            segments: vec![name],
            released: 0,
            offset,
            last_index: 0,
            spare: Spare::Absent,
            recycled: None,
            spares: 0,
        })
    }

    /// Opens for appending and replays what comes after `start`. A torn tail is set aside and cut off.
    pub fn open(
        disk: &mut impl Disk,
        dir: FileName,
        start: WalPosition,
        opts: WalOptions,
    ) -> Result<(Wal, Replay), WalError> {
        for name in disk.list(&dir)?.iter().filter(|name| name.ends_with(".tmp")) {
            disk.execute(&DiskOp::Remove { file: FileName::new(format!("{dir}/{name}")) })?;
        }
        let segments = segment::list(disk, &dir)?;
        let first = segment::covering(&segments, &dir, start.index)?;
        let mut collector = Collector::new(start);
        let tail =
            scan::scan(disk, &dir, &segments[first..], &mut |record| collector.take(record))?;
        let last_index = collector.last_index.max(start.index);
        let replay = collector.finish(&tail)?;
        if let Some(repair) = &replay.repaired {
            copy(disk, &repair.file, &repair.copy)?;
        }
        let mut wal = Wal {
            dir,
            opts,
            metadata: replay.metadata.clone(),
            state: replay.state,
            encoder: Encoder::new(tail.crc),
            segments,
            released: first,
            offset: tail.offset,
            last_index,
            spare: Spare::Absent,
            recycled: None,
            spares: 0,
        };
        wal.settle_tail(disk, &tail)?;
        Ok((wal, replay))
    }

    /// Makes durable what was read, and zero what follows it.
    fn settle_tail(&mut self, disk: &mut impl Disk, tail: &Tail) -> Result<(), WalError> {
        let file = tail.file.clone();
        let mut ops = Vec::new();
        if !tail.saw_metadata {
            // Later starts may begin with this file: it needs its head.
            self.encoder.crc = tail.crc_at_start;
            self.offset = 0;
        }
        let clean =
            tail.torn.is_none() && tail.file_bytes >= self.opts.segment_bytes && tail.saw_metadata;
        let is_settled = clean && scan::is_zero(disk, &file, self.offset, tail.file_bytes)?;
        if !is_settled && !planted!(WalTailUnrepaired) {
            // Durable before the zeros: over what is cut off they could come to stand in part, and then pass for damage.
            ops.push(DiskOp::SetLen { file: file.clone(), len: self.offset });
            ops.push(DiskOp::Sync { file: file.clone() });
            zero(&file, self.offset, self.opts.segment_bytes, &mut ops);
        }
        if !tail.saw_metadata {
            self.head();
            let data = self.encoder.take();
            self.offset = data.len() as u64;
            ops.push(DiskOp::Write { file: file.clone(), offset: 0, data });
        }
        ops.push(DiskOp::Sync { file });
        ops.push(DiskOp::SyncDir { dir: self.dir.clone() });
        for op in &ops {
            disk.execute(op)?;
        }
        Ok(())
    }

    /// The newest snapshot that a start may begin at. Reads the last two segments, where it nearly always is, and all
    /// of them only when it is not.
    pub fn newest_snapshot(
        disk: &impl DiskRead,
        dir: &FileName,
    ) -> Result<Option<WalSnapshot>, WalError> {
        let segments = segment::list(disk, dir)?;
        if segments.len() > 2 {
            let last = Wal::snapshots_in(disk, dir, &segments[segments.len() - 2..])?;
            // (The one at index 0 is where every log begins, and no reason to stop.)
            if let Some(newest) = last.into_iter().max_by_key(|snapshot| snapshot.index) {
                return Ok(Some(newest));
            }
        }
        let all = Wal::valid_snapshots(disk, dir)?;
        Ok(all.into_iter().max_by_key(|snapshot| snapshot.index))
    }

    /// Snapshot records with index <= the last commit, oldest first: the snapshots a start may begin at.
    pub fn valid_snapshots(
        disk: &impl DiskRead,
        dir: &FileName,
    ) -> Result<Vec<WalSnapshot>, WalError> {
        Wal::snapshots_in(disk, dir, &Wal::all_segments(disk, dir)?)
    }

    fn snapshots_in(
        disk: &impl DiskRead,
        dir: &FileName,
        segments: &[SegmentName],
    ) -> Result<Vec<WalSnapshot>, WalError> {
        let mut snapshots = Vec::new();
        let mut commit = 0;
        scan::scan(disk, dir, segments, &mut |record| {
            match record.kind {
                RecordKind::Snapshot => {
                    let snapshot = frame::parse_snapshot(record.data.clone());
                    snapshots.push(
                        snapshot.ok_or_else(|| record.corrupt("unreadable snapshot record"))?,
                    );
                }
                RecordKind::State => {
                    let state = frame::parse_state(record.data.clone());
                    commit = state.ok_or_else(|| record.corrupt("unreadable state"))?.commit;
                }
                _ => {}
            }
            Ok(())
        })?;
        snapshots.retain(|snapshot| snapshot.index <= commit);
        Ok(snapshots)
    }

    /// Like [`Wal::open`], but changes nothing.
    pub fn read_only(
        disk: &impl DiskRead,
        dir: &FileName,
        start: WalPosition,
    ) -> Result<Replay, WalError> {
        let segments = segment::list(disk, dir)?;
        let first = segment::covering(&segments, dir, start.index)?;
        let mut collector = Collector::new(start);
        let tail = scan::scan(disk, dir, &segments[first..], &mut |record| collector.take(record))?;
        collector.finish(&tail)
    }

    /// Every record of every segment, for tools. A torn tail ends it like the end of the file.
    pub fn records(
        disk: &impl DiskRead,
        dir: &FileName,
        visit: &mut dyn FnMut(Record) -> Result<(), WalError>,
    ) -> Result<(), WalError> {
        let segments = Wal::all_segments(disk, dir)?;
        scan::scan(disk, dir, &segments, visit).map(|_| ())
    }

    fn all_segments(disk: &impl DiskRead, dir: &FileName) -> Result<Vec<SegmentName>, WalError> {
        let segments = segment::list(disk, dir)?;
        let first = segments.first().map_or(0, |first| first.index);
        // Checks that no file is missing; the first one covers its own beginning.
        let _ = segment::covering(&segments[..segments.len().min(1)], dir, first)?;
        Ok(segments)
    }

    /// Emits one write, and a sync if it is asked for or the segment has become full (then also the new segment).
    pub fn append(&mut self, save: &Save<'_>, ops: &mut Vec<DiskOp>) {
        if let Some(snapshot) = &save.snapshot {
            self.encoder.snapshot(snapshot);
            self.last_index = self.last_index.max(snapshot.index);
        }
        for entry in save.entries {
            self.encoder.record(RecordKind::Entry, &entry.data);
            self.last_index = entry.index;
        }
        if let Some(state) = save.state {
            self.encoder.state(&state);
            self.state = Some(state);
        }
        let data = self.encoder.take();
        let file = self.tail();
        if !data.is_empty() {
            let len = data.len() as u64;
            ops.push(DiskOp::Write { file: file.clone(), offset: self.offset, data });
            self.offset += len;
        }
        if self.is_full() {
            self.cut(ops);
        } else if save.sync {
            ops.push(DiskOp::Sync { file });
        }
    }

    fn is_full(&self) -> bool {
        self.offset >= self.opts.segment_bytes
            || (self.offset >= self.written_bytes() && matches!(self.spare, Spare::Ready(_)))
    }

    /// How much of the tail had been written before it became the tail.
    fn written_bytes(&self) -> u64 {
        let is_first = self.segments.last().is_some_and(|tail| tail.sequence == 0);
        self.opts.segment_bytes / if is_first { FIRST_SEGMENT_SHARE } else { 1 }
    }

    fn cut(&mut self, ops: &mut Vec<DiskOp>) {
        let old = self.tail();
        ops.push(DiskOp::SetLen { file: old.clone(), len: self.offset });
        ops.push(DiskOp::Sync { file: old.clone() });
        let sequence = self.segments.last().expect("there is a tail").sequence + 1;
        let name = SegmentName { sequence, index: self.last_index + 1 };
        let tmp = match std::mem::replace(&mut self.spare, Spare::Absent) {
            Spare::Ready(tmp) => tmp,
            other => {
                self.spare = other;
                let tmp = self.next_spare();
                ops.push(DiskOp::Create { file: tmp.clone() });
                tmp
            }
        };
        self.head();
        let head = self.encoder.take();
        self.offset = head.len() as u64;
        ops.push(DiskOp::Write { file: tmp.clone(), offset: 0, data: head });
        ops.push(DiskOp::Sync { file: tmp.clone() });
        ops.push(DiskOp::Rename { from: tmp, to: name.file(&self.dir) });
        if !planted!(CutUnsynced) {
            ops.push(DiskOp::SyncDir { dir: self.dir.clone() });
        }
        ops.push(DiskOp::Close { file: old });
        self.segments.push(name);
    }

    /// Encodes what stands at the beginning of every segment but the first.
    fn head(&mut self) {
        self.encoder.crc_record();
        self.encoder.record(RecordKind::Metadata, &self.metadata);
        if let Some(state) = self.state {
            self.encoder.state(&state);
        }
    }

    /// Emits a piece of the making of the next segment; false when there is one, or a piece is on its way, or the tail has not been filled
    /// enough for another piece: all are done when four fifths of the tail are.
    pub fn prepare(&mut self, ops: &mut Vec<DiskOp>) -> bool {
        let segment_bytes = self.opts.segment_bytes;
        let (file, zeroed) = match std::mem::replace(&mut self.spare, Spare::Absent) {
            Spare::Absent => match self.recycled.take() {
                Some(file) => {
                    // Its old name is gone durably, and every byte of what it held goes before it gets a new one.
                    ops.push(DiskOp::SetLen { file: file.clone(), len: segment_bytes });
                    (file, 0)
                }
                None => {
                    let file = self.next_spare();
                    ops.push(DiskOp::Create { file: file.clone() });
                    (file, 0)
                }
            },
            Spare::Failed(file) => {
                ops.push(DiskOp::Create { file: file.clone() });
                (file, 0)
            }
            Spare::Partial(file, zeroed) if self.spare_is_due(zeroed) => (file, zeroed),
            other => {
                self.spare = other;
                return false;
            }
        };
        let piece = (segment_bytes / self.opts.spare_pieces.max(1)).max(1);
        let to = (zeroed + piece).min(segment_bytes);
        zero(&file, zeroed, to, ops);
        if to == segment_bytes {
            ops.push(DiskOp::Sync { file: file.clone() });
        }
        self.spare = Spare::Preparing(file, to);
        true
    }

    /// The spare is zeroed a little faster than the tail fills: in time, and of what else wants the disk or a core nothing waits for long.
    fn spare_is_due(&self, zeroed: u64) -> bool {
        let filled = u128::from(self.offset) * u128::from(self.opts.segment_bytes);
        4 * u128::from(zeroed) * u128::from(self.written_bytes()) <= 5 * filled
    }

    /// The operations of [`Wal::prepare`] completed; `ok == false`: they failed, and may be asked for anew.
    pub fn prepared(&mut self, ok: bool) {
        self.spare = match std::mem::replace(&mut self.spare, Spare::Absent) {
            Spare::Preparing(file, to) if ok && to < self.opts.segment_bytes => {
                Spare::Partial(file, to)
            }
            Spare::Preparing(file, _) if ok => Spare::Ready(file),
            Spare::Preparing(file, _) => Spare::Failed(file),
            other => other,
        };
    }

    /// Entries up to `index` are not needed any more: the segments before the one that may hold it are released.
    pub fn release_to(&mut self, index: u64) {
        let held = &self.segments[self.released..];
        let keep = match held.iter().position(|segment| segment.index >= index) {
            Some(at) => at.saturating_sub(1),
            None => held.len() - 1,
        };
        self.released += keep;
    }

    /// Emits the removal of released segments beyond the newest `max_wals` (0: keep all). One of them is kept to
    /// become a spare. The operations must be run: a segment renamed in memory only could not be zeroed.
    pub fn purge(&mut self, max_wals: usize, ops: &mut Vec<DiskOp>) {
        if max_wals == 0 {
            return;
        }
        let count = self.segments.len().saturating_sub(max_wals).min(self.released);
        if count == 0 {
            return;
        }
        self.released -= count;
        // Oldest first, and each durable before the next: a power loss must leave a gapless rest, and of removals that
        // share a sync it may undo any.
        let purged: Vec<SegmentName> = self.segments.drain(..count).collect();
        for segment in purged {
            let file = segment.file(&self.dir);
            if self.recycled.is_none() {
                let to = self.next_spare();
                ops.push(DiskOp::Rename { from: file, to: to.clone() });
                self.recycled = Some(to);
            } else {
                ops.push(DiskOp::Remove { file });
            }
            ops.push(DiskOp::SyncDir { dir: self.dir.clone() });
        }
    }

    /// The metadata that every segment repeats.
    pub fn metadata(&self) -> &Bytes {
        &self.metadata
    }

    /// Index of the entry or snapshot written last.
    pub fn last_index(&self) -> u64 {
        self.last_index
    }

    /// Number of segments that are not purged, tail included.
    pub fn segment_count(&self) -> usize {
        self.segments.len()
    }

    fn tail(&self) -> FileName {
        self.segments.last().expect("there is a tail").file(&self.dir)
    }

    fn next_spare(&mut self) -> FileName {
        self.spares += 1;
        FileName::new(format!("{}/{}.tmp", self.dir, self.spares - 1))
    }
}

fn zero(file: &FileName, mut offset: u64, to: u64, ops: &mut Vec<DiskOp>) {
    while offset < to {
        let len = (to - offset).min(ZERO_CHUNK_BYTES);
        ops.push(DiskOp::Zero { file: file.clone(), offset, len });
        offset += len;
    }
}

fn copy(disk: &mut impl Disk, from: &FileName, to: &FileName) -> Result<(), WalError> {
    disk.execute(&DiskOp::Create { file: to.clone() })?;
    let mut offset = 0;
    loop {
        let data = disk.read_at(from, offset, COPY_CHUNK_BYTES)?;
        if data.is_empty() {
            break;
        }
        let len = data.len() as u64;
        disk.execute(&DiskOp::Write { file: to.clone(), offset, data })?;
        offset += len;
    }
    disk.execute(&DiskOp::Sync { file: to.clone() })?;
    disk.execute(&DiskOp::Close { file: to.clone() })?;
    Ok(())
}

fn parent(dir: &FileName) -> FileName {
    FileName::new(dir.as_str().rsplit_once('/').map_or("", |(parent, _)| parent))
}
