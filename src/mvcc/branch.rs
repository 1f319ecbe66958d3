//! An inner node of the index: its children in the order of their keys, and beside them what a search needs to know of them.
//!
//! ```text
//!   children      [a .. f]   [g .. p]   [q .. z]
//!   fences               "g"        "q"
//!   live_counts       6         10         9
//! ```
//!
//! Neither a search for a key nor a count looks at a child that it passes by: each look would be several places of memory that no
//! cache knows, and in a large index that is what a read costs.

use std::sync::Arc;

/// What a branch counts of its children.
pub(crate) trait Live {
    /// Keys that are live now.
    fn live_count(&self) -> usize;
}

#[derive(Clone, Debug)]
pub(crate) struct Branch<T> {
    children: Vec<Arc<T>>,
    live_counts: Vec<u32>,
    fences: Fences,
}

/// Keys between the children: each is greater than all keys before it, and not greater than any behind it. One behind another in memory.
#[derive(Clone, Debug, Default)]
struct Fences {
    bytes: Vec<u8>,
    /// Fence `i` is `bytes[ends[i - 1]..ends[i]]`.
    ends: Vec<u32>,
}

impl<T> Default for Branch<T> {
    fn default() -> Branch<T> {
        Branch { children: Vec::new(), live_counts: Vec::new(), fences: Fences::default() }
    }
}

impl<T: Live> Live for Branch<T> {
    fn live_count(&self) -> usize {
        self.live_before(self.len())
    }
}

impl<T: Clone + Live> Branch<T> {
    pub(crate) fn new(only: T) -> Branch<T> {
        let live_counts = vec![only.live_count() as u32];
        Branch { children: vec![Arc::new(only)], live_counts, fences: Fences::default() }
    }

    pub(crate) fn get(&self, i: usize) -> Option<&T> {
        self.children.get(i).map(|child| &**child)
    }

    /// For changing it, which must be followed by [`Branch::recount`] if its live keys can have changed. Copied first if somebody else
    /// looks at it.
    pub(crate) fn get_mut(&mut self, i: usize) -> &mut T {
        Arc::make_mut(&mut self.children[i])
    }

    pub(crate) fn recount(&mut self, i: usize) {
        self.live_counts[i] = self.children[i].live_count() as u32;
    }

    /// The child that has `key`, or would have it. (The first, if there is none.)
    pub(crate) fn find(&self, key: &[u8]) -> usize {
        self.fences.up_to(key)
    }

    /// Puts a child, all of whose keys are `fence` or greater, behind others.
    pub(crate) fn insert(&mut self, i: usize, fence: &[u8], child: T) {
        self.fences.insert(i - 1, fence);
        self.live_counts.insert(i, child.live_count() as u32);
        self.children.insert(i, Arc::new(child));
    }

    pub(crate) fn remove(&mut self, i: usize) -> T {
        if self.len() > 1 {
            self.fences.remove(i.saturating_sub(1));
        }
        self.live_counts.remove(i);
        Arc::unwrap_or_clone(self.children.remove(i))
    }

    /// Takes the children from `i` on away, of which there are some on either side, and the fence before them.
    pub(crate) fn split_off(&mut self, i: usize) -> (Vec<u8>, Branch<T>) {
        let mut fences = self.fences.split_off(i - 1);
        let fence = fences.get(0).to_vec();
        fences.remove(0);
        let children = self.children.split_off(i);
        (fence, Branch { children, live_counts: self.live_counts.split_off(i), fences })
    }
}

impl<T> Branch<T> {
    pub(crate) fn len(&self) -> usize {
        self.children.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.children.is_empty()
    }

    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = &T> + ExactSizeIterator {
        self.children.iter().map(|child| &**child)
    }

    /// Those from `i` on, with their places.
    pub(crate) fn iter_from(&self, i: usize) -> impl Iterator<Item = (usize, &T)> {
        let children = self.children.get(i..).unwrap_or_default();
        children.iter().enumerate().map(move |(n, child)| (i + n, &**child))
    }

    /// Live keys of the children before this one.
    pub(crate) fn live_before(&self, i: usize) -> usize {
        self.live_counts[..i].iter().map(|count| *count as usize).sum()
    }
}

impl Fences {
    fn start(&self, i: usize) -> usize {
        if i == 0 { 0 } else { self.ends[i - 1] as usize }
    }

    fn get(&self, i: usize) -> &[u8] {
        &self.bytes[self.start(i)..self.ends[i] as usize]
    }

    /// How many are not greater than `key`.
    fn up_to(&self, key: &[u8]) -> usize {
        let (mut low, mut high) = (0, self.ends.len());
        while low < high {
            let middle = usize::midpoint(low, high);
            if self.get(middle) <= key {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    fn insert(&mut self, i: usize, fence: &[u8]) {
        let start = self.start(i);
        self.bytes.splice(start..start, fence.iter().copied());
        self.ends.insert(i, start as u32);
        for end in &mut self.ends[i..] {
            *end += fence.len() as u32;
        }
    }

    fn remove(&mut self, i: usize) {
        let (start, end) = (self.start(i), self.ends[i] as usize);
        self.bytes.drain(start..end);
        self.ends.remove(i);
        for other in &mut self.ends[i..] {
            *other -= (end - start) as u32;
        }
    }

    fn split_off(&mut self, i: usize) -> Fences {
        let start = self.start(i);
        let bytes = self.bytes.split_off(start);
        let ends = self.ends.split_off(i).into_iter().map(|end| end - start as u32).collect();
        Fences { bytes, ends }
    }
}

#[cfg(test)]
impl<T: Live> Branch<T> {
    /// What it promises of itself; `ends` gives the first and the last key of a child.
    pub(crate) fn check(&self, ends: impl Fn(&T) -> (Vec<u8>, Vec<u8>)) {
        assert_eq!(self.fences.ends.len() + 1, self.len());
        for (child, count) in self.iter().zip(&self.live_counts) {
            assert_eq!(child.live_count(), *count as usize);
        }
        let ends: Vec<_> = self.iter().map(ends).collect();
        for (i, pair) in ends.windows(2).enumerate() {
            let fence = self.fences.get(i);
            assert!(pair[0].1 < fence.to_vec() && fence <= &pair[1].0[..], "fence {i}");
        }
    }
}
