//! Opening: the durable checkpoint, then the longest chain of whole batches behind it.

use std::collections::BTreeMap;

use bytes::{Buf, Bytes};

use crate::disk::{Disk, DiskOp, DiskRead, FileName};

use super::checkpoint::{self, CHECKPOINT_MAGIC, INDEX_MAGIC, Manifest, ManifestSegment};
use super::log::RevisionLog;
use super::record::{self, BATCH_HEADER_BYTES, BatchHeader};
use super::segment::{LIVE_MAGIC, NO_VERSION, SEGMENT_HEADER_BYTES, Segment, SegmentName};
use super::{Cut, Recovered, RevLogError, RevLogOptions, TableRecord, sealed};

impl<R: DiskRead> RevisionLog<R> {
    /// Opens the log in `dir`, or makes an empty one. `reader` is a second handle of the same disk, kept for reads.
    pub fn open(
        disk: &mut impl Disk,
        reader: R,
        dir: FileName,
        opts: RevLogOptions,
    ) -> Result<(RevisionLog<R>, Recovered), RevLogError> {
        disk.execute(&DiskOp::MakeDir { dir: dir.clone() })?;
        let names = disk.list(&dir)?;
        let mut log = RevisionLog::empty(reader, dir, opts);
        let file = checkpoint::checkpoint_file(&log.dir);
        if disk.len(&file)?.is_none() {
            log.create(disk, &names)?;
            return Ok((log, Recovered::default()));
        }
        let body = sealed::read(disk, &file, CHECKPOINT_MAGIC)?;
        log.checkpoint_bytes = (body.len() + sealed::HEADER_BYTES) as u64;
        let manifest = Manifest::decode(body);
        let manifest = manifest.ok_or_else(|| corrupt(&file, 0, "not a checkpoint"))?;

        let mut files: Vec<_> = names.iter().filter_map(|name| SegmentName::parse(name)).collect();
        files.sort_unstable();
        log.load_segments(disk, &manifest, &files, &file)?;
        log.load_state(&manifest);
        let cut = log.read_on(disk, &manifest, &files)?;
        let mut recovered = Recovered {
            applied_index: log.applied_index,
            term: log.term,
            last_main: log.last.0,
            checkpoint_index: manifest.applied_index,
            cut,
            ..Recovered::default()
        };
        log.load_image(disk, &names, manifest.deaths, &mut recovered)?;
        log.sweep(disk, &names)?;
        Ok((log, recovered))
    }

    /// Makes an empty log with a durable checkpoint. A first attempt may have left its segment.
    fn create(&mut self, disk: &mut impl Disk, names: &[String]) -> Result<(), RevLogError> {
        let first = SegmentName::appended(0);
        for name in names.iter().filter_map(|name| SegmentName::parse(name)) {
            let file = name.file(&self.dir);
            if name != first || disk.len(&file)?.unwrap_or(0) > SEGMENT_HEADER_BYTES {
                return Err(RevLogError::Missing { file: checkpoint::checkpoint_file(&self.dir) });
            }
        }
        let segment = self.new_segment(first, 0);
        let file = segment.file.clone();
        self.dirty.insert(segment.uid);
        self.segments.push(segment);
        let mut ops = vec![
            DiskOp::Create { file: file.clone() },
            DiskOp::Write { file, offset: 0, data: first.header(0) },
        ];
        let parent = self.dir.as_str().rsplit_once('/').map_or("", |(parent, _)| parent);
        ops.push(DiskOp::SyncDir { dir: FileName::new(parent) });
        let ticket = self.checkpoint(&mut ops).expect("no checkpoint is under way");
        for op in &ops {
            disk.execute(op)?;
        }
        self.checkpointed(ticket, true);
        Ok(())
    }

    /// Finds the file of every segment the checkpoint lists, and what lives in it.
    fn load_segments(
        &mut self,
        disk: &impl DiskRead,
        manifest: &Manifest,
        files: &[SegmentName],
        file: &FileName,
    ) -> Result<(), RevLogError> {
        let mut covered = None;
        for listed in &manifest.segments {
            if covered >= Some(listed.name.last) {
                continue;
            }
            if covered >= Some(listed.name.first) || listed.name.last > manifest.segment {
                return Err(corrupt(file, 0, "the list of segments is out of order"));
            }
            covered = Some(listed.name.last);
            let newer = files.iter().filter(|name| name.supersedes(listed.name));
            if let Some(newer) = newer.max_by_key(|name| name.generation) {
                covered = Some(newer.last);
                let segment = self.load_segment(disk, listed, *newer, 0)?;
                self.segments.push(segment);
            } else if listed.live_records == 0 && listed.name.last != manifest.segment {
                // The collector may have removed some of its files.
                continue;
            } else if files.contains(&listed.name) {
                let segment = self.load_segment(disk, listed, listed.name, listed.live_version)?;
                self.segments.push(segment);
            } else {
                return Err(RevLogError::Missing { file: listed.name.file(&self.dir) });
            }
        }
        match self.segments.last() {
            Some(last) if last.name == SegmentName::appended(manifest.segment) => Ok(()),
            _ => Err(corrupt(file, 0, "the active segment is not listed")),
        }
    }

    fn load_segment(
        &mut self,
        disk: &impl DiskRead,
        listed: &ManifestSegment,
        name: SegmentName,
        live_version: u32,
    ) -> Result<Segment, RevLogError> {
        self.next_uid += 1;
        let mut segment = Segment::new(&self.dir, name, self.next_uid, listed.low, 0);
        let file = segment.file.clone();
        let len = disk.len(&file)?.unwrap_or(0);
        segment.chain =
            chain_of_header(&disk.read_at(&file, 0, SEGMENT_HEADER_BYTES as usize)?, name)
                .ok_or_else(|| corrupt(&file, 0, "damaged segment header"))?;
        if live_version != NO_VERSION {
            let live_file = name.live_file(&self.dir, live_version);
            let body = sealed::read(disk, &live_file, LIVE_MAGIC)?;
            let loaded = segment.load_live(live_version, body);
            loaded.ok_or_else(|| corrupt(&live_file, 0, "about another segment"))?;
            if segment.bytes > len {
                return Err(corrupt(&file, len, "the file ends before its records"));
            }
            segment.live_durable = Some(segment.live_records);
        }
        Ok(segment)
    }

    fn load_state(&mut self, manifest: &Manifest) {
        for change in &manifest.tables {
            self.change_table(change);
        }
        self.deaths = manifest.deaths;
        self.durable_index = manifest.applied_index;
        self.durable_segment = manifest.segment;
        self.applied_index = manifest.applied_index;
        self.term = manifest.term;
        self.last = manifest.last;
    }

    /// Reads the active segment to the checkpoint's position, where everything must be right, and on from there as far
    /// as the chain holds. Cuts off the rest.
    fn read_on(
        &mut self,
        disk: &mut impl Disk,
        manifest: &Manifest,
        files: &[SegmentName],
    ) -> Result<Option<Cut>, RevLogError> {
        let active = self.segments.last_mut().expect("load_segments checked");
        let (file, from) = (active.file.clone(), active.bytes);
        let mut batches = Batches::open(&*disk, active)?;
        while batches.offset < manifest.offset {
            let at = batches.offset;
            let Some((_, batch)) = batches.next(disk)? else {
                return Err(corrupt(&file, at, "damaged batch before the checkpoint"));
            };
            // Tables up to here are in the checkpoint.
            take_batch(active, batch, at, &mut |_| {}).map_err(|what| corrupt(&file, at, what))?;
        }
        if batches.offset != manifest.offset || batches.chain != manifest.chain {
            return Err(corrupt(&file, from, "the batches are not those of the checkpoint"));
        }
        loop {
            let mut changes: Vec<TableRecord> = Vec::new();
            let active = self.segments.last_mut().expect("there is one");
            while let Some((header, batch)) = batches.next(disk)? {
                let at = batches.offset - batch.len() as u64;
                if take_batch(active, batch, at, &mut |change| changes.push(change)).is_err() {
                    // Chained and yet unreadable: not torn, but written wrong.
                    return Err(corrupt(&active.file, at, "unreadable batch"));
                }
                self.applied_index = header.applied_index;
                self.term = header.term;
            }
            let (end, chain, file_bytes) = (batches.offset, batches.chain, batches.file_bytes);
            (active.bytes, active.written, active.chain) = (end, end, chain);
            if let Some(slot) = active.slots.last() {
                self.last = self.last.max(slot.revision());
            }
            let (file, number) = (active.file.clone(), active.name.last);
            let uid = active.uid;
            changes.drain(..).for_each(|change| self.change_table(&change));
            self.dirty.insert(uid);

            let next = SegmentName::appended(number + 1);
            if end == file_bytes && files.contains(&next) {
                let header =
                    disk.read_at(&next.file(&self.dir), 0, SEGMENT_HEADER_BYTES as usize)?;
                if chain_of_header(&header, next) == Some(chain) {
                    let segment = self.new_segment(next, chain);
                    batches = Batches::open(&*disk, &segment)?;
                    self.segments.push(segment);
                    continue;
                }
            }
            let cut = (end < file_bytes).then(|| Cut {
                file: file.clone(),
                offset: end,
                bytes: file_bytes - end,
            });
            if cut.is_some() {
                // Durably: a power loss that keeps the batch written here next, and not the new length, would give back what
                // stood behind it, with a chain that holds if that batch is the one that was lost.
                disk.execute(&DiskOp::SetLen { file: file.clone(), len: end })?;
                disk.execute(&DiskOp::Sync { file })?;
            }
            return Ok(cut);
        }
    }

    fn load_image(
        &mut self,
        disk: &impl DiskRead,
        names: &[String],
        deaths: u64,
        recovered: &mut Recovered,
    ) -> Result<(), RevLogError> {
        let mains = names.iter().filter_map(|name| {
            let digits = name.strip_prefix("index-")?.strip_suffix(".idx")?;
            i64::from_str_radix(digits, 16).ok()
        });
        let mut mains: Vec<i64> = mains.filter(|main| (0..=self.last.0).contains(main)).collect();
        mains.sort_unstable();
        for main in mains.into_iter().rev() {
            let file = checkpoint::index_file(&self.dir, main);
            let mut body = match sealed::read(disk, &file, INDEX_MAGIC) {
                Ok(body) => body,
                Err(RevLogError::Disk(error)) => return Err(error.into()),
                // An image can be made anew; a damaged one only costs a scan.
                Err(error) => {
                    recovered.index_damage = Some(error);
                    continue;
                }
            };
            let bytes = (body.len() + sealed::HEADER_BYTES) as u64;
            if body.len() >= 16 && body.get_i64_le() == main && body.get_u64_le() == deaths {
                self.images.files.push(file);
                self.images.bytes = bytes;
                self.images.deaths = Some(deaths);
                recovered.index_image = Some((main, body));
                return Ok(());
            }
        }
        Ok(())
    }

    /// Removes what nothing refers to. Durably, so that a stale image cannot come back and match by chance.
    fn sweep(&self, disk: &mut impl Disk, names: &[String]) -> Result<(), RevLogError> {
        let mut wanted: BTreeMap<String, ()> = BTreeMap::new();
        let mut want = |file: &FileName| wanted.insert(file.base().to_string(), ());
        want(&checkpoint::checkpoint_file(&self.dir));
        self.images.files.iter().for_each(|file| {
            want(file);
        });
        for segment in &self.segments {
            want(&segment.file);
            if segment.live_version != NO_VERSION {
                want(&segment.name.live_file(&self.dir, segment.live_version));
            }
        }
        for name in names.iter().filter(|name| !wanted.contains_key(*name)) {
            let ours =
                [".seg", ".live", ".idx", ".tmp"].iter().any(|suffix| name.ends_with(suffix));
            if ours {
                disk.execute(&DiskOp::Remove {
                    file: FileName::new(format!("{}/{name}", self.dir)),
                })?;
            }
        }
        disk.execute(&DiskOp::SyncDir { dir: self.dir.clone() })?;
        Ok(())
    }
}

impl Default for Recovered {
    /// Of an empty log.
    fn default() -> Recovered {
        Recovered {
            applied_index: 0,
            term: 0,
            last_main: 0,
            checkpoint_index: 0,
            index_image: None,
            index_damage: None,
            cut: None,
        }
    }
}

fn take_batch(
    segment: &mut Segment,
    batch: Bytes,
    at: u64,
    change: &mut dyn FnMut(TableRecord),
) -> Result<(), &'static str> {
    let mut last = segment.slots.last().map_or(segment.low, |slot| slot.revision());
    let mut ascending = true;
    let taken = record::decode_batch(
        batch,
        at,
        &mut |slot| {
            ascending &= slot.revision() > last;
            last = slot.revision();
            segment.push(slot);
        },
        change,
    );
    match taken {
        Some(()) if ascending => Ok(()),
        Some(()) => Err("revisions out of order"),
        None => Err("unreadable batch"),
    }
}

/// The chain value in a segment's header, if it is the header of this segment.
fn chain_of_header(header: &Bytes, name: SegmentName) -> Option<u32> {
    let chain = u32::from_le_bytes(header.get(28..32)?.try_into().expect("four bytes"));
    (*header == name.header(chain)).then_some(chain)
}

fn corrupt(file: &FileName, offset: u64, what: &'static str) -> RevLogError {
    RevLogError::Corrupt { file: file.clone(), offset, what }
}

/// Whole batches of a segment, as far as the chain holds.
struct Batches {
    file: FileName,
    file_bytes: u64,
    offset: u64,
    chain: u32,
    chunk: Bytes,
    chunk_at: u64,
}

const CHUNK_BYTES: usize = 1 << 20;

impl Batches {
    /// From the end of what is known of the segment.
    fn open(disk: &impl DiskRead, segment: &Segment) -> Result<Batches, RevLogError> {
        let file = segment.file.clone();
        let file_bytes = disk.len(&file)?.unwrap_or(0);
        let (offset, chain) = (segment.bytes, segment.chain);
        Ok(Batches { file, file_bytes, offset, chain, chunk: Bytes::new(), chunk_at: 0 })
    }

    fn next(&mut self, disk: &impl DiskRead) -> Result<Option<(BatchHeader, Bytes)>, RevLogError> {
        let Some(header) = self.bytes(disk, BATCH_HEADER_BYTES as u64)? else {
            return Ok(None);
        };
        let header = BatchHeader::parse(&header);
        let len = BATCH_HEADER_BYTES as u64 + header.body_len;
        let Some(batch) = self.bytes(disk, len)? else {
            return Ok(None);
        };
        let Some(chain) = record::check_chain(self.chain, &batch) else {
            return Ok(None);
        };
        self.chain = chain;
        self.offset += len;
        Ok(Some((header, batch)))
    }

    /// The next bytes of the file, if it has that many.
    fn bytes(&mut self, disk: &impl DiskRead, len: u64) -> Result<Option<Bytes>, RevLogError> {
        if len > self.file_bytes.saturating_sub(self.offset) {
            return Ok(None);
        }
        let len = len as usize;
        let start = self.offset.saturating_sub(self.chunk_at) as usize;
        if self.offset < self.chunk_at || start + len > self.chunk.len() {
            self.chunk = disk.read_at(&self.file, self.offset, len.max(CHUNK_BYTES))?;
            self.chunk_at = self.offset;
            return Ok((self.chunk.len() >= len).then(|| self.chunk.slice(..len)));
        }
        Ok(Some(self.chunk.slice(start..start + len)))
    }
}
