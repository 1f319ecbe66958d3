//! A run of neighbouring keys, sorted, with their common prefix stored once.
//!
//! ```text
//!   prefix    "/registry/pods/"
//!   suffixes  "default/adefault/bkube-system/c"      ends  9, 18, 31
//!   slots     [history of .../a] [history of .../b] [history of .../c]
//! ```
//!
//! A block never holds more than [`KEYS_MAX`] keys, so an insert moves a few kilobytes at most.

use std::cmp::Ordering;

use crate::branch::Live;
use crate::history::KeyHistory;

/// Keys per block. Larger blocks save memory (fewer prefixes, fuller vectors) and cost inserts; 128 keys of 16 to 60
/// bytes were the best of 32..512 measured.
pub(crate) const KEYS_MAX: usize = 128;

#[derive(Clone, Debug)]
pub(crate) struct Block {
    prefix: Box<[u8]>,
    suffixes: Vec<u8>,
    /// `suffixes[ends[i - 1]..ends[i]]` is what follows the prefix in key `i`.
    ends: Vec<u32>,
    slots: Vec<KeyHistory>,
    /// Slots whose key is live now.
    live_count: u32,
}

impl Block {
    pub(crate) fn new(key: &[u8], history: KeyHistory) -> Block {
        Block {
            prefix: key.into(),
            suffixes: Vec::new(),
            ends: vec![0],
            live_count: u32::from(history.is_live()),
            slots: vec![history],
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(crate) fn slot(&self, i: usize) -> &KeyHistory {
        &self.slots[i]
    }

    /// Changes slot `i`, keeping the live count.
    pub(crate) fn update<T>(&mut self, i: usize, change: impl FnOnce(&mut KeyHistory) -> T) -> T {
        let slot = &mut self.slots[i];
        self.live_count -= u32::from(slot.is_live());
        let result = change(slot);
        self.live_count += u32::from(slot.is_live());
        result
    }

    /// Writes key `i` into `out` (cleared first).
    pub(crate) fn key_into(&self, i: usize, out: &mut Vec<u8>) {
        out.clear();
        out.extend_from_slice(&self.prefix);
        out.extend_from_slice(self.suffix(i));
    }

    /// Position of `key`: `Ok` where it is, `Err` where it belongs.
    pub(crate) fn find(&self, key: &[u8]) -> Result<usize, usize> {
        let shared = key.len().min(self.prefix.len());
        match key[..shared].cmp(&self.prefix[..shared]) {
            Ordering::Less => return Err(0),
            Ordering::Greater => return Err(self.len()),
            Ordering::Equal if key.len() < self.prefix.len() => return Err(0),
            Ordering::Equal => {}
        }
        let rest = &key[shared..];
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = usize::midpoint(low, high);
            match self.suffix(middle).cmp(rest) {
                Ordering::Less => low = middle + 1,
                Ordering::Greater => high = middle,
                Ordering::Equal => return Ok(middle),
            }
        }
        Err(low)
    }

    /// Inserts at the position that [`Block::find`] gave.
    pub(crate) fn insert(&mut self, i: usize, key: &[u8], history: KeyHistory) {
        let common = common_prefix(&self.prefix, key);
        if common < self.prefix.len() {
            self.shorten_prefix(common);
        }
        let suffix = &key[common..];
        let start = self.start(i);
        self.suffixes.splice(start..start, suffix.iter().copied());
        self.ends.insert(i, start as u32);
        for end in &mut self.ends[i..] {
            *end += suffix.len() as u32;
        }
        self.live_count += u32::from(history.is_live());
        self.slots.insert(i, history);
    }

    pub(crate) fn remove(&mut self, i: usize) {
        let (start, end) = (self.start(i), self.ends[i] as usize);
        self.suffixes.drain(start..end);
        self.ends.remove(i);
        for other in &mut self.ends[i..] {
            *other -= (end - start) as u32;
        }
        let history = self.slots.remove(i);
        self.live_count -= u32::from(history.is_live());
    }

    /// Cuts the upper half off into a block of its own.
    pub(crate) fn split(&mut self) -> Block {
        let middle = self.len() / 2;
        let mut upper: Option<Block> = None;
        let mut key = Vec::new();
        let slots = self.slots.split_off(middle);
        for (i, slot) in slots.into_iter().enumerate() {
            self.key_into(middle + i, &mut key);
            match &mut upper {
                None => upper = Some(Block::new(&key, slot)),
                Some(block) => block.insert(block.len(), &key, slot),
            }
        }
        let upper = upper.expect("a block that is split has two keys");
        self.suffixes.truncate(self.start(middle));
        self.ends.truncate(middle);
        self.live_count -= upper.live_count;
        self.tighten();
        upper
    }

    /// Appends all of `next`, whose keys are all greater.
    pub(crate) fn absorb(&mut self, next: Block) {
        let mut key = Vec::new();
        for i in 0..next.len() {
            next.key_into(i, &mut key);
            self.insert(self.len(), &key, next.slots[i].clone());
        }
    }

    /// Gives back what growing left unused: for blocks that will not grow soon.
    pub(crate) fn tighten(&mut self) {
        let common = match self.len() {
            0 => return,
            1 => self.suffix(0).len(),
            n => common_prefix(self.suffix(0), self.suffix(n - 1)),
        };
        if common > 0 {
            let mut prefix = self.prefix.to_vec();
            prefix.extend_from_slice(&self.suffix(0)[..common]);
            let mut suffixes = Vec::new();
            let mut ends = Vec::with_capacity(self.len());
            for i in 0..self.len() {
                suffixes.extend_from_slice(&self.suffix(i)[common..]);
                ends.push(suffixes.len() as u32);
            }
            self.prefix = prefix.into();
            self.suffixes = suffixes;
            self.ends = ends;
        }
        self.suffixes.shrink_to_fit();
        self.ends.shrink_to_fit();
        self.slots.shrink_to_fit();
    }

    fn start(&self, i: usize) -> usize {
        if i == 0 { 0 } else { self.ends[i - 1] as usize }
    }

    fn suffix(&self, i: usize) -> &[u8] {
        &self.suffixes[self.start(i)..self.ends[i] as usize]
    }

    fn shorten_prefix(&mut self, to: usize) {
        let tail = self.prefix[to..].to_vec();
        let mut suffixes = Vec::with_capacity(self.suffixes.len() + tail.len() * self.len());
        let mut ends = Vec::with_capacity(self.ends.capacity());
        for i in 0..self.len() {
            suffixes.extend_from_slice(&tail);
            suffixes.extend_from_slice(self.suffix(i));
            ends.push(suffixes.len() as u32);
        }
        self.prefix = self.prefix[..to].into();
        self.suffixes = suffixes;
        self.ends = ends;
    }
}

impl Live for Block {
    fn live_count(&self) -> usize {
        self.live_count as usize
    }
}

fn common_prefix(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(x, y)| x == y).count()
}
