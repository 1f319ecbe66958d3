//! Events on their way to watchers.

use std::ops::ControlFlow;

use bytes::Bytes;
use norn_mvcc::{Event, KeyValue, Revision, Store, Values};
use norn_planted::planted;

use crate::Error;
use crate::watchers::WatchLimits;
use crate::wire::Writer;

/// Records of history read in one step of catching up: small ones take a millisecond, too.
const RECORDS: usize = 4096;

/// An event with its encoded forms, made at most once for all watchers.
pub(crate) struct Told {
    pub(crate) event: Event,
    plain: Option<Bytes>,
    with_prev: Option<Bytes>,
}

impl Told {
    pub(crate) fn new(event: Event) -> Told {
        Told { event, plain: None, with_prev: None }
    }

    /// For a watcher that wants to know what was there before, or not.
    pub(crate) fn encoded<V: Values>(
        &mut self,
        prev_kv: bool,
        store: &Store,
        values: &V,
    ) -> Result<Bytes, Error>
    where
        V::Error: std::fmt::Display,
    {
        let event = &self.event;
        if !prev_kv || event.is_create {
            return Ok(self.plain.get_or_insert_with(|| encode_event(event, None)).clone());
        }
        if let Some(bytes) = &self.with_prev {
            return Ok(bytes.clone());
        }
        let before = i64::from(!planted!(PrevValueIsOwn));
        let prev = store
            .value_at(values, &event.key, event.revision.main - before)
            .map_err(|error| Error::Storage(error.to_string()))?;
        // (A tombstone is not a value: the key did not exist.)
        let bytes = encode_event(event, prev.as_ref());
        self.with_prev = Some(bytes.clone());
        Ok(bytes)
    }
}

/// Whole transactions from `from` on, as many as one step may have and one at the least, and the revision they reach.
pub(crate) fn history<V: Values>(
    values: &V,
    from: i64,
    current: i64,
    limits: &WatchLimits,
) -> Result<(Vec<Told>, i64), Error>
where
    V::Error: std::fmt::Display,
{
    let mut told: Vec<Told> = Vec::new();
    let mut upto = current;
    let mut damaged = None;
    let (mut last, mut revisions, mut bytes) = (0, 0, 0);
    values
        .scan(Revision::new(from, 0), current, &mut |revision, tombstone, record| {
            if revision.main != last {
                let is_much = told.len() >= RECORDS || bytes >= limits.catch_up_bytes;
                if revisions == limits.catch_up_revisions || is_much {
                    upto = last;
                    return ControlFlow::Break(());
                }
                last = revision.main;
                revisions += 1;
            }
            bytes += record.len();
            match Event::from_record(revision, tombstone, record) {
                Ok(event) => told.push(Told::new(event)),
                Err(error) => {
                    damaged = Some(error);
                    return ControlFlow::Break(());
                }
            }
            ControlFlow::Continue(())
        })
        .map_err(|error| Error::Storage(error.to_string()))?;
    match damaged {
        Some(error) => Err(Error::Storage(error.to_string())),
        None => Ok((told, upto)),
    }
}

fn encode_event(event: &Event, prev_kv: Option<&Bytes>) -> Bytes {
    let mut w = Writer::with_capacity(event.kv.len() + prev_kv.map_or(0, Bytes::len) + 16);
    w.bool(1, event.tombstone);
    w.message(2, &event.kv);
    if let Some(prev) = prev_kv {
        debug_assert!(KeyValue::decode(prev).is_ok());
        w.message(3, prev);
    }
    w.finish()
}
