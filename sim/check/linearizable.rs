//! Black box: is there an order of each key's operations, true to real time, that explains every answer? The search
//! of Wing and Gong with remembered dead ends (Lowe); operations of unknown outcome may happen at any time or never.

use std::collections::{BTreeMap, HashSet};

use bytes::Bytes;

use crate::history::{Answer, Ask, Failure, Op, Outcome, Verdict};
use crate::rng::mix;

/// Steps after which a key is given up.
const STEPS_MAX: usize = 300_000;

type Moment = (u64, u64);

enum Act<'a> {
    Write(&'a Bytes),
    Read(Option<&'a Bytes>),
    Delete(Option<bool>),
    Swap(Option<&'a Bytes>, &'a Bytes, Option<bool>),
}

struct Call<'a> {
    act: Act<'a>,
    op: &'a Op,
    called: Moment,
    /// `None`: unknown outcome.
    returned: Option<Moment>,
}

impl<'a> Call<'a> {
    fn new(op: &'a Op) -> Option<(&'a Bytes, Call<'a>)> {
        let answer = match &op.outcome {
            Outcome::Ok { answer, .. } => Some(answer),
            Outcome::Unknown => None,
            Outcome::Refused(_) => return None,
        };
        let (key, act) = match (&op.ask, answer) {
            (Ask::Put { key, value, .. }, _) => (key, Act::Write(value)),
            (Ask::Get { key, serializable: false }, Some(Answer::Found(kvs))) => {
                (key, Act::Read(kvs.first().map(|kv| &kv.value)))
            }
            (Ask::Delete { key }, Some(Answer::Deleted(n))) => (key, Act::Delete(Some(*n > 0))),
            (Ask::Delete { key }, None) => (key, Act::Delete(None)),
            (Ask::Swap { key, expect, value }, Some(Answer::Swapped(done))) => {
                (key, Act::Swap(expect.as_ref(), value, Some(*done)))
            }
            (Ask::Swap { key, expect, value }, None) => {
                (key, Act::Swap(expect.as_ref(), value, None))
            }
            _ => return None,
        };
        if key[0] != b'k' {
            return None;
        }
        let returned = answer.and(op.returned);
        Some((key, Call { act, op, called: op.called, returned }))
    }

    /// The state afterwards, if the answer fits.
    fn run(&self, state: Option<&'a Bytes>) -> Option<Option<&'a Bytes>> {
        match &self.act {
            Act::Write(value) => Some(Some(value)),
            Act::Read(value) => (*value == state).then_some(state),
            Act::Delete(found) => found.is_none_or(|f| f == state.is_some()).then_some(None),
            Act::Swap(expect, value, done) => {
                let holds = *expect == state;
                let fits = done.is_none_or(|d| d == holds);
                fits.then_some(if holds { Some(*value) } else { state })
            }
        }
    }
}

/// How many keys were searched, and how many of those given up.
#[derive(Clone, Copy, Debug, Default)]
pub struct Effort {
    pub keys: usize,
    pub given_up: usize,
}

pub fn check(ops: &[Op]) -> Result<Effort, Failure> {
    let mut keys: BTreeMap<&Bytes, Vec<Call>> = BTreeMap::new();
    for (key, call) in ops.iter().filter_map(Call::new) {
        keys.entry(key).or_default().push(call);
    }
    let mut effort = Effort::default();
    for (key, mut calls) in keys {
        calls.sort_by_key(|call| call.called);
        effort.keys += 1;
        match Search::new(&calls).run() {
            Some(Ok(())) => {}
            Some(Err(failure)) => {
                let detail = format!("key {key:?}: {}", failure.detail);
                return Err(Failure { detail, ..failure });
            }
            None => effort.given_up += 1,
        }
    }
    Ok(effort)
}

struct Search<'a, 'b> {
    calls: &'b [Call<'a>],
    is_done: Vec<bool>,
    /// All before it are done.
    first: usize,
    open: usize,
    state: Option<&'a Bytes>,
    digest: u128,
    dead: HashSet<(u128, u64)>,
    best: usize,
    stuck_at: Option<usize>,
}

struct Frame<'a> {
    candidates: Vec<usize>,
    next: usize,
    /// The call made from this frame, the state before it.
    made: Option<(usize, Option<&'a Bytes>)>,
}

impl<'a, 'b> Search<'a, 'b> {
    fn new(calls: &'b [Call<'a>]) -> Search<'a, 'b> {
        let open = calls.iter().filter(|call| call.returned.is_some()).count();
        Search {
            calls,
            is_done: vec![false; calls.len()],
            first: 0,
            open,
            state: None,
            digest: 0,
            dead: HashSet::new(),
            best: usize::MAX,
            stuck_at: None,
        }
    }

    /// `None`: given up.
    fn run(mut self) -> Option<Verdict> {
        let mut frames = vec![self.frame()];
        let mut steps = 0;
        while self.open > 0 {
            steps += 1;
            if steps > STEPS_MAX {
                return None;
            }
            let Some(frame) = frames.last_mut() else { return Some(Err(self.failure())) };
            if let Some((made, before)) = frame.made.take() {
                self.undo(made, before);
            }
            let Some(candidate) = frame.candidates.get(frame.next).copied() else {
                frames.pop();
                continue;
            };
            frame.next += 1;
            let Some(after) = self.calls[candidate].run(self.state) else { continue };
            if self.calls[candidate].returned.is_none() && after == self.state {
                continue;
            }
            frame.made = Some((candidate, self.state));
            self.make(candidate, after);
            if self.dead.insert((self.digest, tag(self.state))) {
                frames.push(self.frame());
            }
        }
        Some(Ok(()))
    }

    fn make(&mut self, call: usize, after: Option<&'a Bytes>) {
        self.is_done[call] = true;
        self.digest ^= digest(call);
        self.state = after;
        self.open -= usize::from(self.calls[call].returned.is_some());
        while self.is_done.get(self.first) == Some(&true) {
            self.first += 1;
        }
    }

    fn undo(&mut self, call: usize, before: Option<&'a Bytes>) {
        self.is_done[call] = false;
        self.digest ^= digest(call);
        self.state = before;
        self.open += usize::from(self.calls[call].returned.is_some());
        self.first = self.first.min(call);
    }

    /// What may come next: whatever was called before the first return among what is left.
    fn frame(&mut self) -> Frame<'a> {
        let mut first_return: Option<(Moment, usize)> = None;
        let mut candidates = Vec::new();
        for at in self.first..self.calls.len() {
            let call = &self.calls[at];
            if first_return.is_some_and(|(moment, _)| call.called > moment) {
                break;
            }
            if self.is_done[at] {
                continue;
            }
            candidates.push(at);
            if let Some(returned) = call.returned
                && first_return.is_none_or(|(moment, _)| returned < moment)
            {
                first_return = Some((returned, at));
            }
        }
        if self.open < self.best {
            self.best = self.open;
            self.stuck_at = first_return.map(|(_, at)| at);
        }
        candidates.retain(|at| first_return.is_none_or(|(m, _)| self.calls[*at].called <= m));
        candidates.sort_by_key(|at| self.calls[*at].returned.map_or((1, (0, 0)), |r| (0, r)));
        Frame { candidates, next: 0, made: None }
    }

    fn failure(&self) -> Failure {
        let Some(at) = self.stuck_at else {
            return Failure::new("Each key is a linearizable register.", "nowhere to begin");
        };
        let mut lines = vec![format!("no order explains {:?}; around it:", self.calls[at].op)];
        let from = at.saturating_sub(6);
        lines.extend(self.calls[from..(at + 4).min(self.calls.len())].iter().map(|call| {
            format!(
                "  {:?}..{:?} {:?} {:?}",
                call.called, call.returned, call.op.ask, call.op.outcome
            )
        }));
        Failure::new("Each key is a linearizable register.", lines.join("\n"))
            .shown_by(&[self.calls[at].op])
    }
}

fn digest(call: usize) -> u128 {
    let call = call as u64 + 1;
    (u128::from(mix(call)) << 64) | u128::from(mix(call ^ 0xabcd_ef01_2345))
}

fn tag(state: Option<&Bytes>) -> u64 {
    // (Values are unique, and what is the same bytes is the same state.)
    state.map_or(0, |value| value.iter().fold(7, |h, byte| mix(h ^ u64::from(*byte))))
}
