//! What the stories of the workload come to: accounts that sum to zero, lists that only grow, a lock that one
//! holds, an election that has one leader after the other.

use std::collections::BTreeMap;

use bytes::Bytes;
use norn_proto::mvccpb::KeyValue;

use crate::history::{Answer, Ask, Failure, Op, Outcome, Verdict};
use crate::model::Model;
use crate::workload::{append, bank, election, lock};

pub fn check(ops: &[Op], model: &Model) -> Verdict {
    sums(ops)?;
    lists(ops)?;
    locks(model)?;
    proclamations(model)?;
    leaders(ops)
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

/// In the log: who changes the value of a key in the queue of an election is the first in it.
fn proclamations(model: &Model) -> Verdict {
    for (revision, events) in &model.events {
        let proclaimed = |kv: &&KeyValue| kv.version > 1 && kv.key.starts_with(election::PREFIX);
        for kv in events.iter().filter(proclaimed) {
            let queue = model.in_range(election::PREFIX, election::END, revision - 1);
            let leader = queue.iter().min_by_key(|kv| kv.create_revision);
            if leader.is_none_or(|leader| leader.key != kv.key) {
                let detail = format!("revision {revision}: {kv:?}\nin the queue: {queue:?}");
                return Err(Failure::new("Only who was elected proclaims.", detail));
            }
        }
    }
    Ok(())
}

/// Black box: whoever is seen to lead has campaigned no earlier than whoever was seen before.
fn leaders(ops: &[Op]) -> Verdict {
    let mut seen: Vec<(&Op, i64)> = ops
        .iter()
        .filter_map(|op| Some((op, election::seen(&op.ask, &op.outcome)?)))
        .filter(|(op, _)| op.returned.is_some())
        .collect();
    let mut returned = seen.clone();
    returned.sort_by_key(|(op, _)| op.returned);
    seen.sort_by_key(|(op, _)| op.called);
    let mut returned = returned.into_iter().peekable();
    let mut newest: Option<(&Op, i64)> = None;
    for (op, created) in seen {
        while let Some(before) = returned.next_if(|(b, _)| b.returned < Some(op.called)) {
            if newest.is_none_or(|(_, most)| before.1 > most) {
                newest = Some(before);
            }
        }
        if let Some((before, most)) = newest
            && created < most
        {
            let detail = format!("first: {before:?}\nthen: {op:?}");
            let failure = Failure::new("Leaders of an election follow each other.", detail);
            return Err(failure.shown_by(&[before, op]));
        }
    }
    Ok(())
}
