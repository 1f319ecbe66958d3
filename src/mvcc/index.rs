//! All keys in order, each with its history; counts and positions in logarithmic time.
//!
//! Three levels: groups of blocks of keys. It is known of groups and blocks how many live keys they hold, so that counting a
//! range looks only at its two edges. Both are shared by reference counting and copied when changed, so a clone of
//! the index is a consistent view for a long read, at the price of a few pointers.

use std::ops::ControlFlow;

use crate::block::{Block, KEYS_MAX};
use crate::branch::{Branch, Live as _};
use crate::history::{KeyAt, KeyHistory};
use crate::{KeyRange, Revision};
use norn_planted::planted;

/// Blocks per group: the square root of what 16 thousand blocks (a million keys) need.
const BLOCKS_MAX: usize = 128;
/// A block left with fewer keys than this joins its neighbour when both fit into one.
const KEYS_FEW: usize = KEYS_MAX / 4;

#[derive(Clone, Debug, Default)]
pub struct KeyIndex {
    groups: Branch<Branch<Block>>,
    live_count: usize,
    key_count: usize,
}

/// Where a key is or would be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    group: usize,
    block: usize,
    slot: usize,
}

impl KeyIndex {
    pub fn new() -> KeyIndex {
        KeyIndex::default()
    }

    /// Keys that are live now.
    pub fn live_count(&self) -> usize {
        self.live_count
    }

    /// Keys with any kept revision.
    pub fn key_count(&self) -> usize {
        self.key_count
    }

    pub fn history(&self, key: &[u8]) -> Option<&KeyHistory> {
        let (place, found) = self.locate(key)?;
        found.then(|| self.block(place).slot(place.slot))
    }

    /// The live version of `key` now.
    pub fn live(&self, key: &[u8]) -> Option<KeyAt> {
        self.history(key)?.live()
    }

    /// The version of `key` at main revision `main`.
    pub fn at(&self, key: &[u8], main: i64) -> Option<KeyAt> {
        self.history(key)?.at(main)
    }

    pub fn put(&mut self, key: &[u8], revision: Revision) -> KeyAt {
        let mut after = None;
        self.change(
            key,
            |history| after = Some(history.put(revision)),
            || KeyHistory::new(revision, revision.main, 1),
        );
        after.unwrap_or(KeyAt { modified: revision, created: revision.main, version: 1 })
    }

    /// The key must be live.
    pub fn delete(&mut self, key: &[u8], revision: Revision) {
        self.change(
            key,
            |history| history.delete(revision),
            || panic!("delete {revision} of a key that is not in the index"),
        );
    }

    /// One record of the log, while the index is being rebuilt in revision order.
    pub fn restore(
        &mut self,
        key: &[u8],
        revision: Revision,
        tombstone: bool,
        created: i64,
        version: i64,
    ) {
        self.change(
            key,
            |history| {
                if planted!(RestoreReplaces) && !tombstone {
                    *history = KeyHistory::new(revision, created, version);
                } else if !tombstone {
                    history.restore(KeyAt { modified: revision, created, version });
                } else {
                    history.restore_tombstone(revision);
                }
            },
            || {
                if tombstone {
                    KeyHistory::from_tombstone(revision)
                } else {
                    KeyHistory::new(revision, created, version)
                }
            },
        );
    }

    /// Adds a key behind all there are.
    pub(crate) fn push(&mut self, key: &[u8], history: KeyHistory) {
        let Some(blocks) = self.groups.iter().next_back() else {
            return self.change(key, |_| unreachable!("the index is empty"), || history);
        };
        let (group, block) = (self.groups.len() - 1, blocks.len() - 1);
        let slot = blocks.iter().next_back().map_or(0, Block::len);
        self.key_count += 1;
        self.insert(Place { group, block, slot }, key, history);
    }

    /// Visits the keys of `range` that exist at `main`, in order.
    pub fn visit(
        &self,
        range: &KeyRange,
        main: i64,
        mut each: impl FnMut(&[u8], KeyAt) -> ControlFlow<()>,
    ) {
        let mut key = Vec::new();
        self.walk(range, |block, slot| match block.slot(slot).at(main) {
            Some(at) => {
                block.key_into(slot, &mut key);
                each(&key, at)
            }
            None => ControlFlow::Continue(()),
        });
    }

    /// As [`KeyIndex::visit`], for readers that do not need the key spelled out.
    pub fn visit_versions(
        &self,
        range: &KeyRange,
        main: i64,
        mut each: impl FnMut(KeyAt) -> ControlFlow<()>,
    ) {
        self.walk(range, |block, slot| match block.slot(slot).at(main) {
            Some(at) => each(at),
            None => ControlFlow::Continue(()),
        });
    }

    /// The keys of `range`, live or not, with their histories, in order.
    pub fn visit_histories(
        &self,
        range: &KeyRange,
        mut each: impl FnMut(&[u8], &KeyHistory) -> ControlFlow<()>,
    ) {
        let mut key = Vec::new();
        self.walk(range, |block, slot| {
            block.key_into(slot, &mut key);
            each(&key, block.slot(slot))
        });
    }

    /// Live keys of `range` now.
    pub fn count_live(&self, range: &KeyRange) -> usize {
        let Some((start, end)) = self.bounds(range) else {
            return 0;
        };
        self.live_before(end) - self.live_before(start)
    }

    /// Keys of `range` at `main`; walks them.
    pub fn count_at(&self, range: &KeyRange, main: i64) -> usize {
        let mut count = 0;
        self.visit_versions(range, main, |_| {
            count += 1;
            ControlFlow::Continue(())
        });
        count
    }

    /// Compacts blocks of keys from `from` on (`None`: the first) until `records_max` keys were seen and revisions died, together.
    /// Returns where to go on.
    pub fn compact(
        &mut self,
        main: i64,
        from: Option<&[u8]>,
        records_max: usize,
        dead: &mut dyn FnMut(Revision),
    ) -> Option<Vec<u8>> {
        let first = Place { group: 0, block: 0, slot: 0 };
        let mut place = match from {
            Some(key) => self.locate(key)?.0,
            None if self.groups.is_empty() => return None,
            None => first,
        };
        let mut seen = 0;
        while seen < records_max {
            let found = self.normalize(place)?;
            place = Place { slot: 0, ..found };
            let block_len = self.block(place).len();
            let mut slot = found.slot;
            // Most blocks have nothing to forget: they must not be copied or even marked as changed.
            let busy = (slot..block_len).any(|i| self.block(place).slot(i).has_past());
            if busy {
                let before = self.block(place).live_count();
                let block = self.block_mut(place);
                let mut removed = 0;
                let mut died = 0;
                let mut dead = |revision: Revision| {
                    died += 1;
                    dead(revision);
                };
                while slot < block.len() {
                    if block.update(slot, |history| history.compact(main, &mut dead)) {
                        block.remove(slot);
                        removed += 1;
                    } else {
                        slot += 1;
                    }
                }
                assert_eq!(block.live_count(), before, "compaction removed a live key");
                self.key_count -= removed;
                seen += died;
                place.slot = self.block(place).len();
                if removed > 0 {
                    place = self.tidy(place);
                }
            } else {
                place.slot = block_len;
            }
            seen += block_len - found.slot;
        }
        let next = self.normalize(place)?;
        let mut key = Vec::new();
        self.block(next).key_into(next.slot, &mut key);
        Some(key)
    }

    fn block(&self, place: Place) -> &Block {
        let group = self.groups.get(place.group).expect("a place in the index");
        group.get(place.block).expect("a place in the index")
    }

    fn block_mut(&mut self, place: Place) -> &mut Block {
        self.groups.get_mut(place.group).get_mut(place.block)
    }

    /// `None` only when the index is empty.
    fn locate(&self, key: &[u8]) -> Option<(Place, bool)> {
        let group = self.groups.find(key);
        let blocks = self.groups.get(group)?;
        let block = blocks.find(key);
        let (slot, found) = match blocks.get(block)?.find(key) {
            Ok(slot) => (slot, true),
            Err(slot) => (slot, false),
        };
        Some((Place { group, block, slot }, found))
    }

    /// Moves a place behind the end of a block to the start of the next one; `None` at the end of the index.
    fn normalize(&self, mut place: Place) -> Option<Place> {
        loop {
            let group = self.groups.get(place.group)?;
            match group.get(place.block) {
                None => place = Place { group: place.group + 1, block: 0, slot: 0 },
                Some(block) if place.slot < block.len() => return Some(place),
                Some(_) => place = Place { block: place.block + 1, slot: 0, ..place },
            }
        }
    }

    fn change(
        &mut self,
        key: &[u8],
        update: impl FnOnce(&mut KeyHistory),
        create: impl FnOnce() -> KeyHistory,
    ) {
        let Some((place, found)) = self.locate(key) else {
            let block = Block::new(key, create());
            self.live_count += block.live_count();
            self.key_count += 1;
            self.groups = Branch::new(Branch::new(block));
            return;
        };
        if !found {
            self.key_count += 1;
            self.insert(place, key, create());
            return;
        }
        let group = self.groups.get_mut(place.group);
        let block = group.get_mut(place.block);
        let before = block.live_count();
        block.update(place.slot, update);
        let after = block.live_count();
        if after != before {
            group.recount(place.block);
            self.groups.recount(place.group);
            self.live_count = self.live_count + after - before;
        }
    }

    fn insert(&mut self, place: Place, key: &[u8], history: KeyHistory) {
        self.live_count += usize::from(history.is_live());
        let group = self.groups.get_mut(place.group);
        let block = group.get_mut(place.block);
        let next = place.block + 1;
        if block.len() < KEYS_MAX {
            block.insert(place.slot, key, history);
        } else if place.slot == KEYS_MAX {
            // Keys in ascending order fill blocks to the brim instead of leaving them half full.
            block.tighten();
            group.insert(next, key, Block::new(key, history));
        } else {
            let mut upper = block.split();
            if place.slot <= block.len() {
                block.insert(place.slot, key, history);
            } else {
                let slot = place.slot - block.len();
                upper.insert(slot, key, history);
            }
            let mut first = Vec::new();
            upper.key_into(0, &mut first);
            group.insert(next, &first, upper);
        }
        group.recount(place.block);
        if group.len() > BLOCKS_MAX {
            let appended = next + 1 == group.len();
            let at = if appended { group.len() - 1 } else { group.len() / 2 };
            let (fence, upper) = group.split_off(at);
            self.groups.insert(place.group + 1, &fence, upper);
        }
        self.groups.recount(place.group);
    }

    /// After keys left the block at `place`: removes it when empty, joins it with the next when both are small.
    /// Returns where the walk goes on (the slot behind what was seen).
    fn tidy(&mut self, place: Place) -> Place {
        let group = self.groups.get_mut(place.group);
        let len = group.get_mut(place.block).len();
        if len == 0 {
            group.remove(place.block);
            if group.is_empty() {
                self.groups.remove(place.group);
                return Place { group: place.group, block: 0, slot: 0 };
            }
            return Place { slot: 0, ..place };
        }
        let next = place.block + 1;
        let fits = |next: &Block| len < KEYS_FEW && next.len() + len <= KEYS_MAX;
        if group.get(next).is_some_and(fits) {
            let absorbed = group.remove(next);
            group.get_mut(place.block).absorb(absorbed);
            group.recount(place.block);
        }
        Place { slot: len, ..place }
    }

    /// Places of the first key in the range and of the first behind it.
    fn bounds(&self, range: &KeyRange) -> Option<(Place, Place)> {
        let (start, found) = self.locate(range.start())?;
        let end = match range {
            KeyRange::Key(_) => Place { slot: start.slot + usize::from(found), ..start },
            KeyRange::Between(key, end) if end <= key => start,
            KeyRange::Between(_, end) => self.locate(end)?.0,
            KeyRange::From(_) => Place { group: self.groups.len(), block: 0, slot: 0 },
        };
        Some((start, end))
    }

    fn live_before(&self, place: Place) -> usize {
        let groups = self.groups.live_before(place.group);
        let Some(group) = self.groups.get(place.group) else {
            return groups;
        };
        let blocks = group.live_before(place.block);
        let Some(block) = group.get(place.block) else {
            return groups + blocks;
        };
        groups + blocks + (0..place.slot).filter(|i| block.slot(*i).is_live()).count()
    }

    fn walk(&self, range: &KeyRange, mut each: impl FnMut(&Block, usize) -> ControlFlow<()>) {
        let Some((start, end)) = self.bounds(range) else {
            return;
        };
        for (g, group) in self.groups.iter_from(start.group) {
            let first_block = if g == start.group { start.block } else { 0 };
            for (b, block) in group.iter_from(first_block) {
                let is_first = g == start.group && b == start.block;
                let first_slot = if is_first { start.slot } else { 0 };
                let is_last = g == end.group && b == end.block;
                let last_slot = if is_last { end.slot } else { block.len() };
                if (g, b) > (end.group, end.block) {
                    return;
                }
                for slot in first_slot..last_slot {
                    if each(block, slot).is_break() {
                        return;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn check(index: &KeyIndex, twin: &BTreeMap<Vec<u8>, KeyHistory>) {
        assert_eq!(index.key_count(), twin.len());
        let live = twin.values().filter(|h| h.is_live()).count();
        assert_eq!(index.live_count(), live);
        let mut seen = Vec::new();
        index.visit_histories(&KeyRange::all(), |key, history| {
            seen.push((key.to_vec(), history.clone()));
            ControlFlow::Continue(())
        });
        let want: Vec<_> = twin.iter().map(|(k, h)| (k.clone(), h.clone())).collect();
        assert_eq!(seen, want);
        let mut ends = Vec::new();
        for (i, group) in index.groups.iter().enumerate() {
            assert!(!group.is_empty() && group.len() <= BLOCKS_MAX, "group {i}");
            assert!(group.iter().all(|b| b.len() > 0 && b.len() <= KEYS_MAX));
            group.check(block_ends);
            let all: Vec<_> = group.iter().map(block_ends).collect();
            ends.push((all[0].0.clone(), all[all.len() - 1].1.clone()));
        }
        if !index.groups.is_empty() {
            let mut ends = ends.into_iter();
            let ends = std::cell::RefCell::new(&mut ends);
            index.groups.check(|_| ends.borrow_mut().next().expect("one per group"));
        }
    }

    fn block_ends(block: &Block) -> (Vec<u8>, Vec<u8>) {
        let (mut first, mut last) = (Vec::new(), Vec::new());
        block.key_into(0, &mut first);
        block.key_into(block.len() - 1, &mut last);
        (first, last)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn equals_a_btree_map(ops in prop::collection::vec((0u8..12, 0u32..700), 1..1500)) {
            let mut index = KeyIndex::new();
            let mut twin: BTreeMap<Vec<u8>, KeyHistory> = BTreeMap::new();
            let mut main = 1;
            for (kind, n) in ops {
                let key = format!("/{}/{n:03}", n % 3).into_bytes();
                match kind {
                    0..=7 => {
                        main += 1;
                        let revision = Revision::new(main, 0);
                        index.put(&key, revision);
                        twin.entry(key)
                            .and_modify(|h| { h.put(revision); })
                            .or_insert_with(|| KeyHistory::new(revision, main, 1));
                    }
                    8..=10 => {
                        if twin.get(&key).is_some_and(|h| h.is_live()) {
                            main += 1;
                            index.delete(&key, Revision::new(main, 0));
                            twin.get_mut(&key).unwrap().delete(Revision::new(main, 0));
                        }
                    }
                    _ => {
                        let at = main - i64::from(n % 5);
                        let (mut died, mut want) = (Vec::new(), Vec::new());
                        let mut from = None;
                        loop {
                            from = index.compact(at, from.as_deref(), 37, &mut |r| died.push(r));
                            if from.is_none() { break; }
                        }
                        twin.retain(|_, h| !h.compact(at, &mut |r| want.push(r)));
                        prop_assert_eq!(died, want);
                    }
                }
                let end = format!("/{}/{:03}", (n + 1) % 3, n / 2).into_bytes();
                let range = KeyRange::Between(b"/0/1".to_vec().into(), end.clone().into());
                let want = twin.iter()
                    .filter(|(k, h)| k.as_slice() >= b"/0/1".as_slice() && **k < end && h.is_live()).count();
                prop_assert_eq!(index.count_live(&range), want);
            }
            check(&index, &twin);
        }
    }

    #[test]
    fn a_piece_of_a_compaction_is_small_although_the_keys_have_long_pasts() {
        let mut index = KeyIndex::new();
        for main in 2..40_002i64 {
            index.put(&(main % 400).to_be_bytes(), Revision::new(main, 0));
        }
        let (mut next, mut pieces, mut died) = (None, 0, 0);
        loop {
            let before = died;
            next = index.compact(40_002, next.as_deref(), 1000, &mut |_| died += 1);
            // (A block is not cut.)
            assert!(died - before < 1000 + KEYS_MAX * 100);
            pieces += 1;
            if next.is_none() {
                break;
            }
        }
        assert_eq!(died, 40_000 - 400);
        assert!(pieces >= 3);
    }

    #[test]
    fn many_keys_in_order_and_in_disorder() {
        for stride in [1u64, 7919] {
            let mut index = KeyIndex::new();
            let count = 40_000u64;
            for i in 0..count {
                let key = format!("/registry/pods/{:08}", (i * stride) % count);
                index.put(key.as_bytes(), Revision::new(i.cast_signed() + 2, 0));
            }
            assert_eq!(index.live_count() as u64, count);
            let all = KeyRange::all();
            assert_eq!(index.count_live(&all) as u64, count);
            let tail = KeyRange::From(b"/registry/pods/00039990".to_vec().into());
            assert_eq!(index.count_live(&tail), 10);
            let view = index.clone();
            index.delete(b"/registry/pods/00000000", Revision::new(100_000, 0));
            assert_eq!(view.live_count() as u64, count);
            assert_eq!(index.live_count() as u64, count - 1);
        }
    }
}
