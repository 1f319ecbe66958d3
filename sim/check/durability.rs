//! Every acknowledged write is in the history, at the revision it was told; what was refused is not.

use std::collections::BTreeSet;

use bytes::Bytes;
use norn_proto::mvccpb::KeyValue;

use crate::history::{Answer, Ask, Failure, Op, Outcome, Verdict};
use crate::model::Model;
use crate::workload::{bank, lock};

pub fn check(ops: &[Op], model: &Model) -> Verdict {
    let is_unique = |kv: &&KeyValue| kv.version > 0 && is_unique(kv);
    let written: BTreeSet<&Bytes> =
        model.events.values().flatten().filter(is_unique).map(|kv| &kv.value).collect();
    let mut written_once = BTreeSet::new();
    for kv in model.events.values().flatten().filter(is_unique) {
        if !written_once.insert(&kv.value) {
            let detail = format!("{kv:?}");
            return Err(Failure::new("A write happens at most once.", detail));
        }
    }
    for op in ops {
        match &op.outcome {
            Outcome::Ok { revision, answer } => acknowledged(op, *revision, answer, model)?,
            Outcome::Refused(_) => {
                if op.ask.values().iter().any(|value| written.contains(value)) {
                    let failure =
                        Failure::new("A refused write does not happen.", format!("{op:?}"));
                    return Err(failure.shown_by(&[op]));
                }
            }
            Outcome::Unknown => {}
        }
    }
    Ok(())
}

/// Balances and the empty values of locks come again; all others name who wrote them, and when.
fn is_unique(kv: &KeyValue) -> bool {
    !kv.key.starts_with(bank::PREFIX) && !kv.key.starts_with(lock::PREFIX)
}

fn acknowledged(op: &Op, revision: i64, answer: &Answer, model: &Model) -> Verdict {
    let has = |key: &Bytes, value: Option<&Bytes>| {
        model.events.get(&revision).is_some_and(|events| {
            events.iter().any(|kv| {
                kv.key == *key && value.map_or(kv.version == 0, |v| kv.version > 0 && kv.value == v)
            })
        })
    };
    let is_there = match (&op.ask, answer) {
        (Ask::Put { key, value, .. }, _) => has(key, Some(value)),
        (Ask::Swap { key, value, .. }, Answer::Swapped(true)) => has(key, Some(value)),
        (Ask::Delete { key }, Answer::Deleted(1)) => has(key, None),
        _ => true,
    };
    if is_there {
        return Ok(());
    }
    let there = model.events.get(&revision);
    let detail = format!("{op:?}\nin the final history at revision {revision}: {there:?}");
    Err(Failure::new("An acknowledged write is in the final history.", detail).shown_by(&[op]))
}
