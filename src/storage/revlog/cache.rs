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
    places: BTreeMap<BlockKey, usize>,
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
        let frame = &mut self.frames[*self.places.get(&key)?];
        frame.recent = true;
        (frame.bytes.len() >= len).then(|| frame.bytes.clone())
    }

    pub(super) fn keep(&mut self, key: BlockKey, bytes: Bytes) {
        if let Some(place) = self.places.get(&key) {
            self.frames[*place].bytes = bytes;
            return;
        }
        let frame = Frame { key, bytes, recent: false };
        if self.frames.len() < self.frames_max {
            self.places.insert(key, self.frames.len());
            self.frames.push(frame);
            return;
        }
        while std::mem::take(&mut self.frames[self.hand].recent) {
            self.hand = (self.hand + 1) % self.frames.len();
        }
        self.places.remove(&self.frames[self.hand].key);
        self.places.insert(key, self.hand);
        self.frames[self.hand] = frame;
        self.hand = (self.hand + 1) % self.frames.len();
    }

    /// Gives the memory of a segment's blocks back; their frames are the next to be taken.
    pub(super) fn forget(&mut self, uid: u64) {
        for (_, place) in self.places.range((uid, 0)..=(uid, u32::MAX)) {
            let frame = &mut self.frames[*place];
            frame.bytes = Bytes::new();
            frame.recent = false;
        }
    }
}
