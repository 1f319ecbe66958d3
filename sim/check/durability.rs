//! Every acknowledged write is in the history, at the revision it was told; what was refused is not.

use std::collections::BTreeSet;

use bytes::Bytes;

use crate::history::{Answer, Ask, Failure, Op, Outcome, Verdict};
use crate::model::Model;

pub fn check(ops: &[Op], model: &Model) -> Verdict {
    let written: BTreeSet<&Bytes> =
        model.events.values().flatten().filter(|kv| kv.version > 0).map(|kv| &kv.value).collect();
    let mut written_once = BTreeSet::new();
    for kv in model.events.values().flatten().filter(|kv| kv.version > 0) {
        if !written_once.insert(&kv.value) {
            let detail = format!("{kv:?}");
            return Err(Failure::new("A write happens at most once.", detail));
        }
    }
    for op in ops {
        match &op.outcome {
            Outcome::Ok { revision, answer } => acknowledged(op, *revision, answer, model)?,
            Outcome::Refused(_) => {
                if let Ask::Put { value, .. } | Ask::Swap { value, .. } = &op.ask
                    && written.contains(value)
                {
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
