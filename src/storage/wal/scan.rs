//! Reading segments: frames, checksums, and telling a torn tail from corruption.

use bytes::{Buf, Bytes};
use norn_planted::planted;

use crate::disk::{DiskRead, FileName};

use super::frame::{self, FRAME_HEADER_BYTES, FrameHeader};
use super::segment::SegmentName;
use super::{Repair, Replay, WalEntry, WalError, WalPosition, WalState};

/// What a record is about; the numbers are those on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordKind {
    Metadata = 1,
    Entry = 2,
    State = 3,
    Crc = 4,
    Snapshot = 5,
}

impl RecordKind {
    fn parse(kind: u64) -> Option<RecordKind> {
        Some(match kind {
            1 => RecordKind::Metadata,
            2 => RecordKind::Entry,
            3 => RecordKind::State,
            4 => RecordKind::Crc,
            5 => RecordKind::Snapshot,
            _ => return None,
        })
    }
}

/// A record with a good checksum, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub file: FileName,
    pub offset: u64,
    pub kind: RecordKind,
    pub data: Bytes,
}

impl Record {
    pub(super) fn corrupt(&self, what: &'static str) -> WalError {
        WalError::Corrupt { file: self.file.clone(), offset: self.offset, what }
    }
}

/// Where reading the last file ended.
pub(super) struct Tail {
    pub(super) file: FileName,
    /// After the last whole record.
    pub(super) offset: u64,
    pub(super) file_bytes: u64,
    /// Running checksum at `offset`, and at the beginning of the file.
    pub(super) crc: u32,
    pub(super) crc_at_start: u32,
    pub(super) saw_metadata: bool,
    /// Why the record at `offset` is torn, if there is one.
    pub(super) torn: Option<&'static str>,
}

/// Gives every record of the segments to `visit`.
pub(super) fn scan(
    disk: &impl DiskRead,
    dir: &FileName,
    segments: &[SegmentName],
    visit: &mut dyn FnMut(Record) -> Result<(), WalError>,
) -> Result<Tail, WalError> {
    let mut crc = 0;
    let mut tail = None;
    for (at, segment) in segments.iter().enumerate() {
        let mut reader = Reader::open(disk, segment.file(dir), at + 1 == segments.len(), crc)?;
        let mut saw_metadata = false;
        let torn = loop {
            match reader.next()? {
                Step::Record(record) => {
                    saw_metadata |= record.kind == RecordKind::Metadata;
                    visit(record)?;
                }
                Step::End => break None,
                Step::Torn(what) => break Some(what),
            }
        };
        if !saw_metadata && at + 1 < segments.len() {
            return Err(reader.corrupt("no metadata record before the end of the file"));
        }
        let (crc_at_start, offset) = (crc, reader.offset);
        crc = reader.crc;
        let (file, file_bytes) = (reader.file, reader.file_bytes);
        tail = Some(Tail { file, offset, file_bytes, crc, crc_at_start, saw_metadata, torn });
    }
    tail.ok_or_else(|| WalError::NotFound { dir: dir.clone(), index: 0 })
}

/// Collects what a start needs from the records after a position.
pub(super) struct Collector {
    start: WalPosition,
    metadata: Option<Bytes>,
    state: Option<WalState>,
    entries: Vec<WalEntry>,
    snapshot_found: bool,
    /// Index of the last entry or snapshot written, needed or not.
    pub(super) last_index: u64,
}

impl Collector {
    pub(super) fn new(start: WalPosition) -> Collector {
        Collector {
            start,
            metadata: None,
            state: None,
            entries: Vec::new(),
            snapshot_found: false,
            last_index: 0,
        }
    }

    pub(super) fn take(&mut self, record: Record) -> Result<(), WalError> {
        match record.kind {
            RecordKind::Crc => {}
            RecordKind::Metadata => match &self.metadata {
                Some(known) if *known != record.data => {
                    return Err(record.corrupt("metadata differs from that of the files before"));
                }
                _ => self.metadata = Some(record.data),
            },
            RecordKind::State => return self.take_state(&record),
            RecordKind::Snapshot => {
                let snapshot = frame::parse_snapshot(record.data.clone());
                let snapshot =
                    snapshot.ok_or_else(|| record.corrupt("unreadable snapshot record"))?;
                if snapshot.index == self.start.index {
                    if snapshot.term != self.start.term {
                        return Err(WalError::SnapshotMismatch {
                            file: record.file,
                            offset: record.offset,
                            expected: self.start.term,
                            found: snapshot.term,
                        });
                    }
                    self.snapshot_found = true;
                    // Terms never fall in a log: this was left behind when a leader's snapshot replaced everything.
                    if self.entries.first().is_some_and(|entry| entry.term < snapshot.term) {
                        self.entries.clear();
                    }
                }
                self.last_index = self.last_index.max(snapshot.index);
            }
            RecordKind::Entry => return self.take_entry(record),
        }
        Ok(())
    }

    /// Neither term nor commit index ever falls. A checksum does not cover the type of its record: an entry without data whose type has
    /// a flipped bit looks like a state, and a state like an entry. (An entry may be of a later term than the state behind it: they
    /// are written in this order, and a crash may come between them.)
    fn take_state(&mut self, record: &Record) -> Result<(), WalError> {
        let state = frame::parse_state(record.data.clone());
        let state = state.ok_or_else(|| record.corrupt("unreadable state"))?;
        let before = self.state.unwrap_or_default();
        if state.term < before.term || state.commit < before.commit {
            return Err(record.corrupt("a state whose term or commit index falls"));
        }
        self.state = Some(state);
        Ok(())
    }

    fn take_entry(&mut self, record: Record) -> Result<(), WalError> {
        let parsed = frame::parse_entry(record.data.clone());
        let (term, index) = parsed.ok_or_else(|| record.corrupt("unreadable entry"))?;
        if term == 0 || index == 0 {
            return Err(record.corrupt("an entry without a term or an index"));
        }
        self.last_index = index;
        if index > self.start.index {
            let keep = index - self.start.index - 1;
            if keep > self.entries.len() as u64 {
                return Err(WalError::EntryGap {
                    file: record.file,
                    offset: record.offset,
                    expected: self.start.index + self.entries.len() as u64 + 1,
                    found: index,
                });
            }
            // A new leader's entries replace what an old one had left uncommitted.
            self.entries.truncate(keep as usize);
            if self.entries.last().is_some_and(|before| before.term > term) {
                return Err(record.corrupt("the entry before is of a later term"));
            }
            self.entries.push(WalEntry { term, index, data: record.data });
        } else {
            // Replaced from before the start on: what was behind is gone. (etcd keeps it, with terms that fall.)
            self.entries.clear();
        }
        Ok(())
    }

    pub(super) fn finish(self, tail: &Tail) -> Result<Replay, WalError> {
        let Some(metadata) = self.metadata else {
            let file = tail.file.clone();
            return Err(WalError::Corrupt {
                file,
                offset: tail.offset,
                what: "no metadata record",
            });
        };
        let repaired = tail.torn.map(|reason| Repair {
            file: tail.file.clone(),
            offset: tail.offset,
            copy: FileName::new(format!("{}.broken", tail.file)),
            reason,
        });
        let Collector { state, mut entries, snapshot_found, .. } = self;
        if planted!(WalTailUnread) {
            entries.pop();
        }
        Ok(Replay { metadata, state, entries, snapshot_found, repaired })
    }
}

enum Step {
    Record(Record),
    End,
    Torn(&'static str),
}

struct Reader<'a, D> {
    disk: &'a D,
    file: FileName,
    file_bytes: u64,
    is_last: bool,
    crc: u32,
    offset: u64,
    /// Bytes of the file from `chunk_at` on.
    chunk: Bytes,
    chunk_at: u64,
}

/// Entries are slices of the chunk they came with; a chunk is small enough that one forgotten entry pins little.
const CHUNK_BYTES: usize = 256 << 10;

const SECTOR_BYTES: u64 = 512;

impl<'a, D: DiskRead> Reader<'a, D> {
    fn open(disk: &'a D, file: FileName, is_last: bool, crc: u32) -> Result<Self, WalError> {
        let file_bytes = disk.len(&file)?.unwrap_or(0);
        let (chunk, chunk_at) = (Bytes::new(), 0);
        Ok(Reader { disk, file, file_bytes, is_last, crc, offset: 0, chunk, chunk_at })
    }

    fn next(&mut self) -> Result<Step, WalError> {
        let left = self.file_bytes - self.offset;
        if left == 0 {
            return Ok(Step::End);
        }
        let Some(mut raw) = self.bytes(self.offset, FRAME_HEADER_BYTES.min(left))? else {
            return self.unfinished("the file ends within a frame header");
        };
        if left < FRAME_HEADER_BYTES {
            // Less than a header of zeros is the end of preallocated space like any other.
            let zero = raw.iter().all(|byte| *byte == 0);
            return if zero {
                Ok(Step::End)
            } else {
                self.unfinished("the file ends within a frame header")
            };
        }
        let raw = raw.get_u64_le();
        if raw == 0 {
            // A header may be lost alone only if it is the last of its sector.
            if !(self.offset + FRAME_HEADER_BYTES).is_multiple_of(SECTOR_BYTES)
                && self.intact_record_len()?.is_some()
            {
                return Err(self.corrupt("the length of an intact record is zero"));
            }
            return Ok(Step::End);
        }
        let header = FrameHeader::parse(raw);
        let body_at = self.offset + FRAME_HEADER_BYTES;
        if header.len + header.padding > left - FRAME_HEADER_BYTES {
            // An intact record that only lacks its padding is torn.
            if self.intact_record_len()?.is_some_and(|len| len != header.len) {
                return Err(self.corrupt("the length of an intact record is damaged"));
            }
            return self.unfinished("a record reaches beyond the end of the file");
        }
        let Some(body) = self.bytes(body_at, header.len + header.padding)? else {
            return self.unfinished("a record reaches beyond the end of the file");
        };
        match self.check(&header, &body) {
            Ok((kind, crc, data)) => {
                let record = Record { file: self.file.clone(), offset: self.offset, kind, data };
                self.crc = crc;
                self.offset = body_at + body.len() as u64;
                Ok(Step::Record(record))
            }
            Err(what) => {
                if self.intact_record_len()?.is_some() {
                    Err(self.corrupt("the frame header of an intact record is damaged"))
                } else if self.is_last && self.is_torn(&header, &body)? {
                    Ok(Step::Torn(what))
                } else {
                    Err(self.corrupt(what))
                }
            }
        }
    }

    /// Kind and data of a record, and the running checksum after it.
    fn check(
        &self,
        header: &FrameHeader,
        body: &Bytes,
    ) -> Result<(RecordKind, u32, Bytes), &'static str> {
        if !header.well_formed {
            return Err("malformed frame header");
        }
        let record =
            frame::parse_record(body.slice(..header.len as usize)).ok_or("unreadable record")?;
        let kind = RecordKind::parse(record.kind).ok_or("unknown record type")?;
        let mismatch = "checksum mismatch";
        if kind == RecordKind::Crc {
            // Stricter than etcd, which takes any there while its own is zero: damage may look like one.
            if self.offset > 0 {
                return Err("a checksum record within a file");
            }
            // A reader that began in the middle has no value of its own yet.
            let agrees = self.crc == 0 || self.crc == record.crc;
            return agrees.then_some((kind, record.crc, record.data)).ok_or(mismatch);
        }
        let crc = crc32c::crc32c_append(self.crc, &record.data);
        let agrees = crc == record.crc || planted!(WalChecksumUnread);
        agrees.then_some((kind, crc, record.data)).ok_or(mismatch)
    }

    /// Whether a bad record is one that a crash left unfinished.
    fn is_torn(&self, header: &FrameHeader, body: &Bytes) -> Result<bool, WalError> {
        let mut at = self.offset + FRAME_HEADER_BYTES;
        let mut rest = body.clone();
        while !rest.is_empty() {
            let sector_end = (at / SECTOR_BYTES + 1) * SECTOR_BYTES;
            let piece = rest.split_to((sector_end - at).min(rest.len() as u64) as usize);
            at += piece.len() as u64;
            // Stricter than etcd: a lost sector is lost with what was written to it later. If a record follows in it, it is not
            // lost, and the zeros are damage.
            if piece.iter().all(|byte| *byte == 0)
                && is_zero(self.disk, &self.file, at, sector_end.min(self.file_bytes))?
            {
                return Ok(true);
            }
        }
        // Not in etcd: a write cut short within a sector leaves a record that ends in zeros, and only zeros behind.
        let cut_short = body[..header.len as usize].last() == Some(&0);
        Ok(cut_short && is_zero(self.disk, &self.file, at, self.file_bytes)?)
    }

    /// Length of the whole record with a good checksum that stands behind a frame header that denies it, if any.
    fn intact_record_len(&mut self) -> Result<Option<u64>, WalError> {
        let body_at = self.offset + FRAME_HEADER_BYTES;
        let left = self.file_bytes - body_at;
        let Some(start) = self.bytes(body_at, left.min(32))? else {
            return Ok(None);
        };
        let Some(len) = frame::self_described_len(&start).filter(|len| *len <= left) else {
            return Ok(None);
        };
        let Some(record) = self.bytes(body_at, len)? else {
            return Ok(None);
        };
        let Some(record) = frame::parse_record(record) else {
            return Ok(None);
        };
        let intact = if record.kind == RecordKind::Crc as u64 {
            // It stands where a file begins, which was synced before the file got its name: no power loss tears it.
            self.offset == 0 && (self.crc == 0 || self.crc == record.crc)
        } else {
            crc32c::crc32c_append(self.crc, &record.data) == record.crc
        };
        Ok(intact.then_some(len))
    }

    fn unfinished(&self, what: &'static str) -> Result<Step, WalError> {
        if self.is_last { Ok(Step::Torn(what)) } else { Err(self.corrupt(what)) }
    }

    fn corrupt(&self, what: &'static str) -> WalError {
        WalError::Corrupt { file: self.file.clone(), offset: self.offset, what }
    }

    /// Bytes of the file; `None` if it ends before. `len` must not exceed what the file's length justifies.
    fn bytes(&mut self, at: u64, len: u64) -> Result<Option<Bytes>, WalError> {
        let len = len as usize;
        let inside = |chunk: &Bytes, chunk_at: u64| {
            let from = usize::try_from(at.checked_sub(chunk_at)?).ok()?;
            (from.checked_add(len)? <= chunk.len()).then(|| chunk.slice(from..from + len))
        };
        if let Some(bytes) = inside(&self.chunk, self.chunk_at) {
            return Ok(Some(bytes));
        }
        self.chunk = self.disk.read_at(&self.file, at, len.max(CHUNK_BYTES))?;
        self.chunk_at = at;
        Ok(inside(&self.chunk, self.chunk_at))
    }
}

/// Whether a range of a file holds nothing but zeros.
pub(super) fn is_zero(
    disk: &impl DiskRead,
    file: &FileName,
    mut at: u64,
    to: u64,
) -> Result<bool, WalError> {
    while at < to {
        let bytes = disk.read_at(file, at, (to - at).min(CHUNK_BYTES as u64) as usize)?;
        if bytes.iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
        if bytes.is_empty() {
            break;
        }
        at += bytes.len() as u64;
    }
    Ok(true)
}
