//! Reading a range of keys at a revision.

use std::ops::ControlFlow;

use bytes::Bytes;

use crate::history::KeyAt;
use crate::{Error, KeyIndex, KeyValue, Revision};

/// A set of keys, as `key` and `range_end` name it on the wire.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeyRange {
    /// One key.
    Key(Bytes),
    /// `start <= key < end`; empty when `end <= start`.
    Between(Bytes, Bytes),
    /// `key >= start`.
    From(Bytes),
}

impl KeyRange {
    /// `range_end`: empty for one key, a single zero byte for no upper end, else the exclusive end.
    pub fn new(key: Bytes, range_end: Bytes) -> KeyRange {
        if range_end.is_empty() {
            KeyRange::Key(key)
        } else if range_end[..] == [0] {
            KeyRange::From(key)
        } else {
            KeyRange::Between(key, range_end)
        }
    }

    pub fn all() -> KeyRange {
        KeyRange::From(Bytes::new())
    }

    pub fn start(&self) -> &Bytes {
        match self {
            KeyRange::Key(key) | KeyRange::Between(key, _) | KeyRange::From(key) => key,
        }
    }

    pub fn contains(&self, other: &[u8]) -> bool {
        match self {
            KeyRange::Key(key) => other == key,
            KeyRange::Between(start, end) => &start[..] <= other && other < &end[..],
            KeyRange::From(start) => &start[..] <= other,
        }
    }

    /// No key can be in it.
    pub fn is_empty(&self) -> bool {
        matches!(self, KeyRange::Between(start, end) if end <= start)
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SortOrder {
    #[default]
    None,
    Ascend,
    Descend,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SortTarget {
    #[default]
    Key,
    Version,
    Create,
    Mod,
    Value,
}

/// Inclusive limits on a revision; 0 is no limit, anything else (negative too) is one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    pub min: i64,
    pub max: i64,
}

impl Bounds {
    fn is_set(self) -> bool {
        self.min != 0 || self.max != 0
    }

    fn allows(self, revision: i64) -> bool {
        (self.min == 0 || revision >= self.min) && (self.max == 0 || revision <= self.max)
    }
}

#[derive(Clone, Debug)]
pub struct RangeRequest {
    pub range: KeyRange,
    /// 0 or below: the current one.
    pub revision: i64,
    /// Most keys to return; 0 or below: all.
    pub limit: i64,
    pub sort_order: SortOrder,
    pub sort_target: SortTarget,
    pub keys_only: bool,
    pub count_only: bool,
    pub mod_revision: Bounds,
    pub create_revision: Bounds,
}

impl RangeRequest {
    /// Everything in `range`, now.
    pub fn all_of(range: KeyRange) -> RangeRequest {
        RangeRequest {
            range,
            revision: 0,
            limit: 0,
            sort_order: SortOrder::None,
            sort_target: SortTarget::Key,
            keys_only: false,
            count_only: false,
            mod_revision: Bounds::default(),
            create_revision: Bounds::default(),
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeResult {
    /// Encoded `KeyValue`s, as stored.
    pub kvs: Vec<Bytes>,
    /// More keys matched than the limit let through.
    pub more: bool,
    /// Keys in the range, whatever limit and filters say.
    pub count: i64,
    /// The newest revision of the view that was read, also when an older one was asked for.
    pub revision: i64,
}

/// The state that a read sees: an index, its newest revision, and how to get values.
pub(crate) struct View<'a, F> {
    pub(crate) index: &'a KeyIndex,
    pub(crate) current: i64,
    pub(crate) compacted: i64,
    /// Appends the encoded `KeyValue`s of kept revisions.
    pub(crate) fetch: F,
}

struct Found {
    at: KeyAt,
    /// Only for `keys_only`, which does not read values.
    key: Bytes,
}

impl<F, E> View<'_, F>
where
    F: Fn(&[Revision], &mut Vec<Bytes>) -> Result<(), E>,
{
    pub(crate) fn range(&self, request: &RangeRequest) -> Result<RangeResult, Error<E>> {
        let main = self.read_revision(request.revision)?;
        let is_now = main == self.current;
        let index = self.index;
        let mut result = RangeResult { revision: self.current, ..RangeResult::default() };
        if let (KeyRange::Key(key), false) = (&request.range, request.count_only) {
            return self.one(key, main, request, result);
        }
        let count = |range: &KeyRange| {
            let keys = if is_now { index.count_live(range) } else { index.count_at(range, main) };
            keys as i64
        };
        if request.count_only {
            result.count = count(&request.range);
            return Ok(result);
        }
        let limit = usize::try_from(request.limit).ok().filter(|limit| *limit > 0);
        // Everything is needed when the order of the answer, or what is filtered, is not the order of the index.
        let whole = match (request.sort_order, request.sort_target) {
            _ if request.mod_revision.is_set() || request.create_revision.is_set() => true,
            (SortOrder::None, _) | (SortOrder::Ascend, SortTarget::Key) => false,
            _ => true,
        };
        let walk_max = limit.filter(|_| !whole).map_or(usize::MAX, |limit| limit + 1);
        let (mut found, walked) = self.collect(request, main, walk_max);
        result.count = match limit {
            Some(_) if walked >= walk_max => count(&request.range),
            _ => walked as i64,
        };
        self.sort(request, &mut found)?;
        if let Some(limit) = limit
            && found.len() > limit
        {
            found.truncate(limit);
            result.more = true;
        }
        result.kvs.reserve_exact(found.len());
        self.encode(request, &found, &mut result.kvs)?;
        Ok(result)
    }

    /// The main revision at which a request with `revision` reads.
    pub(crate) fn read_revision(&self, revision: i64) -> Result<i64, Error<E>> {
        if revision > self.current {
            return Err(Error::Future);
        }
        let main = if revision <= 0 { self.current } else { revision };
        if main < self.compacted {
            return Err(Error::Compacted);
        }
        Ok(main)
    }

    fn one(
        &self,
        key: &Bytes,
        main: i64,
        request: &RangeRequest,
        mut result: RangeResult,
    ) -> Result<RangeResult, Error<E>> {
        let Some(at) = self.index.at(key, main) else {
            return Ok(result);
        };
        result.count = 1;
        if request.mod_revision.allows(at.modified.main)
            && request.create_revision.allows(at.created)
        {
            let found = Found { at, key: key.clone() };
            self.encode(request, &[found], &mut result.kvs)?;
        }
        Ok(result)
    }

    /// Matching keys in key order, at most `walk_max`, and how many keys were passed on the way.
    fn collect(&self, request: &RangeRequest, main: i64, walk_max: usize) -> (Vec<Found>, usize) {
        let mut found = Vec::new();
        let mut walked = 0;
        let mut take = |key: &[u8], at: KeyAt| {
            walked += 1;
            if request.mod_revision.allows(at.modified.main)
                && request.create_revision.allows(at.created)
            {
                let key =
                    if request.keys_only { Bytes::copy_from_slice(key) } else { Bytes::new() };
                found.push(Found { at, key });
            }
            if walked >= walk_max { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        if request.keys_only {
            self.index.visit(&request.range, main, take);
        } else {
            self.index.visit_versions(&request.range, main, |at| take(&[], at));
        }
        (found, walked)
    }

    /// All sorts are stable, so equal targets stay in key order, in a descending answer too.
    fn sort(&self, request: &RangeRequest, found: &mut Vec<Found>) -> Result<(), Error<E>> {
        let number: fn(&Found) -> i64 = match request.sort_target {
            SortTarget::Key => {
                if request.sort_order == SortOrder::Descend {
                    found.reverse();
                }
                return Ok(());
            }
            SortTarget::Value => return self.sort_by_value(request, found),
            SortTarget::Version => |item| item.at.version,
            SortTarget::Create => |item| item.at.created,
            SortTarget::Mod => |item| item.at.modified.main,
        };
        match request.sort_order {
            SortOrder::Descend => found.sort_by_key(|item| std::cmp::Reverse(number(item))),
            SortOrder::None | SortOrder::Ascend => found.sort_by_key(number),
        }
        Ok(())
    }

    fn sort_by_value(
        &self,
        request: &RangeRequest,
        found: &mut Vec<Found>,
    ) -> Result<(), Error<E>> {
        let mut records = Vec::with_capacity(found.len());
        self.fetch(found, &mut records)?;
        let mut valued = Vec::with_capacity(found.len());
        for (item, record) in found.drain(..).zip(&records) {
            let value = KeyValue::decode(record).map_err(Error::Damaged)?.value;
            valued.push((value, item));
        }
        match request.sort_order {
            SortOrder::Descend => valued.sort_by(|a, b| b.0.cmp(&a.0)),
            SortOrder::None | SortOrder::Ascend => valued.sort_by(|a, b| a.0.cmp(&b.0)),
        }
        found.extend(valued.into_iter().map(|(_, item)| item));
        Ok(())
    }

    fn fetch(&self, found: &[Found], out: &mut Vec<Bytes>) -> Result<(), Error<E>> {
        let result = match found {
            [one] => (self.fetch)(&[one.at.modified], out),
            _ => {
                let revisions: Vec<Revision> = found.iter().map(|item| item.at.modified).collect();
                (self.fetch)(&revisions, out)
            }
        };
        result.map_err(Error::Values)
    }

    fn encode(
        &self,
        request: &RangeRequest,
        found: &[Found],
        out: &mut Vec<Bytes>,
    ) -> Result<(), Error<E>> {
        if !request.keys_only {
            return self.fetch(found, out);
        }
        // The one keys-only read that etcd does not serve from its index alone.
        let mut records = Vec::new();
        if request.sort_target == SortTarget::Value {
            self.fetch(found, &mut records)?;
        }
        for (i, item) in found.iter().enumerate() {
            let lease = match records.get(i) {
                Some(record) => KeyValue::decode(record).map_err(Error::Damaged)?.lease,
                None => 0,
            };
            let kv = KeyValue {
                key: item.key.clone(),
                create_revision: item.at.created,
                mod_revision: item.at.modified.main,
                version: item.at.version,
                lease,
                ..KeyValue::default()
            };
            out.push(kv.encode());
        }
        Ok(())
    }
}
