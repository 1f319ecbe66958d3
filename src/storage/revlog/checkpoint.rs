//! Making what was appended durable, and keeping the caller's index image.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use norn_planted::planted;

use crate::disk::{DiskOp, DiskRead, FileName};

use super::log::RevisionLog;
use super::record::{self, SLOT_BYTES};
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

/// A `.live` file on its way, for the next checkpoint.
pub(super) struct Saving {
    uid: u64,
    version: u32,
    /// What it speaks of: this many slots, of so many bytes of the segment, after so many deaths.
    slots: usize,
    covers: u64,
    deaths: u64,
    /// The first slot that is not in it yet.
    next: usize,
    file: sealed::Pieces,
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

    /// Whether the next checkpoint has something to say about deaths. (While one is under way, nothing is said for the one after it.)
    pub fn has_unsaved(&self) -> bool {
        let active = self.active().uid;
        self.pending.is_none() && self.segments.iter().any(|segment| segment.has_unsaved(active))
    }

    /// Says so many bytes of it now, about: of a segment with many records it is much at once. True: there is more. What dies between this
    /// and the checkpoint is said by that, and then all of its segment again.
    pub fn save_some(&mut self, bytes: usize, ops: &mut Vec<DiskOp>) -> bool {
        if !self.has_unsaved() {
            self.give_up_saving(ops);
            return false;
        }
        if !self
            .saving
            .as_ref()
            .is_some_and(|saving| self.segments.iter().any(|s| s.uid == saving.uid))
        {
            self.give_up_saving(ops);
            self.begin_saving(ops);
        }
        let Some(mut saving) = self.saving.take() else { return false };
        let segment = self.segments.iter_mut().find(|segment| segment.uid == saving.uid);
        let segment = segment.expect("looked for above");
        let to = saving.slots.min(saving.next + (bytes / SLOT_BYTES).max(1));
        saving.file.write(segment.live_slots(saving.next..to), ops);
        saving.next = to;
        if to < saving.slots {
            self.saving = Some(saving);
            return true;
        }
        saving.file.finish(LIVE_MAGIC, ops);
        segment.live_version_emitted = saving.version;
        segment.live_covers = saving.covers;
        segment.deaths_saved = saving.deaths;
        self.has_unsaved()
    }

    fn begin_saving(&mut self, ops: &mut Vec<DiskOp>) {
        let active = self.active().uid;
        let Some(segment) = self.segments.iter_mut().find(|segment| segment.has_unsaved(active))
        else {
            return;
        };
        let version = segment.next_live_version();
        let mut file = sealed::Pieces::create(segment.name.live_file(&self.dir, version), ops);
        file.write(segment.live_head(version), ops);
        self.saving = Some(Saving {
            uid: segment.uid,
            version,
            slots: segment.slots.len(),
            covers: segment.bytes,
            deaths: segment.deaths,
            next: 0,
            file,
        });
    }

    /// A `.live` file that will not be finished goes with the next checkpoint. Its version is not used again.
    fn give_up_saving(&mut self, ops: &mut Vec<DiskOp>) {
        let Some(saving) = self.saving.take() else { return };
        let file = saving.file.give_up(ops);
        match self.segments.iter_mut().find(|segment| segment.uid == saving.uid) {
            Some(segment) => {
                segment.live_version_emitted = saving.version;
                segment.deaths_saved = u64::MAX;
            }
            None => self.garbage.push(file),
        }
    }

    /// Emits the `.live` files that are due; returns those that were before, finished or not.
    fn save_deaths(&mut self, ops: &mut Vec<DiskOp>) -> Vec<FileName> {
        self.give_up_saving(ops);
        let mut stale = Vec::new();
        let active = self.active().uid;
        for segment in &mut self.segments {
            let before = [segment.live_version, segment.live_version_emitted];
            if segment.has_unsaved(active) {
                let version = segment.next_live_version();
                let file = segment.name.live_file(&self.dir, version);
                sealed::write(&file, LIVE_MAGIC, segment.live_body(version), ops);
                segment.live_version_emitted = version;
                segment.live_covers = segment.bytes;
                segment.deaths_saved = segment.deaths;
            }
            let newest = segment.live_version_emitted;
            let is_stale = |version: &u32| *version != NO_VERSION && *version != newest;
            let files = before.into_iter().filter(is_stale);
            stale.extend(files.map(|version| segment.name.live_file(&self.dir, version)));
        }
        stale.dedup();
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
        let name = index_file(&self.dir, main);
        let file = sealed::Pieces::create(FileName::new(format!("{name}.tmp")), ops);
        let mut writer = IndexWriter { name, deaths: self.deaths, file };
        let mut head = BytesMut::with_capacity(16);
        head.put_i64_le(main);
        head.put_u64_le(self.deaths);
        writer.write(head.freeze(), ops);
        writer
    }

    /// Emits what makes an image whole: its header, last, and its name.
    pub fn finish_index(&mut self, writer: IndexWriter, ops: &mut Vec<DiskOp>) {
        let IndexWriter { name, deaths, file } = writer;
        let (tmp, bytes) = file.finish(INDEX_MAGIC, ops);
        ops.push(DiskOp::Rename { from: tmp, to: name.clone() });
        ops.push(DiskOp::SyncDir { dir: self.dir.clone() });
        self.images.bytes = bytes;
        self.images.deaths = Some(deaths);
        self.images.files.retain(|known| *known != name);
        self.images.files.push(name);
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
    name: FileName,
    deaths: u64,
    file: sealed::Pieces,
}

impl IndexWriter {
    /// Emits the write of the next piece of the caller's bytes.
    pub fn write(&mut self, data: Bytes, ops: &mut Vec<DiskOp>) {
        self.file.write(data, ops);
    }
}
