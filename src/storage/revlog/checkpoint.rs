//! Making what was appended durable, and keeping the caller's index image.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use norn_planted::planted;

use crate::disk::{DiskOp, DiskRead, FileName};

use super::log::RevisionLog;
use super::record;
use super::segment::{LIVE_MAGIC, NO_VERSION, SegmentName};
use super::{CheckpointTicket, Rows, TableRecord, sealed};

pub(super) const CHECKPOINT_MAGIC: [u8; 8] = *b"NORNCKP1";
pub(super) const INDEX_MAGIC: [u8; 8] = *b"NORNIDX1";

/// What the `checkpoint` file says.
pub(super) struct Manifest {
    pub(super) applied_index: u64,
    pub(super) term: u64,
    pub(super) last: (i64, i64),
    pub(super) deaths: u64,
    /// Number of the active segment, the bytes of it that count, and the chain value there.
    pub(super) segment: u64,
    pub(super) offset: u64,
    pub(super) chain: u32,
    pub(super) segments: Vec<ManifestSegment>,
    pub(super) tables: Vec<TableRecord>,
}

pub(super) struct ManifestSegment {
    pub(super) name: SegmentName,
    pub(super) live_version: u32,
    pub(super) live_records: u64,
    pub(super) low: (i64, i64),
}

const MANIFEST_BYTES: usize = 72;
const MANIFEST_SEGMENT_BYTES: usize = 48;

impl Manifest {
    /// `None`: not what a checkpoint looks like.
    pub(super) fn decode(mut body: Bytes) -> Option<Manifest> {
        if body.len() < MANIFEST_BYTES {
            return None;
        }
        let mut manifest = Manifest {
            applied_index: body.get_u64_le(),
            term: body.get_u64_le(),
            last: (body.get_i64_le(), body.get_i64_le()),
            deaths: body.get_u64_le(),
            segment: body.get_u64_le(),
            offset: body.get_u64_le(),
            chain: body.get_u32_le(),
            segments: Vec::new(),
            tables: Vec::new(),
        };
        let (segments, tables) = (body.get_u32_le(), body.get_u32_le());
        body.advance(4);
        if body.len() / MANIFEST_SEGMENT_BYTES < segments as usize {
            return None;
        }
        for _ in 0..segments {
            let (first, last, generation) =
                (body.get_u64_le(), body.get_u64_le(), body.get_u32_le());
            manifest.segments.push(ManifestSegment {
                name: SegmentName { first, last, generation },
                live_version: body.get_u32_le(),
                live_records: body.get_u64_le(),
                low: (body.get_i64_le(), body.get_i64_le()),
            });
        }
        for _ in 0..tables {
            manifest.tables.push(record::decode_table_record(&mut body)?);
        }
        body.is_empty().then_some(manifest)
    }
}

/// A checkpoint whose operations have not completed.
pub(super) struct PendingCheckpoint {
    ticket: u64,
    applied_index: u64,
    active: u64,
    bytes: u64,
    /// By uid.
    segments: BTreeMap<u64, PendingSegment>,
    /// Segments whose sync it contains.
    synced: BTreeSet<u64>,
}

struct PendingSegment {
    deaths: u64,
    live_version: u32,
    live_records: u64,
}

/// Index images on the disk.
#[derive(Default)]
pub(super) struct IndexImages {
    /// Oldest first; all but the last are removed with the next checkpoint.
    pub(super) files: Vec<FileName>,
    pub(super) bytes: u64,
    /// Deaths that the newest one knows of.
    pub(super) deaths: Option<u64>,
}

pub(super) fn checkpoint_file(dir: &FileName) -> FileName {
    FileName::new(format!("{dir}/checkpoint"))
}

pub(super) fn index_file(dir: &FileName, main: i64) -> FileName {
    FileName::new(format!("{dir}/index-{main:016x}.idx"))
}

impl<R: DiskRead> RevisionLog<R> {
    /// Emits a durable checkpoint of everything appended and every death marked so far. `None` while one is under
    /// way, or while the collector's last step is: try again when it has been acknowledged.
    pub fn checkpoint(&mut self, ops: &mut Vec<DiskOp>) -> Option<CheckpointTicket> {
        if self.pending.is_some() || self.collecting.as_ref().is_some_and(|c| c.is_finishing()) {
            return None;
        }
        let synced = std::mem::take(&mut self.dirty);
        for segment in self.segments.iter().filter(|segment| synced.contains(&segment.uid)) {
            ops.push(DiskOp::Sync { file: segment.file.clone() });
        }
        let stale = self.save_deaths(ops);
        ops.push(DiskOp::SyncDir { dir: self.dir.clone() });

        let file = checkpoint_file(&self.dir);
        let tmp = FileName::new(format!("{file}.tmp"));
        let bytes = sealed::write(&tmp, CHECKPOINT_MAGIC, self.manifest(), ops);
        ops.push(DiskOp::Rename { from: tmp, to: file });
        ops.push(DiskOp::SyncDir { dir: self.dir.clone() });

        // Only now does nothing durable refer to these.
        let images = self.images.files.len().saturating_sub(1);
        let stale = stale
            .into_iter()
            .chain(self.images.files.drain(..images))
            .chain(self.garbage.drain(..));
        ops.extend(stale.map(|file| DiskOp::Remove { file }));

        self.tickets += 1;
        let segments = self.segments.iter().map(|segment| {
            let then = PendingSegment {
                deaths: segment.deaths,
                live_version: segment.live_version_emitted,
                live_records: segment.live_records,
            };
            (segment.uid, then)
        });
        self.pending = Some(PendingCheckpoint {
            ticket: self.tickets,
            applied_index: self.applied_index,
            active: self.active().name.first,
            bytes,
            segments: segments.collect(),
            synced,
        });
        Some(CheckpointTicket(self.tickets))
    }

    /// Emits the `.live` files that are due; returns those they replace.
    fn save_deaths(&mut self, ops: &mut Vec<DiskOp>) -> Vec<FileName> {
        let mut stale = Vec::new();
        let active = self.active().uid;
        for segment in &mut self.segments {
            let grown = segment.uid != active && segment.live_covers < segment.bytes;
            if !grown && segment.deaths == segment.deaths_saved {
                continue;
            }
            if segment.live_version != NO_VERSION {
                stale.push(segment.name.live_file(&self.dir, segment.live_version));
            }
            // Version 0 is the one that a collected segment is born with; NO_VERSION is never reached.
            let version = match segment.live_version_emitted {
                NO_VERSION => 1,
                newest => newest + 1,
            };
            let body = segment.live_body(version);
            let file = segment.name.live_file(&self.dir, version);
            sealed::write(&file, LIVE_MAGIC, vec![body], ops);
            segment.live_version_emitted = version;
            segment.live_covers = segment.bytes;
            segment.deaths_saved = segment.deaths;
        }
        stale
    }

    /// In pieces, most of which the tables have at hand.
    fn manifest(&self) -> Vec<Bytes> {
        let active = self.active();
        let tables: usize = self.tables.iter().map(Rows::len).sum();
        let mut body =
            BytesMut::with_capacity(MANIFEST_BYTES + MANIFEST_SEGMENT_BYTES * self.segments.len());
        let forgets = planted!(CheckpointForgets);
        body.put_u64_le(if forgets { self.durable_index } else { self.applied_index });
        body.put_u64_le(self.term);
        body.put_i64_le(self.last.0);
        body.put_i64_le(self.last.1);
        body.put_u64_le(self.deaths);
        body.put_u64_le(active.name.first);
        body.put_u64_le(active.bytes);
        body.put_u32_le(active.chain);
        body.put_u32_le(self.segments.len() as u32);
        body.put_u32_le(tables as u32);
        body.put_u32_le(0);
        for segment in &self.segments {
            body.put_u64_le(segment.name.first);
            body.put_u64_le(segment.name.last);
            body.put_u32_le(segment.name.generation);
            body.put_u32_le(segment.live_version_emitted);
            body.put_u64_le(segment.live_records);
            body.put_i64_le(segment.low.0);
            body.put_i64_le(segment.low.1);
        }
        let rows = self.tables.iter().flat_map(Rows::encoded).filter(|piece| !piece.is_empty());
        std::iter::once(body.freeze()).chain(rows.cloned()).collect()
    }

    /// The checkpoint's operations have completed (`ok`), or failed for want of space and will not be submitted
    /// again. Returns [`RevisionLog::durable_index`].
    pub fn checkpointed(&mut self, ticket: CheckpointTicket, ok: bool) -> u64 {
        let pending = self.pending.take().expect("a checkpoint is under way");
        assert_eq!(pending.ticket, ticket.0, "the ticket is of another checkpoint");
        if ok {
            self.durable_index = pending.applied_index;
            self.durable_segment = pending.active;
            self.checkpoint_bytes = pending.bytes;
        } else {
            self.dirty.extend(&pending.synced);
        }
        for segment in &mut self.segments {
            let Some(then) = pending.segments.get(&segment.uid) else {
                continue;
            };
            if ok {
                segment.deaths_durable = then.deaths;
                segment.live_version = then.live_version;
                segment.live_durable = Some(then.live_records);
            } else if segment.live_version_emitted != segment.live_version {
                // Whatever became of the new file, it must not be counted on.
                segment.deaths_saved = u64::MAX;
                segment.live_covers = 0;
            }
        }
        self.durable_index
    }

    /// Begins an index image of the state now, with the deaths marked so far accounted for. It counts at the next open
    /// only if the durable checkpoint was taken at the same number of deaths: mark none between this and the
    /// checkpoint that follows it. An older image stays until that checkpoint.
    pub fn begin_index(&self, ops: &mut Vec<DiskOp>) -> IndexWriter {
        let main = self.last.0;
        let file = index_file(&self.dir, main);
        let tmp = FileName::new(format!("{file}.tmp"));
        ops.push(DiskOp::Create { file: tmp.clone() });
        let deaths = self.deaths;
        let mut writer = IndexWriter { file, tmp, deaths, bytes: 0, crc: 0 };
        let mut head = BytesMut::with_capacity(16);
        head.put_i64_le(main);
        head.put_u64_le(self.deaths);
        writer.write(head.freeze(), ops);
        writer
    }

    /// Emits what makes an image whole: its header, last, and its name.
    pub fn finish_index(&mut self, writer: IndexWriter, ops: &mut Vec<DiskOp>) {
        let IndexWriter { file, tmp, deaths, bytes, crc } = writer;
        let data = sealed::header_of(INDEX_MAGIC, bytes, crc);
        ops.push(DiskOp::Write { file: tmp.clone(), offset: 0, data });
        ops.push(DiskOp::Sync { file: tmp.clone() });
        ops.push(DiskOp::Close { file: tmp.clone() });
        ops.push(DiskOp::Rename { from: tmp, to: file.clone() });
        ops.push(DiskOp::SyncDir { dir: self.dir.clone() });
        self.images.bytes = bytes + sealed::HEADER_BYTES as u64;
        self.images.deaths = Some(deaths);
        self.images.files.retain(|known| *known != file);
        self.images.files.push(file);
    }

    /// Bytes of the newest index image, if a restart would believe it (as far as deaths go: it may be old).
    pub fn index_bytes(&self) -> Option<u64> {
        (self.images.deaths == Some(self.deaths)).then_some(self.images.bytes)
    }

    /// Bytes of the newest index image, believed or not; 0 without one.
    pub fn last_index_bytes(&self) -> u64 {
        self.images.bytes
    }
}

/// An index image under way, written piece by piece under a name that the next opening removes.
#[derive(Debug)]
pub struct IndexWriter {
    file: FileName,
    tmp: FileName,
    deaths: u64,
    /// Of the body.
    bytes: u64,
    crc: u32,
}

impl IndexWriter {
    /// Emits the write of the next piece of the caller's bytes.
    pub fn write(&mut self, data: Bytes, ops: &mut Vec<DiskOp>) {
        let offset = sealed::HEADER_BYTES as u64 + self.bytes;
        self.bytes += data.len() as u64;
        self.crc = crc32c::crc32c_append(self.crc, &data);
        ops.push(DiskOp::Write { file: self.tmp.clone(), offset, data });
    }
}
