//! One segment: its name, its header, and which of its records live where.

use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::{BufMut, Bytes, BytesMut};

use crate::disk::FileName;

use super::record::{SLOT_BYTES, Slot};

pub(super) const SEGMENT_HEADER_BYTES: u64 = 40;
const MAGIC: [u8; 8] = *b"NORNREV1";
pub(super) const LIVE_MAGIC: [u8; 8] = *b"NORNLIV1";

/// Which segments' records a file holds, and how often they have been collected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SegmentName {
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) generation: u32,
}

impl SegmentName {
    pub(super) fn appended(number: u64) -> SegmentName {
        SegmentName { first: number, last: number, generation: 0 }
    }

    /// Parses the name of a segment file.
    pub(super) fn parse(name: &str) -> Option<SegmentName> {
        SegmentName::parse_stem(name.strip_suffix(".seg")?)
    }

    fn parse_stem(stem: &str) -> Option<SegmentName> {
        let mut parts = stem.split('-');
        let mut hex = |len: usize| {
            let part = parts.next()?;
            let plain = part.len() == len && part.bytes().all(|b| b.is_ascii_hexdigit());
            plain.then(|| u64::from_str_radix(part, 16).ok()).flatten()
        };
        let name = SegmentName { first: hex(16)?, last: hex(16)?, generation: hex(8)? as u32 };
        (parts.next().is_none() && name.first <= name.last).then_some(name)
    }

    fn stem(self) -> String {
        format!("{:016x}-{:016x}-{:08x}", self.first, self.last, self.generation)
    }

    pub(super) fn file(self, dir: &FileName) -> FileName {
        FileName::new(format!("{dir}/{}.seg", self.stem()))
    }

    pub(super) fn live_file(self, dir: &FileName, version: u32) -> FileName {
        FileName::new(format!("{dir}/{}.{version:08x}.live", self.stem()))
    }

    /// Whether this file replaces `other`.
    pub(super) fn supersedes(self, other: SegmentName) -> bool {
        self.first <= other.first && other.last <= self.last && self.generation > other.generation
    }

    pub(super) fn header(self, chain: u32) -> Bytes {
        let mut header = BytesMut::with_capacity(SEGMENT_HEADER_BYTES as usize);
        header.put_slice(&MAGIC);
        header.put_u64_le(self.first);
        header.put_u64_le(self.last);
        header.put_u32_le(self.generation);
        header.put_u32_le(chain);
        header.put_u32_le(crc32c::crc32c(&header));
        header.put_u32_le(0);
        header.freeze()
    }
}

/// Parts of a `.live` file are of so many slots, 60 kB: memory that is soon used again. (Megabytes at once are fresh pages each time, which
/// the kernel clears.)
const LIVE_PART_SLOTS: usize = 3_000;

/// No `.live` file has been written.
pub(super) const NO_VERSION: u32 = u32::MAX;

pub(super) struct Segment {
    pub(super) name: SegmentName,
    pub(super) file: FileName,
    /// Names this file among all that were open in this run.
    pub(super) uid: u64,
    /// Length with everything that has been emitted, and with what is known to be written.
    pub(super) bytes: u64,
    pub(super) written: u64,
    /// Chain value at the beginning and at `bytes`; of appended segments.
    pub(super) chain: u32,
    /// Last revision before this segment: all here are above.
    pub(super) low: (i64, i64),
    /// By revision. The dead ones among them are dropped when the next `.live` file is written.
    pub(super) slots: Vec<Slot>,
    pub(super) live_records: u64,
    pub(super) live_bytes: u64,
    /// Deaths marked here, ever; those in the newest `.live` file; those in the durable checkpoint.
    pub(super) deaths: u64,
    pub(super) deaths_saved: u64,
    pub(super) deaths_durable: u64,
    /// Version of the `.live` file in the durable checkpoint, and of the newest one emitted.
    pub(super) live_version: u32,
    pub(super) live_version_emitted: u32,
    /// How many bytes of the segment the newest `.live` file speaks of.
    pub(super) live_covers: u64,
    /// Live records in the durable checkpoint; `None` before the first one that lists this segment as sealed.
    pub(super) live_durable: Option<u64>,
    /// A damaged record was met while collecting: leave it alone.
    pub(super) spoilt: bool,
    /// Where the last one looked for was found: lists often go on with the next.
    found: AtomicU32,
}

impl Segment {
    pub(super) fn new(
        dir: &FileName,
        name: SegmentName,
        uid: u64,
        low: (i64, i64),
        chain: u32,
    ) -> Segment {
        Segment {
            name,
            file: name.file(dir),
            uid,
            bytes: SEGMENT_HEADER_BYTES,
            written: SEGMENT_HEADER_BYTES,
            chain,
            low,
            slots: Vec::new(),
            live_records: 0,
            live_bytes: 0,
            deaths: 0,
            deaths_saved: 0,
            deaths_durable: 0,
            live_version: NO_VERSION,
            live_version_emitted: NO_VERSION,
            live_covers: 0,
            live_durable: None,
            spoilt: false,
            found: AtomicU32::new(0),
        }
    }

    pub(super) fn push(&mut self, slot: Slot) {
        self.live_records += 1;
        self.live_bytes += slot.record_len() as u64;
        self.slots.push(slot);
    }

    /// All its slots at once.
    pub(super) fn take_slots(&mut self, slots: Vec<Slot>) {
        self.live_records = slots.len() as u64;
        self.live_bytes = slots.iter().map(|slot| slot.record_len() as u64).sum();
        self.slots = slots;
    }

    /// The place of a revision that is not dead.
    pub(super) fn find(&self, revision: (i64, i64)) -> Option<usize> {
        let next = self.found.load(Ordering::Relaxed) as usize + 1;
        let at = match self.slots.get(next) {
            Some(slot) if slot.revision() == revision => next,
            _ => self.search(revision)?,
        };
        self.found.store(at as u32, Ordering::Relaxed);
        (!self.slots[at].is_dead()).then_some(at)
    }

    /// Revisions are nearly evenly spaced, so a guess by proportion lands close: from there the range to search is
    /// widened by doubling. Near the guess everything is in the processor's cache, which a plain bisection of a
    /// large segment never is.
    fn search(&self, revision: (i64, i64)) -> Option<usize> {
        let (guess, last) = self.guess(revision)?;
        let (mut from, mut to, mut step) = (guess, guess, 4);
        while from > 0 && self.slots[from].revision() > revision {
            from = from.saturating_sub(step);
            step *= 2;
        }
        step = 4;
        while to < last && self.slots[to].revision() < revision {
            to = (to + step).min(last);
            step *= 2;
        }
        let found = self.slots[from..=to].binary_search_by_key(&revision, Slot::revision).ok()?;
        Some(from + found)
    }

    /// Where a revision stands if all are evenly spaced, and the last place.
    fn guess(&self, revision: (i64, i64)) -> Option<(usize, usize)> {
        let last = self.slots.len().checked_sub(1)?;
        let (low, high) = (self.slots[0].revision().0, self.slots[last].revision().0);
        if revision.0 < low || revision.0 > high {
            return None;
        }
        let share = (revision.0 - low) as f64 / (high - low).max(1) as f64;
        Some((((share * last as f64) as usize).min(last), last))
    }

    /// Brings what [`Segment::find`] looks at first into the processor's cache. The number means nothing.
    pub(super) fn touch(&self, revision: (i64, i64)) -> u32 {
        self.guess(revision).map_or(0, |(guess, _)| self.slots[guess].offset)
    }

    pub(super) fn mark_dead(&mut self, revision: (i64, i64)) -> bool {
        let Some(at) = self.find(revision) else {
            return false;
        };
        let slot = &mut self.slots[at];
        slot.die();
        self.deaths += 1;
        self.live_records -= 1;
        self.live_bytes -= slot.record_len() as u64;
        true
    }

    /// Whether the newest `.live` file does not say all that a checkpoint must.
    pub(super) fn has_unsaved(&self, active: u64) -> bool {
        let has_grown = self.uid != active && self.live_covers < self.bytes;
        has_grown || self.deaths != self.deaths_saved
    }

    /// Of the next `.live` file. (0 is the one that a collected segment is born with; `NO_VERSION` is never reached.)
    pub(super) fn next_live_version(&self) -> u32 {
        match self.live_version_emitted {
            NO_VERSION => 1,
            newest => newest + 1,
        }
    }

    /// Drops dead slots, and returns the beginning of a `.live` file about all the others.
    pub(super) fn live_head(&mut self, version: u32) -> Bytes {
        self.slots.retain(|slot| !slot.is_dead());
        // (For half of it, and not for less: all that are left are copied.)
        if self.slots.len() <= self.slots.capacity() / 2 {
            self.slots.shrink_to(self.slots.len() * 5 / 4);
        }
        live_head(self.name, version, self.bytes, self.chain, self.slots.len())
    }

    /// What follows it: these slots.
    pub(super) fn live_slots(&self, slots: Range<usize>) -> Bytes {
        live_slots(&self.slots[slots])
    }

    /// A whole `.live` file, in parts.
    pub(super) fn live_body(&mut self, version: u32) -> Vec<Bytes> {
        let head = self.live_head(version);
        let count = self.slots.len();
        let parts = (0..count).step_by(LIVE_PART_SLOTS);
        let slots = parts.map(|at| self.live_slots(at..count.min(at + LIVE_PART_SLOTS)));
        std::iter::once(head).chain(slots).collect()
    }

    /// Takes over what a `.live` file says; `None` if it is about something else.
    pub(super) fn load_live(&mut self, version: u32, mut body: Bytes) -> Option<()> {
        use bytes::Buf;
        if body.len() < 40 {
            return None;
        }
        let name = SegmentName {
            first: body.get_u64_le(),
            last: body.get_u64_le(),
            generation: body.get_u32_le(),
        };
        let found = body.get_u32_le();
        let (covers, chain, count) = (body.get_u64_le(), body.get_u32_le(), body.get_u32_le());
        if name != self.name || found != version || body.len() != count as usize * SLOT_BYTES {
            return None;
        }
        self.slots.reserve_exact(count as usize);
        let mut before = self.low;
        for _ in 0..count {
            let slot = Slot::decode(&mut body);
            let end = u64::from(slot.offset) + slot.record_len() as u64;
            if slot.revision() <= before || end > covers {
                return None;
            }
            before = slot.revision();
            self.push(slot);
        }
        self.chain = chain;
        self.bytes = covers;
        self.written = covers;
        self.live_covers = covers;
        self.live_version = version;
        self.live_version_emitted = version;
        Some(())
    }
}

/// The beginning of a `.live` file about so many slots in so many bytes of a segment, with the chain value there.
pub(super) fn live_head(
    name: SegmentName,
    version: u32,
    bytes: u64,
    chain: u32,
    slots: usize,
) -> Bytes {
    let mut head = BytesMut::with_capacity(40);
    head.put_u64_le(name.first);
    head.put_u64_le(name.last);
    head.put_u32_le(name.generation);
    head.put_u32_le(version);
    head.put_u64_le(bytes);
    head.put_u32_le(chain);
    head.put_u32_le(slots as u32);
    head.freeze()
}

/// What follows it.
pub(super) fn live_slots(slots: &[Slot]) -> Bytes {
    let mut part = Vec::with_capacity(slots.len() * SLOT_BYTES);
    slots.iter().for_each(|slot| part.extend_from_slice(&slot.encoded()));
    part.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_nothing_else_parses() {
        let name = SegmentName { first: 3, last: 0x1f, generation: 2 };
        let file = name.file(&FileName::new("norn"));
        assert_eq!(file.as_str(), "norn/0000000000000003-000000000000001f-00000002.seg");
        assert_eq!(SegmentName::parse(file.base()), Some(name));
        assert_eq!(SegmentName::parse("0000000000000003-0000000000000002-00000002.seg"), None);
        assert_eq!(SegmentName::parse("checkpoint"), None);
        assert!(name.supersedes(SegmentName { first: 4, last: 4, generation: 1 }));
        assert!(!name.supersedes(SegmentName { first: 4, last: 0x20, generation: 1 }));
    }
}
