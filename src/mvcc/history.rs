//! The revisions of one key, in generations.
//!
//! A generation is one life of the key: it begins with a put and ends with a tombstone. Example, with compactions
//! (the kept revision at or below the compacted one is marked `*`):
//!
//! ```text
//!   put 2, put 4, delete 6, put 8, put 9.1, delete 11     [2 4 6t] [8 9.1 11t] []
//!   compact 5                                             [4* 6t] [8 9.1 11t] []
//!   compact 6                                             [6t*] [8 9.1 11t] []
//!   compact 7                                             [8 9.1 11t] []
//!   compact 9                                             [9.1* 11t] []
//!   compact 11                                            [11t*] []
//!   compact 12                                            nothing left: the key leaves the index
//! ```

use norn_planted::planted;

use crate::Revision;

/// What the index knows of a key at some revision: enough for `keys_only`, counts, filters and sorts by anything but
/// the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyAt {
    pub modified: Revision,
    /// Main revision of the creation.
    pub created: i64,
    pub version: i64,
}

/// Whether a tombstone at the very revision of a compaction counts as kept: it does for what is removed, not for
/// what HashKV covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tombstones {
    Kept,
    Left,
}

/// All kept revisions of a key. Almost every key has one live revision and nothing else: that case needs no heap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyHistory {
    One(KeyAt),
    Many(Box<Generations>),
}

/// Finished lives, oldest first, and the current one (empty when the key is deleted now).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Generations {
    pub(crate) finished: Vec<Generation>,
    pub(crate) current: Generation,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Generation {
    pub(crate) created: i64,
    /// Version after the last revision; a tombstone counts as one.
    pub(crate) version: i64,
    /// Ascending. Of a finished generation the last one is the tombstone.
    pub(crate) revisions: Vec<Revision>,
}

impl Generation {
    fn at(&self, main: i64) -> Option<KeyAt> {
        let after = self.revisions.partition_point(|r| r.main <= main);
        let modified = *self.revisions[..after].last()?;
        let newer = (self.revisions.len() - after) as i64;
        Some(KeyAt { modified, created: self.created, version: self.version - newer })
    }

    fn tombstone(&self) -> Revision {
        *self.revisions.last().expect("a finished generation ends with its tombstone")
    }

    /// Drops the revisions below the newest one at or below `main`.
    fn drop_superseded(&mut self, main: i64, dead: &mut dyn FnMut(Revision)) {
        let after = self.revisions.partition_point(|r| r.main <= main);
        for revision in self.revisions.drain(..after.saturating_sub(1)) {
            dead(revision);
        }
        self.revisions.shrink_to_fit();
    }
}

impl KeyHistory {
    /// A key's first put, or what is first seen of it when the log is read after a restart (older revisions of it may
    /// have been compacted away, so creation and version come from the record).
    pub fn new(modified: Revision, created: i64, version: i64) -> KeyHistory {
        KeyHistory::One(KeyAt { modified, created, version })
    }

    /// First sight of the key is a tombstone (the rest of that life was compacted away).
    pub fn from_tombstone(revision: Revision) -> KeyHistory {
        let generation =
            Generation { created: revision.main, version: 1, revisions: vec![revision] };
        KeyHistory::Many(Box::new(Generations {
            finished: vec![generation],
            current: Generation::default(),
        }))
    }

    pub fn is_live(&self) -> bool {
        match self {
            KeyHistory::One(_) => true,
            KeyHistory::Many(many) => !many.current.revisions.is_empty(),
        }
    }

    /// Newest revision, tombstones included.
    pub fn last(&self) -> Revision {
        match self {
            KeyHistory::One(at) => at.modified,
            KeyHistory::Many(many) => match many.current.revisions.last() {
                Some(revision) => *revision,
                None => many.finished.last().expect("a kept key has a revision").tombstone(),
            },
        }
    }

    /// The live version now.
    pub fn live(&self) -> Option<KeyAt> {
        match self {
            KeyHistory::One(at) => Some(*at),
            KeyHistory::Many(many) => {
                let current = &many.current;
                let modified = *current.revisions.last()?;
                Some(KeyAt { modified, created: current.created, version: current.version })
            }
        }
    }

    /// The live version as of main revision `main`.
    pub fn at(&self, main: i64) -> Option<KeyAt> {
        match self {
            KeyHistory::One(at) => (at.modified.main <= main).then_some(*at),
            KeyHistory::Many(many) => {
                if let Some(first) = many.current.revisions.first()
                    && first.main <= main
                {
                    return many.current.at(main);
                }
                for generation in many.finished.iter().rev() {
                    if generation.tombstone().main <= main {
                        return None;
                    }
                    if generation.revisions[0].main <= main {
                        return generation.at(main);
                    }
                }
                None
            }
        }
    }

    pub fn put(&mut self, revision: Revision) -> KeyAt {
        assert!(revision > self.last(), "put {revision} after {}", self.last());
        let many = self.make_many();
        let current = &mut many.current;
        if current.revisions.is_empty() {
            current.created = revision.main;
            current.version = 0;
        }
        current.version += 1;
        current.revisions.push(revision);
        KeyAt { modified: revision, created: current.created, version: current.version }
    }

    /// The key must be live.
    pub fn delete(&mut self, revision: Revision) {
        assert!(self.is_live() && revision > self.last(), "delete {revision} of {self:?}");
        let many = self.make_many();
        let mut finished = std::mem::take(&mut many.current);
        finished.version += 1;
        finished.revisions.push(revision);
        many.finished.push(finished);
    }

    /// Forgets what no reader at `main` or above can see; each forgotten revision goes to `dead`. True when nothing
    /// is left of the key.
    pub fn compact(&mut self, main: i64, dead: &mut dyn FnMut(Revision)) -> bool {
        let KeyHistory::Many(many) = self else {
            return false;
        };
        let ends = main + i64::from(planted!(TombstoneDropped));
        let gone = many.finished.iter().take_while(|g| g.tombstone().main < ends).count();
        for generation in many.finished.drain(..gone) {
            generation.revisions.into_iter().for_each(&mut *dead);
        }
        // (Usually one; the next ones have something at `main` only if one transaction deleted the key and put it again.)
        for generation in many.finished.iter_mut().chain([&mut many.current]) {
            if generation.revisions.first().is_none_or(|first| first.main > main) {
                break;
            }
            generation.drop_superseded(main, dead);
        }
        if !many.finished.is_empty() {
            return false;
        }
        let current = &many.current;
        match current.revisions.as_slice() {
            [] => true,
            [modified] => {
                *self = KeyHistory::One(KeyAt {
                    modified: *modified,
                    created: current.created,
                    version: current.version,
                });
                false
            }
            _ => false,
        }
    }

    /// The revision that a compaction at `main` would keep at or below `main`. `Tombstones::Left` is how HashKV
    /// counts: without a tombstone that ends a finished generation.
    pub fn kept(&self, main: i64, tombstones: Tombstones) -> Option<Revision> {
        match self {
            KeyHistory::One(at) => (at.modified.main <= main).then_some(at.modified),
            KeyHistory::Many(many) => {
                match many.finished.iter().find(|g| g.tombstone().main >= main) {
                    Some(generation) => {
                        let kept = generation.at(main)?.modified;
                        let is_end = kept == generation.tombstone();
                        (!is_end || tombstones == Tombstones::Kept).then_some(kept)
                    }
                    None => Some(many.current.at(main)?.modified),
                }
            }
        }
    }

    /// Every kept revision with whether it is a tombstone, ascending.
    pub fn revisions(&self) -> impl Iterator<Item = (Revision, bool)> + '_ {
        let (one, many) = match self {
            KeyHistory::One(at) => (Some((at.modified, false)), None),
            KeyHistory::Many(many) => (None, Some(many)),
        };
        let many = many.into_iter().flat_map(|many| {
            let finished = many.finished.iter().flat_map(|g| {
                let last = g.tombstone();
                g.revisions.iter().map(move |r| (*r, *r == last))
            });
            finished.chain(many.current.revisions.iter().map(|r| (*r, false)))
        });
        one.into_iter().chain(many)
    }

    fn make_many(&mut self) -> &mut Generations {
        if let KeyHistory::One(at) = *self {
            *self = KeyHistory::Many(Box::new(Generations {
                finished: Vec::new(),
                current: Generation {
                    created: at.created,
                    version: at.version,
                    revisions: vec![at.modified],
                },
            }));
        }
        match self {
            KeyHistory::Many(many) => many,
            KeyHistory::One(_) => unreachable!("made many above"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rev(main: i64, sub: i64) -> Revision {
        Revision::new(main, sub)
    }

    fn example() -> KeyHistory {
        let mut key = KeyHistory::new(rev(2, 0), 2, 1);
        key.put(rev(4, 0));
        key.delete(rev(6, 0));
        key.put(rev(8, 0));
        key.put(rev(9, 1));
        key.delete(rev(11, 0));
        key
    }

    #[test]
    fn reads_at_every_revision() {
        let key = example();
        let at = |main| key.at(main).map(|k| (k.modified.main, k.created, k.version));
        let want = [
            (1, None),
            (2, Some((2, 2, 1))),
            (3, Some((2, 2, 1))),
            (4, Some((4, 2, 2))),
            (5, Some((4, 2, 2))),
            (6, None),
            (7, None),
            (8, Some((8, 8, 1))),
            (9, Some((9, 8, 2))),
            (10, Some((9, 8, 2))),
            (11, None),
        ];
        for (main, want) in want {
            assert_eq!(at(main), want, "at {main}");
        }
        assert!(!key.is_live());
    }

    #[test]
    fn compaction_keeps_what_the_example_says() {
        let cases: [(i64, &[i64], &[i64]); 6] = [
            (5, &[4, 6, 8, 9, 11], &[2]),
            (6, &[6, 8, 9, 11], &[2, 4]),
            (7, &[8, 9, 11], &[2, 4, 6]),
            (9, &[9, 11], &[2, 4, 6, 8]),
            (11, &[11], &[2, 4, 6, 8, 9]),
            (12, &[], &[2, 4, 6, 8, 9, 11]),
        ];
        for (main, kept, died) in cases {
            let mut key = example();
            let mut dead = Vec::new();
            let empty = key.compact(main, &mut |r| dead.push(r.main));
            assert_eq!(dead, died, "compact {main}");
            assert_eq!(empty, kept.is_empty());
            if !empty {
                let left: Vec<i64> = key.revisions().map(|(r, _)| r.main).collect();
                assert_eq!(left, kept, "compact {main}");
            }
        }
    }

    #[test]
    fn a_key_deleted_and_put_twice_at_the_compacted_revision() {
        let mut key = KeyHistory::new(rev(2, 0), 2, 1);
        key.delete(rev(3, 0));
        key.put(rev(3, 1));
        key.put(rev(3, 2));
        key.put(rev(4, 0));
        let mut dead = Vec::new();
        assert!(!key.compact(3, &mut |r| dead.push(r)));
        assert_eq!(dead, [rev(2, 0), rev(3, 1)]);
    }

    #[test]
    fn hash_keeps_no_ending_tombstone() {
        let key = example();
        assert_eq!(key.kept(5, Tombstones::Left), Some(rev(4, 0)));
        assert_eq!(key.kept(6, Tombstones::Left), None);
        assert_eq!(key.kept(6, Tombstones::Kept), Some(rev(6, 0)));
        assert_eq!(key.kept(9, Tombstones::Left), Some(rev(9, 1)));
        assert_eq!(key.kept(12, Tombstones::Left), None);
    }
}
