//! The background collector: gives back the space of dead revisions, a bounded piece at a time.
//!
//! A run takes one or more neighbouring sealed segments, copies their live records into a new file, and puts it in
//! their place. It starts where more than half is dead, takes along neighbours that are sparse or small as long as the
//! result stays within a segment, and joins small neighbours so that old data does not end in thousands of files.

use bytes::{BufMut, BytesMut};

use crate::disk::{DiskOp, DiskRead, FileName};

use super::log::{Chunk, RevisionLog};
use super::record::{SLOT_BYTES, Slot};
use super::segment::{self, LIVE_MAGIC, NO_VERSION, SEGMENT_HEADER_BYTES, Segment, SegmentName};
use super::{CollectProgress, CollectTicket, RevLogError, sealed};

/// A run of the collector.
pub(super) struct Collecting {
    /// Uids of the segments being replaced, and their deaths when the run began.
    sources: Vec<(u64, u64)>,
    target: SegmentName,
    tmp: FileName,
    /// Next record to copy: source, and slot in it.
    source: usize,
    slot: usize,
    /// Where the copies stand.
    slots: Vec<Slot>,
    bytes: u64,
    stage: Stage,
    /// The target's `.live` file, and the first slot that is not in it yet.
    list: Option<(sealed::Pieces, usize)>,
    /// The step that has not been acknowledged.
    waiting: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Copying,
    /// All are copied; where they stand is being written.
    Listing,
    /// The rename is emitted.
    Finishing,
    /// No target: only removals are under way.
    Removing,
}

impl Collecting {
    pub(super) fn is_finishing(&self) -> bool {
        self.stage == Stage::Finishing
    }

    /// Bytes of the unfinished file.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    fn removing() -> Collecting {
        Collecting {
            sources: Vec::new(),
            target: SegmentName::appended(0),
            tmp: FileName::new(""),
            source: 0,
            slot: 0,
            slots: Vec::new(),
            bytes: 0,
            stage: Stage::Removing,
            list: None,
            waiting: None,
        }
    }
}

impl<R: DiskRead> RevisionLog<R> {
    /// One bounded step: reads about `budget_bytes` of live records, or removes files. Reads through the log go on
    /// beside it. A damaged record ends the run with an error, and its segment is left as it is.
    pub fn collect(
        &mut self,
        budget_bytes: u64,
        ops: &mut Vec<DiskOp>,
    ) -> Result<CollectProgress, RevLogError> {
        if self.collecting.as_ref().is_some_and(|collecting| collecting.waiting.is_some()) {
            return Ok(CollectProgress::Waiting);
        }
        self.give_up_if_overtaken();
        if self.collecting.is_none() {
            self.drop_dead_segments();
        }
        // Before anything new: a new run may take the name of one that was given up.
        let removals = self.garbage.len();
        ops.extend(self.garbage.drain(..).map(|file| DiskOp::Remove { file }));
        let run = self.collecting.take().or_else(|| self.choose_run(ops));
        let Some(mut run) = run.or_else(|| (removals > 0).then(Collecting::removing)) else {
            return Ok(CollectProgress::Idle);
        };
        if run.stage == Stage::Copying {
            match self.copy(&mut run, budget_bytes, ops) {
                Ok(true) => run.stage = Stage::Listing,
                Ok(false) => {}
                Err(error) => {
                    let spoilt = run.sources[run.source].0;
                    for segment in self.segments.iter_mut().filter(|segment| segment.uid == spoilt)
                    {
                        segment.spoilt = true;
                    }
                    self.garbage.push(run.tmp);
                    return Err(error);
                }
            }
        } else if run.stage == Stage::Listing && self.list(&mut run, budget_bytes, ops) {
            Self::finish(&self.dir, &mut run, ops);
        }
        self.tickets += 1;
        run.waiting = Some(self.tickets);
        self.collecting = Some(run);
        Ok(CollectProgress::Step(CollectTicket(self.tickets)))
    }

    /// The step's operations completed (`ok`), or failed for want of space and will not be submitted again: then the
    /// run is given up.
    pub fn collected(&mut self, ticket: CollectTicket, ok: bool) {
        let mut run = self.collecting.take().expect("a step is under way");
        assert_eq!(run.waiting.take(), Some(ticket.0), "the ticket is of another step");
        match (run.stage, ok) {
            (Stage::Removing, _) => {}
            // Names of an unfinished end are removed; the sources are whole.
            (_, false) => {
                self.garbage.push(run.target.live_file(&self.dir, 0));
                self.garbage.push(run.tmp);
            }
            (Stage::Copying | Stage::Listing, true) => self.collecting = Some(run),
            (Stage::Finishing, true) => self.replace_sources(run),
        }
    }

    /// New deaths in a source: the copy would keep dead records alive, or kill them before the checkpoint does.
    fn give_up_if_overtaken(&mut self) {
        let Some(run) = &self.collecting else { return };
        let overtaken = run.sources.iter().any(|(uid, deaths)| {
            !self.segments.iter().any(|segment| segment.uid == *uid && segment.deaths == *deaths)
        });
        if overtaken {
            self.garbage.push(run.tmp.clone());
            if run.list.is_some() {
                self.garbage.push(run.target.live_file(&self.dir, 0));
            }
            self.collecting = None;
        }
    }

    /// Whether the collector may touch a segment: all about it is in the durable checkpoint.
    fn is_settled(&self, segment: &Segment) -> bool {
        segment.name.last < self.durable_segment
            && segment.deaths == segment.deaths_durable
            && segment.live_durable == Some(segment.live_records)
            && segment.live_version != NO_VERSION
            && segment.live_version == segment.live_version_emitted
            && self.pending.is_none()
            && !segment.spoilt
    }

    /// Segments without a live record go whole; the checkpoint says that they may be missing.
    fn drop_dead_segments(&mut self) {
        let dead =
            |log: &Self, segment: &Segment| segment.live_records == 0 && log.is_settled(segment);
        let gone: Vec<u64> = self
            .segments
            .iter()
            .filter(|segment| dead(self, segment))
            .map(|segment| segment.uid)
            .collect();
        for uid in gone {
            let at =
                self.segments.iter().position(|segment| segment.uid == uid).expect("just seen");
            let segment = self.segments.remove(at);
            self.discard(&segment);
        }
    }

    fn discard(&mut self, segment: &Segment) {
        self.forget_blocks(segment.uid);
        self.garbage.push(segment.file.clone());
        if segment.live_version != NO_VERSION {
            self.garbage.push(segment.name.live_file(&self.dir, segment.live_version));
        }
    }

    fn choose_run(&self, ops: &mut Vec<DiskOp>) -> Option<Collecting> {
        let most = self.opts.segment_bytes;
        let sparse = |segment: &Segment| segment.live_bytes * 2 < segment.bytes;
        let small = |segment: &Segment| segment.bytes < most / 4;
        let settled = |segment: &&Segment| self.is_settled(segment);
        for (at, first) in self.segments.iter().enumerate() {
            if !settled(&first) || !(sparse(first) || small(first)) {
                continue;
            }
            let mut live = 0;
            let run: Vec<&Segment> = self.segments[at..]
                .iter()
                .take_while(settled)
                .take_while(|segment| sparse(segment) || small(segment))
                .take_while(|segment| {
                    live += segment.live_bytes;
                    live <= most
                })
                .collect();
            // The copy must be worth it: space to gain, or files to join.
            if !run.iter().any(|segment| sparse(segment)) && run.len() < 2 {
                continue;
            }
            let (Some(first), Some(last)) = (run.first(), run.last()) else {
                continue;
            };
            let target = SegmentName {
                first: first.name.first,
                last: last.name.last,
                generation: run.iter().map(|segment| segment.name.generation).max()? + 1,
            };
            let tmp = FileName::new(format!("{}.tmp", target.file(&self.dir)));
            let records = run.iter().map(|segment| segment.live_records as usize).sum();
            ops.push(DiskOp::Create { file: tmp.clone() });
            ops.push(DiskOp::Write { file: tmp.clone(), offset: 0, data: target.header(0) });
            return Some(Collecting {
                sources: run.iter().map(|segment| (segment.uid, segment.deaths)).collect(),
                target,
                tmp,
                source: 0,
                slot: 0,
                slots: Vec::with_capacity(records),
                bytes: SEGMENT_HEADER_BYTES,
                stage: Stage::Copying,
                list: None,
                waiting: None,
            });
        }
        None
    }

    /// Emits the copies of about `budget_bytes` of records; true when all are copied.
    fn copy(
        &self,
        run: &mut Collecting,
        budget: u64,
        ops: &mut Vec<DiskOp>,
    ) -> Result<bool, RevLogError> {
        let mut copies = BytesMut::new();
        let mut chunk = Chunk::default();
        while let Some((uid, _)) = run.sources.get(run.source) {
            let segment = self.segments.iter().find(|segment| segment.uid == *uid);
            let segment = segment.expect("sources stay while a run is not overtaken");
            let Some(slot) = segment.slots.get(run.slot) else {
                (run.source, run.slot) = (run.source + 1, 0);
                chunk = Chunk::default();
                continue;
            };
            if copies.len() as u64 >= budget.max(1) {
                break;
            }
            run.slot += 1;
            if slot.is_dead() {
                continue;
            }
            let record = self.scan_record(segment, slot, &mut chunk)?;
            self.check(segment, slot, &record)?;
            run.slots.push(slot.moved(run.bytes + copies.len() as u64));
            copies.put_slice(&record);
        }
        if !copies.is_empty() {
            let data = copies.freeze();
            let offset = run.bytes;
            run.bytes += data.len() as u64;
            ops.push(DiskOp::Write { file: run.tmp.clone(), offset, data });
        }
        Ok(run.source == run.sources.len())
    }

    /// Emits about `budget_bytes` of the list of what was copied; true when all of it is.
    fn list(&self, run: &mut Collecting, budget_bytes: u64, ops: &mut Vec<DiskOp>) -> bool {
        let (mut file, next) = run.list.take().unwrap_or_else(|| {
            let name = run.target.live_file(&self.dir, 0);
            let mut file = sealed::Pieces::create(name, ops);
            file.write(segment::live_head(run.target, 0, run.bytes, 0, run.slots.len()), ops);
            (file, 0)
        });
        let count = usize::try_from(budget_bytes).unwrap_or(usize::MAX) / SLOT_BYTES;
        let to = run.slots.len().min(next + count.max(1));
        file.write(segment::live_slots(&run.slots[next..to]), ops);
        run.list = Some((file, to));
        to == run.slots.len()
    }

    /// Emits the end of a run: from the rename on, the new file counts.
    fn finish(dir: &FileName, run: &mut Collecting, ops: &mut Vec<DiskOp>) {
        ops.push(DiskOp::Sync { file: run.tmp.clone() });
        ops.push(DiskOp::Close { file: run.tmp.clone() });
        if let Some((list, _)) = run.list.take() {
            list.finish(LIVE_MAGIC, ops);
        }
        ops.push(DiskOp::SyncDir { dir: dir.clone() });
        ops.push(DiskOp::Rename { from: run.tmp.clone(), to: run.target.file(dir) });
        ops.push(DiskOp::SyncDir { dir: dir.clone() });
        run.stage = Stage::Finishing;
    }

    fn collected_segment(&mut self, run: &mut Collecting) -> Segment {
        let (first, _) = run.sources[0];
        let low =
            self.segments.iter().find(|segment| segment.uid == first).expect("sources stay").low;
        self.next_uid += 1;
        let mut segment = Segment::new(&self.dir, run.target, self.next_uid, low, 0);
        segment.take_slots(std::mem::take(&mut run.slots));
        segment.bytes = run.bytes;
        segment.written = run.bytes;
        segment.live_covers = run.bytes;
        segment.live_version = 0;
        segment.live_version_emitted = 0;
        segment.live_durable = Some(segment.live_records);
        segment
    }

    fn replace_sources(&mut self, mut run: Collecting) {
        let mut segment = self.collected_segment(&mut run);
        let is_source = |uid: u64| run.sources.iter().any(|(source, _)| *source == uid);
        let at =
            self.segments.iter().position(|segment| is_source(segment.uid)).expect("sources stay");
        // Deaths that came after the rename was emitted; the next checkpoint will save them.
        for source in self.segments.iter().filter(|segment| is_source(segment.uid)) {
            for slot in source.slots.iter().filter(|slot| slot.is_dead()) {
                segment.mark_dead(slot.revision());
            }
        }
        let sources: Vec<Segment> = self.segments.drain(at..at + run.sources.len()).collect();
        self.segments.insert(at, segment);
        for source in sources {
            self.discard(&source);
        }
    }
}
