//! Revisions follow real time, answers are the state at their revision, and a member's own view never goes back.

use std::collections::BTreeMap;

use norn_proto::mvccpb::KeyValue;

use crate::history::{Answer, Ask, Failure, Op, Outcome, Verdict};
use crate::model::Model;
use crate::model::view::View;

pub fn check(ops: &[Op], model: &Model) -> Verdict {
    real_time(ops)?;
    per_member(ops)?;
    compaction(ops)?;
    for op in ops {
        content(op, model)?;
    }
    Ok(())
}

/// What was called after an answer with revision R returns at least R; a write that changes something, more.
fn real_time(ops: &[Op]) -> Verdict {
    let counts = |op: &&Op| !matches!(op.ask, Ask::KeepAlive { .. });
    let mut returned: Vec<(&Op, (u64, u64), i64)> = ops
        .iter()
        .filter(counts)
        .filter_map(|op| Some((op, op.returned?, op.revision()?)))
        .collect();
    returned.sort_by_key(|(_, at, _)| *at);
    let mut called: Vec<(&Op, i64)> = ops
        .iter()
        .filter(counts)
        .filter(|op| !op.ask.is_serializable())
        .filter_map(|op| Some((op, op.revision()?)))
        .collect();
    called.sort_by_key(|(op, _)| op.called);
    let mut highest: Option<(&Op, i64)> = None;
    let mut next = returned.into_iter().peekable();
    for (op, revision) in called {
        while let Some((before, _, seen)) = next.next_if(|(_, at, _)| *at < op.called) {
            if highest.is_none_or(|(_, most)| seen > most) {
                highest = Some((before, seen));
            }
        }
        let Some((before, most)) = highest else { continue };
        let changes = matches!(&op.outcome, Outcome::Ok { answer, .. } if answer.wrote(&op.ask));
        if revision < most || (changes && revision == most) {
            let detail = format!("first: {before:?}\nthen: {op:?}");
            let failure = Failure::new("Linearizable revisions follow real time.", detail);
            return Err(failure.shown_by(&[before, op]));
        }
    }
    Ok(())
}

/// Serializable reads of one member in one life never go back: what was asked after an answer shows no less.
fn per_member(ops: &[Op]) -> Verdict {
    let mut lives: BTreeMap<(usize, u64), Vec<&Op>> = BTreeMap::new();
    for op in ops.iter().filter(|op| op.ask.is_serializable() && op.revision().is_some()) {
        lives.entry((op.node, op.incarnation)).or_default().push(op);
    }
    for mut reads in lives.into_values() {
        let mut returned = reads.clone();
        returned.sort_by_key(|op| op.returned);
        reads.sort_by_key(|op| op.called);
        let mut returned = returned.into_iter().peekable();
        let mut highest: Option<&Op> = None;
        for op in reads {
            while let Some(before) = returned.next_if(|b| b.returned < Some(op.called)) {
                if highest.is_none_or(|most| before.revision() > most.revision()) {
                    highest = Some(before);
                }
            }
            if let Some(before) = highest
                && op.revision() < before.revision()
            {
                let detail = format!("first: {before:?}\nthen: {op:?}");
                let failure = Failure::new("A member's revision never goes back.", detail);
                return Err(failure.shown_by(&[before, op]));
            }
        }
    }
    Ok(())
}

/// What a request must have changed is what the log says happened at its revision.
fn is_event(model: &Model, revision: i64, changes: Vec<KeyValue>) -> bool {
    changes.is_empty() || model.events.get(&revision) == Some(&changes)
}

/// Whoever was told that history is compacted up to a revision is not shown anything before it again.
fn compaction(ops: &[Op]) -> Verdict {
    let mut compacted: Vec<(&Op, i64)> = Vec::new();
    for op in ops {
        if let (Ask::Compact { revision }, Outcome::Ok { .. }) = (&op.ask, &op.outcome) {
            compacted.push((op, *revision));
        }
    }
    for op in ops.iter().filter(|op| !op.ask.is_serializable()) {
        let asked = match (&op.ask, &op.outcome) {
            (Ask::Range { revision, .. }, Outcome::Ok { .. }) if *revision > 0 => *revision,
            (Ask::Query(r), Outcome::Ok { .. }) if r.revision > 0 => r.revision,
            _ => continue,
        };
        let is_before = |(first, at): &&(&Op, i64)| {
            *at > asked && first.returned.is_some_and(|returned| returned < op.called)
        };
        if let Some((first, _)) = compacted.iter().find(is_before) {
            let detail = format!("first: {first:?}\nthen: {op:?}");
            return Err(Failure::new("What was compacted is not shown again.", detail));
        }
    }
    Ok(())
}

fn content(op: &Op, model: &Model) -> Verdict {
    let Outcome::Ok { revision, answer } = &op.outcome else { return Ok(()) };
    let revision = *revision;
    let right = match (&op.ask, answer) {
        (Ask::Get { key, .. }, Answer::Found(kvs)) => {
            model.get_at(key, revision).as_slice() == kvs.as_slice()
        }
        (Ask::Range { revision: asked, .. }, Answer::Found(kvs)) => {
            let at = if *asked > 0 { *asked } else { revision };
            model.at(at) == *kvs
        }
        (Ask::Delete { key }, Answer::Deleted(0)) => model.get_at(key, revision).is_none(),
        (Ask::Delete { key }, Answer::Deleted(_)) => model.get_at(key, revision - 1).is_some(),
        (Ask::Swap { key, expect, .. }, Answer::Swapped(done)) => {
            let at = if *done { revision - 1 } else { revision };
            let held = model.get_at(key, at).map(|kv| kv.value) == *expect;
            held == *done
        }
        (Ask::Query(r), Answer::Listed(listed)) => View::at(model, revision).range(r) == *listed,
        (Ask::DeleteRange(r), Answer::Gone(gone)) => {
            let mut view = View::at(model, revision - i64::from(gone.deleted > 0));
            view.delete(r) == *gone && is_event(model, revision, view.changes)
        }
        (Ask::Txn(r), Answer::Txn(answered)) => {
            let mut view = View::at(model, revision - i64::from(answer.wrote(&op.ask)));
            view.txn(r).as_ref() == Ok(answered) && is_event(model, revision, view.changes)
        }
        _ => true,
    };
    if right {
        return Ok(());
    }
    let state = match &op.ask {
        Ask::Txn(r) => {
            let answered = |base| View::at(model, base).txn(r);
            format!("{:?} (before: {:?})", answered(revision), answered(revision - 1))
        }
        Ask::Get { key, .. } | Ask::Delete { key } | Ask::Swap { key, .. } => {
            format!(
                "{:?} (before: {:?})",
                model.get_at(key, revision),
                model.get_at(key, revision - 1)
            )
        }
        _ => format!("{:?}", model.at(revision)),
    };
    let detail = format!("{op:?}\nthe log says: {state}");
    Err(Failure::new("An answer shows the state at its revision.", detail).shown_by(&[op]))
}
