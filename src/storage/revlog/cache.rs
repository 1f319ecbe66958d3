//! Blocks of segments, as read; bounded, evicted by CLOCK.

use std::collections::BTreeMap;

use bytes::Bytes;

pub(super) const BLOCK_BYTES: u64 = 8192;

/// Which block: segment's `uid`, number of the block in it.
pub(super) type BlockKey = (u64, u32);

struct Frame {
    key: BlockKey,
    bytes: Bytes,
    /// Used since the hand last came by.
    recent: bool,
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

    /// The block, if its first `len` bytes are here: the last block of a growing segment may have been read short.
    pub(super) fn block(&mut self, key: BlockKey, len: usize) -> Option<Bytes> {
        let place = self.place(key)?;
        let frame = &mut self.frames[place];
        frame.recent = true;
        (frame.bytes.len() >= len).then(|| frame.bytes.clone())
    }

    pub(super) fn keep(&mut self, key: BlockKey, bytes: Bytes) {
        if let Some(place) = self.place(key) {
            self.frames[place].bytes = bytes;
            return;
        }
        let frame = Frame { key, bytes, recent: false };
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
