//! Blocks of segments, as read; bounded, evicted by CLOCK.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::record::RECORD_HEADER_BYTES;

pub(super) const BLOCK_BYTES: u64 = 8192;

/// Of the processor's cache.
pub(super) const LINE_BYTES: usize = 64;

/// Which block: segment's `uid`, number of the block in it.
pub(super) type BlockKey = (u64, u32);

struct Frame {
    key: BlockKey,
    bytes: Bytes,
    checked: Checked,
    /// Used since the hand last came by.
    recent: bool,
}

/// Which records that begin in a block have been found good since it was read: a bit for each 24 bytes, of which no
/// two records begin in the same.
#[derive(Default)]
struct Checked([u64; (BLOCK_BYTES as usize / RECORD_HEADER_BYTES).div_ceil(64)]);

impl Checked {
    fn bit(start: usize) -> (usize, u64) {
        let record = start / RECORD_HEADER_BYTES;
        (record / 64, 1 << (record % 64))
    }

    fn has(&self, start: usize) -> bool {
        let (word, bit) = Checked::bit(start);
        self.0[word] & bit != 0
    }

    fn add(&mut self, start: usize) {
        let (word, bit) = Checked::bit(start);
        self.0[word] |= bit;
    }
}

pub(super) struct BlockCache {
    frames: Vec<Frame>,
    /// By segment, then by number of the block: place in `frames` plus one, 0 for none.
    places: BTreeMap<u64, Vec<u32>>,
    hand: usize,
    frames_max: usize,
}

impl BlockCache {
    pub(super) fn new(cache_bytes: usize) -> BlockCache {
        let frames_max = (cache_bytes / BLOCK_BYTES as usize).max(1);
        BlockCache { frames: Vec::new(), places: BTreeMap::new(), hand: 0, frames_max }
    }

    /// At most so many bytes are here.
    pub(super) fn bytes(&self) -> usize {
        self.frames.len() * BLOCK_BYTES as usize
    }

    /// The block, if its first `len` bytes are here: the last block of a growing segment may have been read short.
    pub(super) fn block(&mut self, key: BlockKey, len: usize) -> Option<Bytes> {
        let place = self.place(key)?;
        let frame = &mut self.frames[place];
        frame.recent = true;
        (frame.bytes.len() >= len).then(|| frame.bytes.clone())
    }

    /// What is here of a record, to be brought into the processor's cache; it does not count as used.
    pub(super) fn peek(&self, key: BlockKey, start: usize, len: usize) -> &[u8] {
        let Some(place) = self.place(key) else { return &[] };
        let bytes = &self.frames[place].bytes;
        bytes.get(start..bytes.len().min(start + len)).unwrap_or_default()
    }

    /// The record at `start..end` of a block, if it is here, and whether it has been found good.
    pub(super) fn record(
        &mut self,
        key: BlockKey,
        start: usize,
        end: usize,
    ) -> Option<(Bytes, bool)> {
        let place = self.place(key)?;
        let frame = &mut self.frames[place];
        frame.recent = true;
        (frame.bytes.len() >= end)
            .then(|| (frame.bytes.slice(start..end), frame.checked.has(start)))
    }

    /// The record that begins at `start` of this block is good.
    pub(super) fn is_good(&mut self, key: BlockKey, start: usize) {
        if let Some(place) = self.place(key) {
            self.frames[place].checked.add(start);
        }
    }

    pub(super) fn keep(&mut self, key: BlockKey, bytes: Bytes) {
        let frame = Frame { key, bytes, checked: Checked::default(), recent: false };
        if let Some(place) = self.place(key) {
            self.frames[place] = Frame { recent: true, ..frame };
            return;
        }
        if self.frames.len() < self.frames_max {
            self.set_place(key, self.frames.len() + 1);
            self.frames.push(frame);
            return;
        }
        while std::mem::take(&mut self.frames[self.hand].recent) {
            self.hand = (self.hand + 1) % self.frames.len();
        }
        self.set_place(self.frames[self.hand].key, 0);
        self.set_place(key, self.hand + 1);
        self.frames[self.hand] = frame;
        self.hand = (self.hand + 1) % self.frames.len();
    }

    /// Gives the memory of a segment's blocks back; their frames are the next to be taken.
    pub(super) fn forget(&mut self, uid: u64) {
        for place in self.places.remove(&uid).unwrap_or_default() {
            if place > 0 {
                let frame = &mut self.frames[place as usize - 1];
                frame.bytes = Bytes::new();
                frame.recent = false;
            }
        }
    }

    fn place(&self, (uid, block): BlockKey) -> Option<usize> {
        let place = *self.places.get(&uid)?.get(block as usize)?;
        (place as usize).checked_sub(1)
    }

    fn set_place(&mut self, (uid, block): BlockKey, place: usize) {
        if place == 0 && !self.places.contains_key(&uid) {
            return;
        }
        let blocks = self.places.entry(uid).or_default();
        if blocks.len() <= block as usize {
            blocks.resize(block as usize + 1, 0);
        }
        blocks[block as usize] = place as u32;
    }
}
