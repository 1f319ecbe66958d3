//! What happened to some keys between two revisions.

use std::ops::ControlFlow;

use bytes::Bytes;

use crate::{Change, CodecError, Error, KeyRange, KeyValue, Revision, Values};

/// One change as a watcher sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub revision: Revision,
    pub tombstone: bool,
    /// A put that began the key's life: the one event that has no previous value.
    pub is_create: bool,
    pub key: Bytes,
    /// Encoded `KeyValue`; of a deletion with only key and mod revision.
    pub kv: Bytes,
}

impl Event {
    pub fn from_change(change: &Change) -> Event {
        let kv = if change.tombstone {
            deleted(&change.key, change.revision)
        } else {
            change.record.clone()
        };
        Event {
            revision: change.revision,
            tombstone: change.tombstone,
            is_create: change.is_create,
            key: change.key.clone(),
            kv,
        }
    }

    /// An event from a stored record.
    pub fn from_record(
        revision: Revision,
        tombstone: bool,
        record: &Bytes,
    ) -> Result<Event, CodecError> {
        let stored = KeyValue::decode(record)?;
        let kv = if tombstone { deleted(&stored.key, revision) } else { record.clone() };
        let is_create = !tombstone && stored.create_revision == stored.mod_revision;
        Ok(Event { revision, tombstone, is_create, key: stored.key, kv })
    }
}

fn deleted(key: &Bytes, revision: Revision) -> Bytes {
    KeyValue { key: key.clone(), mod_revision: revision.main, ..KeyValue::default() }.encode()
}

/// Events of keys in `range` with `from_main <= main <= to_main`, in order, ending with the transaction in which
/// `events_max` was reached (a transaction is never split). Returns the main revision to go on from.
pub fn events_between<V: Values>(
    values: &V,
    range: &KeyRange,
    from_main: i64,
    to_main: i64,
    events_max: usize,
) -> Result<(Vec<Event>, i64), Error<V::Error>> {
    let mut events: Vec<Event> = Vec::new();
    let mut next = to_main + 1;
    let mut damaged = None;
    values
        .scan(Revision::new(from_main, 0), to_main, &mut |revision, tombstone, record| {
            let full = events.len() >= events_max;
            if full && events.last().is_some_and(|e| e.revision.main < revision.main) {
                next = revision.main;
                return ControlFlow::Break(());
            }
            match Event::from_record(revision, tombstone, record) {
                Ok(event) if range.contains(&event.key) => events.push(event),
                Ok(_) => {}
                Err(error) => {
                    damaged = Some(error);
                    return ControlFlow::Break(());
                }
            }
            ControlFlow::Continue(())
        })
        .map_err(Error::Values)?;
    match damaged {
        Some(error) => Err(Error::Damaged(error)),
        None => Ok((events, next)),
    }
}
