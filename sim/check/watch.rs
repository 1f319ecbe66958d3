//! Watches: ordered, unique, complete, whole revisions, progress that speaks the truth, previous values that were.

use bytes::Bytes;
use norn_proto::etcdserverpb::WatchResponse;
use norn_proto::mvccpb::{KeyValue, event::EventType};

use crate::history::{Failure, Verdict};
use crate::model::Model;

/// One watcher from its creation to the end of its stream.
#[derive(Debug)]
pub struct Span {
    pub node: usize,
    /// The life of the member that it was opened in.
    pub incarnation: u64,
    /// `None`: all keys.
    pub key: Option<Bytes>,
    /// First revision wanted; 0: what comes after the creation.
    pub start: i64,
    /// It asked for no puts, or no deletions.
    pub no_put: bool,
    pub no_delete: bool,
    pub responses: Vec<WatchResponse>,
    /// When each of them came: (microseconds, event number).
    pub moments: Vec<(u64, u64)>,
}

impl Span {
    pub fn tell(&mut self, moment: (u64, u64), response: WatchResponse) {
        self.responses.push(response);
        self.moments.push(moment);
    }

    /// Where a successor has to go on.
    pub fn next(&self) -> i64 {
        let mut next = self.start;
        for r in &self.responses {
            if r.created && next == 0 {
                next = header(r) + 1;
            } else if r.canceled && r.compact_revision > 0 {
                next = next.max(r.compact_revision);
            } else if let Some(kv) = r.events.last().and_then(|e| e.kv.as_ref()) {
                next = next.max(kv.mod_revision + 1);
            }
        }
        next
    }

    fn wants(&self, kv: &KeyValue) -> bool {
        let is_filtered = if kv.version > 0 { self.no_put } else { self.no_delete };
        !is_filtered && self.key.as_ref().is_none_or(|key| *key == kv.key)
    }

    pub fn is_over(&self) -> bool {
        self.responses.iter().any(|r| r.canceled)
    }
}

pub(super) fn header(r: &WatchResponse) -> i64 {
    r.header.as_ref().map_or(0, |h| h.revision)
}

/// `until`: the watcher must have been told everything up to this revision.
pub fn check(span: &Span, model: &Model, until: Option<i64>) -> Verdict {
    let Some(created) = span.responses.iter().find(|r| r.created) else {
        return match until {
            Some(_) => Err(broken("A watcher is created.", span, 0, "no answer to its creation")),
            None => Ok(()),
        };
    };
    let start = if span.start == 0 { header(created) + 1 } else { span.start };
    // A compaction at the very revision that a watcher begins with keeps of each key what came of it, as in etcd: not what the same
    // transaction wrote and replaced.
    let is_told = |kv: &KeyValue| {
        span.responses.iter().flat_map(|r| &r.events).any(|event| event.kv.as_ref() == Some(kv))
    };
    let is_gone = |kv: &KeyValue| {
        let is_at_edge = kv.mod_revision == start && start <= model.compacted;
        is_at_edge && is_replaced(kv, &model.events[&start]) && !is_told(kv)
    };
    let mut wanted = model
        .events
        .range(start..)
        .flat_map(|(_, events)| events)
        .filter(|kv| span.wants(kv) && !is_gone(kv))
        .peekable();
    let mut last = start - 1;
    let mut shown = 0;
    for (at, r) in span.responses.iter().enumerate() {
        // (What cancels has no revision.)
        let now = if r.canceled { shown } else { header(r) };
        if now < shown || now > model.revision {
            let what = format!("revision {now} after {shown}; the log ends at {}", model.revision);
            return Err(broken(
                "A watcher's revision never goes back, and was there.",
                span,
                at,
                what,
            ));
        }
        shown = now;
        if r.created {
            continue;
        }
        if r.events.is_empty() && !r.canceled && now < last.max(start - 1) {
            let what = format!("progress at {now}, told up to {last}, wanted from {start}");
            return Err(broken(
                "Progress is not behind what was told or asked for.",
                span,
                at,
                what,
            ));
        }
        if r.canceled {
            let is_compacted = r.compact_revision <= model.compacted;
            if (r.compact_revision <= last + 1 || !is_compacted) && r.compact_revision > 0 {
                let what = format!("cancelled as compacted at {}", r.compact_revision);
                return Err(broken(
                    "Only what was compacted is lost to a watcher.",
                    span,
                    at,
                    what,
                ));
            }
            return Ok(());
        }
        for event in &r.events {
            let got = event.kv.clone().unwrap_or_default();
            let Some(next) = wanted.next() else {
                return Err(broken(
                    "A watcher is told only what happened.",
                    span,
                    at,
                    format!("{got:?}"),
                ));
            };
            let is_delete = event.r#type == i32::from(EventType::Delete);
            if *next != got || is_delete != (next.version == 0) {
                let what = format!("told {got:?}\nexpected {next:?}");
                return Err(broken(
                    "A watcher is told every event once and in order.",
                    span,
                    at,
                    what,
                ));
            }
            let before = model.get_at(&got.key, got.mod_revision - 1);
            let may_miss = before.is_none() || got.mod_revision <= model.compacted;
            if event.prev_kv != before && !(event.prev_kv.is_none() && may_miss) {
                let what = format!("{:?}, the log says {before:?}", event.prev_kv);
                return Err(broken("A previous value is what was there.", span, at, what));
            }
            last = got.mod_revision;
        }
        let rest: Option<&&KeyValue> = wanted.peek();
        if rest.is_some_and(|kv| kv.mod_revision == last) && !r.events.is_empty() {
            let what = format!("revision {last} is split");
            return Err(broken("All of a revision comes in one response.", span, at, what));
        }
        if r.events.is_empty() && rest.is_some_and(|kv| kv.mod_revision <= header(r)) {
            let what = format!("progress at {}, untold: {rest:?}", header(r));
            return Err(broken("Progress comes after all events up to it.", span, at, what));
        }
    }
    if let Some(until) = until
        && let Some(kv) = wanted.peek()
        && kv.mod_revision <= until
    {
        let what = format!("at revision {until}, untold: {kv:?}");
        return Err(broken(
            "A watcher is told everything in the end.",
            span,
            span.responses.len(),
            what,
        ));
    }
    Ok(())
}

/// The revision it belongs to goes on to change the same key.
fn is_replaced(kv: &KeyValue, revision: &[KeyValue]) -> bool {
    let of_key = revision.iter().rfind(|other| other.key == kv.key);
    of_key.is_some_and(|last| last != kv)
}

fn broken(promise: &'static str, span: &Span, at: usize, what: impl Into<String>) -> Failure {
    let key = span.key.as_ref().map_or("all keys".into(), |k| format!("{k:?}"));
    let around: Vec<String> = span.responses
        [at.saturating_sub(2)..(at + 1).min(span.responses.len())]
        .iter()
        .map(|r| format!("  {r:?}"))
        .collect();
    let detail = format!(
        "watch of {key} from {} on n{}, response {at}: {}\n{}",
        span.start,
        span.node + 1,
        what.into(),
        around.join("\n")
    );
    let revision = span.responses.get(at).map_or(0, header);
    Failure { watch: Some((span.node, span.start, revision)), ..Failure::new(promise, detail) }
}
