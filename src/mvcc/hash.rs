//! HashKV: a checksum of the key space at a revision, equal on all members that hold the same data.
//!
//! CRC-32C over the word `key`, then over each included record in revision order: its stored key (see
//! [`Revision::to_bytes`]) and its value. Left out are records above the hashed revision, records at or below the
//! compacted revision that a compaction at the *hashed* revision would not keep (if it would keep nothing at all: that
//! the one at the compacted revision does not keep), and tombstones at the compacted revision.

use std::ops::ControlFlow;

use crate::history::Tombstones;
use crate::{Error, KeyIndex, KeyRange, KeyValue, Revision, Values};

/// A record counts once more for each so many of its bytes.
const LONG_BYTES: usize = 1 << 10;

/// The answer, with the two revisions it depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvHash {
    pub hash: u32,
    /// -1 when nothing was ever compacted.
    pub compact_revision: i64,
    pub hash_revision: i64,
}

/// A hash being computed, a bounded number of records at a time.
#[derive(Clone, Debug)]
pub struct HashScan {
    main: i64,
    compacted: i64,
    tombstones: Tombstones,
    /// Whether a compaction at `main` would keep anything; asked of the index at the first step.
    keeps_any: Option<bool>,
    next: Revision,
    crc: u32,
}

impl HashScan {
    pub(crate) fn new(main: i64, compacted: i64, tombstones: Tombstones) -> HashScan {
        HashScan {
            main,
            compacted,
            tombstones,
            keeps_any: None,
            next: Revision::default(),
            crc: crc32c(0, b"key"),
        }
    }

    /// Hashes about `records_max` more records; the result when all are done.
    pub fn step<V: Values>(
        &mut self,
        index: &KeyIndex,
        values: &V,
        records_max: usize,
    ) -> Result<Option<KvHash>, Error<V::Error>> {
        let keeps_any = *self.keeps_any.get_or_insert_with(|| {
            let mut any = false;
            index.visit_histories(&KeyRange::all(), |_, history| {
                any = history.kept(self.main, self.tombstones).is_some();
                if any { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
            any
        });
        let mut seen = 0;
        let mut damaged = None;
        let mut stopped = false;
        values
            .scan(self.next, self.main, &mut |revision, tombstone, record| {
                if seen >= records_max {
                    self.next = revision;
                    stopped = true;
                    return ControlFlow::Break(());
                }
                // (A long one counts for as many as it takes the time of.)
                seen = seen.saturating_add(1 + record.len() / LONG_BYTES);
                if revision.main <= self.compacted {
                    if revision.main == self.compacted && tombstone {
                        return ControlFlow::Continue(());
                    }
                    let key = match KeyValue::decode_key(record) {
                        Ok(key) => key,
                        Err(error) => {
                            damaged = Some(error);
                            return ControlFlow::Break(());
                        }
                    };
                    // Where nothing would be kept, etcd takes whatever is there. What a compaction has still to remove
                    // must not count: members differ in that.
                    let at = if keeps_any { self.main } else { self.compacted };
                    let kept = index.history(&key).and_then(|h| h.kept(at, self.tombstones));
                    if kept != Some(revision) {
                        return ControlFlow::Continue(());
                    }
                }
                let (key, len) = revision.to_bytes(tombstone);
                self.crc = crc32c(crc32c(self.crc, &key[..len]), record);
                ControlFlow::Continue(())
            })
            .map_err(Error::Values)?;
        if let Some(error) = damaged {
            return Err(Error::Damaged(error));
        }
        Ok((!stopped).then_some(KvHash {
            hash: self.crc,
            compact_revision: self.compacted,
            hash_revision: self.main,
        }))
    }

    /// Hashes everything at once.
    pub fn run<V: Values>(
        mut self,
        index: &KeyIndex,
        values: &V,
    ) -> Result<KvHash, Error<V::Error>> {
        let hash = self.step(index, values, usize::MAX)?;
        Ok(hash.expect("a scan without a limit ends"))
    }
}

fn crc32c(crc: u32, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc, bytes)
}
