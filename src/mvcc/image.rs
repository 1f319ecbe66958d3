//! The index as bytes and back: what a restart loads instead of reading every revision.
//!
//! Entries in ascending order of keys, each:
//!
//! | field | |
//! |---|---|
//! | shared | varint: bytes the key has in common with the one before |
//! | rest | varint length, then bytes: what follows them |
//! | lives | varint: 0: a key with one live revision and nothing else; else finished generations plus 1 |
//! | history | one revision: main, sub, main - created, version; else per generation, the current one last: created, version, number of revisions, each as distance of the main from the one before (the first: from created) and sub |
//!
//! All numbers are varints. Whoever stores the bytes guards them with a checksum; decoding still believes nothing.

use std::sync::Arc;
use std::vec;

use crate::block::Block;
use crate::branch::Branch;
use crate::history::{Generation, KeyHistory};
use crate::{KeyIndex, Revision};

/// Encodes an index a bounded piece at a time, as it was at the beginning: changes meanwhile are not in the image.
///
/// What was encoded is let go at once. Who changes a block that somebody looks at copies it, and the last to look frees all
/// of its histories: neither should be more than it must, nor come in one piece at the end.
#[derive(Debug)]
pub struct IndexEncoder {
    groups: vec::IntoIter<Arc<Branch<Block>>>,
    /// Of the group begun last, behind the one in `block`.
    blocks: vec::IntoIter<Arc<Block>>,
    block: Option<Arc<Block>>,
    slot: usize,
    /// The last key encoded.
    last: Vec<u8>,
    key: Vec<u8>,
}

impl IndexEncoder {
    pub fn new(index: &KeyIndex) -> IndexEncoder {
        IndexEncoder {
            groups: index.groups().children().into_iter(),
            blocks: Vec::new().into_iter(),
            block: None,
            slot: 0,
            last: Vec::new(),
            key: Vec::new(),
        }
    }

    /// Appends entries until `out` has `len_min` bytes; false when that was all of them.
    pub fn step(&mut self, len_min: usize, out: &mut Vec<u8>) -> bool {
        while let Some(block) = self.current() {
            while self.slot < block.len() {
                if out.len() >= len_min {
                    return true;
                }
                let (key, last) = (&mut self.key, &mut self.last);
                block.key_into(self.slot, key);
                let shared = key.iter().zip(last.iter()).take_while(|(a, b)| a == b).count();
                put(out, shared as u64);
                put(out, (key.len() - shared) as u64);
                out.extend_from_slice(&key[shared..]);
                encode(block.slot(self.slot), out);
                std::mem::swap(key, last);
                self.slot += 1;
            }
        }
        false
    }

    /// The block that the next entry is in.
    fn current(&mut self) -> Option<Arc<Block>> {
        while self.block.as_ref().is_none_or(|block| self.slot == block.len()) {
            self.slot = 0;
            self.block = self.blocks.next();
            if self.block.is_none() {
                self.blocks = self.groups.next()?.children().into_iter();
            }
        }
        self.block.clone()
    }
}

impl KeyIndex {
    /// The index that these bytes are an image of; `None` if they are not one.
    pub fn decode(mut bytes: &[u8]) -> Option<KeyIndex> {
        let mut index = KeyIndex::new();
        let mut key: Vec<u8> = Vec::new();
        while !bytes.is_empty() {
            let shared = take_len(&mut bytes)?;
            let rest = take_len(&mut bytes)?;
            if shared > key.len() || rest > bytes.len() {
                return None;
            }
            let (suffix, after) = bytes.split_at(rest);
            bytes = after;
            let is_ascending = index.key_count() == 0 || suffix > &key[shared..];
            key.truncate(shared);
            key.extend_from_slice(suffix);
            if !is_ascending {
                return None;
            }
            index.push(&key, decode(&mut bytes)?);
        }
        Some(index)
    }
}

fn encode(history: &KeyHistory, out: &mut Vec<u8>) {
    let now = history.live();
    if let Some(at) = now
        && !history.has_past()
    {
        put(out, 0);
        put(out, at.modified.main.cast_unsigned());
        put(out, at.modified.sub.cast_unsigned());
        put(out, (at.modified.main - at.created).cast_unsigned());
        put(out, at.version.cast_unsigned());
        return;
    }
    put(out, history.finished().len() as u64 + 1);
    for life in history.finished() {
        encode_life(life.created, life.version, life.revisions.iter().copied(), out);
    }
    let (created, version) = now.map_or((0, 0), |at| (at.created, at.version));
    encode_life(created, version, history.current(), out);
}

fn encode_life(
    created: i64,
    version: i64,
    revisions: impl ExactSizeIterator<Item = Revision>,
    out: &mut Vec<u8>,
) {
    put(out, created.cast_unsigned());
    put(out, version.cast_unsigned());
    put(out, revisions.len() as u64);
    let mut before = created;
    for revision in revisions {
        put(out, (revision.main - before).cast_unsigned());
        put(out, revision.sub.cast_unsigned());
        before = revision.main;
    }
}

fn decode(from: &mut &[u8]) -> Option<KeyHistory> {
    let lives = take(from)?;
    if lives == 0 {
        let modified = Revision::new(number(from)?, number(from)?);
        let created = modified.main.checked_sub(number(from)?)?;
        return Some(KeyHistory::new(modified, created, number(from)?));
    }
    let mut finished = Vec::new();
    for _ in 1..lives {
        let life = decode_life(from)?;
        if life.revisions.is_empty() {
            return None;
        }
        finished.push(life);
    }
    KeyHistory::from_lives(finished, decode_life(from)?)
}

fn decode_life(from: &mut &[u8]) -> Option<Generation> {
    let (created, version) = (number(from)?, number(from)?);
    let mut life = Generation { created, version, revisions: Vec::new() };
    let (count, mut main) = (take(from)?, created);
    // (Each takes two bytes: a count beyond that is damage, and must not be allocated.)
    if count > from.len() as u64 / 2 {
        return None;
    }
    life.revisions.reserve_exact(count as usize);
    for _ in 0..count {
        main = main.checked_add(number(from)?)?;
        let revision = Revision::new(main, number(from)?);
        if life.revisions.last().is_some_and(|last| *last >= revision) {
            return None;
        }
        life.revisions.push(revision);
    }
    Some(life)
}

fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn take(from: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = from.split_first()?;
        *from = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn take_len(from: &mut &[u8]) -> Option<usize> {
    usize::try_from(take(from)?).ok()
}

/// A number that has no sign.
fn number(from: &mut &[u8]) -> Option<i64> {
    i64::try_from(take(from)?).ok()
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use proptest::prelude::*;

    use super::*;
    use crate::KeyRange;

    fn encoded(index: &KeyIndex, piece: usize) -> Vec<u8> {
        let mut encoder = IndexEncoder::new(index);
        let mut whole = Vec::new();
        loop {
            let mut out = Vec::new();
            let more = encoder.step(piece, &mut out);
            whole.extend_from_slice(&out);
            if !more {
                return whole;
            }
        }
    }

    fn content(index: &KeyIndex) -> Vec<(Vec<u8>, KeyHistory)> {
        let mut content = Vec::new();
        index.visit_histories(&KeyRange::all(), |key, history| {
            content.push((key.to_vec(), history.clone()));
            ControlFlow::Continue(())
        });
        content
    }

    /// An index with a past, from dice.
    fn index(ops: &[(u8, u16)]) -> KeyIndex {
        let mut index = KeyIndex::new();
        for (main, (kind, n)) in (2i64..).zip(ops) {
            let key = if *n == 0 { Vec::new() } else { format!("/k/{:03}", n % 400).into_bytes() };
            let revision = Revision::new(main, i64::from(*n % 3));
            if *kind < 7 {
                index.put(&key, revision);
            } else if *kind < 9 {
                if index.live(&key).is_some() {
                    index.delete(&key, revision);
                }
            } else {
                index.compact(main - 20, None, usize::MAX, &mut |_| {});
            }
        }
        index
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]
        #[test]
        fn what_is_decoded_is_what_was_encoded(
            ops in proptest::collection::vec((0u8..10, 0u16..1000), 0..1200),
            piece in 1usize..3000,
        ) {
            let index = index(&ops);
            let bytes = encoded(&index, piece);
            let again = KeyIndex::decode(&bytes).unwrap();
            prop_assert_eq!(content(&again), content(&index));
            prop_assert_eq!(again.live_count(), index.live_count());
            prop_assert_eq!(again.key_count(), index.key_count());
            let half = KeyRange::From(b"/k/2".to_vec().into());
            prop_assert_eq!(again.count_live(&half), index.count_live(&half));
        }

        #[test]
        fn bytes_that_are_no_image_do_no_harm(
            ops in proptest::collection::vec((0u8..10, 0u16..1000), 0..300),
            edits in proptest::collection::vec((any::<u16>(), any::<u8>()), 1..5),
            cut in any::<u16>(),
        ) {
            let mut bytes = encoded(&index(&ops), 100);
            for (at, value) in edits {
                let len = bytes.len().max(1);
                if let Some(byte) = bytes.get_mut(at as usize % len) {
                    *byte = value;
                }
            }
            bytes.truncate(cut as usize);
            let _ = KeyIndex::decode(&bytes);
        }
    }

    #[test]
    fn an_image_is_of_the_moment_it_was_begun() {
        let mut index = index(&[(0, 1), (0, 2), (0, 3)]);
        let before = content(&index);
        let mut encoder = IndexEncoder::new(&index);
        let mut bytes = Vec::new();
        assert!(encoder.step(1, &mut bytes));
        index.put(b"/k/002", Revision::new(90, 0));
        index.put(b"/k/0025", Revision::new(91, 0));
        assert!(!encoder.step(usize::MAX, &mut bytes));
        assert_eq!(content(&KeyIndex::decode(&bytes).unwrap()), before);
    }

    #[test]
    fn what_was_encoded_is_let_go() {
        let mut index = KeyIndex::new();
        for i in 0..1000u32 {
            index.put(&i.to_be_bytes(), Revision::new(i64::from(i) + 2, 0));
        }
        // (One that the index has, and one that is looked at here.)
        let is_shared = |index: &KeyIndex, block: usize| {
            let block = index.groups().children()[0].children().swap_remove(block);
            Arc::strong_count(&block) > 2
        };
        let mut encoder = IndexEncoder::new(&index);
        assert!(encoder.step(2000, &mut Vec::new()));
        assert!(!is_shared(&index, 0));
        assert!(is_shared(&index, 7));
        assert!(!encoder.step(usize::MAX, &mut Vec::new()));
        assert!(!is_shared(&index, 7));
    }
}
