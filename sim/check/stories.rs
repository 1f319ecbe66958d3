//! What the stories of the workload come to: accounts that sum to zero, lists that only grow, a lock that one holds.

use std::collections::BTreeMap;

use bytes::Bytes;
use norn_proto::mvccpb::KeyValue;

use crate::history::{Answer, Ask, Failure, Op, Outcome, Verdict};
use crate::model::Model;
use crate::workload::{append, bank, lock};

pub fn check(ops: &[Op], model: &Model) -> Verdict {
    sums(ops)?;
    lists(ops)?;
    locks(model)
}

/// Black box: every answer that shows all accounts.
fn sums(ops: &[Op]) -> Verdict {
    for op in ops {
        let (Ask::Query(r), Outcome::Ok { answer: Answer::Listed(r2), .. }) =
            (&op.ask, &op.outcome)
        else {
            continue;
        };
        if r.key != bank::PREFIX {
            continue;
        }
        let sum: i64 = r2.kvs.iter().filter_map(|kv| bank::balance(&kv.value)).sum();
        if sum != 0 {
            return Err(Failure::new(
                "Transfers leave the sum of all accounts alone.",
                format!("{op:?}"),
            ));
        }
    }
    Ok(())
}

/// Black box: of one list, every value seen is the beginning of the longest.
fn lists(ops: &[Op]) -> Verdict {
    let mut longest: BTreeMap<&Bytes, (&KeyValue, &Op)> = BTreeMap::new();
    let mut seen: Vec<(&KeyValue, &Op)> = Vec::new();
    for op in ops {
        if let Outcome::Ok { answer: Answer::Listed(r), .. } = &op.outcome {
            seen.extend(r.kvs.iter().filter(|kv| append::is_list(&kv.key)).map(|kv| (kv, op)));
        }
    }
    for (kv, op) in &seen {
        let first = longest.entry(&kv.key).or_insert((kv, op));
        if kv.value.len() > first.0.value.len() {
            *first = (kv, op);
        }
    }
    for (kv, op) in seen {
        let (whole, by) = longest[&kv.key];
        if !whole.value.starts_with(&kv.value) {
            let detail = format!("{op:?}\nand {by:?}");
            return Err(Failure::new("A list that is appended to only grows.", detail));
        }
    }
    Ok(())
}

/// In the log: who writes where only holders write has the oldest key of the queue.
fn locks(model: &Model) -> Verdict {
    for (revision, events) in &model.events {
        for kv in events.iter().filter(|kv| kv.key == lock::FENCED) {
            let queue = model.in_range(lock::PREFIX, lock::END, revision - 1);
            let holder = queue.iter().min_by_key(|kv| kv.create_revision);
            let is_holder = holder.is_some_and(|holder| kv.value.ends_with(&holder.key));
            if !is_holder {
                let detail = format!("revision {revision}: {kv:?}\nin the queue: {queue:?}");
                return Err(Failure::new("A lock has one holder at a time.", detail));
            }
        }
    }
    Ok(())
}
