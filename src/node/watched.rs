//! Who watches what.
//!
//! Watchers of one key stand under that key; those of ranges in an interval tree: a search tree by where ranges start (a treap),
//! in which every node knows how far the ranges below it reach. Who wants to hear of a key is found in the logarithm of what is
//! watched, plus those who do; etcd keeps such a tree too, for keys as well.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use norn_mvcc::KeyRange;

/// Watchers `W` by what they watch.
#[derive(Debug)]
pub(crate) struct Watched<W> {
    keys: BTreeMap<Bytes, BTreeSet<W>>,
    ranges: Tree<W>,
    /// Of ranges that were ever put in: the tree's shape comes from it, not from what clients choose.
    range_count: u64,
}

impl<W> Default for Watched<W> {
    fn default() -> Watched<W> {
        Watched { keys: BTreeMap::new(), ranges: None, range_count: 0 }
    }
}

impl<W: Ord> Watched<W> {
    pub(crate) fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.ranges.is_none()
    }

    pub(crate) fn insert(&mut self, range: KeyRange, watcher: W) {
        match range {
            KeyRange::Key(key) => {
                self.keys.entry(key).or_default().insert(watcher);
            }
            range => {
                self.range_count += 1;
                insert(&mut self.ranges, range, watcher, scattered(self.range_count));
            }
        }
    }

    /// Nothing happens if it is not there.
    pub(crate) fn remove(&mut self, range: &KeyRange, watcher: &W) {
        match range {
            KeyRange::Key(key) => {
                if let Some(watchers) = self.keys.get_mut(key) {
                    watchers.remove(watcher);
                    if watchers.is_empty() {
                        self.keys.remove(key);
                    }
                }
            }
            range => remove(&mut self.ranges, range, watcher),
        }
    }

    /// All who want to hear of `key`.
    pub(crate) fn each(&self, key: &[u8], visit: &mut impl FnMut(&W)) {
        self.keys.get(key).into_iter().flatten().for_each(&mut *visit);
        each(&self.ranges, key, visit);
    }
}

/// Where a range ends, in the order of keys.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    Before(Bytes),
    Never,
}

impl End {
    fn of(range: &KeyRange) -> End {
        match range {
            KeyRange::Between(_, end) => End::Before(end.clone()),
            KeyRange::From(_) => End::Never,
            KeyRange::Key(_) => unreachable!("keys are not in the tree"),
        }
    }

    fn is_past(&self, key: &[u8]) -> bool {
        match self {
            End::Before(end) => key < &end[..],
            End::Never => true,
        }
    }
}

type Tree<W> = Option<Box<Node<W>>>;

#[derive(Debug)]
struct Node<W> {
    range: KeyRange,
    /// Never empty.
    watchers: BTreeSet<W>,
    /// No smaller than those of the nodes below.
    priority: u64,
    /// The last end in this tree.
    reach: End,
    /// Ranges that are smaller, first by where they start, and those that are larger.
    left: Tree<W>,
    right: Tree<W>,
}

fn order(a: &KeyRange, b: &KeyRange) -> Ordering {
    a.start().cmp(b.start()).then_with(|| End::of(a).cmp(&End::of(b)))
}

impl<W> Node<W> {
    /// After something below changed.
    fn measure(&mut self) {
        let below = [&self.left, &self.right].into_iter().flatten().map(|node| &node.reach);
        let own = End::of(&self.range);
        self.reach = below.max().filter(|reach| **reach > own).cloned().unwrap_or(own);
    }
}

fn insert<W: Ord>(tree: &mut Tree<W>, range: KeyRange, watcher: W, priority: u64) {
    let Some(node) = tree else {
        let (reach, watchers) = (End::of(&range), BTreeSet::from([watcher]));
        *tree = Some(Box::new(Node { range, watchers, priority, reach, left: None, right: None }));
        return;
    };
    match order(&range, &node.range) {
        Ordering::Equal => {
            node.watchers.insert(watcher);
            return;
        }
        Ordering::Less => insert(&mut node.left, range, watcher, priority),
        Ordering::Greater => insert(&mut node.right, range, watcher, priority),
    }
    let above = |child: &Tree<W>| child.as_ref().is_some_and(|c| c.priority > node.priority);
    if above(&node.left) {
        turn(tree, |node| &mut node.left, |node| &mut node.right);
    } else if above(&node.right) {
        turn(tree, |node| &mut node.right, |node| &mut node.left);
    } else {
        node.measure();
    }
}

/// The child on this side becomes the root, and the root its child on the other.
fn turn<W>(
    tree: &mut Tree<W>,
    side: fn(&mut Node<W>) -> &mut Tree<W>,
    other: fn(&mut Node<W>) -> &mut Tree<W>,
) {
    let Some(mut old) = tree.take() else { return };
    let Some(mut new) = side(&mut old).take() else {
        *tree = Some(old);
        return;
    };
    *side(&mut old) = other(&mut new).take();
    old.measure();
    *other(&mut new) = Some(old);
    new.measure();
    *tree = Some(new);
}

fn remove<W: Ord>(tree: &mut Tree<W>, range: &KeyRange, watcher: &W) {
    let Some(node) = tree else { return };
    match order(range, &node.range) {
        Ordering::Less => remove(&mut node.left, range, watcher),
        Ordering::Greater => remove(&mut node.right, range, watcher),
        Ordering::Equal => {
            node.watchers.remove(watcher);
            if node.watchers.is_empty() {
                *tree = join(node.left.take(), node.right.take());
            }
            return;
        }
    }
    node.measure();
}

/// All of `left` is smaller than all of `right`.
fn join<W>(left: Tree<W>, right: Tree<W>) -> Tree<W> {
    let (mut left, mut right) = match (left, right) {
        (Some(left), Some(right)) => (left, right),
        (left, right) => return left.or(right),
    };
    let mut root = if left.priority > right.priority {
        left.right = join(left.right.take(), Some(right));
        left
    } else {
        right.left = join(Some(left), right.left.take());
        right
    };
    root.measure();
    Some(root)
}

fn each<W>(tree: &Tree<W>, key: &[u8], visit: &mut impl FnMut(&W)) {
    let Some(node) = tree.as_ref().filter(|node| node.reach.is_past(key)) else { return };
    each(&node.left, key, visit);
    if &node.range.start()[..] <= key {
        if node.range.contains(key) {
            node.watchers.iter().for_each(&mut *visit);
        }
        each(&node.right, key, visit);
    }
}

/// The finalizer of SplitMix64: numbers in a row become numbers in no order.
fn scattered(n: u64) -> u64 {
    let n = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Few bytes and short keys, so that ranges meet, nest and touch.
    fn key() -> impl Strategy<Value = Bytes> {
        proptest::collection::vec(0..4u8, 1..4).prop_map(Bytes::from)
    }

    fn range() -> impl Strategy<Value = KeyRange> {
        prop_oneof![
            1 => key().prop_map(KeyRange::Key),
            1 => key().prop_map(KeyRange::From),
            4 => (key(), key()).prop_map(|(a, b)| KeyRange::Between(a, b)),
        ]
    }

    #[derive(Clone, Debug)]
    enum Op {
        Insert(KeyRange, u8),
        /// One of those that are there, or one that is not.
        Remove(prop::sample::Index),
        RemoveOther(KeyRange, u8),
        Each(Bytes),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            3 => (range(), 0..6u8).prop_map(|(range, watcher)| Op::Insert(range, watcher)),
            2 => any::<prop::sample::Index>().prop_map(Op::Remove),
            1 => (range(), 0..6u8).prop_map(|(range, watcher)| Op::RemoveOther(range, watcher)),
            3 => key().prop_map(Op::Each),
        ]
    }

    fn told(watched: &Watched<u8>, key: &[u8]) -> Vec<u8> {
        let mut told = Vec::new();
        watched.each(key, &mut |watcher| told.push(*watcher));
        told.sort_unstable();
        told
    }

    /// What the tree promises about itself; returns how deep it is.
    fn look(tree: &Tree<u32>) -> usize {
        let Some(node) = tree else { return 0 };
        let below = [&node.left, &node.right];
        for child in below.into_iter().flatten() {
            assert!(child.priority <= node.priority);
        }
        let reaches = below.into_iter().flatten().map(|child| child.reach.clone());
        assert_eq!(Some(node.reach.clone()), reaches.chain([End::of(&node.range)]).max());
        1 + look(&node.left).max(look(&node.right))
    }

    proptest! {
        #[test]
        fn hears_what_a_list_of_all_watchers_hears(ops in proptest::collection::vec(op(), 0..120)) {
            let mut watched = Watched::default();
            let mut twin: BTreeSet<(KeyRange, u8)> = BTreeSet::new();
            for op in ops {
                match op {
                    Op::Insert(range, watcher) => {
                        watched.insert(range.clone(), watcher);
                        twin.insert((range, watcher));
                    }
                    Op::Remove(at) if !twin.is_empty() => {
                        let gone = at.get(&twin.iter().collect::<Vec<_>>()).to_owned().clone();
                        watched.remove(&gone.0, &gone.1);
                        twin.remove(&gone);
                    }
                    Op::Remove(_) => {}
                    Op::RemoveOther(range, watcher) => {
                        watched.remove(&range, &watcher);
                        twin.remove(&(range, watcher));
                    }
                    Op::Each(key) => {
                        let hear = twin.iter().filter(|(range, _)| range.contains(&key));
                        let mut expected: Vec<u8> = hear.map(|(_, watcher)| *watcher).collect();
                        expected.sort_unstable();
                        prop_assert_eq!(told(&watched, &key), expected);
                    }
                }
                prop_assert_eq!(watched.is_empty(), twin.is_empty());
            }
        }
    }

    /// Prefixes in a row are what clients watch, and the worst for a tree that does not balance.
    #[test]
    fn ten_thousand_ranges_in_a_row_make_no_deep_tree() {
        let mut watched = Watched::default();
        let range = |n: u32| {
            let start = Bytes::from(format!("/registry/{n:05}/"));
            KeyRange::Between(start, Bytes::from(format!("/registry/{n:05}0")))
        };
        for n in 0..10_000 {
            watched.insert(range(n), n);
        }
        let deep = look(&watched.ranges);
        assert!(deep < 50, "{deep}");
        for n in (0..10_000).filter(|n| n % 7 != 0) {
            watched.remove(&range(n), &n);
        }
        let deep = look(&watched.ranges);
        assert!(deep < 40, "{deep}");
        let mut told = Vec::new();
        watched.each(b"/registry/00700/a", &mut |watcher| told.push(*watcher));
        assert_eq!(told, [700]);
    }
}
