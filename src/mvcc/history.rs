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

use std::sync::Arc;

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

/// All kept revisions of a key. What is asked for most, the newest one, stands in front: reading the present never goes to
/// the heap, however long the past is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyHistory {
    /// The live version; of a key that is deleted now the tombstone, with version 0.
    newest: KeyAt,
    /// Most keys have one live revision and nothing else. Shared, because blocks of the index are copied while somebody looks at it
    /// (a long read): the pasts of the neighbours are not.
    older: Option<Arc<Older>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Older {
    /// Finished lives, oldest first.
    finished: Vec<Generation>,
    /// Of the current life, ascending: all but the newest.
    current: Vec<Revision>,
}

/// One life of a key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Generation {
    pub(crate) created: i64,
    /// Version after the last revision; a tombstone counts as one.
    pub(crate) version: i64,
    /// Ascending. Of a finished generation the last one is the tombstone.
    pub(crate) revisions: Vec<Revision>,
}

/// A history as of some revision.
pub(crate) struct Lives<'a> {
    /// Oldest first.
    pub(crate) finished: &'a [Generation],
    /// Of the current life, ascending: all but the newest.
    pub(crate) older: &'a [Revision],
    /// `None`: the key was deleted.
    pub(crate) now: Option<KeyAt>,
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
}

/// Drops the first `count`.
fn drop_first(revisions: &mut Vec<Revision>, count: usize, dead: &mut dyn FnMut(Revision)) {
    if count > 0 {
        revisions.drain(..count).for_each(&mut *dead);
        revisions.shrink_to_fit();
    }
}

impl KeyHistory {
    /// A key's first put, or what is first seen of it when the log is read after a restart (older revisions of it may
    /// have been compacted away, so creation and version come from the record).
    pub fn new(modified: Revision, created: i64, version: i64) -> KeyHistory {
        KeyHistory { newest: KeyAt { modified, created, version: version.max(1) }, older: None }
    }

    /// First sight of the key is a tombstone (the rest of that life was compacted away).
    pub fn from_tombstone(revision: Revision) -> KeyHistory {
        let generation =
            Generation { created: revision.main, version: 1, revisions: vec![revision] };
        KeyHistory {
            newest: tombstone(revision),
            older: Some(Arc::new(Older { finished: vec![generation], current: Vec::new() })),
        }
    }

    /// From finished lives and the current one, which has no revisions when the key is deleted now. `None`: that is not a
    /// history.
    pub(crate) fn from_lives(
        finished: Vec<Generation>,
        mut current: Generation,
    ) -> Option<KeyHistory> {
        if current.version < current.revisions.len() as i64 {
            return None;
        }
        let newest = match current.revisions.pop() {
            Some(modified) => {
                KeyAt { modified, created: current.created, version: current.version }
            }
            None => tombstone(*finished.last()?.revisions.last()?),
        };
        let current = current.revisions;
        let has_past = !finished.is_empty() || !current.is_empty();
        Some(KeyHistory { newest, older: has_past.then(|| Arc::new(Older { finished, current })) })
    }

    /// The finished lives, oldest first.
    fn finished(&self) -> &[Generation] {
        self.older.as_ref().map_or(&[], |older| &older.finished)
    }

    /// Revisions of the current life, ascending.
    fn current(&self) -> impl ExactSizeIterator<Item = Revision> + '_ {
        let older: &[Revision] = self.older.as_ref().map_or(&[], |older| &older.current);
        let count = older.len() + usize::from(self.is_live());
        (0..count).map(|i| older.get(i).copied().unwrap_or(self.newest.modified))
    }

    /// A compaction may find something to forget.
    pub(crate) fn has_past(&self) -> bool {
        self.older.is_some()
    }

    pub fn is_live(&self) -> bool {
        self.newest.version > 0
    }

    /// Newest revision, tombstones included.
    pub fn last(&self) -> Revision {
        self.newest.modified
    }

    /// The live version now.
    pub fn live(&self) -> Option<KeyAt> {
        self.is_live().then_some(self.newest)
    }

    /// The live version as of main revision `main`.
    pub fn at(&self, main: i64) -> Option<KeyAt> {
        if self.newest.modified.main <= main {
            return self.live();
        }
        let older = self.older.as_ref()?;
        if older.current.first().is_some_and(|first| first.main <= main) {
            return self.current_at(main);
        }
        // (The first that ends behind `main`.)
        let next = older.finished.partition_point(|g| g.tombstone().main <= main);
        older.finished.get(next)?.at(main)
    }

    /// As of `main`, of the current life.
    fn current_at(&self, main: i64) -> Option<KeyAt> {
        if self.newest.modified.main <= main {
            return self.live();
        }
        let current = &self.older.as_ref()?.current;
        let after = current.partition_point(|r| r.main <= main);
        let modified = *current[..after].last()?;
        let newer = (current.len() - after) as i64 + 1;
        let KeyAt { created, version, .. } = self.newest;
        Some(KeyAt { modified, created, version: version - newer })
    }

    /// What it was at main revision `main`, if nothing was compacted since. `None`: the key was not there.
    pub(crate) fn lives_at(&self, main: i64) -> Option<Lives<'_>> {
        let (finished, current): (&[Generation], &[Revision]) =
            self.older.as_ref().map_or((&[], &[]), |older| (&older.finished, &older.current));
        if self.newest.modified.main <= main {
            return Some(Lives { finished, older: current, now: self.live() });
        }
        let next = finished.partition_point(|life| life.tombstone().main <= main);
        let (revisions, now) = match finished.get(next) {
            Some(life) => (&life.revisions[..], life.at(main)),
            None => (current, self.current_at(main)),
        };
        let count = revisions.partition_point(|revision| revision.main <= main);
        let older = &revisions[..count.saturating_sub(1)];
        let finished = &finished[..next];
        (now.is_some() || !finished.is_empty()).then_some(Lives { finished, older, now })
    }

    pub fn put(&mut self, revision: Revision) -> KeyAt {
        assert!(revision > self.last(), "put {revision} after {}", self.last());
        if self.is_live() {
            let older = Arc::make_mut(self.older.get_or_insert_default());
            older.current.push(self.newest.modified);
        } else {
            self.newest.created = revision.main;
        }
        self.newest.modified = revision;
        self.newest.version += 1;
        self.newest
    }

    /// A put as its record in the log tells it: compaction may have dropped the puts before it that began this life.
    pub fn restore(&mut self, at: KeyAt) {
        self.put(at.modified);
        self.newest = KeyAt { version: at.version.max(1), ..at };
    }

    /// A tombstone as its record in the log tells it. A transaction may have deleted the key, put it and deleted it again; compaction
    /// at its revision keeps both tombstones, and not the put between them.
    pub fn restore_tombstone(&mut self, revision: Revision) {
        if self.is_live() {
            return self.delete(revision);
        }
        let life = Generation { created: revision.main, version: 1, revisions: vec![revision] };
        Arc::make_mut(self.older.get_or_insert_default()).finished.push(life);
        self.newest = tombstone(revision);
    }

    /// The key must be live.
    pub fn delete(&mut self, revision: Revision) {
        assert!(self.is_live() && revision > self.last(), "delete {revision} of {self:?}");
        let KeyAt { modified, created, version } = self.newest;
        let older = Arc::make_mut(self.older.get_or_insert_default());
        let mut revisions = std::mem::take(&mut older.current);
        revisions.extend([modified, revision]);
        older.finished.push(Generation { created, version: version + 1, revisions });
        self.newest = tombstone(revision);
    }

    /// Forgets what no reader at `main` or above can see; each forgotten revision goes to `dead`. True when nothing
    /// is left of the key.
    pub fn compact(&mut self, main: i64, dead: &mut dyn FnMut(Revision)) -> bool {
        let Some(older) = &mut self.older else {
            return false;
        };
        let older = Arc::make_mut(older);
        let ends = main + i64::from(planted!(TombstoneDropped));
        let alone = |g: &Generation| planted!(TombstoneAloneDropped) && g.revisions.len() == 1;
        let gone =
            older.finished.partition_point(|g| g.tombstone().main < ends + i64::from(alone(g)));
        for generation in older.finished.drain(..gone) {
            generation.revisions.into_iter().for_each(&mut *dead);
        }
        // (Usually one; the next ones have something at `main` only if one transaction deleted the key and put it again.)
        for generation in &mut older.finished {
            let after = generation.revisions.partition_point(|r| r.main <= main);
            if after == 0 {
                break;
            }
            drop_first(&mut generation.revisions, after - 1, dead);
        }
        let after = older.current.partition_point(|r| r.main <= main);
        let is_newest_seen = self.newest.modified.main <= main;
        let is_needed = !is_newest_seen && !planted!(CompactionTakesLive);
        drop_first(&mut older.current, after.saturating_sub(usize::from(is_needed)), dead);
        if !older.finished.is_empty() || !older.current.is_empty() {
            return false;
        }
        self.older = None;
        !self.is_live()
    }

    /// The revision that a compaction at `main` would keep at or below `main`. `Tombstones::Left` is how HashKV
    /// counts: without a tombstone that ends a finished generation.
    pub fn kept(&self, main: i64, tombstones: Tombstones) -> Option<Revision> {
        match self.finished().iter().find(|g| g.tombstone().main >= main) {
            Some(generation) => {
                let kept = generation.at(main)?.modified;
                let is_end = kept == generation.tombstone();
                (!is_end || tombstones == Tombstones::Kept).then_some(kept)
            }
            None => Some(self.current_at(main)?.modified),
        }
    }

    /// Every kept revision with whether it is a tombstone, ascending.
    pub fn revisions(&self) -> impl Iterator<Item = (Revision, bool)> + '_ {
        let finished = self.finished().iter().flat_map(|g| {
            let last = g.tombstone();
            g.revisions.iter().map(move |r| (*r, *r == last))
        });
        finished.chain(self.current().map(|r| (r, false)))
    }
}

fn tombstone(revision: Revision) -> KeyAt {
    KeyAt { modified: revision, created: 0, version: 0 }
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
