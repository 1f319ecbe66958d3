//! A watch and a read of the same cluster agree: what a watcher was told is visible to whoever asks afterwards.

use std::collections::BTreeMap;

use crate::check::watch::{Span, header};
use crate::history::{Ask, Failure, Op, Verdict};

/// A watcher was told of a revision: by which span, and in which response.
#[derive(Clone, Copy)]
struct Told<'a> {
    span: &'a Span,
    at: usize,
    revision: i64,
}

/// Once anybody was told of a revision, by events or progress, a linearizable answer to a later question is not older, at
/// whatever member; nor is a serializable one of the member that told it, as long as that lives.
pub fn check(ops: &[Op], spans: &[Span]) -> Verdict {
    let mut told: Vec<((u64, u64), Told<'_>)> = Vec::new();
    for span in spans {
        for (at, (response, moment)) in span.responses.iter().zip(&span.moments).enumerate() {
            told.push((*moment, Told { span, at, revision: header(response) }));
        }
    }
    told.sort_by_key(|(moment, _)| *moment);
    // (A renewal answers from the leases in memory, by etcd's rule.)
    let counts = |op: &&Op| op.revision().is_some() && !matches!(op.ask, Ask::KeepAlive { .. });
    let mut asked: Vec<&Op> = ops.iter().filter(counts).collect();
    asked.sort_by_key(|op| op.called);
    let mut anywhere: Option<Told<'_>> = None;
    let mut lives: BTreeMap<(usize, u64), Told<'_>> = BTreeMap::new();
    let mut told = told.into_iter().peekable();
    for op in asked {
        while let Some((_, next)) = told.next_if(|(moment, _)| *moment < op.called) {
            if anywhere.is_none_or(|most| next.revision > most.revision) {
                anywhere = Some(next);
            }
            let here = lives.entry((next.span.node, next.span.incarnation)).or_insert(next);
            if next.revision > here.revision {
                *here = next;
            }
        }
        let (promise, most) = match op.ask.is_serializable() {
            true => (
                "A member shows what it told its watchers of.",
                lives.get(&(op.node, op.incarnation)).copied(),
            ),
            false => ("What a watcher was told of is visible to later reads.", anywhere),
        };
        if let Some(most) = most
            && op.revision() < Some(most.revision)
        {
            return Err(broken(promise, most, op));
        }
    }
    Ok(())
}

fn broken(promise: &'static str, told: Told<'_>, op: &Op) -> Failure {
    let Told { span, at, revision } = told;
    let detail = format!(
        "told on n{} at {:?}: {:?}\nthen: {op:?}",
        span.node + 1,
        span.moments[at],
        span.responses[at],
    );
    let failure = Failure::new(promise, detail).shown_by(&[op]);
    Failure { watch: Some((span.node, span.start, revision)), ..failure }
}
