//! A queue whose growth moves nothing: a leader that keeps a million entries for a member that joins must not copy all of them
//! because one more comes.
//!
//! ```text
//!   [. . c d]  [e f g h]  [i j]      the first and the last block may be short, those between are full
//! ```

use std::collections::{VecDeque, vec_deque};
use std::ops::Range;

/// Elements per block: what is copied at once while a block grows, and freed at once.
const BLOCK: usize = 1024;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Blocks<T> {
    /// None is empty.
    blocks: VecDeque<VecDeque<T>>,
    len: usize,
}

impl<T> Default for Blocks<T> {
    fn default() -> Blocks<T> {
        Blocks { blocks: VecDeque::new(), len: 0 }
    }
}

impl<T> Blocks<T> {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn get(&self, at: usize) -> Option<&T> {
        let (block, within) = self.place(at);
        self.blocks.get(block)?.get(within)
    }

    /// In which block it is, or would be, and where there.
    fn place(&self, at: usize) -> (usize, usize) {
        let first = self.blocks.front().map_or(0, VecDeque::len);
        match at.checked_sub(first) {
            Some(behind) => (1 + behind / BLOCK, behind % BLOCK),
            None => (0, at),
        }
    }

    pub(crate) fn last(&self) -> Option<&T> {
        self.blocks.back()?.back()
    }

    /// # Panics
    /// If there are not that many.
    pub(crate) fn range(&self, range: Range<usize>) -> impl ExactSizeIterator<Item = &T> {
        assert!(range.end <= self.len, "{range:?} of {}", self.len);
        let (block, within) = self.place(range.start);
        let mut blocks = self.blocks.range(block.min(self.blocks.len())..);
        let block =
            blocks.next().map_or_else(vec_deque::Iter::default, |first| first.range(within..));
        Iter { block, blocks, left: range.len() }
    }

    /// Drops all but the first `len`.
    pub(crate) fn truncate(&mut self, len: usize) {
        while self.len > len {
            let Some(last) = self.blocks.back_mut() else { return };
            let more = self.len - len;
            if last.len() <= more {
                self.len -= last.len();
                self.blocks.pop_back();
            } else {
                last.truncate(last.len() - more);
                self.len = len;
            }
        }
    }

    /// Drops the first `count`.
    ///
    /// # Panics
    /// If there are not that many.
    pub(crate) fn drop_first(&mut self, count: usize) {
        assert!(count <= self.len, "the first {count} of {}", self.len);
        let mut left = count;
        while left > 0 {
            let Some(first) = self.blocks.front_mut() else { return };
            let dropped = left.min(first.len());
            first.drain(..dropped);
            if first.is_empty() {
                self.blocks.pop_front();
            }
            left -= dropped;
        }
        self.len -= count;
    }

    pub(crate) fn clear(&mut self) {
        *self = Blocks::default();
    }

    /// The number of elements that come before the first for which `is_before` does not hold; it must not hold for any behind that.
    pub(crate) fn partition_point(&self, is_before: impl Fn(&T) -> bool) -> usize {
        let (mut low, mut high) = (0, self.len);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.get(middle).is_some_and(&is_before) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }
}

impl<T> Extend<T> for Blocks<T> {
    fn extend<I: IntoIterator<Item = T>>(&mut self, elements: I) {
        let mut elements = elements.into_iter().peekable();
        while elements.peek().is_some() {
            if self.blocks.back().is_none_or(|last| last.len() == BLOCK) {
                self.blocks.push_back(VecDeque::new());
            }
            let Some(last) = self.blocks.back_mut() else { return };
            let before = last.len();
            last.extend(elements.by_ref().take(BLOCK - before));
            self.len += last.len() - before;
        }
    }
}

struct Iter<'a, T> {
    block: vec_deque::Iter<'a, T>,
    blocks: vec_deque::Iter<'a, VecDeque<T>>,
    left: usize,
}

impl<'a, T> Iterator for Iter<'a, T> {
    type Item = &'a T;

    fn next(&mut self) -> Option<&'a T> {
        self.left = self.left.checked_sub(1)?;
        loop {
            match self.block.next() {
                Some(element) => return Some(element),
                None => self.block = self.blocks.next()?.iter(),
            }
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl<T> ExactSizeIterator for Iter<'_, T> {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Copy, Debug)]
    enum Op {
        Extend(usize),
        Truncate(usize),
        DropFirst(usize),
        Clear,
    }

    fn op() -> impl Strategy<Value = Op> {
        let count = prop_oneof![0..4usize, 1020..1030usize, 0..5000usize];
        prop_oneof![
            6 => count.clone().prop_map(Op::Extend),
            2 => count.clone().prop_map(Op::Truncate),
            4 => count.prop_map(Op::DropFirst),
            1 => Just(Op::Clear),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

        /// Beside a plain deque.
        #[test]
        fn blocks_are_a_queue(ops in prop::collection::vec(op(), 1..30), probe in 0..6000usize) {
            let (mut blocks, mut twin) = (Blocks::default(), VecDeque::new());
            let mut next = 0u64;
            for op in ops {
                match op {
                    Op::Extend(count) => {
                        blocks.extend(next..next + count as u64);
                        twin.extend(next..next + count as u64);
                        next += count as u64;
                    }
                    Op::Truncate(less) => {
                        blocks.truncate(twin.len().saturating_sub(less));
                        twin.truncate(twin.len().saturating_sub(less));
                    }
                    Op::DropFirst(count) => {
                        let count = count.min(twin.len());
                        blocks.drop_first(count);
                        twin.drain(..count);
                    }
                    Op::Clear => {
                        blocks.clear();
                        twin.clear();
                    }
                }
                prop_assert_eq!(blocks.len(), twin.len());
                prop_assert_eq!(blocks.is_empty(), twin.is_empty());
                prop_assert_eq!(blocks.last(), twin.back());
                prop_assert_eq!(blocks.get(probe), twin.get(probe));
                prop_assert_eq!(blocks.get(twin.len()), None);
                prop_assert!(blocks.range(0..twin.len()).eq(twin.iter()));
                let from = probe.min(twin.len());
                let tail = blocks.range(from..twin.len());
                prop_assert_eq!(tail.len(), twin.len() - from);
                prop_assert!(tail.eq(twin.range(from..)));
                let pivot = twin.get(from).copied().unwrap_or(next);
                let point = blocks.partition_point(|element| *element < pivot);
                prop_assert_eq!(point, twin.partition_point(|element| *element < pivot));
                // What makes it cheap: no block is empty, or larger than it may be; those between are full.
                let sizes: Vec<usize> = blocks.blocks.iter().map(VecDeque::len).collect();
                prop_assert!(sizes.iter().all(|size| (1..=BLOCK).contains(size)));
                prop_assert!(sizes.iter().rev().skip(1).rev().skip(1).all(|size| *size == BLOCK));
            }
        }
    }
}
