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

use std::ops::ControlFlow;

use crate::history::{Generation, KeyHistory, Lives};
use crate::{KeyIndex, KeyRange, Revision};

/// Encodes an index a bounded piece at a time, as it was at one main revision: changes meanwhile are not in the image.
///
/// Nothing is copied, and nobody who changes the index has to: a history says of itself what it was, as long as no compaction takes that
/// away. So there must be none between the first piece and the last.
#[derive(Debug)]
pub struct IndexEncoder {
    main: i64,
    /// The last key encoded.
    last: Option<Vec<u8>>,
}

impl IndexEncoder {
    /// `main`: the newest main revision of the index now.
    pub fn new(main: i64) -> IndexEncoder {
        IndexEncoder { main, last: None }
    }

    /// Appends entries until `out` has `len_min` bytes; false when that was all of them.
    pub fn step(&mut self, index: &KeyIndex, len_min: usize, out: &mut Vec<u8>) -> bool {
        let mut last = self.last.take();
        let from = last.as_ref().map_or(Vec::new(), |last| [last, &b"\0"[..]].concat());
        let mut has_more = false;
        index.visit_histories(&KeyRange::From(from.into()), |key, history| {
            if out.len() >= len_min {
                has_more = true;
                return ControlFlow::Break(());
            }
            let Some(lives) = history.lives_at(self.main) else { return ControlFlow::Continue(()) };
            let last = last.get_or_insert_default();
            let shared = key.iter().zip(last.iter()).take_while(|(a, b)| a == b).count();
            put(out, shared as u64);
            put(out, (key.len() - shared) as u64);
            out.extend_from_slice(&key[shared..]);
            encode(&lives, out);
            last.truncate(shared);
            last.extend_from_slice(&key[shared..]);
            ControlFlow::Continue(())
        });
        self.last = last;
        has_more
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

fn encode(lives: &Lives<'_>, out: &mut Vec<u8>) {
    if let Some(at) = lives.now
        && lives.finished.is_empty()
        && lives.older.is_empty()
    {
        put(out, 0);
        put(out, at.modified.main.cast_unsigned());
        put(out, at.modified.sub.cast_unsigned());
        put(out, (at.modified.main - at.created).cast_unsigned());
        put(out, at.version.cast_unsigned());
        return;
    }
    put(out, lives.finished.len() as u64 + 1);
    for life in lives.finished {
        encode_life(life.created, life.version, &life.revisions, None, out);
    }
    let (created, version) = lives.now.map_or((0, 0), |at| (at.created, at.version));
    encode_life(created, version, lives.older, lives.now.map(|at| at.modified), out);
}

fn encode_life(
    created: i64,
    version: i64,
    revisions: &[Revision],
    newest: Option<Revision>,
    out: &mut Vec<u8>,
) {
    put(out, created.cast_unsigned());
    put(out, version.cast_unsigned());
    put(out, (revisions.len() + usize::from(newest.is_some())) as u64);
    let mut before = created;
    for revision in revisions.iter().copied().chain(newest) {
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
    use proptest::prelude::*;

    use super::*;

    fn encoded(index: &KeyIndex, piece: usize) -> Vec<u8> {
        let mut encoder = IndexEncoder::new(i64::MAX);
        let mut whole = Vec::new();
        loop {
            let mut out = Vec::new();
            let more = encoder.step(index, piece, &mut out);
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
            change(&mut index, main, *kind, *n);
        }
        index
    }

    fn change(index: &mut KeyIndex, main: i64, kind: u8, n: u16) {
        let key = if n == 0 { Vec::new() } else { format!("/k/{:03}", n % 400).into_bytes() };
        let revision = Revision::new(main, i64::from(n % 3));
        if kind < 7 {
            index.put(&key, revision);
        } else if kind < 9 {
            if index.live(&key).is_some() {
                index.delete(&key, revision);
            }
        } else {
            index.compact(main - 20, None, usize::MAX, &mut |_| {});
        }
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

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        /// Between its pieces anything is put and deleted, but nothing compacted.
        #[test]
        fn an_image_is_of_the_moment_it_was_begun(
            before in proptest::collection::vec((0u8..10, 0u16..1000), 0..300),
            during in proptest::collection::vec((0u8..9, 0u16..1000), 0..300),
            piece in 1usize..500,
        ) {
            let mut index = index(&before);
            let want = content(&index);
            let main = before.len() as i64 + 1;
            let mut encoder = IndexEncoder::new(main);
            let mut bytes = Vec::new();
            let mut changes = (main + 1..).zip(&during);
            loop {
                let mut out = Vec::new();
                let more = encoder.step(&index, piece, &mut out);
                bytes.extend_from_slice(&out);
                if !more {
                    break;
                }
                for (main, (kind, n)) in changes.by_ref().take(7) {
                    change(&mut index, main, *kind, *n);
                }
            }
            prop_assert_eq!(content(&KeyIndex::decode(&bytes).unwrap()), want);
        }
    }
}
